package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"postern/shared/check"
	"postern/shared/route"
)

// admitted is, by a route's name, a request that whoever holds its scope gets
// this status for. It changes nothing.
var admitted = map[string]struct {
	path, body string
	status     int
}{
	"health":             {"/health", "", 200},
	"agents.list":        {"/agents", "", 200},
	"agents.get":         {"/agents/assistant", "", 200},
	"whoami":             {"/whoami", "", 200},
	"chat":               {"/chat", `{"message":"hello","agent":"assistant"}`, 200},
	"sessions.get":       {"/sessions/none", "", 404},
	"sessions.delete":    {"/sessions/none", "", 404},
	"jobs.list":          {"/jobs", "", 200},
	"jobs.get":           {"/jobs/" + nobodysJob, "", 404},
	"jobs.cancel":        {"/jobs/" + nobodysJob + "/cancel", "", 404},
	"jobs.delete":        {"/jobs/" + nobodysJob, "", 404},
	"keys.create":        {"/keys", `{"name":"x"}`, 400},
	"keys.list":          {"/keys", "", 200},
	"keys.get":           {"/keys/000000000000", "", 404},
	"keys.update":        {"/keys/000000000000", `{"disabled":true}`, 404},
	"keys.revoke":        {"/keys/000000000000", "", 404},
	"keys.rotate":        {"/keys/000000000000/rotate", "", 404},
	"audit.list":         {"/audit", "", 200},
	"usage.list":         {"/usage", "", 200},
	"openai.models":      {"/v1/models", "", 200},
	"openai.model":       {"/v1/models/assistant", "", 200},
	"openai.completions": {"/v1/chat/completions", `{"model":"assistant","messages":[{"role":"user","content":"hi"}]}`, 200},
	"elizaos.agents":     {"/api/agents", "", 200},
	"omnidev.ask":        {"/api/ask", `{"workspaceId":"w"}`, 400},
	"omnidev.jobs":       {"/api/jobs", "", 200},
	"omnidev.job":        {"/api/jobs/" + nobodysJob, "", 404},
	"omnidev.delete":     {"/api/jobs/" + nobodysJob, "", 404},
	"txtai.workflow":     {"/workflow", `{"name":"assistant","elements":["hi"]}`, 200},
}

// role is a credential and what it holds.
type role struct {
	name, token string
	scopes      string // "": its credential is none
}

// TestP11TheRoleMatrix is every role at every route: the route table's scope says
// who is let in, on both sides.
func TestP11TheRoleMatrix(t *testing.T) {
	const admin, client = "an-admin-key-AAAAAAAAAAAAAAAA", "a-client-key-BBBBBBBBBBBBBBBB"
	const all, user = "agents:read chat admin", "agents:read chat"
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		here := start(t, map[string]string{"ADMIN_API_KEY": admin, "VALID_API_KEYS": client + ", another-client-key-CCCCCCCC"})
		here.side(t).matrix(t, role{"ADMIN_API_KEY", admin, all}, role{"one of VALID_API_KEYS", client, user})
		here.side(t).as(t, client, get("/keys", check.Want{Status: 403, Error: "Insufficient scope", Header: map[string]string{"WWW-Authenticate": `Bearer error="insufficient_scope"`}}))
		eventually(t, "the log tells of somebody who lacked a scope", func() bool { return strings.Contains(here.logs(), `"reason":"scope"`) })
	})
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		cloud := deploy(t, nil, map[string]string{"ADMIN_API_KEY": admin, "VALID_API_KEYS": client})
		cloud.side(t).matrix(t, role{"ADMIN_API_KEY, which is none here", admin, ""}, role{"VALID_API_KEYS, which is none here", client, ""})
	})
}

func (s side) matrix(t *testing.T, more ...role) {
	key := func(name, fields string, scopes ...string) role {
		list := `"` + strings.Join(scopes, `","`) + `"`
		return role{name, s.issue(t, token, fmt.Sprintf(`{"name":%q,"scopes":[%s]%s}`, name, list, fields)).Token, strings.Join(scopes, " ")}
	}
	disabled := s.issue(t, token, `{"name":"disabled","scopes":["agents:read","chat","admin"]}`)
	s.as(t, token, send("PATCH", "/keys/"+disabled.ID, `{"disabled":true}`, fine))
	revoked := s.issue(t, token, `{"name":"revoked","scopes":["agents:read","chat","admin"]}`)
	s.as(t, token, send("DELETE", "/keys/"+revoked.ID, "", check.Want{Status: 204}))
	roles := append(more,
		role{"root", token, "agents:read chat admin"},
		key("a key of all scopes", "", "agents:read", "chat", "admin"),
		key("an administrator's key", "", "admin"),
		key("a limited administrator's key", `,"agents":["assistant"],"rate_limit":100,"allowed_ips":["127.0.0.1","198.51.0.0/16"],"expires_at":"2099-01-01T00:00:00Z"`, "agents:read", "admin"),
		key("a key that reads", "", "agents:read"),
		key("a key that chats", "", "chat"),
		key("a key that reads and chats", "", "agents:read", "chat"),
		role{"a key that is disabled", disabled.Token, ""},
		role{"a key that is revoked", revoked.Token, ""},
		role{"a key of nobody", nobodys, ""},
		role{"nobody", "", ""},
	)
	for _, r := range roles {
		for _, row := range route.Table() {
			request, told := admitted[row.Name]
			if !told {
				t.Fatalf("route %s isn't told of in admitted", row.Name)
			}
			want, wrongMethod := check.Want{Status: request.status}, check.Want{Status: 405, Error: "Method not allowed"}
			switch holds := strings.Contains(" "+r.scopes+" ", " "+string(row.Scope)+" "); {
			case row.Scope == route.Public:
			case r.scopes == "":
				want, wrongMethod = refused, refused
			case row.Scope != route.Any && !holds:
				want = check.Want{Status: 403, Error: "Insufficient scope", Detail: `"` + string(row.Scope) + `"`}
				wrongMethod = want
			}
			c := send(row.Method, request.path, request.body, want)
			c.Name = fmt.Sprintf("%s at %s", r.name, row.Name)
			s.as(t, r.token, c)
			c = send("PROPFIND", request.path, request.body, wrongMethod)
			c.Name = fmt.Sprintf("%s at %s with a wrong method", r.name, row.Name)
			s.as(t, r.token, c)
		}
	}
	s.as(t, token, get("/keys?limit=100", check.Want{Status: 200, JSON: map[string]any{"keys.7.id": check.Any, "keys.8": check.Absent}}))
}

// TestP11NoKeyMakesAStrongerOne: an administrator who is bounded in every field
// gives nothing beyond them, by no route. Behind API Gateway not all of its
// bounds are in the caller's context.
func TestP11NoKeyMakesAStrongerOne(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		s = s.from("192.0.2.7")
		bounds := map[string]string{
			"scopes": `["agents:read","admin"]`, "agents": `["assistant","reviewer"]`, "allowed_ips": `["192.0.2.0/24"]`,
			"rate_limit": `50`, "tokens_per_day": `1000`, "expires_at": `"2099-01-01T00:00:00Z"`,
		}
		body := func(field, value string) string {
			members := []string{`"name":"made"`}
			for name, bound := range bounds {
				if name == field {
					bound = value
				}
				if bound != "" {
					members = append(members, fmt.Sprintf("%q:%s", name, bound))
				}
			}
			return "{" + strings.Join(members, ",") + "}"
		}
		admin := s.issue(t, token, body("", ""))
		weak := s.issue(t, admin.Token, body("scopes", `["agents:read"]`))
		strong := s.issue(t, token, `{"name":"strong","scopes":["chat"]}`)
		for _, beyond := range []struct{ field, value string }{
			{"scopes", `["agents:read","chat"]`},
			{"agents", `["assistant","sumfrench"]`}, {"agents", ``}, {"agents", `null`},
			{"allowed_ips", `["192.0.2.0/23"]`}, {"allowed_ips", `["198.51.100.1"]`}, {"allowed_ips", ``}, {"allowed_ips", `["0.0.0.0/0"]`},
			{"rate_limit", `51`}, {"rate_limit", `0`}, {"rate_limit", `null`}, {"rate_limit", ``},
			{"tokens_per_day", `1001`}, {"tokens_per_day", `null`}, {"tokens_per_day", ``},
			{"expires_at", `"2099-01-01T00:00:01Z"`}, {"expires_at", `null`}, {"expires_at", ``},
		} {
			want := check.Want{Status: 403, Error: "Insufficient scope", Detail: `"` + beyond.field + `"`}
			s.as(t, admin.Token, send("POST", "/keys", body(beyond.field, beyond.value), want))
			if beyond.value != "" {
				s.as(t, admin.Token, send("PATCH", "/keys/"+weak.ID, fmt.Sprintf(`{%q:%s}`, beyond.field, beyond.value), want))
				s.as(t, admin.Token, send("PATCH", "/keys/"+admin.ID, fmt.Sprintf(`{%q:%s}`, beyond.field, beyond.value), want))
			}
		}
		// A stronger one may be taken away, and not taken over.
		s.as(t, admin.Token, send("POST", "/keys/"+strong.ID+"/rotate", "", noScope))
		s.as(t, admin.Token, send("PATCH", "/keys/"+strong.ID, `{"name":"mine"}`, noScope))
		s.as(t, admin.Token, send("PATCH", "/keys/"+strong.ID, `{"disabled":true}`, fine))
		s.as(t, admin.Token, send("PATCH", "/keys/"+strong.ID, `{"disabled":false}`, noScope))
		s.as(t, admin.Token, send("DELETE", "/keys/"+strong.ID, "", check.Want{Status: 204}))

		s.as(t, admin.Token, get("/keys/"+weak.ID, check.Want{Status: 200, Header: map[string]string{"ETag": `"1"`}, JSON: map[string]any{"created_by": admin.ID}}))
		s.as(t, token, get("/keys", check.Want{Status: 200, JSON: map[string]any{"keys.2.id": check.Any, "keys.3": check.Absent}}))
		again := decode[record](t, s.as(t, admin.Token, send("POST", "/keys/"+weak.ID+"/rotate", `{"grace":"0"}`, fine)))
		s.as(t, again.Key, get("/whoami", check.Want{Status: 200, JSON: map[string]any{"id": weak.ID}}))
		s.as(t, weak.Token, get("/whoami", refused))
	})
}

// TestP9AKeyIsBoundToAddresses, where the gateway or a trusted proxy says so,
// beside the rule for all.
func TestP9AKeyIsBoundToAddresses(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		key := s.issue(t, token, `{"name":"bound","scopes":["agents:read"],"allowed_ips":["192.0.2.0/28","2001:db8::7"]}`)
		denied := check.Want{Status: 403, Error: "Access denied from this IP address", Header: map[string]string{"RateLimit": check.Absent}}
		for address, want := range map[string]check.Want{
			"192.0.2.0": fine, "192.0.2.15": fine, "2001:db8::7": fine, "::ffff:192.0.2.7": fine,
			"192.0.2.16": denied, "192.0.1.255": denied, "2001:db8::8": denied, "::ffff:192.0.2.16": denied,
		} {
			c := get("/agents", want)
			c.Name = "a bound key from " + address
			c.Header = map[string][]string{"X-Forwarded-For": {"192.0.2.7"}, "X-Real-Ip": {"192.0.2.7"}}
			s.from(address).as(t, key.Token, c)
			s.from(address).as(t, token, get("/agents", fine))
		}
		s.from("198.51.100.1").as(t, key.Token+"x", get("/agents", refused)) // 401 comes first
	})
}

// TestAKeyIsWholeInTheCallersContext: what an authorizer hands on of a key, a
// function reads, and nobody else need know.
func TestAKeyIsWholeInTheCallersContext(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	key := d.side(t).issue(t, token, `{"name":"Ünïcode \"7\"","scopes":["chat","agents:read"],"agents":["assistant","reviewer"],"rate_limit":0,"tokens_per_day":5000,"allowed_ips":["192.0.2.0/24"],"expires_at":"2099-01-01T00:00:00Z"}`)
	event := authorizerEvent("Bearer " + key.Token)
	event.RequestContext.Identity.SourceIP = "192.0.2.7"
	var policy events.APIGatewayCustomAuthorizerResponse
	if result := invoke(t, d.hosts["AuthorizerFunction"], event, &policy); result.Err != nil {
		t.Fatal(result.Err)
	}
	want := map[string]any{"kind": "key", "name": `Ünïcode "7"`, "scopes": `["chat","agents:read"]`, "agents": `["assistant","reviewer"]`,
		"rate_limit": "0", "tokens_per_day": "5000", "expires_at": "2099-01-01T00:00:00Z"}
	if policy.PrincipalID != key.ID || fmt.Sprint(policy.Context) != fmt.Sprint(want) {
		t.Errorf("the context of %s is %v", policy.PrincipalID, policy.Context)
	}

	// One that doesn't fit is refused where it is written.
	long := make([]string, 100)
	for i := range long {
		long[i] = fmt.Sprintf("%q", fmt.Sprint(i, strings.Repeat("x", 60)))
	}
	d.side(t).as(t, token, send("POST", "/keys", `{"name":"x","scopes":["chat"],"agents":[`+strings.Join(long, ",")+`]}`,
		check.Want{Status: 400, Error: "Invalid request", Detail: "4 KB"}))
}

// TestP5TheKeysFunctionRefusesAnEventWithoutACaller, or with a caller that makes
// no sense.
func TestP5TheKeysFunctionRefusesAnEventWithoutACaller(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	for name, caller := range map[string]map[string]any{
		"none": nil, "an empty one": {}, "an empty principal": {"principalId": "", "scopes": `["admin"]`}, "a principal that is no string": {"principalId": 1, "scopes": `["admin"]`},
		"scopes that are none": {"principalId": "root", "scopes": `admin`}, "a limit that is none": {"principalId": "root", "scopes": `["admin"]`, "rate_limit": "many"},
	} {
		result := invoke(t, d.hosts["KeysFunction"], events.APIGatewayProxyRequest{
			Resource: "/keys", Path: "/keys", HTTPMethod: "POST", Body: `{"name":"x","scopes":["chat"]}`,
			Headers:        map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + token},
			RequestContext: events.APIGatewayProxyRequestContext{RequestID: "id", Authorizer: caller},
		}, nil)
		if answer := string(result.Payload); result.Err != nil || strings.Contains(answer, `"statusCode":2`) || strings.Contains(answer, "postern_") {
			t.Errorf("%s: %v %s", name, result.Err, answer)
		}
	}
	d.side(t).as(t, token, get("/keys", check.Want{Status: 200, Body: `{"keys":[],"next":null}`}))
	d.side(t).as(t, token, get("/audit", check.Want{Status: 200, Body: `{"events":[],"next":null}`}))
}
