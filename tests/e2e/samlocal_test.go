package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"postern/tests/gateway"
	"postern/tests/lambdahost"
)

// samLocal runs one function as `sam local` does: every intrinsic comes out as
// the name of its resource, and only declared variables can be overridden.
func samLocal(t *testing.T, id string, overrides map[string]string) *lambdahost.Host {
	t.Helper()
	api, err := gateway.Load("../../template.yaml", gateway.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	function := api.Functions[id]
	for name := range overrides {
		if _, declared := function.Environment[name]; !declared {
			t.Fatalf("%s declares no variable %s, so env.json could not set it", id, name)
		}
	}
	env := append(function.Env(overrides), "AWS_SAM_LOCAL=true")
	host, err := lambdahost.Start(lambdahost.Config{
		Bootstrap: filepath.Join(binaries, functions[id]), Env: env, Dir: "../..", FunctionName: id, Timeout: patience, InitTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host
}

func invoke(t *testing.T, host *lambdahost.Host, event, into any) *lambdahost.Result {
	t.Helper()
	payload, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	result, err := host.Invoke(t.Context(), payload)
	if err != nil {
		t.Fatal(err)
	}
	if result.Payload != nil && into != nil {
		if err := json.Unmarshal(result.Payload, into); err != nil {
			t.Fatal(err)
		}
	}
	return result
}

func authorizerEvent(authorization string) events.APIGatewayCustomAuthorizerRequestTypeRequest {
	headers := map[string]string{}
	if authorization != "" {
		headers["Authorization"] = authorization
	}
	return events.APIGatewayCustomAuthorizerRequestTypeRequest{
		Type: "REQUEST", MethodArn: "arn:aws:execute-api:us-east-1:123456789012:1234567890/prod/GET/agents", Headers: headers,
	}
}

// TestSAMLocalDeniesWithAPolicy: there an authorizer's error would be a 502.
func TestSAMLocalDeniesWithAPolicy(t *testing.T) {
	t.Parallel()
	host := samLocal(t, "AuthorizerFunction", map[string]string{"API_TOKEN": token})
	for authorization, effect := range map[string]string{
		"Bearer " + token: "Allow", "Bearer wrong": "Deny", "": "Deny", token: "Deny",
	} {
		var policy events.APIGatewayCustomAuthorizerResponse
		if result := invoke(t, host, authorizerEvent(authorization), &policy); result.Err != nil {
			t.Fatalf("%q: %v", authorization, result.Err)
		}
		if got := policy.PolicyDocument.Statement[0].Effect; got != effect {
			t.Errorf("%q: %s, want %s", authorization, got, effect)
		}
	}
	if text := leaked(host.Logs()); text != "" {
		t.Errorf("P4: the log has %s in it", text)
	}
}

// TestSAMLocalWithoutATokenSaysWhatToDo: "TokenSecret" is no ARN, and nobody is
// let in.
func TestSAMLocalWithoutATokenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	host := samLocal(t, "AuthorizerFunction", nil)
	if result := invoke(t, host, authorizerEvent("Bearer "+token), nil); result.Err == nil {
		t.Fatalf("answered %s, want an error", result.Payload)
	}
	host.Close() // so that its log is whole
	if !strings.Contains(host.Logs(), "make env.json") {
		t.Errorf("the log doesn't say what to do: %s", host.Logs())
	}
}

// TestSAMLocalGetsAChatInOnePiece: it can't stream.
func TestSAMLocalGetsAChatInOnePiece(t *testing.T) {
	t.Parallel()
	host := samLocal(t, "ChatFunction", nil)
	var reply events.APIGatewayProxyResponse
	result := invoke(t, host, events.APIGatewayProxyRequest{
		Resource: "/chat", Path: "/chat", HTTPMethod: "POST",
		Headers: map[string]string{"Content-Type": "application/json"},
		Body:    `{"message":"I need a plan for Monday","stream":true}`,
		RequestContext: events.APIGatewayProxyRequestContext{RequestID: "id", Authorizer: map[string]any{
			"principalId": "root", "kind": "root", "scopes": `["agents:read","chat","admin"]`}},
	}, &reply)
	if result.Err != nil || result.Stream != nil {
		t.Fatalf("error %v, stream %v; want a buffered reply", result.Err, result.Stream)
	}
	if reply.StatusCode != 200 || !strings.Contains(reply.Body, "event: done\n") {
		t.Errorf("status %d, body %s", reply.StatusCode, reply.Body)
	}
}

// TestEveryFunctionRefusesAnEventWithoutACaller is P5: whatever invokes a
// function around the authorizer gets 401.
func TestEveryFunctionRefusesAnEventWithoutACaller(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	for id, resource := range map[string]string{"AgentsFunction": "/agents", "ChatFunction": "/chat"} {
		for name, caller := range map[string]map[string]any{
			"none": nil, "an empty one": {}, "an empty principal": {"principalId": ""}, "a principal that is no string": {"principalId": 1},
		} {
			method := map[string]string{"/agents": "GET", "/chat": "POST"}[resource]
			result := invoke(t, d.hosts[id], events.APIGatewayProxyRequest{
				Resource: resource, Path: resource, HTTPMethod: method, Body: `{"message":"hello"}`,
				Headers: map[string]string{
					"Content-Type":                  "application/json",
					"Authorization":                 "Bearer " + token,
					"X-GoLambdaProxy-ApiGw-Context": `{"authorizer":{"principalId":"root","kind":"root","scopes":"[\"chat\"]"}}`,
				},
				RequestContext: events.APIGatewayProxyRequestContext{RequestID: "id", Authorizer: caller},
			}, nil)
			answer := string(result.Payload)
			if result.Stream != nil {
				answer = string(result.Stream.Metadata)
				result.Stream.Body.Close()
			}
			if result.Err != nil || !strings.Contains(answer, `"statusCode":401`) {
				t.Errorf("%s with the caller %s: %v %s", resource, name, result.Err, answer)
			}
		}
	}
}

// TestI17AMissingAgentsFileStopsTheFunction: no defaults stand in for it.
func TestI17AMissingAgentsFileStopsTheFunction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"none.yaml", filepath.Join(dir, "empty")} {
		host, err := lambdahost.Start(lambdahost.Config{Bootstrap: filepath.Join(binaries, "agents"), Env: []string{"AGENTS_FILE=" + file}, Dir: dir, InitTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if result := invoke(t, host, map[string]any{}, nil); result.Err == nil {
			t.Errorf("%s: answered %s", file, result.Payload)
		}
		if !strings.Contains(host.Logs(), filepath.Base(file)) {
			t.Errorf("the log doesn't name the file: %s", host.Logs())
		}
	}
}
