package dynamodb

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"postern/shared/table"
)

func keyAttributes(k table.Key) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"pk": text(k.Partition), "sk": text(k.Sort)}
}

// attributes is what an item is stored as; parse is its inverse.
func attributes(item table.Item) map[string]types.AttributeValue {
	a := keyAttributes(item.Key)
	if !item.Expires.IsZero() {
		a["exp"] = number(item.Expires.Unix())
	}
	if item.Counters == nil {
		a["ver"] = number(item.Version)
		val := &types.AttributeValueMemberB{Value: item.Value}
		if val.Value == nil {
			val.Value = []byte{} // of nil the SDK makes null
		}
		a["val"] = val
	}
	for name, n := range item.Counters {
		a[name] = number(n)
	}
	return a
}

// parse fails on whatever attributes doesn't make: what we can't read whole, we
// must not act upon.
func parse(a map[string]types.AttributeValue) (table.Item, error) {
	var item table.Item
	counters := map[string]int64{}
	for name, attribute := range a {
		var fits bool
		switch v := attribute.(type) {
		case *types.AttributeValueMemberS:
			if name == "pk" {
				item.Partition, fits = v.Value, true
			} else {
				item.Sort, fits = v.Value, name == "sk"
			}
		case *types.AttributeValueMemberB:
			item.Value, fits = v.Value, name == "val"
		case *types.AttributeValueMemberN:
			n, err := strconv.ParseInt(v.Value, 10, 64)
			fits = err == nil
			switch name {
			case "ver":
				item.Version, fits = n, fits && n > 0
			case "exp":
				item.Expires = time.Unix(n, 0).UTC()
			default:
				counters[name] = n
			}
		}
		if !fits {
			return table.Item{}, fmt.Errorf("%w: an attribute of another type or size", errNonsense)
		}
	}
	switch _, valued := a["val"]; {
	case item.Partition == "" || item.Sort == "":
		return table.Item{}, fmt.Errorf("%w: an item without its key", errNonsense)
	case valued && item.Version > 0 && len(counters) == 0:
		return item, nil
	case !valued && item.Version == 0 && len(counters) > 0:
		item.Counters = counters
		return item, nil
	}
	return table.Item{}, fmt.Errorf("%w: an item with neither a value nor counters, or with both", errNonsense)
}

// parseOf is parse of an answer about one item.
func parseOf(key table.Key, a map[string]types.AttributeValue) (table.Item, error) {
	item, err := parse(a)
	if err == nil && item.Key != key {
		return table.Item{}, fmt.Errorf("%w: another item than the one asked for", errNonsense)
	}
	return item, err
}

// same says whether two items with values are.
func same(a, b table.Item) bool {
	return a.Key == b.Key && a.Version == b.Version && a.Expires.Equal(b.Expires) && bytes.Equal(a.Value, b.Value)
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}
