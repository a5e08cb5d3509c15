package secret

import (
	"context"
	"sync"
	"time"
)

// Cached is a secret that is read in clear, such as a key for somebody else's
// API: the current version of a Store, kept for CacheFor. When the Store fails,
// what was read last goes on serving until 15 minutes after it was read, as a
// Rotating's does, and for 10 s nobody asks again.
type Cached struct {
	Store    Store
	CacheFor time.Duration
	Now      func() time.Time // nil: time.Now

	mu      sync.Mutex
	value   String
	readAt  time.Time
	lastTry time.Time
	failure error // of the last try
}

// Get returns the secret. It waits for at most two tries of a second each.
func (c *Cached) Get(ctx context.Context) (String, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	within := func(t time.Time, d time.Duration) bool {
		age := now().Round(0).Sub(t)
		return !t.IsZero() && age >= 0 && age < d
	}
	if within(c.readAt, c.CacheFor) {
		return c.value, nil
	}
	if c.failure == nil || !within(c.lastTry, refreshPause) {
		v, err := readVersion(context.WithoutCancel(ctx), c.Store, Current)
		c.lastTry, c.failure = now().Round(0), err
		if err == nil {
			c.value, c.readAt = v.Value, c.lastTry
		}
	}
	if c.failure != nil && !within(c.readAt, maxStale) {
		return String{}, c.failure
	}
	return c.value, nil
}
