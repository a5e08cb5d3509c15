package secret_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"postern/shared/secret"
)

// keyStore is a Store of one value, which can fail.
type keyStore struct {
	value string
	fails bool
	calls int
}

func (k *keyStore) Read(_ context.Context, stage string) (secret.Version, error) {
	k.calls++
	if k.fails || stage != secret.Current {
		return secret.Version{}, errors.New("down")
	}
	return secret.Version{Value: secret.New(k.value)}, nil
}

// TestCached: a key in clear is read lazily, kept, and outlives a failing store
// for 15 minutes, in which it isn't asked all the time.
func TestCached(t *testing.T) {
	t.Parallel()
	store := &keyStore{value: "one"}
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	c := &secret.Cached{Store: store, CacheFor: time.Minute, Now: func() time.Time { return now }}
	for _, step := range []struct {
		name   string
		after  time.Duration
		change func()
		want   string // "": an error
		calls  int
	}{
		{"the first time it is read", 0, func() {}, "one", 1},
		{"then it is kept", time.Minute - 1, func() { store.value = "two" }, "one", 1},
		{"for a minute", 1, func() {}, "two", 2},
		{"a store that fails is tried twice", time.Minute, func() { store.fails = true }, "two", 4},
		{"and then left alone for 10 s", 10*time.Second - 1, func() {}, "two", 4},
		{"and asked again", 1, func() {}, "two", 6},
		{"the value lasts 15 minutes from its last read", 15*time.Minute - 70*time.Second - 1, func() {}, "two", 8},
		{"and no longer", 1, func() {}, "", 8},
		{"until the store is well", 10 * time.Second, func() { store.fails, store.value = false, "three" }, "three", 9},
		{"a clock that steps back ends every age", -time.Hour, func() {}, "three", 10},
	} {
		now = now.Add(step.after)
		step.change()
		got, err := c.Get(t.Context())
		if got.Reveal() != step.want || (err != nil) != (step.want == "") || store.calls != step.calls {
			t.Errorf("%s: %q, %v after %d calls; want %q after %d", step.name, got.Reveal(), err, store.calls, step.want, step.calls)
		}
	}
}
