package keys_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/secret"
	"postern/shared/table"
)

// is fails the test unless source answers for token with want: nil, a Reason or
// auth.ErrUnavailable, and with the right caller or none.
func is(t testing.TB, source *keys.Source, token string, want error) {
	t.Helper()
	c, err := source.Verify(t.Context(), token)
	if !errors.Is(err, want) || err != nil && c.ID != "" || err == nil && (want != nil || c.ID != token[8:20]) {
		t.Errorf("%q, %v; want %v", c.ID, err, want)
	}
	var reason auth.Reason
	if errors.Is(err, auth.ErrUnavailable) && errors.As(err, &reason) {
		t.Errorf("an outage calls the key %s", reason)
	}
	if err != nil && strings.Contains(err.Error(), token[21:]) {
		t.Errorf("an error says the key, P4")
	}
}

// wrong is another token of token's id.
func wrong(token string) string { return tokenOf(token[8:20], someSecret) }

// TestMalformedAsksNobody: a mistyped key is refused without a look-up, also with
// a store that is down.
func TestMalformedAsksNobody(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	source := s.source()
	if !source.Owns(token) || source.Owns(token+"0") || source.Owns("x"+token) || source.Owns(secret.Generate().Reveal()) {
		t.Error("it owns what it doesn't, or not what it does")
	}
	s.table.asked()
	s.table.down(true)
	for i := 21; i < len(token); i++ {
		for _, c := range []string{"0", "z"} {
			if mistyped := token[:i] + c + token[i+1:]; mistyped != token {
				is(t, source, mistyped, auth.Malformed)
			}
		}
	}
	if gets, _ := s.table.asked(); gets > 0 {
		t.Errorf("the table is asked %d times", gets)
	}
}

// TestReasons: why a key is refused is found only after its token was right.
func TestReasons(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, row := range []struct {
		name   string
		change func(id string)
		want   error
	}{
		{"a good key", func(string) {}, nil},
		{"a disabled one", func(id string) { s.ask("PATCH", "/keys/"+id, `{"disabled":true}`).want(t, 200) }, auth.Disabled},
		{"an expired one", func(id string) {
			s.ask("PATCH", "/keys/"+id, `{"expires_at":"2026-03-04T12:00:01Z"}`).want(t, 200)
			s.Add(time.Second)
		}, auth.Expired},
		{"a revoked one", func(id string) { s.ask("DELETE", "/keys/"+id, "").want(t, 204) }, auth.Revoked},
		{"a revoked one that was disabled", func(id string) {
			s.ask("PATCH", "/keys/"+id, `{"disabled":true}`).want(t, 200)
			s.ask("DELETE", "/keys/"+id, "").want(t, 204)
		}, auth.Revoked},
	} {
		s.Set(noon)
		token := s.create(plain).Token
		row.change(token[8:20])
		source := s.source()
		is(t, source, token, row.want)
		is(t, source, wrong(token), auth.Unknown)
		is(t, source, token, row.want)
	}
	is(t, s.source(), tokenOf("AAAAAAAAAAAA", someSecret), auth.Unknown)
}

// TestOtherTokensAreRefused: what is in the table is no way in, and neither is
// the digest of nothing.
func TestOtherTokensAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	digest := secret.DigestOf(token).Reveal()
	source := s.source()
	is(t, source, token, nil)
	for _, guess := range []string{digest[:43], strings.ToUpper(digest)[:43], digest[21:], strings.Repeat("0", 43)} {
		s.Add(time.Second)
		is(t, source, tokenOf(token[8:20], guess), auth.Unknown)
	}
}

// TestEverywhereWithinFiveSeconds is P2: whatever is taken from a key, every
// process refuses it, or knows of it, 5 s after the answer to the administrator.
func TestEverywhereWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, method, path, body string
		status                   int
		right                    func(auth.Caller, error) bool
	}{
		{"revoked", "DELETE", "", "", 204, func(_ auth.Caller, err error) bool { return err == auth.Revoked }},
		{"disabled", "PATCH", "", `{"disabled":true}`, 200, func(_ auth.Caller, err error) bool { return err == auth.Disabled }},
		{"without a scope", "PATCH", "", `{"scopes":["agents:read"]}`, 200, func(c auth.Caller, _ error) bool { return c.ID != "" && !c.Holds("chat") }},
		{"without an agent", "PATCH", "", `{"agents":["b"]}`, 200, func(c auth.Caller, _ error) bool { return c.MayUse("b") && !c.MayUse("a") }},
		{"with fewer addresses", "PATCH", "", `{"allowed_ips":["192.0.2.7"]}`, 200, func(c auth.Caller, _ error) bool { return c.ID != "" && !c.Addresses.All() }},
		{"with another limit", "PATCH", "", `{"rate_limit":1}`, 200, func(c auth.Caller, _ error) bool { return c.ID != "" && c.HourlyLimit(5) == 1 }},
		{"with a budget", "PATCH", "", `{"tokens_per_day":1}`, 200, func(c auth.Caller, _ error) bool { return c.TokensPerDay != nil }},
		{"with an expiry", "PATCH", "", `{"expires_at":"2026-03-04T12:00:04Z"}`, 200, func(_ auth.Caller, err error) bool { return err == auth.Expired }},
		{"rotated without a grace", "POST", "/rotate", `{"grace":"0"}`, 200, func(_ auth.Caller, err error) bool { return err == auth.Unknown }},
		{"rotated with a short grace", "POST", "/rotate", `{"grace":"5s"}`, 200, func(_ auth.Caller, err error) bool { return err == auth.Unknown }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			token := s.create(plain).Token
			var sources []*keys.Source
			for i := range 5 { // which read the record at different times
				source := s.source()
				is(t, source, token, nil)
				sources = append(sources, source)
				if i < 4 {
					s.Add(time.Second)
				}
			}
			now := s.Now()
			s.Set(noon.Add(time.Millisecond)) // the administrator's clock need not be theirs
			s.ask(row.method, "/keys/"+token[8:20]+row.path, row.body).want(t, row.status)
			s.Set(now)
			old := 0
			for at := range 50 {
				s.Set(now.Add(time.Duration(at) * 100 * time.Millisecond))
				for _, source := range sources {
					if c, err := source.Verify(t.Context(), token); !row.right(c, err) {
						old++
					}
				}
			}
			if old == 0 {
				t.Error("nobody served from the cache, so this test shows nothing")
			}
			s.Set(now.Add(5 * time.Second))
			for i, source := range sources {
				if c, err := source.Verify(t.Context(), token); !row.right(c, err) {
					t.Errorf("source %d after 5 s: %+v, %v", i, c, err)
				}
			}
		})
	}
}

// TestExpiryIsExact is P2: to the nanosecond, from the cache, with no call.
func TestExpiryIsExact(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(`{"name":"ci","scopes":["chat"],"expires_at":"2026-03-04T12:00:03.5Z"}`).Token
	source := s.source()
	is(t, source, token, nil)
	s.table.asked()
	s.Set(noon.Add(3500*time.Millisecond - 1))
	is(t, source, token, nil)
	s.Set(noon.Add(3500 * time.Millisecond))
	is(t, source, token, auth.Expired)
	if gets, _ := s.table.asked(); gets > 0 {
		t.Errorf("the table is asked %d times", gets)
	}
}

// TestAge: a record serves 5 s from before its read began, and not beyond,
// whatever the store does; and a clock that steps back ends that.
func TestAge(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	source := s.source()
	slow := func(d time.Duration) {
		s.table.onEach(nil, func(op string, key table.Key) error { s.Add(d); return nil })
	}
	slow(3 * time.Second)
	is(t, source, token, nil)
	s.table.down(true)
	s.Set(noon.Add(5*time.Second - 1))
	is(t, source, token, nil)
	s.Set(noon.Add(5 * time.Second))
	is(t, source, token, auth.ErrUnavailable)
	s.Set(noon.Add(4 * time.Second)) // a step back, though not behind the read
	is(t, source, token, nil)
	s.Set(noon.Add(-1)) // behind the read
	is(t, source, token, auth.ErrUnavailable)

	s.Set(noon.Add(time.Hour))
	slow(5 * time.Second) // as old as can be when it arrives
	is(t, source, token, auth.ErrUnavailable)
	s.Set(noon.Add(2 * time.Hour))
	slow(-time.Hour)
	is(t, source, token, auth.ErrUnavailable)
	s.Set(noon.Add(3 * time.Hour))
	slow(5*time.Second - 1)
	is(t, source, token, nil)
}

// TestWallTime: a Lambda's monotonic clock stops while it is frozen, so ages are
// not taken by it.
func TestWallTime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	frozen := time.Now()
	thawed := frozen
	*(*uint64)(unsafe.Pointer(&thawed)) += 6 << 30 // the seconds of the wall clock, in package time's struct
	if thawed.Sub(frozen) != 0 || thawed.Round(0).Sub(frozen.Round(0)) != 6*time.Second {
		t.Fatal("a time has another layout now: the test needs another way to move the wall clock alone")
	}
	now := frozen
	source := keys.NewSource(s.table, func() time.Time { return now })
	is(t, source, token, nil)
	s.table.asked()
	now = thawed
	is(t, source, token, nil)
	if gets, _ := s.table.asked(); gets != 1 {
		t.Errorf("after 6 s of wall time the table is asked %d times", gets)
	}
}

// TestOutage is P1: beyond 5 s nobody is let in and no well-formed key called
// wrong; within them a known one works.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token, cold := s.create(plain).Token, s.create(plain).Token
	source := s.source()
	is(t, source, token, nil)
	s.table.down(true)
	is(t, source, cold, auth.ErrUnavailable)
	is(t, source, tokenOf("AAAAAAAAAAAA", someSecret), auth.ErrUnavailable)
	is(t, source, wrong(token), auth.ErrUnavailable) // it may be the new one
	is(t, source, token, nil)
	is(t, source, wrong(token), auth.ErrUnavailable) // within the second nobody is asked again
	if gets, _ := s.table.asked(); gets != 4 {       // the first of token, and three that failed
		t.Errorf("the table is asked %d times", gets)
	}
	s.Add(4 * time.Second)
	is(t, source, token, nil)
	is(t, source, wrong(token), auth.ErrUnavailable)
	s.Add(time.Second)
	is(t, source, token, auth.ErrUnavailable)
	is(t, source, wrong(token), auth.ErrUnavailable)
	s.table.down(false)
	is(t, source, token, nil)
	is(t, source, wrong(token), auth.Unknown)
	is(t, source, cold, nil)
}

// TestOutageEnds: what a failed read left open is closed by the next one.
func TestOutageEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	source := s.source()
	is(t, source, token, nil)
	s.table.down(true)
	is(t, source, wrong(token), auth.ErrUnavailable)
	s.table.down(false)
	is(t, source, wrong(token), auth.ErrUnavailable) // not asked so soon
	s.Add(time.Second)
	is(t, source, wrong(token), auth.Unknown)
	s.table.down(true)
	is(t, source, wrong(token), auth.Unknown) // what was read just now says so
	s.Add(time.Second)
	is(t, source, wrong(token), auth.ErrUnavailable)
}

// TestMalformedRecords is P1: a record that can't be understood lets nobody in,
// and is no key with fewer bounds; one in another's place is that too, I19.
func TestMalformedRecords(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(`{"name":"ci","scopes":["chat"],"allowed_ips":["192.0.2.7"]}`).Token
	other := s.create(plain).Token
	key := table.Key{Partition: "key#" + token[8:9], Sort: token[8:20]}
	item, err := s.table.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	good, version := string(item.Value), item.Version
	digest := secret.DigestOf(token).Reveal()
	with := func(member string) string { return strings.Replace(good, "{", "{"+member+",", 1) }
	old := `{"digest":"` + digest + `","expires_at":"2027-01-01T00:00:00Z"}`
	put := func(value string) {
		t.Helper()
		if version, err = s.table.Put(t.Context(), key, []byte(value), version, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{
		"nothing":                  "",
		"no JSON":                  good[1:],
		"half of it":               good[:len(good)/2],
		"null":                     "null",
		"an array":                 "[]",
		"another's":                strings.ReplaceAll(good, token[8:20], other[8:20]),
		"no id":                    strings.Replace(good, `"id"`, `"ID2"`, 1),
		"no digest":                strings.Replace(good, `"digest"`, `"digits"`, 1),
		"half a digest":            strings.Replace(good, digest, digest[:62], 1),
		"a digest that is none":    strings.Replace(good, digest, strings.Repeat("x", 64), 1),
		"an empty list of IPs":     strings.Replace(good, `["192.0.2.7"]`, `[]`, 1),
		"a list of all IPs":        strings.Replace(good, `["192.0.2.7"]`, `["*"]`, 1),
		"a list of an empty IP":    strings.Replace(good, `["192.0.2.7"]`, `[""]`, 1),
		"a list with no IP in it":  strings.Replace(good, `["192.0.2.7"]`, `["here"]`, 1),
		"a time that is none":      with(`"expires_at":"soon"`),
		"a limit that is none":     with(`"rate_limit":"10"`),
		"a grace without a digest": with(`"previous_expires_at":"2027-01-01T00:00:00Z"`),
		"a digest without a grace": with(`"older":[` + old + `]`),
		"an older digest cut":      with(`"previous_expires_at":"2027-01-01T00:00:00Z","older":[` + strings.Replace(old, digest, digest[:62], 1) + `]`),
		"an end of no older token": with(`"previous_expires_at":"2027-01-02T00:00:00Z","older":[` + old + `]`),
		"five older tokens":        with(`"previous_expires_at":"2027-01-01T00:00:00Z","older":[` + old + strings.Repeat(","+old, 4) + `]`),
	} {
		if value == good {
			t.Fatalf("%s: the record is whole", name)
		}
		put(value)
		source := s.source()
		_, err := source.Verify(t.Context(), token)
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), digest) {
			t.Errorf("%s: the error says the digest: %v", name, err)
		}
		is(t, source, wrong(token), auth.ErrUnavailable)
		is(t, source, other, nil)
	}
	put(good)
	is(t, s.source(), token, nil)
	put(with(`"previous_expires_at":"2027-01-01T00:00:00Z","older":[` + old + strings.Repeat(","+old, 3) + `]`))
	is(t, s.source(), token, nil)
}

// TestOneKeysVerdictIsNeverAnothers is I19: ids that differ in their last
// character alone, one of them good, one disabled, one not there.
func TestOneKeysVerdictIsNeverAnothers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := s.create(`{"name":"ci","scopes":["chat"],"agents":["clerk"]}`).Token
	key := func(id string) table.Key { return table.Key{Partition: "key#" + id[:1], Sort: id} }
	id := good[8:20]
	sibling := func(last byte) string { return tokenOf(id[:11]+string(last), good[21:64]) }
	others := strings.ReplaceAll("012", id[11:], "") // made by chance, so it may end in any of them
	neighbour, absent := sibling(others[0]), sibling(others[1])
	item, err := s.table.Get(t.Context(), key(id))
	if err != nil {
		t.Fatal(err)
	}
	record := strings.ReplaceAll(string(item.Value), id, neighbour[8:20])
	record = strings.Replace(record, secret.DigestOf(good).Reveal(), secret.DigestOf(neighbour).Reveal(), 1)
	record = strings.Replace(record, "{", `{"disabled":true,`, 1)
	if _, err := s.table.Put(t.Context(), key(neighbour[8:20]), []byte(record), 0, time.Time{}); err != nil {
		t.Fatal(err)
	}
	source := s.source()
	for range 3 { // cold, cached, and cached with all the others
		is(t, source, good, nil)
		is(t, source, neighbour, auth.Disabled)
		is(t, source, absent, auth.Unknown)
		is(t, source, wrong(good), auth.Unknown)
		is(t, source, wrong(neighbour), auth.Unknown)
	}
}

// TestWarmIsFree: a cached record costs no call, of a good key, a refused one and
// one that there is not; wrong tokens of an id cost one a second.
func TestWarmIsFree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	absent := tokenOf("AAAAAAAAAAAA", someSecret)
	source := s.source()
	is(t, source, token, nil)
	is(t, source, absent, auth.Unknown)
	is(t, source, absent, auth.Unknown) // as for any wrong token, the first after the read asks again
	s.table.asked()
	for at := range 100 {
		s.Set(noon.Add(time.Duration(at) * 9 * time.Millisecond))
		is(t, source, token, nil)
		is(t, source, absent, auth.Unknown)
	}
	if gets, _ := s.table.asked(); gets != 0 {
		t.Errorf("warm, the table is asked %d times", gets)
	}
	s.Set(noon.Add(time.Second))
	for range 100 {
		is(t, source, wrong(token), auth.Unknown)
		is(t, source, absent, auth.Unknown)
		is(t, source, token, nil)
	}
	if gets, _ := s.table.asked(); gets != 2 {
		t.Errorf("wrong tokens of two ids ask the table %d times", gets)
	}
	for at := range 400 { // 4 s
		s.Set(noon.Add(2*time.Second + time.Duration(at)*10*time.Millisecond))
		is(t, source, wrong(token), auth.Unknown)
	}
	if gets, _ := s.table.asked(); gets != 4 {
		t.Errorf("in 4 s wrong tokens ask the table %d times", gets)
	}
}

// TestWorksAtOnce: a rotated key's new token works at once, in every process that
// has the old record, and so does a key where there was none.
func TestWorksAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	a, b := s.source(), s.source()
	for range 3 {
		is(t, a, token, nil)
		is(t, b, token, nil)
		rotated := s.ask("POST", "/keys/"+token[8:20]+"/rotate", "").want(t, 200).key(t).Token
		is(t, a, rotated, nil)
		is(t, a, token, nil)
		is(t, b, rotated, nil)
		token = rotated
		s.Add(time.Second)
	}

	issued := tokenOf("AAAAAAAAAAAA", someSecret)
	is(t, a, issued, auth.Unknown)
	value := `{"id":"AAAAAAAAAAAA","name":"n","scopes":["chat"],"digest":"` + secret.DigestOf(issued).Reveal() + `"}`
	if _, err := s.table.Put(t.Context(), table.Key{Partition: "key#A", Sort: "AAAAAAAAAAAA"}, []byte(value), 0, time.Time{}); err != nil {
		t.Fatal(err)
	}
	is(t, a, issued, nil)
	if known, absent := keys.Cached(a); known != 2 || absent != 0 {
		t.Errorf("%d and %d ids are kept", known, absent)
	}
}

// TestFlood is P15: made-up ids push out each other and no key, and there are
// never more than 10,000 of all.
func TestFlood(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var tokens []string
	for range 100 {
		tokens = append(tokens, s.create(plain).Token)
	}
	source := s.source()
	for _, token := range tokens {
		is(t, source, token, nil)
	}
	for i := range 20_000 {
		is(t, source, tokenOf(fmt.Sprintf("%012d", i), someSecret), auth.Unknown)
	}
	s.table.asked()
	for _, token := range tokens {
		is(t, source, token, nil)
	}
	if gets, _ := s.table.asked(); gets != 0 {
		t.Errorf("%d of 100 live keys were pushed out", gets)
	}
	if known, absent := keys.Cached(source); known != 100 || absent > 1000 || absent < 900 {
		t.Errorf("%d and %d ids are kept", known, absent)
	}
}

// TestCacheIsBounded: more keys than there is room for are served all the same.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	source := s.source()
	for i := range 12_000 {
		token := tokenOf(fmt.Sprintf("%012d", i), someSecret)
		value := `{"id":"` + token[8:20] + `","name":"n","scopes":["chat"],"digest":"` + secret.DigestOf(token).Reveal() + `"}`
		if _, err := s.table.Put(t.Context(), table.Key{Partition: "key#0", Sort: token[8:20]}, []byte(value), 0, time.Time{}); err != nil {
			t.Fatal(err)
		}
		is(t, source, token, nil)
	}
	if known, absent := keys.Cached(source); known != 9000 || absent != 0 {
		t.Errorf("%d and %d ids are kept", known, absent)
	}
}

// gate stops reads until it is opened.
type gate struct {
	table.Table
	open   chan struct{}
	panics bool
}

func (g *gate) Get(ctx context.Context, key table.Key) (table.Item, error) {
	select {
	case <-g.open:
		if g.panics {
			panic("boom")
		}
		return g.Table.Get(ctx, key)
	case <-ctx.Done():
		return table.Item{}, ctx.Err()
	}
}

// TestOneFlight: however many ask for an id at once, the table is asked once; a
// token that is known waits for nobody; who leaves doesn't take the read along.
func TestOneFlight(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Table: s.table, open: make(chan struct{})}
		source := keys.NewSource(g, s.Now)
		s.table.asked()
		first, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		verify := func(ctx context.Context, token string, want error) {
			all.Go(func() {
				if c, err := source.Verify(ctx, token); !errors.Is(err, want) || want == nil && c.ID != token[8:20] {
					t.Errorf("%q, %v; want %v", c.ID, err, want)
				}
			})
		}
		verify(first, token, nil) // it flies for all
		synctest.Wait()
		for range 50 {
			verify(t.Context(), token, nil)
		}
		impatient, hurry := context.WithCancel(t.Context())
		verify(impatient, token, auth.ErrUnavailable)
		synctest.Wait()
		hurry()
		leave()
		synctest.Wait()
		close(g.open)
		all.Wait()
		if gets, _ := s.table.asked(); gets != 1 {
			t.Errorf("the table is asked %d times", gets)
		}

		// A read that a wrong token causes holds up other wrong ones alone.
		g.open = make(chan struct{})
		for range 10 {
			verify(t.Context(), wrong(token), auth.Unknown)
		}
		synctest.Wait()
		is(t, source, token, nil)
		close(g.open)
		all.Wait()
		if gets, _ := s.table.asked(); gets > 1 {
			t.Errorf("for ten wrong tokens the table is asked %d times", gets)
		}
	})
}

// TestReadThatHangs is given up after 2 s, for all who wait, and the next one
// asks again.
func TestReadThatHangs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Table: s.table, open: make(chan struct{})}
		source := keys.NewSource(g, s.Now)
		began := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { is(t, source, token, auth.ErrUnavailable) })
		}
		all.Wait()
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it took %s", took)
		}
		close(g.open)
		is(t, source, token, nil)
	})
}

// TestTokenNewerThanTheFlight: a token that was made while a read was on its way
// is not judged by that read.
func TestTokenNewerThanTheFlight(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	synctest.Test(t, func(t *testing.T) {
		source := s.source()
		var all sync.WaitGroup
		between := true
		s.table.onEach(nil, func(op string, key table.Key) error {
			if op == "get" && between { // the record is read, and not yet handed on
				between = false
				rotated := s.ask("POST", "/keys/"+token[8:20]+"/rotate", "").want(t, 200).key(t).Token
				all.Go(func() { is(t, source, rotated, nil) })
				synctest.Wait()
			}
			return nil
		})
		is(t, source, token, nil)
		all.Wait()
	})
}

// TestPanicInTheTable leaves nobody waiting, and lets nobody in.
func TestPanicInTheTable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Table: s.table, open: make(chan struct{}), panics: true}
		source := keys.NewSource(g, s.Now)
		var all sync.WaitGroup
		all.Go(func() {
			defer func() {
				if recover() != "boom" {
					t.Error("the panic is not what it was")
				}
			}()
			source.Verify(t.Context(), token)
		})
		synctest.Wait()
		all.Go(func() { is(t, source, token, auth.ErrUnavailable) })
		synctest.Wait()
		close(g.open)
		all.Wait()
		g.panics = false
		is(t, source, token, nil)
	})
}

// TestReadOnly: the authorizer may only get.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	token := s.create(plain).Token
	source := s.source()
	var ops []string
	s.table.onEach(func(op string, key table.Key) error {
		ops = append(ops, op+" "+key.Partition+" "+key.Sort)
		return nil
	}, nil)
	is(t, source, token, nil)
	is(t, source, tokenOf("zzzzzzzzzzzz", someSecret), auth.Unknown)
	if diff := cmp.Diff([]string{"get key#" + token[8:9] + " " + token[8:20], "get key#z zzzzzzzzzzzz"}, ops); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkVerify is what an issued key costs: warm, and with a read each time
// from a table in memory.
func BenchmarkVerify(b *testing.B) {
	s := newSite(b)
	token := s.create(`{"name":"ci","scopes":["chat","agents:read"],"agents":["clerk","judge"],"allowed_ips":["192.0.2.0/24"],"rate_limit":10,"expires_at":"2027-01-01T00:00:00Z"}`).Token
	source := keys.NewSource(s.table.Table, s.Now)
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := source.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unknown", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			source.Verify(b.Context(), wrong(token))
		}
	})
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Add(5 * time.Second)
			if _, err := source.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
}
