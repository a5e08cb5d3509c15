package check

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

// Suites returns every suite; the first is the one of the defaults.
func Suites() []Suite {
	return []Suite{
		{Name: "defaults", Cases: join(health(), refusals(), unknown(), agents(), chat(), conversations(), headers(), elizaOS(), omniDev(), txtai(), openAI(), jobs(), administration())},
		{Name: "limit", Settings: map[string]string{"API_RATE_LIMIT": "2"}, Cases: limits()},
		{Name: "no limit", Settings: map[string]string{"API_RATE_LIMIT": "0"}, Cases: []Case{
			{Name: "without a limit there are no rate headers", Path: "/whoami", Header: bearer(), Want: Want{Status: 200,
				Header: map[string]string{"RateLimit": Absent, "RateLimit-Policy": Absent}, JSON: map[string]any{"rate_limit": 0}}},
		}},
		{Name: "an issued key", Key: `{"name":"reader","scopes":["agents:read"],"agents":["assistant"],"rate_limit":500}`, Cases: join(reader(), waiting(), aKey())},
		{Name: "a job", Job: `{"message":"I need a job"}`, Cases: join(aJob(), aQuestion(), submissions(), noJob())},
		{Name: "addresses", Settings: map[string]string{"ALLOWED_IPS": "192.0.2.0/24, 2001:db8::/32"}, Cases: addresses()},
		{Name: "CORS for one origin", Settings: map[string]string{"CORS_ORIGINS": "https://app.example"}, Cases: cors("https://app.example", "Origin")},
		{Name: "CORS for all", Settings: map[string]string{"CORS_ORIGINS": "*"}, Cases: cors("*", Absent)},
	}
}

func join(lists ...[]Case) []Case {
	var all []Case
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// header makes a request's header of names and values in turn.
func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h[http.CanonicalHeaderKey(pairs[i])] = append(h[http.CanonicalHeaderKey(pairs[i])], pairs[i+1])
	}
	return h
}

func bearer(pairs ...string) http.Header {
	return header(append([]string{"Authorization", "Bearer " + Token}, pairs...)...)
}

// posted is the header of a POST with a JSON body.
func posted(pairs ...string) http.Header {
	return bearer(append([]string{"Content-Type", "application/json"}, pairs...)...)
}

func health() []Case {
	ok := Want{Status: 200, Body: `{"status":"ok","service":"postern"}`, Header: map[string]string{"Content-Type": "application/json", "RateLimit": Absent}}
	return []Case{
		{Name: "health needs no credential", Path: "/health", Want: ok},
		{Name: "health heeds no credential either", Path: "/health", Header: header("Authorization", "Bearer wrong"), Want: ok},
		{Name: "HEAD is served wherever GET is", Method: "HEAD", Path: "/health", Want: Want{Status: 200}},
		{Name: "a wrong method on a public path needs no credential", Method: "POST", Path: "/health",
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"Allow": "GET, HEAD, OPTIONS"}}},
	}
}

// refused is what every missing or wrong credential comes back as.
func refused() Want {
	return Want{Status: 401, Error: "Invalid API key", Detail: "Authorization: Bearer <token>",
		Header: map[string]string{"WWW-Authenticate": `Bearer realm="postern"`, "RateLimit": Absent}}
}

// refusals are the credentials of contract §2.
func refusals() []Case {
	whoami := func(name string, h http.Header) Case {
		return Case{Name: name, Path: "/whoami", Header: h, Want: refused()}
	}
	admitted := func(name string, h http.Header) Case {
		return Case{Name: name, Path: "/whoami", Header: h, Want: Want{Status: 200, JSON: map[string]any{"id": "root", "kind": "root"}}}
	}
	long := strings.Repeat("x", 513)
	return []Case{
		admitted("a bearer token is accepted", bearer()),
		admitted("X-API-Key is accepted", header("X-API-Key", Token)),
		admitted("I4: the scheme is case-insensitive", header("Authorization", "bEARER "+Token)),
		admitted("several spaces may follow the scheme", header("Authorization", "Bearer   "+Token)),
		admitted("both headers with the same token are accepted", bearer("X-API-Key", Token)),

		whoami("P6: no credential is refused", nil),
		whoami("an unknown token is refused", header("Authorization", "Bearer "+strings.Repeat("x", 43))),
		whoami("an unknown X-API-Key is refused", header("X-API-Key", "wrong")),
		whoami("I4: a token without its scheme is refused", header("Authorization", Token)),
		whoami("another scheme is refused", header("Authorization", "Basic "+Token)),
		whoami("another scheme is refused beside a good X-API-Key", header("Authorization", "Basic eDp5", "X-API-Key", Token)),
		whoami("I4: a scheme spliced into the token is refused", header("Authorization", "Bearer Bearer "+Token)),
		whoami("I4: a scheme run together with the token is refused", header("Authorization", "Bearer"+Token)),
		whoami("a repeated Authorization is refused", header("Authorization", "Bearer "+Token, "Authorization", "Bearer "+Token)),
		whoami("a repeated X-API-Key is refused", header("X-API-Key", Token, "X-API-Key", Token)),
		whoami("two different tokens are refused", bearer("X-API-Key", "wrong")),
		whoami("two different tokens are refused the other way round", header("Authorization", "Bearer wrong", "X-API-Key", Token)),
		whoami("an empty token is refused", header("Authorization", "Bearer ")),
		whoami("an empty X-API-Key is refused", header("X-API-Key", "")),
		whoami("513 bytes are refused", header("Authorization", "Bearer "+long)),
		whoami("I3: a token with bytes outside ASCII is refused", header("Authorization", "Bearer pässword")),
		whoami("a token with a space in it is refused", header("Authorization", "Bearer "+Half+" "+Half)),
		whoami("I19: a token that begins like the right one is refused", header("Authorization", "Bearer "+Half+strings.Repeat("x", 22))),
		whoami("a truncated token is refused", header("Authorization", "Bearer "+Half)),
		whoami("an extended token is refused", header("Authorization", "Bearer "+Token+"x")),
		whoami("the digest of the token is no token", header("Authorization", "Bearer "+Digest)),
		whoami("the digest with its prefix is no token", header("Authorization", "Bearer sha256:"+Digest)),
		whoami("a token of the issued form is only looked up", header("Authorization", "Bearer postern_0123456789ab_"+strings.Repeat("A", 49))),
		whoami("a comma does not join two tokens", header("X-API-Key", Token+", "+Token)),
		whoami("a cookie is no credential", header("Cookie", "token="+Token+"; authorization=Bearer "+Token)),
		whoami("API Gateway's own word can't be forged", header(
			"X-GoLambdaProxy-ApiGw-Context", `{"authorizer":{"principalId":"root","kind":"root","scopes":"[\"agents:read\"]"}}`,
			"X-Amzn-Request-Context", `{"authorizer":{"principalId":"root"}}`)),
		{Name: "a token in the query is no credential", Path: "/whoami?token=" + "abc&api_key=abc&authorization=Bearer%20abc", Want: refused()},
		{Name: "I16: the credential comes before the body", Method: "POST", Path: "/chat", Body: `{"message":`, Header: header("Content-Type", "application/json"), Want: refused()},
		{Name: "a token in the body is no credential", Method: "POST", Path: "/chat", Body: `{"message":"hello","token":"abc"}`, Header: header("Content-Type", "application/json"), Want: refused()},
		{Name: "P5: the agents are behind the door", Path: "/agents", Want: refused()},
		{Name: "P5: an agent is behind the door", Path: "/agents/assistant", Want: refused()},
		{Name: "P5: an unknown agent is behind the door", Path: "/agents/nobody", Want: refused()},
		{Name: "a wrong method is told only to who has a credential", Method: "DELETE", Path: "/chat", Want: refused()},
		{Name: "HEAD is behind the door", Method: "HEAD", Path: "/agents", Want: Want{Status: 401}},
	}
}

func unknown() []Case {
	notFound := func(name, method, path string, h http.Header) Case {
		return Case{Name: name, Method: method, Path: path, Header: h, Want: Want{Status: 404, Error: "Not found"}}
	}
	return []Case{
		notFound("an unknown path is 404 without a credential", "GET", "/nope", nil),
		notFound("an unknown path is 404 with a wrong credential", "GET", "/nope", header("Authorization", "Bearer wrong")),
		notFound("an unknown path is 404 with a right credential", "GET", "/nope/deeper", bearer()),
		notFound("the root is 404", "GET", "/", nil),
		notFound("a path below a route is another path", "GET", "/health/live", nil),
		notFound("any method on an unknown path is 404", "PUT", "/nope", nil),
		notFound("I2: there are no documentation pages", "GET", "/docs", nil),
		notFound("dot files are not served", "GET", "/.env", nil),
	}
}

func agents() []Case {
	return []Case{
		{Name: "I17: the agents are the file's", Path: "/agents", Header: bearer(), Want: Want{Status: 200,
			Header: map[string]string{"Content-Type": "application/json"},
			JSON: map[string]any{"agents.0.name": Any, "agents.0.description": Any, "agents.0.model": Any, "agents.0.tools": "[]",
				"agents.0.instructions": Absent, "agents.0.role": Absent}}},
		{Name: "an unknown agent is 404", Path: "/agents/no-such-agent", Header: bearer(), Want: Want{Status: 404, Error: "Not found", Detail: "GET /agents"}},
		{Name: "an odd name is an unknown agent", Path: "/agents/%C3%A9%20%3F%23%25", Header: bearer(), Want: Want{Status: 404, Error: "Not found"}},
		{Name: "a slash in a name is an unknown agent", Path: "/agents/a%2Fb", Header: bearer(), Want: Want{Status: 404, Error: "Not found"}},
		{Name: "a wrong method says which are right", Method: "POST", Path: "/agents", Header: posted(), Body: "{}",
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"Allow": "GET, HEAD, OPTIONS"}}},
		{Name: "whoami tells a caller of itself", Path: "/whoami", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{
			"id": "root", "kind": "root", "name": "", "scopes": "[agents:read chat admin]", "agents": nil, "rate_limit": Any, "expires_at": nil, "version": Any}}},
		{Name: "a query changes nothing", Path: "/whoami?a=1&a=2&b=%20", Header: bearer(), Want: Want{Status: 200, JSON: map[string]any{"id": "root"}}},
	}
}

func chat() []Case {
	chat := func(name, body string, want Want) Case {
		return Case{Name: name, Method: "POST", Path: "/chat", Header: posted(), Body: body, Want: want}
	}
	invalid := func(name, body, detail string) Case {
		return chat(name, body, Want{Status: 400, Error: "Invalid request", Detail: detail})
	}
	return []Case{
		chat("chat answers", `{"message":"I need a summary of the quarterly report"}`, Want{Status: 200,
			Header: map[string]string{"Content-Type": "application/json", "RateLimit": Any},
			JSON: map[string]any{"response": Any, "status": "success", "agent": Any, "model": Any,
				"usage.input_tokens": Any, "usage.output_tokens": Any, "request_id": Any}}),
		chat("text of any script survives", `{"message":"Ich suche \"Wörter\" — 日本語, 🙂 \u2028 and <tags>"}`, Want{Status: 200, JSON: map[string]any{"status": "success"}}),
		{Name: "a charset may stand beside the content type", Method: "POST", Path: "/chat", Body: `{"message":"hello"}`,
			Header: bearer("Content-Type", "application/json; charset=utf-8"), Want: Want{Status: 200, JSON: map[string]any{"status": "success"}}},
		{Name: "stream:true is answered with events", Method: "POST", Path: "/chat", Header: posted(), Body: `{"message":"hello","stream":true}`,
			Want: Want{Status: 200, Header: map[string]string{"Content-Type": "text/event-stream"}, Body: "event: done\ndata: {\"response\":"}},
		{Name: "Accept: text/event-stream is answered with events", Method: "POST", Path: "/chat", Header: posted("Accept", "text/event-stream"), Body: `{"message":"hello"}`,
			Want: Want{Status: 200, Header: map[string]string{"Content-Type": "text/event-stream"}, Body: "event: delta\ndata: {\"delta\":"}},
		chat("a missing message is told", `{}`, Want{Status: 400, Error: "Message required"}),
		chat("a blank message is told", `{"message":" \n\t"}`, Want{Status: 400, Error: "Message required"}),
		chat("a message that is no string is told", `{"message":42}`, Want{Status: 400, Error: "Message required"}),
		chat("a message that is null is told", `{"message":null}`, Want{Status: 400, Error: "Message required"}),
		invalid("an unknown field is named", `{"message":"hello","massage":1}`, `"massage"`),
		invalid("a field of the wrong type is named", `{"message":"hello","agent":7}`, `"agent" takes a string`),
		invalid("another field of the wrong type is named", `{"message":"hello","stream":"yes"}`, `"stream" takes true or false`),
		invalid("a body that is not JSON is told", `message=hello`, "not JSON"),
		invalid("a body that ends early is told", `{"message":"hello"`, "ends in the middle"),
		invalid("an empty body is told", ``, "empty"),
		invalid("an array is told", `[{"message":"hello"}]`, "must be a JSON object"),
		invalid("null is told", `null`, "must be a JSON object"),
		invalid("more after the object is told", `{"message":"hello"}{"message":"again"}`, "more after"),
		invalid("P15: deep JSON is told", strings.Repeat("[", 50_000), ""),
		chat("an unknown agent is 404", `{"message":"hello","agent":"no-such-agent"}`, Want{Status: 404, Error: "Not found"}),
		chat("a message above 256 KiB is too large", `{"message":"`+strings.Repeat("x", 256<<10+1)+`"}`, Want{Status: 413, Error: "Request too large"}),
		chat("a body above 1 MiB is too large", `{"message":"hello","agent":"`+strings.Repeat("x", 1<<20)+`"}`, Want{Status: 413, Error: "Request too large"}),
		{Name: "I14: a form is no JSON", Method: "POST", Path: "/chat", Header: bearer("Content-Type", "text/plain"), Body: `{"message":"hello"}`,
			Want: Want{Status: 415, Error: "Unsupported media type", Detail: "Content-Type: application/json"}},
		{Name: "no content type is no JSON", Method: "POST", Path: "/chat", Header: bearer(), Body: `{"message":"hello"}`,
			Want: Want{Status: 415, Error: "Unsupported media type"}},
		{Name: "chat takes POST alone", Path: "/chat", Header: bearer(),
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"Allow": "POST, OPTIONS"}}},
	}
}

func headers() []Case {
	return []Case{
		{Name: "a preflight needs no credential and reaches no handler", Method: "OPTIONS", Path: "/chat",
			Header: header("Origin", "https://evil.example", "Access-Control-Request-Method", "POST"),
			Want:   Want{Status: 204, Header: map[string]string{"Access-Control-Allow-Origin": Absent, "Vary": Absent}}},
		{Name: "a preflight of an unknown path is like any other", Method: "OPTIONS", Path: "/nope", Want: Want{Status: 204}},
		{Name: "I14: CORS is off", Path: "/agents", Header: bearer("Origin", "https://evil.example"),
			Want: Want{Status: 200, Header: map[string]string{"Access-Control-Allow-Origin": Absent, "Access-Control-Allow-Credentials": Absent}}},
		{Name: "rate headers tell what is left", Path: "/agents", Header: bearer(),
			Want: Want{Status: 200, Header: map[string]string{"RateLimit": Any, "RateLimit-Policy": `"hour";q=1000;w=3600`}}},
		{Name: "a refusal from the handler has rate headers too", Path: "/agents/no-such-agent", Header: bearer(),
			Want: Want{Status: 404, Error: "Not found", Header: map[string]string{"RateLimit": Any}}},
		{Name: "a wrong method has rate headers too", Method: "PUT", Path: "/whoami", Header: bearer(),
			Want: Want{Status: 405, Error: "Method not allowed", Header: map[string]string{"RateLimit": Any}}},
	}
}

func limits() []Case {
	whoami := func(name string, want Want) Case {
		return Case{Name: name, Path: "/whoami", Header: bearer(), Want: want}
	}
	policy := `"hour";q=2;w=3600`
	return []Case{
		whoami("the first of two requests", Want{Status: 200, Header: map[string]string{"RateLimit-Policy": policy}, JSON: map[string]any{"rate_limit": 2}}),
		{Name: "a refused credential counts for nobody", Path: "/whoami", Header: header("X-API-Key", "wrong"), Want: refused()},
		whoami("the second of two requests", Want{Status: 200, Header: map[string]string{"RateLimit-Policy": policy}}),
		whoami("the third of two requests is refused", Want{Status: 429, Error: "Rate limit exceeded",
			Header: map[string]string{"Retry-After": Any, "RateLimit-Policy": policy, "RateLimit": Any}}),
		{Name: "health goes on", Path: "/health", Want: Want{Status: 200}},
		{Name: "a wrong credential is still 401", Path: "/whoami", Header: header("X-API-Key", "wrong"), Want: refused()},
	}
}

func addresses() []Case {
	return []Case{
		{Name: "a caller from elsewhere is refused", Path: "/agents", Header: bearer(), Want: Want{Status: 403, Error: "Access denied from this IP address",
			Header: map[string]string{"RateLimit": Absent}}},
		{Name: "a wrong credential is 401 first", Path: "/agents", Header: header("X-API-Key", "wrong"), Want: refused()},
		{Name: "P9: a forwarded address is not believed", Path: "/agents", Header: bearer("X-Forwarded-For", "192.0.2.7", "X-Real-IP", "192.0.2.7", "Forwarded", "for=192.0.2.7"),
			Want: Want{Status: 403, Error: "Access denied from this IP address"}},
		{Name: "health answers everybody", Path: "/health", Want: Want{Status: 200}},
	}
}

// cors are the cases of one configured origin, or of "*".
func cors(origin, vary string) []Case {
	page := map[string]string{
		"Access-Control-Allow-Origin":      origin,
		"Access-Control-Expose-Headers":    "RateLimit, RateLimit-Policy, Retry-After, Location, ETag, X-Request-Id",
		"Access-Control-Allow-Credentials": Absent,
		"Vary":                             vary,
	}
	with := func(w Want) Want {
		w.Header = page
		return w
	}
	h := []string{"Origin", "https://app.example"}
	return []Case{
		{Name: "a page may read a reply", Path: "/agents", Header: bearer(h...), Want: with(Want{Status: 200})},
		{Name: "a page may read a refusal", Path: "/agents", Header: header(h...), Want: with(Want{Status: 401, Error: "Invalid API key"})},
		{Name: "a page may read an error", Path: "/agents/nobody", Header: bearer(h...), Want: with(Want{Status: 404, Error: "Not found"})},
		{Name: "a page may read that there is nothing", Path: "/nope", Header: header(h...), Want: with(Want{Status: 404, Error: "Not found"})},
		{Name: "a preflight lets the token through", Method: "OPTIONS", Path: "/chat",
			Header: header(append(h, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")...),
			Want: Want{Status: 204, Header: map[string]string{
				"Access-Control-Allow-Origin":      origin,
				"Access-Control-Allow-Headers":     "*, Authorization",
				"Access-Control-Allow-Methods":     "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
				"Access-Control-Allow-Credentials": Absent,
			}}},
	}
}

func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
