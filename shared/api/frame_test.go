package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"log/slog"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/route"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

// bodyFunc is a request body that somebody watches.
type bodyFunc func(p []byte) (int, error)

func (f bodyFunc) Read(p []byte) (int, error) { return f(p) }

// The order of the chain (contract §2, I16, P15): what each request meets before
// its answer. "body" is the first byte read.
func TestChainOrder(t *testing.T) {
	t.Parallel()
	reader := auth.Caller{ID: "reader", Scopes: []route.Scope{route.AgentsRead}}
	for _, row := range []struct {
		name    string
		request string
		caller  auth.Caller // zero: root
		door    error
		spent   bool
		store   error
		status  int
		met     string
	}{
		{name: "a public route asks for no credential", request: "GET /health", door: auth.NoCredential, status: 200, met: "handler"},
		{name: "a public route reads no body unasked", request: "POST /health", door: auth.NoCredential, status: 405},
		{name: "an unknown path asks for no credential", request: "POST /nowhere", door: auth.NoCredential, status: 404},
		{name: "no credential is refused before limit and body", request: "POST /chat", door: auth.NoCredential, spent: true, status: 401, met: "admit"},
		{name: "a wrong one too", request: "POST /chat", door: auth.Unknown, status: 401, met: "admit"},
		{name: "a store that is down refuses there", request: "POST /chat", door: auth.ErrUnavailable, status: 503, met: "admit"},
		{name: "an address is refused before the scope", request: "POST /chat", caller: reader, door: auth.ErrAddress, status: 403, met: "admit"},
		{name: "a door that fails admits nobody", request: "POST /chat", door: errors.New("x"), status: 500, met: "admit"},
		{name: "a missing scope is refused before the body, and counts", request: "POST /chat", caller: reader, status: 403, met: "admit limit"},
		{name: "a missing scope is the answer even to who has none left", request: "POST /chat", caller: reader, spent: true, status: 403, met: "admit limit"},
		{name: "a spent limit is refused before the body", request: "POST /chat", spent: true, status: 429, met: "admit limit"},
		{name: "a limit that can't be known is refused", request: "POST /chat", store: errors.New("down"), status: 503, met: "admit limit"},
		{name: "the body is read last, by the handler", request: "POST /chat", status: 200, met: "admit limit handler body"},
		{name: "any credential is enough for whoami", request: "GET /whoami", caller: auth.Caller{ID: "nobody"}, status: 200, met: "admit limit handler"},
		{name: "a wrong method is refused after the credential", request: "PUT /chat", door: auth.NoCredential, status: 401, met: "admit"},
		{name: "and after the scope", request: "PUT /chat", caller: reader, status: 403, met: "admit limit"},
		{name: "and after the limit", request: "PUT /chat", spent: true, status: 429, met: "admit limit"},
		{name: "and then it is 405", request: "PUT /chat", status: 405, met: "admit limit"},
		{name: "TRACE is a wrong method", request: "TRACE /agents", status: 405, met: "admit limit"},
		{name: "TRACE without a credential is 401", request: "TRACE /agents", door: auth.NoCredential, status: 401, met: "admit"},
		{name: "CONNECT to a path is a wrong method", request: "CONNECT /agents", status: 405, met: "admit limit"},
		{name: "HEAD passes where GET does", request: "HEAD /agents", status: 200, met: "admit limit handler"},
		{name: "HEAD is guarded as GET is", request: "HEAD /agents", door: auth.NoCredential, status: 401, met: "admit"},
		{name: "HEAD of what has no GET is a wrong method", request: "HEAD /chat", status: 405, met: "admit limit"},
		{name: "an admin route is never counted", request: "GET /keys", spent: true, store: errors.New("down"), status: 200, met: "admit handler"},
		{name: "an admin route needs its credential", request: "GET /keys", door: auth.NoCredential, status: 401, met: "admit"},
		{name: "an admin route needs its scope", request: "GET /keys", caller: reader, status: 403, met: "admit"},
		{name: "a wrong method of an admin route needs it too", request: "PUT /keys", caller: reader, status: 403, met: "admit"},
		{name: "a preflight meets nothing (I14)", request: "OPTIONS /chat", door: auth.NoCredential, status: 204},
		{name: "wherever it goes", request: "OPTIONS /nowhere", door: auth.NoCredential, status: 204},
		{name: "and however", request: "OPTIONS *", status: 204},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var met []string
			meet := func(what string) { met = append(met, what) }
			caller := auth.RootCaller()
			if row.caller.ID != "" {
				caller = row.caller
			}
			s := newSite(t, behind(&guard{caller: caller, err: row.door, admitted: func() { meet("admit") }}), func(cfg *api.Config) {
				cfg.Limiter = limiterFunc(func(context.Context, string, int) (limit.Decision, error) {
					meet("limit")
					return limit.Decision{Admitted: !row.spent, Limit: 5, Reset: time.Second}, row.store
				})
				for name := range cfg.Handlers {
					cfg.Handlers[name] = func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
						meet("handler")
						if r.Method == "POST" {
							io.Copy(io.Discard, r.Body)
						}
						return nil
					}
				}
			})
			method, target, _ := strings.Cut(row.request, " ")
			r := httptest.NewRequest(method, target, bodyFunc(func([]byte) (int, error) { meet("body"); return 0, io.EOF }))
			got := s.send(r)
			if got.Status != row.status {
				t.Errorf("status %d, want %d: %s", got.Status, row.status, got.Body)
			}
			if diff := cmp.Diff(strings.Fields(row.met), met, cmp.Transformer("none", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("it met (-want +got):\n%s", diff)
			}
		})
	}
}

// P5: every row but the public one refuses whoever the door refuses, whatever
// the method.
func TestEveryRouteIsBehindTheDoor(t *testing.T) {
	t.Parallel()
	s := newSite(t, behind(&guard{err: auth.NoCredential}))
	for _, row := range route.Table() {
		target := strings.NewReplacer("{name}", "eliza", "{id}", "7").Replace(row.Path)
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} {
			got := s.ask(method, target)
			if row.Scope != route.Public && got.Status != 401 {
				t.Errorf("%s %s is %d without a credential, want 401", method, target, got.Status)
			}
			if row.Scope != route.Public && got.Header.Get("Ratelimit") != "" {
				t.Errorf("%s %s tells a stranger about limits", method, target)
			}
		}
	}
}

func TestWrongMethodNamesTheRightOnes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ request, allow string }{
		{"POST /health", "GET, HEAD, OPTIONS"},
		{"POST /agents/eliza", "GET, HEAD, OPTIONS"},
		{"GET /chat", "OPTIONS, POST"},
		{"PATCH /sessions/7", "DELETE, GET, HEAD, OPTIONS"},
		{"get /agents", "GET, HEAD, OPTIONS"},
	} {
		method, target, _ := strings.Cut(row.request, " ")
		got := newSite(t).ask(method, target)
		allow := strings.Split(got.Header.Get("Allow"), ", ")
		slices.Sort(allow)
		if got.Status != 405 || strings.Join(allow, ", ") != row.allow {
			t.Errorf("%s: %d with Allow %q, want 405 with %q in any order", row.request, got.Status, got.Header["Allow"], row.allow)
		}
	}
}

// A path is written in one way. A redirect from the others, as ServeMux answers,
// would turn a POST into a GET.
func TestUncleanPathsAreNotFound(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, request string }{
		{"a doubled slash", "GET //agents"},
		{"a doubled slash that looks like a host", "GET //evil.example/agents"},
		{"a trailing slash", "GET /agents/"},
		{"a parameter that is empty", "GET /sessions/"},
		{"a dot", "GET /./agents"},
		{"two dots", "GET /agents/../health"},
		{"two dots at the end", "GET /agents/.."},
		{"two dots, escaped", "GET /agents/%2e%2e"},
		{"two dots, escaped, in the middle", "GET /agents/%2e%2e/health"},
		{"an escaped slash in front", "GET /%2fagents"},
		{"an escaped slash between segments", "GET /agents%2feliza"},
		{"one dot, escaped", "GET /agents/%2E"},
		{"a POST with a trailing slash", "POST /chat/"},
		{"a POST with a doubled slash", "POST //chat"},
		{"no path", "CONNECT evil.example:443"},
		{"an asterisk", "GET *"},
		{"a URL without a path", "GET http://postern.example"},
		{"another case", "GET /Agents"},
		{"more segments", "GET /agents/eliza/prompt"},
		{"the root", "GET /"},
		{"a null byte", "GET /agents%00"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, behind(&guard{caller: auth.RootCaller(), admitted: func() { t.Error("a credential was asked for") }}))
			method, target, _ := strings.Cut(row.request, " ")
			got := s.ask(method, target)
			if got.Status != 404 || got.Header.Get("Location") != "" {
				t.Errorf("status %d, Location %q, want a plain 404", got.Status, got.Header.Get("Location"))
			}
			if p := got.problem(t); p.Error != "Not found" {
				t.Errorf("error %q", p.Error)
			}
		})
	}
}

func TestPathParametersArriveDecoded(t *testing.T) {
	t.Parallel()
	var name string
	s := newSite(t, handling("agents.get", func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
		name = r.PathValue("name")
		return nil
	}))
	for target, want := range map[string]string{
		"/agents/eliza":     "eliza",
		"/agents/a%2Fb":     "a/b",
		"/agents/a%20b%3Fc": "a b?c",
		"/agents/%C3%A9":    "é",
		"/agents/a%25zz":    "a%zz",
		"/agents/..%2Fx":    "../x", // a name like another: an escaped slash ends no segment
		"/agents/...":       "...",
		"/agents/eliza?x=/": "eliza",
	} {
		if got := s.ask("GET", target); got.Status != 200 || name != want {
			t.Errorf("%s: status %d, name %q, want 200, %q", target, got.Status, name, want)
		}
	}
}

func TestHeadIsLikeGet(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newSite(t, func(cfg *api.Config) { cfg.RateLimit = 0 }))
	defer server.Close()
	for _, path := range []string{"/agents", "/health", "/nowhere"} {
		get, head := fetch(t, "GET", server.URL+path), fetch(t, "HEAD", server.URL+path)
		get.Header.Del("Date")
		head.Header.Del("Date")
		if head.Body != "" || get.Body == "" {
			t.Errorf("%s: HEAD has the body %q, GET %q", path, head.Body, get.Body)
		}
		head.Body = get.Body
		if diff := cmp.Diff(get, head); diff != "" {
			t.Errorf("%s: HEAD differs from GET (-get +head):\n%s", path, diff)
		}
	}
}

func fetch(t *testing.T, method, url string) reply {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(body)}
}

// P14, contract §5: the rate headers, to the letter, on all that the chain
// answers once it knows whose limit it is.
func TestRateHeaders(t *testing.T) {
	t.Parallel()
	number := func(n int) *int { return &n }
	caller := func(limit *int, scopes ...route.Scope) auth.Caller {
		return auth.Caller{ID: "c", Scopes: scopes, RateLimit: limit}
	}
	for _, row := range []struct {
		name    string
		caller  auth.Caller
		limit   int
		request string
		before  int // requests that went before
		status  int
		policy  string
		rate    string
	}{
		{"a success", caller(nil, route.AgentsRead), 3, "GET /agents", 0, 200, `"hour";q=3;w=3600`, `"hour";r=2;t=1800`},
		{"the last one", caller(nil, route.AgentsRead), 3, "GET /agents", 2, 200, `"hour";q=3;w=3600`, `"hour";r=0;t=1800`},
		{"one too many", caller(nil, route.AgentsRead), 3, "GET /agents", 3, 429, `"hour";q=3;w=3600`, `"hour";r=0;t=1800`},
		{"many too many", caller(nil, route.AgentsRead), 3, "GET /agents", 9, 429, `"hour";q=3;w=3600`, `"hour";r=0;t=1800`},
		{"a missing scope", caller(nil), 3, "GET /agents", 0, 403, `"hour";q=3;w=3600`, `"hour";r=2;t=1800`},
		{"a wrong method", caller(nil, route.AgentsRead), 3, "PUT /agents", 1, 405, `"hour";q=3;w=3600`, `"hour";r=1;t=1800`},
		{"a bad body", caller(nil, route.Chat), 3, "POST /chat", 0, 400, `"hour";q=3;w=3600`, `"hour";r=2;t=1800`},
		{"a handler's failure", caller(nil, route.Chat), 3, "GET /sessions/7", 0, 500, `"hour";q=3;w=3600`, `"hour";r=2;t=1800`},
		{"the caller's own limit wins, if it is lower", caller(number(2), route.AgentsRead), 3, "GET /agents", 0, 200, `"hour";q=2;w=3600`, `"hour";r=1;t=1800`},
		{"and if it is higher", caller(number(50), route.AgentsRead), 3, "GET /agents", 5, 200, `"hour";q=50;w=3600`, `"hour";r=44;t=1800`},
		{"and where there is no other", caller(number(2), route.AgentsRead), 0, "GET /agents", 2, 429, `"hour";q=2;w=3600`, `"hour";r=0;t=1800`},
		{"the caller's 0 is no limit", caller(number(0), route.AgentsRead), 3, "GET /agents", 9, 200, "", ""},
		{"the default's 0 is no limit", caller(nil, route.AgentsRead), 0, "GET /agents", 9, 200, "", ""},
		{"an admin route", caller(nil, route.Admin), 3, "GET /keys", 9, 200, "", ""},
		{"a public route", caller(nil), 3, "GET /health", 9, 200, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, behind(&guard{caller: row.caller}), func(cfg *api.Config) { cfg.RateLimit = row.limit },
				handling("chat", func(http.ResponseWriter, *http.Request, auth.Caller) error { return api.Fail(api.InvalidRequest, "x") }),
				handling("sessions.get", func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New("x") }))
			method, target, _ := strings.Cut(row.request, " ")
			for range row.before {
				s.ask(method, target)
			}
			got := s.ask(method, target)
			if got.Status != row.status {
				t.Errorf("status %d, want %d", got.Status, row.status)
			}
			if h := got.Header.Get("RateLimit-Policy"); h != row.policy {
				t.Errorf("RateLimit-Policy: %s, want %s", h, row.policy)
			}
			if h := got.Header.Get("RateLimit"); h != row.rate {
				t.Errorf("RateLimit: %s, want %s", h, row.rate)
			}
			retry := ""
			if row.status == 429 {
				retry = "1800"
			}
			if h := got.Header.Get("Retry-After"); h != retry {
				t.Errorf("Retry-After: %q, want %q", h, retry)
			}
		})
	}
}

// Callers of different limits take turns, and each is told its own.
func TestEachCallersPolicy(t *testing.T) {
	t.Parallel()
	g := &guard{caller: auth.Caller{ID: "c", Scopes: []route.Scope{route.AgentsRead}}}
	s := newSite(t, behind(g))
	for _, n := range []int{7, 8, 8, 7} {
		g.caller.RateLimit = &n
		if h, want := s.ask("GET", "/agents").Header.Get("RateLimit-Policy"), fmt.Sprintf(`"hour";q=%d;w=3600`, n); h != want {
			t.Errorf("RateLimit-Policy: %s, want %s", h, want)
		}
	}
}

// The limit is the verified caller's, and the route's rows share it.
func TestLimitIsOfTheVerifiedCaller(t *testing.T) {
	t.Parallel()
	var asked []string
	s := newSite(t, behind(&guard{caller: auth.Caller{ID: "key-7", Scopes: []route.Scope{route.AgentsRead}}}), func(cfg *api.Config) {
		cfg.Limiter = limiterFunc(func(_ context.Context, caller string, max int) (limit.Decision, error) {
			asked = append(asked, caller)
			return limit.Decision{Admitted: true}, nil
		})
	})
	s.ask("GET", "/agents", "X-Api-Key: mallory", "X-Forwarded-For: 10.0.0.1")
	s.ask("GET", "/whoami", "Authorization: Bearer mallory")
	if !slices.Equal(asked, []string{"key-7", "key-7"}) {
		t.Errorf("counted against %q", asked)
	}
}

// P7's other half: who can't be counted isn't admitted.
func TestLimitStoreThatFailsRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(cfg *api.Config) {
		cfg.Limiter = limiterFunc(func(context.Context, string, int) (limit.Decision, error) {
			return limit.Decision{Admitted: true, Limit: 9}, errors.New("table is on fire")
		})
	})
	got := s.ask("GET", "/agents")
	if got.Status != 503 || got.problem(t).Error != "Service unavailable" || got.Header.Get("Retry-After") != "5" {
		t.Errorf("%d %q, Retry-After %q", got.Status, got.problem(t).Error, got.Header.Get("Retry-After"))
	}
	if strings.Contains(got.everything(), "fire") {
		t.Error("I15: the store's error is in the response")
	}
	if got.Header.Get("Ratelimit") != "" {
		t.Error("rate headers, though nothing is known")
	}
}

func TestScopeMissingNamesTheScope(t *testing.T) {
	t.Parallel()
	got := newSite(t, behind(&guard{caller: auth.Caller{ID: "c"}})).ask("GET", "/agents")
	if p := got.problem(t); !strings.Contains(p.Detail, `"agents:read"`) {
		t.Errorf("detail %q doesn't name agents:read", p.Detail)
	}
}

// What every response carries, whatever becomes of the request.
func TestEveryResponseCarries(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		s := newSite(t, func(cfg *api.Config) { cfg.TLS = tls },
			handling("agents.get", func(http.ResponseWriter, *http.Request, auth.Caller) error { panic("x") }),
			handling("whoami", func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New("x") }),
			handling("chat", func(http.ResponseWriter, *http.Request, auth.Caller) error { return nil }))
		for _, request := range []string{"GET /health", "GET /agents", "GET /agents/x", "GET /whoami", "POST /chat", "PUT /chat", "GET /nowhere", "GET //x", "OPTIONS /chat", "HEAD /agents"} {
			method, target, _ := strings.Cut(request, " ")
			got := s.ask(method, target, "X-Request-Id: theirs", "X-Request-ID: theirs-too")
			want := http.Header{"X-Request-Id": {"request-1"}, "X-Content-Type-Options": {"nosniff"}, "Cache-Control": {"no-store"}}
			if tls {
				want["Strict-Transport-Security"] = []string{"max-age=31536000"}
			}
			for _, name := range []string{"X-Request-Id", "X-Content-Type-Options", "Cache-Control", "Strict-Transport-Security"} {
				if diff := cmp.Diff(want[name], got.Header[name]); diff != "" {
					t.Errorf("%s, TLS %v: %s (-want +got):\n%s", request, tls, name, diff)
				}
			}
			if strings.Contains(got.everything(), "theirs") {
				t.Errorf("%s: the inbound request id came back", request)
			}
		}
	}
}

func TestRequestIDOf(t *testing.T) {
	t.Parallel()
	s := newSite(t, handling("health", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
		return api.WriteJSON(w, 201, api.RequestID(w))
	}))
	if got := s.ask("GET", "/health"); got.Body != "\"request-1\"\n" || got.Status != 201 || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", got.Status, got.everything())
	}
	if id := api.RequestID(httptest.NewRecorder()); id != "" {
		t.Errorf("outside a frame the id is %q", id)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	handler := func(http.ResponseWriter, *http.Request, auth.Caller) error { return nil }
	public := route.Route{Name: "health", Method: "GET", Path: "/health", Scope: route.Public}
	guarded := route.Route{Name: "chat", Method: "POST", Path: "/chat", Scope: route.Chat}
	limiter := usage.New(&memory.Table{}, slog.New(slog.DiscardHandler), nil)
	for _, row := range []struct {
		name   string
		cfg    api.Config
		reason string // "": accepted
	}{
		{"a row without a handler", api.Config{Routes: []route.Route{public}}, "route health has no handler"},
		{"a row whose handler is nil", api.Config{Routes: []route.Route{public}, Handlers: map[string]api.Handler{"health": nil}}, "route health has no handler"},
		{"a handler without a row", api.Config{Routes: []route.Route{public}, Handlers: map[string]api.Handler{"health": handler, "ghost": handler}}, "2 handlers for 1 routes"},
		{"a guarded row without a limiter", api.Config{Routes: []route.Route{guarded}, Handlers: map[string]api.Handler{"chat": handler}}, "route chat needs a limiter"},
		{"nothing wrong: public rows need no limiter", api.Config{Routes: []route.Route{public}, Handlers: map[string]api.Handler{"health": handler}}, ""},
		{"nothing wrong", api.Config{Routes: []route.Route{public, guarded}, Handlers: map[string]api.Handler{"health": handler, "chat": handler}, Limiter: limiter}, ""},
	} {
		frame, err := api.New(row.cfg)
		switch {
		case row.reason == "" && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.reason != "" && (err == nil || !strings.Contains(err.Error(), row.reason) || frame != nil):
			t.Errorf("%s: frame %v, error %v, want one with %q", row.name, frame, err, row.reason)
		}
	}
}
