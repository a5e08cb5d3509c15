package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"postern/tests/gateway"
	"postern/tests/lambdahost"
)

var _ gateway.Invoker = (*lambdahost.Host)(nil)

// function is a Lambda in this process.
type function func(ctx context.Context, payload []byte) (*lambdahost.Result, error)

func (f function) Invoke(ctx context.Context, payload []byte) (*lambdahost.Result, error) {
	return f(ctx, payload)
}

// says is a Lambda that always answers the same.
func says(payload string) function {
	return func(context.Context, []byte) (*lambdahost.Result, error) {
		return &lambdahost.Result{Payload: []byte(payload)}, nil
	}
}

func fails(message string) function {
	return func(context.Context, []byte) (*lambdahost.Result, error) {
		return &lambdahost.Result{Err: &lambdahost.FunctionError{Type: "errorString", Message: message}}, nil
	}
}

func broken(err error) function {
	return func(context.Context, []byte) (*lambdahost.Result, error) { return nil, err }
}

// streams answers with metadata and a body.
func streams(metadata string, body io.ReadCloser) function {
	return func(context.Context, []byte) (*lambdahost.Result, error) {
		return &lambdahost.Result{Stream: &lambdahost.Stream{Metadata: []byte(metadata), Body: body}}, nil
	}
}

// keeps records the last event in to and answers with payload.
func keeps(to *[]byte, payload string) function {
	return func(_ context.Context, event []byte) (*lambdahost.Result, error) {
		*to = event
		return &lambdahost.Result{Payload: []byte(payload)}, nil
	}
}

// echo answers with what was matched: function, resource, path parameters.
func echo(name string) function {
	return func(_ context.Context, payload []byte) (*lambdahost.Result, error) {
		var e events.APIGatewayProxyRequest
		if err := json.Unmarshal(payload, &e); err != nil {
			return nil, err
		}
		body, _ := json.Marshal(fmt.Sprint(name, " ", e.Resource, " ", e.Path, " ", e.PathParameters))
		return &lambdahost.Result{Payload: fmt.Appendf(nil, `{"statusCode":200,"body":%s}`, body)}, nil
	}
}

const allow = `{"principalId":"me","policyDocument":{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/*"}]},"context":{"kind":"root","n":12,"yes":true}}`

// open is a gateway over testdata's template whose Lambdas answer well, but for
// those given.
func open(t *testing.T, cfg gateway.Config, lambdas map[string]gateway.Invoker) *gateway.Gateway {
	t.Helper()
	if cfg.API == nil {
		api, err := gateway.Load("testdata/template.yaml", gateway.Deployment{})
		if err != nil {
			t.Fatal(err)
		}
		cfg.API = api
	}
	cfg.Invokers = map[string]gateway.Invoker{
		"Authorizer": says(allow), "Items": echo("Items"), "Talk": echo("Talk"), "Open": echo("Open"),
	}
	for name, f := range lambdas {
		cfg.Invokers[name] = f
	}
	g, err := gateway.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func do(g *gateway.Gateway, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func get(g *gateway.Gateway, target string) *httptest.ResponseRecorder {
	return do(g, httptest.NewRequest(http.MethodGet, target, nil))
}

func TestRequestsFindTheirRoute(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, target, want string
	}{
		{"a literal path", "GET", "/prod/items", "Items /items /items map[]"},
		{"any other method", "PUT", "/prod/items", "Items /items /items map[]"},
		{"an exact method beats any", "OPTIONS", "/prod/items", "Open /items /items map[]"},
		{"a parameter", "GET", "/prod/items/7", "Items /items/{id} /items/7 map[id:7]"},
		{"a literal beats a parameter", "GET", "/prod/items/newest", "Items /items/newest /items/newest map[]"},
		{"an escape stays", "GET", "/prod/items/a%2Fb", "Items /items/{id} /items/a%2Fb map[id:a%2Fb]"},
		{"the root", "GET", "/prod/", "Open / / map[]"},
		{"the root without a slash", "GET", "/prod", "Open / / map[]"},
		{"a slash at the end", "GET", "/prod/items/", "Items /items /items/ map[]"},
		{"deeper than any pattern", "GET", "/prod/items/7/x", "Open /{proxy+} /items/7/x map[proxy:items/7/x]"},
		{"nothing known", "GET", "/prod/x", "Open /{proxy+} /x map[proxy:x]"},
		{"a greedy parameter below a literal", "GET", "/prod/files/a/b", "Items /files/{path+} /files/a/b map[path:a/b]"},
		{"a query is no path", "GET", "/prod/items?x=/y", "Items /items /items map[]"},
	}
	g := open(t, gateway.Config{}, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := do(g, httptest.NewRequest(tt.method, tt.target, nil))
			if w.Code != 200 || w.Body.String() != tt.want {
				t.Errorf("%s %s = %d %s, want %s", tt.method, tt.target, w.Code, w.Body, tt.want)
			}
		})
	}
}

func TestAPathWithoutTheMethodIsForbidden(t *testing.T) {
	t.Parallel()
	w := do(open(t, gateway.Config{}, nil), httptest.NewRequest("POST", "/prod/files/a", nil))
	if w.Code != 403 || w.Body.String() != `{"message":"Missing Authentication Token"}` {
		t.Errorf("%d %s, want API Gateway's own 403", w.Code, w.Body)
	}
	if got := w.Header().Get("X-Amzn-ErrorType"); got != "MissingAuthenticationTokenException" {
		t.Errorf("x-amzn-ErrorType = %q", got)
	}
}

func TestTheURLsPrefixComesOff(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		cfg         gateway.Config
		target      string
		status      int
		path        string
		contextPath string
		domain      string
		arn         string
	}{
		{"a stage URL", gateway.Config{}, "/prod/items", 200, "/items", "/prod/items", "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com", "/prod/GET/items"},
		{"another stage", gateway.Config{}, "/test/items", 403, "", "", "", ""},
		{"a stage that only begins alike", gateway.Config{}, "/production", 403, "", "", "", ""},
		{"a custom domain", gateway.Config{Domain: "api.example"}, "/items", 200, "/items", "/items", "api.example", "/prod/GET/items"},
		{"a custom domain has no stage", gateway.Config{Domain: "api.example"}, "/prod", 200, "/prod", "/prod", "api.example", ""},
		{"a base path", gateway.Config{Domain: "api.example", BasePath: "v1"}, "/v1/items", 200, "/v1/items", "/v1/items", "api.example", "/prod/GET/items"},
		{"outside the base path", gateway.Config{Domain: "api.example", BasePath: "v1"}, "/items", 403, "", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked, ran []byte
			lambdas := map[string]gateway.Invoker{
				"Authorizer": keeps(&asked, allow), "Items": keeps(&ran, `{"statusCode":200}`), "Open": keeps(&ran, `{"statusCode":200}`),
			}
			w := get(open(t, tt.cfg, lambdas), tt.target)
			if w.Code != tt.status {
				t.Fatalf("status %d %s, want %d", w.Code, w.Body, tt.status)
			}
			if tt.status != 200 {
				if w.Body.String() != `{"message":"Forbidden"}` {
					t.Errorf("body %s, want one that the template can't change", w.Body)
				}
				return
			}
			var e events.APIGatewayProxyRequest
			if err := json.Unmarshal(ran, &e); err != nil {
				t.Fatal(err)
			}
			got := []string{e.Path, e.RequestContext.Path, e.RequestContext.DomainName, e.Headers["Host"]}
			if diff := cmp.Diff([]string{tt.path, tt.contextPath, tt.domain, tt.domain}, got); diff != "" {
				t.Error(diff)
			}
			var a struct{ MethodArn, Path string }
			if tt.arn == "" {
				return
			}
			if err := json.Unmarshal(asked, &a); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(a.MethodArn, ":a1b2c3d4e5"+tt.arn) || a.Path != tt.path {
				t.Errorf("the authorizer sees %s and %s", a.MethodArn, a.Path)
			}
		})
	}
}

func TestTheEventsSayWhatTheRequestSays(t *testing.T) {
	t.Parallel()
	var asked, ran []byte
	g := open(t, gateway.Config{Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }},
		map[string]gateway.Invoker{"Authorizer": keeps(&asked, allow), "Items": keeps(&ran, `{"statusCode":204}`)})
	r := httptest.NewRequest("POST", "/prod/items/a%20b?q=1&q=2+3&empty=", strings.NewReader("h\xffi"))
	r.RemoteAddr = "192.0.2.7:1234"
	r.Header = http.Header{
		"X-Api-Key":       {"one", "  two "},
		"User-Agent":      {"test"},
		"X-Forwarded-For": {"203.0.113.9"},
		"Connection":      {"close"},
		"Content-Length":  {"3"},
	}
	if w := do(g, r); w.Code != 204 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}

	var e events.APIGatewayProxyRequest
	var a events.APIGatewayCustomAuthorizerRequestTypeRequest
	for from, to := range map[*[]byte]any{&ran: &e, &asked: &a} {
		if err := json.Unmarshal(*from, to); err != nil {
			t.Fatal(err)
		}
	}
	trace, id := e.Headers["X-Amzn-Trace-Id"], e.RequestContext.RequestID
	headers := map[string][]string{
		"Host": {"a1b2c3d4e5.execute-api.us-east-1.amazonaws.com"}, "User-Agent": {"test"}, "X-Api-Key": {"one", "two"},
		"X-Forwarded-For": {"203.0.113.9, 192.0.2.7"}, "X-Forwarded-Port": {"443"}, "X-Forwarded-Proto": {"https"}, "X-Amzn-Trace-Id": {trace},
	}
	single := map[string]string{}
	for name, values := range headers {
		single[name] = values[len(values)-1]
	}
	query := map[string][]string{"q": {"1", "2 3"}, "empty": {""}}
	want := events.APIGatewayProxyRequest{
		Resource: "/items/{id}", Path: "/items/a%20b", HTTPMethod: "POST",
		Headers: single, MultiValueHeaders: headers,
		QueryStringParameters: map[string]string{"q": "2 3", "empty": ""}, MultiValueQueryStringParameters: query,
		PathParameters: map[string]string{"id": "a%20b"},
		Body:           "h\ufffdi",
		RequestContext: events.APIGatewayProxyRequestContext{
			AccountID: "123456789012", APIID: "a1b2c3d4e5", ResourceID: "abc123", Stage: "prod",
			DomainName: "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com", DomainPrefix: "a1b2c3d4e5",
			RequestID: id, ExtendedRequestID: e.RequestContext.ExtendedRequestID, Protocol: "HTTP/1.1",
			Path: "/prod/items/a%20b", ResourcePath: "/items/{id}", HTTPMethod: "POST",
			RequestTime: "01/Mar/2026:12:00:00 +0000", RequestTimeEpoch: 1772366400000,
			Identity:   events.APIGatewayRequestIdentity{SourceIP: "192.0.2.7", UserAgent: "test"},
			Authorizer: map[string]any{"principalId": "me", "integrationLatency": e.RequestContext.Authorizer["integrationLatency"], "kind": "root", "n": "12", "yes": "true"},
		},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("proxy event (-want +got):\n%s", diff)
	}
	if _, ok := e.RequestContext.Authorizer["integrationLatency"].(float64); !ok {
		t.Errorf("integrationLatency = %v, want a number", e.RequestContext.Authorizer["integrationLatency"])
	}
	if len(id) != 36 {
		t.Errorf("request id %q, want a UUID", id)
	}
	wantAsked := events.APIGatewayCustomAuthorizerRequestTypeRequest{
		Type: "REQUEST", MethodArn: "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/POST/items/a%20b",
		Resource: "/items/{id}", Path: "/items/a%20b", HTTPMethod: "POST",
		Headers: single, MultiValueHeaders: headers,
		QueryStringParameters: map[string]string{"q": "2 3", "empty": ""}, MultiValueQueryStringParameters: query,
		PathParameters: map[string]string{"id": "a%20b"}, StageVariables: map[string]string{},
		RequestContext: events.APIGatewayCustomAuthorizerRequestTypeRequestContext{
			Path: "/prod/items/a%20b", AccountID: "123456789012", ResourceID: "abc123", Stage: "prod", RequestID: id,
			Identity:     events.APIGatewayCustomAuthorizerRequestTypeRequestIdentity{SourceIP: "192.0.2.7"},
			ResourcePath: "/items/{id}", HTTPMethod: "POST", APIID: "a1b2c3d4e5",
		},
	}
	if diff := cmp.Diff(wantAsked, a); diff != "" {
		t.Errorf("authorizer event (-want +got):\n%s", diff)
	}
	if bytes.Contains(asked, []byte(`"body"`)) {
		t.Error("the authorizer sees the body")
	}
}

func TestWhatIsEmptyIsNull(t *testing.T) {
	t.Parallel()
	var ran []byte
	get(open(t, gateway.Config{}, map[string]gateway.Invoker{"Open": keeps(&ran, `{"statusCode":200}`)}), "/prod/")
	var e map[string]any
	if err := json.Unmarshal(ran, &e); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"body", "queryStringParameters", "multiValueQueryStringParameters", "pathParameters", "stageVariables"} {
		if v, ok := e[name]; !ok || v != nil {
			t.Errorf("%s = %v, want null", name, v)
		}
	}
	if v := e["requestContext"].(map[string]any)["authorizer"]; v != nil {
		t.Errorf("a route without authorizer has the context %v", v)
	}
}

func TestOptionsOfTheEvent(t *testing.T) {
	t.Parallel()
	var ran []byte
	g := open(t, gateway.Config{
		LowercaseHeaders: true, DecodePathParameters: true,
		SourceIP: func(r *http.Request) string { return r.Header.Get("X-Test-Ip") },
	}, map[string]gateway.Invoker{"Items": keeps(&ran, `{"statusCode":200}`)})
	r := httptest.NewRequest("GET", "/prod/items/a%2Fb", nil)
	r.Header.Set("X-Test-Ip", "198.51.100.4")
	do(g, r)
	var e events.APIGatewayProxyRequest
	if err := json.Unmarshal(ran, &e); err != nil {
		t.Fatal(err)
	}
	if e.PathParameters["id"] != "a/b" || e.RequestContext.Identity.SourceIP != "198.51.100.4" || e.Headers["x-test-ip"] == "" {
		t.Errorf("parameters %v, source %s, headers %v", e.PathParameters, e.RequestContext.Identity.SourceIP, e.Headers)
	}
}

func policy(effect, resource string) string {
	return fmt.Sprintf(`{"principalId":"me","policyDocument":{"Version":"2012-10-17","Statement":[{"Effect":%q,"Action":["execute-api:Invoke"],"Resource":[%q]}]},"context":{"reason":"address"}}`, effect, resource)
}

func TestTheAuthorizerDecides(t *testing.T) {
	t.Parallel()
	const api = "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/"
	const configuration, failure, denied = "AuthorizerConfigurationException", "AuthorizerFailureException", "AccessDeniedException"
	tests := []struct {
		name       string
		authorizer function
		status     int
		exception  string
	}{
		{"it allows everything below the stage", says(policy("Allow", api+"*")), 200, ""},
		{"it allows this method and path", says(policy("Allow", api+"GET/items")), 200, ""},
		{"it allows with a wildcard for one character", says(policy("Allow", api+"G?T/it*s")), 200, ""},
		{"its statement is no list", says(strings.NewReplacer(`[{"Effect"`, `{"Effect"`, `}]}`, `}}`).Replace(policy("Allow", "*"))), 200, ""},
		{"it allows another method", says(policy("Allow", api+"POST/items")), 403, denied},
		{"it allows a path below", says(policy("Allow", api+"GET/items/more")), 403, denied},
		{"it allows a path above", says(policy("Allow", api+"GET/item")), 403, denied},
		{"it allows another stage", says(policy("Allow", strings.Replace(api, "prod", "test", 1)+"*")), 403, denied},
		{"it allows another action", says(strings.Replace(policy("Allow", "*"), "Invoke", "ManageConnections", 1)), 403, denied},
		{"it allows nothing", says(`{"principalId":"me","policyDocument":{"Statement":[]}}`), 403, denied},
		{"it denies", says(policy("Deny", "*")), 403, denied},
		{"it allows and denies", says(`{"principalId":"me","policyDocument":{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"*","Resource":"*"}]}}`), 403, denied},
		{"its error is exactly Unauthorized", fails("Unauthorized"), 401, "UnauthorizedException"},
		{"its error says more", fails("Unauthorized: expired"), 503, failure},
		{"its error is another", fails("secret not readable"), 503, failure},
		{"it takes too long", broken(context.DeadlineExceeded), 503, failure},
		{"it can't be reached", broken(errors.New("no such function")), 500, configuration},
		{"its answer is no JSON", says(`Allow`), 500, configuration},
		{"its answer is null", says(`null`), 500, configuration},
		{"it names no principal", says(strings.Replace(policy("Allow", "*"), `"principalId":"me",`, "", 1)), 500, configuration},
		{"it has no policy", says(`{"principalId":"me"}`), 500, configuration},
		{"its effect is neither", says(policy("allow", "*")), 500, configuration},
		{"its resource is longer than 512 characters", says(policy("Allow", api+strings.Repeat("x", 500))), 500, configuration},
		{"its policy has a condition", says(strings.Replace(policy("Allow", "*"), `"Effect"`, `"Condition":{},"Effect"`, 1)), 500, configuration},
		{"its context holds a list", says(strings.Replace(allow, `"root"`, `["root"]`, 1)), 500, configuration},
		{"its context holds an object", says(strings.Replace(allow, `"root"`, `{}`, 1)), 500, configuration},
		{"its context holds null", says(strings.Replace(allow, `"root"`, `null`, 1)), 500, configuration},
		{"it streams", streams(allow, io.NopCloser(strings.NewReader(""))), 500, configuration},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var ran []byte
			g := open(t, gateway.Config{}, map[string]gateway.Invoker{"Authorizer": tt.authorizer, "Items": keeps(&ran, `{"statusCode":200}`)})
			w := get(g, "/prod/items")
			if w.Code != tt.status || w.Header().Get("X-Amzn-ErrorType") != tt.exception {
				t.Errorf("%d %s (%s), want %d %s", w.Code, w.Header().Get("X-Amzn-ErrorType"), w.Body, tt.status, tt.exception)
			}
			if (ran != nil) != (tt.status == 200) {
				t.Errorf("the function ran: %v", ran != nil)
			}
			if open := get(g, "/prod/elsewhere"); open.Code != 200 {
				t.Errorf("a route without authorizer answers %d", open.Code)
			}
		})
	}
}

func TestAMissingIdentitySourceIsUnauthorizedUnasked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		target, signature string
		status            int
	}{
		{"/prod/signed", "", 401},
		{"/prod/signed?at=1", "", 401},
		{"/prod/signed", "s", 401},
		{"/prod/signed?at=1", "s", 200},
	} {
		var asked []byte
		g := open(t, gateway.Config{}, map[string]gateway.Invoker{"Authorizer": keeps(&asked, allow)})
		r := httptest.NewRequest("GET", tt.target, nil)
		if tt.signature != "" {
			r.Header.Set("X-Signature", tt.signature)
		}
		if w := do(g, r); w.Code != tt.status || (asked != nil) != (tt.status == 200) {
			t.Errorf("%s with %q: %d, asked %v; want %d", tt.target, tt.signature, w.Code, asked != nil, tt.status)
		}
	}
}

func TestARefusalIsRenderedByTheTemplate(t *testing.T) {
	t.Parallel()
	id := "REQUEST-ID"
	tests := []struct {
		name       string
		authorizer function
		origin     string // the deployment's parameter
		accept     string
		status     int
		media      string
		body       string
		headers    map[string]string
	}{
		{"a type with one template", fails("Unauthorized"), "", "", 401, "application/problem+json",
			`{"error":"credential","id":"` + id + `","who":""}`,
			map[string]string{"X-Request-Id": id, "Www-Authenticate": `Bearer realm="test"`, "Access-Control-Allow-Origin": ""}},
		{"a condition that holds", fails("Unauthorized"), "https://app.example", "", 401, "application/problem+json",
			`{"error":"credential","id":"` + id + `","who":""}`,
			map[string]string{"Access-Control-Allow-Origin": "https://app.example"}},
		{"a Deny's context, and the template for JSON", says(policy("Deny", "*")), "", "application/xml", 403, "application/json",
			`{"error":"address","reason":"address","said":"User is not authorized to access this resource with an explicit deny"}`,
			map[string]string{"Www-Authenticate": "none", "X-Seen-Origin": "https://here.example"}},
		{"the template that the client accepts", says(policy("Deny", "*")), "", "image/png, text/plain;q=0.5", 403, "text/plain",
			`denied: User is not authorized to access this resource with an explicit deny`, nil},
		{"a type with a status only has API Gateway's body and null for a message", fails("x"), "", "", 503, "application/json",
			`{"message":null}`, map[string]string{"X-Request-Id": ""}},
		{"a type that isn't set", says("x"), "", "", 500, "application/json", `{"message":null}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			api, err := gateway.Load("testdata/template.yaml", gateway.Deployment{Parameters: map[string]string{"Origin": tt.origin}})
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest("GET", "/prod/items", nil)
			r.Header.Set("Origin", "https://here.example")
			r.Header.Set("Accept", tt.accept)
			w := do(open(t, gateway.Config{API: api}, map[string]gateway.Invoker{"Authorizer": tt.authorizer}), r)
			request := w.Header().Get("X-Amzn-RequestId")
			if len(request) != 36 || w.Header().Get("X-Amz-Apigw-Id") == "" {
				t.Errorf("ids %q and %q", request, w.Header().Get("X-Amz-Apigw-Id"))
			}
			body := strings.ReplaceAll(w.Body.String(), request, id)
			if w.Code != tt.status || w.Header().Get("Content-Type") != tt.media || body != tt.body {
				t.Errorf("%d %s\n%s\nwant %d %s\n%s", w.Code, w.Header().Get("Content-Type"), body, tt.status, tt.media, tt.body)
			}
			for name, want := range tt.headers {
				if got := strings.ReplaceAll(w.Header().Get(name), request, id); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestATypeThatIsNotSetTakesTheDefaultOfItsClass(t *testing.T) {
	t.Parallel()
	source := []byte(minimal(`
      GatewayResponses:
        DEFAULT_4XX: {ResponseParameters: {gatewayresponse.header.X-Class: "'4'"}, ResponseTemplates: {application/json: 'four $context.error.responseType'}}
        DEFAULT_5XX: {StatusCode: 500, ResponseTemplates: {application/json: 'five'}}`))
	api, err := gateway.Parse(source, gateway.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{API: api, Invokers: map[string]gateway.Invoker{"F": fails("x")}})
	if err != nil {
		t.Fatal(err)
	}
	if w := get(g, "/prod/y"); w.Code != 403 || w.Body.String() != "four MISSING_AUTHENTICATION_TOKEN" || w.Header().Get("X-Class") != "4" {
		t.Errorf("%d %s %v, want the default's body with the type's status", w.Code, w.Body, w.Header())
	}
	if w := get(g, "/prod/x"); w.Code != 500 || w.Body.String() != "five" {
		t.Errorf("%d %s, want the default's status too", w.Code, w.Body)
	}
	g, err = gateway.New(gateway.Config{API: api, Invokers: map[string]gateway.Invoker{"F": broken(errors.New("gone"))}})
	if err != nil {
		t.Fatal(err)
	}
	if w := get(g, "/prod/x"); w.Code != 500 || w.Body.String() != "five" {
		t.Errorf("%d %s, want the server errors' default for an integration failure", w.Code, w.Body)
	}
}

func TestARepliesBecomesHTTP(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		reply   string
		status  int
		body    string
		headers http.Header // those that matter; nil: absent
	}{
		{"as it is", `{"statusCode":201,"headers":{"Content-Type":"text/plain","X-A":"1"},"body":"hello"}`, 201, "hello",
			http.Header{"Content-Type": {"text/plain"}, "X-A": {"1"}, "Content-Length": {"5"}}},
		{"a type by default", `{"statusCode":200,"body":"{}"}`, 200, "{}", http.Header{"Content-Type": {"application/json"}}},
		{"no body", `{"statusCode":204,"body":null}`, 204, "", nil},
		{"headers of both kinds are merged", `{"statusCode":200,"headers":{"X-A":"1","X-B":"1"},"multiValueHeaders":{"X-A":["1","2"],"Set-Cookie":["a=1","b=2"]}}`, 200, "",
			http.Header{"X-A": {"1", "2"}, "X-B": {"1"}, "Set-Cookie": {"a=1", "b=2"}}},
		{"numbers and booleans as headers", `{"statusCode":"200","headers":{"Retry-After":7,"X-A":true}}`, 200, "",
			http.Header{"Retry-After": {"7"}, "X-A": {"true"}}},
		{"headers that API Gateway keeps for itself", `{"statusCode":401,"headers":{"www-authenticate":"Bearer","Server":"mine","Date":"today","Content-Length":"99"},"body":"x"}`, 401, "x",
			http.Header{"Www-Authenticate": nil, "X-Amzn-Remapped-Www-Authenticate": {"Bearer"}, "X-Amzn-Remapped-Server": {"mine"}, "X-Amzn-Remapped-Date": {"today"}, "Content-Length": {"1"}}},
		{"base64 stays without binary media types", `{"statusCode":200,"body":"aGk=","isBase64Encoded":true}`, 200, "aGk=", nil},
		{"no JSON", `hello`, 502, `{"message":"Internal server error"}`, nil},
		{"null", `null`, 502, `{"message":"Internal server error"}`, nil},
		{"no status", `{"body":"x"}`, 502, `{"message":"Internal server error"}`, nil},
		{"a status that is none", `{"statusCode":99}`, 502, `{"message":"Internal server error"}`, nil},
		{"a body that is an object", `{"statusCode":200,"body":{"a":1}}`, 502, `{"message":"Internal server error"}`, nil},
		{"a header that is a list", `{"statusCode":200,"headers":{"X-A":["1"]}}`, 502, `{"message":"Internal server error"}`, nil},
		{"a header with a line break", `{"statusCode":200,"headers":{"X-A":"1\r\nX-B: 2"}}`, 502, `{"message":"Internal server error"}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := get(open(t, gateway.Config{}, map[string]gateway.Invoker{"Items": says(tt.reply)}), "/prod/items")
			if w.Code != tt.status || w.Body.String() != tt.body {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tt.status, tt.body)
			}
			for name, want := range tt.headers {
				if diff := cmp.Diff(want, http.Header{name: w.Header().Values(name)}[name]); diff != "" && !(want == nil && w.Header().Get(name) == "") {
					t.Errorf("%s: %s", name, diff)
				}
			}
			if len(w.Header().Get("X-Amzn-RequestId")) != 36 {
				t.Error("x-amzn-RequestId is missing")
			}
		})
	}
}

func TestBinaryMediaTypes(t *testing.T) {
	t.Parallel()
	api, err := gateway.Parse([]byte(minimal("      BinaryMediaTypes: [image~1png]")), gateway.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	var ran []byte
	g, err := gateway.New(gateway.Config{API: api, Invokers: map[string]gateway.Invoker{
		"F": keeps(&ran, `{"statusCode":200,"body":"aGk=","isBase64Encoded":true}`),
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/prod/x", strings.NewReader("\xff\xfe"))
	r.Header.Set("Content-Type", "image/png")
	r.Header.Set("Accept", "image/png, */*")
	w := do(g, r)
	var e events.APIGatewayProxyRequest
	if err := json.Unmarshal(ran, &e); err != nil {
		t.Fatal(err)
	}
	if !e.IsBase64Encoded || e.Body != "//4=" || w.Body.String() != "hi" {
		t.Errorf("body in %v %q, body out %q; want base64 in and its meaning out", e.IsBase64Encoded, e.Body, w.Body)
	}
}

func TestAFunctionThatGivesNoReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		function function
		status   int
		message  string
	}{
		{"it fails", fails("boom"), 502, "Internal server error"},
		{"it outlasts the integration's timeout", func(ctx context.Context, _ []byte) (*lambdahost.Result, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 504, "Endpoint request timed out"},
		{"it can't be reached", broken(errors.New("no")), 504, "Internal server error"},
		{"its event is above Lambda's limit", broken(lambdahost.ErrPayloadTooLarge), 413, "Request Too Long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := open(t, gateway.Config{Timeout: 20 * time.Millisecond}, map[string]gateway.Invoker{"Items": tt.function})
			w := get(g, "/prod/items")
			if w.Code != tt.status || w.Body.String() != fmt.Sprintf(`{"message":%q}`, tt.message) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tt.status, tt.message)
			}
		})
	}
}

func TestLimitsOfARequest(t *testing.T) {
	t.Parallel()
	g := open(t, gateway.Config{}, nil)
	tests := []struct {
		name    string
		body    int
		headers int
		status  int
	}{
		{"10 MB", 10 << 20, 0, 200},
		{"a byte more", 10<<20 + 1, 0, 413},
		{"headers below 10,240 bytes", 0, 10000, 200},
		{"headers above", 0, 10241, 431},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest("POST", "/prod/items", io.LimitReader(zeros{}, int64(tt.body)))
			for range tt.headers / 1000 {
				r.Header.Add("X-Filler", strings.Repeat("x", 1000))
			}
			r.Header.Add("X-Filler", strings.Repeat("x", tt.headers%1000))
			if w := do(g, r); w.Code != tt.status {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tt.status)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// talk serves a gateway whose Talk function streams what the test writes.
func talk(t *testing.T, metadata string) (url string, body *io.PipeWriter) {
	reader, writer := io.Pipe()
	server := httptest.NewServer(open(t, gateway.Config{}, map[string]gateway.Invoker{"Talk": streams(metadata, reader)}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { writer.Close() })
	return server.URL + "/prod/talk", writer
}

func fetch(t *testing.T, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	reply, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reply.Body.Close() })
	return reply
}

func TestAStreamReachesTheClientAsItComes(t *testing.T) {
	t.Parallel()
	url, body := talk(t, `{"statusCode":201,"headers":{"Content-Type":"text/event-stream"},"cookies":["a=1"]}`)
	reply := fetch(t, url) // the headers come before any byte of the body
	if reply.StatusCode != 201 || reply.Header.Get("Content-Type") != "text/event-stream" || reply.Header.Get("Set-Cookie") != "a=1" {
		t.Errorf("%d %v", reply.StatusCode, reply.Header)
	}
	got := make([]byte, 5)
	for _, piece := range []string{"one,,", "two,,"} {
		io.WriteString(body, piece)
		if _, err := io.ReadFull(reply.Body, got); err != nil || string(got) != piece {
			t.Fatalf("read %q, %v before the next piece was written; want %q", got, err, piece)
		}
	}
	body.Close()
	if rest, err := io.ReadAll(reply.Body); err != nil || len(rest) != 0 {
		t.Errorf("the end: %q, %v", rest, err)
	}
}

func TestAStreamThatBreaksBreaksTheConnection(t *testing.T) {
	t.Parallel()
	url, body := talk(t, `{}`)
	reply := fetch(t, url)
	if reply.StatusCode != 200 {
		t.Errorf("status %d, want 200 where the metadata has none", reply.StatusCode)
	}
	io.WriteString(body, "half")
	body.CloseWithError(&lambdahost.FunctionError{Type: "Runtime.ExitError"})
	if got, err := io.ReadAll(reply.Body); string(got) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v; want the half and an error", got, err)
	}
}

func TestAStreamsReaderIsFreedWhenTheClientLeaves(t *testing.T) {
	t.Parallel()
	url, body := talk(t, `{}`)
	reply := fetch(t, url)
	io.WriteString(body, "x")
	reply.Body.Close()
	for { // writing ends only when the gateway has let go
		if _, err := io.WriteString(body, strings.Repeat("x", 1<<10)); err != nil {
			break
		}
	}
}

func TestAStreamEndsWithTheIntegrationsTimeout(t *testing.T) {
	t.Parallel()
	reader, writer := io.Pipe()
	defer writer.Close()
	server := httptest.NewServer(open(t, gateway.Config{Timeout: 30 * time.Millisecond}, map[string]gateway.Invoker{"Talk": streams(`{}`, reader)}))
	defer server.Close()
	if _, err := io.ReadAll(fetch(t, server.URL+"/prod/talk").Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want a broken connection", err)
	}
}

// closes notes that it was closed.
type closes struct {
	io.Reader
	closed bool
}

func (c *closes) Close() error {
	c.closed = true
	return nil
}

func TestAStreamThatNobodyCanUseIsClosed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ function, target, metadata string }{
		"on a route that doesn't stream": {"Items", "/prod/items", `{"statusCode":200}`},
		"with metadata that are no JSON": {"Talk", "/prod/talk", `x`},
	} {
		body := &closes{Reader: strings.NewReader("x")}
		g := open(t, gateway.Config{}, map[string]gateway.Invoker{tt.function: streams(tt.metadata, body)})
		if w := get(g, tt.target); w.Code != 502 || !body.closed {
			t.Errorf("%s: status %d, closed %v; want 502 and a closed body", name, w.Code, body.closed)
		}
	}
}

func TestAStreamedRouteTakesNothingElse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		function function
	}{
		{"a buffered reply", says(`{"statusCode":200,"body":"x"}`)},
		{"a failure", fails("x")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := open(t, gateway.Config{}, map[string]gateway.Invoker{"Talk": tt.function})
			if w := get(g, "/prod/talk"); w.Code != 502 {
				t.Errorf("status %d, want 502", w.Code)
			}
		})
	}
	g := open(t, gateway.Config{}, map[string]gateway.Invoker{"Talk": streams("{}", io.NopCloser(strings.NewReader("")))})
	if w := get(g, "/prod/dropped"); w.Code != 502 {
		t.Errorf("ResponseTransferMode STREAM streams (%d); SAM drops it", w.Code)
	}
}

func TestNewWantsAnInvokerForEverythingReachable(t *testing.T) {
	t.Parallel()
	api, err := gateway.Load("testdata/template.yaml", gateway.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.New(gateway.Config{API: api, Invokers: map[string]gateway.Invoker{"Items": says("")}}); err == nil {
		t.Error("a gateway without most of its functions was made")
	}
}
