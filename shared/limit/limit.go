// Package limit decides how many requests a caller may make in an hour.
//
// The window is the fixed clock hour (UTC): everybody can tell when it ends,
// one counter for a caller and an hour is all the state there is, and a denied
// caller learns the true moment to come back. A caller is the verified one,
// never a header's text and never an address.
//
// The arithmetic (Hourly) is apart from where counters are kept (Store). A
// Store's Take is one atomic step that never counts beyond the maximum, so the
// promise holds whoever shares the store: never more than N admitted in a
// window. An error of the Store denies. A denial is remembered until its window
// ends, so a flood from a caller who has none left costs the store nothing.
package limit

import (
	"context"
	"math"
	"sync"
	"time"
)

// Window is the length of every window.
const Window = time.Hour

// Store keeps one counter for a caller and a window.
type Store interface {
	// Take adds one to the counter of (caller, window) unless it has reached
	// max, and reports what it stands at and whether one was added.
	Take(ctx context.Context, caller string, window time.Time, max int64) (used int64, admitted bool, err error)
}

// Decision is the answer to one request, and the state its caller is told of.
type Decision struct {
	Admitted  bool
	Limit     int // requests a window; 0: no limit, and nothing else here is set
	Remaining int
	Reset     time.Duration // until the window ends, whole seconds, at least one
}

// Hourly counts requests in a Store. It must not be copied.
type Hourly struct {
	Store Store
	Now   func() time.Time // nil: time.Now

	mu     sync.Mutex
	window time.Time // of what is in denied
	denied map[denial]struct{}
}

// denial is what a remembered refusal is about. With the limit in it, one that
// is raised counts at once.
type denial struct {
	caller string
	max    int
}

// maxDenied bounds what is remembered; beyond it the store is asked again.
const maxDenied = 10_000

// Take counts one request of caller against max an hour; max 0 admits all, which
// are counted too, and a negative one, which nobody should have made, admits none.
func (h *Hourly) Take(ctx context.Context, caller string, max int) (Decision, error) {
	now := time.Now()
	if h.Now != nil {
		now = h.Now()
	}
	window := now.UTC().Truncate(Window)
	if max == 0 {
		_, _, err := h.Store.Take(ctx, caller, window, math.MaxInt64)
		return Decision{Admitted: err == nil}, err
	}
	d := Decision{Limit: max, Reset: ceilSecond(window.Add(Window).Sub(now))}
	if h.isDenied(window, denial{caller, max}) {
		return d, nil
	}
	used, admitted, err := h.Store.Take(ctx, caller, window, int64(max))
	if err != nil {
		return Decision{}, err
	}
	if !admitted {
		h.deny(window, denial{caller, max})
	}
	d.Admitted, d.Remaining = admitted, max-int(min(used, int64(max)))
	return d, nil
}

func (h *Hourly) isDenied(window time.Time, d denial) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !window.Equal(h.window) {
		return false
	}
	_, denied := h.denied[d]
	return denied
}

func (h *Hourly) deny(window time.Time, d denial) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !window.Equal(h.window) || len(h.denied) >= maxDenied {
		h.window, h.denied = window, map[denial]struct{}{}
	}
	h.denied[d] = struct{}{}
}

// ceilSecond rounds up: who waits that long is in the next window.
func ceilSecond(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}
