package agents_test

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/route"
	"postern/shared/table/memory"
	"postern/shared/usage"
	recorded "postern/tests/logbook"
)

// canary stands in every prompt of the test's agents, and may stand nowhere else.
const canary = "CANARY-prompt-5f1e"

// threeAgents have a provider called test, whatever a test puts behind it.
const threeAgents = `llm: test/one
agents:
  judge: {description: Judges., role: "Judge ` + canary + `", goal: Be fair ` + canary + `, instructions: "Hear both. ` + canary + `"}
  clerk: {description: Writes., instructions: "Write it down. ` + canary + `", llm: test/two}
  usher: {description: Opens doors., instructions: "Open. ` + canary + `"}
`

// part is a model that plays one: it yields events until yield reports false.
type part func(ctx context.Context, req model.Request, yield func(model.Event, error) bool)

func (p part) Stream(ctx context.Context, req model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) { p(ctx, req, yield) }
}

var stop = model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: 7, OutputTokens: 2}}

// says answers with pieces and stops.
func says(pieces ...string) part { return saysThen(stop, nil, pieces...) }

// failsAfter answers with pieces and then fails.
func failsAfter(err error, pieces ...string) part { return saysThen(model.Event{}, err, pieces...) }

func saysThen(last model.Event, err error, pieces ...string) part {
	return func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for _, p := range pieces {
			if !yield(model.Event{Text: p}, nil) {
				return
			}
		}
		yield(last, err)
	}
}

// breaksOff answers with pieces and ends as if that were all.
func breaksOff(pieces ...string) part {
	return func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for _, p := range pieces {
			if !yield(model.Event{Text: p}, nil) {
				return
			}
		}
	}
}

// panicsAfter answers with pieces and then panics.
func panicsAfter(v any, pieces ...string) part {
	return func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for _, p := range pieces {
			yield(model.Event{Text: p}, nil)
		}
		panic(v)
	}
}

// hangsAfter answers with pieces and then is silent until it is told to end.
func hangsAfter(pieces ...string) part {
	return func(ctx context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for _, p := range pieces {
			if !yield(model.Event{Text: p}, nil) {
				return
			}
		}
		<-ctx.Done()
		yield(model.Event{}, ctx.Err())
	}
}

// site is the frame around this package's handlers, and the log it writes.
type site struct {
	http.Handler
	log *logbook
}

// newSite serves threeAgents with m to caller.
func newSite(t testing.TB, m model.Model, caller auth.Caller) *site {
	t.Helper()
	return newSiteTimeout(t, m, caller, 5*time.Minute)
}

func newSiteTimeout(t testing.TB, m model.Model, caller auth.Caller, timeout time.Duration) *site {
	t.Helper()
	return newSiteOf(t, threeAgents, m, caller, timeout)
}

// newSiteOf serves the agents of text.
func newSiteOf(t testing.TB, text string, m model.Model, caller auth.Caller, timeout time.Duration) *site {
	t.Helper()
	file, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return siteOf(t, &agents.Chat{File: file, Models: agents.Models{"test": m}, Timeout: timeout}, caller)
}

// newSiteRan is newSite with somebody who is told of each run.
func newSiteRan(t testing.TB, m model.Model, caller auth.Caller, ran func(context.Context, auth.Caller, string, time.Time, model.Usage)) *site {
	t.Helper()
	file, err := parse(threeAgents)
	if err != nil {
		t.Fatal(err)
	}
	return siteOf(t, &agents.Chat{File: file, Models: agents.Models{"test": m}, Timeout: time.Minute, Ran: ran}, caller)
}

func siteOf(t testing.TB, chat *agents.Chat, caller auth.Caller) *site {
	t.Helper()
	listing := agents.NewListing(chat.File)
	handlers := map[string]api.Handler{"agents.list": listing.List, "agents.get": listing.Get, "chat": chat.Handle}
	book := &logbook{}
	frame, err := api.New(api.Config{
		Routes:   slices.DeleteFunc(route.Table(), func(r route.Route) bool { return handlers[r.Name] == nil }),
		Handlers: handlers,
		Door:     door{caller},
		Log:      api.NewLogger(book, slog.LevelDebug),
		Limiter:  usage.New(&memory.Table{}, slog.New(slog.DiscardHandler), nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &site{frame, book}
}

// door lets everybody in as one caller.
type door struct{ caller auth.Caller }

func (d door) Arrival(*http.Request) (string, netip.Addr) { return "ID", netip.Addr{} }
func (d door) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	return d.caller, nil
}

// only is a caller who may use these agents and no others.
func only(names ...string) auth.Caller {
	return auth.Caller{ID: "limited", Kind: auth.IssuedKey, Scopes: []route.Scope{route.AgentsRead, route.Chat}, Agents: names}
}

// reply is a response read to its end.
type reply struct {
	Status int
	Header http.Header
	Body   string
}

func (s *site) send(r *http.Request) reply {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return reply{w.Code, w.Result().Header, w.Body.String()}
}

func (s *site) get(path string) reply { return s.send(httptest.NewRequest("GET", path, nil)) }

// chat posts a body; headers are "Name: value".
func (s *site) chat(body string, headers ...string) reply {
	return s.send(chatRequest(body, headers...))
}

func chatRequest(body string, headers ...string) *http.Request {
	r := httptest.NewRequest("POST", "/chat", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// asking is the body of a chat.
func asking(message string) string {
	b, _ := json.Marshal(map[string]string{"message": message})
	return string(b)
}

// problem reads p's body.
func (p reply) problem(t testing.TB) api.Problem {
	t.Helper()
	if ct := p.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q", ct)
	}
	return readProblem(t, p.Body)
}

func readProblem(t testing.TB, text string) api.Problem {
	t.Helper()
	var v api.Problem
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("no problem document: %v\n%s", err, text)
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

// line is the log's only line.
func (l *logbook) line(t testing.TB) map[string]any {
	t.Helper()
	var line map[string]any
	dec := json.NewDecoder(strings.NewReader(l.String()))
	if err := dec.Decode(&line); err != nil {
		t.Fatalf("the log: %v\n%s", err, l)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("more than one line in the log:\n%s", l)
	}
	return line
}
