package apigw_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
)

// seen is what a handler can tell of its request.
type seen struct {
	Method, Path, Name, Query, Host, Body string
	Header                                http.Header
}

// echo answers with what it saw.
func echo(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Header.Del("X-Amzn-Trace-Id")
	return api.WriteJSON(w, http.StatusOK, seen{r.Method, r.URL.Path, r.PathValue("name"), r.URL.Query().Encode(), r.Host, string(body), r.Header})
}

// One route, as each way in puts it into an event; the goldens have what the
// handler sees, which is the same path always.
func TestRequestsByEveryWayIn(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/proxy/*.event.json")
	if err != nil || len(names) < 4 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "testdata/"), ".event.json")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var event events.APIGatewayProxyRequest
			readJSON(t, name+".event.json", &event)
			got := both(t, functionWith(t, echo, new(logbook)), event)
			var s seen
			if err := json.Unmarshal([]byte(got.Body), &s); err != nil || got.Status != 200 {
				t.Fatalf("%d %s (%v)", got.Status, got.Body, err)
			}
			if s.Path != "/agents/eliza" || s.Name != "eliza" {
				t.Errorf("path %q, name %q", s.Path, s.Name)
			}
			golden(t, name+".golden", indented(t, s))
		})
	}
}

// A path parameter is one segment, escaped or not, whatever is in it; and what is
// no name is 404.
func TestPathParameters(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		parameter string
		status    int
		want      string
	}{
		{"a name", "eliza", 200, "eliza"},
		{"an escaped slash", "a%2Fb", 200, "a/b"},
		{"a slash, unescaped already", "a/b", 200, "a/b"},
		{"an escape that is none", "a%zz", 200, "a%zz"},
		{"half an escape", "a%2", 200, "a%2"},
		{"a percent sign", "100%", 200, "100%"},
		{"a percent sign, escaped", "100%25", 200, "100%"},
		{"a question mark", "a?b=c", 200, "a?b=c"},
		{"a question mark, escaped", "a%3Fb", 200, "a?b"},
		{"a fragment", "a#b", 200, "a#b"},
		{"spaces", "a b", 200, "a b"},
		{"spaces, escaped", "a%20b", 200, "a b"},
		{"a plus sign", "a+b", 200, "a+b"},
		{"Unicode", "日本é", 200, "日本é"},
		{"Unicode, escaped", "%E6%97%A5", 200, "日"},
		{"bytes that are no UTF-8", "%ff%fe", 200, "\xff\xfe"},
		{"a null byte", "%00", 200, "\x00"},
		{"new lines", "a\r\nb", 200, "a\r\nb"},
		{"a URL", "https://evil.example/agents", 200, "https://evil.example/agents"},
		{"a parameter of the table", "{name}", 200, "{name}"},
		{"a colon", "a:b", 200, "a:b"},
		{"nothing", "", 404, ""},
		{"a dot", ".", 404, ""},
		{"two dots", "..", 404, ""},
		{"two dots, escaped", "%2e%2E", 404, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			name := "-"
			h := functionWith(t, func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
				name = r.PathValue("name")
				return nil
			}, new(logbook))
			got := both(t, h, as(proxied("GET", "/agents/{name}", "name", row.parameter), root()))
			if got.Status != row.status || row.status == 200 && name != row.want {
				t.Errorf("%d with the name %q, want %d, %q", got.Status, name, row.status, row.want)
			}
		})
	}
}

// What no route is: 404 as a problem, never a redirect, a panic or a 5xx.
func TestResourcesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		resource   string
		parameters []string
		status     int
	}{
		{"the catch-all", "/{proxy+}", []string{"proxy", "nowhere/at/all"}, 404},
		{"the catch-all with a trailing slash", "/{proxy+}", []string{"proxy", "agents/"}, 404},
		{"the catch-all with doubled slashes", "/{proxy+}", []string{"proxy", "agents//eliza"}, 404},
		{"the catch-all with dots", "/{proxy+}", []string{"proxy", "agents/../health"}, 404},
		{"the catch-all with escaped dots", "/{proxy+}", []string{"proxy", "agents/%2e%2e/health"}, 404},
		{"the catch-all with an escaped slash", "/{proxy+}", []string{"proxy", "%2Fagents"}, 404},
		{"the catch-all with nothing", "/{proxy+}", nil, 404},
		{"the catch-all with an escape that is none", "/{proxy+}", []string{"proxy", "a%zz/?#"}, 404},
		{"the catch-all never gets past the door", "/{proxy+}", []string{"proxy", "agents"}, 401},
		{"the root", "/", nil, 404},
		{"no resource (a Lambda console test)", "", nil, 404},
		{"a parameter that isn't there", "/agents/{name}", nil, 404},
		{"another stage's path", "/prod/agents", nil, 404},
		{"a resource that is no path", "%zz", nil, 400},
		{"a resource with a port", ":x", nil, 404},
	} {
		got := both(t, functionWith(t, nil, new(logbook)), proxied("GET", row.resource, row.parameters...))
		want := map[int]string{400: "Invalid request", 401: "Invalid API key", 404: "Not found"}[row.status]
		if got.Status != row.status || got.error() != want || got.Header.Get("Location") != "" || got.Header.Get("X-Request-Id") != "gateway-id" {
			t.Errorf("%s: %d %s %v", row.name, got.Status, got.Body, got.Header)
		}
	}
}

func TestQueryAndBody(t *testing.T) {
	t.Parallel()
	binary := string([]byte{0, 0xff, 0xfe, '\n'})
	for _, row := range []struct {
		name   string
		change func(*events.APIGatewayProxyRequest)
		status int
		query  string
		body   string
	}{
		{"neither", func(*events.APIGatewayProxyRequest) {}, 200, "", ""},
		{"a query of many values, decoded by the gateway", func(e *events.APIGatewayProxyRequest) {
			e.MultiValueQueryStringParameters = map[string][]string{"a": {"1", "2 3", "&x=y"}, "é?": {"%zz", "#"}}
			e.QueryStringParameters = map[string]string{"a": "&x=y", "é?": "#"}
		}, 200, "a=1&a=2+3&a=%26x%3Dy&%C3%A9%3F=%25zz&%C3%A9%3F=%23", ""},
		{"a query of single values", func(e *events.APIGatewayProxyRequest) {
			e.QueryStringParameters = map[string]string{"after": "a/b?c"}
		}, 200, "after=a%2Fb%3Fc", ""},
		{"a body", func(e *events.APIGatewayProxyRequest) { e.Body = `{"a":"é"}` }, 200, "", `{"a":"é"}`},
		{"a body in base64", func(e *events.APIGatewayProxyRequest) {
			e.Body, e.IsBase64Encoded = base64.StdEncoding.EncodeToString([]byte(`{"a":1}`)), true
		}, 200, "", `{"a":1}`},
		{"a body in base64 that is not text", func(e *events.APIGatewayProxyRequest) {
			e.Body, e.IsBase64Encoded = base64.StdEncoding.EncodeToString([]byte(binary)), true
		}, 200, "", binary},
		{"base64 that is none", func(e *events.APIGatewayProxyRequest) { e.Body, e.IsBase64Encoded = "not base64!", true }, 400, "", ""},
		{"base64 cut short", func(e *events.APIGatewayProxyRequest) { e.Body, e.IsBase64Encoded = "eyJ", true }, 400, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var query, body string
			h := functionWith(t, func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
				b, err := io.ReadAll(r.Body)
				query, body = r.URL.Query().Encode(), string(b)
				return err
			}, new(logbook))
			event := as(proxied("POST", "/chat"), root())
			row.change(&event)
			got := both(t, h, event)
			if got.Status != row.status || query != row.query || body != row.body {
				t.Errorf("%d, query %q, body %q; want %d, %q, %q", got.Status, query, body, row.status, row.query, row.body)
			}
		})
	}
}

// An event that is no request is answered as the frame would, by its error table.
func TestEventThatIsNoRequest(t *testing.T) {
	t.Parallel()
	event := proxied("POST", "/chat")
	event.Body, event.IsBase64Encoded = "%", true
	got := both(t, functionWith(t, nil, new(logbook)), event)
	want := reply{400, http.Header{
		"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"},
		"X-Content-Type-Options": {"nosniff"}, "X-Request-Id": {"gateway-id"},
		"Strict-Transport-Security": {"max-age=31536000"},
	}, `{"status":400,"title":"Invalid request","error":"Invalid request","detail":"The path, the query or the body is not validly encoded.","request_id":"gateway-id"}` + "\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// I16: the body's limit holds here too.
func TestBodyLimitOnLambda(t *testing.T) {
	t.Parallel()
	h := functionWith(t, func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
		_, err := api.Decode[struct {
			Message string `json:"message"`
		}](r)
		return err
	}, new(logbook))
	for size, status := range map[int]int{api.MaxBody: 200, api.MaxBody + 1: 413} {
		event := as(proxied("POST", "/chat"), root())
		event.Body = `{"message":"` + strings.Repeat("x", size-len(`{"message":""}`)) + `"}`
		if got := both(t, h, event); got.Status != status {
			t.Errorf("%d bytes: %d, want %d", size, got.Status, status)
		}
	}
}

// P5, P15: whatever the event, an answer without a panic, the same in both forms;
// no 5xx before the caller is known, and no handler without one.
func FuzzProxyEvent(f *testing.F) {
	names, _ := filepath.Glob("testdata/proxy/*.event.json")
	for _, name := range names {
		var event events.APIGatewayProxyRequest
		readJSON(f, strings.TrimPrefix(name, "testdata/"), &event)
		seed, err := json.Marshal(event)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	for _, event := range []events.APIGatewayProxyRequest{
		proxied("GET", "/agents/{name}", "name", "a%zz?#/.."), proxied("OPTIONS", "/{proxy+}", "proxy", "a//b"), proxied("", "%zz"), proxied("GE T", "/chat"),
		as(proxied("POST", "/chat"), root()), as(proxied("GET", "/whoami"), map[string]any{"principalId": "x", "agents": "garbage"}),
	} {
		seed, _ := json.Marshal(event)
		f.Add(seed)
	}
	f.Add([]byte(`{"requestContext":{"domainName":"a b/%zz?#","authorizer":{"principalId":7}},"resource":"/{a+}/{b","httpMethod":"CONNECT","body":"%","isBase64Encoded":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var event events.APIGatewayProxyRequest
		if json.Unmarshal(text, &event) != nil {
			return
		}
		principal, _ := event.RequestContext.Authorizer["principalId"].(string)
		var book logbook
		h := functionWith(t, func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
			if caller.ID != principal && r.URL.Path != "/health" {
				t.Errorf("%s was reached by %q, whom the authorizer calls %q", r.URL.Path, caller.ID, principal)
			}
			return nil
		}, &book)
		got := both(t, h, event)
		if got.Status < 200 || got.Status >= 500 && principal == "" || got.Status >= 300 && got.Status < 400 {
			t.Errorf("status %d: %s", got.Status, got.Body)
		}
		if got.Status >= 400 && (got.error() == "" || !slices.Equal(got.Header["Content-Type"], []string{"application/problem+json"})) {
			t.Errorf("status %d without a problem: %v %s", got.Status, got.Header, got.Body)
		}
		if n := strings.Count(book.String(), "\n"); n > 2 {
			t.Errorf("%d lines in the log of two requests:\n%s", n, book.String())
		}
	})
}
