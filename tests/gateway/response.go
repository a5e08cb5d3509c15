package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The gateway response types that this package gives, of those in
// https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html.
const (
	accessDenied                 = "ACCESS_DENIED"
	authorizerConfigurationError = "AUTHORIZER_CONFIGURATION_ERROR"
	authorizerFailure            = "AUTHORIZER_FAILURE"
	default4XX                   = "DEFAULT_4XX"
	default5XX                   = "DEFAULT_5XX"
	integrationFailure           = "INTEGRATION_FAILURE"
	integrationTimeout           = "INTEGRATION_TIMEOUT"
	missingAuthenticationToken   = "MISSING_AUTHENTICATION_TOKEN"
	requestTooLarge              = "REQUEST_TOO_LARGE"
	unauthorized                 = "UNAUTHORIZED"

	// foreign is no gateway response: the URL led to no API whose template could
	// say anything.
	foreign = ""
)

// refusal is an answer of API Gateway itself.
type refusal struct {
	kind    string
	status  int    // 0: the type's own
	message string // empty: null
}

// exceptions are the values of x-amzn-ErrorType.
var exceptions = map[string]string{
	accessDenied:                 "AccessDeniedException",
	authorizerConfigurationError: "AuthorizerConfigurationException",
	authorizerFailure:            "AuthorizerFailureException",
	missingAuthenticationToken:   "MissingAuthenticationTokenException",
	requestTooLarge:              "RequestTooLargeException",
	unauthorized:                 "UnauthorizedException",
	foreign:                      "ForbiddenException",
	default4XX:                   "BadRequestException",
}

// refuse renders r by the template's gateway response of its type, else by the
// default of its class, else as API Gateway does untold.
func (g *Gateway) refuse(w http.ResponseWriter, x *exchange, r *refusal) {
	code := r.status
	if code == 0 {
		code = status(r.kind)
	}
	response := g.response(r.kind, code)
	if response.StatusCode != 0 {
		code = response.StatusCode
	}
	resolve := g.resolver(x, r)
	media, body := response.pick(x.header("Accept"))
	if body == "" {
		media, body = "application/json", `{"message":$context.error.messageString}`
		if r.kind == accessDenied {
			body = `{"Message":$context.error.messageString}`
		}
	}
	header := w.Header()
	header.Set("Content-Type", media)
	for name, expression := range response.Headers {
		if value := resolveHeader(expression, x, resolve); value != "" {
			header.Set(name, value)
		}
	}
	exception := exceptions[r.kind]
	if exception == "" {
		exception = "InternalServerErrorException"
	}
	header.Set("X-Amzn-Errortype", exception)
	stamp(header, x)
	text := variable.ReplaceAllStringFunc(body, func(name string) string {
		return resolve(strings.TrimPrefix(name, "$context."))
	})
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(code)
	io.WriteString(w, text)
}

// response finds what the template says. A type that it sets takes nothing from
// the default of its class.
func (g *Gateway) response(kind string, code int) Response {
	if kind == foreign {
		return Response{}
	}
	if r, ok := g.cfg.API.Responses[kind]; ok {
		return r
	}
	if code >= 500 {
		return g.cfg.API.Responses[default5XX]
	}
	return g.cfg.API.Responses[default4XX]
}

// pick chooses a template by the client's Accept header; without a match the
// one for JSON. Doubt: which one AWS takes if there is none for JSON; here the
// first in the alphabet.
func (r Response) pick(accept string) (media, template string) {
	for wanted := range strings.SplitSeq(accept, ",") {
		if media, _, err := mime.ParseMediaType(wanted); err == nil && r.Templates[media] != "" {
			return media, r.Templates[media]
		}
	}
	if json := r.Templates["application/json"]; json != "" {
		return "application/json", json
	}
	var types []string
	for media := range r.Templates {
		types = append(types, media)
	}
	if len(types) == 0 {
		return "", ""
	}
	first := slices.Min(types)
	return first, r.Templates[first]
}

var (
	variable   = regexp.MustCompile(`\$context(?:\.[A-Za-z0-9_]+)+`)
	velocity   = regexp.MustCompile(`\$\{|\$(input|util|stageVariables)\b|#(set|if|foreach|else|end)\b`)
	headerFrom = regexp.MustCompile(`^method\.request\.(header|querystring|path)\.([A-Za-z0-9_-]+)$`)
)

// known are the $context variables that mean something here, beside those of
// the authorizer.
var known = []string{
	"accountId", "apiId", "domainName", "domainPrefix", "error.message", "error.messageString",
	"error.responseType", "extendedRequestId", "httpMethod", "identity.sourceIp", "identity.userAgent",
	"path", "protocol", "requestId", "requestTime", "requestTimeEpoch", "resourcePath", "stage",
}

func isKnown(name string) bool {
	return slices.Contains(known, name) || strings.HasPrefix(name, "authorizer.")
}

// check refuses templates and expressions that API Gateway would refuse, or
// would leave as they stand.
func (r Response) check() error {
	for media, template := range r.Templates {
		if found := velocity.FindString(template); found != "" {
			return fmt.Errorf("template %s: gateway responses know no %s", media, found)
		}
		for _, name := range variable.FindAllString(template, -1) {
			if !isKnown(strings.TrimPrefix(name, "$context.")) {
				return fmt.Errorf("template %s: unknown variable %s", media, name)
			}
		}
	}
	for name, expression := range r.Headers {
		quoted := len(expression) >= 2 && expression[0] == '\'' && expression[len(expression)-1] == '\''
		variable, ok := strings.CutPrefix(expression, "context.")
		if !quoted && !(ok && isKnown(variable)) && !headerFrom.MatchString(expression) {
			return fmt.Errorf("header %s: %s is no mapping expression", name, expression)
		}
	}
	return nil
}

func resolveHeader(expression string, x *exchange, resolve func(string) string) string {
	if static, ok := strings.CutPrefix(expression, "'"); ok {
		return strings.TrimSuffix(static, "'")
	}
	if name, ok := strings.CutPrefix(expression, "context."); ok {
		return resolve(name)
	}
	from := headerFrom.FindStringSubmatch(expression)
	switch from[1] {
	case "header":
		return x.header(from[2])
	case "querystring":
		return x.query.Get(from[2])
	}
	return x.parameters[from[2]]
}

// resolver returns the values of $context variables. Values are put in as they
// are, as API Gateway does: only error.messageString is JSON already. What has
// no value becomes empty text. The authorizer's are there after a verdict, be it
// a Deny, and never after a failure.
func (g *Gateway) resolver(x *exchange, r *refusal) func(string) string {
	c := g.requestContext(x)
	message := []byte("null")
	if r.message != "" {
		message, _ = json.Marshal(r.message)
	}
	values := map[string]string{
		"accountId": c.AccountID, "apiId": c.APIID, "domainName": c.DomainName, "domainPrefix": c.DomainPrefix,
		"error.message": r.message, "error.messageString": string(message), "error.responseType": r.kind,
		"extendedRequestId": c.ExtendedRequestID, "httpMethod": c.HTTPMethod,
		"identity.sourceIp": c.Identity.SourceIP, "identity.userAgent": c.Identity.UserAgent,
		"path": c.Path, "protocol": c.Protocol, "requestId": c.RequestID, "requestTime": c.RequestTime,
		"requestTimeEpoch": strconv.FormatInt(c.RequestTimeEpoch, 10), "resourcePath": c.ResourcePath, "stage": c.Stage,
	}
	return func(name string) string {
		if key, ok := strings.CutPrefix(name, "authorizer."); ok {
			if v, ok := c.Authorizer[key]; ok {
				return fmt.Sprint(v)
			}
			return ""
		}
		return values[name]
	}
}
