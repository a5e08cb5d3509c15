package keys_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/shared/auth"
	"postern/shared/keys"
)

var seed = flag.Uint64("seed", 0, "run TestLives with this seed alone")

// state is what a key was from a moment on, as simply as it can be said.
type state struct {
	from              time.Time
	revoked, disabled bool
	expires           time.Time // zero: never
	current           string
	older             []older
}

// older is a token from before a rotation.
type older struct {
	token string
	end   time.Time
}

// left are the older tokens that are valid at now.
func (s state) left(now time.Time) []older {
	return slices.DeleteFunc(slices.Clone(s.older), func(o older) bool { return !now.Before(o.end) })
}

// isOlder reports whether token is one of them.
func (s state) isOlder(token string, now time.Time) bool {
	return slices.ContainsFunc(s.left(now), func(o older) bool { return o.token == token })
}

// bound ends them where the key ends.
func (s *state) bound() {
	s.older = slices.Clone(s.older)
	for i := range s.older {
		if o := &s.older[i]; !s.expires.IsZero() && s.expires.Before(o.end) {
			o.end = s.expires
		}
	}
}

// verdict is what a token is worth at now, for who knows the state.
func (s state) verdict(token string, now time.Time) error {
	switch {
	case token != s.current && !s.isOlder(token, now):
		return auth.Unknown
	case s.revoked:
		return auth.Revoked
	case s.disabled:
		return auth.Disabled
	case !s.expires.IsZero() && !now.Before(s.expires):
		return auth.Expired
	}
	return nil
}

// life is a key's, from its creation on.
type life struct {
	id     string
	tokens []string
	states []state
}

func (l *life) now() state { return l.states[len(l.states)-1] }

// schedule is a random sequence of acts and verifications, in several processes
// over one table that fails now and then.
type schedule struct {
	*site
	t       testing.TB
	rnd     *rand.Rand
	frame   http.Handler
	sources []*keys.Source
	asked   []map[string]time.Time // by source: when an id was last asked for
	failed  []map[string]time.Time // by source: when that last happened while the table was down
	lives   []*life
	acts    int
	trace   []string
	lived
}

// lived counts the answers, to see that the schedules get everywhere.
type lived struct{ Allowed, AllowedOlder, AllowedOldest, Stale, Unknown, Expired, Disabled, Revoked, Unavailable, Conflicts int }

// TestLives is P10 and P2 by a model: over random sequences of create, rotate,
// revoke, disable, enable, expire, verify and of failures, each verdict is that of
// a state the key had within the last 5 s; a new token works at once; and through
// rotations a key stays who it is.
func TestLives(t *testing.T) {
	t.Parallel()
	const schedules, steps = 40, 200
	first, last := uint64(1), uint64(schedules)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	var all lived
	for n := first; n <= last; n++ {
		w := &schedule{site: newSite(t), t: t, rnd: rand.New(rand.NewPCG(n, 0))}
		w.frame = w.behind(door{auth.RootCaller()})
		for range 3 {
			w.sources = append(w.sources, w.source())
			w.asked = append(w.asked, map[string]time.Time{})
			w.failed = append(w.failed, map[string]time.Time{})
		}
		for step := range steps {
			w.step()
			if t.Failed() {
				t.Fatalf("seed %d, step %d (repeat with -seed=%d); the last acts:\n%s", n, step, n, strings.Join(w.trace[max(0, len(w.trace)-20):], "\n"))
			}
		}
		if got := len(w.events()); got != 2*w.acts {
			t.Fatalf("seed %d: %d acts left %d events in the audit chain", n, w.acts, got)
		}
		all.add(w.lived)
	}
	t.Logf("%+v", all)
	if *seed == 0 && (all.Allowed < 800 || all.AllowedOlder < 150 || all.AllowedOldest < 20 || all.Stale < 100 || all.Unknown < 800 || all.Expired < 100 || all.Disabled < 100 || all.Revoked < 100 || all.Unavailable < 300 || all.Conflicts < 50) {
		t.Errorf("the schedules are out of balance: %+v", all)
	}
}

func (l *lived) add(m lived) {
	l.Allowed += m.Allowed
	l.AllowedOlder += m.AllowedOlder
	l.AllowedOldest += m.AllowedOldest
	l.Stale += m.Stale
	l.Unknown += m.Unknown
	l.Expired += m.Expired
	l.Disabled += m.Disabled
	l.Revoked += m.Revoked
	l.Unavailable += m.Unavailable
	l.Conflicts += m.Conflicts
}

func (w *schedule) note(format string, args ...any) {
	w.trace = append(w.trace, w.Now().Format("15:04:05.000000000 ")+fmt.Sprintf(format, args...))
}

func pick[T any](w *schedule, from ...T) T { return from[w.rnd.IntN(len(from))] }

func (w *schedule) step() {
	if len(w.lives) < 2 || w.rnd.IntN(30) == 0 {
		w.createOne()
		return
	}
	l := pick(w, w.lives...)
	switch w.rnd.IntN(12) {
	case 0:
		w.Add(pick(w, time.Nanosecond, time.Millisecond, 300*time.Millisecond, time.Second-1, time.Second, 2*time.Second, 5*time.Second-1, 5*time.Second, 40*time.Second, 20*time.Minute))
	case 1:
		w.rotate(l)
	case 2:
		disabled := pick(w, true, false, false)
		w.change(l, fmt.Sprintf(`{"disabled":%v}`, disabled), func(s *state) { s.disabled = disabled })
	case 3:
		at := w.Now().Add(pick(w, time.Millisecond, time.Second, 3*time.Second, 10*time.Minute)).UTC()
		w.change(l, `{"expires_at":"`+at.Format(time.RFC3339Nano)+`"}`, func(s *state) {
			s.expires = at
			s.bound()
		})
	case 4:
		w.change(l, `{"expires_at":null}`, func(s *state) { s.expires = time.Time{} })
	case 5:
		if w.rnd.IntN(10) == 0 {
			w.revoke(l)
		}
	default:
		w.verify(l)
	}
}

func (w *schedule) createOne() {
	k := send(w.frame, "POST", "/keys", `{"name":"key","scopes":["chat"],"rate_limit":7}`).want(w.t, 201).key(w.t)
	w.acts++
	w.lives = append(w.lives, &life{k.ID, []string{k.Token}, []state{{from: w.Now(), current: k.Token}}})
	w.note("create %s", k.ID)
}

// did notes that a change was made, or refused because the key is revoked.
func (w *schedule) did(l *life, what string, got reply, status int, change func(*state)) {
	w.note("%s %s: %d", what, l.id, got.Status)
	if status != 204 && (l.now().revoked || what == tooMany || what == tooLate) {
		w.Conflicts++
		got.want(w.t, 409)
		return
	}
	got.want(w.t, status)
	w.acts++
	next := l.now()
	next.from = w.Now()
	change(&next)
	l.states = append(l.states, next)
}

// A rotation that is refused.
const (
	tooMany = "rotate a key with four older tokens"
	tooLate = "rotate a key that has expired"
)

func (w *schedule) change(l *life, patch string, change func(*state)) {
	w.did(l, patch, send(w.frame, "PATCH", "/keys/"+l.id, patch), 200, change)
}

func (w *schedule) revoke(l *life) {
	if l.now().revoked {
		send(w.frame, "DELETE", "/keys/"+l.id, "").want(w.t, 204)
		return
	}
	w.did(l, "revoke", send(w.frame, "DELETE", "/keys/"+l.id, ""), 204, func(s *state) { s.revoked = true })
}

func (w *schedule) rotate(l *life) {
	grace := pick(w, 0, time.Second, 3*time.Second, 30*time.Minute, 10*time.Hour)
	got := send(w.frame, "POST", "/keys/"+l.id+"/rotate", fmt.Sprintf(`{"grace":"%ds"}`, int(grace.Seconds())))
	what, now := fmt.Sprintf("rotate with %s", grace), w.Now().Truncate(time.Millisecond)
	if expires := l.now().expires; !expires.IsZero() && !now.Before(expires) {
		what = tooLate
	} else if grace > 0 && len(l.now().left(now)) == 4 {
		what = tooMany
	}
	w.did(l, what, got, 200, func(s *state) {
		k := got.key(w.t)
		if k.ID != l.id || k.Name != "key" || *k.RateLimit != 7 {
			w.t.Errorf("a rotation changed the key to %+v", k)
		}
		s.older = append(s.left(now), older{s.current, now.Add(grace)})
		if grace == 0 {
			s.older = nil
		}
		s.current = k.Token
		s.bound()
		var latest time.Time
		for _, o := range s.older {
			latest = slices.MaxFunc([]time.Time{latest, o.end}, time.Time.Compare)
		}
		if at := k.PreviousExpiresAt; (at == nil) != latest.IsZero() || at != nil && !at.Equal(latest) {
			w.t.Errorf("the last older token ends at %v, and the answer says %v", latest, at)
		}
		l.tokens = append(l.tokens, k.Token)
	})
}

// verify asks one process for a token, and compares with what the states allow.
func (w *schedule) verify(l *life) {
	n := w.rnd.IntN(len(w.sources))
	current, previous := l.now().current, l.now().current
	if all := l.now().older; len(all) > 0 {
		previous = pick(w, all...).token
	}
	token := pick(w, current, current, previous, previous, pick(w, l.tokens...), wrong(current))
	down := w.rnd.IntN(6) == 0
	w.table.down(down)
	c, err := w.sources[n].Verify(w.t.Context(), token)
	w.table.down(false)
	now := w.Now()
	w.note("process %d of token %d of %s, down is %v: %v", n, slices.Index(l.tokens, token), l.id, down, err)

	if err == nil && (c.ID != l.id || c.Name != "key" || c.RateLimit == nil || *c.RateLimit != 7) {
		w.t.Errorf("the caller is %+v", c)
	}
	recently := func(m map[string]time.Time) bool {
		at, ok := m[l.id]
		return ok && now.Sub(at) < time.Second
	}
	latest := l.now().verdict(token, now)
	allowed := false // by some state of the last 5 s
	for _, s := range slices.Backward(l.states) {
		allowed = allowed || errors.Is(err, s.verdict(token, now))
		if now.Sub(s.from) >= 5*time.Second {
			break // it had come everywhere before anybody read what serves now
		}
	}
	unavailable := errors.Is(err, auth.ErrUnavailable)
	switch {
	case unavailable && !down && !recently(w.failed[n]):
		w.t.Errorf("unavailable, and the table was well")
	case !unavailable && !allowed:
		w.t.Errorf("%v, which no state of the last 5 s says; the latest says %v", err, latest)
	case err == auth.Unknown && latest != auth.Unknown && !recently(w.asked[n]):
		w.t.Errorf("a new token doesn't work at once")
	}
	if !unavailable || down {
		w.asked[n][l.id] = now
	}
	if down {
		w.failed[n][l.id] = now
	}
	w.count(l, token, err, latest)
}

func (w *schedule) count(l *life, token string, err, latest error) {
	switch {
	case errors.Is(err, auth.ErrUnavailable):
		w.Unavailable++
	case !errors.Is(err, latest):
		w.Stale++
	case err == nil && token != l.now().current && token == l.now().older[0].token && len(l.now().older) > 1:
		w.AllowedOldest++
	case err == nil && token != l.now().current:
		w.AllowedOlder++
	case err == nil:
		w.Allowed++
	case err == auth.Unknown:
		w.Unknown++
	case err == auth.Expired:
		w.Expired++
	case err == auth.Disabled:
		w.Disabled++
	case err == auth.Revoked:
		w.Revoked++
	}
}
