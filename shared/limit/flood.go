package limit

import (
	"net/netip"
	"sync"
	"time"
)

// Bounds of a Flood.
const (
	floodFailures  = 20          // a minute from one address, answered in full
	floodAddresses = 10_000      // told apart; the rest share one count
	floodWindow    = time.Minute // clock minutes
)

// Flood is the guard of one machine against somebody who tries tokens: it
// counts failures by address, an IPv6 one by its /64, which is what one
// subscriber holds. It only ever decides how a refusal is answered; a valid
// credential is never asked about, so no flood can lock its holder out.
// Its zero value is ready.
type Flood struct {
	Now func() time.Time // nil: time.Now

	mu       sync.Mutex
	window   time.Time
	failures map[netip.Addr]int
}

// Failed counts one failure from a. Once a has failed too often it returns the
// time until that is forgotten, at least a second; until then zero.
func (f *Flood) Failed(a netip.Addr) time.Duration {
	now := time.Now()
	if f.Now != nil {
		now = f.Now()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if window := now.Truncate(floodWindow); !window.Equal(f.window) {
		f.window, f.failures = window, map[netip.Addr]int{}
	}
	source := subscriber(a)
	if _, known := f.failures[source]; !known && len(f.failures) >= floodAddresses {
		source = netip.Addr{} // the address of everybody there is no room for
	}
	if f.failures[source] < floodFailures {
		f.failures[source]++
		return 0
	}
	return ceilSecond(f.window.Add(floodWindow).Sub(now))
}

// subscriber is the part of an address that tells one sender from another.
func subscriber(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
