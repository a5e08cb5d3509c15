package gateway_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/tests/gateway"
)

// minimal is a template with one function F at /x, and more in its API.
func minimal(api string) string {
	return `
Resources:
  Api:
    Type: AWS::Serverless::Api
    Properties:
      StageName: prod
` + strings.TrimPrefix(api, "\n") + `
  F:
    Type: AWS::Serverless::Function
    Properties:
      Events:
        X: {Type: Api, Properties: {RestApiId: !Ref Api, Path: /x, Method: any}}
`
}

func TestATemplateIsEvaluated(t *testing.T) {
	t.Parallel()
	api, err := gateway.Load("testdata/template.yaml", gateway.Deployment{
		Parameters: map[string]string{"Level": "debug", "Origin": "https://a.example"},
		Values:     map[string]string{"Secret": "arn:secret", "Secret.Name": "the-secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]gateway.Function{
		"Authorizer": {Timeout: 5 * time.Second, MemoryMB: 128, Environment: map[string]string{
			"LOG_LEVEL": "debug", "SECRET": "arn:secret", "SECRET_NAME": "the-secret",
			"PLACE": "us-east-1/123456789012-${Kept}", "BOTH": "on", "EITHER": "on", "ABSENT": "on",
		}},
		"Items": {Timeout: 10 * time.Second, MemoryMB: 512, Environment: map[string]string{"LOG_LEVEL": "debug"}},
		"Talk":  {Timeout: 900 * time.Second, MemoryMB: 128, Environment: map[string]string{"LOG_LEVEL": "debug"}},
		"Open":  {Timeout: 10 * time.Second, MemoryMB: 128, Environment: map[string]string{"LOG_LEVEL": "debug"}},
	}
	if diff := cmp.Diff(want, api.Functions); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
	i := slices.IndexFunc(api.Routes, func(r gateway.Route) bool { return r.Path == "/talk" })
	if diff := cmp.Diff(gateway.Route{Method: "ANY", Path: "/talk", Function: "Talk", Authorizer: "Caller", Streamed: true, Timeout: time.Minute}, api.Routes[i]); diff != "" {
		t.Errorf("route (-want +got):\n%s", diff)
	}
	if got := api.Functions["Items"].Env(map[string]string{"LOG_LEVEL": "warn", "A": "b"}); !slices.Equal(got, []string{"A=b", "LOG_LEVEL=warn"}) {
		t.Errorf("Env = %v", got)
	}
}

func TestATemplateWithoutOverridesHasItsDefaults(t *testing.T) {
	t.Parallel()
	api, err := gateway.Load("testdata/template.yaml", gateway.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	env := api.Functions["Authorizer"].Environment
	if _, there := env["ABSENT"]; there || env["EITHER"] != "off" || env["BOTH"] != "off" || env["SECRET"] != "Secret" || env["SECRET_NAME"] != "Secret.Name" {
		t.Errorf("environment %v", env)
	}
}

func TestOneOfTwoConditionsIsEither(t *testing.T) {
	t.Parallel()
	api, err := gateway.Load("testdata/template.yaml", gateway.Deployment{Parameters: map[string]string{"Level": "debug"}})
	if err != nil {
		t.Fatal(err)
	}
	if env := api.Functions["Authorizer"].Environment; env["EITHER"] != "on" || env["BOTH"] != "off" {
		t.Errorf("environment %v", env)
	}
}

func TestTemplatesThatThisFakeWouldGetWrong(t *testing.T) {
	t.Parallel()
	whole := minimal("")
	tests := []struct {
		name     string
		template string
		d        gateway.Deployment
		want     string
	}{
		{"no YAML", "a: [", gateway.Deployment{}, "reading the template"},
		{"no API", "Resources: {}", gateway.Deployment{}, "0 resources"},
		{"an unknown parameter", whole, gateway.Deployment{Parameters: map[string]string{"Corz": "x"}}, "no parameter Corz"},
		{"a value that isn't allowed", "Parameters: {L: {Type: String, AllowedValues: [a]}}" + whole, gateway.Deployment{Parameters: map[string]string{"L": "b"}}, "allows [a]"},
		{"a value that doesn't fit", "Parameters: {L: {Type: String, AllowedPattern: '[a-c]+'}}" + whole, gateway.Deployment{Parameters: map[string]string{"L": "bd"}}, "allows [a-c]+"},
		{"a parameter without a value", "Parameters: {L: {Type: String}}" + strings.Replace(whole, "prod", "!Ref L", 1), gateway.Deployment{}, "neither a value nor a default"},
		{"a reference to nothing", strings.Replace(whole, "prod", "!Ref Nothing", 1), gateway.Deployment{}, "neither a parameter nor a resource"},
		{"an unknown condition", strings.Replace(whole, "prod", "!If [C, a, b]", 1), gateway.Deployment{}, "unknown condition"},
		{"a resource under an unknown condition", strings.Replace(whole, "  F:\n", "  F:\n    Condition: C\n", 1), gateway.Deployment{}, "unknown condition"},
		{"conditions in a circle", "Conditions: {A: !Not [!Condition B], B: !Not [!Condition A]}" + strings.Replace(whole, "prod", "!If [A, a, b]", 1), gateway.Deployment{}, "depends on itself"},
		{"an intrinsic function that isn't known", strings.Replace(whole, "prod", "!ImportValue x", 1), gateway.Deployment{}, "isn't supported"},
		{"an alias of nothing", strings.Replace(whole, "prod", "*nothing", 1), gateway.Deployment{}, "reading the template"},
		{"two events for one method", whole + "        Y: {Type: Api, Properties: {Path: /x, Method: ANY}}\n", gateway.Deployment{}, "declared twice"},
		{"an event without a path", whole + "        Y: {Type: Api, Properties: {Method: get}}\n", gateway.Deployment{}, "needs a Path"},
		{"an event of another API", whole + "        Y: {Type: Api, Properties: {RestApiId: other, Path: /y, Method: get}}\n", gateway.Deployment{}, "another API"},
		{"an authorizer that caches", minimal(authorizer("Identity: {ReauthorizeEvery: 60}")), gateway.Deployment{}, "ReauthorizeEvery"},
		{"an authorizer that caches because it doesn't say", minimal(authorizer("Identity: {Headers: [A]}")), gateway.Deployment{}, "ReauthorizeEvery"},
		{"an authorizer that sees the token only", strings.Replace(minimal(authorizer("Identity: {ReauthorizeEvery: 0}")), "REQUEST", "TOKEN", 1), gateway.Deployment{}, "REQUEST"},
		{"an authorizer that is no function", strings.Replace(minimal(authorizer("Identity: {ReauthorizeEvery: 0}")), "!GetAtt F.Arn", "elsewhere", 1), gateway.Deployment{}, "no function"},
		{"an authorizer that isn't declared", minimal("      Auth: {DefaultAuthorizer: None}"), gateway.Deployment{}, "unknown authorizer"},
		{"a variable that API Gateway doesn't know", minimal(response(`'{"id":"$context.requestID"}'`, "'x'")), gateway.Deployment{}, "$context.requestID"},
		{"logic in a gateway response", minimal(response("'#if(true) x #end'", "'x'")), gateway.Deployment{}, "#if"},
		{"a header value without quotes", minimal(response("x", "no-store")), gateway.Deployment{}, "no mapping expression"},
		{"a header of an unknown variable in a response of its own", whole + "  R: {Type: AWS::ApiGateway::GatewayResponse, Properties: {ResponseType: UNAUTHORIZED, ResponseParameters: {gatewayresponse.header.X: context.x}}}\n", gateway.Deployment{}, "no mapping expression"},
		{"a header of an unknown variable", minimal(response("x", "context.requestID")), gateway.Deployment{}, "no mapping expression"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := gateway.Parse([]byte(tt.template), tt.d)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := gateway.Parse([]byte(whole), gateway.Deployment{}); err != nil {
		t.Errorf("the template that these are made of is refused: %v", err)
	}
}

func authorizer(identity string) string {
	return "      Auth: {Authorizers: {A: {FunctionArn: !GetAtt F.Arn, FunctionPayloadType: REQUEST, " + identity + "}}}"
}

func response(template, header string) string {
	if strings.HasPrefix(header, "'") {
		header = `"` + header + `"`
	}
	return "      GatewayResponses: {UNAUTHORIZED: {ResponseParameters: {Headers: {X-A: " + header + "}}, ResponseTemplates: {application/json: " + template + "}}}"
}

// Our own template, in whatever state it is: it can be read, and what API
// Gateway answers itself says nothing of its own.
func TestOurTemplateIsUnderstood(t *testing.T) {
	t.Parallel()
	api, err := gateway.Load("../../template.yaml", gateway.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	invokers := map[string]gateway.Invoker{}
	for name := range api.Functions {
		invokers[name] = fails("Unauthorized")
	}
	g, err := gateway.New(gateway.Config{API: api, Invokers: invokers})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range api.Routes {
		method := strings.Replace(r.Method, "ANY", "GET", 1)
		path := strings.NewReplacer("{proxy+}", "a/b", "{", "", "}", "").Replace(r.Path)
		w := do(g, httptest.NewRequest(method, "/"+api.Stage+path, nil))
		want := 500 // the function fails too
		if r.Authorizer != "" {
			want = 401
		}
		if w.Code != want || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %s, want %d", r.Method, r.Path, w.Code, w.Body, want)
		}
		if strings.Contains(w.Body.String(), "$context") {
			t.Errorf("%s %s: a variable is left in %s", r.Method, r.Path, w.Body)
		}
	}
}
