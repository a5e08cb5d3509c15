package keys_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/secret"
	"postern/shared/table"
)

// full is an administrator's key without bounds, bounded one with all of them.
const (
	full    = `{"name":"deputy","scopes":["agents:read","chat","admin"]}`
	bounded = `{"name":"deputy","scopes":["chat","admin"],"agents":["a","b"],"allowed_ips":["10.0.0.0/8","2001:db8::/32","192.0.2.7"],"rate_limit":100,"tokens_per_day":1000,"expires_at":"2026-04-01T00:00:00Z"}`
)

// inside is a grant at the very edge of bounded.
var inside = map[string]string{
	"name": `"child"`, "scopes": `["chat","admin"]`, "agents": `["b","a"]`, "allowed_ips": `["10.0.0.0/8","2001:db8::/32","192.0.2.7"]`,
	"rate_limit": "100", "tokens_per_day": "1000", "expires_at": `"2026-04-01T00:00:00Z"`,
}

// with is inside with one field another.
func with(field, value string) string {
	var members []string
	for name, v := range inside {
		if name == field {
			v = value
		}
		members = append(members, fmt.Sprintf("%q:%s", name, v))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// beyond are the grants that go beyond bounded in one field, and within those that
// don't, however near they come.
var beyond = []struct{ field, value string }{
	{"scopes", `["agents:read"]`}, {"scopes", `["chat","admin","agents:read"]`},
	{"agents", `null`}, {"agents", `["c"]`}, {"agents", `["a","b","c"]`}, {"agents", `["A"]`}, {"agents", `["*"]`},
	{"allowed_ips", `null`}, {"allowed_ips", `["10.0.0.0/7"]`}, {"allowed_ips", `["0.0.0.0/0"]`}, {"allowed_ips", `["::/0"]`}, {"allowed_ips", `["192.0.2.8"]`},
	{"allowed_ips", `["192.0.2.6/31"]`}, {"allowed_ips", `["11.0.0.0"]`}, {"allowed_ips", `["10.0.0.1","11.0.0.0"]`}, {"allowed_ips", `["2001:db9::1"]`},
	{"allowed_ips", `["::ffff:11.0.0.0"]`}, {"allowed_ips", `["::ffff:10.0.0.0/103"]`}, {"allowed_ips", `["::10.0.0.1"]`},
	{"rate_limit", `101`}, {"rate_limit", `0`}, {"rate_limit", `null`},
	{"tokens_per_day", `1001`}, {"tokens_per_day", `null`},
	{"expires_at", `"2026-04-01T00:00:00.000000001Z"`}, {"expires_at", `null`},
}

var within = []struct{ field, value string }{
	{"name", `"x"`}, {"scopes", `["chat"]`}, {"scopes", `["admin","chat"]`}, {"agents", `["a"]`},
	{"allowed_ips", `["10.0.0.0"]`}, {"allowed_ips", `["10.255.255.255","192.0.2.7/32"]`}, {"allowed_ips", `["10.0.0.0/9"]`}, {"allowed_ips", `["::ffff:10.0.0.1"]`}, {"allowed_ips", `["::ffff:10.0.0.0/104"]`},
	{"allowed_ips", `["::ffff:192.0.2.7"]`}, {"allowed_ips", `["2001:db8:ffff::/48"]`},
	{"rate_limit", `100`}, {"rate_limit", `1`}, {"tokens_per_day", `1`}, {"expires_at", `"2026-03-31T23:59:59Z"`}, {"expires_at", `"2026-04-01T02:00:00+02:00"`},
}

// locally is c as the verifier found it.
func locally(_ testing.TB, c auth.Caller) auth.Caller { return c }

// onLambda is c as the authorizer's context hands it to a function.
func onLambda(t testing.TB, c auth.Caller) auth.Caller {
	t.Helper()
	m, err := auth.ContextOf(c)
	if err != nil {
		t.Fatal(err)
	}
	m["principalId"] = c.ID
	c, err = auth.CallerOf(m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNoKeyMakesAStrongerOne is P11, field by field: who is bounded can neither
// make, nor change into, nor rotate what goes beyond, here and on Lambda.
func TestNoKeyMakesAStrongerOne(t *testing.T) {
	t.Parallel()
	for home, arrive := range map[string]func(testing.TB, auth.Caller) auth.Caller{"local": locally, "Lambda": onLambda} {
		for _, row := range beyond {
			s := newSite(t)
			deputy := arrive(t, s.holder(s.create(bounded).Token))
			refused := func(act string, got reply) {
				t.Helper()
				if got.Status != 403 || !strings.Contains(got.Body, `"error":"Insufficient scope"`) || !strings.Contains(got.detail(), `"`+row.field+`"`) || strings.Contains(got.Body, "postern_") {
					t.Errorf("%s, %s with %s %s: %d %s", home, act, row.field, row.value, got.Status, got.Body)
				}
			}
			child := s.as(deputy, "POST", "/keys", with("", "")).want(t, 201).key(t)
			stronger := s.create(with(row.field, row.value))
			chain := len(s.events())
			refused("create", s.as(deputy, "POST", "/keys", with(row.field, row.value)))
			refused("update", s.as(deputy, "PATCH", "/keys/"+child.ID, `{"`+row.field+`":`+row.value+`}`))
			for act, r := range map[string]struct{ method, path, body string }{
				"bring within": {"PATCH", "", with("", "")}, "bring within and enable": {"PATCH", "", strings.Replace(with("", ""), "{", `{"disabled":false,`, 1)},
				"rotate": {"POST", "/rotate", ""}, "rename": {"PATCH", "", `{"name":"x"}`}, "enable": {"PATCH", "", `{"disabled":false}`}, "disable and rename": {"PATCH", "", `{"disabled":true,"name":"x"}`},
			} {
				refused(act, s.as(deputy, r.method, "/keys/"+stronger.ID+r.path, r.body))
			}
			for _, id := range []string{child.ID, stronger.ID} {
				if got := s.ask("GET", "/keys/"+id, ""); got.Header.Get("ETag") != `"1"` {
					t.Errorf("a refused change is made: %s", got.Body)
				}
			}
			if n := len(s.events()); n != chain {
				t.Errorf("%s: a refused act is in the audit chain", row.field)
			}
			// What only takes away is everybody's who may administer. Giving it back isn't.
			s.as(deputy, "PATCH", "/keys/"+stronger.ID, `{"disabled":true}`).want(t, 200)
			refused("enable within", s.as(deputy, "PATCH", "/keys/"+stronger.ID, strings.Replace(with("", ""), "{", `{"disabled":false,`, 1)))
			s.as(deputy, "DELETE", "/keys/"+stronger.ID, "").want(t, 204)
		}
		s := newSite(t)
		deputy := arrive(t, s.holder(s.create(bounded).Token))
		for _, row := range within {
			child := s.as(deputy, "POST", "/keys", with(row.field, row.value)).want(t, 201).key(t)
			s.as(deputy, "PATCH", "/keys/"+child.ID, `{"name":"x"}`).want(t, 200)
			s.as(deputy, "POST", "/keys/"+child.ID+"/rotate", "").want(t, 200)
		}
		// Its own key a deputy can only narrow.
		s.as(deputy, "POST", "/keys/"+deputy.ID+"/rotate", "").want(t, 200)
		s.as(deputy, "PATCH", "/keys/"+deputy.ID, `{"rate_limit":101}`).want(t, 403)
		s.as(deputy, "PATCH", "/keys/"+deputy.ID, `{"rate_limit":99}`).want(t, 200)
		s.as(deputy, "PATCH", "/keys/"+deputy.ID, `{"rate_limit":100}`).want(t, 403)
	}
}

// TestDefaultRate: no rate_limit is the deployment's default, on both sides.
func TestDefaultRate(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		fallback  int
		own, rate string
		status    int
	}{
		{1000, "null", "null", 201}, {1000, "null", "1000", 201}, {1000, "null", "1001", 403}, {1000, "null", "0", 403},
		{1000, "1000", "null", 201}, {1000, "999", "null", 403}, {1000, "1001", "null", 201}, {1000, "0", "null", 201}, {1000, "0", "0", 201}, {1000, "0", "1000000000", 201},
		{0, "null", "null", 201}, {0, "null", "0", 201}, {0, "null", "5", 201}, {0, "5", "null", 403}, {0, "0", "null", 201}, {0, "5", "0", 403}, {0, "5", "5", 201}, {1, "null", "2", 403},
	} {
		s := newSite(t)
		s.admin.DefaultRate = row.fallback
		deputy := s.holder(s.create(`{"name":"deputy","scopes":["admin"],"rate_limit":` + row.own + `}`).Token)
		if got := s.as(deputy, "POST", "/keys", `{"name":"a","scopes":["admin"],"rate_limit":`+row.rate+`}`); got.Status != row.status {
			t.Errorf("default %d, own %s: %s is %d %s", row.fallback, row.own, row.rate, got.Status, got.Body)
		}
	}
}

// TestRolesAndOperations is P11's other half: every role × every operation.
func TestRolesAndOperations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := auth.ClientCaller(secret.DigestOf("x"))
	foreign := auth.Caller{ID: "somebody", Kind: "employee", Scopes: []route.Scope{route.Admin}}
	nearby, _ := auth.ParseAddresses("192.0.2.7")
	elsewhere := foreign
	elsewhere.Addresses = nearby
	yes := func(status int) [8]int { return [8]int{200, 200, 201, 201, 200, 200, 200, status} }
	// list, get, create a weak key, create a strong one, change a weak one, rotate
	// a strong one, disable a strong one, revoke
	for _, row := range []struct {
		name   string
		caller auth.Caller
		want   [8]int
	}{
		{"root", auth.RootCaller(), yes(204)},
		{"admin", auth.AdminCaller(), yes(204)},
		{"a key that holds all", s.holder(s.create(full).Token), yes(204)},
		{"a key that holds all, on Lambda", onLambda(t, s.holder(s.create(full).Token)), yes(204)},
		{"a key that holds admin alone", s.holder(s.create(`{"name":"a","scopes":["admin"]}`).Token), [8]int{200, 200, 403, 403, 403, 403, 200, 204}},
		{"a bounded administrator's key", s.holder(s.create(bounded).Token), [8]int{200, 200, 201, 403, 200, 403, 200, 204}},
		{"somebody else's authorizer's administrator", foreign, [8]int{200, 200, 403, 403, 403, 403, 200, 204}},
		{"the same, from certain addresses", elsewhere, [8]int{200, 200, 403, 403, 403, 403, 200, 204}},
		{"a client", client, [8]int{403, 403, 403, 403, 403, 403, 403, 403}},
		{"a key for chat", s.holder(s.create(plain).Token), [8]int{403, 403, 403, 403, 403, 403, 403, 403}},
		{"anonymous", auth.AnonymousCaller(), [8]int{403, 403, 403, 403, 403, 403, 403, 403}},
		{"nobody", auth.Caller{}, [8]int{403, 403, 403, 403, 403, 403, 403, 403}},
	} {
		weak := s.create(with("scopes", `["chat"]`)).ID
		strong := s.create(full).ID
		var got [8]int
		for i, r := range [8]struct{ method, target, body string }{
			{"GET", "/keys", ""}, {"GET", "/keys/" + weak, ""},
			{"POST", "/keys", with("scopes", `["chat"]`)}, {"POST", "/keys", full},
			{"PATCH", "/keys/" + weak, `{"name":"x"}`}, {"POST", "/keys/" + strong + "/rotate", ""},
			{"PATCH", "/keys/" + strong, `{"disabled":true}`}, {"DELETE", "/keys/" + strong, ""},
		} {
			got[i] = s.as(row.caller, r.method, r.target, r.body).Status
		}
		if got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
	// From certain addresses, and how many isn't known any more: nothing is within.
	for _, c := range []auth.Caller{elsewhere, foreign} {
		got := s.as(c, "POST", "/keys", `{"name":"a","scopes":["admin"],"allowed_ips":["192.0.2.7"]}`)
		if (got.Status == 201) != c.Addresses.All() {
			t.Errorf("with addresses that can't be told: %d", got.Status)
		}
	}
}

// TestAnotherAuthorizersCaller is bounded by what its context says of it.
func TestAnotherAuthorizersCaller(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rate, tokens := 100, 1000
	c := onLambda(t, auth.Caller{ID: "somebody", Kind: "employee", Scopes: []route.Scope{route.Chat, route.Admin}, Agents: []string{"a", "b"},
		RateLimit: &rate, TokensPerDay: &tokens, ExpiresAt: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)})
	s.as(c, "POST", "/keys", with("", "")).want(t, 201)
	for _, row := range beyond {
		if row.field == "allowed_ips" { // it may call from everywhere
			continue
		}
		if got := s.as(c, "POST", "/keys", with(row.field, row.value)); got.Status != 403 || !strings.Contains(got.detail(), `"`+row.field+`"`) {
			t.Errorf("%s %s: %d %s", row.field, row.value, got.Status, got.Body)
		}
	}
}

// TestCeilingIsReadAnew: who was bounded, disabled or revoked a moment ago gives
// nothing any more, though a verifier's cache still knows it as it was.
func TestCeilingIsReadAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, row := range []struct {
		change func(id string)
		status int
	}{
		{func(string) {}, 201},
		{func(id string) { s.ask("PATCH", "/keys/"+id, `{"agents":["a"]}`).want(t, 200) }, 403},
		{func(id string) { s.ask("PATCH", "/keys/"+id, `{"scopes":["chat"]}`).want(t, 200) }, 403},
		{func(id string) { s.ask("POST", "/keys/"+id+"/rotate", "").want(t, 200) }, 201},
		{func(id string) { s.ask("POST", "/keys/"+id+"/rotate", `{"grace":"0"}`).want(t, 200) }, 401},
		{func(id string) {
			s.ask("POST", "/keys/"+id+"/rotate", `{"grace":"3s"}`).want(t, 200)
			s.Add(3 * time.Second)
		}, 401},
		{func(id string) { s.ask("PATCH", "/keys/"+id, `{"disabled":true}`).want(t, 200) }, 401},
		{func(id string) { s.ask("DELETE", "/keys/"+id, "").want(t, 204) }, 401},
		{func(id string) {
			s.ask("PATCH", "/keys/"+id, `{"expires_at":"2026-03-04T12:00:01Z"}`).want(t, 200)
			s.Add(time.Second)
		}, 401},
	} {
		s.Set(noon)
		deputy := s.holder(s.create(full).Token)
		row.change(deputy.ID)
		s.as(deputy, "POST", "/keys", `{"name":"a","scopes":["chat"]}`).want(t, row.status)
	}
	// A caller of that kind whose record there is not, and a table that can't tell.
	for _, id := range []string{"AAAAAAAAAAAA", "", "x", strings.Repeat("x", 2000)} {
		stranger := auth.Caller{ID: id, Kind: auth.IssuedKey, Scopes: auth.RootCaller().Scopes}
		s.as(stranger, "POST", "/keys", plain).want(t, 401)
	}
	deputy := s.holder(s.create(full).Token)
	s.table.onEach(func(op string, key table.Key) error {
		if op == "get" && key.Sort == deputy.ID {
			return errDown
		}
		return nil
	}, nil)
	s.as(deputy, "POST", "/keys", plain).want(t, 503)
}

// act is a request that changes keys.
type act struct{ method, target, body string }

// everyAct is what an administrator can do to another key, and then to its own.
func everyAct(own, other string) []act {
	return []act{
		{"POST", "/keys", plain},
		{"PATCH", "/keys/" + other, `{"name":"x"}`}, {"PATCH", "/keys/" + other, `{"disabled":true}`}, {"POST", "/keys/" + other + "/rotate", ""}, {"DELETE", "/keys/" + other, ""},
		{"PATCH", "/keys/" + own, `{"name":"x"}`}, {"POST", "/keys/" + own + "/rotate", ""}, {"DELETE", "/keys/" + own, ""},
	}
}

// TestElsewhere: an administrator's key that may no longer be used from where it
// is does nothing to any key, though a verifier's cache still lets it in.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	for home, arrive := range map[string]func(testing.TB, auth.Caller) auth.Caller{"local": locally, "Lambda": onLambda} {
		s := newSite(t)
		made := s.create(full)
		deputy := arrive(t, s.holder(made.Token))
		other := s.create(plain).ID
		acts := everyAct(made.ID, other)
		s.ask("PATCH", "/keys/"+made.ID, `{"allowed_ips":["10.0.0.0/8"]}`).want(t, 200)
		events := len(s.events())
		for _, act := range acts {
			if got := s.as(deputy, act.method, act.target, act.body); got.Status != 403 || !strings.Contains(got.Body, `"error":"Access denied from this IP address"`) {
				t.Errorf("%s, %s %s: %d %s", home, act.method, act.target, got.Status, got.Body)
			}
		}
		if n := len(s.events()) - events; n != 0 {
			t.Errorf("%s: %d events", home, n)
		}
		s.ask("PATCH", "/keys/"+made.ID, `{"allowed_ips":["192.0.2.7"]}`).want(t, 200)
		if got := s.as(deputy, "DELETE", "/keys/"+other, ""); got.Status != 204 {
			t.Errorf("%s, from where it may be: %d %s", home, got.Status, got.Body)
		}
	}
}

// TestLeavingInTheMiddle: what an administrator has asked for is done, and its
// outcome known, though nobody waits for the answer any more.
func TestLeavingInTheMiddle(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	victim := s.create(plain)
	ctx, leave := context.WithCancel(t.Context())
	s.table.onEach(nil, func(op string, _ table.Key) error {
		if op == "put" { // of the intent
			leave()
		}
		return nil
	})
	r := httptest.NewRequest("DELETE", "/keys/"+victim.ID, nil).WithContext(ctx)
	s.behind(door{auth.RootCaller()}).ServeHTTP(httptest.NewRecorder(), r)
	s.table.onEach(nil, nil)
	if ctx.Err() == nil {
		t.Fatal("nobody has left")
	}
	if got := s.ask("GET", "/keys/"+victim.ID, "").want(t, 200).key(t); got.RevokedAt == nil {
		t.Error("the key isn't revoked")
	}
	if events := s.events(); events[len(events)-1] != "keys.revoke.succeeded" {
		t.Errorf("the record says %v", events)
	}
}

// TestRotatedAway: a token that was rotated away does nothing to any key, its own
// least of all, though a verifier's cache still lets it in; and neither does a
// request whose credential can't be told. The new token does.
func TestRotatedAway(t *testing.T) {
	t.Parallel()
	for home, arrive := range map[string]func(testing.TB, auth.Caller) auth.Caller{"local": locally, "Lambda": onLambda} {
		s := newSite(t)
		made := s.create(full)
		deputy := arrive(t, s.holder(made.Token))
		other := s.create(plain).ID
		token := s.ask("POST", "/keys/"+made.ID+"/rotate", `{"grace":"0"}`).want(t, 200).key(t).Token
		chain := len(s.events())
		acts := everyAct(made.ID, other)
		for _, act := range acts {
			for name, headers := range map[string][]string{
				"the old token": {"Authorization: Bearer " + made.Token}, "the old token as API key": {"X-API-Key: " + made.Token}, "none": nil, "another's": {"X-API-Key: " + s.create(full).Token},
				"two": {"X-API-Key: " + token, "Authorization: Bearer " + made.Token}, "a scheme": {"Authorization: Basic " + token}, "the digest": {"X-API-Key: " + secret.DigestOf(token).Reveal()},
			} {
				if got := send(s.behind(door{deputy}), act.method, act.target, act.body, headers...); got.Status != 401 || !strings.Contains(got.Body, `"error":"Invalid API key"`) {
					t.Errorf("%s, %s %s with %s: %d %s", home, act.method, act.target, name, got.Status, got.Body)
				}
			}
		}
		if !strings.Contains(s.log.String(), `"reason":"unknown"`) {
			t.Error("the log doesn't say why")
		}
		for _, id := range []string{made.ID, other} {
			if tag := s.ask("GET", "/keys/"+id, "").Header.Get("ETag"); tag != map[string]string{made.ID: `"2"`, other: `"1"`}[id] {
				t.Errorf("%s: a key is at version %s", home, tag)
			}
		}
		if n := len(s.events()) - chain; n != 2*len(acts) { // a key of another's each
			t.Errorf("%s: %d events for refused acts", home, n)
		}
		for _, act := range acts {
			if got := send(s.behind(door{deputy}), act.method, act.target, act.body, "X-API-Key: "+token); got.Status >= 300 {
				t.Errorf("%s, %s %s with the new token: %d %s", home, act.method, act.target, got.Status, got.Body)
			}
		}
	}
}

// TestRotatedAwayMeanwhile: between the look at the caller's own key and the
// write, a rotation of it is a conflict.
func TestRotatedAwayMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	deputy := s.holder(s.create(full).Token)
	gets := 0
	s.table.onEach(nil, func(op string, key table.Key) error {
		if op == "get" && key.Sort == deputy.ID {
			if gets++; gets == 1 { // of the key that is to be changed; the second is the caller's
				s.table.onEach(nil, nil)
				s.ask("POST", "/keys/"+deputy.ID+"/rotate", `{"grace":"0"}`).want(t, 200)
			}
		}
		return nil
	})
	if got := s.as(deputy, "POST", "/keys/"+deputy.ID+"/rotate", ""); got.Status != 401 {
		t.Errorf("%d %s", got.Status, got.Body)
	}
}

// TestSecretsStayInside is P4 and I20: through every route and failure a token is
// in the one reply that makes it and nowhere else, and its digest in the table.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var seen strings.Builder // all that comes out
	var canaries []string
	do := func(method, target, body string, headers ...string) reply {
		got := s.ask(method, target, body, headers...)
		out := got.Body
		if got.Status < 300 && strings.Contains(out, `"key":`) {
			token := got.key(t).Token
			canaries = append(canaries, token, token[21:], token[21:64], secret.DigestOf(token).Reveal(), secret.DigestOf(token).Reveal()[:16])
			out = strings.Replace(out, `"key":"`+token+`"`, "", 1)
		}
		seen.WriteString(out)
		got.Header.Write(&seen)
		return got
	}
	source := s.source()
	verify := func(token string) {
		c, err := source.Verify(t.Context(), token)
		fmt.Fprintf(&seen, "%v %+v %#v\n", err, c, c)
	}
	made := do("POST", "/keys", plain).key(t)
	rotated := do("POST", "/keys/"+made.ID+"/rotate", "").key(t)
	for _, token := range []string{made.Token, rotated.Token, wrong(made.Token), made.Token + "x", made.Token[:69] + "-"} {
		verify(token)
		for _, body := range []string{
			`{"name":"` + token + `"`, `{"name":"` + token + `","scopes":["chat"]}`, `{"name":"my ` + token + `!","scopes":["chat"],"agents":["a"]}`, `{"name":1,"scopes":["` + token + `"]}`, `{"name":"a","scopes":["` + token + `"]}`, `{"name":"a","scopes":["chat"],"agents":["` + token + `"]}`,
			`{"name":"a","scopes":["chat"],"allowed_ips":["` + token + `"]}`, `{"name":"a","scopes":["chat"],"expires_at":"` + token + `"}`, `{"grace":"` + token + `"}`,
			`{"name":"a","scopes":["chat"],"rate_limit":"` + token + `"}`,
		} {
			do("POST", "/keys", body)
			do("PATCH", "/keys/"+made.ID, strings.Replace(body, `"name":"a",`, "", 1))
			do("POST", "/keys/"+made.ID+"/rotate", body)
		}
		do("GET", "/keys/"+token, "")
		do("GET", "/keys?after="+token, "")
		do("PATCH", "/keys/"+made.ID, `{"name":"a"}`, "If-Match: "+token)
	}
	s.table.onEach(func(op string, _ table.Key) error {
		if op == "put" {
			return errDown
		}
		return nil
	}, nil)
	do("POST", "/keys", plain)
	do("POST", "/keys/"+made.ID+"/rotate", "")
	s.table.onEach(nil, func(op string, _ table.Key) error {
		if op == "put" {
			return errDown
		}
		return nil
	})
	do("POST", "/keys", plain)
	s.table.onEach(nil, nil)
	do("GET", "/keys", "")
	do("GET", "/keys/"+made.ID, "")
	do("PATCH", "/keys/"+made.ID, `{"name":"b"}`)
	do("DELETE", "/keys/"+made.ID, "")
	do("GET", "/audit?limit=1000", "")
	verify(rotated.Token)

	s.admin.LastUsed = func(context.Context, string) (time.Time, error) { panic("as if by accident") }
	do("GET", "/keys/"+made.ID, "")

	sinks := seen.String() + s.log.String()
	for _, c := range canaries {
		for _, form := range []string{c, strings.ToUpper(c)} {
			if i := strings.Index(sinks, form); i >= 0 {
				t.Errorf("a secret came out: …%s", sinks[max(0, i-200):i])
			}
		}
	}
	if len(canaries) < 10 || !strings.Contains(sinks, "as if by accident") {
		t.Errorf("%d canaries", len(canaries))
	}
	// And the table has digests, of the two keys that are there, and no token.
	for first := range strings.SplitSeq("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "") {
		items, err := s.table.List(t.Context(), "key#"+first, table.Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			if strings.Contains(string(item.Value), "postern_") || strings.Contains(string(item.Value), rotated.Token[21:64]) {
				t.Errorf("a token is stored: %s", item.Value)
			}
		}
	}
}
