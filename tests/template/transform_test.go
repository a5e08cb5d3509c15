package template_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/route"
)

// missing ends a test that needs a tool this machine doesn't have.
func missing(t *testing.T, tool string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing, and CI must have it", tool)
	}
	t.Skipf("%s is missing", tool)
}

var translator = sync.OnceValue(func() error {
	return exec.Command("python3", "-c", "import samtranslator, yaml").Run()
})

// expand returns template.yaml after the Serverless transform, with parameters
// as Name=value.
func expand(t *testing.T, parameters ...string) object {
	t.Helper()
	if err := translator(); err != nil {
		missing(t, "python3 with samtranslator (pip install aws-sam-translator)")
	}
	f := byDefault
	if len(parameters) > 0 {
		f = func() (object, error) { return transform(parameters) }
	}
	doc, err := f()
	if err != nil {
		t.Fatalf("transform.py: %v", err)
	}
	return doc
}

var byDefault = sync.OnceValues(func() (object, error) { return transform(nil) })

func transform(parameters []string) (object, error) {
	source, err := os.Open(templateFile)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	cmd := exec.Command("python3", append([]string{"transform.py"}, parameters...)...)
	var problems bytes.Buffer
	cmd.Stdin, cmd.Stderr = source, &problems
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, problems.String())
	}
	var doc object
	err = json.Unmarshal(out, &doc)
	return doc, err
}

const anyMethod = "x-amazon-apigateway-any-method"

// P5, both ways, on what API Gateway will be told: every method has the
// authorizer but those that the route table says need none, and each reaches
// its own function, streamed where it runs a model.
func TestTransformedMethods(t *testing.T) {
	t.Parallel()
	doc := expand(t)
	want, got := object{}, object{}
	for key, e := range wantEvents(t) {
		guard, version, call := "Caller", "2015-03-31", "invocations"
		integration := object{"type": "aws_proxy", "httpMethod": "POST"}
		if e.Public {
			guard = "NONE"
		}
		if e.Streamed {
			version, call = "2021-11-15", "response-streaming-invocations"
			integration["responseTransferMode"], integration["timeoutInMillis"] = "STREAM", float64(900000)
		}
		integration["uri"] = object{"Fn::Sub": fmt.Sprintf(
			"arn:aws:apigateway:${AWS::Region}:lambda:path/%s/functions/${%s.Arn}/%s", version, e.Function, call)}
		want[strings.Replace(key, "any ", anyMethod+" ", 1)] = object{
			"security":                        []any{object{guard: []any{}}},
			"x-amazon-apigateway-integration": integration,
			"responses":                       object{},
		}
	}
	for path, methods := range digObject(t, doc, "Resources", "Api", "Properties", "Body", "paths") {
		for name, m := range methods.(object) {
			got[name+" "+path] = m
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("methods (-route.Table +transformed):\n%s", diff)
	}
	if security := dig(doc, "Resources", "Api", "Properties", "Body", "security"); security != nil {
		t.Errorf("the document's own security is %v", security)
	}
}

// P2: no time to live, no identity source, the request's whole event.
func TestTransformedAuthorizer(t *testing.T) {
	t.Parallel()
	want := object{"Caller": object{
		"type": "apiKey", "name": "Unused", "in": "header",
		"x-amazon-apigateway-authtype": "custom",
		"x-amazon-apigateway-authorizer": object{
			"type":                         "request",
			"authorizerResultTtlInSeconds": float64(0),
			"authorizerUri": object{"Fn::Sub": []any{
				"arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${__FunctionArn__}/invocations",
				object{"__FunctionArn__": object{"Fn::GetAtt": []any{"AuthorizerFunction", "Arn"}}},
			}},
		},
	}}
	got := dig(expand(t), "Resources", "Api", "Properties", "Body", "components", "securitySchemes")
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("securitySchemes (-want +got):\n%s", diff)
	}
}

// P5: nobody but this one API may invoke a function.
func TestTransformedPermissions(t *testing.T) {
	t.Parallel()
	doc := expand(t)
	const source = "arn:aws:execute-api:${AWS::Region}:${AWS::AccountId}:${__ApiId__}/"
	invoked := map[string]int{}
	for id, p := range resources(t, doc, "AWS::Lambda::Permission") {
		sub, _ := dig(p, "SourceArn", "Fn::Sub").([]any)
		if len(sub) != 2 || !strings.HasPrefix(fmt.Sprint(sub[0]), source) ||
			!cmp.Equal(dig(sub[1], "__ApiId__"), any(object{"Ref": "Api"})) {
			t.Errorf("%s is not limited to the Api: %v", id, p["SourceArn"])
			continue
		}
		if p["Principal"] != "apigateway.amazonaws.com" || p["Action"] != "lambda:InvokeFunction" {
			t.Errorf("%s lets %v do %v", id, p["Principal"], p["Action"])
		}
		function, ok := dig(p, "FunctionName", "Ref").(string)
		if !ok {
			list, _ := dig(p, "FunctionName", "Fn::GetAtt").([]any)
			function = fmt.Sprint(list[0])
		}
		if onlyAuthorizers := sub[0] == source+"authorizers/*"; onlyAuthorizers != (function == "AuthorizerFunction") {
			t.Errorf("%s: %v for %s", id, sub[0], function)
		}
		invoked[function]++
	}
	want := map[string]int{"AuthorizerFunction": 1}
	for _, e := range wantEvents(t) {
		want[e.Function]++
	}
	if diff := cmp.Diff(want, invoked); diff != "" {
		t.Errorf("permissions by function (-want +got):\n%s", diff)
	}
}

// What the transform makes of the template is what was counted on: one API with
// one stage, and no role, URL or alias of SAM's own.
func TestTransformedResources(t *testing.T) {
	t.Parallel()
	got := map[string]int{}
	doc := expand(t)
	for _, r := range digObject(t, doc, "Resources") {
		got[fmt.Sprint(dig(r, "Type"))]++
	}
	functions := map[route.Function]bool{}
	for _, r := range route.Table() {
		functions[r.Function] = true
	}
	n := len(functions) + 2 // the authorizer and the worker
	want := map[string]int{
		"AWS::ApiGateway::RestApi": 1, "AWS::ApiGateway::Deployment": 1, "AWS::ApiGateway::Stage": 1,
		"AWS::Lambda::Function": n, "AWS::IAM::Role": n, "AWS::Logs::LogGroup": n,
		"AWS::Lambda::Permission":     len(wantEvents(t)) + 1,
		"AWS::SecretsManager::Secret": 1, "AWS::DynamoDB::Table": 1,
		"AWS::SQS::Queue": 2, "AWS::SQS::QueuePolicy": 1, "AWS::Lambda::EventSourceMapping": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	for id, stage := range resources(t, doc, "AWS::ApiGateway::Stage") {
		if stage["StageName"] != "prod" {
			t.Errorf("%s is named %v", id, stage["StageName"])
		}
	}
}

// What SAM makes of the worker's event: it drops in silence what it doesn't know,
// and without its response types no job would come again.
func TestTransformedQueue(t *testing.T) {
	t.Parallel()
	want := map[string]object{"WorkerFunctionJobs": {
		"EventSourceArn": object{"Fn::GetAtt": []any{"JobsQueue", "Arn"}}, "FunctionName": object{"Ref": "WorkerFunction"},
		"BatchSize": float64(1), "FunctionResponseTypes": []any{"ReportBatchItemFailures"},
		"ScalingConfig": object{"MaximumConcurrency": float64(2)},
	}}
	if diff := cmp.Diff(want, resources(t, expand(t), "AWS::Lambda::EventSourceMapping")); diff != "" {
		t.Errorf("event source mappings (-want +got):\n%s", diff)
	}
}

// P14: gateway responses come through whole, and their CORS headers hang on the
// condition alone, whatever CorsOrigin is when the transform runs.
func TestTransformedGatewayResponses(t *testing.T) {
	t.Parallel()
	written := digObject(t, template(t), "Resources", "Api", "Properties", "GatewayResponses")
	want := object{}
	for name, v := range written {
		parameters := object{}
		for k, v := range digObject(t, v, "ResponseParameters", "Headers") {
			parameters["gatewayresponse.header."+k] = v
		}
		want[name] = object{
			"statusCode": dig(v, "StatusCode"), "responseParameters": parameters,
			"responseTemplates": dig(v, "ResponseTemplates"),
		}
	}
	for _, parameters := range [][]string{nil, {"CorsOrigin=https://app.example"}, {"CorsOrigin=*"}} {
		t.Run(strings.Join(parameters, " "), func(t *testing.T) {
			t.Parallel()
			got := dig(expand(t, parameters...), "Resources", "Api", "Properties", "Body", "x-amazon-apigateway-gateway-responses")
			if diff := cmp.Diff(any(want), got); diff != "" {
				t.Errorf("gateway responses (-written +transformed):\n%s", diff)
			}
		})
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	linter, err := exec.LookPath("cfn-lint")
	if err != nil {
		missing(t, "cfn-lint (pip install cfn-lint)")
	}
	out, err := exec.Command(linter, "--", templateFile).CombinedOutput()
	if err != nil {
		t.Errorf("cfn-lint: %v\n%s", err, out)
	}
}
