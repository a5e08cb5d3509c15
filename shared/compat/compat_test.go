package compat_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/compat"
	"postern/shared/model"
	"postern/shared/route"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

// echo answers with what it was asked, or fails where it is asked to, and keeps
// every request.
type echo struct {
	mu       sync.Mutex
	requests []model.Request
	running  int
	most     int
	gate     chan struct{} // if set, each answer waits for one
	size     int           // of each answer, in bytes, beyond its words
}

func (e *echo) Stream(ctx context.Context, req model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		e.mu.Lock()
		e.requests = append(e.requests, req)
		e.running++
		e.most = max(e.most, e.running)
		e.mu.Unlock()
		if e.gate != nil {
			<-e.gate
		}
		e.mu.Lock()
		e.running--
		e.mu.Unlock()
		text := req.Messages[len(req.Messages)-1].Text
		if strings.HasPrefix(text, "fail") {
			yield(model.Event{}, fmt.Errorf("%w: CANARY of the upstream", model.ErrUnavailable))
			return
		}
		if strings.HasPrefix(text, "refuse") {
			yield(model.Event{}, fmt.Errorf("%w: CANARY of the upstream", model.ErrRefused))
			return
		}
		if after, found := strings.CutPrefix(text, "wait "); found {
			yield(model.Event{}, overloaded(after))
			return
		}
		if yield(model.Event{Text: "you said " + text + strings.Repeat("x", e.size)}, nil) {
			stop := model.EndTurn
			if req.MaxTokens > 0 {
				stop = model.MaxTokens
			}
			yield(model.Event{Stop: stop, Usage: model.Usage{InputTokens: 3, OutputTokens: 4}}, nil)
		}
	}
}

// overloaded is the error of a backend that wants to be asked again after so long.
type overloaded string

func (overloaded) Error() string { return "CANARY of the upstream" }
func (overloaded) Unwrap() error { return model.ErrUnavailable }
func (o overloaded) Overloaded() (time.Duration, bool) {
	after, err := time.ParseDuration(string(o))
	return after, err == nil
}

type door struct{ caller auth.Caller }

func (door) Arrival(*http.Request) (string, netip.Addr) { return "id", netip.Addr{} }
func (d door) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	return d.caller, nil
}

const twoAgents = "agents:\n  judge: {role: Judge, description: Decides, instructions: CANARY}\n  clerk: {role: Clerk}\n"

// serve is the compatible routes for a caller who may use some agents.
func serve(t *testing.T, m model.Model, limitTo int, mayUse ...string) http.Handler {
	t.Helper()
	return serveFile(t, twoAgents, m, slog.DiscardHandler, limitTo, mayUse...)
}

func serveFile(t *testing.T, yaml string, m model.Model, log slog.Handler, limitTo int, mayUse ...string) http.Handler {
	t.Helper()
	file, err := agents.Parse("agents.yaml", []byte(yaml), "test/echo")
	if err != nil {
		t.Fatal(err)
	}
	chat := &agents.Chat{File: file, Models: agents.Models{"test": m}, Timeout: time.Minute}
	handlers := compat.Listings(agents.NewListing(file))
	maps.Copy(handlers, compat.Chats(chat))
	var rows []route.Route
	for _, row := range route.Table() {
		if handlers[row.Name] != nil {
			rows = append(rows, row)
		}
	}
	caller := auth.Caller{ID: "key", Kind: auth.IssuedKey, Scopes: []route.Scope{route.AgentsRead, route.Chat}, Agents: mayUse}
	now := func() time.Time { return time.Unix(1700000000, 0) }
	h, err := api.New(api.Config{Routes: rows, Handlers: handlers, Door: door{caller}, Log: slog.New(log),
		Limiter: usage.New(&memory.Table{Now: now}, slog.New(slog.DiscardHandler), now), RateLimit: limitTo})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func send(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestBodiesToTheLetter(t *testing.T) {
	t.Parallel()
	h := serve(t, &echo{}, 0)
	for _, row := range []struct{ name, method, path, body, want string }{
		{"ElizaOS: agents", "GET", "/api/agents", "",
			`{"success":true,"data":{"agents":[{"id":"judge","name":"judge","characterName":"judge","bio":"Decides","status":"active"},{"id":"clerk","name":"clerk","characterName":"clerk","bio":"Clerk","status":"active"}]}}`},
		{"txtai: workflow", "POST", "/workflow", `{"name":"clerk","elements":["a","b"]}`, `["you said a","you said b"]`},
		{"OpenAI: models", "GET", "/v1/models", "",
			`{"object":"list","data":[{"id":"judge","object":"model","created":0,"owned_by":"postern"},{"id":"clerk","object":"model","created":0,"owned_by":"postern"}]}`},
		{"OpenAI: one model", "GET", "/v1/models/clerk", "", `{"id":"clerk","object":"model","created":0,"owned_by":"postern"}`},
		{"OpenAI: completion", "POST", "/v1/chat/completions", `{"model":"clerk","messages":[{"role":"user","content":"a"}]}`,
			`{"id":"chatcmpl-id","object":"chat.completion","created":946684800,"model":"clerk","choices":[{"index":0,"message":{"role":"assistant","content":"you said a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`},
		{"OpenAI: a cut completion", "POST", "/v1/chat/completions", `{"model":"clerk","max_tokens":5,"messages":[{"role":"user","content":"a"}]}`,
			`{"id":"chatcmpl-id","object":"chat.completion","created":946684800,"model":"clerk","choices":[{"index":0,"message":{"role":"assistant","content":"you said a"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`},
	} {
		synctest.Test(t, func(t *testing.T) { // the clock stands at 946684800
			if got := strings.TrimSpace(send(h, row.method, row.path, row.body).Body.String()); got != row.want {
				t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
			}
		})
	}
}

// P13: an agent that the caller may not use is on no route, and is answered like
// one that there isn't.
func TestForeignAgents(t *testing.T) {
	t.Parallel()
	h := serve(t, &echo{}, 0, "clerk")
	for _, path := range []string{"/api/agents", "/v1/models"} {
		if body := send(h, "GET", path, "").Body.String(); strings.Contains(body, "judge") || !strings.Contains(body, "clerk") {
			t.Errorf("%s: %s", path, body)
		}
	}
	for _, ask := range []func(name string) *httptest.ResponseRecorder{
		func(n string) *httptest.ResponseRecorder { return send(h, "GET", "/v1/models/"+n, "") },
		func(n string) *httptest.ResponseRecorder {
			return send(h, "POST", "/v1/chat/completions", `{"model":"`+n+`","messages":[{"role":"user","content":"a"}]}`)
		},
		func(n string) *httptest.ResponseRecorder {
			return send(h, "POST", "/workflow", `{"name":"`+n+`","elements":["a"]}`)
		},
	} {
		foreign, unknown := ask("judge"), ask("nobody")
		if foreign.Code != 404 || foreign.Body.String() != unknown.Body.String() {
			t.Errorf("foreign %d %s, unknown %d %s", foreign.Code, foreign.Body, unknown.Code, unknown.Body)
		}
	}
}

// The conversation reaches the model, and the agent's prompt is its author's.
func TestOpenAIMessagesReachTheModel(t *testing.T) {
	t.Parallel()
	m := &echo{}
	send(serve(t, m, 0), "POST", "/v1/chat/completions", `{"model":"judge","temperature":0.5,"stop":"END","max_completion_tokens":9,"messages":[
		{"role":"system","content":"S"},{"role":"user","content":"one"},{"role":"assistant","content":"two"},{"role":"user","content":"three"}]}`)
	req := m.requests[0]
	var got []string
	for _, message := range req.Messages {
		got = append(got, string(message.Role)+" "+message.Text)
	}
	if strings.Join(got, "|") != "user S|user one|assistant two|user three" || !strings.Contains(req.System, "CANARY") || strings.Contains(req.System, "S\n") {
		t.Errorf("messages %q, system %q", got, req.System)
	}
	if *req.Temperature != 0.5 || req.MaxTokens != 9 || len(req.StopAt) != 1 || req.StopAt[0] != "END" {
		t.Errorf("bounds %+v", req)
	}
}

// What fails has OpenAI's shape, its headers, and nothing of the upstream's.
func TestFailures(t *testing.T) {
	t.Parallel()
	h := serve(t, &echo{}, 0)
	w := send(h, "POST", "/v1/chat/completions", `{"model":"clerk","messages":[{"role":"user","content":"fail"}]}`)
	var shape struct {
		Error struct{ Message, Type string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &shape); err != nil || w.Code != 503 || shape.Error.Type != "server_error" || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if strings.Contains(w.Body.String(), "CANARY") {
		t.Errorf("P4, I15: %s", w.Body)
	}
	w = send(h, "POST", "/workflow", `{"name":"clerk","elements":["a","fail","b"]}`)
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"error":"Model backend unavailable"`) || strings.Contains(w.Body.String(), "CANARY") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A text that is none is refused with what its field takes.
func TestOpenAITextsThatAreNone(t *testing.T) {
	t.Parallel()
	h := serve(t, &echo{}, 0)
	for body, want := range map[string]string{
		`{"model":"clerk","messages":[{"role":"user","content":1}]}`:             `takes a text or a list of text parts.`,
		`{"model":"clerk","stop":1,"messages":[{"role":"user","content":"hi"}]}`: `takes a text or a list of texts.`,
	} {
		if w := send(h, "POST", "/v1/chat/completions", body); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want 400 … %s", body, w.Code, w.Body, want)
		}
	}
}

// txtai's elements run side by side, no more than 8, and 100 at most.
func TestTxtaiElements(t *testing.T) {
	t.Parallel()
	m := &echo{gate: make(chan struct{})}
	go func() {
		for range 20 {
			m.gate <- struct{}{}
		}
	}()
	elements, _ := json.Marshal(strings.Split(strings.Repeat("x ", 20)[:39], " "))
	if w := send(serve(t, m, 0), "POST", "/workflow", `{"name":"clerk","elements":`+string(elements)+`}`); w.Code != 200 {
		t.Fatal(errors.New(w.Body.String()))
	}
	if m.most > 8 || len(m.requests) != 20 {
		t.Errorf("%d at once, %d in all; want 8 at most, 20", m.most, len(m.requests))
	}
}

// txtai demands a name, and a text is a text.
func TestBadTxtaiRequests(t *testing.T) {
	t.Parallel()
	m := &echo{}
	h := serve(t, m, 0)
	elements := func(n int, text string) string { return strings.TrimSuffix(strings.Repeat(`"`+text+`",`, n), ",") }
	for _, row := range []struct {
		name, body  string
		status      int
		err, detail string
	}{
		{"no name", `{"elements":["a"]}`, 400, "Invalid request", `The field \"name\" takes the name of an agent`},
		{"a name that is null", `{"name":null,"elements":["a"]}`, 400, "Invalid request", `The field \"name\" takes the name of an agent`},
		{"an empty name", `{"name":"","elements":["a"]}`, 400, "Invalid request", `The field \"name\" takes the name of an agent`},
		{"a number for a name", `{"name":1,"elements":["a"]}`, 400, "Invalid request", `The field \"name\" takes a string, not a number`},
		{"no elements", `{"name":"clerk"}`, 400, "Invalid request", `The field \"elements\" takes at least one text`},
		{"elements that are null", `{"name":"clerk","elements":null}`, 400, "Invalid request", `The field \"elements\" takes at least one text`},
		{"an empty list", `{"name":"clerk","elements":[]}`, 400, "Invalid request", `The field \"elements\" takes at least one text`},
		{"an element that is null", `{"name":"clerk","elements":["a",null]}`, 400, "Message required", `The field \"elements.1\" takes a text that is not blank`},
		{"an empty element", `{"name":"clerk","elements":["","a"]}`, 400, "Message required", `The field \"elements.0\" takes a text that is not blank`},
		{"a blank element", `{"name":"clerk","elements":["a","a"," \n\u2003"]}`, 400, "Message required", `The field \"elements.2\" takes a text that is not blank`},
		{"an element that is a number", `{"name":"clerk","elements":[1]}`, 400, "Invalid request", `The field \"elements\" takes an array, each item of it a string, not a number`},
		{"100 elements and one", `{"name":"clerk","elements":[` + elements(101, "a") + `]}`, 400, "Invalid request", `takes 100 texts at most, not 101`},
		{"a long element", `{"name":"clerk","elements":["a","` + strings.Repeat("x", agents.MaxMessage+1) + `"]}`, 413, "Request too large", `An element may have 256 KiB`},
		{"nobody's name", `{"name":"nobody","elements":["a"]}`, 404, "Not found", ``},
	} {
		w := send(h, "POST", "/workflow", row.body)
		if body := w.Body.String(); w.Code != row.status || !strings.Contains(body, `"error":"`+row.err+`"`) || !strings.Contains(body, row.detail) {
			t.Errorf("%s: %d %s", row.name, w.Code, body)
		}
	}
	if len(m.requests) != 0 {
		t.Errorf("the model was asked %d times", len(m.requests))
	}
	if w := send(h, "POST", "/workflow", `{"name":"clerk","elements":[`+elements(100, "a")+`]}`); w.Code != 200 {
		t.Errorf("100 elements: %d %s", w.Code, w.Body)
	}
}

// Numbers that OpenAI doesn't take are refused as the message says.
func TestOpenAINumbers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		field  string
		detail string // "": accepted
		tokens int    // what the model is told
	}{
		{`"n":null`, "", 0},
		{`"n":1`, "", 0},
		{`"n":0`, `The field \"n\" takes 1.`, 0},
		{`"n":2`, `The field \"n\" takes 1.`, 0},
		{`"n":-1`, `The field \"n\" takes 1.`, 0},
		{`"n":1.5`, `The field \"n\" takes a whole number`, 0},
		{`"max_tokens":null,"max_completion_tokens":null`, "", 0},
		{`"max_tokens":1`, "", 1},
		{`"max_completion_tokens":2`, "", 2},
		{`"max_tokens":3,"max_completion_tokens":2`, "", 3},
		{`"max_tokens":0`, "take a whole number above 0", 0},
		{`"max_completion_tokens":0`, "take a whole number above 0", 0},
		{`"max_tokens":5,"max_completion_tokens":0`, "take a whole number above 0", 0},
		{`"max_tokens":-1`, "take a whole number above 0", 0},
	} {
		m := &echo{}
		w := send(serve(t, m, 0), "POST", "/v1/chat/completions", `{"model":"clerk",`+row.field+`,"messages":[{"role":"user","content":"a"}]}`)
		if row.detail != "" {
			if w.Code != 400 || !strings.Contains(w.Body.String(), row.detail) || len(m.requests) != 0 {
				t.Errorf("%s: %d %s", row.field, w.Code, w.Body)
			}
		} else if w.Code != 200 || m.requests[0].MaxTokens != row.tokens {
			t.Errorf("%s: %d %s, %+v", row.field, w.Code, w.Body, m.requests)
		}
	}
}

// A hundred large answers don't stand in memory together.
func TestTxtaiAnswersAreBounded(t *testing.T) {
	t.Parallel()
	m := &echo{size: 1 << 20}
	if w := send(serve(t, m, 0), "POST", "/workflow", `{"name":"clerk","elements":["a","b","c"]}`); w.Code != 200 || w.Body.Len() < 3<<20 {
		t.Errorf("three: %d, %d bytes", w.Code, w.Body.Len())
	}
	w := send(serve(t, m, 0), "POST", "/workflow", `{"name":"clerk","elements":[`+strings.TrimSuffix(strings.Repeat(`"a",`, 100), ",")+`]}`)
	if w.Code != 502 || !strings.Contains(w.Body.String(), `"error":"Model backend failed"`) || len(m.requests) > 3+16 {
		t.Errorf("a hundred: %d %.200s after %d requests", w.Code, w.Body, len(m.requests))
	}
}

// Contract §3: OpenAI's clients sleep through a Retry-After, so beyond a minute
// they are told not to; and not to try again what is refused for good.
func TestOpenAIClientsAreToldNotToSleep(t *testing.T) {
	t.Parallel()
	h := serve(t, &echo{}, 1)
	send(h, "GET", "/v1/models", "")
	if w := send(h, "GET", "/v1/models", ""); w.Code != 429 || w.Header().Get("x-should-retry") != "false" {
		t.Errorf("/v1: %d %v", w.Code, w.Header())
	}
	for after, want := range map[string]string{"60s": "", "61s": "false", "0s": ""} {
		w := send(serve(t, &echo{}, 0), "POST", "/v1/chat/completions", `{"model":"clerk","messages":[{"role":"user","content":"wait `+after+`"}]}`)
		if w.Code != 503 || w.Header().Get("x-should-retry") != want || w.Header().Get("Retry-After") == "" {
			t.Errorf("the model wants %s: %d %v", after, w.Code, w.Header())
		}
	}
	w := send(serve(t, &echo{}, 0), "POST", "/v1/chat/completions", `{"model":"clerk","messages":[{"role":"user","content":"refuse"}]}`)
	if w.Code != 502 || w.Header().Get("x-should-retry") != "false" || !strings.Contains(w.Body.String(), "refuses this request") || strings.Contains(w.Body.String(), "CANARY") {
		t.Errorf("the model refuses: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := send(h, "GET", "/api/agents", ""); w.Code != 429 || w.Header().Get("x-should-retry") != "" {
		t.Errorf("elsewhere: %d %v", w.Code, w.Header())
	}
}
