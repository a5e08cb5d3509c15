package tabletest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"postern/shared/table"
)

// badKeys are refused by every operation, before it asks the store.
var badKeys = []struct {
	name string
	key  table.Key
}{
	{"no partition", table.Key{Partition: "", Sort: "a"}},
	{"no sort key", table.Key{Partition: "p", Sort: ""}},
	{"no key", table.Key{}},
	{"a partition too long", table.Key{Partition: strings.Repeat("p", table.MaxKey+1), Sort: "a"}},
	{"a sort key too long", table.Key{Partition: "p", Sort: strings.Repeat("a", table.MaxKey+1)}},
	{"a sort key too long in bytes, not in letters", table.Key{Partition: "p", Sort: strings.Repeat("é", table.MaxKey/2+1)}},
	{"a partition that isn't UTF-8", table.Key{Partition: "p\xff", Sort: "a"}},
	{"a sort key that isn't UTF-8", table.Key{Partition: "p", Sort: "\xc3"}},
}

var badQueries = []struct {
	name      string
	partition string
	query     table.Query
}{
	{"no partition", "", table.Query{Limit: 1}},
	{"a partition too long", strings.Repeat("p", table.MaxKey+1), table.Query{Limit: 1}},
	{"a partition that isn't UTF-8", "p\xff", table.Query{Limit: 1}},
	{"no limit", "p", table.Query{}},
	{"a negative limit", "p", table.Query{Limit: -1}},
	{"a limit too high", "p", table.Query{Limit: table.MaxList + 1}},
	{"a cursor too long", "p", table.Query{Limit: 1, After: strings.Repeat("a", table.MaxKey+1)}},
	{"a cursor that isn't UTF-8", "p", table.Query{Limit: 1, After: "\xff", Reversed: true}},
}

var badDeltas = []struct {
	name   string
	deltas []table.Delta
}{
	{"no delta", nil},
	{"a counter twice", []table.Delta{{Counter: "n", By: 1}, {Counter: "m", By: 1}, {Counter: "n", By: 1}}},
	{"a counter twice, the second of no effect", []table.Delta{{Counter: "n", By: 1}, {Counter: "n"}}},
	{"a counter without a name", []table.Delta{{Counter: "n", By: 1}, {By: 1}}},
	{"a name too long", []table.Delta{{Counter: strings.Repeat("n", 256), By: 1}}},
	{"a name that isn't UTF-8", []table.Delta{{Counter: "n\xff", By: 1}}},
	{"the name of what an item is stored with", []table.Delta{{Counter: "n", By: 1}, {Counter: "ver", By: 1}}},
	{"another such name", []table.Delta{{Counter: "pk", By: 1}}},
	{"a third", []table.Delta{{Counter: "sk", By: 1}}},
	{"a fourth", []table.Delta{{Counter: "exp", By: 1}}},
	{"a fifth", []table.Delta{{Counter: "val", By: 1}}},
}

// refused is what no caller should ask for: an error that is none of those a
// caller acts upon, no panic, and nothing changed.
func refused(t *testing.T, open Open) {
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		x := start(t, open)
		ctx := x.Context()
		x.put("p/a", "one", 0, time.Time{})
		add("p/n", 1, table.NoMax, never, delta("n", 1))(x)

		fault := func(name, operation string, err error) {
			if err == nil || errors.Is(err, table.ErrNotFound) || errors.Is(err, table.ErrConflict) || errors.Is(err, table.ErrTooLarge) {
				t.Errorf("%s: %s: error %v", name, operation, err)
			}
		}
		for _, bad := range badKeys {
			_, err := x.Get(ctx, bad.key)
			fault(bad.name, "get", err)
			_, err = x.Put(ctx, bad.key, nil, 0, time.Time{})
			fault(bad.name, "put", err)
			fault(bad.name, "delete", x.Delete(ctx, bad.key, 1))
			_, added, err := x.Add(ctx, bad.key, []table.Delta{{Counter: "n", By: 1}}, table.NoMax, time.Time{})
			fault(bad.name, "add", err)
			if added {
				t.Errorf("%s: added", bad.name)
			}
		}
		for _, bad := range badQueries {
			_, err := x.List(ctx, bad.partition, bad.query)
			fault(bad.name, "list", err)
		}
		for _, bad := range badDeltas {
			for _, k := range []string{"p/n", "p/new"} {
				_, added, err := x.Add(ctx, key(k), bad.deltas, table.NoMax, time.Time{})
				fault(bad.name, "add", err)
				if added {
					t.Errorf("%s: added", bad.name)
				}
			}
		}
		_, err := x.Put(ctx, key("p/new"), nil, -1, time.Time{})
		fault("a negative version", "put", err)
		fault("a negative version", "delete", x.Delete(ctx, key("p/a"), -1))
		fault("version 0, which no item has", "delete", x.Delete(ctx, key("p/a"), 0))

		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		const why = "a cancelled context"
		_, err = x.Get(cancelled, key("p/a"))
		fault(why, "get", err)
		_, err = x.Put(cancelled, key("p/a"), nil, 1, time.Time{})
		fault(why, "put", err)
		fault(why, "delete", x.Delete(cancelled, key("p/a"), 1))
		_, err = x.List(cancelled, "p", table.Query{Limit: 1})
		fault(why, "list", err)
		_, _, err = x.Add(cancelled, key("p/n"), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, time.Time{})
		fault(why, "add", err)

		holds("p/a", "one", 1)(x)
		counts("p/n", "n=1", never)(x)
		list("p", "a n")(x)
	})
}
