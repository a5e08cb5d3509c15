// Package gateway is a fake of API Gateway: it answers HTTP as a Regional REST
// API deployed from our template.yaml would, with Lambdas that run here.
//
// Parse reads the template into an API: routes, authorizer, gateway responses,
// each function's settings and its Role, by which an Account tells the fakes of
// other services whose calls to refuse. New joins an API with an Invoker for each function
// (a lambdahost.Host, or a stub) and is an http.Handler. A request is matched
// to a route, shown to the authorizer if the route has one, handed to the
// function as a proxy event, and its reply turned back into HTTP, streamed
// bytes as they arrive. What goes wrong on the way becomes a gateway response.
//
// It is written from AWS's documentation, not from AWS's code. Comments that
// begin with "Doubt" stand where the documentation is silent; a test that
// depends on one proves nothing about AWS. Left out: throttling, request
// validation, caches of any kind, WAF, TLS, IAM conditions, the reserved paths
// /ping and /sping, and the size and speed limits of streams.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"postern/tests/lambdahost"
)

// API Gateway's quotas
// (https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-execution-service-limits-table.html).
const (
	maxBody           = 10 << 20
	maxHeaders        = 10240 // the request line and all header values
	authorizerTimeout = 29 * time.Second
)

// Invoker is one Lambda; *lambdahost.Host is one. Invoke's result and error are
// as lambdahost documents them.
type Invoker interface {
	Invoke(ctx context.Context, payload []byte) (*lambdahost.Result, error)
}

// Config joins an API with what serves it. API and Invokers are required.
type Config struct {
	API *API
	// Invokers are keyed by the functions' logical ids. Those that a route or an
	// authorizer names must be there.
	Invokers map[string]Invoker
	// Domain is a custom domain name. Empty: the API is reached by its stage
	// URL, whose path begins with the stage's name.
	Domain string
	// BasePath is the custom domain's base path, such as "v1"; it stands in the
	// event's path. Empty: the API is mapped to the domain's root.
	BasePath string
	// SourceIP says where a request comes from; nil: from its TCP peer.
	SourceIP func(*http.Request) string
	// LowercaseHeaders sends header names to functions as an HTTP/2 client
	// writes them. Otherwise they are in Go's canonical form, whatever the
	// client wrote (API Gateway keeps the client's).
	LowercaseHeaders bool
	// DecodePathParameters hands pathParameters on percent-decoded. See event.go
	// for why both ways must work.
	DecodePathParameters bool
	// Timeout, if set, replaces each route's own integration timeout.
	Timeout time.Duration
	// Now is the clock of requestContext; nil: time.Now.
	Now func() time.Time
}

// Gateway serves one stage of one API. It is safe for concurrent use.
type Gateway struct{ cfg Config }

const (
	apiID       = "a1b2c3d4e5"
	stageDomain = apiID + ".execute-api." + region + ".amazonaws.com"
)

// New checks that every function which can be reached has an Invoker.
func New(cfg Config) (*Gateway, error) {
	if cfg.API == nil {
		return nil, errors.New("gateway: no API")
	}
	for _, r := range cfg.API.Routes {
		names := []string{r.Function}
		if r.Authorizer != "" {
			names = append(names, cfg.API.Authorizers[r.Authorizer].Function)
		}
		for _, name := range names {
			if cfg.Invokers[name] == nil {
				return nil, fmt.Errorf("gateway: no invoker for %s, which %s %s needs", name, r.Method, r.Path)
			}
		}
	}
	if cfg.Domain == "" && cfg.BasePath != "" {
		return nil, errors.New("gateway: a base path needs a custom domain")
	}
	cfg.BasePath = strings.Trim(cfg.BasePath, "/")
	if cfg.SourceIP == nil {
		cfg.SourceIP = peer
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Gateway{cfg}, nil
}

func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := g.receive(r)
	if refused := g.serve(w, r, x); refused != nil {
		g.refuse(w, x, refused)
	}
}

// serve answers r, or returns why API Gateway answers it itself.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, x *exchange) *refusal {
	if !g.locate(x) {
		return &refusal{kind: foreign, status: http.StatusForbidden, message: "Forbidden"}
	}
	if headerSize(r) > maxHeaders {
		// Doubt: that it is 431 is reported by users, the response type by nobody.
		return &refusal{kind: default4XX, status: http.StatusRequestHeaderFieldsTooLarge, message: "Request Header Fields Too Large"}
	}
	var ok bool
	if x.route, x.parameters, ok = g.cfg.API.match(x.method, x.below); !ok {
		return &refusal{kind: missingAuthenticationToken, message: "Missing Authentication Token"}
	}
	// Doubt: whether a body that is too large is refused before the authorizer.
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return &refusal{kind: default4XX, status: http.StatusBadRequest, message: "Bad Request"}
	}
	if len(body) > maxBody {
		return tooLarge()
	}
	if x.route.Authorizer != "" {
		if refused := g.authorize(r.Context(), x); refused != nil {
			return refused
		}
	}
	return g.integrate(w, r, x, body)
}

func tooLarge() *refusal {
	return &refusal{kind: requestTooLarge, message: "Request Too Long"}
}

func headerSize(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(r.Host)
	for _, values := range r.Header {
		for _, v := range values {
			n += len(v)
		}
	}
	return n
}

// integrate runs the function and writes its reply.
func (g *Gateway) integrate(w http.ResponseWriter, r *http.Request, x *exchange, body []byte) *refusal {
	payload, err := json.Marshal(g.proxyEvent(x, body))
	if err != nil {
		return internal()
	}
	timeout := x.route.Timeout
	if g.cfg.Timeout > 0 {
		timeout = g.cfg.Timeout
	}
	// A client that leaves ends our waiting, not the function: the host sees to that.
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	result, err := g.cfg.Invokers[x.route.Function].Invoke(ctx, payload)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{kind: integrationTimeout, message: "Endpoint request timed out"}
	case errors.Is(err, lambdahost.ErrPayloadTooLarge):
		return tooLarge()
	case err != nil:
		return &refusal{kind: integrationFailure, message: "Internal server error"}
	case result.Err != nil:
		return internal()
	case x.route.Streamed:
		return g.writeStream(ctx, w, x, result.Stream)
	case result.Stream != nil: // the metadata and its NULs would be read as JSON
		result.Stream.Body.Close()
		return internal()
	}
	return g.writeBuffered(w, x, result.Payload)
}

// internal is API Gateway's answer to a function that failed or whose reply
// isn't one. Doubt: AWS documents the status (502) and the text, not the
// response type. Users find that DEFAULT_5XX covers it; the log's words
// ("configuration error") point at API_CONFIGURATION_ERROR. So a template should
// give both one body.
func internal() *refusal {
	return &refusal{kind: default5XX, status: http.StatusBadGateway, message: "Internal server error"}
}
