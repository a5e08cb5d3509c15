package template_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"postern/shared/api"
	"postern/shared/jobs"
	"postern/shared/route"
)

// event is what the template must say of one method of one path.
type event struct {
	Function string // logical id
	Public   bool   // no authorizer
	Streamed bool
}

// logicalID returns the name in the template of the Lambda f.
func logicalID(f route.Function) string {
	return strings.ToUpper(string(f[:1])) + string(f[1:]) + "Function"
}

// wantEvents derives every event from the route table, as "method path".
// A route in the table without an event, and an event without a route, both
// show up as a difference.
func wantEvents(t *testing.T) map[string]event {
	t.Helper()
	want := map[string]event{
		"any /":         {Function: "HealthFunction", Public: true},
		"any /{proxy+}": {Function: "HealthFunction", Public: true},
	}
	for _, r := range route.Table() {
		e := event{Function: logicalID(r.Function), Public: r.Scope == route.Public, Streamed: r.Model}
		if other, ok := want["any "+r.Path]; ok && other != e {
			t.Fatalf("the rows of %s differ in function, model or being public: API Gateway needs one answer for any method", r.Path)
		}
		want["any "+r.Path] = e
		if !e.Public {
			want["options "+r.Path] = event{Function: "HealthFunction", Public: true}
		}
	}
	return want
}

// P5: what the template lets in is what the route table says, both ways.
func TestEventsAreTheRouteTable(t *testing.T) {
	t.Parallel()
	got := map[string]event{}
	for id, function := range resources(t, template(t), "AWS::Serverless::Function") {
		events, _ := function["Events"].(object)
		for name, e := range events {
			p := digObject(t, e, "Properties")
			if id == "WorkerFunction" && dig(e, "Type") == "SQS" {
				continue // TestTheQueue has it
			}
			if dig(e, "Type") != "Api" || !cmp.Equal(p["RestApiId"], any(object{"Ref": "Api"})) {
				t.Errorf("event %s of %s is not of the one API", name, id)
			}
			key := dig(p, "Method").(string) + " " + dig(p, "Path").(string)
			if _, ok := got[key]; ok {
				t.Errorf("%s has two events", key)
			}
			v := event{Function: id, Streamed: p["ResponseTransferMode"] == "RESPONSE_STREAM"}
			switch auth := p["Auth"]; {
			case auth == nil: // the default authorizer
			case cmp.Equal(auth, any(object{"Authorizer": "NONE"})):
				v.Public = true
			default:
				t.Errorf("%s has an Auth of its own: %v", key, auth)
			}
			if long := p["TimeoutInMillis"] == "900000"; long != v.Streamed {
				t.Errorf("%s: TimeoutInMillis 900000 is %v, streaming is %v", key, long, v.Streamed)
			}
			if !v.Streamed && p["ResponseTransferMode"] != nil {
				t.Errorf("%s: ResponseTransferMode %v; SAM knows RESPONSE_STREAM alone", key, p["ResponseTransferMode"])
			}
			got[key] = v
		}
	}
	if diff := cmp.Diff(wantEvents(t), got); diff != "" {
		t.Errorf("route.Table (-) and template.yaml (+) differ:\n%s", diff)
	}
}

// P2, P5: the authorizer guards by default and its verdict is never cached. A
// TTL above 0 would add itself to the 5 s in which a revoked key must stop, and
// an identity source would refuse whoever sends the other header.
func TestAuthorizer(t *testing.T) {
	t.Parallel()
	want := object{
		"DefaultAuthorizer": "Caller",
		"Authorizers": object{"Caller": object{
			"FunctionArn":         object{"Fn::GetAtt": []any{"AuthorizerFunction", "Arn"}},
			"FunctionPayloadType": "REQUEST",
			"Identity":            object{"ReauthorizeEvery": "0"},
		}},
	}
	got := dig(template(t), "Resources", "Api", "Properties", "Auth")
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("Auth of the Api (-want +got):\n%s", diff)
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	got := object{}
	for k, v := range digObject(t, template(t), "Resources", "Api", "Properties") {
		if k != "Auth" && k != "GatewayResponses" { // have tests of their own
			got[k] = v
		}
	}
	// No Cors: SAM makes a 200 mock of it that takes no condition.
	want := object{
		"StageName":             "prod",
		"EndpointConfiguration": object{"Type": "REGIONAL"},
		"AlwaysDeploy":          true,
		"MethodSettings": []any{object{
			"ResourcePath": "/*", "HttpMethod": "*",
			"ThrottlingRateLimit":  object{"Ref": "ThrottleRate"},
			"ThrottlingBurstLimit": object{"Ref": "ThrottleBurst"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Api (-want +got):\n%s", diff)
	}
}

// P14: what API Gateway answers itself is the contract's error table, for each
// type there is: a type that is missing would answer with the body of its
// fallback and a status that isn't in it.
func TestGatewayResponses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status string
		title  string
		code   api.Code
		header object // beyond those of every answer
	}{
		"UNAUTHORIZED":                   {"401", "Invalid API key", api.Unauthenticated, challenge},
		"INVALID_API_KEY":                {"401", "Invalid API key", api.Unauthenticated, challenge},
		"ACCESS_DENIED":                  {"403", "Access denied from this IP address", api.AddressDenied, nil},
		"WAF_FILTERED":                   {"403", "Access denied from this IP address", api.AddressDenied, nil},
		"MISSING_AUTHENTICATION_TOKEN":   {"404", "Not found", api.NotFound, nil},
		"INVALID_SIGNATURE":              {"404", "Not found", api.NotFound, nil},
		"EXPIRED_TOKEN":                  {"404", "Not found", api.NotFound, nil},
		"RESOURCE_NOT_FOUND":             {"404", "Not found", api.NotFound, nil},
		"BAD_REQUEST_PARAMETERS":         {"400", "Invalid request", api.InvalidRequest, nil},
		"BAD_REQUEST_BODY":               {"400", "Invalid request", api.InvalidRequest, nil},
		"DEFAULT_4XX":                    {"400", "Invalid request", api.InvalidRequest, nil},
		"REQUEST_TOO_LARGE":              {"413", "Request too large", api.TooLarge, nil},
		"UNSUPPORTED_MEDIA_TYPE":         {"415", "Unsupported media type", api.UnsupportedMediaType, nil},
		"THROTTLED":                      {"429", "Rate limit exceeded", api.RateLimited, object{"Retry-After": "'1'"}},
		"QUOTA_EXCEEDED":                 {"429", "Rate limit exceeded", api.RateLimited, object{"Retry-After": "'1'"}},
		"AUTHORIZER_FAILURE":             {"503", "Authentication unavailable", api.AuthUnavailable, object{"Retry-After": "'5'"}},
		"AUTHORIZER_CONFIGURATION_ERROR": {"503", "Authentication unavailable", api.AuthUnavailable, object{"Retry-After": "'5'"}},
		"INTEGRATION_FAILURE":            {"503", "Service unavailable", api.Unavailable, object{"Retry-After": "'5'"}},
		"INTEGRATION_TIMEOUT":            {"504", "Model backend timed out", api.ModelTimeout, nil},
		"API_CONFIGURATION_ERROR":        {"500", "Internal error", api.Internal, nil},
		"DEFAULT_5XX":                    {"500", "Internal error", api.Internal, nil},
	}
	responses := digObject(t, template(t), "Resources", "Api", "Properties", "GatewayResponses")
	for name := range responses {
		if _, ok := tests[name]; !ok {
			t.Errorf("%s is in template.yaml, but not in this table", name)
		}
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := digObject(t, responses, name)
			if got["StatusCode"] != want.status {
				t.Errorf("StatusCode %v, want %s", got["StatusCode"], want.status)
			}

			header := object{}
			for _, part := range []object{everyHeader, want.header} {
				for k, v := range part {
					header[k] = v
				}
			}
			if diff := cmp.Diff(any(object{"Headers": header}), got["ResponseParameters"]); diff != "" {
				t.Errorf("ResponseParameters (-want +got):\n%s", diff)
			}

			templates := digObject(t, got, "ResponseTemplates")
			text, _ := templates["application/problem+json"].(string)
			if len(templates) != 1 || text == "" {
				t.Fatalf("want one template, application/problem+json: %v", templates)
			}
			if strings.Count(text, "$") != 1 || !strings.Contains(text, `"$context.requestId"`) {
				t.Errorf("a body is constant but for the request id: %s", text)
			}
			var body api.Problem
			d := json.NewDecoder(strings.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			if diff := cmp.Diff(api.ProblemOf(&api.Error{Code: want.code}, "$context.requestId"), body); diff != "" {
				t.Errorf("body (-shared/api's +template.yaml's):\n%s", diff)
			}
			if body.Title != want.title || strconv.Itoa(body.Status) != want.status {
				t.Errorf("body says %d %q, the contract %s %q", body.Status, body.Title, want.status, want.title)
			}
		})
	}
}

var (
	noValue   = object{"Ref": "AWS::NoValue"}
	challenge = object{"WWW-Authenticate": `'Bearer realm="postern"'`}

	// everyHeader is on every answer of API Gateway's own, as it is on the functions'.
	everyHeader = object{
		"X-Request-Id":                "context.requestId",
		"X-Content-Type-Options":      "'nosniff'",
		"Cache-Control":               "'no-store'",
		"Strict-Transport-Security":   "'max-age=31536000'",
		"Access-Control-Allow-Origin": object{"Fn::If": []any{"Cors", object{"Fn::Sub": "'${CorsOrigin}'"}, noValue}},
		"Access-Control-Expose-Headers": object{"Fn::If": []any{"Cors",
			"'RateLimit, RateLimit-Policy, Retry-After, Location, ETag, X-Request-Id'", noValue}},
		"Vary": object{"Fn::If": []any{"CorsOneOrigin", "'Origin'", noValue}},
	}
)

// P16: any change to this block makes a new version of the secret, so a new
// token, which nobody announced. A Name would block the next deployment after
// `sam delete`.
func TestTokenSecretIsPinned(t *testing.T) {
	t.Parallel()
	got := digObject(t, template(t), "Resources", "TokenSecret", "Properties")
	want := object{
		"Description":          got["Description"],
		"GenerateSecretString": object{"PasswordLength": "43", "ExcludePunctuation": true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("TokenSecret (-want +got):\n%s", diff)
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	not := func(v any) object { return object{"Fn::Not": []any{v}} }
	equals := func(parameter, value string) object {
		return object{"Fn::Equals": []any{object{"Ref": parameter}, value}}
	}
	isEmptyList := func(parameter string) object {
		return object{"Fn::Equals": []any{object{"Fn::Join": []any{"", object{"Ref": parameter}}}, ""}}
	}
	want := object{
		"Cors":              not(equals("CorsOrigin", "")),
		"CorsOneOrigin":     object{"Fn::And": []any{object{"Condition": "Cors"}, not(equals("CorsOrigin", "*"))}},
		"ReserveAuthorizer": not(equals("AuthorizerConcurrency", "")),
		"ModelKey":          not(equals("ModelApiKeySecretArn", "")),
		"Bedrock":           not(isEmptyList("BedrockModelArns")),
		"ChatPolicies":      not(isEmptyList("ChatPolicyArns")),
	}
	if diff := cmp.Diff(want, digObject(t, template(t), "Conditions")); diff != "" {
		t.Errorf("Conditions (-want +got):\n%s", diff)
	}
	reserve := dig(template(t), "Resources", "AuthorizerFunction", "Properties", "ReservedConcurrentExecutions")
	if !cmp.Equal(reserve, any(object{"Fn::If": []any{"ReserveAuthorizer", object{"Ref": "AuthorizerConcurrency"}, noValue}})) {
		t.Errorf("the authorizer's reserve is %v: it must be absent by default, for 0 switches the authorizer off", reserve)
	}
}

// `sam deploy --guided` asks for each parameter, so there are few, and Enter is
// an answer to each.
func TestParameters(t *testing.T) {
	t.Parallel()
	parameters := digObject(t, template(t), "Parameters")
	if len(parameters) > 20 {
		t.Errorf("%d parameters, want at most 20", len(parameters))
	}
	for name := range parameters {
		p := digObject(t, parameters, name)
		if p["Default"] == nil || p["Description"] == nil {
			t.Errorf("%s has no Default or no Description", name)
		}
		if s, _ := p["Default"].(string); !allowed(t, name, s) {
			t.Errorf("%s refuses its own default %q", name, s)
		}
	}
}

// A wrong value is refused by the deployment, before a function that can't
// start has replaced one that could.
func TestParameterValues(t *testing.T) {
	t.Parallel()
	tests := []struct {
		parameter, value string
		want             bool
	}{
		{"AllowedIps", "", true},
		{"AllowedIps", "192.0.2.1, 198.51.100.0/24,2001:db8::/32,*", true},
		{"AllowedIps", "office.example", false},
		{"AuthorizerConcurrency", "", true},
		{"AuthorizerConcurrency", "100", true},
		{"AuthorizerConcurrency", "0", false},
		{"ChatTimeout", "300s", true},
		{"ChatTimeout", "840s", true},
		{"ChatTimeout", "841s", false},
		{"ChatTimeout", "900s", false},
		{"ChatTimeout", "14m", true},
		{"ChatTimeout", "15m", false},
		{"ChatTimeout", "0s", false},
		{"ChatTimeout", "300", false},
		{"CorsOrigin", "", true},
		{"CorsOrigin", "*", true},
		{"CorsOrigin", "https://app.example:8443", true},
		{"CorsOrigin", "http://[::1]:3000", true},
		{"CorsOrigin", "https://app.example/", false},
		{"CorsOrigin", "https://a.example,https://b.example", false},
		{"CorsOrigin", "https://a.example'", false},
		{"LogLevel", "verbose", false},
		{"TokenGrace", "0", true},
		{"TokenGrace", "24h", true},
		{"TokenGrace", "7d", true},
		{"TokenGrace", "30d", true},
		{"TokenGrace", "31d", false},
		{"TokenGrace", "721h", false},
		{"TokenGrace", "24", false},
	}
	for _, tt := range tests {
		t.Run(tt.parameter+" "+tt.value, func(t *testing.T) {
			t.Parallel()
			if got := allowed(t, tt.parameter, tt.value); got != tt.want {
				t.Errorf("allowed: %v, want %v", got, tt.want)
			}
		})
	}
}

// allowed does what CloudFormation does with a parameter's value.
func allowed(t *testing.T, parameter, value string) bool {
	t.Helper()
	p := digObject(t, template(t), "Parameters", parameter)
	if pattern, ok := p["AllowedPattern"].(string); ok && !regexp.MustCompile(`^(?:`+pattern+`)$`).MatchString(value) {
		return false
	}
	values, ok := p["AllowedValues"].([]any)
	for _, v := range values {
		if v == value {
			return true
		}
	}
	return !ok
}

// The names are the contract's (§6), each function has what it uses alone, and
// none has a secret: the token's place is Secrets Manager.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	ref := func(name string) object { return object{"Ref": name} }
	want := map[string]object{
		"AuthorizerFunction": {
			"TOKEN_SECRET_ARN": ref("TokenSecret"), "TOKEN_CACHE_SECONDS": ref("TokenCacheSeconds"), "TOKEN_GRACE": ref("TokenGrace"),
			"TABLE_NAME": ref("Table"), "ALLOWED_IPS": ref("AllowedIps"), "LOG_LEVEL": ref("LogLevel"),
			"API_TOKEN": "",
		},
		"AgentsFunction": {
			"AGENTS_FILE": "agents.yaml", "MODEL": ref("Model"), "TABLE_NAME": ref("Table"),
			"API_RATE_LIMIT": ref("ApiRateLimit"), "CORS_ORIGINS": ref("CorsOrigin"), "LOG_LEVEL": ref("LogLevel"),
		},
		"ChatFunction": {
			"AGENTS_FILE": "agents.yaml", "MODEL": ref("Model"), "OPENAI_BASE_URL": ref("OpenAIBaseUrl"), "MODEL_API_KEY_SECRET_ARN": ref("ModelApiKeySecretArn"),
			"BEDROCK_MODEL_ARNS": object{"Fn::Join": []any{",", ref("BedrockModelArns")}}, "CHAT_TIMEOUT": ref("ChatTimeout"), "SESSION_TTL": "30d", "TABLE_NAME": ref("Table"),
			"JOBS_QUEUE_URL": ref("JobsQueue"), "API_RATE_LIMIT": ref("ApiRateLimit"), "CORS_ORIGINS": ref("CorsOrigin"), "LOG_LEVEL": ref("LogLevel"),
		},
		"JobsFunction": {
			"TABLE_NAME":     ref("Table"),
			"API_RATE_LIMIT": ref("ApiRateLimit"), "CORS_ORIGINS": ref("CorsOrigin"), "LOG_LEVEL": ref("LogLevel"),
		},
		"KeysFunction": {
			"TABLE_NAME":     ref("Table"),
			"API_RATE_LIMIT": ref("ApiRateLimit"), "CORS_ORIGINS": ref("CorsOrigin"), "LOG_LEVEL": ref("LogLevel"),
		},
		"HealthFunction": {"CORS_ORIGINS": ref("CorsOrigin"), "LOG_LEVEL": ref("LogLevel")},
	}
	// The worker runs what chat runs, answers nobody and asks for nothing later.
	want["WorkerFunction"] = maps.Clone(want["ChatFunction"])
	for _, name := range []string{"JOBS_QUEUE_URL", "API_RATE_LIMIT", "CORS_ORIGINS"} {
		delete(want["WorkerFunction"], name)
	}
	got := map[string]object{}
	for id, function := range resources(t, template(t), "AWS::Serverless::Function") {
		got[id] = digObject(t, function, "Environment", "Variables")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environments (-want +got):\n%s", diff)
	}
	if shared := dig(template(t), "Globals", "Function", "Environment"); shared != nil {
		t.Errorf("Globals give every function %v", shared)
	}
}

// Least privilege: a function writes to its own log group; the authorizer reads
// its one secret, and keys; agents, chat, the worker and jobs count usage, chat
// and the worker count token budgets too, and they can neither write a key, nor
// read one but for the worker, nor reach the audit chain; conversations chat and
// the worker read and write, jobs reads and deletes; replies that are kept for a
// repeated request chat reads, writes and deletes; a job all three do, but its
// place in its owner's list is out of the worker's reach. Keys and the audit chain
// are written and listed by keys alone, which reports usage too; what callers said
// is out of its reach. Nobody deletes anything else. Into the queue chat sends, and
// the worker alone receives. Both may use what chat's parameters name: by default
// nothing. Nothing else is allowed to anybody. Whether all that is enough, package
// e2e_test sees, whose fakes refuse what a role doesn't allow.
func TestRoles(t *testing.T) {
	t.Parallel()
	attribute := func(id string) object { return object{"Fn::GetAtt": []any{id, "Arn"}} }
	allow := func(action, resource any) object {
		return object{"Effect": "Allow", "Action": action, "Resource": resource}
	}
	items := func(actions any, partitions ...any) object {
		s := allow(actions, attribute("Table"))
		s["Condition"] = object{"ForAllValues:StringLike": object{"dynamodb:LeadingKeys": partitions}}
		return s
	}
	count := []any{"dynamodb:UpdateItem", "dynamodb:PutItem", "dynamodb:GetItem"}
	usage := items(count, "use#*", "hours#*")
	tokens := items(count, "use#*", "hours#*", "budget#*")
	turns := items([]any{"dynamodb:GetItem", "dynamodb:PutItem"}, "session#*")
	keep := []any{"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:DeleteItem"}
	extra := map[string][]any{
		"AuthorizerFunction": {allow("secretsmanager:GetSecretValue", object{"Ref": "TokenSecret"}), items("dynamodb:GetItem", "key#*")},
		"AgentsFunction":     {usage},
		"ChatFunction": {tokens, turns, items(keep, "replay#*"), items(keep, "job#*", "jobs#*"),
			allow("sqs:SendMessage", attribute("JobsQueue"))},
		"WorkerFunction": {tokens, turns, items("dynamodb:GetItem", "key#*"), items(keep, "job#*"),
			allow([]any{"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}, attribute("JobsQueue"))},
		"JobsFunction": {usage, items([]any{"dynamodb:GetItem", "dynamodb:DeleteItem"}, "session#*"),
			items(append(slices.Clone(keep), "dynamodb:Query"), "job#*", "jobs#*")},
		"KeysFunction": {usage, items("dynamodb:Query", "use#*", "hours#*"),
			items([]any{"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query"}, "key#*", "audit")},
	}
	models := map[string]any{ // by condition
		"ModelKey": allow("secretsmanager:GetSecretValue", object{"Ref": "ModelApiKeySecretArn"}),
		"Bedrock":  allow([]any{"bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"}, object{"Ref": "BedrockModelArns"}),
	}
	chosen := map[string]map[string]any{"ChatFunction": models, "WorkerFunction": models}
	policies := object{"Fn::If": []any{"ChatPolicies", object{"Ref": "ChatPolicyArns"}, object{"Ref": "AWS::NoValue"}}}
	managed := map[string]any{"ChatFunction": policies, "WorkerFunction": policies}
	functions := resources(t, template(t), "AWS::Serverless::Function")
	roles := resources(t, template(t), "AWS::IAM::Role")
	if len(roles) != len(functions) {
		t.Errorf("%d roles for %d functions", len(roles), len(functions))
	}
	for id, function := range functions {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			name := strings.TrimSuffix(id, "Function")
			if !cmp.Equal(function["Role"], any(attribute(name+"Role"))) || function["Policies"] != nil {
				t.Fatalf("%s has the role %v and policies %v, want %sRole alone", id, function["Role"], function["Policies"], name)
			}
			if !cmp.Equal(function["LoggingConfig"], any(object{"LogGroup": object{"Ref": name + "Logs"}})) {
				t.Errorf("LoggingConfig %v, want the group %sLogs", function["LoggingConfig"], name)
			}
			role := roles[name+"Role"]
			trust := object{"Version": "2012-10-17", "Statement": []any{
				object{"Effect": "Allow", "Principal": object{"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
			}}
			if diff := cmp.Diff(any(trust), role["AssumeRolePolicyDocument"]); diff != "" {
				t.Errorf("who may take the role (-want +got):\n%s", diff)
			}
			var got []any
			policies, _ := role["Policies"].([]any)
			conditional := map[string]any{}
			for _, p := range policies {
				if choice, _ := dig(p, "Fn::If").([]any); len(choice) == 3 && cmp.Equal(choice[2], any(object{"Ref": "AWS::NoValue"})) {
					statements, _ := dig(choice[1], "PolicyDocument", "Statement").([]any)
					if len(statements) != 1 {
						t.Fatalf("a policy of one statement is wanted: %v", p)
					}
					conditional[choice[0].(string)] = statements[0]
					continue
				}
				statements, _ := dig(p, "PolicyDocument", "Statement").([]any)
				if len(statements) == 0 {
					t.Errorf("a policy without a list of statements: %v", p)
				}
				got = append(got, statements...)
			}
			want := append([]any{allow([]any{"logs:CreateLogStream", "logs:PutLogEvents"}, attribute(name+"Logs"))}, extra[id]...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("statements (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(chosen[id], conditional, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("conditional statements (-want +got):\n%s", diff)
			}
			if !cmp.Equal(role["ManagedPolicyArns"], managed[id]) {
				t.Errorf("managed policies %v, want %v", role["ManagedPolicyArns"], managed[id])
			}
			for field := range role {
				if !slices.Contains([]string{"AssumeRolePolicyDocument", "Policies", "ManagedPolicyArns"}, field) {
					t.Errorf("a role is its trust and its policies, this has %s", field)
				}
			}
		})
	}
}

func TestLogsEnd(t *testing.T) {
	t.Parallel()
	for id, group := range resources(t, template(t), "AWS::Logs::LogGroup") {
		if diff := cmp.Diff(object{"RetentionInDays": object{"Ref": "LogRetentionDays"}}, group); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
	}
}

// The table outlives the stack and every replacement, and can be restored to any
// second; its attributes are package dynamodb's.
func TestTable(t *testing.T) {
	t.Parallel()
	tables := resources(t, template(t), "AWS::DynamoDB::Table")
	if len(tables) != 1 {
		t.Fatalf("%d tables", len(tables))
	}
	want := object{
		"BillingMode":                      "PAY_PER_REQUEST",
		"AttributeDefinitions":             []any{object{"AttributeName": "pk", "AttributeType": "S"}, object{"AttributeName": "sk", "AttributeType": "S"}},
		"KeySchema":                        []any{object{"AttributeName": "pk", "KeyType": "HASH"}, object{"AttributeName": "sk", "KeyType": "RANGE"}},
		"TimeToLiveSpecification":          object{"AttributeName": "exp", "Enabled": true},
		"PointInTimeRecoverySpecification": object{"PointInTimeRecoveryEnabled": true},
	}
	if diff := cmp.Diff(want, tables["Table"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, policy := range []string{"DeletionPolicy", "UpdateReplacePolicy"} {
		if got := dig(template(t), "Resources", "Table", policy); got != "Retain" {
			t.Errorf("%s is %v", policy, got)
		}
	}
}

// A job is handed out again if its worker failed, and not while it runs: it would
// be run twice (AWS refuses such a queue too). What can't be done is put aside.
func TestTheQueue(t *testing.T) {
	t.Parallel()
	arn := func(id string) object { return object{"Fn::GetAtt": []any{id, "Arn"}} }
	wantQueues := map[string]object{
		"JobsQueue": {
			"VisibilityTimeout": "960", "MessageRetentionPeriod": seconds(jobs.Keep), "SqsManagedSseEnabled": true,
			"RedrivePolicy": object{"deadLetterTargetArn": arn("JobsDeadLetters"), "maxReceiveCount": "10"},
		},
		"JobsDeadLetters": {"MessageRetentionPeriod": seconds(2 * jobs.Keep), "SqsManagedSseEnabled": true},
	}
	if diff := cmp.Diff(wantQueues, resources(t, template(t), "AWS::SQS::Queue")); diff != "" {
		t.Errorf("queues (-want +got):\n%s", diff)
	}
	visibility, _ := strconv.Atoi(fmt.Sprint(wantQueues["JobsQueue"]["VisibilityTimeout"]))
	timeout, err := strconv.Atoi(fmt.Sprint(dig(template(t), "Resources", "WorkerFunction", "Properties", "Timeout")))
	if err != nil || timeout >= visibility {
		t.Errorf("the worker lives %d s (%v), a message is invisible for %d s", timeout, err, visibility)
	}
	wantEvents := object{"Jobs": object{"Type": "SQS", "Properties": object{
		"Queue": arn("JobsQueue"), "BatchSize": "1", "FunctionResponseTypes": []any{"ReportBatchItemFailures"},
		"ScalingConfig": object{"MaximumConcurrency": "2"},
	}}}
	if diff := cmp.Diff(any(wantEvents), dig(template(t), "Resources", "WorkerFunction", "Properties", "Events")); diff != "" {
		t.Errorf("the worker's events (-want +got):\n%s", diff)
	}
	wantPolicies := map[string]object{"JobsQueuePolicy": {
		"Queues": []any{object{"Ref": "JobsQueue"}, object{"Ref": "JobsDeadLetters"}},
		"PolicyDocument": object{"Version": "2012-10-17", "Statement": []any{object{
			"Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": "*",
			"Condition": object{"Bool": object{"aws:SecureTransport": "false"}},
		}}},
	}}
	if diff := cmp.Diff(wantPolicies, resources(t, template(t), "AWS::SQS::QueuePolicy")); diff != "" {
		t.Errorf("queue policies (-want +got):\n%s", diff)
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// P5: the API is the only way in, and the queue, into which chat alone sends.
func TestNoOtherWayIn(t *testing.T) {
	t.Parallel()
	known := map[string]bool{
		"AWS::Serverless::Api": true, "AWS::Serverless::Function": true, "AWS::SecretsManager::Secret": true,
		"AWS::IAM::Role": true, "AWS::Logs::LogGroup": true, "AWS::DynamoDB::Table": true,
		"AWS::SQS::Queue": true, "AWS::SQS::QueuePolicy": true,
	}
	for id, r := range digObject(t, template(t), "Resources") {
		if kind, _ := dig(r, "Type").(string); !known[kind] {
			t.Errorf("%s is a %s: if it lets nobody in, add it here", id, kind)
		}
	}
	each(template(t), func(m object) {
		if m["FunctionUrlConfig"] != nil {
			t.Errorf("a function URL: %v", m["FunctionUrlConfig"])
		}
	})
}

// Every function but the streaming one, and the worker behind its queue, ends
// before API Gateway gives up on it (29 s), and a chat's own limit comes before
// its function's.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	common := dig(template(t), "Globals", "Function", "Timeout")
	for id, function := range resources(t, template(t), "AWS::Serverless::Function") {
		text, ok := function["Timeout"].(string)
		if !ok {
			text, _ = common.(string)
		}
		seconds, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if id == "ChatFunction" || id == "WorkerFunction" {
			if seconds < 840+5 || seconds > 900 { // 840: the most that ChatTimeout takes
				t.Errorf("%s has %d s", id, seconds)
			}
		} else if seconds >= 29 {
			t.Errorf("%s has %d s", id, seconds)
		}
	}
}

func TestEveryFunctionIsBuilt(t *testing.T) {
	t.Parallel()
	want := object{
		"Runtime": "provided.al2023", "Architectures": []any{object{"Ref": "Architecture"}},
		"Handler": "bootstrap", "CodeUri": "./", "MemorySize": "256", "Timeout": "10",
	}
	if diff := cmp.Diff(any(want), dig(template(t), "Globals", "Function")); diff != "" {
		t.Errorf("Globals.Function (-want +got):\n%s", diff)
	}
	maker, err := exec.LookPath("make")
	if err != nil {
		missing(t, "make")
	}
	for id := range resources(t, template(t), "AWS::Serverless::Function") {
		if dig(template(t), "Resources", id, "Metadata", "BuildMethod") != "makefile" {
			t.Errorf("%s isn't built by the Makefile", id)
		}
		cmd := exec.Command(maker, "--dry-run", "--no-print-directory", "build-"+id, "ARTIFACTS_DIR="+t.TempDir())
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("make build-%s: %v\n%s", id, err, out)
		}
	}
}

func TestOutputs(t *testing.T) {
	t.Parallel()
	outputs := digObject(t, template(t), "Outputs")
	for _, name := range []string{"ApiUrl", "TokenSecretArn", "TokenCommand"} {
		if dig(outputs, name, "Value") == nil || dig(outputs, name, "Description") == nil {
			t.Errorf("%s is missing", name)
		}
	}
	const command = "aws secretsmanager get-secret-value --secret-id ${TokenSecret} --query SecretString --output text --region ${AWS::Region}"
	if got := dig(outputs, "TokenCommand", "Value", "Fn::Sub"); got != command {
		t.Errorf("TokenCommand is %v", got)
	}
}
