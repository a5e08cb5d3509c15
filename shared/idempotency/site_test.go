package idempotency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/idempotency"
	"postern/shared/model"
	"postern/shared/route"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/usage"
	"postern/tests/logbook"
)

// longest is how long a chat may take here.
const longest = time.Minute

// site is POST /chat with idempotency keys, as a main joins it.
type site struct {
	http.Handler
	table *faulty
	log   *logbook.Book
	runs  atomic.Int32 // of the model
}

// newSite serves one agent, whose model is speak.
func newSite(t testing.TB, speak script) *site {
	t.Helper()
	s := &site{table: &faulty{}, log: &logbook.Book{}}
	file, err := agents.Parse("agents.yaml", []byte("agents: {judge: {role: Judge, llm: test/one}}"), "test/one")
	if err != nil {
		t.Fatal(err)
	}
	counted := script(func(ctx context.Context, yield func(string) bool) error {
		s.runs.Add(1)
		return speak(ctx, yield)
	})
	chat := &agents.Chat{File: file, Models: agents.Models{"test": counted}, Timeout: longest}
	s.serve(t, chat.Handle)
	return s
}

// serve puts h behind idempotency keys, over the same table.
func (s *site) serve(t testing.TB, h api.Handler) {
	t.Helper()
	logger := api.NewLogger(s.log, slog.LevelDebug)
	frame, err := api.New(api.Config{
		Routes:   []route.Route{{Name: "chat", Method: "POST", Path: "/chat", Scope: route.Chat}},
		Handlers: map[string]api.Handler{"chat": idempotency.New(s.table, logger, longest, nil).Wrap(h)},
		Door:     &door{},
		Log:      logger,
		Limiter:  usage.New(&memory.Table{}, logger, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Handler = frame
}

// script is a model that speaks until it returns.
type script func(ctx context.Context, yield func(string) bool) error

func (s script) Stream(ctx context.Context, _ model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		err := s(ctx, func(text string) bool { return yield(model.Event{Text: text}, nil) })
		yield(model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: 7, OutputTokens: 2}}, err)
	}
}

// says is a model that always says the same.
func says(pieces ...string) script {
	return func(_ context.Context, yield func(string) bool) error {
		for _, p := range pieces {
			yield(p)
		}
		return nil
	}
}

// door lets in who the header X-Who names, and counts request ids.
type door struct{ n atomic.Int32 }

func (d *door) Arrival(*http.Request) (string, netip.Addr) {
	return fmt.Sprint("request-", d.n.Add(1)), netip.MustParseAddr("192.0.2.7")
}

func (d *door) Admit(_ context.Context, r *http.Request, _ netip.Addr) (auth.Caller, error) {
	switch who := r.Header.Get("X-Who"); who {
	case "":
		return auth.RootCaller(), nil
	case "anonymous":
		return auth.AnonymousCaller(), nil
	default:
		return auth.Caller{ID: who, Kind: auth.IssuedKey, Scopes: []route.Scope{route.Chat}}, nil
	}
}

// faulty is a table whose calls a test may disturb.
type faulty struct {
	memory.Table
	fail func(operation string, n int) error // of the nth since the last reset; nil: none fails
	n    atomic.Int32
}

var errDown = errors.New("SECRETTEXT: the store is down")

func (f *faulty) disturbed(operation string) error {
	n := int(f.n.Add(1))
	if f.fail == nil {
		return nil
	}
	return f.fail(operation, n)
}

// failing lets the calls from the nth to the last fail.
func (f *faulty) failing(first, last int) {
	f.n.Store(0)
	f.fail = func(_ string, n int) error {
		if n >= first && n <= last {
			return errDown
		}
		return nil
	}
}

func (f *faulty) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := f.disturbed("get"); err != nil {
		return table.Item{}, err
	}
	return f.Table.Get(ctx, key)
}

func (f *faulty) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := f.disturbed("put"); err != nil {
		return 0, err
	}
	return f.Table.Put(ctx, key, value, expected, expires)
}

// request is one POST /chat; the fields that are empty are left out.
type request struct {
	key, who, body, accept string
	header                 http.Header // beside the others
}

// hello is the body of requests that name none.
const hello = `{"message":"hello"}`

func (q request) make() *http.Request {
	body := q.body
	if body == "" {
		body = hello
	}
	r := httptest.NewRequest("POST", "/chat", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for name, value := range map[string]string{"Idempotency-Key": q.key, "X-Who": q.who, "Accept": q.accept} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	for name, values := range q.header {
		r.Header[name] = values
	}
	return r
}

// answered is a response read to its end.
type answered struct {
	status   int
	header   http.Header
	body     string
	replayed bool
}

func (s *site) send(q request) answered { return s.do(q.make()) }

func (s *site) do(r *http.Request) answered {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return answered{w.Code, w.Result().Header, w.Body.String(), w.Header().Get("Idempotency-Replayed") == "true"}
}

// reason is the title of a refusal, "" of anything else.
func (a answered) reason() string {
	var p api.Problem
	json.Unmarshal([]byte(a.body), &p)
	return p.Error
}

// events reads a stream: its deltas put together, and what done has.
func (a answered) events(t testing.TB) (deltas []string, done string) {
	t.Helper()
	for frame := range strings.SplitSeq(strings.TrimSuffix(a.body, "\n\n"), "\n\n") {
		name, data, found := strings.Cut(strings.TrimPrefix(frame, "event: "), "\ndata: ")
		var d struct{ Delta string }
		switch {
		case found && name == "delta" && done == "" && json.Unmarshal([]byte(data), &d) == nil:
			deltas = append(deltas, d.Delta)
		case found && name == "done" && done == "":
			done = data + "\n"
		default:
			t.Errorf("the stream has %.200q", frame)
		}
	}
	return deltas, done
}

// query lists what a caller's partition has.
var query = table.Query{Limit: 10}
