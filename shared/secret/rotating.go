package secret

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The stages of a rotating secret, as Secrets Manager names them
// (docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html).
const (
	Current  = "AWSCURRENT"
	Previous = "AWSPREVIOUS"
)

// ErrNoVersion means that a secret has no version at the stage asked for.
var ErrNoVersion = errors.New("no version of the secret carries this stage")

// Store is where a rotating secret is kept.
type Store interface {
	// Read returns the version at stage, or ErrNoVersion. It ends when ctx does
	// and doesn't retry.
	Read(ctx context.Context, stage string) (Version, error)
}

// Version is one value that a secret has or had.
type Version struct {
	Value     String
	CreatedAt time.Time
}

// Bounds of a Rotating that no deployment needs to tune.
const (
	maxStale     = 15 * time.Minute // a value serves no longer than this after its last good read
	refreshPause = 10 * time.Second // between refreshes that a cached value could do without
	retryPause   = time.Second      // between refreshes while there is no value at all
	readTimeout  = time.Second      // of one call to the store
	readTries    = 2
)

// Rotating is a deployment's root token. The Store's current version is
// accepted, and the previous one until a grace period after the current one
// was made, so every way to rotate works and no client has to be changed in
// the same second.
//
// What was read is cached for CacheFor; a match on it costs no call. A token
// that doesn't match forces an early refresh, at most one in 10 s: so a new
// token works within 10 s, and a flood of wrong ones costs next to nothing.
// Meanwhile a token that is known goes on being accepted without waiting.
//
// When the Store fails, what was read last goes on serving until 15 minutes
// after it was read, and a token that is not among it is an error and not a
// mismatch: it may be the new one.
//
// All ages are in wall time, because a Lambda's monotonic clock stops while it
// is frozen; a wall clock that steps back ends every age at once.
type Rotating struct {
	cfg   Config
	known atomic.Pointer[knowledge]

	mu          sync.Mutex // one refresh at a time
	lastTry     time.Time
	lastFailure error // of the last refresh, nil if it went well
}

// Config is what a Rotating needs.
type Config struct {
	Store    Store
	CacheFor time.Duration    // how long a read serves without another; 60 s is usual
	Grace    time.Duration    // how long the previous version stays valid; 0: not at all
	Now      func() time.Time // nil: time.Now
}

// knowledge is what one refresh learnt. It never changes.
type knowledge struct {
	readAt   time.Time
	accepted []acceptance
	partial  error // why a stage could not be read; a mismatch then proves nothing
}

type acceptance struct {
	digest Digest
	until  time.Time
}

// NewRotating makes no call; the first Match does.
func NewRotating(cfg Config) *Rotating {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Rotating{cfg: cfg}
}

// Match reports whether d is the digest of a token that is valid now. An error
// means that this can't be known: deny, but don't call the token wrong.
func (r *Rotating) Match(ctx context.Context, d Digest) (bool, error) {
	now := r.now()
	k := r.known.Load()
	if k.fresh(now, r.cfg.CacheFor) && k.accepts(d, now) {
		return true, nil
	}
	return r.matchRefreshed(ctx, d, k)
}

// matchRefreshed decides what the knowledge seen could not: with newer one, if
// that may be fetched.
func (r *Rotating) matchRefreshed(ctx context.Context, d Digest, seen *knowledge) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Whoever held the lock before may have fetched what is missing here.
	if r.known.Load() == seen && r.mayRefresh(r.now()) {
		r.refresh(ctx)
	}
	now := r.now()
	k := r.known.Load()
	switch {
	case k.accepts(d, now):
		return true, nil
	case r.lastFailure != nil:
		return false, r.lastFailure
	case !k.fresh(now, maxStale):
		return false, errors.New("the clock stepped back behind the last read")
	default:
		return false, k.partial
	}
}

// mayRefresh holds refreshes apart, so that neither wrong tokens nor an outage
// of the store turn into a flood of calls.
func (r *Rotating) mayRefresh(now time.Time) bool {
	k := r.known.Load()
	since := now.Sub(r.lastTry)
	switch {
	case since < 0:
		return true
	case !k.fresh(now, maxStale):
		return since >= retryPause
	case !k.fresh(now, r.cfg.CacheFor) && r.lastFailure == nil:
		return true // simply due
	default:
		return since >= refreshPause
	}
}

// refresh reads both stages and replaces what is known. If it can't, the old
// knowledge stays, to run out by itself. The caller that happens to trigger it
// may leave: it is everybody's.
func (r *Rotating) refresh(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	r.lastTry = r.now()
	current, digest, err := r.read(ctx, Current)
	if r.lastFailure = err; err != nil {
		r.lastTry = r.now() // who waited for this failure shares it, and doesn't try again in its turn
		return
	}
	now := r.now()
	k := &knowledge{readAt: now, accepted: []acceptance{{digest, now.Add(maxStale)}}}

	if graceEnd := current.CreatedAt.Round(0).Add(r.cfg.Grace); now.Before(graceEnd) {
		_, previous, err := r.read(ctx, Previous)
		switch {
		case errors.Is(err, ErrNoVersion): // never rotated
		case err != nil:
			k.partial = err
			k.accepted = append(k.accepted, r.known.Load().others(digest, graceEnd, now)...)
		default:
			k.accepted = append(k.accepted, acceptance{previous, earlier(graceEnd, now.Add(maxStale))})
		}
	}
	r.known.Store(k)
}

// read reads one stage, which must hold a token.
func (r *Rotating) read(ctx context.Context, stage string) (Version, Digest, error) {
	v, err := readVersion(ctx, r.cfg.Store, stage)
	if err != nil {
		return Version{}, Digest{}, err
	}
	if strings.HasPrefix(strings.TrimSpace(v.Value.Reveal()), "{") {
		return Version{}, Digest{}, fmt.Errorf("%s is a JSON object: store the token itself, as plain text", stage)
	}
	d, err := ParseConfigured(v.Value.Reveal())
	if err != nil {
		return Version{}, Digest{}, fmt.Errorf("%s is no token: %w", stage, err)
	}
	return v, d, nil
}

// readVersion reads one stage of a store, twice if need be.
func readVersion(ctx context.Context, store Store, stage string) (v Version, err error) {
	for range readTries {
		v, err = readOnce(ctx, store, stage)
		if err == nil || errors.Is(err, ErrNoVersion) {
			break
		}
	}
	if err != nil {
		return Version{}, fmt.Errorf("reading %s: %w", stage, err)
	}
	return v, nil
}

func readOnce(ctx context.Context, store Store, stage string) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return store.Read(ctx, stage)
}

// now is the wall clock alone, see Rotating.
func (r *Rotating) now() time.Time { return r.cfg.Now().Round(0) }

// fresh reports whether k was read less than age ago, and not in the future.
func (k *knowledge) fresh(now time.Time, age time.Duration) bool {
	return k != nil && !now.Before(k.readAt) && now.Sub(k.readAt) < age
}

// accepts compares d with every digest there is, valid or not, so that its
// time depends on neither.
func (k *knowledge) accepts(d Digest, now time.Time) bool {
	if k == nil || now.Before(k.readAt) {
		return false
	}
	match := false
	for _, a := range k.accepted {
		same := a.digest.Equal(d)
		match = match || (same && now.Before(a.until))
	}
	return match
}

// others is what k accepts beside current, cut at end: older values, carried
// over where they can't be read anew. A clock that stepped back behind k ended
// its age, so nothing of it is.
func (k *knowledge) others(current Digest, end, now time.Time) []acceptance {
	if k == nil || now.Before(k.readAt) {
		return nil
	}
	var rest []acceptance
	for _, a := range k.accepted {
		if !a.digest.Equal(current) {
			rest = append(rest, acceptance{a.digest, earlier(a.until, end)})
		}
	}
	return rest
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
