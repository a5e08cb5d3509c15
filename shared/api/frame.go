// Package api is the frame around every handler: one chain of checks, one table
// of errors, one codec, one event line a request.
//
// A handler is given the verified caller and does one thing; it returns an error
// instead of writing one. Everything else happens here, in this order, whatever
// the route and wherever it runs:
//
//	request id, security and CORS headers
//	OPTIONS            204, no credential, no handler
//	unknown path       404, no credential asked
//	the Door           credential 401/503, address 403
//	limit and scope    403, else 429, with the rate headers on every answer from here on
//	method             405
//	body               bounded; read by the handler (Decode): 400, 413, 415
//	the handler
//
// So no body is read before its sender is known, and no route can be reached
// around the chain: New joins rows of the route table to handlers by name, and
// refuses a row without a handler or a handler without a row.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/route"
)

// Handler serves one route to a caller who holds its scope. It either writes a
// response and returns nil, or returns an error and has written nothing, or has
// begun to write and returns the error that broke it off.
type Handler func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error

// Limiter counts a caller's request against max an hour (package limit).
type Limiter interface {
	Take(ctx context.Context, caller string, max int) (limit.Decision, error)
}

// Usage is told of what the limiter doesn't count (package usage).
type Usage interface {
	Administered(ctx context.Context, caller string) // a permitted request for a route that no limit counts
	Refused(ctx context.Context, caller string)      // a request that the scope, the limit or a budget stopped
}

// Config is what a frame is made of.
type Config struct {
	Routes   []route.Route
	Handlers map[string]Handler // by route name
	Door     Door
	Log      *slog.Logger

	Limiter   Limiter // needed unless every route is public
	RateLimit int     // requests an hour for callers without a limit of their own; 0: none
	Usage     Usage   // nil: nobody wants to know

	CORSOrigins []string // nil: off; or origins, or "*" alone
	TLS         bool     // callers come over TLS: say so in Strict-Transport-Security
}

// Bounds of the other side's slowness. Without them anybody could keep a
// connection, and a caller who stops reading a chat and all it holds, for as
// long as it likes.
const (
	bodyTimeout   = 30 * time.Second // for a request's body to come in
	lingerTimeout = 5 * time.Second  // for the rest of a body after the answer to it
	sendTimeout   = time.Minute      // for a response, or one piece of a stream, to be taken
)

// openAIPatience is how long OpenAI's clients may be told to wait: they sleep
// through any Retry-After, and x-should-retry is what stops them.
const openAIPatience = time.Minute

// The values of headers that are always the same. Nobody writes into a header's
// values; they are replaced, or appended to by copying.
var (
	nosniff         = []string{"nosniff"}
	noStore         = []string{"no-store"}
	strictTransport = []string{"max-age=31536000"}
)

// frame is Config made ready.
type frame struct {
	Config
	router router
	policy atomic.Pointer[policy] // the last one told
}

// New joins routes and handlers into one http.Handler.
func New(cfg Config) (http.Handler, error) {
	f := &frame{Config: cfg}
	paths := map[string]*endpoint{}
	for _, row := range cfg.Routes {
		h := cfg.Handlers[row.Name]
		if h == nil {
			return nil, fmt.Errorf("route %s has no handler", row.Name)
		}
		if row.Scope != route.Public && cfg.Limiter == nil {
			return nil, fmt.Errorf("route %s needs a limiter", row.Name)
		}
		e := paths[row.Path]
		if e == nil {
			e = &endpoint{frame: f, guard: row}
			paths[row.Path] = e
			f.router.add(row.Path, e)
		}
		e.methods = append(e.methods, method{row, h})
	}
	if len(cfg.Handlers) != len(cfg.Routes) {
		return nil, fmt.Errorf("%d handlers for %d routes: each handler needs its row in the route table", len(cfg.Handlers), len(cfg.Routes))
	}
	return f, nil
}

// ServeHTTP is the outer half of the chain: what every response has, whoever
// asks and whatever becomes of it.
func (f *frame) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{ResponseWriter: w}
	x.event.start = time.Now()
	x.event.requestID, x.event.from = f.Door.Arrival(r)
	defer f.finish(x, r)

	h := w.Header()
	h["X-Request-Id"] = []string{x.event.requestID}
	h["X-Content-Type-Options"] = nosniff
	h["Cache-Control"] = noStore
	if f.TLS {
		h["Strict-Transport-Security"] = strictTransport
	}
	origins := cors(f.CORSOrigins)
	origins.set(h, r.Header.Get("Origin"))

	if r.Body != http.NoBody {
		r = x.boundBody(r)
		defer x.leaveBody()
	}
	if r.Method == http.MethodOptions {
		x.event.route = "preflight"
		origins.preflight(x)
		return
	}
	if err := f.router.find(r).serve(x, r); err != nil {
		x.fail(r, err)
	}
}

// finish turns a panic into a 500 and writes the event line. A response that
// has begun can't be mended: its connection is cut, so that nobody takes it for
// a whole one.
func (f *frame) finish(x *exchange, r *http.Request) {
	if p := recover(); p != nil {
		x.fail(r, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
	}
	x.begin() // a handler that wrote nothing, as net/http has it
	x.event.write(f.Log, r, x.status)
	if x.event.broken {
		panic(http.ErrAbortHandler)
	}
}

// endpoint is one path: the methods it has, and the inner half of the chain.
type endpoint struct {
	*frame
	segments []string // of a path with {names}
	methods  []method
	guard    route.Route // its first row, which says what even a wrong method needs
}

type method struct {
	route   route.Route
	handler Handler
}

// serve answers r, or returns what it shall be answered with. A nil endpoint is
// every path that there is not.
func (e *endpoint) serve(x *exchange, r *http.Request) error {
	if e == nil {
		return &Error{Code: NotFound}
	}
	m, allowed := e.method(r.Method)
	if allowed {
		x.event.route = m.route.Name
	}
	var caller auth.Caller
	if m.route.Scope != route.Public {
		var err error
		if caller, err = e.Door.Admit(r.Context(), r, x.event.from); err != nil {
			return err
		}
		x.event.caller = caller.ID
		if err = e.permit(x, r, caller, m.route); err != nil {
			return err
		}
	}
	if !allowed {
		x.Header().Set("Allow", e.allow())
		return &Error{Code: MethodNotAllowed}
	}
	err := m.handler(x, r, caller)
	if err != nil && e.Usage != nil && public(err).Code == BudgetExceeded {
		e.Usage.Refused(r.Context(), caller.ID)
	}
	return err
}

// method finds the row for a method, or the row that guards the path.
func (e *endpoint) method(name string) (m method, allowed bool) {
	if name == http.MethodHead {
		name = http.MethodGet
	}
	for _, m := range e.methods {
		if m.route.Method == name {
			return m, true
		}
	}
	return method{route: e.guard}, false
}

// permit counts a request of caller, and says whether it may go on. A missing
// scope is the answer even to who has no request left, and it counts: a request
// is a request.
func (e *endpoint) permit(x *exchange, r *http.Request, caller auth.Caller, row route.Route) error {
	holds, d := caller.Holds(row.Scope), limit.Decision{Admitted: true}
	if row.Counted() {
		var err error
		if d, err = e.Limiter.Take(r.Context(), caller.ID, caller.HourlyLimit(e.RateLimit)); err != nil {
			return Because(Unavailable, err)
		}
	} else if holds && e.Usage != nil { // no limit would end the writes that the others could cause
		e.Usage.Administered(r.Context(), caller.ID)
	}
	if d.Limit > 0 {
		h := x.Header()
		h["Ratelimit-Policy"] = e.policyOf(d.Limit)
		h["Ratelimit"] = []string{`"hour";r=` + strconv.Itoa(d.Remaining) + `;t=` + seconds(d.Reset)}
	}
	if holds && d.Admitted {
		return nil
	}
	if e.Usage != nil {
		e.Usage.Refused(r.Context(), caller.ID)
	}
	if !holds {
		return scopeMissing(row.Scope)
	}
	if strings.HasPrefix(row.Path, "/v1/") && d.Reset > openAIPatience {
		x.Header().Set("x-should-retry", "false")
	}
	return &Error{Code: RateLimited, RetryAfter: d.Reset,
		Detail: fmt.Sprintf("All %d requests of this hour are used; the next hour begins in %s seconds.", d.Limit, seconds(d.Reset))}
}

// policy is the RateLimit-Policy of so many requests an hour.
type policy struct {
	limit  int
	header []string
}

// policyOf is a limit's header. Most callers have the limit of the one before.
func (f *frame) policyOf(limit int) []string {
	last := f.policy.Load()
	if last == nil || last.limit != limit {
		last = &policy{limit, []string{`"hour";q=` + strconv.Itoa(limit) + `;w=3600`}}
		f.policy.Store(last)
	}
	return last.header
}

func scopeMissing(s route.Scope) error {
	return Fail(ScopeMissing, "This needs a credential with the scope %q.", s)
}

// allow lists the path's methods for a 405.
func (e *endpoint) allow() string {
	var names []string
	for _, m := range e.methods {
		names = append(names, m.route.Method)
		if m.route.Method == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	return strings.Join(append(names, http.MethodOptions), ", ")
}
