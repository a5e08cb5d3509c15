package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"postern/shared/table"
)

// laps bounds how often an Add looks again at an item that others change between
// its look and its write. The first lap after an expiry is the only usual one.
const laps = 5

// Add implements table.Table. It is one UpdateItem, unless the item has expired:
// then a PutItem begins it anew.
func (t *Table) Add(ctx context.Context, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, bool, error) {
	if err := table.CheckAdd(key, deltas); err != nil {
		return 0, false, err
	}
	tries := twice
	if deltas[0].By < 0 {
		tries = once
	}
	first := deltas[0].Counter
	for range laps {
		value, err := t.update(ctx, tries, key, deltas, max, table.WholeSecond(expires))
		var unmet *conflict
		if !errors.As(err, &unmet) {
			return value, err == nil, err
		}
		item, there, err := t.found(ctx, key, unmet)
		if err != nil {
			return 0, false, err
		}
		switch {
		case there && t.expired(item):
			item.Counters = nil
		case there && item.Counters == nil:
			return 0, false, errors.New("the item has a value: counters need an item of their own")
		}
		if fits, err := table.Fits(deltas, max, func(name string) int64 { return item.Counters[name] }); !fits {
			return item.Counters[first], false, err
		}
		sums := map[string]int64{}
		for _, d := range deltas {
			sums[d.Counter] = item.Counters[d.Counter] + d.By
		}
		err = t.begin(ctx, tries, table.Item{Key: key, Counters: sums, Expires: table.WholeSecond(expires)})
		if !errors.Is(err, table.ErrConflict) {
			return sums[first], err == nil, err
		}
	}
	return 0, false, errBusy
}

// room is where a counter may stand before d is added to it. The ends may be
// outside of 64 bits; DynamoDB's numbers have 38 digits.
func room(d table.Delta, max int64) (lowest, highest *big.Int) {
	by := big.NewInt(d.By)
	return new(big.Int).Sub(big.NewInt(math.MinInt64), by), new(big.Int).Sub(big.NewInt(max), by)
}

// update adds to an item that has not expired, or makes one. A *conflict says
// that the item has no room, or has expired, or has a value. Names of counters
// stand in no expression, so they may be any.
func (t *Table) update(ctx context.Context, tries int, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, error) {
	values := t.values()
	names := map[string]string{}
	condition := "attribute_not_exists(ver) AND " + isAlive
	var adds []string
	for i, d := range deltas {
		name, by, low, high := fmt.Sprintf("#c%d", i), fmt.Sprintf(":by%d", i), fmt.Sprintf(":low%d", i), fmt.Sprintf(":high%d", i)
		lowest, highest := room(d, max)
		max = table.NoMax // of the others
		names[name] = d.Counter
		values[by] = number(d.By)
		values[low] = &types.AttributeValueMemberN{Value: lowest.String()}
		values[high] = &types.AttributeValueMemberN{Value: highest.String()}
		fits := fmt.Sprintf("%s BETWEEN %s AND %s", name, low, high)
		if lowest.Sign() <= 0 && highest.Sign() >= 0 { // so does 0, where a counter begins
			fits = fmt.Sprintf("(attribute_not_exists(%s) OR %s)", name, fits)
		}
		condition += " AND " + fits
		adds = append(adds, name+" "+by)
	}
	change := "REMOVE exp"
	if !expires.IsZero() {
		change = "SET exp = :exp"
		values[":exp"] = number(expires.Unix())
	}
	out, _, err := call(ctx, t, "UpdateItem", tries, t.client.UpdateItem, &sdk.UpdateItemInput{
		TableName:                           t.name,
		Key:                                 keyAttributes(key),
		ConditionExpression:                 &condition,
		UpdateExpression:                    aws.String(change + " ADD " + strings.Join(adds, ", ")),
		ExpressionAttributeNames:            names,
		ExpressionAttributeValues:           values,
		ReturnValues:                        types.ReturnValueAllNew,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	if err != nil {
		return 0, err
	}
	item, err := parseOf(key, out.Attributes)
	value, told := item.Counters[deltas[0].Counter]
	if err == nil && !told {
		err = fmt.Errorf("%w: an addition that came to nothing", errNonsense)
	}
	return value, err
}

// found is the item that a condition wasn't met by. DynamoDB sends it along
// unless there is none; some of its imitations never do.
func (t *Table) found(ctx context.Context, key table.Key, unmet *conflict) (item table.Item, there bool, err error) {
	if unmet.item == nil {
		return t.read(ctx, key)
	}
	item, err = parseOf(key, unmet.item)
	return item, err == nil, err
}

// begin puts counters in place of an expired item. It must not take another's
// equal counters for its own, so after a lost reply it is a conflict, and counts
// once more.
func (t *Table) begin(ctx context.Context, tries int, item table.Item) error {
	_, _, err := call(ctx, t, "PutItem", tries, t.client.PutItem, &sdk.PutItemInput{
		TableName:                 t.name,
		Item:                      attributes(item),
		ConditionExpression:       aws.String(isGone),
		ExpressionAttributeValues: t.values(),
	})
	return err
}
