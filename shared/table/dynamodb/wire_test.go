package dynamodb_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"postern/shared/table"
	"postern/shared/table/dynamodb"
	"postern/tests/dynamofake"
)

// raw reads an item as it is stored.
func raw(t *testing.T, fake *dynamofake.Server, k table.Key) map[string]types.AttributeValue {
	t.Helper()
	client := sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &fake.URL, Credentials: aws.CredentialsProviderFunc(
		func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "example"}, nil
		})})
	out, err := client.GetItem(t.Context(), &sdk.GetItemInput{TableName: aws.String("postern"), ConsistentRead: aws.Bool(true),
		Key: map[string]types.AttributeValue{"pk": text(k.Partition), "sk": text(k.Sort)}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Item
}

func text(s string) types.AttributeValue   { return &types.AttributeValueMemberS{Value: s} }
func number(s string) types.AttributeValue { return &types.AttributeValueMemberN{Value: s} }

// Tables are kept when a stack is deleted, so what they hold is read by whatever
// comes after this program: these names and types don't change.
func TestWhatIsStored(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	put(t, leaf, key, "one\xff", 1, later.Add(-time.Nanosecond))
	if _, _, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "requests", By: 2}, {Counter: "size", By: -1}}, 5, later); err != nil {
		t.Fatal(err)
	}
	nothing := table.Key{Partition: "p", Sort: "nothing"}
	if _, err := leaf.Put(t.Context(), nothing, nil, 0, never); err != nil {
		t.Fatal(err)
	}
	fresh := table.Key{Partition: "p", Sort: "fresh"}
	add(t, leaf, fresh, 9, past)
	add(t, leaf, fresh, 3, never)
	for k, want := range map[table.Key]map[string]types.AttributeValue{
		key: {"pk": text("p"), "sk": text("a"), "ver": number("2"), "exp": number("1772370000"),
			"val": &types.AttributeValueMemberB{Value: []byte("one\xff")}},
		n:       {"pk": text("p"), "sk": text("n"), "exp": number("1772370000"), "n": number("1"), "requests": number("2"), "size": number("-1")},
		nothing: {"pk": text("p"), "sk": text("nothing"), "ver": number("1"), "val": &types.AttributeValueMemberB{Value: []byte{}}},
		fresh:   {"pk": text("p"), "sk": text("fresh"), "n": number("3")},
	} {
		if diff := cmp.Diff(want, raw(t, fake, k), cmpopts.IgnoreUnexported(types.AttributeValueMemberS{}, types.AttributeValueMemberN{}, types.AttributeValueMemberB{})); diff != "" {
			t.Errorf("%v (-want +got):\n%s", k, diff)
		}
	}
}

func TestEachOperationIsOneRequest(t *testing.T) {
	t.Parallel()
	for _, op := range operations {
		fake, leaf := start(t)
		before := fake.Calls("")
		if err := op.do(t.Context(), leaf); err != nil || fake.Calls("")-before != 1 || fake.Calls(op.sends) == 0 {
			t.Errorf("%s: %d requests, %v", op.name, fake.Calls("")-before, err)
		}
	}
	fake, leaf := start(t)
	before := fake.Calls("")
	if _, added, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "n", By: 1}}, 1, never); added || err != nil || fake.Calls("")-before != 1 {
		t.Errorf("a refused addition: added %t, %d requests, %v", added, fake.Calls("")-before, err)
	}
	before = fake.Calls("")
	if _, err := leaf.Put(t.Context(), key, nil, 7, never); !errors.Is(err, table.ErrConflict) || fake.Calls("")-before != 1 {
		t.Errorf("a conflict: %d requests, %v", fake.Calls("")-before, err)
	}
}

// A partition of what has expired, which DynamoDB's clean-up may leave for days,
// isn't read item by item.
func TestExpiredItemsCostFewPages(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	for i := range 300 {
		put(t, leaf, table.Key{Partition: "old", Sort: string(rune('a' + i))}, "", 0, past)
	}
	items, err := leaf.List(t.Context(), "old", table.Query{Limit: 1})
	if len(items) != 0 || err != nil || fake.Calls("Query") > 2 {
		t.Errorf("%d items, %v, %d pages", len(items), err, fake.Calls("Query"))
	}
}

// nonsense is what no leaf has ever written, and no DynamoDB answered.
var nonsense = []struct{ name, item string }{
	{"no attribute", `{}`},
	{"another item", `{"pk":{"S":"p"},"sk":{"S":"b"},"ver":{"N":"1"},"val":{"B":""}}`},
	{"another partition's", `{"pk":{"S":"q"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":""}}`},
	{"no key", `{"ver":{"N":"1"},"val":{"B":""}}`},
	{"half a key", `{"pk":{"S":"p"},"ver":{"N":"1"},"val":{"B":""}}`},
	{"a key of another type", `{"pk":{"S":"p"},"sk":{"B":"YQ=="},"ver":{"N":"1"},"val":{"B":""}}`},
	{"a key alone", `{"pk":{"S":"p"},"sk":{"S":"a"}}`},
	{"a value without a version", `{"pk":{"S":"p"},"sk":{"S":"a"},"val":{"B":""}}`},
	{"a version without a value", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"}}`},
	{"version 0", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"0"},"val":{"B":""}}`},
	{"a negative version", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"-1"},"val":{"B":""}}`},
	{"a negative version of counters", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"-1"},"n":{"N":"1"}}`},
	{"version 0 of counters", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"0"},"n":{"N":"1"}}`},
	{"other bytes than the value's", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":""},"x":{"B":""}}`},
	{"other text than the key's", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":""},"x":{"S":"a"}}`},
	{"a value that is a number", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"N":"1"}}`},
	{"a value that is a number, like counters", `{"pk":{"S":"p"},"sk":{"S":"a"},"val":{"N":"1"}}`},
	{"a version that is text", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"S":"1"},"val":{"B":""}}`},
	{"a value that is text", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"S":"canary"}}`},
	{"a value that is no base64", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":"canary!"}}`},
	{"a value that is null", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":null}`},
	{"a value and counters", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":""},"n":{"N":"1"}}`},
	{"a version and counters", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"n":{"N":"1"}}`},
	{"a counter that is text", `{"pk":{"S":"p"},"sk":{"S":"a"},"n":{"S":"canary"}}`},
	{"a counter beyond 64 bits", `{"pk":{"S":"p"},"sk":{"S":"a"},"n":{"N":"9223372036854775808"}}`},
	{"a counter that is no whole number", `{"pk":{"S":"p"},"sk":{"S":"a"},"n":{"N":"1.5"}}`},
	{"a counter that is a list", `{"pk":{"S":"p"},"sk":{"S":"a"},"n":{"L":[{"N":"1"}]}}`},
	{"an expiry that is text", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":""},"exp":{"S":"never"}}`},
	{"an expiry that is no number", `{"pk":{"S":"p"},"sk":{"S":"a"},"ver":{"N":"1"},"val":{"B":""},"exp":{"N":"soon"}}`},
}

func TestAnItemThatMakesNoSenseIsAFailure(t *testing.T) {
	t.Parallel()
	for _, row := range nonsense {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fake, leaf := start(t)
			good := func(err error) bool {
				return failed(err) && strings.Contains(err.Error(), "no sense") && !strings.Contains(err.Error(), canary)
			}
			fake.Inject(dynamofake.Garbage(200, `{"Item":`+row.item+`,"Items":[`+row.item+`],"Count":1}`))
			if item, err := leaf.Get(t.Context(), key); !good(err) {
				t.Errorf("get: %+v, %v", item, err)
			}
			if row.name != "another item" { // which a list may have
				if items, err := leaf.List(t.Context(), "p", table.Query{Limit: 5}); !good(err) {
					t.Errorf("list: %+v, %v", items, err)
				}
			}
			fake.Heal()
			unmet := `{"__type":"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException","Item":` + row.item + `}`
			fake.Inject(dynamofake.Garbage(400, unmet))
			_, added, err := leaf.Add(t.Context(), key, []table.Delta{{Counter: "n", By: 1}}, 0, never)
			if added || !failed(err) || strings.Contains(err.Error(), canary) {
				t.Errorf("add: added %t, %v", added, err)
			}
		})
	}
}

func TestAnAnswerThatMakesNoSense(t *testing.T) {
	t.Parallel()
	item := func(sort string) string {
		return `{"pk":{"S":"p"},"sk":{"S":"` + sort + `"},"ver":{"N":"1"},"val":{"B":""}}`
	}
	add := func(leaf *dynamodb.Table) error {
		_, _, err := leaf.Add(context.Background(), n, []table.Delta{{Counter: "n", By: 1}}, 100, never)
		return err
	}
	for _, row := range []struct {
		name, body string
		do         func(*dynamodb.Table) error
	}{
		{"an addition without what it came to", `{}`, add},
		{"an addition that came to nothing", `{"Attributes":{"pk":{"S":"p"},"sk":{"S":"n"},"m":{"N":"1"}}}`, add},
		{"an addition to another item", `{"Attributes":{"pk":{"S":"p"},"sk":{"S":"m"},"n":{"N":"2"}}}`, add},
		{"an addition that is refused for another item", `{"__type":"x#ConditionalCheckFailedException","Item":{"pk":{"S":"p"},"sk":{"S":"m"},"n":{"N":"100"}}}`, add},
		{"a page without items", `{}`, list(table.Query{Limit: 5})},
		{"a page that counts items and has none", `{"Count":1}`, list(table.Query{Limit: 5})},
		{"a page of null", `{"Items":null,"Count":0}`, list(table.Query{Limit: 5})},
		{"items out of order", `{"Items":[` + item("b") + `,` + item("a") + `]}`, list(table.Query{Limit: 5})},
		{"items out of order, reversed", `{"Items":[` + item("a") + `,` + item("b") + `]}`, list(table.Query{Limit: 5, Reversed: true})},
		{"an item twice", `{"Items":[` + item("a") + `,` + item("a") + `]}`, list(table.Query{Limit: 5})},
		{"an item twice, reversed", `{"Items":[` + item("a") + `,` + item("a") + `]}`, list(table.Query{Limit: 5, Reversed: true})},
		{"the item to go on behind", `{"Items":[` + item("a") + `]}`, list(table.Query{Limit: 5, After: "a"})},
		{"a page that is always the first", `{"Items":[` + item("a") + `],"LastEvaluatedKey":{"pk":{"S":"p"},"sk":{"S":"a"}}}`, list(table.Query{Limit: 5})},
		{"an empty page that isn't the last", `{"Items":[],"LastEvaluatedKey":{"pk":{"S":"p"},"sk":{"S":"a"}}}`, list(table.Query{Limit: 5})},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fake, leaf := start(t)
			status := 200
			if strings.Contains(row.body, "__type") {
				status = 400
			}
			fake.Inject(dynamofake.Garbage(status, row.body))
			if err := row.do(leaf); !failed(err) || !strings.Contains(err.Error(), "no sense") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func list(q table.Query) func(*dynamodb.Table) error {
	return func(leaf *dynamodb.Table) error {
		_, err := leaf.List(context.Background(), "p", q)
		return err
	}
}

// P15: whatever is answered, nothing panics, and an item that is returned is the
// one that was asked for.
func FuzzAnswers(f *testing.F) {
	for _, row := range nonsense {
		f.Add(200, `{"Item":`+row.item+`,"Items":[`+row.item+`],"Attributes":`+row.item+`}`)
	}
	f.Add(400, `{"__type":"x#ConditionalCheckFailedException","Item":{"n":{"N":"1"}}}`)
	f.Add(500, `{"__type":1}`)
	f.Add(200, `{1:2}`)
	leaf, err := dynamodb.New(dynamodb.Config{Table: "postern", Getenv: environment(""), Now: func() time.Time { return noon }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			t.Skip("no answer has this status")
		}
		synctest.Test(t, func(t *testing.T) { // no pause takes time
			leaf := dynamodb.Answered(leaf, func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
			})
			item, err := leaf.Get(t.Context(), key)
			if err == nil && (item.Key != key || (item.Counters == nil) == (item.Version == 0)) {
				t.Errorf("get: %+v", item)
			}
			items, err := leaf.List(t.Context(), "p", table.Query{Limit: 2})
			if len(items) > 2 || err != nil && items != nil {
				t.Errorf("list: %+v, %v", items, err)
			}
			if version, err := leaf.Put(t.Context(), key, nil, 1, never); (version == 2) != (err == nil) {
				t.Errorf("put: %d, %v", version, err)
			}
			leaf.Delete(t.Context(), key, 1)
			leaf.Add(t.Context(), n, []table.Delta{{Counter: "n", By: -1}}, 5, never)
		})
	})
}
