package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	functionType = "AWS::Serverless::Function"
	apiType      = "AWS::Serverless::Api"
	responseType = "AWS::ApiGateway::GatewayResponse"
)

// API is the one REST API of a template, as it would be deployed.
type API struct {
	// Stage is the stage's name, the first segment of a stage URL.
	Stage string
	// Functions are the template's Lambdas by logical id.
	Functions map[string]Function
	// Routes are sorted by path, then method.
	Routes []Route
	// Authorizers are the Lambda authorizers by name.
	Authorizers map[string]Authorizer
	// Responses are the gateway responses that the template sets, by type.
	Responses map[string]Response
	// BinaryMediaTypes is empty for an API that passes bodies as text.
	BinaryMediaTypes []string
}

// Function is one Lambda.
type Function struct {
	Timeout  time.Duration
	MemoryMB int
	// Environment holds the function's variables, evaluated.
	Environment map[string]string
	// Role is what the function may do; nil, which is nothing, if it names none.
	Role Role
}

// Env returns the variables as NAME=value, sorted, with overrides in place of
// the template's. That is what a lambdahost.Config takes.
func (f Function) Env(overrides map[string]string) []string {
	merged := make(map[string]string, len(f.Environment)+len(overrides))
	for _, m := range []map[string]string{f.Environment, overrides} {
		for k, v := range m {
			merged[k] = v
		}
	}
	var env []string
	for k, v := range merged {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return env
}

// Route is one method of one resource.
type Route struct {
	Method     string // upper case, or ANY
	Path       string // "/agents/{name}", "/{proxy+}"
	Function   string // logical id
	Authorizer string // a key of API.Authorizers; empty: none
	Streamed   bool
	Timeout    time.Duration // of the integration
}

// Authorizer is a Lambda authorizer of type REQUEST whose results aren't cached.
type Authorizer struct {
	Function string // logical id
	// Headers and QueryStrings are its identity sources: a request that lacks
	// one is UNAUTHORIZED without an invocation.
	Headers, QueryStrings []string
}

// Response is a gateway response.
type Response struct {
	StatusCode int               // 0: the type's own
	Headers    map[string]string // name to mapping expression: 'static', context.requestId, method.request.header.Origin
	Templates  map[string]string // content type to template; empty: API Gateway's own
}

// Load reads the template in a file.
func Load(path string, d Deployment) (*API, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	return Parse(data, d)
}

// Parse reads a SAM template. It refuses what this package would get wrong: no
// API or several, an authorizer with a cache, a mapping expression or a
// $context variable that API Gateway doesn't know, a role that needs more of IAM
// than Role has.
func Parse(data []byte, d Deployment) (*API, error) {
	t, err := parseTemplate(data, d)
	if err != nil {
		return nil, err
	}
	id, properties, err := t.api()
	if err != nil {
		return nil, err
	}
	api := &API{Functions: map[string]Function{}, Responses: map[string]Response{}}
	if err := t.fillAPI(api, properties); err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	if err := t.addResponses(api, id, properties); err != nil {
		return nil, err
	}
	defaultAuthorizer := text(object(properties["Auth"])["DefaultAuthorizer"])
	functions, err := t.resources(functionType)
	if err != nil {
		return nil, err
	}
	for name, resource := range functions {
		if err := t.addFunction(api, name, resource, id, defaultAuthorizer); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	slices.SortFunc(api.Routes, func(a, b Route) int {
		return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method)
	})
	return api, api.check()
}

// resources yields the properties of the resources of one type that exist under
// the deployment's conditions, merged with Globals, not evaluated.
func (t *template) resources(kind string) (map[string]map[string]any, error) {
	found := map[string]map[string]any{}
	for name, r := range t.section("Resources") {
		resource := object(r)
		if resource["Type"] != kind {
			continue
		}
		if condition, ok := resource["Condition"].(string); ok {
			exists, err := t.condition(condition)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if !exists {
				continue
			}
		}
		properties := object(resource["Properties"])
		switch kind {
		case functionType:
			properties = merge(object(t.section("Globals")["Function"]), properties)
		case apiType:
			properties = merge(object(t.section("Globals")["Api"]), properties)
		}
		found[name] = properties
	}
	return found, nil
}

func (t *template) api() (string, map[string]any, error) {
	apis, err := t.resources(apiType)
	if err != nil {
		return "", nil, err
	}
	if len(apis) != 1 {
		return "", nil, fmt.Errorf("the template has %d resources of type %s, want one", len(apis), apiType)
	}
	for id, properties := range apis {
		return id, properties, nil
	}
	panic("unreachable")
}

func (t *template) fillAPI(api *API, properties map[string]any) error {
	stage, err := t.eval(properties["StageName"])
	if err != nil {
		return fmt.Errorf("StageName: %w", err)
	}
	if api.Stage = text(stage); api.Stage == "" {
		return errors.New("StageName is missing")
	}
	types, err := t.eval(properties["BinaryMediaTypes"])
	if err != nil {
		return fmt.Errorf("BinaryMediaTypes: %w", err)
	}
	for _, item := range elements(types) {
		api.BinaryMediaTypes = append(api.BinaryMediaTypes, strings.ReplaceAll(text(item), "~1", "/"))
	}
	auth, err := t.eval(object(properties["Auth"])["Authorizers"])
	if err != nil {
		return fmt.Errorf("the API's Auth: %w", err)
	}
	api.Authorizers = map[string]Authorizer{}
	for name, v := range object(auth) {
		if api.Authorizers[name], err = readAuthorizer(object(v)); err != nil {
			return fmt.Errorf("authorizer %s: %w", name, err)
		}
	}
	return nil
}

func readAuthorizer(v map[string]any) (Authorizer, error) {
	if text(v["FunctionPayloadType"]) != "REQUEST" {
		return Authorizer{}, errors.New("only FunctionPayloadType REQUEST is supported here")
	}
	identity := object(v["Identity"])
	if ttl := text(identity["ReauthorizeEvery"]); ttl != "0" {
		return Authorizer{}, errors.New("ReauthorizeEvery must be 0: API Gateway would cache results, and this fake doesn't")
	}
	arn := text(v["FunctionArn"])
	a := Authorizer{Function: arn[strings.LastIndex(arn, ":")+1:]}
	for _, h := range elements(identity["Headers"]) {
		a.Headers = append(a.Headers, text(h))
	}
	for _, q := range elements(identity["QueryStrings"]) {
		a.QueryStrings = append(a.QueryStrings, text(q))
	}
	return a, nil
}

func (t *template) addFunction(api *API, name string, properties map[string]any, apiID, defaultAuthorizer string) error {
	wanted := map[string]any{}
	for _, key := range []string{"Timeout", "MemorySize", "Environment", "Events"} {
		v, err := t.eval(properties[key])
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		wanted[key] = v
	}
	f := Function{Timeout: 3 * time.Second, MemoryMB: 128, Environment: map[string]string{}}
	if n, ok := number(wanted["Timeout"]); ok {
		f.Timeout = time.Duration(n) * time.Second
	}
	if n, ok := number(wanted["MemorySize"]); ok {
		f.MemoryMB = n
	}
	for k, v := range object(object(wanted["Environment"])["Variables"]) {
		f.Environment[k] = text(v)
	}
	var err error
	if f.Role, err = t.role(properties); err != nil {
		return err
	}
	api.Functions[name] = f
	ref, _ := t.ref(apiID)
	for event, v := range object(wanted["Events"]) {
		if object(v)["Type"] != "Api" {
			continue
		}
		p := object(object(v)["Properties"])
		if id, ok := p["RestApiId"]; ok && id != ref {
			return fmt.Errorf("event %s: belongs to another API (%v)", event, id)
		}
		route, err := readRoute(p, name, defaultAuthorizer)
		if err != nil {
			return fmt.Errorf("event %s: %w", event, err)
		}
		api.Routes = append(api.Routes, route)
	}
	return nil
}

func readRoute(p map[string]any, function, defaultAuthorizer string) (Route, error) {
	r := Route{
		Method:     strings.ToUpper(text(p["Method"])),
		Path:       text(p["Path"]),
		Function:   function,
		Authorizer: defaultAuthorizer,
		// SAM drops any other value in silence, and so does this.
		Streamed: text(p["ResponseTransferMode"]) == "RESPONSE_STREAM",
		Timeout:  29 * time.Second,
	}
	if !strings.HasPrefix(r.Path, "/") || r.Method == "" {
		return Route{}, errors.New("needs a Path that begins with / and a Method")
	}
	if a := text(object(p["Auth"])["Authorizer"]); a == "NONE" {
		r.Authorizer = ""
	} else if a != "" {
		r.Authorizer = a
	}
	if n, ok := number(p["TimeoutInMillis"]); ok {
		r.Timeout = time.Duration(n) * time.Millisecond
	}
	return r, nil
}

func (t *template) addResponses(api *API, apiID string, properties map[string]any) error {
	add := func(kind string, raw any) error {
		v, err := t.eval(raw)
		if err == nil {
			api.Responses[kind], err = readResponse(object(v))
		}
		if err != nil {
			return fmt.Errorf("gateway response %s: %w", kind, err)
		}
		return nil
	}
	for kind, raw := range object(properties["GatewayResponses"]) {
		if err := add(kind, raw); err != nil {
			return err
		}
	}
	standalone, err := t.resources(responseType)
	if err != nil {
		return err
	}
	for _, raw := range standalone {
		if err := add(text(raw["ResponseType"]), raw); err != nil {
			return err
		}
	}
	return nil
}

func readResponse(v map[string]any) (Response, error) {
	r := Response{Headers: map[string]string{}, Templates: map[string]string{}}
	r.StatusCode, _ = number(v["StatusCode"])
	parameters := object(v["ResponseParameters"])
	for name, expression := range object(parameters["Headers"]) {
		r.Headers[name] = text(expression)
	}
	for name, expression := range parameters {
		if name, ok := strings.CutPrefix(name, "gatewayresponse.header."); ok {
			r.Headers[name] = text(expression)
		}
	}
	for media, template := range object(v["ResponseTemplates"]) {
		r.Templates[media] = text(template)
	}
	return r, r.check()
}

// check finds what API Gateway would refuse to deploy.
func (a *API) check() error {
	seen := map[string]bool{}
	for _, r := range a.Routes {
		key := r.Method + " " + r.Path
		if seen[key] {
			return fmt.Errorf("%s is declared twice", key)
		}
		seen[key] = true
		if _, ok := a.Authorizers[r.Authorizer]; r.Authorizer != "" && !ok {
			return fmt.Errorf("%s names an unknown authorizer %s", key, r.Authorizer)
		}
	}
	for name, authorizer := range a.Authorizers {
		if _, ok := a.Functions[authorizer.Function]; !ok {
			return fmt.Errorf("authorizer %s is no function of the template: %q", name, authorizer.Function)
		}
	}
	return nil
}

// match finds the route for a path without stage or base path, still encoded,
// and what its parameters stand for. A literal segment beats {name}, that beats
// {name+}. The resource is chosen before the method is looked at, so a resource
// that lacks the method matches nothing.
//
// Doubts: AWS doesn't say whether segments are compared decoded (here: as they
// came), nor what a slash at the end does (here: nothing).
func (a *API) match(method, path string) (Route, map[string]string, bool) {
	segments := split(path)
	var best string
	var found map[string]string
	for _, r := range a.Routes {
		if r.Path == best {
			continue
		}
		if parameters, ok := fits(split(r.Path), segments); ok && (found == nil || moreSpecific(r.Path, best)) {
			best, found = r.Path, parameters
		}
	}
	if found == nil {
		return Route{}, nil, false
	}
	for _, m := range []string{method, "ANY"} {
		for _, r := range a.Routes {
			if r.Path == best && r.Method == m {
				return r, found, true
			}
		}
	}
	return Route{}, nil, false
}

func split(path string) []string {
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func fits(pattern, segments []string) (map[string]string, bool) {
	parameters := map[string]string{}
	for i, p := range pattern {
		if i >= len(segments) {
			return nil, false
		}
		switch rank(p) {
		case greedy:
			parameters[strings.Trim(p, "{+}")] = strings.Join(segments[i:], "/")
			return parameters, true
		case parameter:
			if segments[i] == "" {
				return nil, false
			}
			parameters[strings.Trim(p, "{}")] = segments[i]
		default:
			if p != segments[i] {
				return nil, false
			}
		}
	}
	return parameters, len(pattern) == len(segments)
}

const (
	literal = iota
	parameter
	greedy
)

func rank(segment string) int {
	switch {
	case strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "+}"):
		return greedy
	case strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}"):
		return parameter
	}
	return literal
}

// moreSpecific compares two patterns that fit the same path.
func moreSpecific(a, b string) bool {
	left, right := split(a), split(b)
	for i := range min(len(left), len(right)) {
		if l, r := rank(left[i]), rank(right[i]); l != r {
			return l < r
		}
	}
	return len(left) > len(right)
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func elements(v any) []any {
	if s, ok := v.(string); ok {
		return []any{s}
	}
	l, _ := v.([]any)
	return l
}

func number(v any) (int, bool) {
	n, err := strconv.Atoi(text(v))
	return n, err == nil
}

// merge lays over on under, mapping by mapping.
func merge(under, over map[string]any) map[string]any {
	merged := make(map[string]any, len(under)+len(over))
	for k, v := range under {
		merged[k] = v
	}
	for k, v := range over {
		if deep, ok := v.(map[string]any); ok && merged[k] != nil {
			v = merge(object(merged[k]), deep)
		}
		merged[k] = v
	}
	return merged
}

// status is the HTTP status of a response type without a StatusCode.
func status(kind string) int {
	switch kind {
	case unauthorized:
		return http.StatusUnauthorized
	case accessDenied, missingAuthenticationToken:
		return http.StatusForbidden
	case requestTooLarge:
		return http.StatusRequestEntityTooLarge
	case integrationTimeout, integrationFailure:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}
