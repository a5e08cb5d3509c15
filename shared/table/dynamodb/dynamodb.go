// Package dynamodb is the table.Table of Amazon DynamoDB: one table with the
// partition key pk and the sort key sk, both strings. Several processes may use
// it at once.
//
// An item is pk and sk; exp, if it expires, in seconds since 1970 (the attribute
// for DynamoDB's own clean-up, "Time to Live"); and either val, which is binary,
// and ver, or the counters by their names. Tables outlive programs, so these
// names don't change.
//
// Every read is strongly consistent, every write is one conditional request, and
// time is told by our clock alone: an expired item is absent to every condition,
// whether DynamoDB has removed it or not. item.go has the attributes, add.go the
// counters, call.go the tries and what their failures are called.
//
// A try is over when no connection is made, or no answer begins, within a
// second; there are two at most. A write whose first try may have happened, and
// whose second meets a conflict, looks whether the item is what it wrote itself
// before it says so. So a value that is to be a claim must say whose: two writers
// of equal values can't tell each other's write from their own then.
//
// The function's role needs dynamodb:GetItem for Get, PutItem for Put, DeleteItem
// for Delete, Query for List, UpdateItem and PutItem for Add, and GetItem for
// each of the writes.
package dynamodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"postern/shared/awsclient"
	"postern/shared/table"
)

// Config says which table, where it is and as whom it is asked.
type Config struct {
	// Table is the table's name, or its ARN.
	Table string
	// Getenv is the environment that region, credentials and the endpoint
	// (AWS_ENDPOINT_URL_DYNAMODB, AWS_ENDPOINT_URL) come from, as for any AWS SDK.
	Getenv func(string) string
	// Region and Credentials are a profile's, for programs that may load one;
	// empty: the environment's.
	Region      string
	Credentials aws.CredentialsProvider
	// Now is the clock that items expire by; nil: time.Now.
	Now func() time.Time
	// Patience is how long a try waits for a connection, and then for an answer
	// to begin; 0: 1 s.
	Patience time.Duration
}

// Table is a table.Table. It is safe for concurrent use.
type Table struct {
	client *sdk.Client
	name   *string
	now    func() time.Time
	limit  time.Duration // of a try
}

const (
	patience = time.Second
	// whole is how many times its patience a try may take from its begin to the
	// last byte of its answer.
	whole = 4
	// maxBody bounds an answer, in bytes. A page of 1 MB in JSON is longer: its
	// values are base64, and in a key some bytes take six.
	maxBody = 8 << 20
)

// New returns the Table. It sends nothing.
func New(cfg Config) (*Table, error) {
	if cfg.Table == "" {
		return nil, errors.New("TABLE_NAME: it is not set; template.yaml sets it")
	}
	access := awsclient.Environment(cfg.Getenv, "DYNAMODB").As(cfg.Region, cfg.Credentials)
	if err := access.Check("table"); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	wait := cmp.Or(cfg.Patience, patience)
	client := sdk.New(sdk.Options{
		Region:       access.Region,
		BaseEndpoint: access.Endpoint,
		Credentials:  access.Credentials,
		HTTPClient:   strict{awsclient.NewHTTP(awsclient.Limits{Connect: wait, Answer: wait, Body: maxBody})},
		Retryer:      aws.NopRetryer{}, // call decides about tries
		EndpointDiscovery: sdk.EndpointDiscoveryOptions{
			EnableEndpointDiscovery: aws.EndpointDiscoveryDisabled, // it would cost a call
		},
	})
	return &Table{client: client, name: &cfg.Table, now: cfg.Now, limit: whole * wait}, nil
}

// Conditions. The names in them are none of DynamoDB's reserved words.
const (
	isGone  = "attribute_not_exists(pk) OR exp <= :now"
	isAlive = "(attribute_not_exists(exp) OR exp > :now)"
	isOf    = "ver = :ver AND " + isAlive
)

// Get implements table.Table.
func (t *Table) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := table.CheckKey(key); err != nil {
		return table.Item{}, err
	}
	item, there, err := t.read(ctx, key)
	if err != nil {
		return table.Item{}, err
	}
	if !there || t.expired(item) {
		return table.Item{}, table.ErrNotFound
	}
	return item, nil
}

// read reads an item, an expired one too.
func (t *Table) read(ctx context.Context, key table.Key) (item table.Item, there bool, err error) {
	out, _, err := call(ctx, t, "GetItem", twice, t.client.GetItem, &sdk.GetItemInput{
		TableName:      t.name,
		Key:            keyAttributes(key),
		ConsistentRead: aws.Bool(true),
	})
	if err != nil || out.Item == nil {
		return table.Item{}, false, err
	}
	item, err = parseOf(key, out.Item)
	return item, err == nil, err
}

// expired says whether an item is absent by now. Expiries are whole seconds, so
// what remains of the current one makes no difference.
func (t *Table) expired(item table.Item) bool {
	return !item.Expires.IsZero() && item.Expires.Unix() <= t.now().Unix()
}

// Put implements table.Table.
func (t *Table) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := table.CheckPut(key, value, expected); err != nil {
		return 0, err
	}
	mine := table.Item{Key: key, Value: value, Version: expected + 1, Expires: table.WholeSecond(expires)}
	in := &sdk.PutItemInput{
		TableName:                 t.name,
		Item:                      attributes(mine),
		ConditionExpression:       aws.String(isGone),
		ExpressionAttributeValues: t.values(),
	}
	if expected > 0 {
		in.ConditionExpression = aws.String(isOf)
		in.ExpressionAttributeValues[":ver"] = number(expected)
	}
	_, open, err := call(ctx, t, "PutItem", twice, t.client.PutItem, in)
	if open && errors.Is(err, table.ErrConflict) {
		err = t.settle(ctx, key, func(item table.Item, there bool) error {
			switch {
			case there && same(item, mine):
				return nil
			case there && (item.Version == mine.Version || t.expired(item)):
				return table.ErrConflict
			}
			return errOpen // others have written since
		})
	}
	if err != nil {
		return 0, err
	}
	return mine.Version, nil
}

// Delete implements table.Table.
func (t *Table) Delete(ctx context.Context, key table.Key, expected int64) error {
	if err := table.CheckDelete(key, expected); err != nil {
		return err
	}
	values := t.values()
	values[":ver"] = number(expected)
	_, open, err := call(ctx, t, "DeleteItem", twice, t.client.DeleteItem, &sdk.DeleteItemInput{
		TableName:                 t.name,
		Key:                       keyAttributes(key),
		ConditionExpression:       aws.String(isOf),
		ExpressionAttributeValues: values,
	})
	if open && errors.Is(err, table.ErrConflict) {
		err = t.settle(ctx, key, func(item table.Item, there bool) error {
			switch {
			case !there:
				return nil
			case item.Version > expected || t.expired(item):
				return table.ErrConflict
			}
			return errOpen // others have begun it anew
		})
	}
	return err
}

// settle lets judge look at an item, an expired one too, after a write's try
// whose fate is open and one that met a conflict: the first may have caused it.
func (t *Table) settle(ctx context.Context, key table.Key, judge func(item table.Item, there bool) error) error {
	item, there, err := t.read(ctx, key)
	if err != nil {
		return err
	}
	return judge(item, there)
}

// List implements table.Table. DynamoDB answers in pages of 1 MB, with expired
// items in them; each goes on behind the one before.
func (t *Table) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	if err := table.CheckList(partition, q); err != nil {
		return nil, err
	}
	var items []table.Item
	for page := q.Limit; ; page = table.MaxList {
		found, more, err := t.query(ctx, partition, q, page)
		if err != nil {
			return nil, err
		}
		for _, item := range found {
			if !t.expired(item) {
				items = append(items, item)
			}
			if len(items) == q.Limit {
				return items, nil
			}
		}
		if more == "" {
			return items, nil
		}
		q.After = more
	}
}

// query reads a page of n items or fewer. It returns the sort key to go on
// behind, or "" at the partition's end.
func (t *Table) query(ctx context.Context, partition string, q table.Query, n int) (items []table.Item, more string, err error) {
	in := &sdk.QueryInput{
		TableName:                 t.name,
		KeyConditionExpression:    aws.String("pk = :pk"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(partition)},
		ConsistentRead:            aws.Bool(true),
		ScanIndexForward:          aws.Bool(!q.Reversed),
		Limit:                     aws.Int32(int32(n)),
	}
	if q.After != "" {
		in.KeyConditionExpression = aws.String("pk = :pk AND sk > :after")
		if q.Reversed {
			in.KeyConditionExpression = aws.String("pk = :pk AND sk < :after")
		}
		in.ExpressionAttributeValues[":after"] = text(q.After)
	}
	out, _, err := call(ctx, t, "Query", twice, t.client.Query, in)
	if err != nil {
		return nil, "", err
	}
	if out.Items == nil { // of none there is an empty list
		return nil, "", fmt.Errorf("%w: a page without items", errNonsense)
	}
	last := q.After
	for _, found := range out.Items {
		item, err := parse(found)
		if err != nil {
			return nil, "", err
		}
		if item.Partition != partition || !follows(item.Sort, last, q.Reversed) {
			return nil, "", fmt.Errorf("%w: an item that doesn't belong there", errNonsense)
		}
		last = item.Sort
		items = append(items, item)
	}
	if len(out.LastEvaluatedKey) == 0 {
		return items, "", nil
	}
	if last == q.After {
		return nil, "", fmt.Errorf("%w: an empty page that isn't the last", errNonsense)
	}
	return items, last, nil
}

func follows(sort, last string, reversed bool) bool {
	return last == "" || (sort > last) != reversed && sort != last
}

// values are those of an expression, to begin with.
func (t *Table) values() map[string]types.AttributeValue {
	return map[string]types.AttributeValue{":now": number(t.now().Unix())}
}
