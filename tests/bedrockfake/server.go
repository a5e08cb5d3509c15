// Package bedrockfake is a fake of Amazon Bedrock's runtime at the level of the
// wire, for tests that use the real AWS SDK. No model stands behind it: it says
// what a test's script says.
//
// Start serves ConverseStream and Converse on loopback: requests in REST-JSON,
// answers in frames of application/vnd.amazon.eventstream, or whole in JSON.
// Script sets the steps of the answers in frames from then on, ScriptWhole those
// of the others; Say and Whole make the steps of a plain one. Steps can wait for
// the test, break the connection, and send exceptions or any bytes.
// RefuseStreaming makes ConverseStream unwilling.
//
// Requests are held to the rules that Bedrock has for a conversation (check.go);
// one that breaks them is answered as there, with a ValidationException, and is
// listed in Violations, as is one that isn't signed. Inject makes calls fail
// before an answer begins. Calls lists what arrived, Left counts the clients
// that left before their answer's end, Connections the connections that were
// opened.
package bedrockfake

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

const maxRequest = 4 << 20

// Server is one region's Bedrock. It is safe for concurrent use.
type Server struct {
	// URL is what a client takes as its BaseEndpoint, or AWS_ENDPOINT_URL_BEDROCK_RUNTIME.
	URL string

	http   *httptest.Server
	closed chan struct{}

	mu          sync.Mutex
	script      []Step
	whole       []Step
	unstreamed  string // the refusal's text
	faults      []*Fault
	calls       []Call
	left        int
	connections int
	violations  []string
	changed     chan struct{} // closed and replaced when calls or left grow
}

// Call is one request as it arrived.
type Call struct {
	Path      string // still escaped
	Model     string // from the path
	Operation string // from the path: "converse-stream" or "converse"
	Header    http.Header
	Body      json.RawMessage
}

// Start serves until Close. Until Script or ScriptWhole, every answer is "Hello.".
func Start() *Server {
	s := &Server{
		closed:  make(chan struct{}),
		script:  Say("Hello."),
		whole:   Whole("end_turn", TextBlock("Hello.")),
		changed: make(chan struct{}),
	}
	s.http = httptest.NewUnstartedServer(s)
	s.http.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.connections++
		}
	}
	s.http.Start()
	s.URL = s.http.URL
	return s
}

// Close lets hanging calls go and stops the server.
func (s *Server) Close() {
	close(s.closed)
	s.http.Close()
}

// Script sets the steps of every answer of ConverseStream's from now on.
func (s *Server) Script(steps ...Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = steps
}

// ScriptWhole sets the steps of every answer of Converse's from now on.
func (s *Server) ScriptWhole(steps ...Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = steps
}

// RefuseStreaming makes ConverseStream answer with a ValidationException of that
// text from now on, as for a model that doesn't stream. Faults are Converse's
// then.
func (s *Server) RefuseStreaming(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unstreamed = text
}

// Calls lists what has arrived, failed calls too.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Connections returns how many connections were opened.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// Violations describes the calls that broke a rule; see the package.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// Await returns as soon as n calls have arrived in all, or with ctx's error.
func (s *Server) Await(ctx context.Context, n int) error {
	return s.await(ctx, n, "calls", func() int { return len(s.calls) })
}

// AwaitLeft returns as soon as n clients have left before their answer's end,
// or with ctx's error.
func (s *Server) AwaitLeft(ctx context.Context, n int) error {
	return s.await(ctx, n, "clients to leave", func() int { return s.left })
}

func (s *Server) await(ctx context.Context, n int, what string, count func() int) error {
	for {
		s.mu.Lock()
		now, next := count(), s.changed
		s.mu.Unlock()
		if now >= n {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d %s, there are %d: %w", n, what, now, ctx.Err())
		}
	}
}

// signature is what SigV4 leaves in a request for this service. It is not
// verified: the fake doesn't know the caller's key.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[^/ ]+/\d{8}/[a-z0-9-]+/bedrock/aws4_request, ?SignedHeaders=[a-z0-9;-]*\bhost\b[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

// contentTypes are those of the answers of each operation.
var contentTypes = map[string]string{
	"converse-stream": "application/vnd.amazon.eventstream",
	"converse":        "application/json",
}

// ServeHTTP implements http.Handler. Start has connected it already.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		fail(w, http.StatusBadRequest, "ValidationException", "the body is cut off or too long")
		return
	}
	call := Call{Path: r.URL.EscapedPath(), Header: r.Header.Clone(), Body: body}
	segments := strings.Split(call.Path, "/")
	known := r.Method == http.MethodPost && len(segments) == 4 && segments[1] == "model" && contentTypes[segments[3]] != ""
	if known {
		call.Model, _ = url.PathUnescape(segments[2])
		call.Operation = segments[3]
	}
	fault, script := s.arrive(call)
	defer func() {
		if r.Context().Err() != nil {
			s.note(func() { s.left++ })
		}
	}()
	answer := &answer{w: w, r: r, closed: s.closed}
	if fault != nil {
		fault.act(answer)
		return
	}
	var rule string
	switch {
	case !known:
		fail(w, http.StatusNotFound, "UnknownOperationException", "")
		return
	case !signature.MatchString(call.Header.Get("Authorization")) || call.Header.Get("X-Amz-Date") == "":
		rule = "the call isn't signed with SigV4"
	case call.Header.Get("Content-Type") != "application/json":
		rule = "the content type is " + call.Header.Get("Content-Type")
	default:
		rule = check(body)
	}
	if rule != "" {
		s.violate(rule)
		fail(w, http.StatusBadRequest, "ValidationException", rule)
		return
	}
	w.Header().Set("Content-Type", contentTypes[call.Operation])
	for _, step := range script {
		if !step(answer) {
			return
		}
	}
}

// arrive records a call and returns the fault that is due for it, or its script.
func (s *Server) arrive(call Call) (*Fault, []Step) {
	var due *Fault
	var script []Step
	s.note(func() {
		s.calls = append(s.calls, call)
		script = s.script
		if call.Operation == "converse" {
			script = s.whole
		}
		switch {
		case call.Operation == "converse-stream" && s.unstreamed != "":
			due = Fail(http.StatusBadRequest, "ValidationException", s.unstreamed)
			return
		case len(s.faults) == 0:
			return
		}
		due = s.faults[0]
		if due.times > 0 {
			if due.times--; due.times == 0 {
				s.faults = s.faults[1:]
			}
		}
	})
	return due, script
}

func (s *Server) violate(rule string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, rule)
}

// note changes what Await and AwaitLeft wait for.
func (s *Server) note(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// fail answers as a REST-JSON service does: the code in a header.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-ErrorType", code+":http://internal.amazon.com/coral/com.amazon.bedrock/")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}
