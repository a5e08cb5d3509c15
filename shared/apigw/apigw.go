// Package apigw is API Gateway's and Lambda's side of Postern: it turns their
// events into what package api and package auth understand, and back.
//
//	Authorizer   authorizer event → auth.Verifier → IAM policy and context
//	Buffered     proxy event → http.Handler → proxy response
//	Streamed     proxy event → http.Handler → streaming response
//	Door         the caller that the authorizer put into the event's context
//
// The facts about a caller come from the event's request context alone, which
// API Gateway writes and no client can: the authorizer's context, the source
// address of the TCP connection, the request id. Headers that look like them
// are dropped.
//
// The path is built from the event's resource and path parameters. Its `path`
// is what the client sent, with a custom domain's base path in it.
package apigw

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/awslabs/aws-lambda-go-api-proxy/core"
	"github.com/awslabs/aws-lambda-go-api-proxy/httpadapter"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
)

// Door implements api.Door for a function behind API Gateway: the authorizer
// has admitted the caller already, and says so in the event. An event without a
// caller is refused, however it came to be.
type Door struct{}

// Arrival implements api.Door.
func (Door) Arrival(r *http.Request) (string, netip.Addr) {
	gateway, _ := core.GetAPIGatewayContextFromContext(r.Context())
	from, _ := netip.ParseAddr(gateway.Identity.SourceIP)
	return gateway.RequestID, from.Unmap()
}

// Admit implements api.Door.
func (Door) Admit(_ context.Context, r *http.Request, _ netip.Addr) (auth.Caller, error) {
	gateway, ok := core.GetAPIGatewayContextFromContext(r.Context())
	if !ok {
		return auth.Caller{}, auth.NoCredential
	}
	return auth.CallerOf(gateway.Authorizer)
}

// New is the frame of the Lambda f: cfg with f's routes, behind API Gateway and
// its TLS.
func New(f route.Function, cfg api.Config) (http.Handler, error) {
	cfg.Routes, cfg.Door, cfg.TLS = route.Of(f), Door{}, true
	return api.New(cfg)
}

// Handler is what aws-lambda-go starts for a buffered function.
type Handler = func(context.Context, events.APIGatewayProxyRequest) (events.APIGatewayProxyResponse, error)

// Buffered serves h in one piece.
func Buffered(h http.Handler) Handler {
	adapter := httpadapter.New(bridge{h})
	return func(ctx context.Context, event events.APIGatewayProxyRequest) (_ events.APIGatewayProxyResponse, err error) {
		defer func() {
			if p := recover(); p != nil { // a response that broke off is none
				err = errBrokenOff
			}
		}()
		ctx, cancel := answerable(ctx)
		defer cancel()
		response, err := adapter.ProxyWithContext(ctx, prepare(event))
		if err != nil { // only for an event that is no request: bridge always answers
			status, header, body := notARequest(event)
			response = events.APIGatewayProxyResponse{StatusCode: status, MultiValueHeaders: header, Body: body}
		}
		return response, nil
	}
}

// answerMargin is left before Lambda's deadline, to say that something took too
// long instead of being killed, which API Gateway would call an internal error.
const answerMargin = time.Second

// answerable is ctx with an end that leaves time for the answer.
func answerable(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, there := ctx.Deadline()
	if !there {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-answerMargin))
}

var errBrokenOff = errors.New("response broken off")

// notARequest answers an event that can't be converted.
func notARequest(event events.APIGatewayProxyRequest) (status int, header http.Header, body string) {
	id := event.RequestContext.RequestID
	problem := api.ProblemOf(api.Fail(api.InvalidRequest, "The path, the query or the body is not validly encoded."), id)
	encoded, _ := api.Encode(problem) // a struct of strings always encodes
	return problem.Status, http.Header{
		"Content-Type":              {"application/problem+json"},
		"Cache-Control":             {"no-store"},
		"Strict-Transport-Security": {"max-age=31536000"},
		"X-Content-Type-Options":    {"nosniff"},
		"X-Request-Id":              {id},
	}, string(encoded)
}

// bridge is what every function does around its handler on AWS: it makes up for
// what the writers below don't do as net/http's does.
type bridge struct{ http.Handler }

func (b bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	once := &onceWriter{ResponseWriter: w, prefix: prefixOf(r)}
	b.Handler.ServeHTTP(once, r)
	once.WriteHeader(http.StatusOK)
}

// onceWriter gives a response the first status that it is given. It also drops
// what API Gateway would send under another name (x-amzn-Remapped-…):
// WWW-Authenticate, and Connection, which is about a connection of its own.
//
// A Location gets the prefix that callers see before our paths.
type onceWriter struct {
	http.ResponseWriter
	prefix string
	wrote  bool
}

func (w *onceWriter) WriteHeader(status int) {
	if !w.wrote && status >= 200 { // API Gateway has no interim responses
		w.wrote = true
		w.Header().Del("WWW-Authenticate")
		w.Header().Del("Connection")
		if location := w.Header().Get("Location"); strings.HasPrefix(location, "/") {
			w.Header().Set("Location", w.prefix+location)
		}
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *onceWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.ResponseWriter.Write(b)
}

// prefixOf is what stands before r's path in the URL that its caller sent: the
// stage ("/prod"), or the base path of a custom domain. The context's path is the
// whole one, so it is what is left of it without r's own segments.
func prefixOf(r *http.Request) string {
	gateway, _ := core.GetAPIGatewayContextFromContext(r.Context())
	whole := gateway.Path
	for range strings.Count(r.URL.EscapedPath(), "/") {
		end := strings.LastIndexByte(whole, '/')
		if end < 0 {
			return ""
		}
		whole = whole[:end]
	}
	return whole
}

// Flush begins the response; what was written is on its way already.
func (w *onceWriter) Flush() { w.WriteHeader(http.StatusOK) }

// prepare makes an event safe to convert: a path that is a path, a query that
// is one, and no header that poses as API Gateway's word.
func prepare(event events.APIGatewayProxyRequest) events.APIGatewayProxyRequest {
	event.Path = pathOf(event)
	event.Headers = trustworthy(event.Headers)
	event.MultiValueHeaders = trustworthy(event.MultiValueHeaders)
	return event
}

// pathOf fills the resource ("/agents/{name}", "/{proxy+}") with the event's
// path parameters, escaped anew, whether or not they came escaped.
func pathOf(event events.APIGatewayProxyRequest) string {
	segments := strings.Split(event.Resource, "/")
	for i, s := range segments {
		name, found := strings.CutPrefix(s, "{")
		if !found {
			continue
		}
		name = strings.TrimSuffix(name, "}")
		if greedy, found := strings.CutSuffix(name, "+"); found {
			segments[i] = escapeSegments(event.PathParameters[greedy])
		} else {
			segments[i] = escape(event.PathParameters[name])
		}
	}
	return strings.Join(segments, "/")
}

func escapeSegments(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = escape(s)
	}
	return strings.Join(segments, "/")
}

func escape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		s = plain
	}
	return url.PathEscape(s)
}

// trustworthy copies headers without those by which core hands its context on.
func trustworthy[V any](headers map[string]V) map[string]V {
	if headers == nil {
		return nil
	}
	kept := make(map[string]V, len(headers))
	for name, v := range headers {
		if !strings.HasPrefix(strings.ToLower(name), "x-golambdaproxy-") {
			kept[name] = v
		}
	}
	return kept
}
