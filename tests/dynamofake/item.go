package dynamofake

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
)

// What DynamoDB holds items and pages to, in bytes (Developer Guide, "Service,
// account, and table quotas").
const (
	maxItem      = 400 << 10
	maxPage      = 1 << 20
	maxPartition = 2048
	maxSort      = 1024
)

// value is an attribute's: a string, a number or bytes. The fake knows no other
// types, and no numbers but whole ones.
type value struct {
	S *string `json:",omitempty"`
	N *string `json:",omitempty"`
	B *[]byte `json:",omitempty"`
}

type item map[string]value

// tableItems are a table's items, by both halves of their keys.
type tableItems map[string]map[string]item

// request is the union of the operations' inputs.
type request struct {
	TableName                           string
	Key                                 item
	Item                                item
	ConsistentRead                      bool
	ConditionExpression                 *string
	UpdateExpression                    *string
	KeyConditionExpression              *string
	ExpressionAttributeNames            map[string]string
	ExpressionAttributeValues           map[string]value
	ReturnValues                        string
	ReturnValuesOnConditionCheckFailure string
	ScanIndexForward                    *bool
	Limit                               *int
}

// leadingKey is the partition key that a request names, or "" if it names none.
func (in *request) leadingKey() string {
	pk := in.Key["pk"].S
	if in.Item != nil {
		pk = in.Item["pk"].S
	}
	if in.KeyConditionExpression != nil {
		if m := keyShape.FindStringSubmatch(*in.KeyConditionExpression); m != nil {
			pk = in.ExpressionAttributeValues[m[1]].S
		}
	}
	if pk == nil {
		return ""
	}
	return *pk
}

// unmet is a condition that wasn't met.
type unmet struct{ item item } // nil: there is none, or it wasn't asked for

func (*unmet) Error() string { return "ConditionalCheckFailedException" }

var wholeNumber = regexp.MustCompile(`^-?\d{1,38}$`)

// check holds one value to its type. DynamoDB counts it with about half a byte a
// digit.
func (v value) check() (size int, err error) {
	switch {
	case v.S != nil && v.N == nil && v.B == nil:
		return len(*v.S), nil
	case v.N != nil && v.S == nil && v.B == nil && wholeNumber.MatchString(*v.N):
		return len(*v.N)/2 + 2, nil
	case v.B != nil && v.S == nil && v.N == nil:
		return len(*v.B), nil
	}
	return 0, errors.New("an attribute has one type: S, N (a whole number of 38 digits) or B")
}

func (v value) number() *big.Int {
	n, _ := new(big.Int).SetString(*v.N, 10) // check has seen it
	return n
}

func (i item) size() (int, error) {
	size := 0
	for name, v := range i {
		n, err := v.check()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		size += len(name) + n
	}
	return size, nil
}

// key checks that i has a table's keys, and returns them.
func (i item) key() (partition, sort string, err error) {
	pk, sk := i["pk"].S, i["sk"].S
	switch {
	case pk == nil || sk == nil:
		return "", "", errors.New("the provided key element does not match the schema")
	case *pk == "" || len(*pk) > maxPartition || *sk == "" || len(*sk) > maxSort:
		return "", "", errors.New("a key has 1 to 2048 bytes, a sort key 1 to 1024")
	}
	return *pk, *sk, nil
}

// target is the item that a request names by a bare key, or nil.
func (t tableItems) target(in *request) (old item, err error) {
	partition, sort, err := in.Key.key()
	if err == nil && len(in.Key) != 2 {
		err = errors.New("the number of conditions on the keys is invalid")
	}
	return t[partition][sort], err
}

func (t tableItems) store(i item) error {
	size, err := i.size()
	if err != nil {
		return err
	}
	if size > maxItem {
		return errors.New("item size has exceeded the maximum allowed size")
	}
	partition, sort, err := i.key()
	if err != nil {
		return err
	}
	if t[partition] == nil {
		t[partition] = map[string]item{}
	}
	t[partition][sort] = i
	return nil
}

// permit evaluates a write's condition.
func (in *request) permit(e *expressions, old item) error {
	if in.ConditionExpression == nil {
		return errors.New("every write of ours has a condition")
	}
	condition, err := e.condition(*in.ConditionExpression)
	if err != nil {
		return err
	}
	if err := e.finish(); err != nil {
		return err
	}
	switch in.ReturnValuesOnConditionCheckFailure {
	case "", "NONE", "ALL_OLD":
	default:
		return errors.New("unknown ReturnValuesOnConditionCheckFailure")
	}
	if condition(old) {
		return nil
	}
	if in.ReturnValuesOnConditionCheckFailure == "ALL_OLD" {
		return &unmet{old}
	}
	return &unmet{}
}

func getItem(t tableItems, in *request) (any, error) {
	old, err := t.target(in)
	switch {
	case err != nil:
		return nil, err
	case !in.ConsistentRead:
		return nil, errors.New("a read of ours without ConsistentRead")
	case old == nil:
		return struct{}{}, nil
	}
	return map[string]item{"Item": old}, nil
}

func putItem(t tableItems, in *request) (any, error) {
	partition, sort, err := in.Item.key()
	if err != nil {
		return nil, err
	}
	e := newExpressions(in)
	if err := in.permit(e, t[partition][sort]); err != nil {
		return nil, err
	}
	return struct{}{}, t.store(in.Item)
}

func deleteItem(t tableItems, in *request) (any, error) {
	old, err := t.target(in)
	if err != nil {
		return nil, err
	}
	e := newExpressions(in)
	if err := in.permit(e, old); err != nil {
		return nil, err
	}
	delete(t[*in.Key["pk"].S], *in.Key["sk"].S)
	return struct{}{}, nil
}

func updateItem(t tableItems, in *request) (any, error) {
	old, err := t.target(in)
	if err != nil {
		return nil, err
	}
	switch {
	case in.UpdateExpression == nil:
		return nil, errors.New("an update without an expression")
	case in.ReturnValues != "" && in.ReturnValues != "NONE" && in.ReturnValues != "ALL_NEW":
		return nil, errors.New("unknown ReturnValues")
	}
	e := newExpressions(in)
	update, err := e.update(*in.UpdateExpression)
	if err != nil {
		return nil, err
	}
	if err := in.permit(e, old); err != nil {
		return nil, err
	}
	changed := maps.Clone(old)
	if changed == nil {
		changed = maps.Clone(in.Key)
	}
	if err := update(changed); err != nil {
		return nil, err
	}
	if err := t.store(changed); err != nil {
		return nil, err
	}
	if in.ReturnValues == "ALL_NEW" {
		return map[string]item{"Attributes": changed}, nil
	}
	return struct{}{}, nil
}

func query(t tableItems, in *request) (any, error) {
	if in.KeyConditionExpression == nil || !in.ConsistentRead {
		return nil, errors.New("a query of ours without a KeyConditionExpression or ConsistentRead")
	}
	if in.Limit != nil && *in.Limit < 1 {
		return nil, errors.New("a limit is 1 at least")
	}
	e := newExpressions(in)
	partition, within, err := e.keyCondition(*in.KeyConditionExpression)
	if err != nil {
		return nil, err
	}
	if err := e.finish(); err != nil {
		return nil, err
	}
	found := slices.SortedFunc(maps.Values(t[partition]), order)
	if in.ScanIndexForward != nil && !*in.ScanIndexForward {
		slices.Reverse(found)
	}
	found = slices.DeleteFunc(found, func(i item) bool { return !within(i) })
	page, size := []item{}, 0
	for _, i := range found {
		n, _ := i.size() // store has seen it
		size += n
		page = append(page, i)
		if size > maxPage || in.Limit != nil && len(page) == *in.Limit {
			// DynamoDB doesn't look whether more would follow.
			last := item{"pk": i["pk"], "sk": i["sk"]}
			return map[string]any{"Items": page, "Count": len(page), "LastEvaluatedKey": last}, nil
		}
	}
	return map[string]any{"Items": page, "Count": len(page)}, nil
}
