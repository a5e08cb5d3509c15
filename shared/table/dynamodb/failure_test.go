package dynamodb_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"

	"postern/shared/table"
	"postern/shared/table/dynamodb"
	"postern/tests/dynamofake"
)

var (
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 500e6, time.UTC)
	past  = noon.Add(-time.Second)
	later = time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	never time.Time
	key   = table.Key{Partition: "p", Sort: "a"}
	n     = table.Key{Partition: "p", Sort: "n"}
)

const canary = "canary"

// start is a fake with one table, and the leaf over it, whose time is noon. In
// it are a value of version 1 and a counter at 1.
func start(t *testing.T, change ...func(*dynamodb.Config)) (*dynamofake.Server, *dynamodb.Table) {
	t.Helper()
	fake := dynamofake.Start()
	t.Cleanup(func() {
		for _, v := range fake.Violations() {
			t.Error(v)
		}
		fake.Close()
	})
	fake.Create("postern")
	cfg := dynamodb.Config{Table: "postern", Getenv: environment(fake.URL), Now: func() time.Time { return noon }, Patience: 10 * time.Second}
	for _, c := range change {
		c(&cfg)
	}
	leaf, err := dynamodb.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	put(t, leaf, key, canary, 0, never)
	add(t, leaf, n, 1, never)
	return fake, leaf
}

func put(t *testing.T, leaf *dynamodb.Table, k table.Key, value string, expected int64, expires time.Time) {
	t.Helper()
	if _, err := leaf.Put(context.Background(), k, []byte(value), expected, expires); err != nil {
		t.Errorf("put: %v", err)
	}
}

func add(t *testing.T, leaf *dynamodb.Table, k table.Key, by int64, expires time.Time) int64 {
	t.Helper()
	v, added, err := leaf.Add(context.Background(), k, []table.Delta{{Counter: "n", By: by}}, table.NoMax, expires)
	if !added || err != nil {
		t.Errorf("add: added %t, %v", added, err)
	}
	return v
}

func remove(t *testing.T, leaf *dynamodb.Table, k table.Key, version int64) {
	t.Helper()
	if err := leaf.Delete(context.Background(), k, version); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func holds(t *testing.T, leaf *dynamodb.Table, k table.Key, value string, version int64) {
	t.Helper()
	item, err := leaf.Get(t.Context(), k)
	if err != nil || string(item.Value) != value || item.Version != version {
		t.Errorf("get: %q, version %d, %v; want %q, %d", item.Value, item.Version, err, value, version)
	}
}

func counts(t *testing.T, leaf *dynamodb.Table, want int64) {
	t.Helper()
	item, err := leaf.Get(t.Context(), n)
	if err != nil || item.Counters["n"] != want {
		t.Errorf("get: %v, %v; want n=%d", item.Counters, err, want)
	}
}

// operation is one that would succeed on a table that start has made.
type operation struct {
	name, sends string
	tries       int
	do          func(context.Context, *dynamodb.Table) error
}

var operations = []operation{
	{"get", "GetItem", 2, func(ctx context.Context, leaf *dynamodb.Table) error {
		_, err := leaf.Get(ctx, key)
		return err
	}},
	{"list", "Query", 2, func(ctx context.Context, leaf *dynamodb.Table) error {
		items, err := leaf.List(ctx, "p", table.Query{Limit: 9})
		if err == nil && len(items) != 2 {
			err = fmt.Errorf("%d items", len(items))
		}
		return err
	}},
	{"put", "PutItem", 2, func(ctx context.Context, leaf *dynamodb.Table) error {
		version, err := leaf.Put(ctx, key, []byte("second "+canary), 1, never)
		if err == nil && version != 2 {
			err = fmt.Errorf("version %d", version)
		}
		return err
	}},
	{"delete", "DeleteItem", 2, func(ctx context.Context, leaf *dynamodb.Table) error {
		return leaf.Delete(ctx, key, 1)
	}},
	{"add", "UpdateItem", 2, func(ctx context.Context, leaf *dynamodb.Table) error {
		_, added, err := leaf.Add(ctx, n, []table.Delta{{Counter: "n", By: 1}}, 100, never)
		if err == nil && !added {
			err = errors.New("not added")
		}
		return err
	}},
	{"ask", "UpdateItem", 2, func(ctx context.Context, leaf *dynamodb.Table) error {
		_, _, err := leaf.Add(ctx, n, []table.Delta{{Counter: "n", By: 0}}, 100, never)
		return err
	}},
	{"take away", "UpdateItem", 1, func(ctx context.Context, leaf *dynamodb.Table) error {
		_, _, err := leaf.Add(ctx, n, []table.Delta{{Counter: "n", By: -1}, {Counter: "m", By: 1}}, 100, never)
		return err
	}},
}

// failed says whether err means that the store could not be asked, and nothing
// that callers act upon.
func failed(err error) bool {
	return err != nil && !errors.Is(err, table.ErrNotFound) && !errors.Is(err, table.ErrConflict) && !errors.Is(err, table.ErrTooLarge)
}

// P1, P4: whatever fails is an error of no kind that says something about the
// item, and has nothing of the item in it.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		fault func() *dynamofake.Fault
		tries int // at most; 0: as many as the operation has
		want  string
	}{
		{"an internal error", func() *dynamofake.Fault { return dynamofake.Fail(500, "InternalServerError") }, 0, `HTTP status 500, "InternalServerError"`},
		{"a service that is unavailable", func() *dynamofake.Fault { return dynamofake.Fail(503, "ServiceUnavailable") }, 0, "503"},
		{"a throttle", dynamofake.Throttle, 0, "ProvisionedThroughputExceededException"},
		{"a throttle of the account", func() *dynamofake.Fault { return dynamofake.Fail(400, "ThrottlingException") }, 0, "ThrottlingException"},
		{"a throttle of the account, in its older name", func() *dynamofake.Fault { return dynamofake.Fail(400, "RequestLimitExceeded") }, 0, "RequestLimitExceeded"},
		{"a proxy's throttle", func() *dynamofake.Fault { return dynamofake.Garbage(429, canary) }, 0, "429"},
		{"a denied access, with what is denied", func() *dynamofake.Fault { return dynamofake.Fail(400, "AccessDeniedException") }, 1, `AccessDeniedException": "injected`},
		{"a table that isn't there, with the cure", func() *dynamofake.Fault { return dynamofake.Fail(400, "ResourceNotFoundException") }, 1, "TABLE_NAME"},
		{"a refused signature", func() *dynamofake.Fault { return dynamofake.Fail(403, "UnrecognizedClientException") }, 1, "UnrecognizedClientException"},
		{"a refused request, whose text may have values", func() *dynamofake.Fault {
			return dynamofake.Garbage(400, `{"__type":"com.amazon.coral.validate#ValidationException","message":"`+canary+`"}`)
		}, 1, "ValidationException"},
		{"a proxy's page", func() *dynamofake.Fault { return dynamofake.Garbage(502, "<html>"+canary) }, 0, "502"},
		{"a proxy's refusal", func() *dynamofake.Fault { return dynamofake.Garbage(407, "<html>"+canary) }, 1, "407"},
		{"a proxy's patience", func() *dynamofake.Fault { return dynamofake.Garbage(408, "<html>"+canary) }, 0, "408"},
		{"a page instead of an answer", func() *dynamofake.Fault { return dynamofake.Garbage(200, "<html>"+canary) }, 0, "no sense"},
		{"nothing instead of an answer", func() *dynamofake.Fault { return dynamofake.Garbage(200, "") }, 0, "no sense"},
		{"nothing, and no content", func() *dynamofake.Fault { return dynamofake.Garbage(204, "") }, 0, "no sense"},
		{"null instead of an answer", func() *dynamofake.Fault { return dynamofake.Garbage(200, "null") }, 0, "no sense"},
		{"a list instead of an answer", func() *dynamofake.Fault { return dynamofake.Garbage(200, "[]") }, 0, "no sense"},
		{"an answer and more", func() *dynamofake.Fault { return dynamofake.Garbage(200, "{}{}") }, 0, "no sense"},
		{"half an answer", func() *dynamofake.Fault { return dynamofake.Garbage(200, `{"Item":{"pk":{"S":"`+canary) }, 0, "no sense"},
		{"an answer of another shape", func() *dynamofake.Fault {
			return dynamofake.Garbage(200, `{"Item":"`+canary+`","Items":"`+canary+`","Attributes":"`+canary+`","ConsumedCapacity":"`+canary+`"}`)
		}, 0, "no sense"},
		{"an answer without end", func() *dynamofake.Fault {
			return dynamofake.Garbage(200, `{"Item":{"pk":{"S":"`+strings.Repeat("x", 9<<20)+`"}}}`)
		}, 0, "no sense"},
		{"a damaged answer", func() *dynamofake.Fault {
			return dynamofake.Damage(func(body []byte) []byte { return append(body, ' ') })
		}, 0, "no sense"},
		{"a connection that breaks", dynamofake.Drop, 0, "broke off"},
		{"a connection that breaks within the answer", dynamofake.Cut, 0, "DynamoDB's"},
		{"an error within the answer of an error", func() *dynamofake.Fault { return dynamofake.Garbage(500, `{"__type":{}}`) }, 0, "500"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			together(t, func(op operation, fake *dynamofake.Server, leaf *dynamodb.Table) {
				fake.Inject(row.fault())
				before := fake.Calls(op.sends)
				err := op.do(t.Context(), leaf)
				if !failed(err) || !strings.Contains(err.Error(), row.want) {
					t.Errorf("%s: error %v, want %s", op.name, err, row.want)
				}
				if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "operation error")) {
					t.Errorf("P4: %s: the error says %v", op.name, err)
				}
				want := op.tries
				if row.tries == 1 {
					want = 1
				}
				if tries := fake.Calls(op.sends) - before; tries != want {
					t.Errorf("%s: %d tries, want %d", op.name, tries, want)
				}
			})
		})
	}
}

// together does something for each operation, at once: the pauses between tries
// are most of it.
func together(t *testing.T, do func(op operation, fake *dynamofake.Server, leaf *dynamodb.Table)) {
	t.Helper()
	var all sync.WaitGroup
	for _, op := range operations {
		fake, leaf := start(t)
		all.Go(func() { do(op, fake, leaf) })
	}
	all.Wait()
}

func TestAPassingFailureIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func() *dynamofake.Fault{
		"an internal error":                          func() *dynamofake.Fault { return dynamofake.Fail(500, "InternalServerError") },
		"a throttle":                                 dynamofake.Throttle,
		"garbage":                                    func() *dynamofake.Fault { return dynamofake.Garbage(200, "") },
		"a connection that breaks":                   dynamofake.Drop,
		"a lost answer":                              dynamofake.Lose,
		"an internal error after all was done":       dynamofake.Blur,
		"a connection that breaks within the answer": dynamofake.Cut,
		"a damaged answer": func() *dynamofake.Fault {
			return dynamofake.Damage(func(body []byte) []byte { return append(body, ' ') })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			together(t, func(op operation, fake *dynamofake.Server, leaf *dynamodb.Table) {
				fake.Inject(fault().Times(1))
				before := fake.Calls(op.sends)
				err := op.do(t.Context(), leaf)
				if (err == nil) != (op.tries == 2) || err != nil && !failed(err) {
					t.Errorf("%s: error %v", op.name, err)
				}
				if tries := fake.Calls(op.sends) - before; tries != op.tries {
					t.Errorf("%s: %d tries", op.name, tries)
				}
			})
		})
	}
}

// meanwhile is a first try that fails by f, and what others do before the second
// one, which sends the same operation.
func meanwhile(fake *dynamofake.Server, operation string, f *dynamofake.Fault, others func()) {
	fake.Inject(f.On(operation).Times(1))
	fake.Inject(dynamofake.Meanwhile(others).On(operation).Times(1))
}

func TestAPutWhoseFateIsOpenLooksBeforeItSaysConflict(t *testing.T) {
	t.Parallel()
	soon := noon.Add(time.Second)
	for _, row := range []struct {
		name    string
		first   func() *dynamofake.Fault // the first try
		expects int64
		others  func(t *testing.T, leaf *dynamodb.Table)
		want    string // nil, conflict or open
	}{
		{"it was written", dynamofake.Lose, 1, func(*testing.T, *dynamodb.Table) {}, "nil"},
		{"it was written, an answer says otherwise", dynamofake.Blur, 1, func(*testing.T, *dynamodb.Table) {}, "nil"},
		{"it was written, and another has written over it", dynamofake.Lose, 1, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "other", 2, never) }, "open"},
		{"it was written, and another has deleted it", dynamofake.Lose, 1, func(t *testing.T, leaf *dynamodb.Table) { remove(t, leaf, key, 2) }, "open"},
		{"another was faster", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "other", 1, later) }, "conflict"},
		{"another was faster with another expiry", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "mine", 1, never) }, "conflict"},
		{"another was faster, twice", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) {
			put(t, leaf, key, "other", 1, later)
			put(t, leaf, key, "mine", 2, later)
		}, "open"},
		{"another was faster with what has expired since", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "other", 1, past) }, "conflict"},
		{"another has begun it anew, and let it expire", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) {
			remove(t, leaf, key, 1)
			put(t, leaf, key, "other", 0, past)
		}, "conflict"},
		{"another was faster with the same, which can't be told apart", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "mine", 1, later) }, "nil"},
		{"another has deleted it", dynamofake.Drop, 1, func(t *testing.T, leaf *dynamodb.Table) { remove(t, leaf, key, 1) }, "open"},
		{"another has begun it anew", dynamofake.Drop, 2, func(t *testing.T, leaf *dynamodb.Table) {}, "open"},
		{"a throttled try hasn't happened", dynamofake.Throttle, 1, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "mine", 1, later) }, "conflict"},
		{"an item that is new", dynamofake.Lose, 0, func(*testing.T, *dynamodb.Table) {}, "nil"},
		{"an item that is new, and another's", dynamofake.Drop, 0, func(t *testing.T, leaf *dynamodb.Table) {
			put(t, leaf, table.Key{Partition: "p", Sort: "new"}, "other", 0, soon)
		}, "conflict"},
		{"an item that is new, and counters", dynamofake.Drop, 0, func(t *testing.T, leaf *dynamodb.Table) {
			add(t, leaf, table.Key{Partition: "p", Sort: "new"}, 1, never)
		}, "open"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fake, leaf := start(t)
			k := key
			if row.expects == 0 {
				k.Sort = "new"
			}
			meanwhile(fake, "PutItem", row.first(), func() { row.others(t, leaf) })
			version, err := leaf.Put(t.Context(), k, []byte("mine"), row.expects, later.Add(-time.Millisecond))
			judge(t, err, row.want)
			if err == nil {
				if version != row.expects+1 {
					t.Errorf("version %d", version)
				}
				holds(t, leaf, k, "mine", version)
			}
		})
	}
}

func judge(t *testing.T, err error, want string) {
	t.Helper()
	got := "open"
	switch {
	case err == nil:
		got = "nil"
	case errors.Is(err, table.ErrConflict):
		got = "conflict"
	case !failed(err):
		got = err.Error()
	}
	if got != want {
		t.Errorf("error %v is %s, want %s", err, got, want)
	}
}

func TestADeleteWhoseFateIsOpenLooksBeforeItSaysConflict(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		first  func() *dynamofake.Fault
		others func(t *testing.T, leaf *dynamodb.Table)
		want   string
	}{
		{"it was deleted", dynamofake.Lose, func(*testing.T, *dynamodb.Table) {}, "nil"},
		{"it was deleted, and another has begun it anew", dynamofake.Lose, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "other", 0, never) }, "open"},
		{"another has written over it", dynamofake.Drop, func(t *testing.T, leaf *dynamodb.Table) { put(t, leaf, key, "other", 2, never) }, "conflict"},
		{"another has let it expire", dynamofake.Drop, func(t *testing.T, leaf *dynamodb.Table) {
			remove(t, leaf, key, 2)
			put(t, leaf, key, "other", 0, past)
		}, "conflict"},
		{"another has deleted it, which can't be told apart", dynamofake.Drop, func(t *testing.T, leaf *dynamodb.Table) { remove(t, leaf, key, 2) }, "nil"},
		{"a throttled try hasn't happened", dynamofake.Throttle, func(t *testing.T, leaf *dynamodb.Table) { remove(t, leaf, key, 2) }, "conflict"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fake, leaf := start(t)
			put(t, leaf, key, "second", 1, never)
			meanwhile(fake, "DeleteItem", row.first(), func() { row.others(t, leaf) })
			judge(t, leaf.Delete(t.Context(), key, 2), row.want)
		})
	}
}

// Between the second try and the look, too, others may be at work.
func TestALookMayComeTooLate(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	put(t, leaf, key, "second", 1, never)
	meanwhile(fake, "DeleteItem", dynamofake.Drop(), func() { put(t, leaf, key, "third", 2, never) })
	fake.Inject(dynamofake.Meanwhile(func() {
		remove(t, leaf, key, 3)
		put(t, leaf, key, "first", 0, never)
		put(t, leaf, key, "second", 1, never)
	}).On("GetItem").Times(1))
	judge(t, leaf.Delete(t.Context(), key, 2), "open")
}

func TestALookThatFailsLeavesItOpen(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	fake.Inject(dynamofake.Lose().On("PutItem").Times(1))
	fake.Inject(dynamofake.Throttle().On("GetItem"))
	_, err := leaf.Put(t.Context(), key, []byte("mine"), 1, never)
	judge(t, err, "open")

	fake, leaf = start(t)
	fake.Inject(dynamofake.Lose().On("DeleteItem").Times(1))
	fake.Inject(dynamofake.Drop().On("GetItem"))
	judge(t, leaf.Delete(t.Context(), key, 1), "open")
}

// P7: a lost answer counts too much, never too little.
func TestALostAdditionCountsTwice(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	fake.Inject(dynamofake.Lose().On("UpdateItem").Times(1))
	if v := add(t, leaf, n, 1, never); v != 3 {
		t.Errorf("n is %d, want 1 and twice 1", v)
	}
	counts(t, leaf, 3)

	fake.Inject(dynamofake.Lose().On("UpdateItem").Times(1))
	v, added, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "n", By: 1}}, 4, never)
	if v != 4 || added || err != nil {
		t.Errorf("the last one: %d, added %t, %v; want 4, refused", v, added, err)
	}
}

func TestALostBeginningAfterAnExpiryCountsTwice(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	add(t, leaf, n, 7, past) // expired
	fake.Inject(dynamofake.Lose().On("PutItem").Times(1))
	if v := add(t, leaf, n, 1, later); v != 2 {
		t.Errorf("n is %d, want twice 1", v)
	}
	counts(t, leaf, 2)
}

func TestWhatIsTakenAwayIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func() *dynamofake.Fault{"a lost answer": dynamofake.Lose, "a throttle": dynamofake.Throttle, "an internal error": dynamofake.Blur} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, operation := range []string{"UpdateItem", "PutItem"} {
				fake, leaf := start(t)
				expires := later
				if operation == "PutItem" {
					expires = past // so that it begins anew
				}
				add(t, leaf, n, 8, expires)
				before := fake.Calls(operation)
				fake.Inject(fault().On(operation))
				v, added, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "n", By: -1}}, table.NoMax, later)
				if added || !failed(err) {
					t.Errorf("%s: %d, added %t, %v", operation, v, added, err)
				}
				if sent := fake.Calls(operation) - before; sent != 1 {
					t.Errorf("%s was sent %d times", operation, sent)
				}
			}
		})
	}
}

func TestAnAdditionThatFindsAnotherAtWork(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	add(t, leaf, n, 7, past) // expired
	fake.Inject(dynamofake.Meanwhile(func() { add(t, leaf, n, 5, later) }).On("PutItem").Times(1))
	if v := add(t, leaf, n, 1, later); v != 6 {
		t.Errorf("n is %d after another has begun it anew at 5", v)
	}
	counts(t, leaf, 6)

	fake, leaf = start(t)
	before := fake.Calls("UpdateItem")
	fake.Inject(dynamofake.Fail(400, "ConditionalCheckFailedException").On("UpdateItem"))
	_, added, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "n", By: 1}}, table.NoMax, later)
	if added || !failed(err) || fake.Calls("UpdateItem")-before != 5 {
		t.Errorf("an item that never stands still: added %t, %v, after %d calls; want an error after 5", added, err, fake.Calls("UpdateItem")-before)
	}
}

func TestAnItemHasAValueOrCounters(t *testing.T) {
	t.Parallel()
	fake, leaf := start(t)
	before := fake.Calls("")
	if _, added, err := leaf.Add(t.Context(), key, []table.Delta{{Counter: "n", By: 1}}, table.NoMax, never); added || !failed(err) || fake.Calls("") != before+1 {
		t.Errorf("add to a value: added %t, %v, after %d calls", added, err, fake.Calls("")-before)
	}
	holds(t, leaf, key, canary, 1)
	if _, err := leaf.Put(t.Context(), n, nil, 0, never); !errors.Is(err, table.ErrConflict) {
		t.Errorf("put over counters: %v", err)
	}
	counts(t, leaf, 1)
}

func TestACounterStaysWithin64Bits(t *testing.T) {
	t.Parallel()
	_, leaf := start(t)
	top := []table.Delta{{Counter: "n", By: 1}, {Counter: "m", By: table.NoMax}}
	if _, added, err := leaf.Add(t.Context(), n, top, table.NoMax, never); !added || err != nil {
		t.Fatalf("added %t, %v", added, err)
	}
	for _, deltas := range [][]table.Delta{
		{{Counter: "n", By: 1}, {Counter: "m", By: 1}},
		{{Counter: "k", By: -1 << 63}, {Counter: "n", By: 1}, {Counter: "m", By: 2}},
	} {
		if _, added, err := leaf.Add(t.Context(), n, deltas, table.NoMax, never); added || !failed(err) || !strings.Contains(err.Error(), "64 bits") {
			t.Errorf("%v: added %t, %v", deltas, added, err)
		}
	}
	counts(t, leaf, 2)
	if _, added, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "low", By: -1 << 63}}, table.NoMax, never); !added || err != nil {
		t.Errorf("added %t, %v", added, err)
	}
	if _, added, err := leaf.Add(t.Context(), n, []table.Delta{{Counter: "low", By: -1}}, table.NoMax, never); added || !failed(err) {
		t.Errorf("below the lowest: added %t, %v", added, err)
	}
}

func TestASlowServiceIsGivenUp(t *testing.T) {
	t.Parallel()
	hang, release := dynamofake.Hang()
	defer release()
	for _, row := range []struct {
		name     string
		fault    func() *dynamofake.Fault
		patience time.Duration
		limit    time.Duration // twice the time of a try, and some
	}{
		{"no answer begins", func() *dynamofake.Fault { return hang }, 400 * time.Millisecond, 2 * time.Second},
		{"an answer stalls", dynamofake.Stall, 50 * time.Millisecond, 5 * time.Second},
	} {
		give := func() (tries int, took time.Duration) {
			var cfg dynamodb.Config
			fake, _ := start(t, func(c *dynamodb.Config) { cfg = *c })
			cfg.Patience = row.patience
			leaf, err := dynamodb.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			fake.Inject(row.fault().On("GetItem"))
			began := time.Now()
			_, err = leaf.Get(t.Context(), key)
			if !failed(err) || !strings.Contains(err.Error(), "no answer in time") || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: error %v", row.name, err)
			}
			return fake.Calls("GetItem"), time.Since(began)
		}
		tries, took := give()
		for n := 0; n < 10 && (tries < 2 || took > row.limit); n++ { // on a busy machine a try may end before it arrives, or late
			tries, took = give()
		}
		if tries != 2 || took < row.patience || took > row.limit {
			t.Errorf("%s: %d tries in %v", row.name, tries, took)
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			fake, leaf := start(t)
			hang, release := dynamofake.Hang()
			defer release()
			fake.Inject(hang)
			ctx, cancel := context.WithCancel(t.Context())
			before := fake.Calls("")
			go func() { fake.Await(t.Context(), before+1); cancel() }()
			if err := op.do(ctx, leaf); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want the context's", err)
			}
			if sent := fake.Calls("") - before; sent != 1 {
				t.Errorf("%d tries", sent)
			}
		})
	}
}

func TestAPauseComesBeforeTheSecondTry(t *testing.T) {
	t.Parallel()
	_, leaf := start(t)
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		began := time.Now()
		leaf := dynamodb.Answered(leaf, func(*http.Request) (*http.Response, error) {
			tries = append(tries, time.Since(began))
			return &http.Response{StatusCode: 500, Body: http.NoBody}, nil
		})
		if _, err := leaf.Get(t.Context(), key); !failed(err) {
			t.Errorf("error %v", err)
		}
		if diff := cmp.Diff([]time.Duration{0, 50 * time.Millisecond}, tries); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
	})
}

func TestNoTryFollowsAContextsEnd(t *testing.T) {
	t.Parallel()
	_, leaf := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	leaf = dynamodb.Answered(leaf, func(*http.Request) (*http.Response, error) {
		tries++
		cancel()
		return &http.Response{StatusCode: 500, Body: http.NoBody}, nil
	})
	if _, err := leaf.Get(ctx, key); !errors.Is(err, context.Canceled) || tries != 1 {
		t.Errorf("error %v after %d tries", err, tries)
	}
}

func TestTimeIsOurOwn(t *testing.T) {
	t.Parallel()
	_, leaf := start(t, func(c *dynamodb.Config) { c.Now = nil })
	put(t, leaf, key, "second", 1, time.Now().Add(time.Hour))
	holds(t, leaf, key, "second", 2)
	put(t, leaf, key, "third", 2, time.Now().Add(-2*time.Second))
	if _, err := leaf.Get(t.Context(), key); !errors.Is(err, table.ErrNotFound) {
		t.Errorf("an item of the past: %v", err)
	}
}

// P18: what is missing is named.
func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	getenv := func(with ...string) func(string) string {
		return func(name string) string {
			if strings.Contains(strings.Join(with, " "), name) {
				return "eu-west-1"
			}
			return ""
		}
	}
	for _, row := range []struct {
		name string
		cfg  dynamodb.Config
		want string
	}{
		{"a table", dynamodb.Config{Getenv: getenv("AWS_REGION")}, "TABLE_NAME: "},
		{"a region", dynamodb.Config{Table: "postern", Getenv: getenv()}, "AWS_REGION: "},
		{"nothing", dynamodb.Config{Table: "postern", Getenv: getenv(), Region: "eu-west-1"}, ""},
	} {
		_, err := dynamodb.New(row.cfg)
		if (err == nil) != (row.want == "") || err != nil && !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%s is missing: error %v, want %s", row.name, err, row.want)
		}
	}

	fake, _ := start(t)
	without := func(name string) string {
		if strings.HasPrefix(name, "AWS_ENDPOINT") {
			return fake.URL
		}
		return getenv("AWS_REGION")(name)
	}
	for _, row := range []struct {
		want     string
		provider aws.CredentialsProvider
	}{
		{"AWS_ACCESS_KEY_ID", nil},
		{"aws sts get-caller-identity", aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{}, errors.New(canary)
		})},
	} {
		leaf, err := dynamodb.New(dynamodb.Config{Table: "postern", Getenv: without, Credentials: row.provider})
		if err != nil {
			t.Fatal(err)
		}
		before := fake.Calls("")
		if _, err := leaf.Get(t.Context(), key); !failed(err) || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "operation error") || fake.Calls("") != before {
			t.Errorf("error %v, want one that names %s, and no call", err, row.want)
		}
	}
}
