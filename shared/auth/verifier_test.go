package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/secret"
)

// source answers for the tokens that begin with prefix.
type source struct {
	prefix string
	caller auth.Caller
	err    error
	asked  []string
}

func (s *source) Owns(token string) bool { return strings.HasPrefix(token, s.prefix) }

func (s *source) Verify(_ context.Context, token string) (auth.Caller, error) {
	s.asked = append(s.asked, token)
	return s.caller, s.err
}

// TestVerifierAsksOne: the first source that owns a token answers for it, and
// no other is asked, whatever it says.
func TestVerifierAsksOne(t *testing.T) {
	t.Parallel()
	down := fmt.Errorf("%w: no route to host", auth.ErrUnavailable)
	rows := []struct {
		name    string
		sources []*source
		token   string
		want    string // the caller
		err     error
		asked   string // by position
	}{
		{"nobody is asked where there is nobody, P6", nil, token, "", auth.Unknown, ""},
		{"nobody owns it", []*source{{prefix: "a_"}, {prefix: "b_"}}, token, "", auth.Unknown, ""},
		{"the one owner is asked", []*source{{prefix: "a_"}, {prefix: "b_", caller: auth.AdminCaller()}}, "b_1", "admin", nil, "1"},
		{"the first of two owners is asked", []*source{{caller: auth.AdminCaller()}, {caller: auth.RootCaller()}}, token, "admin", nil, "0"},
		{"a refusal is final", []*source{{err: auth.Revoked}, {caller: auth.RootCaller()}}, token, "", auth.Revoked, "0"},
		{"an outage is final", []*source{{err: down}, {caller: auth.RootCaller()}}, token, "", auth.ErrUnavailable, "0"},
		{"an owner behind strangers is asked alone", []*source{{prefix: "a_", err: down}, {caller: auth.RootCaller()}, {caller: auth.AdminCaller()}}, token, "root", nil, "1"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var sources []auth.Source
			for _, s := range row.sources {
				sources = append(sources, s)
			}
			caller, err := auth.NewVerifier(sources...).Verify(t.Context(), []string{"Bearer " + row.token}, nil)
			if caller.ID != row.want || !errors.Is(err, row.err) {
				t.Errorf("%q, %v; want %q, %v", caller.ID, err, row.want, row.err)
			}
			asked := ""
			for i, s := range row.sources {
				for _, got := range s.asked {
					asked += fmt.Sprint(i)
					if got != row.token {
						t.Errorf("source %d is asked for %q", i, got)
					}
				}
			}
			if asked != row.asked {
				t.Errorf("asked are %q, want %q", asked, row.asked)
			}
		})
	}
}

// TestVerifierMalformedAsksNobody: a missing or malformed credential is 401
// even when a store is down, contract §2.
func TestVerifierMalformedAsksNobody(t *testing.T) {
	t.Parallel()
	for _, row := range credentials {
		if row.want != "" {
			continue
		}
		s := &source{err: auth.ErrUnavailable}
		caller, err := auth.NewVerifier(s).Verify(t.Context(), row.authorization, row.apiKey)
		if !errors.Is(err, row.reason) || len(s.asked) > 0 {
			t.Errorf("%s: %v after %d questions, want %v after none", row.name, err, len(s.asked), row.reason)
		}
		if diff := cmp.Diff(auth.Caller{}, caller); diff != "" {
			t.Errorf("%s: there is a caller beside the error: %s", row.name, diff)
		}
	}
}

// TestReasonsShowNothing: a Reason's text has neither token nor digest, P4.
func TestReasonsShowNothing(t *testing.T) {
	t.Parallel()
	if got := auth.Unknown.Error(); got != "credential refused: unknown" {
		t.Error(got)
	}
	for name, s := range map[string]auth.Source{"configured": &auth.Configured{}, "deployed": deployed(&store{err: errors.New("boom")})} {
		_, err := auth.NewVerifier(s).Verify(t.Context(), nil, []string{token})
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), hexDigest(token)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func hexDigest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// configured is a root, an admin and n clients, in this order.
func configured(n int) (s *auth.Configured, tokens []string) {
	s = &auth.Configured{}
	s.Add(secret.DigestOf("root-token"), auth.RootCaller())
	s.Add(secret.DigestOf("admin-token"), auth.AdminCaller())
	tokens = []string{"root-token", "admin-token"}
	for i := range n {
		tokens = append(tokens, fmt.Sprintf("client-token-%d", i))
		d := secret.DigestOf(tokens[2+i])
		s.Add(d, auth.ClientCaller(d))
	}
	return s, tokens
}

// TestConfiguredFindsEach: first, last and all between match, each with its own
// caller: neither end is special, P3.
func TestConfiguredFindsEach(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 7, 100} {
		s, tokens := configured(n)
		v := auth.NewVerifier(s)
		for i, token := range tokens {
			want := auth.ClientCaller(secret.DigestOf(token))
			switch i {
			case 0:
				want = auth.RootCaller()
			case 1:
				want = auth.AdminCaller()
			}
			for name, headers := range map[string][2][]string{
				"Authorization": {{"Bearer " + token}, nil},
				"X-API-Key":     {nil, {token}},
				"both":          {{"bearer " + token}, {token}},
			} {
				got, err := v.Verify(t.Context(), headers[0], headers[1])
				if err != nil {
					t.Errorf("%d clients: token %d in %s: %v", n, i, name, err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%d clients: token %d in %s: %s", n, i, name, diff)
				}
			}
		}
	}
}

// TestConfiguredStopsAtNone: one token twice, which the settings refuse, is the
// one case where it shows that a match doesn't end the comparing, P3.
func TestConfiguredStopsAtNone(t *testing.T) {
	t.Parallel()
	s := &auth.Configured{}
	s.Add(secret.DigestOf(token), auth.AdminCaller())
	s.Add(secret.DigestOf(token), auth.ClientCaller(secret.DigestOf(token)))
	c, err := s.Verify(t.Context(), token)
	if err != nil || c.Kind != auth.Client {
		t.Errorf("the comparing ended at %q, %v", c.ID, err)
	}
}

// TestConfiguredPresent: who is configured is who it is now, whatever it was; who
// isn't any more is nobody.
func TestConfiguredPresent(t *testing.T) {
	t.Parallel()
	before, tokens := configured(3)
	now := &auth.Configured{}
	bounded := auth.AdminCaller()
	bounded.Name, bounded.Agents = "now", []string{"judge"}
	kept := auth.ClientCaller(secret.DigestOf(tokens[3]))
	now.Add(secret.DigestOf("new-admin-token"), bounded).Add(secret.DigestOf(tokens[3]), kept)
	for token, want := range map[string]auth.Caller{tokens[0]: {}, tokens[1]: bounded, tokens[2]: {}, tokens[3]: kept, tokens[4]: {}} {
		was, err := before.Verify(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		got, err := now.Present(was)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want.ID != "") || err != nil && err != auth.Unknown {
			t.Errorf("%s: %v (-want +got):\n%s", was.ID, err, diff)
		}
	}
	for _, was := range []auth.Caller{{}, auth.AnonymousCaller(), {ID: kept.ID[:14]}, {ID: kept.ID + "0"}} {
		if got, err := now.Present(was); err != auth.Unknown || got.ID != "" {
			t.Errorf("%q is %+v, %v", was.ID, got, err)
		}
	}
}

// TestConfiguredRefuses is the rest of contract §2's 401s.
func TestConfiguredRefuses(t *testing.T) {
	t.Parallel()
	s, tokens := configured(3)
	d, err := secret.ParseConfigured("sha256:" + hexDigest("digested-token"))
	if err != nil {
		t.Fatal(err)
	}
	s.Add(d, auth.ClientCaller(d))
	if c, err := s.Verify(t.Context(), "digested-token"); err != nil || c.Kind != auth.Client {
		t.Fatalf("a credential that is configured as a digest is refused: %v, %v", c, err)
	}
	wrong := map[string]string{"a stranger": "stranger"}
	for _, token := range append(tokens, "digested-token") {
		wrong[token+" cut at the end"] = token[:len(token)-1]
		wrong[token+" cut at the start"] = token[1:]
		wrong[token+" extended"] = token + "0"
		wrong[token+" with something before"] = "0" + token
		wrong[token+" with a NUL after"] = token + "\x00"
		wrong[token+" in capitals"] = strings.ToUpper(token)
		wrong[token+"'s digest"] = hexDigest(token)
		wrong[token+"'s digest in capitals"] = strings.ToUpper(hexDigest(token))
		wrong[token+"'s digest as configured"] = "sha256:" + hexDigest(token)
		wrong[token+"'s digest's digest"] = hexDigest(hexDigest(token))
		wrong[token+"'s label"] = secret.DigestOf(token).Label()
		wrong[token+"'s digest as bytes"] = func() string { sum := sha256.Sum256([]byte(token)); return string(sum[:]) }()
		wrong[token+" twice"] = token + token
		wrong[token+" and the next"] = token + "," + tokens[0]
	}
	wrong["a client's id"] = auth.ClientCaller(secret.DigestOf(tokens[2])).ID
	wrong["root's id"] = "root"
	for name, token := range wrong {
		c, err := s.Verify(t.Context(), token)
		if err != auth.Unknown {
			t.Errorf("%s: %v, want unknown", name, err)
		}
		if diff := cmp.Diff(auth.Caller{}, c); diff != "" {
			t.Errorf("%s: there is a caller: %s", name, diff)
		}
	}
}

// TestNothingConfiguredNobodyEnters is P6: no configuration, no access, not
// even for what an empty configuration might be taken to say.
func TestNothingConfiguredNobodyEnters(t *testing.T) {
	t.Parallel()
	zero := &auth.Configured{}
	zero.Add(secret.Digest{}, auth.RootCaller()) // a digest that was never set
	for name, s := range map[string]*auth.Configured{"nothing": {}, "the zero digest": zero} {
		for _, token := range []string{"", "0", "null", "undefined", "admin", "root", "secret", "changeme", "[redacted]",
			strings.Repeat("0", 64), strings.Repeat("\x00", 32), hexDigest("")} {
			if c, err := s.Verify(t.Context(), token); err != auth.Unknown || c.ID != "" {
				t.Errorf("%s configured: %q is let in as %q, %v", name, token, c.ID, err)
			}
		}
	}
}

// TestClientIDs: an id is the digest's, never a position in a list that an
// operator may edit, contract §2.
func TestClientIDs(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^client-[0-9a-f]{8}$`)
	tokens := []string{"aaa", "bbb", "ccc", "ddd"}
	idOf := func(order ...int) map[string]string {
		s := &auth.Configured{}
		for _, i := range order {
			d := secret.DigestOf(tokens[i])
			s.Add(d, auth.ClientCaller(d))
		}
		ids := map[string]string{}
		for _, i := range order {
			c, err := s.Verify(t.Context(), tokens[i])
			if err != nil {
				t.Fatal(err)
			}
			ids[tokens[i]] = c.ID
			if !form.MatchString(c.ID) || c.ID != "client-"+hexDigest(tokens[i])[:8] {
				t.Errorf("the id of %q is %q", tokens[i], c.ID)
			}
		}
		return ids
	}
	forwards := idOf(0, 1, 2, 3)
	if diff := cmp.Diff(forwards, idOf(3, 2, 1, 0)); diff != "" {
		t.Errorf("the order of the list changes ids: %s", diff)
	}
	if one := idOf(2); one["ccc"] != forwards["ccc"] {
		t.Errorf("a shorter list changes ids: %s, %s", forwards["ccc"], one["ccc"])
	}
}

// TestScopesOfKinds is contract §2's table of who holds what, P11.
func TestScopesOfKinds(t *testing.T) {
	t.Parallel()
	type holds map[route.Scope]bool
	all := []route.Scope{route.Public, route.Any, route.AgentsRead, route.Chat, route.Admin, "", "unheard:of"}
	rows := []struct {
		name   string
		caller auth.Caller
		kind   auth.Kind
		want   holds
		agent  bool // may use some agent
	}{
		{"the root token", auth.RootCaller(), auth.Root, holds{route.Public: true, route.Any: true, route.AgentsRead: true, route.Chat: true, route.Admin: true}, true},
		{"the admin key", auth.AdminCaller(), auth.AdminKey, holds{route.Public: true, route.Any: true, route.AgentsRead: true, route.Chat: true, route.Admin: true}, true},
		{"a client", auth.ClientCaller(secret.DigestOf("x")), auth.Client, holds{route.Public: true, route.Any: true, route.AgentsRead: true, route.Chat: true}, true},
		{"anonymous", auth.AnonymousCaller(), auth.Anonymous, holds{route.Public: true, route.Any: true, route.AgentsRead: true, route.Chat: true}, true},
		{"nobody", auth.Caller{}, "", holds{route.Public: true}, false},
		{"a key without a scope", auth.Caller{ID: "k", Kind: auth.IssuedKey}, auth.IssuedKey, holds{route.Public: true, route.Any: true}, true},
		{"a key for chat alone", auth.Caller{ID: "k", Kind: auth.IssuedKey, Scopes: []route.Scope{route.Chat}}, auth.IssuedKey, holds{route.Public: true, route.Any: true, route.Chat: true}, true},
		{"a key for administration alone", auth.Caller{ID: "k", Kind: auth.IssuedKey, Scopes: []route.Scope{route.Admin}}, auth.IssuedKey, holds{route.Public: true, route.Any: true, route.Admin: true}, true},
	}
	for _, row := range rows {
		if row.caller.Kind != row.kind {
			t.Errorf("%s is of kind %q", row.name, row.caller.Kind)
		}
		for _, s := range all {
			if got := row.caller.Holds(s); got != row.want[s] {
				t.Errorf("%s holds %q: %v", row.name, s, got)
			}
		}
		if got := row.caller.MayUse("assistant"); got != row.agent {
			t.Errorf("%s may use an agent: %v", row.name, got)
		}
	}
}

func TestMayUse(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name   string
		agents []string
		agent  string
		want   bool
	}{
		{"no list is every agent", nil, "assistant", true},
		{"an empty list is none", []string{}, "assistant", false},
		{"one of a list", []string{"a", "b"}, "b", true},
		{"none of a list", []string{"a", "b"}, "c", false},
		{"another case", []string{"a"}, "A", false},
		{"the beginning of one", []string{"assistant"}, "assist", false},
		{"a star is a name like any", []string{"*"}, "a", false},
		{"no name", []string{"a"}, "", false},
	}
	for _, row := range rows {
		if got := (auth.Caller{ID: "k", Agents: row.agents}).MayUse(row.agent); got != row.want {
			t.Errorf("%s: %v", row.name, got)
		}
	}
}

// store is a secret store with one token, made long ago.
type store struct {
	token string
	err   error
}

func (s *store) Read(_ context.Context, stage string) (secret.Version, error) {
	if s.err == nil && stage == secret.Previous {
		return secret.Version{}, secret.ErrNoVersion
	}
	return secret.Version{Value: secret.New(s.token)}, s.err
}

func deployed(s secret.Store) auth.Deployed {
	return auth.Deployed{Token: secret.NewRotating(secret.Config{Store: s, CacheFor: time.Minute, Grace: 24 * time.Hour})}
}

// TestDeployed is P1 at the door: the root token enters as root, a wrong one is
// unknown, and where the store can't tell it is unavailable: neither.
func TestDeployed(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	rows := []struct {
		name        string
		store       *store
		token       string
		want        string // the caller
		reason      error
		unavailable bool
	}{
		{name: "the token", store: &store{token: token}, token: token, want: "root"},
		{name: "the token, stored with a newline, I5", store: &store{token: token + "\n"}, token: token, want: "root"},
		{name: "another", store: &store{token: token}, token: "other", reason: auth.Unknown},
		{name: "the token cut", store: &store{token: token}, token: token[:42], reason: auth.Unknown},
		{name: "the token extended", store: &store{token: token}, token: token + "x", reason: auth.Unknown},
		{name: "its digest", store: &store{token: token}, token: hexDigest(token), reason: auth.Unknown},
		{name: "a digest that the store holds", store: &store{token: "sha256:" + hexDigest(token)}, token: "sha256:" + hexDigest(token), reason: auth.Unknown},
		{name: "the token, with a store that is down", store: &store{token: token, err: boom}, token: token, reason: boom, unavailable: true},
		{name: "another, with a store that is down", store: &store{token: token, err: boom}, token: "other", reason: boom, unavailable: true},
		{name: "any, with an empty secret", store: &store{}, token: token, unavailable: true},
		{name: "any, with a JSON object", store: &store{token: `{"token":"` + token + `"}`}, token: token, unavailable: true},
		{name: "the JSON object itself", store: &store{token: `{"a":1}`}, token: `{"a":1}`, unavailable: true},
		{name: "any, with a secret that is gone", store: &store{err: secret.ErrNoVersion}, token: token, unavailable: true},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c, err := auth.NewVerifier(deployed(row.store)).Verify(t.Context(), nil, []string{row.token})
			want := auth.Caller{}
			if row.want != "" {
				want = auth.RootCaller()
			}
			if diff := cmp.Diff(want, c); diff != "" {
				t.Error(diff)
			}
			if errors.Is(err, auth.ErrUnavailable) != row.unavailable {
				t.Errorf("unavailable is not %v: %v", row.unavailable, err)
			}
			if row.reason != nil && !errors.Is(err, row.reason) || row.want != "" && err != nil {
				t.Errorf("the error is %v, want %v", err, row.reason)
			}
			var reason auth.Reason
			if row.unavailable && errors.As(err, &reason) {
				t.Errorf("an outage calls the token %s", reason)
			}
		})
	}
}

// BenchmarkVerify is what a request's credential costs, which may not grow with
// anything but the number of configured ones.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{0, 1000} {
		s, tokens := configured(n)
		v := auth.NewVerifier(s)
		for name, token := range map[string]string{"root": tokens[0], "last": tokens[len(tokens)-1], "stranger": "stranger"} {
			b.Run(fmt.Sprintf("clients=%d/%s", n, name), func(b *testing.B) {
				header := []string{"Bearer " + token}
				b.ReportAllocs()
				for b.Loop() {
					v.Verify(b.Context(), header, nil)
				}
			})
		}
	}
}
