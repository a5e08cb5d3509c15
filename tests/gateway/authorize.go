package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxResource is how long a Resource of an authorizer's policy may be.
const maxResource = 512

// authorize asks the route's authorizer. What becomes of its answers is in
// https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html
// and in the descriptions of the response types.
func (g *Gateway) authorize(ctx context.Context, x *exchange) *refusal {
	a := g.cfg.API.Authorizers[x.route.Authorizer]
	if lacksSource(a, x) {
		return &refusal{kind: unauthorized, message: "Unauthorized"}
	}
	payload, err := json.Marshal(g.authorizerEvent(x))
	if err != nil {
		return &refusal{kind: authorizerConfigurationError}
	}
	ctx, cancel := context.WithTimeout(ctx, authorizerTimeout)
	defer cancel()
	began := time.Now()
	result, err := g.cfg.Invokers[a.Function].Invoke(ctx, payload)
	latency := time.Since(began)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{kind: authorizerFailure}
	case err != nil: // it could not be reached
		return &refusal{kind: authorizerConfigurationError}
	case result.Err != nil && result.Err.Message == "Unauthorized":
		return &refusal{kind: unauthorized, message: "Unauthorized"}
	case result.Err != nil:
		// Doubt: users see AuthorizerFailure and AuthorizerConfiguration here. A
		// template should give both one body.
		return &refusal{kind: authorizerFailure}
	case result.Stream != nil:
		result.Stream.Body.Close()
		return &refusal{kind: authorizerConfigurationError}
	}
	v, err := parseVerdict(result.Payload)
	if err != nil {
		return &refusal{kind: authorizerConfigurationError}
	}
	x.authorizer = v.context
	x.authorizer["principalId"] = v.principal
	x.authorizer["integrationLatency"] = latency.Milliseconds()
	return v.decide(g.methodARN(x))
}

func lacksSource(a Authorizer, x *exchange) bool {
	for _, h := range a.Headers {
		if x.header(h) == "" {
			return true
		}
	}
	for _, q := range a.QueryStrings {
		if x.query.Get(q) == "" {
			return true
		}
	}
	return false
}

// verdict is an authorizer's answer.
type verdict struct {
	principal  string
	statements []statement
	context    map[string]any // strings
}

type statement struct {
	allow     bool
	actions   []string
	resources []string
}

// parseVerdict takes what API Gateway takes. It refuses policies that this
// package can't judge: those with conditions or a Not element.
func parseVerdict(payload []byte) (*verdict, error) {
	var answer struct {
		PrincipalID    string `json:"principalId"`
		PolicyDocument *struct {
			Statement json.RawMessage
		} `json:"policyDocument"`
		Context map[string]json.RawMessage `json:"context"`
	}
	if err := json.Unmarshal(payload, &answer); err != nil {
		return nil, err
	}
	if answer.PrincipalID == "" || answer.PolicyDocument == nil {
		return nil, errors.New("principalId or policyDocument is missing")
	}
	v := &verdict{principal: answer.PrincipalID, context: map[string]any{}}
	for name, raw := range answer.Context {
		flat, err := scalar(raw)
		if err != nil {
			return nil, fmt.Errorf("context %s: %w", name, err)
		}
		v.context[name] = flat
	}
	raw := bytes.TrimSpace(answer.PolicyDocument.Statement)
	if len(raw) > 0 && raw[0] == '{' {
		raw = append(append([]byte{'['}, raw...), ']')
	}
	var statements []map[string]any
	if err := json.Unmarshal(raw, &statements); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	for _, s := range statements {
		parsed, err := parseStatement(s)
		if err != nil {
			return nil, err
		}
		v.statements = append(v.statements, parsed)
	}
	return v, nil
}

// scalar turns a string, a number or a boolean into the string that functions
// get. Everything else is against the rules.
func scalar(raw json.RawMessage) (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return "", err
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return fmt.Sprint(v), nil
	}
	return "", errors.New("is no string, number or boolean")
}

func parseStatement(s map[string]any) (statement, error) {
	parsed := statement{
		allow:     s["Effect"] == "Allow",
		actions:   texts(s["Action"]),
		resources: texts(s["Resource"]),
	}
	if !parsed.allow && s["Effect"] != "Deny" {
		return statement{}, fmt.Errorf("the Effect is %v", s["Effect"])
	}
	if len(parsed.actions) == 0 || len(parsed.resources) == 0 {
		return statement{}, errors.New("the Action and Resource must be strings or lists of them")
	}
	for _, r := range parsed.resources {
		if len(r) > maxResource {
			return statement{}, fmt.Errorf("a Resource has %d characters", len(r))
		}
	}
	for _, name := range []string{"Condition", "NotAction", "NotResource"} {
		if s[name] != nil {
			return statement{}, fmt.Errorf("%s isn't supported here", name)
		}
	}
	return parsed, nil
}

func texts(v any) []string {
	var list []string
	for _, item := range elements(v) {
		s, ok := item.(string)
		if !ok {
			return nil
		}
		list = append(list, s)
	}
	return list
}

// decide applies IAM's rule: a Deny that matches wins, then an Allow; nothing
// is a refusal too.
func (v *verdict) decide(arn string) *refusal {
	allowed := false
	for _, s := range v.statements {
		if !s.matches(arn) {
			continue
		}
		if !s.allow {
			return &refusal{kind: accessDenied, message: "User is not authorized to access this resource with an explicit deny"}
		}
		allowed = true
	}
	if !allowed {
		return &refusal{kind: accessDenied, message: "User is not authorized to access this resource"}
	}
	return nil
}

func (s statement) matches(arn string) bool {
	action, resource := false, false
	for _, a := range s.actions {
		action = action || wildcard(strings.ToLower(a), "execute-api:invoke")
	}
	for _, r := range s.resources {
		resource = resource || wildcard(r, arn)
	}
	return action && resource
}

// wildcard matches IAM's * (anything, slashes too) and ? (one character).
func wildcard(pattern, s string) bool {
	star, from, p := -1, 0, 0
	for i := 0; i < len(s); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
