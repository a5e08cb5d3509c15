package apigw_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/route"
)

func addr(s string) netip.Addr { a, _ := netip.ParseAddr(s); return a.Unmap() }

// The caller that the authorizer verified is the caller that a handler gets, to
// the last field.
func TestCallerThroughTheGateway(t *testing.T) {
	t.Parallel()
	number := func(n int) *int { return &n }
	for _, row := range []struct {
		name   string
		caller auth.Caller
	}{
		{"root", auth.RootCaller()},
		{"admin", auth.AdminCaller()},
		{"an id alone", auth.Caller{ID: "x"}},
		{"every field", auth.Caller{
			ID: "Ab3dEf6hIj9k", Kind: auth.IssuedKey, Name: `café "du" 東京` + "\n", Scopes: allScopes(), Agents: []string{"eliza", `a"b,c`, ""},
			RateLimit: number(7), TokensPerDay: number(1000), ExpiresAt: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC),
		}},
		{"no agents is not all agents", auth.Caller{ID: "x", Agents: []string{}}},
		{"no limit is not the default", auth.Caller{ID: "x", RateLimit: number(0), TokensPerDay: number(0)}},
		{"an expiry elsewhere is the same moment", auth.Caller{ID: "x", ExpiresAt: time.Date(2027, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var got auth.Caller
			reply := roundTrip(t, row.caller, func(_ http.ResponseWriter, _ *http.Request, c auth.Caller) error { got = c; return nil })
			if reply.Status != 200 {
				t.Fatalf("%d %s", reply.Status, reply.Body)
			}
			if diff := cmp.Diff(row.caller, got); diff != "" {
				t.Errorf("(-verified +handled):\n%s", diff)
			}
		})
	}
}

// A context is the interface for somebody's own authorizer too. What can't be
// understood is no caller; least of all one with fewer bounds.
func TestContextThatIsGarbage(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		context map[string]any
		status  int
	}{
		{"no authorizer", nil, 401},
		{"an empty context", map[string]any{}, 401},
		{"no principal", map[string]any{"kind": "root", "scopes": `["admin"]`}, 401},
		{"an empty principal", map[string]any{"principalId": "", "scopes": `["admin"]`}, 401},
		{"a principal that is null", map[string]any{"principalId": nil}, 401},
		{"a principal that is a number", map[string]any{"principalId": 7.0}, 401},
		{"a principal that is an object", map[string]any{"principalId": map[string]any{"a": "b"}}, 401},
		{"claims of another authorizer", map[string]any{"claims": map[string]any{"sub": "root"}}, 401},

		{"agents that are no JSON", map[string]any{"agents": "eliza"}, 500},
		{"agents that are a JSON string", map[string]any{"agents": `"eliza"`}, 500},
		{"agents that are an object", map[string]any{"agents": `{"eliza":true}`}, 500},
		{"agents that are numbers", map[string]any{"agents": `[1]`}, 500},
		{"agents cut short", map[string]any{"agents": `["eliza"`}, 500},
		{"agents with something after them", map[string]any{"agents": `["eliza"] *`}, 500},
		{"agents that are blank", map[string]any{"agents": ` `}, 500},
		{"agents that are no string", map[string]any{"agents": []any{"eliza"}}, 500},
		{"agents that are true", map[string]any{"agents": true}, 500},
		{"scopes that are a word", map[string]any{"scopes": "admin"}, 500},
		{"scopes in a list of lists", map[string]any{"scopes": `[["admin"]]`}, 500},
		{"scopes that are a number", map[string]any{"scopes": 1.0}, 500},
		{"a limit that is a word", map[string]any{"rate_limit": "none"}, 500},
		{"a limit below none", map[string]any{"rate_limit": "-1"}, 500},
		{"a limit that is a fraction", map[string]any{"rate_limit": "1.5"}, 500},
		{"a limit beyond all", map[string]any{"rate_limit": "99999999999999999999"}, 500},
		{"a limit with a space", map[string]any{"rate_limit": " 5"}, 500},
		{"a limit that is no string", map[string]any{"rate_limit": 5.0}, 500},
		{"a budget that is a word", map[string]any{"tokens_per_day": "lots"}, 500},
		{"a budget below none", map[string]any{"tokens_per_day": "-5"}, 500},
		{"an expiry that is no time", map[string]any{"expires_at": "tomorrow"}, 500},
		{"an expiry that is a number", map[string]any{"expires_at": "1790000000"}, 500},
		{"a kind that is no string", map[string]any{"kind": false}, 500},
		{"a name that is no string", map[string]any{"name": 1.0}, 500},
		{"one fault beside what is right", map[string]any{"rate_limit": "5", "agents": `["a"]`, "expires_at": "never"}, 500},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if row.status == 500 {
				row.context["principalId"] = "x"
			}
			called := false
			h := functionWith(t, func(http.ResponseWriter, *http.Request, auth.Caller) error { called = true; return nil }, new(logbook))
			got := both(t, h, as(proxied("GET", "/whoami"), row.context))
			if got.Status != row.status || called {
				t.Errorf("%d, handler called: %v; want %d and not", got.Status, called, row.status)
			}
			if want := map[int]string{401: "Invalid API key", 500: "Internal error"}[row.status]; got.error() != want {
				t.Errorf("error %q, want %q", got.error(), want)
			}
		})
	}
}

// What is empty is absent (contract §2), and null names nothing.
func TestContextThatIsSparse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		context map[string]any
		want    auth.Caller
	}{
		{"empty values", map[string]any{"kind": "", "name": "", "scopes": "", "agents": "", "rate_limit": "", "tokens_per_day": "", "expires_at": ""}, auth.Caller{ID: "x"}},
		{"an empty list of agents", map[string]any{"agents": "[]"}, auth.Caller{ID: "x", Agents: []string{}}},
		{"agents that are null in JSON", map[string]any{"agents": "null"}, auth.Caller{ID: "x", Agents: []string{}}},
		{"an agent that is null", map[string]any{"agents": "[null]"}, auth.Caller{ID: "x", Agents: []string{""}}},
		{"scopes that are null", map[string]any{"scopes": "null"}, auth.Caller{ID: "x"}},
		{"scopes nobody knows", map[string]any{"scopes": `["*","ADMIN","public"]`}, auth.Caller{ID: "x", Scopes: []route.Scope{"*", "ADMIN", "public"}}},
		{"keys nobody knows", map[string]any{"id": "root", "Scopes": `["admin"]`, "principalid": "root"}, auth.Caller{ID: "x"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.context["principalId"] = "x"
			var got auth.Caller
			h := functionWith(t, func(_ http.ResponseWriter, _ *http.Request, c auth.Caller) error { got = c; return nil }, new(logbook))
			if reply := both(t, h, as(proxied("GET", "/whoami"), row.context)); reply.Status != 200 {
				t.Fatalf("%d %s", reply.Status, reply.Body)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Holds(route.Admin) || got.Holds(route.Chat) || row.want.Agents != nil && got.MayUse("eliza") {
				t.Errorf("%+v may do more than it was given", got)
			}
		})
	}
}

// P5: every function refuses an event without a caller, on every route but the
// public ones, and whatever poses as one.
func TestEveryRouteRefusesAnEventWithoutCaller(t *testing.T) {
	t.Parallel()
	const forged = `{"requestId":"forged","identity":{"sourceIp":"10.0.0.1"},"authorizer":{"principalId":"root","kind":"root","scopes":"[\"admin\",\"chat\",\"agents:read\"]"}}`
	for _, f := range []route.Function{route.HealthFunction, route.AgentsFunction, route.ChatFunction} {
		handlers := map[string]api.Handler{}
		for _, row := range route.Of(f) {
			handlers[row.Name] = func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
				if row.Scope != route.Public {
					t.Errorf("%s was reached", row.Name)
				}
				return nil
			}
		}
		h, err := apigw.New(f, api.Config{Handlers: handlers, Log: new(logbook).logger(), Limiter: nobodys{t}})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range route.Of(f) {
			for name, change := range map[string]func(*events.APIGatewayProxyRequest){
				"nothing": func(*events.APIGatewayProxyRequest) {},
				"the root token, which is the authorizer's to check": func(e *events.APIGatewayProxyRequest) {
					e.MultiValueHeaders["Authorization"] = []string{"Bearer " + canary}
				},
				"headers that pose as API Gateway's word": func(e *events.APIGatewayProxyRequest) {
					for _, name := range []string{"X-GoLambdaProxy-ApiGw-Context", "x-golambdaproxy-apigw-context", "X-Golambdaproxy-Apigw-Stagevars"} {
						e.MultiValueHeaders[name] = []string{forged}
					}
				},
				"single-valued ones": func(e *events.APIGatewayProxyRequest) {
					e.MultiValueHeaders, e.Headers = nil, map[string]string{"X-GoLambdaProxy-ApiGw-Context": forged, "principalId": "root"}
				},
				"a body that poses": func(e *events.APIGatewayProxyRequest) { e.Body = `{"requestContext":` + forged + `}` },
				"query parameters": func(e *events.APIGatewayProxyRequest) {
					e.QueryStringParameters = map[string]string{"principalId": "root"}
				},
				"an IAM caller": func(e *events.APIGatewayProxyRequest) {
					e.RequestContext.Identity.Caller, e.RequestContext.Identity.UserArn = "root", "arn:aws:iam::1:root"
				},
			} {
				event := proxied(row.Method, row.Path, "name", "eliza")
				change(&event)
				want := 401
				if row.Scope == route.Public {
					want = 200
				}
				if got := both(t, h, event); got.Status != want || got.Header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s with %s: %d %v, want %d", row.Name, name, got.Status, got.Header, want)
				}
			}
		}
	}
}

// nobodys is a limiter that must not be asked.
type nobodys struct{ t *testing.T }

func (n nobodys) Take(context.Context, string, int) (d limit.Decision, err error) {
	n.t.Error("a stranger was counted")
	return d, errors.New("asked")
}

// A request that never came through an event has no caller either.
func TestDoorWithoutAnEvent(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("GET", "/whoami", nil)
	r.RemoteAddr = "203.0.113.9:1"
	r.Header.Set("X-GoLambdaProxy-ApiGw-Context", `{"authorizer":{"principalId":"root"}}`)
	if caller, err := (apigw.Door{}).Admit(t.Context(), r, netip.Addr{}); !errors.Is(err, auth.NoCredential) || caller.ID != "" {
		t.Errorf("admitted as %q (%v)", caller.ID, err)
	}
	if id, from := (apigw.Door{}).Arrival(r); id != "" || from.IsValid() {
		t.Errorf("arrived as %q from %v", id, from)
	}
}

// The request's id and address are API Gateway's; no header has a say (P9).
func TestFactsAreTheGateways(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, sourceIP, ip string }{
		{"IPv4", "203.0.113.9", "203.0.113.9"},
		{"IPv6", "2001:db8::7", "2001:db8::7"},
		{"IPv4 mapped into IPv6", "::ffff:203.0.113.9", "203.0.113.9"},
		{"none (a console test)", "test-invoke-source-ip", "unknown"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var book logbook
			var seen http.Header
			h := functionWith(t, func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error { seen = r.Header; return nil }, &book)
			event := as(proxied("GET", "/whoami"), root())
			event.RequestContext.Identity.SourceIP = row.sourceIP
			for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "X-Request-Id", "X-Amzn-Requestid", "X-GoLambdaProxy-ApiGw-Context", "X-Kept"} {
				event.MultiValueHeaders[name] = []string{"10.0.0.1"}
			}
			got, err := buffered(h, event)
			if err != nil || got.Status != 200 || got.Header.Get("X-Request-Id") != "gateway-id" {
				t.Errorf("%v: %d, X-Request-Id %q", err, got.Status, got.Header.Get("X-Request-Id"))
			}
			for _, want := range []string{`"ip":"` + row.ip + `"`, `"request_id":"gateway-id"`, `"caller":"root"`} {
				if !strings.Contains(book.String(), want) || strings.Contains(book.String(), "10.0.0.1") {
					t.Errorf("the log is %s, want %s in it", book.String(), want)
				}
			}
			for name := range seen {
				if strings.HasPrefix(strings.ToLower(name), "x-golambdaproxy") {
					t.Errorf("the handler got the header %s", name)
				}
			}
			if seen.Get("X-Kept") == "" || event.MultiValueHeaders["X-GoLambdaProxy-ApiGw-Context"] == nil {
				t.Error("more was dropped than that, or the event itself was changed")
			}
		})
	}
}
