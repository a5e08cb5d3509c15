package tabletest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/shared/table"
)

// large is about bounds that are reached, and about many items.
func large(t *testing.T, open Open) {
	t.Run("large: the largest value, and one byte more", func(t *testing.T) {
		t.Parallel()
		x := start(t, open)
		value := strings.Repeat("\xff\x00v", table.MaxValue)[:table.MaxValue]
		x.put("p/a", value, 0, time.Time{})
		if _, err := x.Put(x.Context(), key("p/b"), make([]byte, table.MaxValue+1), 0, time.Time{}); !errors.Is(err, table.ErrTooLarge) {
			t.Errorf("put of a new item: error %v", err)
		}
		if _, err := x.Put(x.Context(), key("p/a"), make([]byte, table.MaxValue+1), 1, time.Time{}); !errors.Is(err, table.ErrTooLarge) {
			t.Errorf("put over an item: error %v", err)
		}
		absent("p/b")(x)
		holds("p/a", value, 1)(x)
	})

	t.Run("large: large values don't shorten a list", func(t *testing.T) {
		t.Parallel()
		x := start(t, open)
		value := strings.Repeat("v", table.MaxValue)
		for _, k := range strings.Fields("a b c d e f g") { // more than two of DynamoDB's pages of 1 MB
			x.put("p/"+k, value, 0, time.Time{})
		}
		list("p", "a b c d e f g", limit(7))(x)
		list("p", "g f e d c b a", reversed)(x)
		list("p", "b c d e f", after("a"), limit(5))(x)
	})

	t.Run("large: the longest keys and names", func(t *testing.T) {
		t.Parallel()
		x := start(t, open)
		partition, sort := strings.Repeat("p", table.MaxKey), strings.Repeat("é", table.MaxKey/2)
		x.put(partition+"/"+sort, "one", 0, time.Time{})
		add(partition+"/"+sort[2:], 1, table.NoMax, never, delta(strings.Repeat("n", 255), 1))(x)
		holds(partition+"/"+sort, "one", 1)(x)
		list(partition, sort[2:]+" "+sort)(x)
		list(partition, sort, after(sort[2:]))(x)
		list(partition, sort[2:], after(sort), reversed)(x)
	})

	t.Run("large: a partition in pages", func(t *testing.T) {
		t.Parallel()
		x := start(t, open)
		const n = 300
		var want []string
		for i := range n {
			name := fmt.Sprintf("%04d", i*7%n) // not in order
			expires := time.Time{}
			if i%3 == 0 {
				expires = ten.Add(sec)
			} else {
				want = append(want, name)
			}
			x.put("p/"+name, name, 0, expires)
			x.put("q/"+name, name, 0, time.Time{})
		}
		slices.Sort(want)
		x.clock.Set(ten.Add(sec))
		for _, page := range []int{1, 7, 100, n, table.MaxList} {
			for _, backwards := range []bool{false, true} {
				want := slices.Clone(want)
				if backwards {
					slices.Reverse(want)
				}
				if got := x.pages("p", page, backwards); !slices.Equal(got, want) {
					t.Errorf("pages of %d, reversed %t: %d items, want %d, or in another order", page, backwards, len(got), len(want))
				}
			}
		}
	})

	t.Run("large: values are the store's own", func(t *testing.T) {
		t.Parallel()
		x := start(t, open)
		mine := []byte("one")
		if _, err := x.Put(x.Context(), key("p/a"), mine, 0, time.Time{}); err != nil {
			t.Fatal(err)
		}
		copy(mine, "XXX")
		holds("p/a", "one", 1)(x)
		got, err := x.Get(x.Context(), key("p/a"))
		if err != nil || !bytes.Equal(got.Value, []byte("one")) {
			t.Fatalf("%q, error %v", got.Value, err)
		}
		copy(got.Value, "XXX")
		listed, err := x.List(x.Context(), "p", table.Query{Limit: 1})
		if err != nil || len(listed) != 1 {
			t.Fatalf("%v, error %v", listed, err)
		}
		copy(listed[0].Value, "YYY")
		holds("p/a", "one", 1)(x)

		deltas := []table.Delta{{Counter: "n", By: 1}}
		if _, _, err := x.Add(x.Context(), key("p/n"), deltas, table.NoMax, time.Time{}); err != nil {
			t.Fatal(err)
		}
		deltas[0].By = 100
		counted, err := x.Get(x.Context(), key("p/n"))
		if err != nil || counted.Counters["n"] != 1 {
			t.Fatalf("%v, error %v", counted, err)
		}
		counted.Counters["n"] = 100
		counts("p/n", "n=1", never)(x)
	})
}

// pages lists a whole partition, page by page, each going on behind the last.
func (x *exam) pages(partition string, limit int, backwards bool) []string {
	var all []string
	q := table.Query{Limit: limit, Reversed: backwards}
	for {
		items, err := x.List(x.Context(), partition, q)
		if err != nil {
			x.Errorf("list of %q, %+v: error %v", partition, q, err)
			return all
		}
		all = append(all, sorts(items)...)
		if len(items) > limit {
			x.Errorf("list of %q, %+v: %d items", partition, q, len(items))
			return all
		}
		if len(items) < limit {
			return all
		}
		q.After = items[len(items)-1].Sort
	}
}
