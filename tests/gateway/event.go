package gateway

import (
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"postern/tests/lambdahost"
)

// exchange is one request and what became known of it.
type exchange struct {
	id, extendedID, traceID string
	received                time.Time
	method                  string
	rawPath                 string // as in the URL, percent-encoded
	path                    string // the event's: without stage, with base path
	below                   string // under stage and base path: what resources are matched by
	query                   url.Values
	headers                 http.Header
	sourceIP                string
	protocol                string

	route      Route
	parameters map[string]string // still encoded
	authorizer map[string]any    // requestContext.authorizer; nil: none ran, or it failed
}

// receive reads what a request says about itself. Nothing of r is decoded by
// net/http first: events carry paths as they came.
func (g *Gateway) receive(r *http.Request) *exchange {
	target := r.RequestURI
	if u, err := url.Parse(target); err == nil && u.IsAbs() {
		target = u.RequestURI()
	}
	path, rawQuery, _ := strings.Cut(target, "?")
	query, _ := url.ParseQuery(rawQuery) // pairs that can't be read are left out
	x := &exchange{
		id:         lambdahost.NewID(),
		extendedID: base64.StdEncoding.EncodeToString([]byte(lambdahost.NewID()[:11])),
		received:   g.cfg.Now(),
		method:     r.Method,
		rawPath:    path,
		path:       path,
		query:      query,
		sourceIP:   g.cfg.SourceIP(r),
		protocol:   r.Proto,
	}
	x.traceID = fmt.Sprintf("Root=1-%08x-%s", x.received.Unix(), strings.ReplaceAll(x.id, "-", "")[:24])
	x.headers = g.forwarded(r, x)
	return x
}

// forwarded returns the headers that functions see. API Gateway terminates the
// connection, so what belongs to it is gone; it adds itself as a proxy does.
func (g *Gateway) forwarded(r *http.Request, x *exchange) http.Header {
	h := make(http.Header, len(r.Header)+5)
	for name, values := range r.Header {
		switch name {
		case "Connection", "Content-Length", "Expect", "Keep-Alive", "Te", "Trailer", "Upgrade":
			continue
		}
		for _, v := range values {
			h.Add(name, strings.TrimSpace(v))
		}
	}
	h.Set("Host", g.domain())
	h.Set("X-Forwarded-For", strings.Join(append(h.Values("X-Forwarded-For"), x.sourceIP), ", "))
	h.Set("X-Forwarded-Port", "443")
	h.Set("X-Forwarded-Proto", "https")
	h.Set("X-Amzn-Trace-Id", x.traceID)
	if !g.cfg.LowercaseHeaders {
		return h
	}
	lower := make(http.Header, len(h))
	for name, values := range h {
		lower[strings.ToLower(name)] = values
	}
	return lower
}

func (g *Gateway) domain() string {
	if g.cfg.Domain != "" {
		return g.cfg.Domain
	}
	return stageDomain
}

// locate takes the stage or the base path off the request's path. It reports
// false for a URL that leads to no API at all.
func (g *Gateway) locate(x *exchange) bool {
	prefix := "/" + g.cfg.API.Stage
	if g.cfg.Domain != "" {
		prefix = strings.TrimSuffix("/"+g.cfg.BasePath, "/")
	}
	rest, ok := strings.CutPrefix(x.rawPath, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	if rest == "" {
		rest = "/"
	}
	x.below = rest
	if g.cfg.Domain == "" {
		x.path = rest
	}
	return true
}

// proxyEvent is events.APIGatewayProxyRequest with AWS's null for what is empty.
type proxyEvent struct {
	events.APIGatewayProxyRequest
	Body            *string `json:"body"`
	IsBase64Encoded bool    `json:"isBase64Encoded"`
}

func (g *Gateway) proxyEvent(x *exchange, body []byte) proxyEvent {
	e := proxyEvent{APIGatewayProxyRequest: events.APIGatewayProxyRequest{
		Resource:                        x.route.Path,
		Path:                            x.path,
		HTTPMethod:                      x.method,
		Headers:                         last(x.headers),
		MultiValueHeaders:               x.headers,
		QueryStringParameters:           last(x.query),
		MultiValueQueryStringParameters: orNull(x.query),
		PathParameters:                  g.pathParameters(x),
		RequestContext:                  g.requestContext(x),
	}}
	if len(body) == 0 {
		return e
	}
	text := string(body) // bytes that aren't UTF-8 become U+FFFD in the JSON
	if g.binary(x.header("Content-Type")) {
		text, e.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	e.Body = &text
	return e
}

// authorizerEvent is events.APIGatewayCustomAuthorizerRequestTypeRequest with
// the whole request context. It has no body.
type authorizerEvent struct {
	Type                            string                               `json:"type"`
	MethodArn                       string                               `json:"methodArn"`
	Resource                        string                               `json:"resource"`
	Path                            string                               `json:"path"`
	HTTPMethod                      string                               `json:"httpMethod"`
	Headers                         map[string]string                    `json:"headers"`
	MultiValueHeaders               map[string][]string                  `json:"multiValueHeaders"`
	QueryStringParameters           map[string]string                    `json:"queryStringParameters"`
	MultiValueQueryStringParameters map[string][]string                  `json:"multiValueQueryStringParameters"`
	PathParameters                  map[string]string                    `json:"pathParameters"`
	StageVariables                  map[string]string                    `json:"stageVariables"`
	RequestContext                  events.APIGatewayProxyRequestContext `json:"requestContext"`
}

func (g *Gateway) authorizerEvent(x *exchange) authorizerEvent {
	query := last(x.query)
	if query == nil {
		query = map[string]string{} // {} here, null in the proxy event, as AWS's examples show
	}
	parameters := g.pathParameters(x)
	if parameters == nil {
		parameters = map[string]string{}
	}
	return authorizerEvent{
		Type:                            "REQUEST",
		MethodArn:                       g.methodARN(x),
		Resource:                        x.route.Path,
		Path:                            x.path,
		HTTPMethod:                      x.method,
		Headers:                         last(x.headers),
		MultiValueHeaders:               x.headers,
		QueryStringParameters:           query,
		MultiValueQueryStringParameters: x.query,
		PathParameters:                  parameters,
		StageVariables:                  map[string]string{},
		RequestContext:                  g.requestContext(x),
	}
}

// methodARN names the request, not the resource: its path as it came.
func (g *Gateway) methodARN(x *exchange) string {
	return "arn:aws:execute-api:" + region + ":" + account + ":" + apiID + "/" + g.cfg.API.Stage + "/" + x.method + x.below
}

// pathParameters are handed on as they came. Doubt: captures of REST APIs show
// an encoded path, and reports of pathParameters contradict each other, so
// Config.DecodePathParameters has the other way.
func (g *Gateway) pathParameters(x *exchange) map[string]string {
	if len(x.parameters) == 0 {
		return nil
	}
	if !g.cfg.DecodePathParameters {
		return x.parameters
	}
	decoded := make(map[string]string, len(x.parameters))
	for name, v := range x.parameters {
		if plain, err := url.PathUnescape(v); err == nil {
			v = plain
		}
		decoded[name] = v
	}
	return decoded
}

func (g *Gateway) requestContext(x *exchange) events.APIGatewayProxyRequestContext {
	path := x.path
	if g.cfg.Domain == "" {
		path = x.rawPath
	}
	domain := g.domain()
	prefix, _, _ := strings.Cut(domain, ".")
	return events.APIGatewayProxyRequestContext{
		AccountID:         account,
		APIID:             apiID,
		ResourceID:        "abc123",
		Stage:             g.cfg.API.Stage,
		DomainName:        domain,
		DomainPrefix:      prefix,
		RequestID:         x.id,
		ExtendedRequestID: x.extendedID,
		Protocol:          x.protocol,
		Path:              path,
		ResourcePath:      x.route.Path,
		HTTPMethod:        x.method,
		RequestTime:       x.received.UTC().Format("02/Jan/2006:15:04:05 -0700"),
		RequestTimeEpoch:  x.received.UnixMilli(),
		Identity:          events.APIGatewayRequestIdentity{SourceIP: x.sourceIP, UserAgent: x.header("User-Agent")},
		Authorizer:        x.authorizer,
	}
}

// header returns a header's last value, however its name is written.
func (x *exchange) header(name string) string {
	for n, values := range x.headers {
		if strings.EqualFold(n, name) {
			return values[len(values)-1]
		}
	}
	return ""
}

// binary reports whether the API treats a media type as binary.
func (g *Gateway) binary(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return slices.Contains(g.cfg.API.BinaryMediaTypes, "*/*") ||
		err == nil && slices.Contains(g.cfg.API.BinaryMediaTypes, media)
}

// last keeps the last of several values, as AWS's single-value maps do.
func last[M ~map[string][]string](multi M) map[string]string {
	if len(multi) == 0 {
		return nil
	}
	single := make(map[string]string, len(multi))
	for name, values := range multi {
		single[name] = values[len(values)-1]
	}
	return single
}

func orNull(v url.Values) map[string][]string {
	if len(v) == 0 {
		return nil
	}
	return v
}
