package tabletest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/shared/table"
)

// many is how many do the same at once.
const many = 64

// together is what holds while many use the store at once.
func together(t *testing.T, open Open) {
	run := func(name string, exam func(x *exam)) {
		t.Run("together: "+name, func(t *testing.T) {
			t.Parallel()
			exam(start(t, open))
		})
	}
	run("never more than the maximum is admitted", func(x *exam) { x.race(40, 0) })
	run("nor when the counter has expired", func(x *exam) {
		add("p/a", 40, 40, sec, delta("n", 40), delta("m", 5))(x)
		x.clock.Set(ten.Add(sec))
		x.race(40, 2*sec)
	})

	run("what is added and taken away comes out even", func(x *exam) {
		values := make(chan int64, many)
		x.all(func(i int) {
			v, added, err := x.Add(x.Context(), key("p/a"), []table.Delta{{Counter: "n", By: 1}, {Counter: "m", By: int64(i)}}, table.NoMax, time.Time{})
			if !added || err != nil {
				x.Errorf("added %t, error %v", added, err)
			}
			values <- v
		})
		close(values)
		told := map[int64]bool{}
		for v := range values {
			told[v] = true
		}
		if len(told) != many || !told[1] || !told[many] {
			x.Errorf("%d were told %v", many, slices.Sorted(maps.Keys(told)))
		}
		counts("p/a", "n=64 m=2016", never)(x)
		x.all(func(i int) {
			if _, added, err := x.Add(x.Context(), key("p/a"), []table.Delta{{Counter: "m", By: int64(-i)}, {Counter: "n", By: -1}}, table.NoMax, time.Time{}); !added || err != nil {
				x.Errorf("added %t, error %v", added, err)
			}
		})
		counts("p/a", "n=0 m=0", never)(x)
	})

	run("a version has exactly one winner", func(x *exam) {
		for version := range int64(4) {
			var winner atomic.Value
			var winners atomic.Int64
			x.all(func(i int) {
				name := fmt.Sprint(i)
				v, err := x.Put(x.Context(), key("p/a"), []byte(name), version, time.Time{})
				switch {
				case err == nil && v == version+1:
					winners.Add(1)
					winner.Store(name)
				case !errors.Is(err, table.ErrConflict):
					x.Errorf("put over version %d: version %d, error %v", version, v, err)
				}
			})
			if winners.Load() != 1 {
				x.Fatalf("version %d has %d winners", version+1, winners.Load())
			}
			holds("p/a", winner.Load().(string), version+1)(x)
		}
		var deleted atomic.Int64
		x.all(func(int) {
			if err := x.Delete(x.Context(), key("p/a"), 4); err == nil {
				deleted.Add(1)
			} else if !errors.Is(err, table.ErrConflict) {
				x.Errorf("delete: error %v", err)
			}
		})
		if deleted.Load() != 1 {
			x.Errorf("%d have deleted it", deleted.Load())
		}
	})

	run("an expired item has exactly one successor", func(x *exam) {
		x.put("p/a", "old", 0, ten.Add(sec))
		x.clock.Set(ten.Add(sec))
		var winners atomic.Int64
		x.all(func(int) {
			if v, err := x.Put(x.Context(), key("p/a"), []byte("new"), 0, time.Time{}); err == nil && v == 1 {
				winners.Add(1)
			} else if !errors.Is(err, table.ErrConflict) {
				x.Errorf("put: version %d, error %v", v, err)
			}
		})
		if winners.Load() != 1 {
			x.Errorf("it has %d", winners.Load())
		}
	})

	run("nobody who says what he has read loses another's write", func(x *exam) {
		x.put("p/a", "", 0, time.Time{})
		const writers, each = 8, 4
		var all sync.WaitGroup
		for i := range writers {
			all.Go(func() {
				for n := 0; n < each && !x.Failed(); {
					item, err := x.Get(x.Context(), key("p/a"))
					if err != nil {
						x.Errorf("get: error %v", err)
						return
					}
					_, err = x.Put(x.Context(), key("p/a"), fmt.Appendf(item.Value, "%d.%d ", i, n), item.Version, time.Time{})
					if err == nil {
						n++
					} else if !errors.Is(err, table.ErrConflict) {
						x.Errorf("put: error %v", err)
						return
					}
				}
			})
		}
		all.Wait()
		item, err := x.Get(x.Context(), key("p/a"))
		if err != nil {
			x.Fatal(err)
		}
		got := strings.Fields(string(item.Value))
		slices.Sort(got)
		if got = slices.Compact(got); len(got) != writers*each || item.Version != writers*each+1 {
			x.Errorf("version %d of %d has %d marks: %q", item.Version, writers*each+1, len(got), item.Value)
		}
	})

	run("a list has what was acknowledged before it, once and in order", func(x *exam) {
		const n = 120
		var acknowledged atomic.Int64
		var all sync.WaitGroup
		all.Go(func() {
			for i := range n {
				x.put(fmt.Sprintf("p/%04d", i), "-", 0, time.Time{})
				acknowledged.Store(int64(i + 1))
			}
		})
		for range 4 {
			all.Go(func() {
				for before := 0; before < n && !x.Failed(); {
					before = int(acknowledged.Load())
					got := x.pages("p", 50, false)
					if len(got) < before {
						x.Errorf("%d of %d are listed", len(got), before)
					}
					for i, name := range got {
						if name != fmt.Sprintf("%04d", i) {
							x.Errorf("item %d is %q", i, name)
							break
						}
					}
				}
			})
		}
		all.Wait()
	})
}

// all calls do many times at once.
func (x *exam) all(do func(i int)) {
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range many {
		all.Go(func() {
			<-begin
			do(i)
		})
	}
	close(begin)
	all.Wait()
}

// race lets many add 1 up to max, which is below that.
func (x *exam) race(max int64, expires time.Duration) {
	var admitted atomic.Int64
	values := make([]int64, many)
	x.all(func(i int) {
		v, added, err := x.Add(x.Context(), key("p/a"), []table.Delta{{Counter: "n", By: 1}, {Counter: "m", By: 2}}, max, ten.Add(expires+time.Hour))
		if err != nil {
			x.Errorf("add: error %v", err)
		}
		if !added && v != max {
			x.Errorf("who is refused is told %d", v)
		}
		if added {
			admitted.Add(1)
			values[i] = v
		}
	})
	if admitted.Load() != max {
		x.Errorf("%d of %d are admitted", admitted.Load(), max)
	}
	slices.Sort(values)
	for i, v := range values[many-max:] {
		if v != int64(i+1) {
			x.Errorf("who is admitted as number %d is told %d", i+1, v)
		}
	}
	counts("p/a", fmt.Sprintf("n=%d m=%d", max, 2*max), expires+time.Hour)(x)
}
