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
// window. An error of the Store denies.
package limit

import (
	"context"
	"sync"
	"time"
)

// Window is the length of every window.
const Window = time.Hour

// Store keeps one counter for a caller and a window.
type Store interface {
	// Take adds one to the counter of (caller, window) unless it has reached
	// max, and reports what it stands at and whether one was added.
	Take(ctx context.Context, caller string, window time.Time, max int) (used int, admitted bool, err error)
}

// Decision is the answer to one request, and the state its caller is told of.
type Decision struct {
	Admitted  bool
	Limit     int // requests a window; 0: no limit, and nothing else here is set
	Remaining int
	Reset     time.Duration // until the window ends, whole seconds, at least one
}

// Hourly counts requests in a Store.
type Hourly struct {
	Store Store
	Now   func() time.Time // nil: time.Now
}

// Take counts one request of caller against max an hour; max 0 admits all, and a
// negative one, which nobody should have made, admits none.
func (h Hourly) Take(ctx context.Context, caller string, max int) (Decision, error) {
	if max == 0 {
		return Decision{Admitted: true}, nil
	}
	now := time.Now()
	if h.Now != nil {
		now = h.Now()
	}
	window := now.UTC().Truncate(Window)
	used, admitted, err := h.Store.Take(ctx, caller, window, max)
	if err != nil {
		return Decision{}, err
	}
	return Decision{
		Admitted:  admitted,
		Limit:     max,
		Remaining: max - min(used, max),
		Reset:     ceilSecond(window.Add(Window).Sub(now)),
	}, nil
}

// ceilSecond rounds up: who waits that long is in the next window.
func ceilSecond(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// Memory is a Store for one process. It keeps the newest window of each caller,
// so it is as small as the set of credentials. Its zero value is ready.
type Memory struct {
	mu       sync.Mutex
	counters map[string]*counter
}

type counter struct {
	window time.Time
	used   int
}

// Take implements Store. A clock that steps back stays in the newest window
// seen: going back in time wins nobody a fresh limit.
func (m *Memory) Take(_ context.Context, caller string, window time.Time, max int) (int, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.counters[caller]
	if c == nil {
		if m.counters == nil {
			m.counters = map[string]*counter{}
		}
		c = &counter{}
		m.counters[caller] = c
	}
	if window.After(c.window) {
		*c = counter{window: window}
	}
	if c.used >= max {
		return c.used, false, nil
	}
	c.used++
	return c.used, true, nil
}
