package api_test

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/route"
	"postern/shared/table/memory"
	"postern/shared/usage"
	recorded "postern/tests/logbook"
)

var update = flag.Bool("update", false, "rewrite the goldens under testdata")

// halfPast is the time at every limiter here: 1800 s before its window ends.
func halfPast() time.Time { return time.Date(2026, 3, 4, 12, 30, 0, 0, time.UTC) }

// guard is a door with one caller and one answer, which counts who asked.
type guard struct {
	caller   auth.Caller
	err      error
	admitted func() // told of each request that got this far; may be nil
}

func (g *guard) Arrival(*http.Request) (string, netip.Addr) {
	return "request-1", netip.MustParseAddr("192.0.2.7")
}

func (g *guard) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	if g.admitted != nil {
		g.admitted()
	}
	return g.caller, g.err
}

// limiterFunc injects what a limiter can't be made to do.
type limiterFunc func(ctx context.Context, caller string, max int) (limit.Decision, error)

func (f limiterFunc) Take(ctx context.Context, caller string, max int) (limit.Decision, error) {
	return f(ctx, caller, max)
}

// site is a frame to send requests to, and the log it writes.
type site struct {
	http.Handler
	log *logbook
}

// newSite is a frame in which the root caller may do everything and each handler
// answers with its route's name, then changed as the test needs it.
func newSite(t testing.TB, changes ...func(*api.Config)) *site {
	t.Helper()
	book := &logbook{}
	cfg := api.Config{
		Routes:    route.Table(),
		Handlers:  map[string]api.Handler{},
		Door:      &guard{caller: auth.RootCaller()},
		Log:       api.NewLogger(book, slog.LevelDebug),
		Limiter:   usage.New(&memory.Table{Now: halfPast}, slog.New(slog.DiscardHandler), halfPast),
		RateLimit: 1000,
	}
	for _, row := range cfg.Routes {
		cfg.Handlers[row.Name] = func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
			return api.WriteJSON(w, http.StatusOK, map[string]string{"route": row.Name})
		}
	}
	for _, change := range changes {
		change(&cfg)
	}
	frame, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &site{frame, book}
}

// handling puts h behind the route of that name.
func handling(name string, h api.Handler) func(*api.Config) {
	return func(cfg *api.Config) { cfg.Handlers[name] = h }
}

// behind puts d before the frame.
func behind(d api.Door) func(*api.Config) {
	return func(cfg *api.Config) { cfg.Door = d }
}

// failing is the frame whose public route fails with err.
func failing(t testing.TB, err error) *site {
	return newSite(t, handling("health", func(http.ResponseWriter, *http.Request, auth.Caller) error { return err }))
}

// reply is a response read to its end.
type reply struct {
	Status int
	Header http.Header
	Body   string
}

// send asks s in memory, without a network.
func (s *site) send(r *http.Request) reply {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return reply{w.Code, w.Result().Header, w.Body.String()}
}

// ask sends a request without a body.
func (s *site) ask(method, target string, headers ...string) reply {
	return s.send(request(method, target, headers...))
}

// request makes a request as the server parses it; headers are "Name: value".
func request(method, target string, headers ...string) *http.Request {
	return withHeaders(httptest.NewRequest(method, target, nil), headers)
}

func withHeaders(r *http.Request, headers []string) *http.Request {
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// posting makes a request with a body of JSON.
func posting(target, body string, headers ...string) *http.Request {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return withHeaders(r, headers)
}

// problem reads p's body.
func (p reply) problem(t testing.TB) api.Problem {
	t.Helper()
	var v api.Problem
	if err := json.Unmarshal([]byte(p.Body), &v); err != nil {
		t.Fatalf("status %d with a body that is no problem: %v\n%s", p.Status, err, p.Body)
	}
	return v
}

// everything is all that the caller can see of p.
func (p reply) everything() string {
	var b strings.Builder
	p.Header.Write(&b)
	return b.String() + p.Body
}

// logbook is a log's sink.
type logbook struct{ recorded.Book }

// lines parses the log, whose handler is JSON's.
func (l *logbook) lines(t testing.TB) []map[string]any {
	t.Helper()
	var lines []map[string]any
	dec := json.NewDecoder(strings.NewReader(l.String()))
	for {
		var line map[string]any
		switch err := dec.Decode(&line); err {
		case nil:
			lines = append(lines, line)
		case io.EOF:
			return lines
		default:
			t.Fatalf("the log is not JSON: %v\n%s", err, l)
		}
	}
}

// only is the log's one line.
func (l *logbook) only(t testing.TB) map[string]any {
	t.Helper()
	lines := l.lines(t)
	if len(lines) != 1 {
		t.Fatalf("%d lines in the log, want 1:\n%s", len(lines), l)
	}
	return lines[0]
}

// golden compares got with testdata/name, or rewrites that with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := cmp.Or(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run with -update:\n%s", path, diff)
	}
}
