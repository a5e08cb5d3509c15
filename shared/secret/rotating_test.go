package secret_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/secret"
)

// story is a Rotating over a vault, and act one thing that happens to them.
type story struct {
	*testing.T
	*vault
	token *secret.Rotating
	mark  time.Time // see took
}

type act func(s *story)

func wait(d time.Duration) act {
	return func(s *story) {
		s.clock.Add(d)
		s.mark = s.clock.Now()
	}
}

// took checks how long everything took since the last took or wait.
func took(want time.Duration) act {
	return func(s *story) {
		s.Helper()
		if got := s.clock.Now().Sub(s.mark); got != want {
			s.Fatalf("at %s: that took %s, want %s", s.at(), got, want)
		}
		s.mark = s.clock.Now()
	}
}

func rotate(token string) act { return func(s *story) { s.rotate(token) } }

func fail(stages ...string) act { return func(s *story) { s.disturb(down, stages...) } }

func hang(stages ...string) act { return func(s *story) { s.disturb(s.hung, stages...) } }

func heal(s *story) { s.disturb(nil) }

func serve(text string, stages ...string) act {
	return func(s *story) { s.disturb(serving(text), stages...) }
}

// failOnce fails the next read of stage and none after it.
func failOnce(stage string) act {
	return func(s *story) {
		s.disturb(func(string, error) (string, error) { s.faults[stage] = nil; return "", errDown }, stage)
	}
}

func calls(n int) act {
	return func(s *story) {
		s.Helper()
		if got := s.calls(); got != n {
			s.Fatalf("at %s: %d calls to the store, want %d", s.at(), got, n)
		}
	}
}

func accepted(token string) act    { return match(token, "accepted") }
func refused(token string) act     { return match(token, "refused") }
func unavailable(token string) act { return match(token, "unavailable") }

func match(token, want string) act {
	return func(s *story) {
		s.Helper()
		before := s.at()
		if got := s.match(token); got != want {
			s.Fatalf("at %s: %.20q is %s, want %s", before, token, got, want)
		}
	}
}

func (s *story) at() time.Duration { return s.clock.Now().Sub(morning) }

func (s *story) match(token string) string {
	ok, err := s.token.Match(context.Background(), secret.DigestOf(token))
	switch {
	case ok && err != nil:
		s.Errorf("at %s: accepted with an error: %v", s.at(), err)
		return "both"
	case err != nil:
		for _, v := range s.versions { // P4
			if strings.Contains(err.Error(), v.token) {
				s.Errorf("the error shows a token: %v", err)
			}
		}
		return "unavailable"
	case ok:
		return "accepted"
	}
	return "refused"
}

const (
	ns       = time.Nanosecond
	sec      = time.Second
	cacheFor = time.Minute
	grace    = 24 * time.Hour
	maxStale = 15 * time.Minute
)

// TestRotating is P1, P16 and I21: when the store is read, what is accepted
// then, and what is unknowable.
func TestRotating(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name string
		cfg  secret.Config // Store and Now aside; the zero value: a minute, 24 h
		acts []act
	}{
		// Reading and caching.
		{name: "nothing is read until somebody asks, then one call is enough",
			acts: []act{wait(time.Hour), calls(0), accepted("one"), calls(1)}},
		{name: "the first token may be a wrong one, and is called wrong",
			acts: []act{refused("x"), calls(1), accepted("one"), calls(0)}},
		{name: "what was read serves for the cache time without a call, then is read again",
			acts: []act{accepted("one"), calls(1), wait(cacheFor - ns), accepted("one"), calls(0), wait(ns), accepted("one"), calls(1)}},
		{name: "a wrong token forces a refresh before that, but none within 10 s of the last",
			acts: []act{accepted("one"), calls(1), wait(10*sec - ns), refused("x"), calls(0), wait(ns), refused("x"), calls(1)}},
		{name: "a flood of wrong tokens is one call in 10 s",
			acts: []act{accepted("one"), calls(1),
				wait(10 * sec), refused("x"), refused("y"), calls(1),
				wait(sec), refused("x"), wait(8 * sec), refused("y"), calls(0),
				wait(sec), refused("z"), refused("x"), calls(1)}},
		{name: "a cache time of nothing reads every time",
			cfg:  secret.Config{CacheFor: ns, Grace: grace},
			acts: []act{accepted("one"), wait(ns), accepted("one"), wait(ns), refused("x"), calls(3)}},

		// Rotation.
		{name: "a new token works 10 s after it was made, in a warm process",
			acts: []act{accepted("one"), rotate("two"), wait(10 * sec), accepted("two"), accepted("one")}},
		{name: "a new token works at once where nothing was read lately",
			acts: []act{accepted("one"), wait(10 * sec), rotate("two"), accepted("two"), accepted("one")}},
		{name: "a new token is unknown only within 10 s of the read that missed it",
			acts: []act{accepted("one"), rotate("two"), wait(10*sec - ns), refused("two"), wait(ns), accepted("two")}},
		{name: "the old token works to the last moment of the grace, and no longer",
			acts: []act{accepted("one"), rotate("two"), wait(grace - ns), accepted("one"), wait(ns), refused("one"), accepted("two")}},
		{name: "the old token's end needs no call",
			acts: []act{rotate("two"), wait(grace - sec), accepted("one"), calls(2), wait(sec - ns), accepted("one"), wait(ns), refused("one"), accepted("two"), calls(0)}},
		{name: "an outage doesn't prolong the grace",
			acts: []act{rotate("two"), wait(grace - sec), accepted("one"), fail(), wait(sec - ns), accepted("one"), wait(10*sec + ns), unavailable("one"), accepted("two")}},
		{name: "the grace runs from the new token's making, not from when it was seen",
			acts: []act{rotate("two"), wait(grace), refused("one"), accepted("two"), calls(1)}},
		{name: "inside the grace a refresh is two calls, after it one",
			acts: []act{rotate("two"), wait(grace - ns), accepted("two"), calls(2), wait(cacheFor), accepted("two"), calls(1)}},
		{name: "without a grace only the current token is read, and the old one refused",
			cfg:  secret.Config{CacheFor: cacheFor},
			acts: []act{rotate("two"), accepted("two"), refused("one"), calls(1)}},
		{name: "without a grace a warm process accepts the old token until its cache ends",
			cfg:  secret.Config{CacheFor: cacheFor},
			acts: []act{accepted("one"), rotate("two"), wait(cacheFor - ns), accepted("one"), wait(ns), refused("one"), accepted("two")}},
		{name: "a secret that was never rotated has no previous token, and that is no failure",
			acts: []act{func(s *story) { s.versions[0].made = morning }, accepted("one"), calls(2), refused("x"), calls(0), wait(10 * sec), refused("x"), calls(2)}},
		{name: "rotating twice gets rid of a leaked token",
			acts: []act{accepted("one"), rotate("two"), rotate("three"), wait(10 * sec), accepted("three"), refused("one"), accepted("two")}},
		{name: "the token before the previous one is refused though the store still has it",
			acts: []act{rotate("two"), rotate("three"), refused("one"), accepted("two"), accepted("three")}},
		{name: "a rotation between the two calls of a refresh is seen by the next",
			acts: []act{rotate("two"), func(s *story) { s.disturb(s.rotatedMeanwhile("three", secret.Current), secret.Current) },
				accepted("two"), wait(10 * sec), accepted("three"), accepted("two"), refused("one")}},
		{name: "moving AWSCURRENT back to an old version leaves that one alone",
			acts: []act{rotate("two"), accepted("two"), func(s *story) {
				s.versions = []version{s.versions[1], s.versions[0]}
			}, wait(10 * sec), refused("x"), accepted("one"), refused("two")}},
		{name: "a version whose time of making is unknown has no grace",
			acts: []act{rotate("two"), func(s *story) { s.versions[1].made = time.Time{} }, accepted("two"), refused("one"), calls(1)}},
		{name: "a store whose clock is ahead of ours is believed",
			acts: []act{rotate("two"), wait(-time.Hour), accepted("two"), accepted("one")}},

		{name: "the cache time runs from the read of AWSCURRENT, however long AWSPREVIOUS took",
			acts: []act{rotate("two"), func(s *story) { s.disturb(s.slow, secret.Previous) }, accepted("two"), took(sec - ns), calls(2),
				wait(cacheFor - sec), accepted("two"), calls(0), wait(ns), accepted("two"), calls(2)}},

		// The form of the secret, I5 and P1.
		{name: "a newline after the token is not part of it",
			acts: []act{serve("one\n"), accepted("one"), refused("one\n"), calls(1)}},
		{name: "a digest in place of the token stands for it, and is none itself",
			acts: []act{serve(configuredDigest("one")), accepted("one"), refused(configuredDigest("one")), refused(strings.TrimPrefix(configuredDigest("one"), "sha256:"))}},
		{name: "a previous token may be a digest too",
			acts: []act{rotate("two"), serve(strings.ToUpper(configuredDigest("one")[7:]), secret.Previous), refused("one"),
				wait(10 * sec), serve(configuredDigest("one"), secret.Previous), accepted("one"), accepted("two")}},

		// Outages.
		{name: "a cold process without a store denies, and tries again after a second",
			acts: []act{fail(), unavailable("one"), calls(2), unavailable("one"), unavailable("x"), calls(0),
				wait(sec - ns), unavailable("one"), calls(0), wait(ns), unavailable("one"), calls(2), wait(sec), heal, accepted("one"), calls(1)}},
		{name: "a failed call is tried once more",
			acts: []act{failOnce(secret.Current), accepted("one"), calls(2)}},
		{name: "a failed call for the previous token is tried once more",
			acts: []act{rotate("two"), failOnce(secret.Previous), accepted("one"), accepted("two"), calls(3)}},
		{name: "in an outage the last value serves for 15 minutes, and no longer",
			acts: []act{accepted("one"), fail(), wait(maxStale - ns), accepted("one"), wait(ns), unavailable("one")}},
		{name: "the 15 minutes begin with the last good read",
			acts: []act{accepted("one"), wait(cacheFor), accepted("one"), fail(), wait(maxStale - ns), accepted("one"), wait(ns), unavailable("one")}},
		{name: "failed refreshes on the way don't prolong the 15 minutes",
			acts: []act{accepted("one"), fail(), wait(5 * time.Minute), accepted("one"), wait(5 * time.Minute), accepted("one"),
				wait(5*time.Minute - ns), accepted("one"), wait(ns), unavailable("one")}},
		{name: "in an outage the previous token serves for 15 minutes too",
			acts: []act{rotate("two"), accepted("one"), fail(), wait(maxStale - ns), accepted("one"), accepted("two"), wait(ns), unavailable("one"), unavailable("two")}},
		{name: "a cache time beyond 15 minutes doesn't prolong them",
			cfg:  secret.Config{CacheFor: time.Hour, Grace: grace},
			acts: []act{accepted("one"), calls(1), wait(maxStale - ns), accepted("one"), calls(0), fail(), wait(ns), unavailable("one")}},
		{name: "a cache time beyond 15 minutes is one of 15 minutes where the store answers",
			cfg:  secret.Config{CacheFor: time.Hour, Grace: grace},
			acts: []act{accepted("one"), calls(1), wait(maxStale), accepted("one"), calls(1)}},
		{name: "in an outage an unknown token may be the new one, so it isn't called wrong",
			acts: []act{accepted("one"), fail(), wait(10 * sec), unavailable("x"), calls(3), wait(10*sec - ns), unavailable("x"), unavailable("y"), calls(0), accepted("one")}},
		{name: "an outage is asked about every 10 s and no more often, wrong tokens or none",
			acts: []act{accepted("one"), fail(), calls(1), wait(cacheFor), accepted("one"), calls(2),
				wait(10*sec - ns), accepted("one"), unavailable("x"), calls(0), wait(ns), accepted("one"), unavailable("x"), calls(2)}},
		{name: "after an outage a new token works within 10 s",
			acts: []act{accepted("one"), fail(), wait(10 * sec), unavailable("two"), rotate("two"), heal, wait(10 * sec), accepted("two"), refused("x")}},
		{name: "a known token that went stale works within a second of the store's recovery",
			acts: []act{accepted("one"), fail(), wait(maxStale), unavailable("one"), heal, wait(sec), accepted("one")}},
		{name: "a hung store takes two tries of a second from the first request, and nothing from the next",
			acts: []act{hang(), unavailable("one"), calls(2), took(2 * sec), unavailable("one"), took(0), calls(0)}},
		{name: "a store that hangs under a wrong token takes nothing from a known one",
			acts: []act{accepted("one"), wait(10 * sec), hang(), unavailable("x"), took(2 * sec), accepted("one"), took(0)}},
		{name: "a secret that is gone denies after its 15 minutes",
			acts: []act{accepted("one"), func(s *story) { s.versions = nil }, wait(cacheFor), accepted("one"), unavailable("x"), calls(2), wait(maxStale), unavailable("one")}},

		// Half an outage: AWSPREVIOUS can't be read.
		{name: "with AWSPREVIOUS unreadable the current token works, and no other can be judged",
			acts: []act{rotate("two"), fail(secret.Previous), accepted("two"), unavailable("one"), unavailable("x"), calls(3)}},
		{name: "with AWSPREVIOUS unreadable a previous token that is known still works",
			acts: []act{rotate("two"), accepted("one"), fail(secret.Previous), wait(cacheFor), accepted("two"), accepted("one"), unavailable("x")}},
		{name: "with AWSPREVIOUS unreadable a current token that is replaced still works",
			acts: []act{accepted("one"), fail(secret.Previous), rotate("two"), wait(10 * sec), accepted("two"), accepted("one"), unavailable("x")}},
		{name: "a token carried over so works 15 minutes from its last good read, and no longer",
			acts: []act{rotate("two"), accepted("one"), fail(secret.Previous),
				wait(5 * time.Minute), accepted("two"), accepted("one"), wait(5 * time.Minute), accepted("two"), accepted("one"),
				wait(5*time.Minute - ns), accepted("one"), accepted("two"), wait(ns), unavailable("one"), accepted("two")}},
		{name: "a token carried over so never outlives the grace",
			cfg: secret.Config{CacheFor: cacheFor, Grace: 5 * time.Minute},
			acts: []act{rotate("two"), accepted("one"), fail(secret.Previous),
				wait(4 * time.Minute), accepted("two"), wait(time.Minute - ns), accepted("one"), wait(ns), refused("one"), accepted("two")}},
		{name: "a replaced token carried over so never outlives the grace, whenever it was read",
			cfg: secret.Config{CacheFor: cacheFor, Grace: 30 * sec},
			acts: []act{accepted("one"), fail(secret.Previous), rotate("two"), wait(29 * sec), accepted("two"), accepted("one"),
				wait(sec - ns), accepted("one"), wait(ns), unavailable("one"), accepted("two"), wait(10 * sec), refused("one"), accepted("two")}},
		{name: "once AWSPREVIOUS is readable again wrong tokens are called wrong",
			acts: []act{rotate("two"), fail(secret.Previous), unavailable("x"), heal, wait(10 * sec), refused("x"), accepted("one")}},
		{name: "a token carried over is dropped once AWSPREVIOUS says otherwise",
			acts: []act{accepted("one"), rotate("two"), rotate("three"), fail(secret.Previous), wait(10 * sec), accepted("three"), accepted("one"), heal, wait(10 * sec), accepted("two"), refused("one")}},
		{name: "a malformed AWSPREVIOUS is an unreadable one",
			acts: []act{rotate("two"), serve(`{"token":"one"}`, secret.Previous), accepted("two"), unavailable("one"), unavailable("x")}},
		{name: "an empty AWSPREVIOUS is an unreadable one",
			acts: []act{rotate("two"), serve("", secret.Previous), accepted("two"), unavailable("one"), unavailable("")}},
		{name: "an unreadable AWSPREVIOUS doesn't matter after the grace",
			acts: []act{rotate("two"), fail(secret.Previous), wait(grace), accepted("two"), refused("one"), calls(1)}},

		// The wall clock.
		{name: "a clock that steps back ends the cache",
			acts: []act{accepted("one"), calls(1), wait(-ns), accepted("one"), calls(1)}},
		{name: "a clock that steps back in an outage denies, until it is back",
			acts: []act{accepted("one"), fail(), wait(-time.Hour), unavailable("one"), unavailable("x"), wait(30 * time.Minute), unavailable("one"), wait(30 * time.Minute), accepted("one")}},
		{name: "a clock that steps back doesn't wait for a pause to end in the future",
			acts: []act{accepted("one"), rotate("two"), wait(-time.Hour), accepted("two"), wait(10 * sec), refused("x"), calls(5)}},
		{name: "a clock that steps back to before the end of the read makes its result unknowable, not wrong",
			acts: []act{func(s *story) { s.disturb(s.slow) }, accepted("one"), wait(-ns), unavailable("one"), calls(1), wait(ns), accepted("one"), calls(0)}},
		{name: "a clock that steps back carries nothing over",
			acts: []act{rotate("two"), accepted("one"), fail(secret.Previous), wait(-time.Hour), accepted("two"), unavailable("one")}},
		{name: "a clock that leaps forward (a frozen Lambda) ends every age",
			acts: []act{accepted("one"), fail(), wait(7 * 24 * time.Hour), unavailable("one")}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := newVault()
			cfg := row.cfg
			if cfg.CacheFor == 0 {
				cfg.CacheFor, cfg.Grace = cacheFor, grace
			}
			cfg.Store, cfg.Now = v, v.clock.Now
			s := &story{T: t, vault: v, token: secret.NewRotating(cfg), mark: v.clock.Now()}
			for _, act := range row.acts {
				act(s)
			}
		})
	}
}

func configuredDigest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// malformed are contents of a secret that are no token.
var malformed = map[string]string{
	"nothing":                 "",
	"a newline":               "\n",
	"a space inside":          "one two",
	"a JSON object":           `{"token":"one"}`,
	"a JSON object in lines":  "\n{\n \"username\": \"one\"\n}\n",
	"a cut JSON object":       `{`,
	"513 bytes":               strings.Repeat("x", 513),
	"64 KiB":                  strings.Repeat("x", 64<<10),
	"letters beyond ASCII":    "öne",
	"bytes that are no UTF-8": "\xff\xfe",
	"a cut digest":            "sha256:0123456789abcdef",
	"a NUL":                   "one\x00",
	"an issued key":           key,
}

// TestRotatingMalformed is P1: a secret that holds no token is an outage, cold
// or warm, and never matches anything.
func TestRotatingMalformed(t *testing.T) {
	t.Parallel()
	for name, text := range malformed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVault()
			token := secret.NewRotating(secret.Config{Store: v, Now: v.clock.Now, CacheFor: cacheFor, Grace: grace})
			s := &story{T: t, vault: v, token: token}
			cold := []act{serve(text), unavailable(text), unavailable(strings.TrimSpace(text)), unavailable("one"), calls(1)}
			warm := []act{heal, wait(sec), accepted("one"), serve(text), wait(maxStale - ns), accepted("one"), unavailable(text), wait(ns), unavailable("one")}
			for _, act := range append(cold, warm...) {
				act(s)
			}
		})
	}
}

// TestRotatingErrorsSayWhatToDo: the log's reader learns which stage is wrong,
// and how; the store's own error stays in the chain.
func TestRotatingErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name  string
		fault fault
		stage string
		want  string
	}{
		{"a store that is down", down, secret.Current, "reading AWSCURRENT: dial tcp: connection refused"},
		{"a store that is down for AWSPREVIOUS", down, secret.Previous, "reading AWSPREVIOUS: dial tcp: connection refused"},
		{"a JSON object", serving(`{"password":"hunter2"}`), secret.Current, "AWSCURRENT is a JSON object: store the token itself, as plain text"},
		{"an empty secret", serving(""), secret.Current, "AWSCURRENT is no token: it is empty"},
		{"a previous one with a space", serving("hunter 2"), secret.Previous, "AWSPREVIOUS is no token: it has a space or a character outside printable ASCII, which no client could send"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := newVault()
			v.rotate("two")
			v.disturb(row.fault, row.stage)
			token := secret.NewRotating(secret.Config{Store: v, Now: v.clock.Now, CacheFor: cacheFor, Grace: grace})
			ok, err := token.Match(t.Context(), secret.DigestOf("x"))
			if ok || err == nil || err.Error() != row.want {
				t.Errorf("%v, %v\nwant the error %s", ok, err, row.want)
			}
			if _, served := row.fault("", nil); served != nil && !errors.Is(err, served) {
				t.Errorf("%v doesn't wrap the store's error", err)
			}
		})
	}
}

// storeFunc is a store for faults that a vault doesn't have.
type storeFunc func(ctx context.Context, stage string) (secret.Version, error)

func (f storeFunc) Read(ctx context.Context, stage string) (secret.Version, error) {
	return f(ctx, stage)
}

var one = secret.Version{Value: secret.New("one"), CreatedAt: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}

// TestRotatingHungStore: a call has 1 s and two tries, on the real clock.
func TestRotatingHungStore(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name   string
		answer func(ctx context.Context, try int) (secret.Version, error)
		want   string
		after  time.Duration
	}{
		{"a store that never answers denies after two tries of a second", func(ctx context.Context, _ int) (secret.Version, error) {
			<-ctx.Done()
			return secret.Version{}, ctx.Err()
		}, "unavailable", 2 * sec},
		{"a store that answers the second try is in time", func(ctx context.Context, try int) (secret.Version, error) {
			if try == 1 {
				<-ctx.Done()
				return secret.Version{}, ctx.Err()
			}
			return one, nil
		}, "accepted", sec},
		{"a store that needs nearly a second is in time", func(context.Context, int) (secret.Version, error) {
			time.Sleep(sec - ns)
			return one, nil
		}, "accepted", sec - ns},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				store := storeFunc(func(ctx context.Context, _ string) (secret.Version, error) {
					tries++
					return row.answer(ctx, tries)
				})
				s := &story{T: t, vault: newVault(), token: secret.NewRotating(secret.Config{Store: store, CacheFor: cacheFor, Grace: grace})}
				start := time.Now()
				if got := s.match("one"); got != row.want {
					t.Errorf("the token is %s, want %s", got, row.want)
				}
				if took := time.Since(start); took != row.after {
					t.Errorf("after %s, want %s", took, row.after)
				}
			})
		})
	}
}

// TestRotatingOutlivesItsCaller: whoever happens to trigger a refresh may leave;
// what is read is everybody's.
func TestRotatingOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	store := storeFunc(func(ctx context.Context, _ string) (secret.Version, error) { return one, ctx.Err() })
	token := secret.NewRotating(secret.Config{Store: store, CacheFor: cacheFor})
	gone, leave := context.WithCancel(t.Context())
	leave()
	if ok, err := token.Match(gone, secret.DigestOf("one")); !ok || err != nil {
		t.Errorf("the refresh ended with its caller: %v, %v", ok, err)
	}
}

// gated is a store whose calls wait until the gate is open. The first tells
// that it is there; entered has room for that.
func gated(inner secret.Store, entered chan<- string, open <-chan struct{}) secret.Store {
	return storeFunc(func(ctx context.Context, stage string) (secret.Version, error) {
		select {
		case entered <- stage:
		default:
		}
		<-open
		return inner.Read(ctx, stage)
	})
}

// switchable is a store that can be exchanged between requests.
type switchable struct{ secret.Store }

// TestRotatingKnownTokenNeverWaits: an early refresh that hangs is the wrong
// token's affair, P1 and P8.
func TestRotatingKnownTokenNeverWaits(t *testing.T) {
	t.Parallel()
	v := newVault()
	store := &switchable{v}
	s := &story{T: t, vault: v, token: secret.NewRotating(secret.Config{Store: store, CacheFor: cacheFor, Grace: grace, Now: v.clock.Now})}
	accepted("one")(s)

	v.clock.Add(10 * sec)
	entered, open := make(chan string, 1), make(chan struct{})
	store.Store = gated(v, entered, open)
	wrong := make(chan string, 1)
	go func() { wrong <- s.match("x") }()
	select {
	case <-entered:
	case got := <-wrong:
		t.Fatalf("the wrong token is %s without a refresh", got)
	}

	known := make(chan string, 1)
	go func() {
		got := ""
		for range 100 {
			got = s.match("one")
		}
		known <- got
	}()
	select {
	case got := <-known:
		if got != "accepted" {
			t.Errorf("a known token is %s", got)
		}
	case <-time.After(10 * sec):
		t.Error("a known token waits for an early refresh")
	}
	close(open)
	if got := <-wrong; got != "refused" {
		t.Errorf("the wrong token is %s", got)
	}
}

// TestRotatingOneFlight: however many tokens need a refresh at a time, one is
// made, and all get what came of it.
func TestRotatingOneFlight(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name  string
		first []act
		token func(i int) string
		want  string
		calls int
	}{
		{"a cold process under right tokens", nil, func(int) string { return "one" }, "accepted", 1},
		{"a cold process under wrong tokens", nil, func(i int) string { return fmt.Sprint("wrong", i) }, "refused", 1},
		{"a cold process and a store that hangs", []act{hang()}, func(int) string { return "one" }, "unavailable", 2},
		{"a warm process under wrong tokens", []act{accepted("one"), wait(10 * sec), calls(1)}, func(i int) string { return fmt.Sprint("wrong", i) }, "refused", 1},
		{"a warm process under a new token", []act{accepted("one"), wait(10 * sec), rotate("two"), calls(1)}, func(int) string { return "two" }, "accepted", 2},
		{"a warm process whose cache ended", []act{accepted("one"), wait(cacheFor), calls(1)}, func(int) string { return "one" }, "accepted", 1},
		{"a warm process, wrong tokens and a store that hangs", []act{accepted("one"), wait(10 * sec), hang(), calls(1)}, func(int) string { return "x" }, "unavailable", 2},
		{"a stale process and a store that hangs", []act{accepted("one"), wait(maxStale), hang(), calls(1)}, func(int) string { return "one" }, "unavailable", 2},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := newVault()
			store := &switchable{v}
			s := &story{T: t, vault: v, token: secret.NewRotating(secret.Config{Store: store, CacheFor: cacheFor, Grace: grace, Now: v.clock.Now})}
			for _, act := range row.first {
				act(s)
			}
			const n = 64
			entered, open := make(chan string, 1), make(chan struct{})
			store.Store = gated(v, entered, open)
			var done sync.WaitGroup
			results := make([]string, n)
			for i := range n {
				done.Go(func() { results[i] = s.match(row.token(i)) })
			}
			finished := make(chan struct{})
			go func() { done.Wait(); close(finished) }()
			select {
			case <-entered:
				time.Sleep(5 * time.Millisecond) // so that most of them wait; who comes later must get the same
			case <-finished: // without a call
			}
			close(open)
			<-finished
			for i, got := range results {
				if got != row.want {
					t.Fatalf("token %d is %s, want %s", i, got, row.want)
				}
			}
			if got := v.calls(); got != row.calls {
				t.Errorf("%d calls to the store, want %d", got, row.calls)
			}
		})
	}
}

// BenchmarkMatch is what a request costs whose token is known, and one whose
// token is not, inside the pause.
func BenchmarkMatch(b *testing.B) {
	for name, d := range map[string]secret.Digest{"known": secret.DigestOf("one"), "wrong": secret.DigestOf("x")} {
		b.Run(name, func(b *testing.B) {
			v := newVault()
			token := secret.NewRotating(secret.Config{Store: v, CacheFor: cacheFor, Grace: grace, Now: v.clock.Now})
			for b.Loop() {
				token.Match(b.Context(), d)
			}
		})
	}
}
