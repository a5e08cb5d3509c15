package check

import (
	"fmt"
	"net/http"
	"strings"
)

// What administrators do, as far as it changes nothing.

// nobody is the id of a key that there is not.
const nobody = "000000000000"

// authorized is the header of who holds a token, with a JSON body or without.
func authorized(token string, pairs ...string) http.Header {
	return header(append([]string{"Authorization", "Bearer " + token, "Content-Type", "application/json"}, pairs...)...)
}

func invalid(detail string) Want {
	return Want{Status: 400, Error: "Invalid request", Detail: detail}
}

// administrative is a request for each route of an administrator's.
func administrative(id string) []Case {
	return []Case{
		{Method: "POST", Path: "/keys", Body: `{"name":"check","scopes":["agents:read"]}`},
		{Method: "GET", Path: "/keys"},
		{Method: "GET", Path: "/keys/" + id},
		{Method: "PATCH", Path: "/keys/" + id, Body: `{"disabled":true}`},
		{Method: "DELETE", Path: "/keys/" + id},
		{Method: "POST", Path: "/keys/" + id + "/rotate", Body: `{"grace":"0s"}`},
		{Method: "GET", Path: "/audit"},
		{Method: "GET", Path: "/usage"},
	}
}

// administration is what the root token gets for an answer where there is no key.
func administration() []Case {
	var cases []Case
	for _, c := range administrative(nobody) {
		c.Name, c.Header, c.Want = "P5: administrators' routes are behind the door: "+c.Method+" "+c.Path, header("Content-Type", "application/json"), refused()
		cases = append(cases, c)
	}
	for _, row := range []struct{ method, path, allow string }{
		{"PUT", "/keys", "POST, GET, HEAD, OPTIONS"},
		{"POST", "/keys/" + nobody, "GET, HEAD, PATCH, DELETE, OPTIONS"},
		{"GET", "/keys/" + nobody + "/rotate", "POST, OPTIONS"},
		{"DELETE", "/audit", "GET, HEAD, OPTIONS"},
		{"POST", "/usage", "GET, HEAD, OPTIONS"},
	} {
		cases = append(cases, Case{Name: "a wrong method of an administrator: " + row.method + " " + row.path, Method: row.method, Path: row.path, Header: posted(),
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"Allow": row.allow, "RateLimit": Absent}}})
	}
	for _, row := range []struct{ name, id string }{
		{"unknown", nobody}, {"too short", "abc"}, {"too long", nobody + "0"}, {"with other letters", "0000-0000-00"}, {"with an escaped slash", "000000%2F00000"},
	} {
		for _, c := range administrative(row.id) {
			if strings.HasPrefix(c.Path, "/keys/") {
				c.Name, c.Header, c.Want = fmt.Sprintf("an id that is %s is no key: %s", row.name, c.Method), posted(), Want{Status: 404, Error: "Not found"}
				cases = append(cases, c)
			}
		}
	}
	for path, detail := range map[string]string{
		"/keys?limit=0": `"limit"`, "/keys?limit=1001": `"limit"`, "/keys?limit=ten": `"limit"`, "/keys?limit=5&limit=6": `"limit"`, "/keys?limit=": `"limit"`,
		"/keys?after=abc": `"after"`, "/keys?page=2": "page",
		"/audit?limit=0": `"limit"`, "/audit?limit=1001": `"limit"`, "/audit?after=-1": `"after"`, "/audit?after=x": `"after"`, "/audit?from=1": "from",
		"/usage?from=yesterday": `"from"`, "/usage?to=1893456000": `"to"`, "/usage?limit=0": `"limit"`, "/usage?after=x": "after", "/usage?caller=root": "caller",
		"/usage?from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z": "before",
		"/usage?from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z": "31 days",
	} {
		cases = append(cases, Case{Name: "a faulty query is told: " + path, Path: path, Header: bearer(), Want: invalid(detail)})
	}
	return append(cases,
		Case{Name: "the keys", Path: "/keys", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{"keys": Any, "next": Any}, Header: map[string]string{"RateLimit": Absent}}},
		Case{Name: "the audit log", Path: "/audit", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{"events": Any, "next": Any}}},
		Case{Name: "usage of nobody", Path: "/usage?key=nobody", Header: bearer(), Want: Want{Status: 200, Body: `{"usage":[],"next":null}`}},
		Case{Name: "a key without a name", Method: "POST", Path: "/keys", Header: posted(), Body: `{"scopes":["chat"]}`, Want: invalid(`"name"`)},
		Case{Name: "a key without scopes", Method: "POST", Path: "/keys", Header: posted(), Body: `{"name":"check"}`, Want: invalid(`"scopes"`)},
		Case{Name: "a key that is disabled from the beginning", Method: "POST", Path: "/keys", Header: posted(), Body: `{"name":"check","scopes":["chat"],"disabled":true}`, Want: invalid(`"disabled"`)},
		Case{Name: "a key of a form", Method: "POST", Path: "/keys", Header: bearer("Content-Type", "text/plain"), Body: `{"name":"check","scopes":["chat"]}`,
			Want: Want{Status: 415, Error: "Unsupported media type"}},
		Case{Name: "a key that is too large", Method: "POST", Path: "/keys", Header: posted(), Body: `{"name":"` + strings.Repeat("x", 1<<20) + `"}`,
			Want: Want{Status: 413, Error: "Request too large"}},
	)
}

// faults of fields: each is refused by POST and by PATCH, by its name.
var faultyFields = []struct{ field, value string }{
	{"name", `""`}, {"name", `" "`}, {"name", `null`}, {"name", `7`}, {"name", `"a\nb"`}, {"name", `"\u202e"`}, {"name", `"` + strings.Repeat("x", 129) + `"`},
	{"scopes", `[]`}, {"scopes", `null`}, {"scopes", `"chat"`}, {"scopes", `["root"]`}, {"scopes", `["any"]`}, {"scopes", `["public"]`}, {"scopes", `[null]`}, {"scopes", `["chat","chat"]`},
	{"scopes", `["` + Token + `"]`}, // P4: what stands in the wrong place isn't repeated
	{"agents", `[]`}, {"agents", `"assistant"`}, {"agents", `[""]`}, {"agents", `[7]`}, {"agents", `[null]`}, {"agents", `["a","a"]`},
	{"agents", `["` + strings.Repeat("x", 65) + `"]`}, {"agents", many(101)},
	{"allowed_ips", `[]`}, {"allowed_ips", `"192.0.2.7"`}, {"allowed_ips", `["*"]`}, {"allowed_ips", `[""]`}, {"allowed_ips", `["192.0.2.0/33"]`}, {"allowed_ips", `["localhost"]`},
	{"allowed_ips", `["192.0.2.7, 192.0.2.8"]`}, {"allowed_ips", `["192.0.2.7","192.0.2.7"]`}, {"allowed_ips", `[null]`},
	{"rate_limit", `-1`}, {"rate_limit", `1.5`}, {"rate_limit", `"5"`}, {"rate_limit", `true`}, {"rate_limit", `1000000001`}, {"rate_limit", `1e99`},
	{"tokens_per_day", `0`}, {"tokens_per_day", `-1`}, {"tokens_per_day", `0.5`}, {"tokens_per_day", `"5"`}, {"tokens_per_day", `1000000000001`},
	{"expires_at", `"tomorrow"`}, {"expires_at", `""`}, {"expires_at", `4102444800`}, {"expires_at", `"2099-01-31"`}, {"expires_at", `"2099-01-31T12:00:00"`}, {"expires_at", `"2020-01-31T12:00:00Z"`},
	{"id", `"000000000000"`}, {"key", `"` + Token + `"`}, {"digest", `"` + Digest + `"`}, {"created_by", `"root"`}, {"created_at", `"2020-01-31T12:00:00Z"`}, {"revoked_at", `null`},
	{"last_used_at", `null`}, {"version", `1`}, {"grace", `"1s"`},
}

// many is an array of n names.
func many(n int) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%q", fmt.Sprint(i)))
	}
	return "[" + strings.Join(names, ",") + "]"
}

// reader is what the holder of a key gets that may read about one agent.
func reader() []Case {
	var cases []Case
	for _, c := range append(administrative(ID),
		Case{Method: "PUT", Path: "/keys"},
		Case{Method: "POST", Path: "/chat", Body: `{"message":"hello","agent":"assistant"}`},
		Case{Method: "POST", Path: "/v1/chat/completions", Body: `{"model":"assistant","messages":[{"role":"user","content":"hi"}]}`},
		Case{Method: "POST", Path: "/workflow", Body: `{"name":"assistant","elements":["hi"]}`},
	) {
		scope := `"admin"`
		if strings.Contains(c.Body, "assistant") {
			scope = `"chat"`
		}
		c.Name, c.Header, c.Want = "a scope that a key lacks: "+c.Method+" "+c.Path, authorized(Issued), Want{Status: 403, Error: "Insufficient scope", Detail: scope}
		cases = append(cases, c)
	}
	whoami := func(name, token string, want Want) Case {
		return Case{Name: name, Path: "/whoami", Header: header("Authorization", "Bearer "+token), Want: want}
	}
	return append(cases,
		whoami("a key says whose it is", Issued, Want{Status: 200, Header: map[string]string{"RateLimit": Any, "RateLimit-Policy": `"hour";q=500;w=3600`},
			JSON: map[string]any{"id": Any, "name": "reader", "kind": "key", "scopes": "[agents:read]", "agents": "[assistant]", "rate_limit": 500, "expires_at": nil}}),
		Case{Name: "a key in X-API-Key", Path: "/whoami", Header: header("X-API-Key", Issued), Want: Want{Status: 200, JSON: map[string]any{"kind": "key"}}},
		Case{Name: "a key and the root token are two credentials", Path: "/whoami", Header: header("Authorization", "Bearer "+Issued, "X-API-Key", Token), Want: refused()},
		whoami("a key with a character more", Issued+"x", refused()),
		whoami("a key of another id", "postern_"+nobody+"_"+Issued, refused()),
		whoami("the id is no key", ID, refused()),
		Case{Name: "a key shows its agents", Path: "/agents", Header: authorized(Issued), Want: Want{Status: 200, JSON: map[string]any{"agents.0.name": "assistant", "agents.1": Absent}}},
		Case{Name: "P13: another's agent", Path: "/agents/sumfrench", Header: authorized(Issued), Want: Want{Status: 404, Error: "Not found", Detail: "GET /agents"}},
	)
}

// aKey is what the root token gets for an answer about a key: it looks at it, and
// fails to change it.
func aKey() []Case {
	path := "/keys/" + ID
	patch := func(name, body string, want Want, pairs ...string) Case {
		return Case{Name: name, Method: "PATCH", Path: path, Header: posted(pairs...), Body: body, Want: want}
	}
	var cases []Case
	for _, f := range faultyFields {
		fields := map[string]string{"name": `"check"`, "scopes": `["agents:read"]`}
		fields[f.field] = f.value
		var members []string
		for name, value := range fields {
			members = append(members, fmt.Sprintf("%q:%s", name, value))
		}
		cases = append(cases,
			Case{Name: fmt.Sprintf("POST /keys: a wrong %s: %.40s", f.field, f.value), Method: "POST", Path: "/keys", Header: posted(),
				Body: "{" + strings.Join(members, ",") + "}", Want: invalid(`"` + f.field + `"`)},
			patch(fmt.Sprintf("PATCH /keys: a wrong %s: %.40s", f.field, f.value), fmt.Sprintf("{%q:%s}", f.field, f.value), invalid(`"`+f.field+`"`)))
	}
	for _, value := range []string{`null`, `"yes"`, `1`, `[true]`} {
		cases = append(cases, patch("PATCH /keys: a wrong disabled: "+value, `{"disabled":`+value+`}`, invalid(`"disabled"`)))
	}
	for _, grace := range []string{`"31d"`, `"1w"`, `"-1s"`, `"1.5h"`, `""`, `" 1s"`, `60`, `null`, `"9999999999999999999s"`} {
		cases = append(cases, Case{Name: "a wrong grace: " + grace, Method: "POST", Path: path + "/rotate", Header: posted(), Body: `{"grace":` + grace + `}`, Want: invalid(`"grace"`)})
	}
	for tag, want := range map[string]Want{
		`"2"`: {Status: 409, Error: "Conflict"}, `W/"1"`: {Status: 409, Error: "Conflict"}, `"0", "2"`: {Status: 409, Error: "Conflict"},
		`1`: invalid("If-Match"), ``: invalid("If-Match"), `"1`: invalid("If-Match"), `*, "1"`: invalid("If-Match"),
	} {
		for _, c := range administrative(ID) {
			if c.Method != "GET" && c.Path != "/keys" {
				c.Name, c.Header, c.Want = fmt.Sprintf("If-Match %s: %s %s", tag, c.Method, c.Path), posted("If-Match", tag), want
				cases = append(cases, c)
			}
		}
	}
	return append(cases,
		patch("nothing to change", `{}`, invalid("at least one field")),
		patch("an array is no change", `[]`, invalid("JSON object")),
		patch("an empty body is no change", ``, invalid("empty")),
		Case{Name: "HEAD of a key", Method: "HEAD", Path: path, Header: bearer(), Want: Want{Status: 200, Header: map[string]string{"ETag": `"1"`}}},
		Case{Name: "a key is as it was", Path: path, Header: bearer(), Want: Want{Status: 200, Header: map[string]string{"ETag": `"1"`, "RateLimit": Absent}, JSON: map[string]any{
			"id": Any, "name": "reader", "scopes": "[agents:read]", "agents": "[assistant]", "allowed_ips": nil, "rate_limit": 500, "tokens_per_day": nil, "expires_at": nil,
			"disabled": false, "created_at": Any, "created_by": "root", "revoked_at": nil, "previous_expires_at": nil, "last_used_at": Any, "key": Absent, "digest": Absent, "older": Absent}}},
		Case{Name: "a key is in the list", Path: "/keys?limit=1", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{
			"keys.0.id": Any, "keys.0.key": Absent, "keys.0.digest": Absent, "next": Any}}},
		Case{Name: "the list goes on behind a key", Path: "/keys?after=zzzzzzzzzzzz", Header: bearer(), Want: Want{Status: 200, Body: `{"keys":[],"next":null}`}},
		Case{Name: "the key works as before", Path: "/whoami", Header: authorized(Issued), Want: Want{Status: 200, JSON: map[string]any{"name": "reader"}}},
	)
}
