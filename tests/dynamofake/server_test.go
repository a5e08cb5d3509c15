package dynamofake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/tests/dynamofake"
)

const signed = "AWS4-HMAC-SHA256 Credential=AKIA/20260301/us-east-1/dynamodb/aws4_request, SignedHeaders=host;x-amz-date, Signature="

// start is a fake with one table, and in it one item.
func start(t *testing.T) *dynamofake.Server {
	s := dynamofake.Start()
	t.Cleanup(s.Close)
	s.Create("t")
	if got := call(t, s, "PutItem", `{"TableName":"t","Item":{"pk":{"S":"p"},"sk":{"S":"a"},"n":{"N":"5"},"s":{"S":"text"},"b":{"B":"AAE="}},"ConditionExpression":"attribute_not_exists(pk)"}`); got != "200 {}" {
		t.Fatal(got)
	}
	return s
}

func request(ctx context.Context, url, operation, body string) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err == nil {
		r.Header.Set("Content-Type", "application/x-amz-json-1.0")
		r.Header.Set("X-Amz-Target", "DynamoDB_20120810."+operation)
		r.Header.Set("X-Amz-Date", "20260301T120000Z")
		r.Header.Set("Authorization", signed+strings.Repeat("a", 64))
	}
	return r, err
}

// send is a call that says what became of it.
func send(ctx context.Context, url, operation, body string) string {
	r, err := request(ctx, url, operation, body)
	if err != nil {
		return err.Error()
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		return "broken: " + err.Error()
	}
	defer reply.Body.Close()
	got, err := io.ReadAll(reply.Body)
	switch sum := fmt.Sprint(crc32.ChecksumIEEE(got)); {
	case err != nil:
		return "cut: " + err.Error()
	case reply.Header.Get("X-Amz-Crc32") != sum:
		return "damaged: " + string(got)
	}
	return fmt.Sprintf("%d %s", reply.StatusCode, got)
}

func call(t *testing.T, s *dynamofake.Server, operation, body string) string {
	t.Helper()
	return send(t.Context(), s.URL, operation, body)
}

const (
	item  = `{"b":{"B":"AAE="},"n":{"N":"5"},"pk":{"S":"p"},"s":{"S":"text"},"sk":{"S":"a"}}`
	read  = `{"TableName":"t","ConsistentRead":true,"Key":{"pk":{"S":"p"},"sk":{"S":"a"}}}`
	unmet = `400 {"__type":"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException","message":"The conditional request failed"}`
)

// update is an UpdateItem of the item a, or of one that isn't there.
func update(sort, condition, change, rest string) string {
	encoded := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	return `{"TableName":"t","Key":{"pk":{"S":"p"},"sk":{"S":"` + sort + `"}},"ConditionExpression":` + encoded(condition) + `,"UpdateExpression":` + encoded(change) + rest + `}`
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		condition, values string
		holds             bool
	}{
		{"attribute_exists(pk)", ``, true},
		{"attribute_not_exists(pk)", ``, false},
		{"attribute_exists ( x )", ``, false},
		{"attribute_not_exists(x)", ``, true},
		{"n = :v", `":v":{"N":"5"}`, true},
		{"n = :v", `":v":{"N":"05"}`, true},
		{"n <> :v", `":v":{"N":"5"}`, false},
		{"n <> :v", `":v":{"N":"6"}`, true},
		{"n < :v", `":v":{"N":"10"}`, true},
		{"n < :v", `":v":{"N":"5"}`, false},
		{"n <= :v", `":v":{"N":"5"}`, true},
		{"n <= :v", `":v":{"N":"-6"}`, false},
		{"n > :v", `":v":{"N":"-6"}`, true},
		{"n > :v", `":v":{"N":"5"}`, false},
		{"n >= :v", `":v":{"N":"5"}`, true},
		{"n >= :v", `":v":{"N":"99999999999999999999999999999999999999"}`, false},
		{":v < n", `":v":{"N":"4"}`, true},
		{"s = :v", `":v":{"S":"text"}`, true},
		{"s < :v", `":v":{"S":"texu"}`, true},
		{"b = :v", `":v":{"B":"AAE="}`, true},
		{"b < :v", `":v":{"B":"AAE="}`, false},
		{"n = :v", `":v":{"S":"5"}`, false},
		{"n <> :v", `":v":{"S":"5"}`, true},
		{"b >= :v", `":v":{"S":"5"}`, false},
		{"x = :v", `":v":{"N":"5"}`, false},
		{"x <= :v", `":v":{"N":"5"}`, false},
		{"x <> :v", `":v":{"N":"5"}`, true},
		{"n BETWEEN :v AND :w", `":v":{"N":"5"},":w":{"N":"5"}`, true},
		{"n between :v and :w", `":v":{"N":"6"},":w":{"N":"7"}`, false},
		{"n BETWEEN :v AND :w", `":v":{"N":"3"},":w":{"N":"4"}`, false},
		{"x BETWEEN :v AND :w", `":v":{"N":"3"},":w":{"N":"9"}`, false},
		{"NOT n = :v", `":v":{"N":"5"}`, false},
		{"NOT (n = :v)", `":v":{"N":"6"}`, true},
		{"n = :v OR n = :w", `":v":{"N":"5"},":w":{"N":"6"}`, true},
		{"n = :w OR n = :v", `":v":{"N":"5"},":w":{"N":"6"}`, true},
		{"n = :v AND n = :w", `":v":{"N":"5"},":w":{"N":"6"}`, false},
		{"n = :v OR n = :v AND n = :w", `":v":{"N":"5"},":w":{"N":"6"}`, true},
		{"(n = :v OR n = :v) AND n = :w", `":v":{"N":"5"},":w":{"N":"6"}`, false},
		{"NOT n = :w AND n = :v", `":v":{"N":"5"},":w":{"N":"6"}`, true},
	} {
		s := start(t)
		want := unmet
		if row.holds {
			want = "200 {}"
		}
		if got := call(t, s, "UpdateItem", update("a", row.condition, "REMOVE b", `,"ExpressionAttributeValues":{`+row.values+`}`)); got != want {
			t.Errorf("%s with %s: %s", row.condition, row.values, got)
		}
		if v := s.Violations(); len(v) > 0 {
			t.Errorf("%s: %s", row.condition, v)
		}
	}
}

func TestUpdates(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ sort, change, rest, want string }{
		{"a", "SET n = :v", `":v":{"S":"x"}`, `{"b":{"B":"AAE="},"n":{"S":"x"},"pk":{"S":"p"},"s":{"S":"text"},"sk":{"S":"a"}}`},
		{"a", "REMOVE n, s, x", ``, `{"b":{"B":"AAE="},"pk":{"S":"p"},"sk":{"S":"a"}}`},
		{"a", "ADD n :v, m :v REMOVE s, b", `":v":{"N":"-7"}`, `{"m":{"N":"-7"},"n":{"N":"-2"},"pk":{"S":"p"},"sk":{"S":"a"}}`},
		{"a", "set x = :v add n :v", `":v":{"N":"1"}`, `{"b":{"B":"AAE="},"n":{"N":"6"},"pk":{"S":"p"},"s":{"S":"text"},"sk":{"S":"a"},"x":{"N":"1"}}`},
		{"new", "ADD n :v", `":v":{"N":"7"}`, `{"n":{"N":"7"},"pk":{"S":"p"},"sk":{"S":"new"}}`},
	} {
		s := start(t)
		got := call(t, s, "UpdateItem", update(row.sort, "attribute_not_exists(z)", row.change, `,"ReturnValues":"ALL_NEW","ExpressionAttributeValues":{`+row.rest+`}`))
		if got != `200 {"Attributes":`+row.want+`}` {
			t.Errorf("%s: %s", row.change, got)
		}
		if got := call(t, s, "GetItem", strings.Replace(read, `"a"`, `"`+row.sort+`"`, 1)); got != `200 {"Item":`+row.want+`}` {
			t.Errorf("%s: %s is stored", row.change, got)
		}
	}
}

func TestNamesStandForAnyName(t *testing.T) {
	t.Parallel()
	s := start(t)
	rest := `,"ReturnValues":"ALL_NEW","ExpressionAttributeNames":{"#a":"a b","#n":"n"},"ExpressionAttributeValues":{":v":{"N":"1"}}`
	got := call(t, s, "UpdateItem", update("a", "attribute_not_exists(#a) AND #n > :v", "ADD #a :v REMOVE s, b", rest))
	if got != `200 {"Attributes":{"a b":{"N":"1"},"n":{"N":"5"},"pk":{"S":"p"},"sk":{"S":"a"}}}` {
		t.Error(got)
	}
}

func TestAnUnmetConditionTellsTheItemIfItIsAsked(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask := `,"ReturnValuesOnConditionCheckFailure":"ALL_OLD"`
	want := strings.TrimSuffix(unmet, "}")
	if got := call(t, s, "UpdateItem", update("a", "attribute_exists(x)", "REMOVE x", ask)); !strings.Contains(got, `"Item":`+item) {
		t.Errorf("an item: %s", got)
	}
	if got := call(t, s, "UpdateItem", update("new", "attribute_exists(x)", "REMOVE x", ask)); got != want+"}" {
		t.Errorf("no item: %s", got)
	}
	if got := call(t, s, "GetItem", read); got != `200 {"Item":`+item+`}` {
		t.Errorf("it was changed: %s", got)
	}
}

// What the fake doesn't know, and what we shouldn't send, is refused and noted,
// and changes nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	put := func(rest string) string {
		return `{"TableName":"t","Item":{"pk":{"S":"p"},"sk":{"S":"a"}` + rest
	}
	query := func(condition, values string) string {
		return `{"TableName":"t","ConsistentRead":true,"KeyConditionExpression":"` + condition + `","ExpressionAttributeValues":{` + values + `}}`
	}
	one := `,"ExpressionAttributeValues":{":v":{"N":"1"}}`
	for _, row := range []struct{ name, operation, body, why string }{
		{"another operation", "Scan", `{"TableName":"t"}`, "not known here: Scan"},
		{"no JSON", "GetItem", `{`, "not known here"},
		{"another parameter", "GetItem", `{"TableName":"t","ProjectionExpression":"n"}`, "ProjectionExpression"},
		{"a read without consistency", "GetItem", `{"TableName":"t","Key":{"pk":{"S":"p"},"sk":{"S":"a"}}}`, "ConsistentRead"},
		{"no key", "GetItem", `{"TableName":"t","ConsistentRead":true}`, "key element"},
		{"half a key", "DeleteItem", `{"TableName":"t","Key":{"pk":{"S":"p"}},"ConditionExpression":"attribute_exists(pk)"}`, "key element"},
		{"a key that is a number", "GetItem", `{"TableName":"t","ConsistentRead":true,"Key":{"pk":{"N":"1"},"sk":{"S":"a"}}}`, "key element"},
		{"more than a key", "GetItem", `{"TableName":"t","ConsistentRead":true,"Key":{"pk":{"S":"p"},"sk":{"S":"a"},"n":{"N":"1"}}}`, "number of conditions"},
		{"an empty key", "GetItem", `{"TableName":"t","ConsistentRead":true,"Key":{"pk":{"S":""},"sk":{"S":"a"}}}`, "1 to 2048"},
		{"an empty sort key", "PutItem", `{"TableName":"t","Item":{"pk":{"S":"p"},"sk":{"S":""}},"ConditionExpression":"attribute_exists(pk)"}`, "1 to 2048"},
		{"a sort key too long", "PutItem", `{"TableName":"t","Item":{"pk":{"S":"p"},"sk":{"S":"` + strings.Repeat("a", 1025) + `"}},"ConditionExpression":"attribute_exists(pk)"}`, "1 to 2048"},
		{"a partition key too long", "PutItem", `{"TableName":"t","Item":{"pk":{"S":"` + strings.Repeat("a", 2049) + `"},"sk":{"S":"a"}},"ConditionExpression":"attribute_exists(pk)"}`, "1 to 2048"},
		{"a write without a condition", "PutItem", put(`}}`), "condition"},
		{"a delete without a condition", "DeleteItem", `{"TableName":"t","Key":{"pk":{"S":"p"},"sk":{"S":"a"}}}`, "condition"},
		{"another type", "PutItem", put(`,"x":{"BOOL":true}},"ConditionExpression":"attribute_exists(pk)"}`), "BOOL"},
		{"two types", "PutItem", put(`,"x":{"S":"1","N":"1"}},"ConditionExpression":"attribute_exists(pk)"}`), "one type"},
		{"no type", "PutItem", put(`,"x":{}},"ConditionExpression":"attribute_exists(pk)"}`), "one type"},
		{"a number that is none", "PutItem", put(`,"x":{"N":"one"}},"ConditionExpression":"attribute_exists(pk)"}`), "one type"},
		{"a number of 39 digits", "PutItem", put(`,"x":{"N":"` + strings.Repeat("1", 39) + `"}},"ConditionExpression":"attribute_exists(pk)"}`), "one type"},
		{"an item too large", "PutItem", put(`,"x":{"S":"` + strings.Repeat("1", 400<<10) + `"}},"ConditionExpression":"attribute_exists(pk)"}`), "maximum allowed size"},
		{"an addition of 39 digits", "UpdateItem", update("a", "attribute_exists(pk)", "ADD x :v", `,"ExpressionAttributeValues":{":v":{"N":"`+strings.Repeat("1", 39)+`"}}`), "one type"},
		{"a sum of text", "UpdateItem", update("a", "attribute_exists(pk)", "ADD s :v", one), "incorrect data type"},
		{"an addition of text", "UpdateItem", update("a", "attribute_exists(pk)", "ADD n :v", `,"ExpressionAttributeValues":{":v":{"S":"1"}}`), "numbers"},
		{"a change of the key", "UpdateItem", update("a", "attribute_exists(pk)", "SET sk = :v", one), "part of the key"},
		{"a change twice", "UpdateItem", update("a", "attribute_exists(pk)", "REMOVE n ADD n :v", one), "stands twice"},
		{"a section twice", "UpdateItem", update("a", "attribute_exists(pk)", "REMOVE n REMOVE x", ``), "once"},
		{"another section", "UpdateItem", update("a", "attribute_exists(pk)", "DELETE n :v", one), "DELETE"},
		{"a sum in SET", "UpdateItem", update("a", "attribute_exists(pk)", "SET n = n + :v", one), "unknown"},
		{"no change", "UpdateItem", `{"TableName":"t","Key":{"pk":{"S":"p"},"sk":{"S":"a"}},"ConditionExpression":"attribute_exists(pk)"}`, "without an expression"},
		{"other return values", "UpdateItem", update("a", "attribute_exists(pk)", "ADD n :v", one+`,"ReturnValues":"UPDATED_OLD"`), "ReturnValues"},
		{"other return values of a failure", "UpdateItem", update("a", "attribute_exists(x)", "ADD n :v", one+`,"ReturnValuesOnConditionCheckFailure":"ALL"`), "ReturnValuesOnConditionCheckFailure"},
		{"a value that nothing uses", "UpdateItem", update("a", "attribute_exists(pk)", "REMOVE n", one), "unused"},
		{"a name that nothing uses", "UpdateItem", update("a", "attribute_exists(pk)", "REMOVE n", `,"ExpressionAttributeNames":{"#n":"n"}`), "unused"},
		{"a value that is missing", "UpdateItem", update("a", "attribute_exists(pk)", "ADD n :v", ``), "no value"},
		{"a name that is missing", "UpdateItem", update("a", "attribute_exists(#n)", "REMOVE n", ``), "no name"},
		{"a name for a value", "UpdateItem", update("a", "n = #v", "REMOVE n", `,"ExpressionAttributeNames":{"#w":"n"}`), "no name"},
		{"another function", "UpdateItem", update("a", "begins_with(s, :v)", "REMOVE n", one), "comparator"},
		{"a comparison without end", "UpdateItem", update("a", "n =", "REMOVE n", ``), "no name"},
		{"a comparison without a comparator", "UpdateItem", update("a", "n n n", "REMOVE n", ``), "no comparator"},
		{"an open parenthesis", "UpdateItem", update("a", "(n = n", "REMOVE n", ``), "should stand"},
		{"a function without an end", "UpdateItem", update("a", "attribute_exists(n", "REMOVE n", ``), "should stand"},
		{"more than a condition", "UpdateItem", update("a", "n = n n", "REMOVE n", ``), "follows"},
		{"a path", "UpdateItem", update("a", "n.x = n", "REMOVE n", ``), "unknown"},
		{"an empty condition", "UpdateItem", update("a", "", "REMOVE n", ``), "no name"},
		{"bounds in the wrong order", "UpdateItem", update("a", "n BETWEEN :v AND :w", "REMOVE n", `,"ExpressionAttributeValues":{":v":{"N":"2"},":w":{"N":"1"}}`), "upper bound"},
		{"a query of all", "Query", `{"TableName":"t","ConsistentRead":true}`, "KeyConditionExpression"},
		{"a query without consistency", "Query", `{"TableName":"t","KeyConditionExpression":"pk = :p","ExpressionAttributeValues":{":p":{"S":"p"}}}`, "ConsistentRead"},
		{"a query for no items", "Query", `{"TableName":"t","ConsistentRead":true,"Limit":0,"KeyConditionExpression":"pk = :p","ExpressionAttributeValues":{":p":{"S":"p"}}}`, "limit"},
		{"a query by another attribute", "Query", query("n = :p", `":p":{"S":"p"}`), "no key condition"},
		{"a query of many partitions", "Query", query("pk > :p", `":p":{"S":"p"}`), "no key condition"},
		{"a query by a number", "Query", query("pk = :p", `":p":{"N":"1"}`), "a key is a string"},
		{"a query behind an empty key", "Query", query("pk = :p AND sk > :s", `":p":{"S":"p"},":s":{"S":""}`), "a key is a string"},
		{"a query with a value that nothing uses", "Query", query("pk = :p", `":p":{"S":"p"},":s":{"S":"s"}`), "unused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			got := call(t, s, row.operation, row.body)
			if !strings.HasPrefix(got, "400 ") || !strings.Contains(got, row.why) || strings.Contains(got, "ConditionalCheckFailed") {
				t.Errorf("%s, want a refusal: %s", got, row.why)
			}
			if v := s.Violations(); len(v) != 1 || !strings.Contains(v[0], row.why) {
				t.Errorf("violations %q", v)
			}
			if got := call(t, s, "GetItem", read); got != `200 {"Item":`+item+`}` {
				t.Errorf("it was changed: %s", got)
			}
		})
	}
}

func TestAnotherTableIsNotFound(t *testing.T) {
	t.Parallel()
	s := start(t)
	if got := call(t, s, "GetItem", strings.Replace(read, `"t"`, `"u"`, 1)); !strings.Contains(got, "ResourceNotFoundException") {
		t.Error(got)
	}
	s.Create("u")
	if got := call(t, s, "GetItem", strings.Replace(read, `"t"`, `"u"`, 1)); got != "200 {}" {
		t.Error(got)
	}
}

func TestACallIsSignedForDynamoDB(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(http.Header){
		"unsigned": func(h http.Header) { h.Del("Authorization") },
		"signed for another service": func(h http.Header) {
			h.Set("Authorization", strings.Replace(h.Get("Authorization"), "dynamodb", "sqs", 1))
		},
		"undated":                     func(h http.Header) { h.Del("X-Amz-Date") },
		"of another service's target": func(h http.Header) { h.Set("X-Amz-Target", "secretsmanager.GetItem") },
		"of another protocol":         func(h http.Header) { h.Set("Content-Type", "application/x-amz-json-1.1") },
	} {
		s := start(t)
		r, err := request(t.Context(), s.URL, "GetItem", read)
		if err != nil {
			t.Fatal(err)
		}
		change(r.Header)
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		if reply.StatusCode != http.StatusBadRequest || len(s.Violations()) != 1 {
			t.Errorf("%s: status %d, violations %q", name, reply.StatusCode, s.Violations())
		}
	}
}

func TestACallThatIsNotAllowedIsRefused(t *testing.T) {
	t.Parallel()
	key := func(table, partition string) string {
		return `"TableName":"` + table + `","Key":{"pk":{"S":"` + partition + `"},"sk":{"S":"a"}}`
	}
	for _, row := range []struct{ operation, body, table, partition string }{
		{"GetItem", `{"ConsistentRead":true,` + key("t", "p") + `}`, "t", "p"},
		{"GetItem", `{"ConsistentRead":true,` + key("elsewhere", "q") + `}`, "elsewhere", "q"},
		{"PutItem", `{"TableName":"t","Item":{"pk":{"S":"new"},"sk":{"S":"a"}},"ConditionExpression":"attribute_not_exists(pk)"}`, "t", "new"},
		{"UpdateItem", `{"ConditionExpression":"attribute_exists(pk)","UpdateExpression":"REMOVE n",` + key("t", "p") + `}`, "t", "p"},
		{"DeleteItem", `{"ConditionExpression":"attribute_exists(pk)",` + key("t", "p") + `}`, "t", "p"},
		{"Query", `{"TableName":"t","ConsistentRead":true,"KeyConditionExpression":"pk = :p AND sk > :s","ExpressionAttributeValues":{":p":{"S":"p"},":s":{"S":"0"}}}`, "t", "p"},
	} {
		t.Run(row.operation, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			asked := ""
			s.Authorize(func(principal, action, resource, leadingKey string) bool {
				asked = fmt.Sprintf("%s %s %s %q", principal, action, resource, leadingKey)
				return false
			})
			arn := "arn:aws:dynamodb:us-east-1:123456789012:table/" + row.table
			got := call(t, s, row.operation, row.body)
			if !strings.HasPrefix(got, "400 ") || !strings.Contains(got, "#AccessDeniedException") ||
				!strings.Contains(got, "is not authorized to perform: dynamodb:"+row.operation+" on resource: "+arn+" because") {
				t.Error(got)
			}
			if want := fmt.Sprintf("AKIA dynamodb:%s %s %q", row.operation, arn, row.partition); asked != want || arn != dynamofake.ARN(row.table) {
				t.Errorf("asked about %s, want %s", asked, want)
			}
			if v := fmt.Sprint(s.Violations()); !strings.Contains(v, "AccessDeniedException") || !strings.Contains(v, fmt.Sprintf("partition %q", row.partition)) {
				t.Error(v)
			}
			s.Authorize(func(string, string, string, string) bool { return true })
			if got := call(t, s, "GetItem", read); got != `200 {"Item":`+item+`}` {
				t.Errorf("after it: %s", got)
			}
		})
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := dynamofake.Start()
	defer s.Close()
	s.Create("t")
	big := strings.Repeat("x", 300<<10)
	for _, sort := range strings.Fields("c a e b d") {
		if got := call(t, s, "PutItem", `{"TableName":"t","Item":{"pk":{"S":"p"},"sk":{"S":"`+sort+`"},"x":{"S":"`+big+`"}},"ConditionExpression":"attribute_not_exists(pk)"}`); got != "200 {}" {
			t.Fatal(got)
		}
	}
	for _, row := range []struct{ condition, values, rest, items, last string }{
		{"pk = :p", ``, ``, "abcd", "d"}, // the page ends with the item that passes 1 MB
		{"pk = :p", ``, `,"ScanIndexForward":false`, "edcb", "b"},
		{"pk = :p", ``, `,"ScanIndexForward":true,"Limit":2`, "ab", "b"},
		{"pk = :p AND sk > :s", `,":s":{"S":"b"}`, ``, "cde", ""},
		{"pk = :p AND sk < :s", `,":s":{"S":"c"}`, `,"ScanIndexForward":false`, "ba", ""},
		{"pk = :p AND sk >= :s", `,":s":{"S":"e"}`, `,"Limit":1`, "e", "e"}, // it doesn't look whether more follow
	} {
		got := call(t, s, "Query", `{"TableName":"t","ConsistentRead":true,"KeyConditionExpression":"`+row.condition+`","ExpressionAttributeValues":{":p":{"S":"p"}`+row.values+`}`+row.rest+`}`)
		var page struct {
			Items            []map[string]map[string]string
			Count            int
			LastEvaluatedKey map[string]map[string]string
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(got, "200 ")), &page); err != nil {
			t.Fatal(err)
		}
		items := ""
		for _, i := range page.Items {
			items += i["sk"]["S"]
		}
		if items != row.items || page.Count != len(items) || page.LastEvaluatedKey["sk"]["S"] != row.last {
			t.Errorf("%s%s: %s, %d, last %v; want %s, last %q", row.condition, row.rest, items, page.Count, page.LastEvaluatedKey, row.items, row.last)
		}
	}
}

func TestARequestIsAtomic(t *testing.T) {
	t.Parallel()
	s := start(t)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			call(t, s, "UpdateItem", update("a", "n < :max", "ADD n :v", `,"ExpressionAttributeValues":{":v":{"N":"1"},":max":{"N":"25"}}`))
		})
	}
	all.Wait()
	if got := call(t, s, "GetItem", read); !strings.Contains(got, `"n":{"N":"25"}`) {
		t.Error(got)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	remove := `{"TableName":"t","Key":{"pk":{"S":"p"},"sk":{"S":"a"}},"ConditionExpression":"attribute_exists(pk)"}`
	for _, row := range []struct {
		name  string
		fault *dynamofake.Fault
		want  string
		done  bool
	}{
		{"an error", dynamofake.Fail(500, "InternalServerError"), "500 ", false},
		{"a throttle", dynamofake.Throttle(), `400 {"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"`, false},
		{"garbage", dynamofake.Garbage(200, "<html>"), "200 <html>", false},
		{"a dropped call", dynamofake.Drop(), "broken", false},
		{"a lost answer", dynamofake.Lose(), "broken", true},
		{"a blurred answer", dynamofake.Blur(), "500 ", true},
		{"an answer cut off", dynamofake.Cut(), "cut", true},
		{"a damaged answer", dynamofake.Damage(func(b []byte) []byte { return append(b, ' ') }), "damaged", true},
		{"a delay", dynamofake.Delay(time.Millisecond), "200 {}", true},
		{"something meanwhile", dynamofake.Meanwhile(func() {}), "200 {}", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.Inject(row.fault.On("DeleteItem").Times(1))
			if got := call(t, s, "GetItem", read); got != `200 {"Item":`+item+`}` {
				t.Errorf("another operation: %s", got)
			}
			if got := call(t, s, "DeleteItem", remove); !strings.HasPrefix(got, row.want) {
				t.Errorf("%s, want %s", got, row.want)
			}
			if got := call(t, s, "GetItem", read); (got == "200 {}") != row.done {
				t.Errorf("then: %s", got)
			}
			want := "200 {}"
			if row.done {
				want = unmet
			}
			if got := call(t, s, "DeleteItem", remove); got != want {
				t.Errorf("once more: %s, want %s", got, want)
			}
			if s.Calls("DeleteItem") != 2 || s.Calls("GetItem") != 2 || s.Calls("PutItem") != 1 || s.Calls("") != 5 {
				t.Errorf("%d, %d, %d of %d calls", s.Calls("DeleteItem"), s.Calls("GetItem"), s.Calls("PutItem"), s.Calls(""))
			}
		})
	}
}

func TestHealEndsAFault(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Inject(dynamofake.Throttle())
	for range 3 {
		if got := call(t, s, "GetItem", read); !strings.HasPrefix(got, "400") {
			t.Error(got)
		}
	}
	s.Heal()
	if got := call(t, s, "GetItem", read); got != `200 {"Item":`+item+`}` {
		t.Error(got)
	}
}

func TestACallHangsUntilItIsReleased(t *testing.T) {
	t.Parallel()
	s := start(t)
	hang, release := dynamofake.Hang()
	s.Inject(hang.Times(1))
	answer := make(chan string)
	go func() { answer <- send(context.Background(), s.URL, "GetItem", read) }()
	if err := s.Await(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-answer:
		t.Fatalf("answered %s while it should hang", got)
	default:
	}
	release()
	if got := <-answer; got != `200 {"Item":`+item+`}` {
		t.Errorf("after the release: %s", got)
	}
}

func TestWhatHangsEndsWithItsClientOrTheServer(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]*dynamofake.Fault{"a call that hangs": func() *dynamofake.Fault { f, _ := dynamofake.Hang(); return f }(), "an answer that stalls": dynamofake.Stall()} {
		s := dynamofake.Start()
		s.Create("t")
		s.Inject(fault)
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan string)
		go func() { answer <- send(ctx, s.URL, "GetItem", read) }()
		if err := s.Await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		cancel()
		if got := <-answer; !strings.Contains(got, "canceled") {
			t.Errorf("%s: %s", name, got)
		}
		go func() { answer <- send(t.Context(), s.URL, "GetItem", read) }()
		if err := s.Await(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		s.Close()
		<-answer
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := start(t).Await(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}
