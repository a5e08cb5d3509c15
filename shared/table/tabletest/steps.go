package tabletest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/table"
)

// ten o'clock is when every story begins; times in it are counted from there.
var ten = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

var year9999 = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

const (
	ns    = time.Nanosecond
	sec   = time.Second
	never = time.Duration(math.MinInt64) // of an expiry
)

// moment is an expiry.
func moment(d time.Duration) time.Time {
	if d == never {
		return time.Time{}
	}
	return ten.Add(d)
}

// clock is a wall clock that moves when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// exam is one store under test.
type exam struct {
	*testing.T
	table.Table
	clock *clock
	step  int // of a story, from 1
}

func start(t *testing.T, open Open) *exam {
	c := &clock{now: ten}
	return &exam{T: t, Table: open(t, c.Now), clock: c}
}

// wrong reports what came of a step.
func (x *exam) wrong(format string, args ...any) {
	x.Helper()
	x.Errorf("step %d: "+format, append([]any{x.step}, args...)...)
}

// key is written "partition/sort".
func key(s string) table.Key {
	partition, sort, _ := strings.Cut(s, "/")
	return table.Key{Partition: partition, Sort: sort}
}

type step func(x *exam)

func story(steps ...step) []step { return steps }

// at moves the clock.
func at(d time.Duration) step {
	return func(x *exam) { x.clock.Set(ten.Add(d)) }
}

// put puts a value over the version expected.
func put(k, value string, expected int64) step { return putUntil(k, value, expected, never) }

func putUntil(k, value string, expected int64, expires time.Duration) step {
	return func(x *exam) { x.put(k, value, expected, moment(expires)) }
}

func (x *exam) put(k, value string, expected int64, expires time.Time) {
	version, err := x.Put(x.Context(), key(k), []byte(value), expected, expires)
	if version != expected+1 || err != nil {
		x.wrong("put of %q over version %d: version %d, error %v", k, expected, version, err)
	}
}

// clash puts over a version that the item hasn't.
func clash(k string, expected int64) step {
	return func(x *exam) {
		_, err := x.Put(x.Context(), key(k), []byte("clash"), expected, ten.Add(time.Hour))
		if !errors.Is(err, table.ErrConflict) {
			x.wrong("put of %q over version %d: error %v", k, expected, err)
		}
	}
}

// remove deletes the version expected.
func remove(k string, expected int64) step {
	return func(x *exam) {
		if err := x.Delete(x.Context(), key(k), expected); err != nil {
			x.wrong("delete of %q at version %d: error %v", k, expected, err)
		}
	}
}

// keep deletes a version that the item hasn't.
func keep(k string, expected int64) step {
	return func(x *exam) {
		if err := x.Delete(x.Context(), key(k), expected); !errors.Is(err, table.ErrConflict) {
			x.wrong("delete of %q at version %d: error %v", k, expected, err)
		}
	}
}

// absent gets what isn't there.
func absent(k string) step {
	return func(x *exam) {
		if item, err := x.Get(x.Context(), key(k)); !errors.Is(err, table.ErrNotFound) {
			x.wrong("get of %q: %+v, error %v", k, item, err)
		}
	}
}

// holds gets a value.
func holds(k, value string, version int64) step { return holdsUntil(k, value, version, never) }

func holdsUntil(k, value string, version int64, expires time.Duration) step {
	return func(x *exam) {
		x.item(k, table.Item{Key: key(k), Value: []byte(value), Version: version, Expires: moment(expires)})
	}
}

// counts gets counters, written "n=1 m=2".
func counts(k, counters string, expires time.Duration) step {
	want := table.Item{Key: key(k), Counters: map[string]int64{}, Expires: moment(expires)}
	for field := range strings.FieldsSeq(counters) {
		name, number, _ := strings.Cut(field, "=")
		want.Counters[name], _ = strconv.ParseInt(number, 10, 64)
	}
	return func(x *exam) { x.item(k, want) }
}

func (x *exam) item(k string, want table.Item) {
	got, err := x.Get(x.Context(), key(k))
	if err != nil {
		x.wrong("get of %q: error %v", k, err)
		return
	}
	if diff := differ(want, got); diff != "" {
		x.wrong("get of %q (-want +got):\n%s", k, diff)
	}
}

// differ is how two items do. A value of no bytes may be nil; a time is UTC.
func differ(want, got table.Item) string {
	if bytes.Equal(want.Value, got.Value) {
		want.Value, got.Value = nil, nil // go-cmp takes a second for large ones
	}
	if got.Expires.Location() != time.UTC {
		return fmt.Sprintf("it expires at %s, which isn't UTC", got.Expires)
	}
	return cmp.Diff(want, got)
}

// option is a part of a list's query.
type option func(*table.Query)

func after(sort string) option { return func(q *table.Query) { q.After = sort } }
func limit(n int) option       { return func(q *table.Query) { q.Limit = n } }
func reversed(q *table.Query)  { q.Reversed = true }

// list lists sort keys, written "a b c"; each item is what a get of it says.
func list(partition, want string, options ...option) step {
	return func(x *exam) { x.list(partition, strings.Fields(want), options...) }
}

// listKeys is list for sort keys with spaces in them.
func listKeys(partition string, want ...string) step {
	return func(x *exam) { x.list(partition, want) }
}

func (x *exam) list(partition string, want []string, options ...option) {
	q := table.Query{Limit: 100}
	for _, o := range options {
		o(&q)
	}
	items, err := x.List(x.Context(), partition, q)
	if err != nil {
		x.wrong("list of %q, %+v: error %v", partition, q, err)
		return
	}
	if got := sorts(items); !slices.Equal(got, want) {
		x.wrong("list of %q, %+v: %q, want %q", partition, q, got, want)
		return
	}
	for _, item := range items {
		got, err := x.Get(x.Context(), table.Key{Partition: partition, Sort: item.Sort})
		if err != nil {
			x.wrong("get of %q, which was listed: error %v", item.Sort, err)
		} else if diff := differ(got, item); diff != "" {
			x.wrong("%q got (-) and listed (+):\n%s", item.Sort, diff)
		}
	}
}

// listItems lists whole items.
func listItems(partition string, want ...table.Item) step {
	return func(x *exam) {
		got, err := x.List(x.Context(), partition, table.Query{Limit: 100})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			x.wrong("list of %q: error %v (-want +got):\n%s", partition, err, diff)
		}
	}
}

func sorts(items []table.Item) []string {
	var s []string
	for _, item := range items {
		s = append(s, item.Sort)
	}
	return s
}

func delta(counter string, by int64) table.Delta { return table.Delta{Counter: counter, By: by} }

// add adds, and is told that the first counter stands at value.
func add(k string, value, max int64, expires time.Duration, deltas ...table.Delta) step {
	return tally(k, value, true, max, expires, deltas)
}

// refuse adds beyond max, and is told that the first counter stands at value.
func refuse(k string, value, max int64, expires time.Duration, deltas ...table.Delta) step {
	return tally(k, value, false, max, expires, deltas)
}

func tally(k string, value int64, added bool, max int64, expires time.Duration, deltas []table.Delta) step {
	return func(x *exam) {
		v, ok, err := x.Add(x.Context(), key(k), deltas, max, moment(expires))
		if v != value || ok != added || err != nil {
			x.wrong("add of %v to %q up to %d: %d, added %t, error %v; want %d, added %t", deltas, k, max, v, ok, err, value, added)
		}
	}
}
