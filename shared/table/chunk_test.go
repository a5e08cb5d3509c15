package table_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/table"
	"postern/shared/table/memory"
)

var (
	errDown = errors.New("the store is down")
	here    = table.Key{Partition: "replay#root", Sort: "one"}
)

// faulty is a table whose nth call, counted from 1, is disturbed: it fails, and
// has happened where lost says so. After a crash nothing works any more.
type faulty struct {
	memory.Table
	at, calls int
	lost      bool
	crash     bool
	keys      map[table.Key]bool // that were put
	between   func()             // runs before the nth call instead
}

func (f *faulty) disturbed() bool {
	f.calls++
	if f.between != nil {
		if f.calls == f.at {
			f.between()
		}
		return false
	}
	return f.calls == f.at || f.crash && f.at > 0 && f.calls > f.at
}

func (f *faulty) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if f.disturbed() {
		return table.Item{}, errDown
	}
	return f.Table.Get(ctx, key)
}

func (f *faulty) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if f.keys == nil {
		f.keys = map[table.Key]bool{}
	}
	f.keys[key] = true
	if f.disturbed() {
		if f.lost && f.calls == f.at {
			f.Table.Put(ctx, key, value, expected, expires)
		}
		return 0, errDown
	}
	return f.Table.Put(ctx, key, value, expected, expires)
}

func (f *faulty) Delete(ctx context.Context, key table.Key, expected int64) error {
	if f.disturbed() {
		if f.lost && f.calls == f.at {
			f.Table.Delete(ctx, key, expected)
		}
		return errDown
	}
	return f.Table.Delete(ctx, key, expected)
}

// left is how many items there are of all that were ever put.
func (f *faulty) left(t *testing.T) int {
	n := 0
	for key := range f.keys {
		if _, err := f.Table.Get(t.Context(), key); err == nil {
			n++
		}
	}
	return n
}

// heal ends the disturbance.
func (f *faulty) heal() { f.at, f.calls, f.between = 0, 0, nil }

func bytesOf(size int, seed uint64) []byte {
	source := rand.NewChaCha8([32]byte{byte(seed)})
	value := make([]byte, size)
	source.Read(value)
	return value
}

func put(t *testing.T, l table.Large, value []byte, expected int64) {
	t.Helper()
	if version, err := l.Put(t.Context(), here, value, expected, time.Time{}); err != nil || version != expected+1 {
		t.Fatalf("put over %d: version %d, %v", expected, version, err)
	}
}

func TestValuesOfEverySize(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ size, items int }{
		{0, 1}, {1, 1}, {table.MaxValue - 1, 1},
		{table.MaxValue, 2}, {table.MaxValue + 1, 3}, {2 * table.MaxValue, 3}, {2*table.MaxValue + 1, 4}, {4 << 20, 13}, {table.MaxLarge, 65},
	} {
		t.Run(fmt.Sprint(row.size), func(t *testing.T) {
			t.Parallel()
			f := &faulty{}
			l := table.Large{Table: f}
			value := bytesOf(row.size, 1)
			put(t, l, value, 0)
			item, err := l.Get(t.Context(), here)
			if err != nil || !bytes.Equal(item.Value, value) || item.Key != here || item.Version != 1 {
				t.Fatalf("%d bytes of %v, version %d, %v", len(item.Value), item.Key, item.Version, err)
			}
			if n := f.left(t); n != row.items {
				t.Errorf("%d items, want %d", n, row.items)
			}
			for key := range f.keys {
				if key != here && !strings.HasPrefix(key.Partition, here.Partition+"#") {
					t.Errorf("a part stands at %q, where the item's role doesn't reach", key)
				}
			}
			if list, err := f.List(t.Context(), here.Partition, table.Query{Limit: 10}); err != nil || len(list) != 1 {
				t.Errorf("the partition lists %d items, %v", len(list), err)
			}
			// What takes its place takes its parts away, and so does its end.
			put(t, l, []byte("small"), 1)
			if n := f.left(t); n != 1 {
				t.Errorf("after a small value: %d items", n)
			}
			put(t, l, value, 2)
			if err := l.Delete(t.Context(), here, 3); err != nil || f.left(t) != 0 {
				t.Errorf("after its deletion: %d items, %v", f.left(t), err)
			}
			if _, err := l.Get(t.Context(), here); err != table.ErrNotFound {
				t.Errorf("after its deletion: %v", err)
			}
		})
	}
	l := table.Large{Table: &faulty{}}
	if _, err := l.Put(t.Context(), here, make([]byte, table.MaxLarge+1), 0, time.Time{}); !errors.Is(err, table.ErrTooLarge) {
		t.Errorf("above the bound: %v", err)
	}
}

func TestLargeVersions(t *testing.T) {
	t.Parallel()
	f := &faulty{}
	l := table.Large{Table: f}
	first, second := bytesOf(1<<20, 1), bytesOf(1<<20, 2)
	put(t, l, first, 0)
	items := f.left(t)
	for _, expected := range []int64{0, 2, 7} {
		if _, err := l.Put(t.Context(), here, second, expected, time.Time{}); err != table.ErrConflict {
			t.Errorf("put over %d: %v", expected, err)
		}
		if expected > 0 && l.Delete(t.Context(), here, expected) != table.ErrConflict {
			t.Errorf("delete of %d is no conflict", expected)
		}
	}
	if item, err := l.Get(t.Context(), here); err != nil || !bytes.Equal(item.Value, first) || f.left(t) != items {
		t.Errorf("after conflicts: %v, %d items, want %d", err, f.left(t), items)
	}
	absent := table.Key{Partition: "p", Sort: "absent"}
	if _, err := l.Put(t.Context(), absent, second, 1, time.Time{}); err != table.ErrConflict || l.Delete(t.Context(), absent, 1) != table.ErrConflict {
		t.Errorf("over what isn't there: %v", err)
	}
}

func TestALargeValueExpiresWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{}
		l := table.Large{Table: f}
		if _, err := l.Put(t.Context(), here, bytesOf(1<<20, 1), 0, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Second)
		if item, err := l.Get(t.Context(), here); err != nil || len(item.Value) != 1<<20 || !item.Expires.Equal(time.Now().Add(time.Second)) {
			t.Errorf("before its end: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := l.Get(t.Context(), here); err != table.ErrNotFound || f.left(t) != 0 {
			t.Errorf("at its end: %v, %d items left", err, f.left(t))
		}
	})
}

// P17: whichever call fails, unseen or not, and whether anything works after it,
// the value is the old one or the new one.
func TestAWriteThatBreaksOffLeavesNoHalves(t *testing.T) {
	t.Parallel()
	first, second := bytesOf(800<<10, 1), bytesOf(900<<10, 2)
	for _, expected := range []int64{0, 1} {
		for _, lost := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				at, untouched := 0, false
				for !untouched {
					at++
					f := &faulty{}
					l := table.Large{Table: f}
					if expected == 1 {
						put(t, l, first, 0)
					}
					before := f.left(t)
					f.heal()
					f.at, f.lost, f.crash = at, lost, crash
					_, err := l.Put(t.Context(), here, second, expected, time.Time{})
					untouched = f.calls < at
					f.heal()
					item, read := l.Get(t.Context(), here)
					isOld := read == table.ErrNotFound && expected == 0 || read == nil && bytes.Equal(item.Value, first)
					isNew := read == nil && bytes.Equal(item.Value, second)
					if !isOld && !isNew || err == nil && !isNew || err != nil && isNew && !lost {
						t.Errorf("over %d, call %d (lost %t, crash %t): %v, then %d bytes, %v", expected, at, lost, crash, err, len(item.Value), read)
					}
					if err != nil && !crash && !lost && isOld && f.left(t) != before && at <= 3 { // later, the head's fate is open, and it may need them
						t.Errorf("over %d, call %d: %d items are left, there were %d", expected, at, f.left(t), before)
					}
				}
				if at < 5 {
					t.Errorf("over %d: only %d calls were disturbed", expected, at)
				}
			}
		}
	}
}

// A reader whose value is replaced or removed under its hands gets what there is
// then.
func TestAReaderMeetsAWriter(t *testing.T) {
	t.Parallel()
	first, second := bytesOf(1<<20, 1), bytesOf(1<<20, 2)
	for name, row := range map[string]struct {
		meanwhile func(l table.Large)
		want      []byte
	}{
		"replaced":             {func(l table.Large) { put(t, l, second, 1) }, second},
		"replaced by a small":  {func(l table.Large) { put(t, l, []byte("small"), 1) }, []byte("small")},
		"removed":              {func(l table.Large) { l.Delete(t.Context(), here, 1) }, nil},
		"removed, begun again": {func(l table.Large) { l.Delete(t.Context(), here, 1); put(t, l, second, 0) }, second},
	} {
		for at := 2; at <= 4; at++ {
			f := &faulty{}
			put(t, table.Large{Table: f}, first, 0)
			f.heal()
			f.at, f.between = at, func() { row.meanwhile(table.Large{Table: &f.Table}) }
			item, err := table.Large{Table: f}.Get(t.Context(), here)
			if row.want == nil && err != table.ErrNotFound || row.want != nil && (err != nil || !bytes.Equal(item.Value, row.want)) {
				t.Errorf("%s before call %d: %d bytes, %v", name, at, len(item.Value), err)
			}
		}
	}
}

// Parts that don't belong together, or are not whole, are an error and no value.
func TestForeignParts(t *testing.T) {
	t.Parallel()
	value := bytesOf(1<<20, 1)
	for name, spoil := range map[string]func(f *faulty, key table.Key, part []byte){
		"one is gone": func(f *faulty, key table.Key, _ []byte) { f.Table.Delete(t.Context(), key, 1) },
		"one is another": func(f *faulty, key table.Key, part []byte) {
			f.Table.Put(t.Context(), key, bytesOf(len(part), 9), 1, time.Time{})
		},
		"one is shorter": func(f *faulty, key table.Key, part []byte) { f.Table.Put(t.Context(), key, part[1:], 1, time.Time{}) },
		"one has one more": func(f *faulty, key table.Key, part []byte) {
			f.Table.Put(t.Context(), key, append(part, 0)[1:], 1, time.Time{})
		},
	} {
		f := &faulty{}
		l := table.Large{Table: f}
		put(t, l, value, 0)
		for key := range f.keys {
			if part, err := f.Table.Get(t.Context(), key); key != here && err == nil {
				spoil(f, key, part.Value)
				break
			}
		}
		if item, err := l.Get(t.Context(), here); err == nil || errors.Is(err, table.ErrNotFound) {
			t.Errorf("%s: %d bytes, %v", name, len(item.Value), err)
		}
	}
	for _, head := range []string{"", "x", "p", "p{}", `p{"id":"a","size":-1}`, `p{"id":"a","size":99999999999}`, `p{"id":"a","size":400000}`, `{"id":"a"}`} {
		f := &faulty{}
		l := table.Large{Table: f}
		f.Table.Put(t.Context(), here, []byte(head), 0, time.Time{})
		if _, err := l.Get(t.Context(), here); err == nil || errors.Is(err, table.ErrNotFound) {
			t.Errorf("head %q: %v", head, err)
		}
		put(t, l, value, 1) // it can be written over
	}
}
