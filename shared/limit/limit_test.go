package limit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/limit"
)

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

var ten = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

const (
	ns  = time.Nanosecond
	sec = time.Second
)

// request is one Take and what it must say.
type request struct {
	at        time.Duration // since ten o'clock
	caller    string        // "": "alice"
	max       int
	admitted  bool
	remaining int
	reset     time.Duration
}

// TestHourly is P7 and I9 in one process: windows, what is left, and when to
// come back.
func TestHourly(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name     string
		requests []request
	}{
		{"as many as the limit are admitted, and not one more", []request{
			{at: 0, max: 2, admitted: true, remaining: 1, reset: time.Hour},
			{at: sec, max: 2, admitted: true, remaining: 0, reset: time.Hour - sec},
			{at: 2 * sec, max: 2, admitted: false, remaining: 0, reset: time.Hour - 2*sec},
			{at: 3 * sec, max: 2, admitted: false, remaining: 0, reset: time.Hour - 3*sec},
		}},
		{"the window ends with the clock hour", []request{
			{at: time.Hour - ns, max: 1, admitted: true, remaining: 0, reset: sec},
			{at: time.Hour - ns, max: 1, admitted: false, remaining: 0, reset: sec},
			{at: time.Hour, max: 1, admitted: true, remaining: 0, reset: time.Hour},
			{at: 2*time.Hour - ns, max: 1, admitted: false, remaining: 0, reset: sec},
			{at: 2 * time.Hour, max: 1, admitted: true, remaining: 0, reset: time.Hour},
		}},
		{"the time to the end is rounded up to seconds, so that waiting it is enough", []request{
			{at: time.Hour - 2*sec, max: 9, admitted: true, remaining: 8, reset: 2 * sec},
			{at: time.Hour - 2*sec + ns, max: 9, admitted: true, remaining: 7, reset: 2 * sec},
			{at: time.Hour - sec - ns, max: 9, admitted: true, remaining: 6, reset: 2 * sec},
			{at: time.Hour - sec, max: 9, admitted: true, remaining: 5, reset: sec},
			{at: time.Hour - ns, max: 9, admitted: true, remaining: 4, reset: sec},
		}},
		{"callers are counted apart", []request{
			{caller: "alice", max: 1, admitted: true, reset: time.Hour},
			{caller: "bob", max: 1, admitted: true, reset: time.Hour},
			{caller: "alice", max: 1, admitted: false, reset: time.Hour},
			{caller: "bob", max: 1, admitted: false, reset: time.Hour},
			{caller: "Alice", max: 1, admitted: true, reset: time.Hour},
		}},
		{"a refusal counts for nothing, so a limit that is raised counts from what was admitted", []request{
			{max: 1, admitted: true, remaining: 0, reset: time.Hour},
			{max: 1, admitted: false, remaining: 0, reset: time.Hour},
			{max: 1, admitted: false, remaining: 0, reset: time.Hour},
			{max: 3, admitted: true, remaining: 1, reset: time.Hour},
			{max: 3, admitted: true, remaining: 0, reset: time.Hour},
			{max: 3, admitted: false, remaining: 0, reset: time.Hour},
		}},
		{"a limit that is lowered below what was used leaves nothing, and never less", []request{
			{max: 5, admitted: true, remaining: 4, reset: time.Hour},
			{max: 5, admitted: true, remaining: 3, reset: time.Hour},
			{max: 5, admitted: true, remaining: 2, reset: time.Hour},
			{max: 2, admitted: false, remaining: 0, reset: time.Hour},
			{max: 5, admitted: true, remaining: 1, reset: time.Hour},
		}},
		{"a clock that steps back finds what was used of the hour there", []request{
			{at: 0, max: 1, admitted: true, reset: time.Hour},
			{at: time.Hour, max: 1, admitted: true, reset: time.Hour},
			{at: time.Hour - sec, max: 1, admitted: false, reset: sec},
			{at: time.Hour + sec, max: 1, admitted: false, reset: time.Hour - sec},
			{at: 2 * time.Hour, max: 1, admitted: true, reset: time.Hour},
		}},
		{"a clock that steps back and forth wins nothing", []request{
			{at: 0, max: 2, admitted: true, remaining: 1, reset: time.Hour},
			{at: -ns, max: 2, admitted: true, remaining: 1, reset: sec},
			{at: 0, max: 2, admitted: true, remaining: 0, reset: time.Hour},
			{at: 0, max: 2, admitted: false, reset: time.Hour},
			{at: -ns, max: 2, admitted: true, remaining: 0, reset: sec},
			{at: -ns, max: 2, admitted: false, reset: sec},
			{at: 0, max: 2, admitted: false, reset: time.Hour},
		}},
		{"a clock that leapt ahead by years doesn't hold anybody there", []request{
			{at: 100_000 * time.Hour, max: 1, admitted: true, reset: time.Hour},
			{at: 100_000 * time.Hour, max: 1, admitted: false, reset: time.Hour},
			{at: 0, max: 1, admitted: true, reset: time.Hour},
			{at: 0, max: 1, admitted: false, reset: time.Hour},
		}},
		{"no limit admits all and says nothing", []request{
			{max: 0, admitted: true}, {max: 0, admitted: true}, {max: 0, admitted: true},
		}},
		{"requests without a limit are counted, and use up one that is set later", []request{
			{max: 0, admitted: true}, {max: 0, admitted: true},
			{max: 3, admitted: true, reset: time.Hour},
			{max: 3, admitted: false, reset: time.Hour},
			{max: 0, admitted: true},
		}},
		{"a negative limit admits nobody", []request{
			{max: -1, admitted: false, remaining: 0, reset: time.Hour},
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := &clock{}
			h := limit.Hourly{Store: &counters{}, Now: c.Now}
			for i, r := range row.requests {
				c.Set(ten.Add(r.at))
				caller := r.caller
				if caller == "" {
					caller = "alice"
				}
				got, err := h.Take(t.Context(), caller, r.max)
				if err != nil {
					t.Fatal(err)
				}
				want := limit.Decision{Admitted: r.admitted, Limit: r.max, Remaining: r.remaining, Reset: r.reset}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("request %d: %s", i+1, diff)
				}
			}
		})
	}
}

// TestHourlyWindowIsUTC: a zone whose offset is no whole hour has the same
// windows as everybody else, and a store sees them in UTC.
func TestHourlyWindowIsUTC(t *testing.T) {
	t.Parallel()
	nepal := time.FixedZone("+0545", 5*3600+45*60)
	for _, now := range []time.Time{ten, ten.Add(59 * time.Minute), ten.Add(59 * time.Minute).In(nepal), ten.In(nepal)} {
		var seen time.Time
		store := storeFunc(func(_ context.Context, _ string, window time.Time, _ int64) (int64, bool, error) {
			seen = window
			return 1, true, nil
		})
		if _, err := (&limit.Hourly{Store: store, Now: func() time.Time { return now }}).Take(t.Context(), "alice", 1); err != nil {
			t.Fatal(err)
		}
		if !seen.Equal(ten) || seen.Location() != time.UTC {
			t.Errorf("at %s the window is %s", now, seen)
		}
	}
}

type storeFunc func(ctx context.Context, caller string, window time.Time, max int64) (int64, bool, error)

func (f storeFunc) Take(ctx context.Context, caller string, window time.Time, max int64) (int64, bool, error) {
	return f(ctx, caller, window, max)
}

// counters is a store of one counter for a caller and a window.
type counters struct {
	mu    sync.Mutex
	used  map[counter]int64
	asked int
}

type counter struct {
	caller string
	window time.Time
}

func (s *counters) Take(_ context.Context, caller string, window time.Time, max int64) (int64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.used == nil {
		s.used = map[counter]int64{}
	}
	c := counter{caller, window}
	if s.used[c] >= max {
		return s.used[c], false, nil
	}
	s.used[c]++
	return s.used[c], true, nil
}

// TestHourlyStoreFailure: an error of the store denies.
func TestHourlyStoreFailure(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	store := storeFunc(func(context.Context, string, time.Time, int64) (int64, bool, error) { return 0, true, boom })
	got, err := (&limit.Hourly{Store: store}).Take(t.Context(), "alice", 1)
	if !errors.Is(err, boom) {
		t.Errorf("the error is %v", err)
	}
	if diff := cmp.Diff(limit.Decision{}, got); diff != "" {
		t.Errorf("there is a decision beside the error: %s", diff)
	}
	if got, err := (&limit.Hourly{Store: store}).Take(t.Context(), "alice", 0); !errors.Is(err, boom) || got.Admitted {
		t.Errorf("no limit, and what can't be counted is admitted: %v, %v", got, err)
	}
}

// TestHourlyAsksForTheCaller: the store counts the verified caller, and what
// it says is passed on, P7 and I10.
func TestHourlyAsksForTheCaller(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name     string
		used     int64
		admitted bool
		want     limit.Decision
	}{
		{"the first", 1, true, limit.Decision{Admitted: true, Limit: 3, Remaining: 2, Reset: time.Hour}},
		{"the last", 3, true, limit.Decision{Admitted: true, Limit: 3, Remaining: 0, Reset: time.Hour}},
		{"one too many", 3, false, limit.Decision{Limit: 3, Remaining: 0, Reset: time.Hour}},
		{"far too many, under an older limit", 30, false, limit.Decision{Limit: 3, Remaining: 0, Reset: time.Hour}},
		{"a store that denies early", 1, false, limit.Decision{Limit: 3, Remaining: 2, Reset: time.Hour}},
	}
	for _, row := range rows {
		store := storeFunc(func(_ context.Context, caller string, _ time.Time, max int64) (int64, bool, error) {
			if caller != "key-1" || max != 3 {
				t.Errorf("%s: the store is asked for %q and %d", row.name, caller, max)
			}
			return row.used, row.admitted, nil
		})
		got, err := (&limit.Hourly{Store: store, Now: func() time.Time { return ten }}).Take(t.Context(), "key-1", 3)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
}

// TestExactUnderConcurrency is P7: 64 goroutines share a store, and exactly N
// requests are admitted, each seeing a Remaining of its own.
func TestExactUnderConcurrency(t *testing.T) {
	t.Parallel()
	const goroutines, each, max = 64, 1000, 32_000
	store := &counters{}
	var admitted, refused atomic.Int64
	remaining := make([]atomic.Int64, max)
	var all sync.WaitGroup
	for range goroutines {
		h := limit.Hourly{Store: store, Now: func() time.Time { return ten }} // one an instance
		all.Go(func() {
			for range each {
				d, err := h.Take(t.Context(), "alice", max)
				switch {
				case err != nil:
					t.Error(err)
				case d.Admitted:
					admitted.Add(1)
					remaining[d.Remaining].Add(1)
				default:
					refused.Add(1)
				}
				runtime.Gosched()
			}
		})
	}
	all.Wait()
	if admitted.Load() != max || refused.Load() != goroutines*each-max {
		t.Errorf("%d admitted and %d refused of %d, the limit is %d", admitted.Load(), refused.Load(), goroutines*each, max)
	}
	for left := range remaining {
		if n := remaining[left].Load(); n != 1 {
			t.Fatalf("%d requests were told that %d are left", n, left)
		}
	}
}

// TestExactWithAWildClock is P7 for any clock: however it moves, no window that
// a request was counted in ever admits more than N.
func TestExactWithAWildClock(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		c := &clock{}
		h := limit.Hourly{Store: &counters{}, Now: c.Now}
		now, max := ten, 1+rnd.IntN(5)
		admitted := map[time.Time]int{}
		for range 500 {
			now = now.Add(time.Duration(rnd.Int64N(int64(40*time.Minute))) - 15*time.Minute)
			c.Set(now)
			d, err := h.Take(t.Context(), "alice", max)
			if err != nil {
				t.Fatal(err)
			}
			if d.Admitted {
				admitted[now.Truncate(time.Hour)]++
			}
			if d.Reset < sec || d.Reset > time.Hour || d.Reset%sec != 0 || now.Add(d.Reset).Before(now.Truncate(time.Hour).Add(time.Hour)) {
				t.Fatalf("seed %d: at %s the window is said to end in %s", seed, now, d.Reset)
			}
			if d.Remaining < 0 || d.Remaining >= max {
				t.Fatalf("seed %d: %d are left of %d", seed, d.Remaining, max)
			}
		}
		for window, n := range admitted {
			if n > max {
				t.Errorf("seed %d: %d admitted in %s, the limit is %d", seed, n, window, max)
			}
		}
	}
}

// TestDenialIsRemembered: who has none left costs the store nothing until the
// window ends, or the limit is raised.
func TestDenialIsRemembered(t *testing.T) {
	t.Parallel()
	c, store := &clock{}, &counters{}
	h := limit.Hourly{Store: store, Now: c.Now}
	take := func(at time.Duration, caller string, max int, admitted bool, asked int) {
		t.Helper()
		c.Set(ten.Add(at))
		before := store.asked
		d, err := h.Take(t.Context(), caller, max)
		if err != nil || d.Admitted != admitted {
			t.Errorf("%s, %d at %s: %v, %v", caller, max, at, d, err)
		}
		if n := store.asked - before; n != asked {
			t.Errorf("%s, %d at %s: the store was asked %d times", caller, max, at, n)
		}
	}
	take(0, "alice", 1, true, 1)
	take(0, "alice", 1, false, 1)
	take(sec, "alice", 1, false, 0)
	take(time.Hour-ns, "alice", 1, false, 0)
	take(sec, "bob", 1, true, 1)
	take(sec, "alice", 2, true, 1)
	take(sec, "alice", 1, false, 0)
	take(time.Hour, "alice", 1, true, 1)
	take(time.Hour, "alice", 1, false, 1)

	for i := range 30_000 {
		h.Take(t.Context(), fmt.Sprint("caller ", i), 1)
		h.Take(t.Context(), fmt.Sprint("caller ", i), 1)
	}
	if n := limit.Denied(&h); n > 10_000 {
		t.Errorf("%d denials are kept", n)
	}
}

// TestHourlyOnTheRealClock: Now is optional.
func TestHourlyOnTheRealClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // whose clock begins at midnight
		h := limit.Hourly{Store: &counters{}}
		time.Sleep(time.Hour - sec/2)
		for _, want := range []limit.Decision{{Admitted: true, Limit: 1, Reset: sec}, {Limit: 1, Reset: sec}} {
			got, err := h.Take(t.Context(), "alice", 1)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		time.Sleep(sec) // as it was told
		if got, _ := h.Take(t.Context(), "alice", 1); !got.Admitted {
			t.Error("who waits as long as he was told is refused")
		}
	})
}

func BenchmarkTake(b *testing.B) {
	for _, callers := range []int{1, 1000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			names := make([]string, callers)
			for i := range names {
				names[i] = fmt.Sprintf("client-%08x", i)
			}
			h := limit.Hourly{Store: &counters{}}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					h.Take(b.Context(), names[i%callers], 1_000_000_000)
				}
			})
		})
	}
}
