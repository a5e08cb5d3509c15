package keys_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/auth"
	"postern/shared/table"
)

// TestCreate: a new key's reply is the record, its version and its token, in the
// order of the contract.
func TestCreate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	got := s.ask("POST", "/keys", `{"name":"ci","scopes":["chat","agents:read"],"agents":["clerk"],"allowed_ips":["192.0.2.0/24","2001:db8::7"],
		"rate_limit":10,"tokens_per_day":5000,"expires_at":"2026-03-05T13:00:00+01:00"}`).want(t, 201)
	made := got.key(t)
	want := `{"id":"` + made.ID + `","name":"ci","scopes":["chat","agents:read"],"agents":["clerk"],"allowed_ips":["192.0.2.0/24","2001:db8::7"],` +
		`"rate_limit":10,"tokens_per_day":5000,"expires_at":"2026-03-05T12:00:00Z","disabled":false,"created_at":"2026-03-04T12:00:00Z","created_by":"root",` +
		`"revoked_at":null,"previous_expires_at":null,"last_used_at":null,"key":"` + made.Token + `"}` + "\n"
	if diff := cmp.Diff(want, got.Body); diff != "" {
		t.Error(diff)
	}
	if got.Header.Get("Location") != "/keys/"+made.ID || got.Header.Get("ETag") != `"1"` {
		t.Errorf("Location %q, ETag %q", got.Header.Get("Location"), got.Header.Get("ETag"))
	}
	bare := s.ask("POST", "/keys", `{"name":"all","scopes":["admin"],"agents":null,"rate_limit":null,"expires_at":null}`).want(t, 201)
	if want := `"agents":null,"allowed_ips":null,"rate_limit":null,"tokens_per_day":null,"expires_at":null,`; !strings.Contains(bare.Body, want) {
		t.Errorf("what is absent is not null: %s", bare.Body)
	}

	again := s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
	want = strings.Replace(want, `,"key":"`+made.Token+`"`, "", 1)
	if diff := cmp.Diff(want, again.Body); diff != "" || again.Header.Get("ETag") != `"1"` {
		t.Errorf("read again, ETag %q: %s", again.Header.Get("ETag"), diff)
	}
	caller := s.holder(made.Token)
	ten, tokens := 10, 5000
	addresses, _ := auth.ParseAddresses("192.0.2.0/24,2001:db8::7")
	if diff := cmp.Diff(auth.Caller{ID: made.ID, Kind: auth.IssuedKey, Name: "ci", Scopes: caller.Scopes, Agents: []string{"clerk"},
		RateLimit: &ten, TokensPerDay: &tokens, ExpiresAt: noon.Add(24 * time.Hour), Addresses: addresses}, caller); diff != "" {
		t.Error(diff)
	}
	if !caller.Holds("chat") || !caller.Holds("agents:read") || caller.Holds("admin") {
		t.Errorf("its scopes are %v", caller.Scopes)
	}
}

// TestCreateRevokesNothing is I11.
func TestCreateRevokesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.create(plain)
	for range 20 {
		s.create(plain)
	}
	if c := s.holder(first.Token); c.ID != first.ID {
		t.Errorf("the first key is %q now", c.ID)
	}
}

// key is in the form of an issued key, whoever's it is.
const key = "postern_AAAAbbbb0000_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG1nmdmL"

// wrongFields are the faults of POST's and PATCH's fields: each names the field,
// and what it takes.
var wrongFields = []struct{ field, value, detail string }{
	{"name", `null`, "is null"},
	{"name", `""`, "is blank"},
	{"name", `" \t "`, "is blank"},
	{"name", `1`, "takes a string, not a number"},
	{"name", `["a"]`, "takes a string, not an array"},
	{"name", `"` + strings.Repeat("é", 129) + `"`, "has 129 characters: it takes 1 to 128"},
	{"name", `"a\nb"`, "control character"},
	{"name", `"a\u0000"`, "control character"},
	{"name", `"a\u007f"`, "control character"},
	{"name", `"a\u0085"`, "control character"},
	{"name", `"a\u202eb"`, "control character"},
	{"name", `"a\u2028b"`, "control character"},
	{"name", `"` + key + `"`, "has an issued key in it"},
	{"name", `"the key ` + key + `, rotated"`, "has an issued key in it"},
	{"name", `"postern_` + key + `"`, "has an issued key in it"},
	{"name", `"` + key[:25] + `"`, "has an issued key in it, or its beginning"},
	{"agents", `["clerk","` + key + `"]`, "has a wrong entry, number 2"},
	{"agents", `["-` + key + `!"]`, "has a wrong entry, number 1"},
	{"scopes", `null`, "is null"},
	{"scopes", `[]`, "is empty"},
	{"scopes", `"chat"`, "takes an array of strings"},
	{"scopes", `["chat",null]`, "takes an array of strings"},
	{"scopes", `["chat",1]`, "takes an array of strings"},
	{"scopes", `["chat",["admin"]]`, "takes an array of strings"},
	{"scopes", `["chat","root"]`, `has a wrong entry, number 2: it takes some of "agents:read", "chat" and "admin"`},
	{"scopes", `[""]`, "has a wrong entry, number 1"},
	{"scopes", `["Chat"]`, "has a wrong entry, number 1"},
	{"scopes", `["any"]`, "has a wrong entry, number 1"},
	{"scopes", `["public"]`, "has a wrong entry, number 1"},
	{"scopes", `["chat","agents:read","chat"]`, "has the same entry twice, the second time as number 3"},
	{"agents", `[]`, "is empty"},
	{"agents", `"clerk"`, "takes an array of strings"},
	{"agents", `[null]`, "takes an array of strings"},
	{"agents", `["clerk",""]`, "has a wrong entry, number 2"},
	{"agents", `["  "]`, "has a wrong entry, number 1"},
	{"agents", `["a\nb"]`, "has a wrong entry, number 1"},
	{"agents", `["` + strings.Repeat("é", 65) + `"]`, "has a wrong entry, number 1"},
	{"agents", `["a","a"]`, "has the same entry twice"},
	{"agents", many(101, "a%d"), "has 101 entries: it takes 1 to 100"},
	{"agents", many(100, "%064d"), "too long together"},
	{"allowed_ips", `[]`, "is empty"},
	{"allowed_ips", `"192.0.2.7"`, "takes an array of strings"},
	{"allowed_ips", `[""]`, "has a wrong entry, number 1"},
	{"allowed_ips", `["192.0.2.7",""]`, "has a wrong entry, number 2"},
	{"allowed_ips", `[null]`, "takes an array of strings"},
	{"allowed_ips", `["*"]`, "has a wrong entry, number 1: it takes 1 to 100 addresses (192.0.2.7, 2001:db8::7) and CIDR blocks (192.0.2.0/24), each once, or null for all addresses"},
	{"allowed_ips", `["192.0.2.7,*"]`, "has a wrong entry"},
	{"allowed_ips", `["192.0.2.7,192.0.2.8"]`, "has a wrong entry"},
	{"allowed_ips", `[" 192.0.2.7"]`, "has a wrong entry"},
	{"allowed_ips", `["192.0.2"]`, "has a wrong entry"},
	{"allowed_ips", `["192.0.2.0/33"]`, "has a wrong entry"},
	{"allowed_ips", `["fe80::1%eth0"]`, "has a wrong entry"},
	{"allowed_ips", `["localhost"]`, "has a wrong entry"},
	{"allowed_ips", `["192.0.2.7","192.0.2.7"]`, "has the same entry twice"},
	{"allowed_ips", many(101, "192.0.2.%d"), "has 101 entries"},
	{"rate_limit", `-1`, "is out of range: it takes a whole number from 0 to 1000000000, or null"},
	{"rate_limit", `1000000001`, "is out of range"},
	{"rate_limit", `1.5`, "takes a whole number"},
	{"rate_limit", `1e400`, "takes a whole number"},
	{"rate_limit", `99999999999999999999`, "takes a whole number"},
	{"rate_limit", `"10"`, "takes a whole number, not a string"},
	{"rate_limit", `true`, "takes a whole number, not true or false"},
	{"tokens_per_day", `0`, "is out of range: it takes a whole number from 1 to 1000000000000, or null"},
	{"tokens_per_day", `-5`, "is out of range"},
	{"tokens_per_day", `1000000000001`, "is out of range"},
	{"tokens_per_day", `{}`, "takes a whole number, not an object"},
	{"expires_at", `"2026-03-04T12:00:00Z"`, "is in the past: it takes a time to come, or null for never"},
	{"expires_at", `"2020-01-01T00:00:00Z"`, "is in the past"},
	{"expires_at", `"2026-03-04T14:00:00+02:00"`, "is in the past"},
	{"expires_at", `"tomorrow"`, "is no time: it takes one like 2027-01-31T12:00:00Z (RFC 3339)"},
	{"expires_at", `"2027-01-31"`, "is no time"},
	{"expires_at", `"2027-02-30T00:00:00Z"`, "is no time"},
	{"expires_at", `"2027-01-31T12:00:00"`, "is no time"},
	{"expires_at", `"2027-01-31 12:00:00Z"`, "is no time"},
	{"expires_at", `"2027-01-31T12:00:00,5Z"`, "is no time"},
	{"expires_at", `"9999-12-31T23:59:59-01:00"`, "is no time"},
	{"expires_at", `""`, "is no time"},
	{"expires_at", `1800000000`, "takes a string, not a number"},
	{"id", `"AAAAAAAAAAAA"`, "is not known here"},
	{"created_by", `"root"`, "is not known here"},
	{"revoked_at", `null`, "is not known here"},
	{"key", `"x"`, "is not known here"},
	{"Name", `"x"`, "is not known here"},
	{"disabled", `null`, ""}, // of PATCH alone
	{"disabled", `"true"`, ""},
	{"disabled", `0`, ""},
}

// many is an array of n texts with their numbers in.
func many(n int, format string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(format, i))
	}
	b, _ := json.Marshal(list)
	return string(b)
}

// TestWrongFields: every field of POST and PATCH wrong in turn is 400 that names
// it and what it takes, and nothing is changed.
func TestWrongFields(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(`{"name":"ci","scopes":["chat"],"agents":["clerk"],"rate_limit":7}`)
	before := s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
	chain := s.events()
	for _, row := range wrongFields {
		body := map[string]json.RawMessage{"name": json.RawMessage(`"ci"`), "scopes": json.RawMessage(`["chat"]`)}
		body[row.field] = json.RawMessage(row.value)
		creation, _ := json.Marshal(body)
		for request, got := range map[string]reply{
			"POST":              s.ask("POST", "/keys", string(creation)),
			"PATCH":             s.ask("PATCH", "/keys/"+made.ID, `{"`+row.field+`":`+row.value+`}`),
			"PATCH with others": s.ask("PATCH", "/keys/"+made.ID, `{"name":"new","`+strings.Replace(row.field, "name", "Name", 1)+`":`+row.value+`}`),
		} {
			detail := got.detail()
			if got.Status != 400 || !strings.Contains(detail, `"`+row.field+`"`) && !strings.HasPrefix(request, "PATCH with") || request == "PATCH" && !strings.Contains(detail, row.detail) {
				t.Errorf("%s of %s %.60s: %d %s", request, row.field, row.value, got.Status, got.Body)
			}
			if row.field != "disabled" && request == "POST" && !strings.Contains(detail, row.detail) {
				t.Errorf("POST of %s %.60s: %s", row.field, row.value, got.Body)
			}
			if strings.Contains(got.Body, "postern_") {
				t.Errorf("%s: the answer repeats the value: %s", request, got.Body)
			}
			if len(detail) > 400 {
				t.Errorf("the answer grows with the fault: %s", detail)
			}
		}
	}
	for _, row := range []struct{ method, target, body, detail string }{
		{"POST", "/keys", `{"scopes":["chat"]}`, `The field "name" is missing`},
		{"POST", "/keys", `{"name":"ci"}`, `The field "scopes" is missing`},
		{"POST", "/keys", `{}`, `The field "name" is missing`},
		{"POST", "/keys", `{"name":"a","scopes":["chat"],"disabled":false}`, `The field "disabled" is not known here.`},
		{"POST", "/keys", `{"name":"a","name":"b","scopes":["chat"]}`, `The field "name" stands twice.`},
		{"PATCH", "/keys/" + made.ID, `{}`, "Nothing is to be changed: send at least one field."},
		{"POST", "/keys/" + made.ID + "/rotate", `{"grace":null}`, `The field "grace" is`},
		{"POST", "/keys/" + made.ID + "/rotate", `{"grace":24}`, `The field "grace" takes a string`},
		{"POST", "/keys/" + made.ID + "/rotate", `{"graze":"24h"}`, `The field "graze" is not known here.`},
	} {
		if got := s.ask(row.method, row.target, row.body); got.Status != 400 || !strings.Contains(got.detail(), row.detail) {
			t.Errorf("%s %s: %d %s", row.method, row.body, got.Status, got.Body)
		}
	}
	for _, grace := range []string{"", "24", "h", "1w", "-1h", "+1h", "1.5h", "31d", "721h", "2592001s", "1h30m", " 1h", "1H", "00x", "106752d", "18446744073709551616s", "9223372036854775807d", "hh", "1hm"} {
		body := fmt.Sprintf(`{"grace":%q}`, grace)
		if got := s.ask("POST", "/keys/"+made.ID+"/rotate", body); got.Status != 400 || !strings.Contains(got.detail(), `"grace"`) || !strings.Contains(got.detail(), "from 0 to 30d") {
			t.Errorf("%s: %d %s", body, got.Status, got.Body)
		}
	}
	after := s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
	if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b http.Header) bool { return a.Get("ETag") == b.Get("ETag") })); diff != "" {
		t.Errorf("a refused request changed the key: %s", diff)
	}
	if diff := cmp.Diff(chain, s.events()); diff != "" {
		t.Errorf("a refused request is in the audit chain: %s", diff)
	}
	if n := strings.Count(s.ask("GET", "/keys", "").Body, `"id"`); n != 1 {
		t.Errorf("there are %d keys", n)
	}
}

// TestBounds: the widest values that each field takes are taken.
func TestBounds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, body := range []string{
		`{"name":"` + strings.Repeat("é", 128) + `","scopes":["admin","agents:read","chat"]}`,
		`{"name":"👩‍🚀 Zoë's <key> & \"more\"","scopes":["chat"],"rate_limit":0,"tokens_per_day":1}`,
		`{"name":"postern_, postern_AAAAbbbb0000 and postern_AAAAbbbb000_0","scopes":["chat"],"agents":["postern_clerk"]}`,
		`{"name":"a","scopes":["chat"],"rate_limit":1000000000,"tokens_per_day":1000000000000}`,
		`{"name":"a","scopes":["chat"],"agents":` + many(100, "agent %d") + `,"allowed_ips":` + many(100, "192.0.2.%d") + `}`,
		`{"name":"a","scopes":["chat"],"allowed_ips":["0.0.0.0/0","::/0","::ffff:192.0.2.7","::ffff:192.0.2.0/120"]}`,
		`{"name":"a","scopes":["chat"],"expires_at":"2026-03-04T12:00:00.001Z"}`,
		`{"name":"a","scopes":["chat"],"expires_at":"9999-12-31T23:59:59Z"}`,
	} {
		made := s.create(body)
		s.holder(made.Token)
		s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
	}
}

// TestUpdate: a field that is given changes, null clears it, an absent one stays.
func TestUpdate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(`{"name":"ci","scopes":["chat"],"agents":["a"],"allowed_ips":["192.0.2.7"],"rate_limit":7,"tokens_per_day":8,"expires_at":"2026-04-01T00:00:00Z"}`)
	now := made
	now.Token = ""
	version := 1
	for _, row := range []struct {
		patch  string
		change func(*answer)
	}{
		{`{"name":"other"}`, func(a *answer) { a.Name = "other" }},
		{`{"scopes":["agents:read","admin"]}`, func(a *answer) { a.Scopes = []string{"agents:read", "admin"} }},
		{`{"agents":["b","c"]}`, func(a *answer) { a.Agents = []string{"b", "c"} }},
		{`{"allowed_ips":["10.0.0.0/8"]}`, func(a *answer) { a.AllowedIPs = []string{"10.0.0.0/8"} }},
		{`{"rate_limit":0}`, func(a *answer) { a.RateLimit = new(int) }},
		{`{"tokens_per_day":9,"disabled":true}`, func(a *answer) { n := 9; a.TokensPerDay, a.Disabled = &n, true }},
		{`{"disabled":false}`, func(a *answer) { a.Disabled = false }},
		{`{"expires_at":"2026-03-04T12:00:01Z"}`, func(a *answer) { at := noon.Add(time.Second); a.ExpiresAt = &at }},
		{`{"agents":null}`, func(a *answer) { a.Agents = nil }},
		{`{"allowed_ips":null}`, func(a *answer) { a.AllowedIPs = nil }},
		{`{"rate_limit":null}`, func(a *answer) { a.RateLimit = nil }},
		{`{"tokens_per_day":null}`, func(a *answer) { a.TokensPerDay = nil }},
		{`{"expires_at":null}`, func(a *answer) { a.ExpiresAt = nil }},
	} {
		got := s.ask("PATCH", "/keys/"+made.ID, row.patch).want(t, 200)
		version++
		row.change(&now)
		if diff := cmp.Diff(now, got.key(t)); diff != "" {
			t.Errorf("%s: %s", row.patch, diff)
		}
		if tag := fmt.Sprintf(`"%d"`, version); got.Header.Get("ETag") != tag {
			t.Errorf("%s: ETag %s, want %s", row.patch, got.Header.Get("ETag"), tag)
		}
		if diff := cmp.Diff(now, s.ask("GET", "/keys/"+made.ID, "").key(t)); diff != "" {
			t.Errorf("%s, read again: %s", row.patch, diff)
		}
	}
}

// TestNoSuchKey: an unknown id, a malformed one and what looks like another's are
// all the same 404, and a malformed one asks nobody.
func TestNoSuchKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	unknown := ""
	for _, id := range []string{"AAAAAAAAAAAA", made.ID[:11], made.ID + "0", "AAAAAAAAAAA-", "%2e%2e", "ääääää", made.Token, strings.Repeat("A", 4000), "A%00AAAAAAAAAA", "key%23" + made.ID} {
		for _, r := range []struct{ method, path, body string }{
			{"GET", "", ""}, {"PATCH", "", `{"name":"x"}`}, {"DELETE", "", ""}, {"POST", "/rotate", ""},
		} {
			s.table.asked()
			got := s.ask(r.method, "/keys/"+id+r.path, r.body).want(t, 404)
			if gets, _ := s.table.asked(); gets > 0 && id != "AAAAAAAAAAAA" {
				t.Errorf("%s of %.20s asks the table", r.method, id)
			}
			if id == "%2e%2e" { // no path at all, for the frame
				continue
			}
			if unknown == "" {
				unknown = got.Body
			}
			if got.Body != unknown {
				t.Errorf("%s of %.20s: %s", r.method, id, got.Body)
			}
		}
	}
}

// TestRevoke: a revoked key's record stays, marked, and takes no change.
func TestRevoke(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	s.Add(time.Hour)
	if got := s.ask("DELETE", "/keys/"+made.ID, "").want(t, 204); got.Body != "" {
		t.Errorf("a 204 with a body: %s", got.Body)
	}
	s.Add(time.Hour)
	for _, r := range []struct{ method, path, body string }{
		{"PATCH", "", `{"name":"x"}`}, {"PATCH", "", `{"disabled":false}`}, {"PATCH", "", `{"disabled":true}`}, {"POST", "/rotate", ""}, {"POST", "/rotate", `{"grace":"0"}`},
	} {
		got := s.ask(r.method, "/keys/"+made.ID+r.path, r.body).want(t, 409)
		if !strings.Contains(got.Body, `"error":"Conflict"`) || !strings.Contains(got.detail(), "revoked") {
			t.Errorf("%s: %s", r.method, got.Body)
		}
	}
	chain := s.events()
	s.ask("DELETE", "/keys/"+made.ID, "").want(t, 204) // once more is the same
	if diff := cmp.Diff(chain, s.events()); diff != "" {
		t.Errorf("a key that is revoked is revoked again: %s", diff)
	}
	got := s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
	if at := got.key(t).RevokedAt; at == nil || !at.Equal(noon.Add(time.Hour)) || got.Header.Get("ETag") != `"2"` {
		t.Errorf("revoked at %v, ETag %s", at, got.Header.Get("ETag"))
	}
	if _, err := s.source().Verify(t.Context(), made.Token); err != auth.Revoked {
		t.Error(err)
	}
}

// TestRotate: what a rotation leaves of the old token, P10.
func TestRotate(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, row := range []struct {
		name, expires, body string
		end                 time.Duration // of the old token, from the rotation; 0: at once
	}{
		{"without a body", "", "", day},
		{"with an empty object", "", "{}", day},
		{"with a grace", "", `{"grace":"90m"}`, 90 * time.Minute},
		{"with the longest grace", "", `{"grace":"30d"}`, 30 * day},
		{"with the longest grace in hours", "", `{"grace":"720h"}`, 30 * day},
		{"with the longest grace in seconds", "", `{"grace":"2592000s"}`, 30 * day},
		{"with the shortest grace", "", `{"grace":"1s"}`, time.Second},
		{"without a grace", "", `{"grace":"0"}`, 0},
		{"without a grace, with a unit", "", `{"grace":"0d"}`, 0},
		{"never beyond the key's own expiry", "2026-03-04T12:10:00Z", "", 10 * time.Minute},
		{"before the key's own expiry", "2026-03-04T12:10:00Z", `{"grace":"5m"}`, 5 * time.Minute},
	} {
		s := newSite(t)
		body := plain
		if row.expires != "" {
			body = `{"name":"ci","scopes":["chat"],"expires_at":"` + row.expires + `"}`
		}
		old := s.create(body)
		got := s.ask("POST", "/keys/"+old.ID+"/rotate", row.body).want(t, 200)
		rotated := got.key(t)
		if rotated.ID != old.ID || rotated.Token == old.Token || got.Header.Get("ETag") != `"2"` {
			t.Errorf("%s: the key %s, ETag %s", row.name, rotated.ID, got.Header.Get("ETag"))
		}
		if at := rotated.PreviousExpiresAt; (at == nil) != (row.end == 0) || at != nil && !at.Equal(noon.Add(row.end)) {
			t.Errorf("%s: the old token ends at %v", row.name, at)
		}
		source := s.source()
		is := func(token string, want error) {
			t.Helper()
			c, err := source.Verify(t.Context(), token)
			if err != want || err == nil && c.ID != old.ID {
				t.Errorf("%s: %q, %v at %s, want %v", row.name, c.ID, err, s.Now(), want)
			}
		}
		is(rotated.Token, nil)
		if row.end == 0 {
			is(old.Token, auth.Unknown)
			continue
		}
		s.Set(noon.Add(row.end - 1))
		is(old.Token, nil)
		is(rotated.Token, nil)
		s.Set(noon.Add(row.end))
		if row.end == 10*time.Minute { // the key's own end
			is(rotated.Token, auth.Expired)
		} else {
			is(rotated.Token, nil)
		}
		is(old.Token, auth.Unknown)
	}
}

// TestRotateAgain: each older token works until its own end, however often the
// key is rotated meanwhile; there are four at most, and an expiry that comes to
// lie before their ends ends them too.
func TestRotateAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	tokens := []string{made.Token}
	rotate := func(grace string) reply {
		return s.ask("POST", "/keys/"+made.ID+"/rotate", `{"grace":"`+grace+`"}`)
	}
	works := func(want ...bool) {
		t.Helper()
		source := s.source()
		for i, token := range tokens {
			is(t, source, token, map[bool]error{true: nil, false: auth.Unknown}[want[i]])
		}
	}
	for i, grace := range []string{"40m", "10m", "30m", "20m"} {
		got := rotate(grace).want(t, 200).key(t)
		if at := got.PreviousExpiresAt; at == nil || !at.Equal(noon.Add(40*time.Minute)) {
			t.Errorf("after rotation %d the last of the older tokens ends at %v", i+1, at)
		}
		tokens = append(tokens, got.Token)
	}
	works(true, true, true, true, true)
	chain := s.events()
	got := rotate("1m").want(t, 409)
	if !strings.Contains(got.detail(), "4 older tokens of this key still work, the first of them until 2026-03-04T12:10:00Z") || !strings.Contains(got.detail(), "grace 0") {
		t.Error(got.Body)
	}
	if diff := cmp.Diff(chain, s.events()); diff != "" {
		t.Errorf("a refused rotation is in the audit chain: %s", diff)
	}
	works(true, true, true, true, true)
	s.Set(noon.Add(10*time.Minute - 1))
	works(true, true, true, true, true)
	s.Set(noon.Add(10 * time.Minute))
	works(true, false, true, true, true)
	tokens = append(tokens, rotate("1h").want(t, 200).key(t).Token) // there is room again
	works(true, false, true, true, true, true)
	s.Set(noon.Add(40 * time.Minute))
	works(false, false, false, false, true, true)

	updated := s.ask("PATCH", "/keys/"+made.ID, `{"expires_at":"2026-03-04T12:45:00Z"}`).key(t)
	if at := updated.PreviousExpiresAt; at == nil || !at.Equal(*updated.ExpiresAt) {
		t.Errorf("the older tokens end at %v, behind the key", at)
	}
	s.ask("PATCH", "/keys/"+made.ID, `{"expires_at":null}`).want(t, 200)
	s.Set(noon.Add(45 * time.Minute))
	works(false, false, false, false, false, true)

	// After a leak: all older ones end at once, be they as many as can be.
	for range 4 {
		tokens = append(tokens, rotate("1d").want(t, 200).key(t).Token)
	}
	last := rotate("0").want(t, 200).key(t)
	if last.PreviousExpiresAt != nil {
		t.Errorf("without a grace an older token ends at %v", last.PreviousExpiresAt)
	}
	tokens = append(tokens, last.Token)
	works(append(make([]bool, len(tokens)-1), true)...)
}

// TestRotateExpired: a new token of a key that is over would be of no use.
func TestRotateExpired(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(`{"name":"ci","scopes":["chat"],"expires_at":"2026-03-04T12:05:00Z"}`)
	s.Set(noon.Add(5 * time.Minute))
	for _, body := range []string{"", `{"grace":"0"}`} {
		if got := s.ask("POST", "/keys/"+made.ID+"/rotate", body).want(t, 409); !strings.Contains(got.detail(), `give it another "expires_at" first`) {
			t.Error(got.Body)
		}
	}
	s.ask("PATCH", "/keys/"+made.ID, `{"expires_at":"2026-03-04T12:06:00Z"}`).want(t, 200)
	s.holder(s.ask("POST", "/keys/"+made.ID+"/rotate", "").want(t, 200).key(t).Token)
}

// TestIfMatch is RFC 9110, section 13.1.1, with the contract's 409.
func TestIfMatch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	s.ask("PATCH", "/keys/"+made.ID, `{"name":"two"}`).want(t, 200)
	for _, row := range []struct {
		header string
		status int
	}{
		{`If-Match: "1"`, 409}, {`If-Match: "3"`, 409}, {`If-Match: "02"`, 409}, {`If-Match: ""`, 409}, {`If-Match: W/"2"`, 409}, {`If-Match: "1", "3"`, 409},
		{`If-Match: 2`, 400}, {`If-Match: "2`, 400}, {`If-Match: 2"`, 400}, {`If-Match: `, 400}, {`If-Match: ,`, 400}, {`If-Match: "2",*`, 400}, {`If-Match: "2" "3"`, 400}, {`If-Match: w/"2"`, 400}, {`If-Match: **`, 400}, {`If-Match: "`, 400},
	} {
		for _, r := range []struct{ method, path, body string }{{"PATCH", "", `{"name":"x"}`}, {"DELETE", "", ""}, {"POST", "/rotate", ""}} {
			got := s.ask(r.method, "/keys/"+made.ID+r.path, r.body, row.header).want(t, row.status)
			if row.status == 400 && !strings.Contains(got.detail(), "If-Match") {
				t.Error(got.Body)
			}
		}
	}
	if got := s.ask("GET", "/keys/"+made.ID, ""); got.Header.Get("ETag") != `"2"` {
		t.Errorf("a refused request changed the key: %s", got.Body)
	}
	for _, header := range []string{`If-Match: "2"`, `If-Match: *`, `If-Match: "9", "4"`, `If-Match: "4x",W/"5" ,"5"`} {
		s.ask("PATCH", "/keys/"+made.ID, `{"name":"x"}`, header).want(t, 200)
	}
	s.ask("PATCH", "/keys/"+made.ID, `{"name":"x"}`, `If-Match: "6"`, `If-Match: "1"`).want(t, 200)
	s.ask("POST", "/keys/"+made.ID+"/rotate", "", `If-Match: "7"`).want(t, 200)
	s.ask("DELETE", "/keys/"+made.ID, "", `If-Match: "8"`).want(t, 204)
	s.ask("DELETE", "/keys/"+made.ID, "", `If-Match: "8"`).want(t, 409)
}

// TestNothingIsLostUnseen: of two who decide on the same version one wins, and
// the other is told, with If-Match and without.
func TestNothingIsLostUnseen(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	for _, act := range []struct {
		method, path, body string
		headers            []string
	}{
		{"PATCH", "", `{"rate_limit":5}`, nil}, {"POST", "/rotate", "", nil}, {"POST", "/rotate", `{"grace":"0"}`, nil}, {"PATCH", "", `{"disabled":false}`, nil}, {"PATCH", "", `{"disabled":true,"name":"x"}`, nil},
		{"PATCH", "", `{"rate_limit":5}`, []string{"If-Match: *"}},
		{"PATCH", "", `{"disabled":true}`, []string{"If-Match: TAG"}}, {"DELETE", "", "", []string{"If-Match: TAG"}},
	} {
		tag := s.ask("GET", "/keys/"+made.ID, "").Header.Get("ETag")
		for i, line := range act.headers {
			act.headers[i] = strings.Replace(line, "TAG", tag, 1)
		}
		// Between this request's read and its write comes another one.
		between := true
		s.table.onEach(func(op string, key table.Key) error {
			if op == "put" && key.Sort == made.ID && between {
				between = false
				s.ask("PATCH", "/keys/"+made.ID, `{"name":"faster"}`).want(t, 200)
			}
			return nil
		}, nil)
		got := s.ask(act.method, "/keys/"+made.ID+act.path, act.body, act.headers...).want(t, 409)
		if !strings.Contains(got.Body, `"error":"Conflict"`) || strings.Contains(got.Body, "postern_") {
			t.Error(got.Body)
		}
		s.table.onEach(nil, nil)
		if now := s.ask("GET", "/keys/"+made.ID, "").key(t); now.Name != "faster" || now.RateLimit != nil || now.RevokedAt != nil || now.Disabled {
			t.Errorf("after %s the key is %+v", act.method, now)
		}
	}

	// And all at once: as many are told of success as there are new versions. In a
	// bubble the time that an event of the chain has isn't used up by a slow machine.
	var won atomic.Int64
	synctest.Test(t, func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				if got := s.ask("PATCH", "/keys/"+made.ID, fmt.Sprintf(`{"rate_limit":%d}`, i)); got.Status == 200 {
					won.Add(1)
				} else if got.Status != 409 {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			})
		}
		all.Wait()
	})
	if tag := s.ask("GET", "/keys/"+made.ID, "").Header.Get("ETag"); tag != fmt.Sprintf(`"%d"`, 9+won.Load()) || won.Load() < 1 {
		t.Errorf("%d were told of success, and the version is %s", won.Load(), tag)
	}
}

// TestTakingAwayWins: who revokes or disables a key, and names no version, wins
// over whoever changes it at the same time; that is one act in the audit chain.
func TestTakingAwayWins(t *testing.T) {
	t.Parallel()
	for _, act := range []struct {
		method, body, action string
		headers              []string
		status               int
		done                 func(answer) bool
	}{
		{"DELETE", "", "keys.revoke", nil, 204, func(a answer) bool { return a.RevokedAt != nil }},
		{"DELETE", "", "keys.revoke", []string{"If-Match: *"}, 204, func(a answer) bool { return a.RevokedAt != nil }},
		{"PATCH", `{"disabled":true}`, "keys.update", nil, 200, func(a answer) bool { return a.Disabled && a.RevokedAt == nil }},
	} {
		for _, row := range []struct{ rivals, want, version int }{{0, act.status, 2}, {1, act.status, 3}, {19, act.status, 21}, {20, 409, 21}, {1000, 409, 21}} {
			s := newSite(t)
			made := s.create(plain)
			rivals := 0
			s.table.onEach(func(op string, key table.Key) error {
				if op == "put" && key.Sort == made.ID && rivals < row.rivals {
					item, err := s.table.Table.Get(t.Context(), key)
					if err != nil {
						return err
					}
					rivals++
					value := strings.Replace(string(item.Value), `"name":"ci`, `"name":"ci+`, 1)
					_, err = s.table.Table.Put(t.Context(), key, []byte(value), item.Version, time.Time{})
					return err
				}
				return nil
			}, nil)
			got := s.ask(act.method, "/keys/"+made.ID, act.body, act.headers...)
			s.table.onEach(nil, nil)
			now := s.ask("GET", "/keys/"+made.ID, "")
			if k := now.key(t); got.Status != row.want || act.done(k) != (row.want < 300) || k.Name != "ci"+strings.Repeat("+", min(row.rivals, 20)) || now.Header.Get("ETag") != fmt.Sprintf(`"%d"`, row.version) {
				t.Errorf("%s among %d rivals: %d, then %s %s", act.method, row.rivals, got.Status, now.Header.Get("ETag"), now.Body)
			}
			if got.Status == 200 && got.Header.Get("ETag") != now.Header.Get("ETag") {
				t.Errorf("the answer is of version %s", got.Header.Get("ETag"))
			}
			outcome := act.action + map[bool]string{true: ".succeeded", false: ".failed"}[row.want < 300]
			if diff := cmp.Diff([]string{"keys.create", "keys.create.succeeded", act.action, outcome}, s.events()); diff != "" {
				t.Error(diff)
			}
		}
	}

	// Somebody revokes it meanwhile: that is what was wanted, or more than that.
	for _, act := range []struct {
		method, body string
		status       int
	}{{"DELETE", "", 204}, {"PATCH", `{"disabled":true}`, 409}} {
		s := newSite(t)
		made := s.create(plain)
		between := true
		s.table.onEach(func(op string, key table.Key) error {
			if op == "put" && key.Sort == made.ID && between {
				between = false
				s.ask("DELETE", "/keys/"+made.ID, "").want(t, 204)
				s.Add(time.Hour)
			}
			return nil
		}, nil)
		got := s.ask(act.method, "/keys/"+made.ID, act.body).want(t, act.status)
		if act.status == 409 && !strings.Contains(got.detail(), "revoked, for good") {
			t.Error(got.Body)
		}
		if at := s.ask("GET", "/keys/"+made.ID, "").key(t).RevokedAt; at == nil || !at.Equal(noon) {
			t.Errorf("after %s it was revoked at %v", act.method, at)
		}
	}
}

// TestLargePages: a page ends before it is larger than Lambda answers, whatever
// the records are made of, and has one record at least.
func TestLargePages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const count = 500
	for name, member := range map[string]string{
		"addresses":  `"allowed_ips":` + many(100, "2001:db8:1234:5678:9abc:def0:1234:%04x/128"),
		"odd agents": `"agents":["` + strings.Repeat("<", 6000) + `"]`, // each is six characters of Lambda's answer
	} {
		first := name[:1]
		for i := range count {
			id := fmt.Sprintf("%s%011d", first, i)
			value := `{"id":"` + id + `","name":"n","scopes":["chat"],` + member + `,"digest":"` + strings.Repeat("ab", 32) + `"}`
			if _, err := s.table.Put(t.Context(), table.Key{Partition: "key#" + first, Sort: id}, []byte(value), 0, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := map[string]bool{}
	pages := 0
	for after := ""; ; pages++ {
		text := s.ask("GET", "/keys?limit=1000&after="+after, "").want(t, 200).Body
		if quoted, _ := json.Marshal(text); len(quoted) > 5<<20 {
			t.Errorf("a page of %d bytes", len(quoted))
		}
		var p listPage
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		for _, k := range p.Keys {
			got[k.ID] = true
		}
		if p.Next == nil {
			break
		}
		if after = *p.Next; after != p.Keys[len(p.Keys)-1].ID {
			t.Fatalf("next is %s", after)
		}
	}
	if len(got) != 2*count || pages < 3 || pages > 20 {
		t.Errorf("%d keys on %d pages", len(got), pages+1)
	}
}

// TestList: all keys come in the order of their ids, each once, however they are
// cut into pages.
func TestList(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var ids []string
	for range 200 {
		ids = append(ids, s.create(plain).ID)
	}
	slices.Sort(ids)
	s.used.Store(ids[3], noon.Add(-time.Hour))
	for _, limit := range []int{1, 7, 100, 199, 200, 201, 1000} {
		var got []string
		after, pages := "", 0
		for {
			pages++
			p := s.page(fmt.Sprintf("/keys?limit=%d%s", limit, after))
			for _, k := range p.Keys {
				if k.Token != "" || (k.LastUsedAt != nil) != (k.ID == ids[3]) {
					t.Errorf("listed: %+v", k)
				}
				got = append(got, k.ID)
			}
			if p.Next == nil {
				break
			}
			if len(p.Keys) != limit || *p.Next != p.Keys[limit-1].ID {
				t.Fatalf("limit %d: %d keys and next %s", limit, len(p.Keys), *p.Next)
			}
			after = "&after=" + *p.Next
		}
		if diff := cmp.Diff(ids, got); diff != "" || pages != (199+limit)/limit {
			t.Errorf("limit %d, %d pages: %s", limit, pages, diff)
		}
	}
	if p := s.page("/keys"); len(p.Keys) != 100 || p.Next == nil {
		t.Errorf("a page has %d keys", len(p.Keys))
	}
	// A cursor need not be a key's.
	middle := ids[100]
	if p := s.page("/keys?limit=1&after=" + middle[:11] + "0"); len(p.Keys) != 1 || p.Keys[0].ID < middle {
		t.Errorf("after a place between: %+v", p.Keys)
	}
	if p := s.page("/keys?after=zzzzzzzzzzzz"); p.Keys == nil || len(p.Keys) != 0 || p.Next != nil {
		t.Errorf("after all: %+v", p)
	}

	for _, query := range []string{"limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=%2B1", "limit=1&limit=2", "after=x", "after=" + ids[0] + "0", "befor=x", "%zz"} {
		if got := s.ask("GET", "/keys?"+query, ""); got.Status != 400 {
			t.Errorf("%s: %d %s", query, got.Status, got.Body)
		}
	}
}

type listPage struct {
	Keys []answer `json:"keys"`
	Next *string  `json:"next"`
}

func (s *site) page(target string) listPage {
	s.Helper()
	var p listPage
	if err := json.Unmarshal([]byte(s.ask("GET", target, "").want(s, 200).Body), &p); err != nil {
		s.Fatal(err)
	}
	return p
}

// TestListOfNothing is an empty array, and no null.
func TestListOfNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if got := s.ask("GET", "/keys", "").want(t, 200); got.Body != `{"keys":[],"next":null}`+"\n" {
		t.Error(got.Body)
	}
	if _, lists := s.table.asked(); lists != 62 {
		t.Errorf("%d partitions are asked", lists)
	}
}

// TestListCost: a page asks for what it needs, many at once but not all.
func TestListCost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	put := func(id string) {
		value := `{"id":"` + id + `","name":"n","scopes":["chat"],"digest":"` + strings.Repeat("ab", 32) + `"}`
		if _, err := s.table.Put(t.Context(), table.Key{Partition: "key#" + id[:1], Sort: id}, []byte(value), 0, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1500 {
		put(fmt.Sprintf("5%011d", i))
	}
	if p := s.page("/keys?limit=1000"); len(p.Keys) != 1000 || p.Next == nil || *p.Next != "500000000999" {
		t.Errorf("%d keys", len(p.Keys))
	}
	put("zzzzzzzzzzzz")
	s.table.asked()
	if p := s.page("/keys?limit=100&after=500000000099"); len(p.Keys) != 100 || *p.Next != "500000000199" {
		t.Errorf("%d keys", len(p.Keys))
	}
	if _, lists := s.table.asked(); lists != 1 {
		t.Errorf("a page of one partition asks %d", lists)
	}
	if p := s.page("/keys?limit=1000&after=500000000600"); len(p.Keys) != 900 || p.Next != nil {
		t.Errorf("%d keys, next %v", len(p.Keys), p.Next)
	}

	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		count := func(string, table.Key) error {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond) // until all have come who do
			now.Add(-1)
			return nil
		}
		s.table.onEach(count, nil)
		for range 2 { // partitions, then last uses
			s.page("/keys?limit=1000&after=500000000600")
			if n := most.Swap(0); n != 16 {
				t.Errorf("%d are asked at once", n)
			}
			s.table.onEach(nil, nil)
			s.admin.LastUsed = func(context.Context, string) (time.Time, error) { return time.Time{}, count("", table.Key{}) }
		}
	})
}

// TestLastUsed is shown with the record and belongs to no version of it.
func TestLastUsed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	s.used.Store(made.ID, noon.Add(-time.Minute).In(time.FixedZone("", 3600)))
	for _, got := range []reply{
		s.ask("GET", "/keys/"+made.ID, ""),
		s.ask("PATCH", "/keys/"+made.ID, `{"name":"x"}`),
		s.ask("POST", "/keys/"+made.ID+"/rotate", ""),
	} {
		if !strings.Contains(got.Body, `"last_used_at":"2026-03-04T11:59:00Z"`) {
			t.Error(got.Body)
		}
	}
	if got := s.ask("GET", "/keys/"+made.ID, ""); got.Header.Get("ETag") != `"3"` {
		t.Error(got.Header)
	}
	// Where it can't be told, nothing is done: least of all is a token made that
	// nobody gets to see.
	s.admin.LastUsed = func(context.Context, string) (time.Time, error) { return time.Time{}, errDown }
	for _, r := range []struct{ method, path, body string }{{"GET", "/" + made.ID, ""}, {"GET", "", ""}, {"PATCH", "/" + made.ID, `{"name":"y"}`}, {"POST", "/" + made.ID + "/rotate", ""}} {
		if got := s.ask(r.method, "/keys"+r.path, r.body).want(t, 503); strings.Contains(got.Body, "table is down") {
			t.Error(got.Body)
		}
	}
	s.ask("DELETE", "/keys/"+made.ID, "", `If-Match: "3"`).want(t, 204)
}

// TestActs: every act is in the audit chain, intent first, and its place and hash
// in its log line.
func TestActs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	line := regexp.MustCompile(`"route":"keys.create".*"audit_seq":2,"audit_hash":"[0-9a-f]{64}"`)
	if !line.MatchString(s.log.String()) {
		t.Errorf("the log line: %s", s.log.String())
	}
	s.ask("PATCH", "/keys/"+made.ID, `{"name":"x"}`).want(t, 200)
	s.ask("POST", "/keys/"+made.ID+"/rotate", "").want(t, 200)
	s.ask("GET", "/keys", "").want(t, 200)
	s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
	s.ask("DELETE", "/keys/"+made.ID, "").want(t, 204)
	var want []string
	for _, act := range []string{"create", "update", "rotate", "revoke"} {
		want = append(want, "keys."+act, "keys."+act+".succeeded")
	}
	if diff := cmp.Diff(want, s.events()); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{`"actor":"root"`, `"target":"` + made.ID + `"`, `"request_id":"request-1"`, `"ip":"192.0.2.7"`} {
		if n := strings.Count(s.ask("GET", "/audit", "").Body, part); n != 8 {
			t.Errorf("%s stands %d times in the audit chain", part, n)
		}
	}
}

// TestFailedActs is P12 at each step, and P1: what can't be recorded isn't done,
// and what may or may not have happened is no success. Nothing of it says a token.
func TestFailedActs(t *testing.T) {
	t.Parallel()
	isKey := func(k table.Key) bool { return strings.HasPrefix(k.Partition, "key#") }
	for _, row := range []struct {
		name         string
		before       bool // the operation fails before it is done, not after
		fails        func(op string, key table.Key, puts int) bool
		done         bool // the record is written nevertheless
		lastOfCreate string
	}{
		{"no intent", true, func(op string, k table.Key, puts int) bool { return op == "put" && puts == 0 }, false, ""},
		{"an intent whose writing may have failed", false, func(op string, k table.Key, puts int) bool { return op == "put" && puts == 0 }, false, "keys.create"},
		{"no record", true, func(op string, k table.Key, puts int) bool { return op == "put" && isKey(k) }, false, "keys.create.unknown"},
		{"a record whose writing may have failed", false, func(op string, k table.Key, puts int) bool { return op == "put" && isKey(k) }, true, "keys.create.unknown"},
		{"no outcome", true, func(op string, k table.Key, puts int) bool { return op == "put" && puts == 2 }, true, "keys.create"},
		{"nothing to be read", true, func(op string, k table.Key, puts int) bool { return op != "put" }, false, ""},
	} {
		for _, act := range []struct{ method, path, body string }{{"POST", "", plain}, {"PATCH", "/id", `{"name":"x"}`}, {"POST", "/id/rotate", ""}, {"DELETE", "/id", ""}} {
			s := newSite(t)
			path := act.path
			var made answer
			var chain []string
			if path != "" {
				made = s.create(plain)
				path = strings.Replace(path, "id", made.ID, 1)
				chain = s.events()
			}
			puts := 0
			var failed bool
			hook := func(op string, k table.Key) error {
				defer func() {
					if op == "put" {
						puts++
					}
				}()
				if row.fails(op, k, puts) {
					failed = true
					return errDown
				}
				return nil
			}
			if row.before {
				s.table.onEach(hook, nil)
			} else {
				s.table.onEach(nil, hook)
			}
			got := s.ask(act.method, "/keys"+path, act.body)
			s.table.onEach(nil, nil)
			if !failed || got.Status != 503 || !strings.Contains(got.Body, `"error":"Service unavailable"`) {
				t.Errorf("%s, %s %s: %d %s", row.name, act.method, act.path, got.Status, got.Body)
			}
			if strings.Contains(got.Body+s.log.String(), "postern_") || strings.Contains(got.Body, "table is down") {
				t.Errorf("%s, %s %s: it says too much: %s", row.name, act.method, act.path, got.Body)
			}
			if act.path == "" {
				if n := len(s.page("/keys").Keys); (n == 1) != row.done {
					t.Errorf("%s: there are %d keys", row.name, n)
				}
				events := append([]string{""}, s.events()...)
				if last := events[len(events)-1]; last != row.lastOfCreate {
					t.Errorf("%s: the chain ends with %q: %v", row.name, last, events)
				}
				continue
			}
			now := s.ask("GET", "/keys/"+made.ID, "").want(t, 200)
			if (now.Header.Get("ETag") == `"2"`) != row.done {
				t.Errorf("%s, %s %s: the key is at version %s", row.name, act.method, act.path, now.Header.Get("ETag"))
			}
			if strings.HasPrefix(row.name, "no intent") && len(s.events()) != len(chain) {
				t.Errorf("%s: %v", row.name, s.events())
			}
		}
	}
}

// TestStoreDown: reading is 503 too, and says nothing of the store.
func TestStoreDown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.create(plain)
	s.table.down(true)
	for _, target := range []string{"/keys", "/keys/" + made.ID} {
		if got := s.ask("GET", target, "").want(t, 503); strings.Contains(got.Body, "down") || got.Header.Get("Retry-After") == "" {
			t.Error(got.Body)
		}
	}
	s.table.down(false)
	// A record that can't be understood is an outage too, and not a key without bounds.
	item, _ := s.table.Get(t.Context(), table.Key{Partition: "key#" + made.ID[:1], Sort: made.ID})
	s.table.Put(t.Context(), item.Key, []byte(`{"id":"`+made.ID+`"}`), 1, time.Time{})
	for _, target := range []string{"/keys", "/keys/" + made.ID} {
		s.ask("GET", target, "").want(t, 503)
	}
}

// FuzzBodies: no body makes a 5xx or a key that can't be read again, P15.
func FuzzBodies(f *testing.F) {
	for _, row := range wrongFields {
		f.Add(`{"name":"ci","scopes":["chat"],"` + row.field + `":` + row.value + `}`)
	}
	f.Add(`{"name":"a","scopes":["chat"],"agents":["a"],"allowed_ips":["::/0"],"rate_limit":1,"tokens_per_day":1,"expires_at":"2027-01-01T00:00:00.5Z","disabled":true}`)
	f.Add(`{"grace":"5m"}`)
	f.Add(`{"grace":"0"}`)
	f.Fuzz(func(t *testing.T, body string) {
		s := newSite(t)
		made := s.create(plain)
		for _, r := range []struct{ method, path string }{{"POST", "/keys"}, {"PATCH", "/keys/" + made.ID}, {"POST", "/keys/" + made.ID + "/rotate"}} {
			got := s.ask(r.method, r.path, body)
			if got.Status >= 500 {
				t.Errorf("%s %s with %q: %d %s", r.method, r.path, body, got.Status, s.log.String())
			}
			if got.Status >= 300 {
				continue
			}
			k := got.key(t)
			s.ask("GET", "/keys/"+k.ID, "").want(t, 200)
			if k.Token == "" || k.Disabled {
				continue
			}
			if _, err := s.source().Verify(t.Context(), k.Token); err != nil && !errors.Is(err, auth.Disabled) {
				t.Errorf("%s %s with %q: %v", r.method, r.path, body, err)
			}
		}
	})
}
