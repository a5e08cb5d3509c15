package keys

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"postern/shared/auth"
	"postern/shared/secret"
	"postern/shared/table"
)

// Bounds of a Source that no deployment needs to tune.
const (
	maxAge      = 5 * time.Second // of a record, from before its read began: what a revocation takes at most
	rereadPause = time.Second     // between the reads that wrong tokens of one id cause
	readTimeout = 2 * time.Second // of one read

	// Ids that there are, and ids that there are not: made-up ones, however many,
	// push out each other and no key.
	maxKnown  = 9_000
	maxAbsent = 1_000
)

// Source is the auth.Source of issued keys.
//
// What was read of an id serves for 5 s, and never longer: then the table is
// asked again, and if it can't be, the answer is auth.ErrUnavailable. Within
// them a token that the record knows costs no call, and waits for none. One that
// it doesn't know may be newer than the record, so it causes a read at once, one
// a second for each id; if that read fails, nobody can know, and nobody is told
// that the token is wrong.
//
// An id that there is not is read as a record whose token nobody has, so its
// refusal takes the same steps as that of a wrong token. Why a key is refused is
// found only after its token was right.
//
// All ages are in wall time, because a Lambda's monotonic clock stops while it
// is frozen; a wall clock that steps back ends every age at once.
type Source struct {
	table  table.Table
	clock  func() time.Time
	nobody []byte // the record of an id that there is not

	mu            sync.Mutex
	entries       map[string]*entry // one map for both kinds: where an id is found must not be told by time
	known, absent ring              // of each kind, for who pushes out whom
	flights       map[string]*flight
}

// ring is the last entries of a kind, in the order in which they were read. It
// grows up to its room.
type ring struct {
	room  int
	slots []slot
	next  int
}

type slot struct {
	id string
	*entry
}

// put puts a slot in the place of the oldest, which it returns.
func (r *ring) put(s slot) (oldest slot) {
	if len(r.slots) < r.room {
		r.slots = append(r.slots, s)
		return slot{}
	}
	oldest, r.slots[r.next] = r.slots[r.next], s
	r.next = (r.next + 1) % r.room
	return oldest
}

// NewSource is a Source of the keys in t, which it only reads from. It makes no
// call; the first Verify does. A nil now is time.Now.
func NewSource(t table.Table, now func() time.Time) *Source {
	if now == nil {
		now = time.Now
	}
	s := &Source{
		table:   t,
		clock:   now,
		entries: map[string]*entry{},
		known:   ring{room: maxKnown},
		absent:  ring{room: maxAbsent},
		flights: map[string]*flight{},
	}
	ended := time.Unix(0, 0).UTC()
	nobody := record{Key: Key{Grant: Grant{Name: "nobody", Disabled: true}, RevokedAt: &ended}, current: secret.DigestOf(secret.Generate().Reveal())}
	s.nobody, _ = nobody.encode() // plain fields always encode
	return s
}

// entry is what was read of an id. All but the last two fields never change.
type entry struct {
	*record
	holder auth.Caller // shared by all who are let in; nobody writes into it
	readAt time.Time   // before the read began

	// Under Source.mu.
	rereadAt time.Time // when a token that is not in here last caused a read
	failure  error     // of that read
}

// errPanic is that of a read that didn't return.
var errPanic = errors.New("the read ended in a panic")

// flight is a read on its way.
type flight struct {
	done  chan struct{} // closed when the rest is there
	entry *entry
	err   error
}

// Owns implements auth.Source.
func (s *Source) Owns(token string) bool { return secret.IsIssued(token) }

// Verify implements auth.Source.
func (s *Source) Verify(ctx context.Context, token string) (auth.Caller, error) {
	id, err := Parse(token)
	if err != nil {
		return auth.Caller{}, auth.Malformed
	}
	d := secret.DigestOf(token)
	now := s.now()
	s.mu.Lock()
	e := s.fresh(id, now)
	s.mu.Unlock()
	if e == nil || !e.accepts(d, now) {
		if e, err = s.look(ctx, id, d); err != nil {
			return auth.Caller{}, fmt.Errorf("%w: looking up key %s: %w", auth.ErrUnavailable, id, err)
		}
		now = s.now()
	}
	switch {
	case !e.isFresh(now):
		return auth.Caller{}, fmt.Errorf("%w: looking up key %s took too long", auth.ErrUnavailable, id)
	case !e.accepts(d, now):
		return auth.Caller{}, auth.Unknown
	}
	if err := e.State(now); err != nil {
		return auth.Caller{}, err
	}
	return e.holder, nil
}

// look returns what there is to know of id for a token that the cache doesn't
// know: an entry that does know it, or was read for it, or may not be read anew
// so soon.
func (s *Source) look(ctx context.Context, id string, d secret.Digest) (*entry, error) {
	for {
		s.mu.Lock()
		now := s.now()
		e := s.fresh(id, now)
		if e != nil && e.accepts(d, now) {
			s.mu.Unlock()
			return e, nil
		}
		f := s.flights[id]
		if f == nil && e != nil && within(now, e.rereadAt, rereadPause) {
			err := e.failure
			s.mu.Unlock()
			return e, err
		}
		mine := f == nil
		if mine {
			f = &flight{done: make(chan struct{})}
			s.flights[id] = f
		}
		s.mu.Unlock()
		if mine {
			s.fly(ctx, id, f, e)
			return f.entry, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.err != nil {
			return nil, f.err
		}
		// The read began before this token arrived, so it may be older than the token.
	}
}

// fly reads id into f and into the cache. Who triggers it may leave: others wait
// for it. old is what the cache had, nil if nothing.
func (s *Source) fly(ctx context.Context, id string, f *flight, old *entry) {
	f.err = errPanic
	var began time.Time
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.flights, id)
		if old != nil {
			old.rereadAt, old.failure = s.now(), f.err
		}
		if f.err == nil {
			if old != nil {
				f.entry.rereadAt = began
			}
			s.keep(id, f.entry)
		}
		close(f.done)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	began = s.now()
	f.entry, f.err = s.read(ctx, id, began)
}

// read asks the table for id.
func (s *Source) read(ctx context.Context, id string, now time.Time) (*entry, error) {
	item, err := s.table.Get(ctx, itemKey(id))
	owner := id
	switch {
	case errors.Is(err, table.ErrNotFound):
		owner, item.Value = "", s.nobody
	case err != nil:
		return nil, err
	}
	r, err := decode(owner, item.Value, item.Version)
	if err != nil {
		return nil, err
	}
	e := &entry{record: r, readAt: now}
	e.holder, err = r.caller()
	return e, err
}

// fresh is the cache's entry of id, nil if there is none or it is too old.
func (s *Source) fresh(id string, now time.Time) *entry {
	e := s.entries[id]
	if e == nil || !e.isFresh(now) {
		return nil
	}
	return e
}

// keep puts e into the cache, in the place of the oldest of its kind.
func (s *Source) keep(id string, e *entry) {
	alike := &s.known
	if e.ID == "" {
		alike = &s.absent
	}
	oldest := alike.put(slot{id, e})
	if s.entries[oldest.id] == oldest.entry { // else there is a newer one of that id
		delete(s.entries, oldest.id)
	}
	s.entries[id] = e
}

func (e *entry) isFresh(now time.Time) bool { return within(now, e.readAt, maxAge) }

// within reports whether now is less than d after t, and not before it.
func within(now, t time.Time, d time.Duration) bool {
	age := now.Sub(t)
	return age >= 0 && age < d
}

// now is the wall clock alone, see Source.
func (s *Source) now() time.Time { return s.clock().Round(0) }
