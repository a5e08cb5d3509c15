package compat_test

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
	"sync"
	"testing"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/compat"
	"postern/shared/limit"
	"postern/shared/model"
	"postern/shared/route"
)

// echo answers with what it was asked, or fails where it is asked to, and keeps
// every request.
type echo struct {
	mu       sync.Mutex
	requests []model.Request
	running  int
	most     int
	gate     chan struct{} // if set, each answer waits for one
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
		if yield(model.Event{Text: "you said " + text}, nil) {
			stop := model.EndTurn
			if req.MaxTokens > 0 {
				stop = model.MaxTokens
			}
			yield(model.Event{Stop: stop, Usage: model.Usage{InputTokens: 3, OutputTokens: 4}}, nil)
		}
	}
}

type door struct{ caller auth.Caller }

func (door) Arrival(*http.Request) (string, netip.Addr) { return "id", netip.Addr{} }
func (d door) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	return d.caller, nil
}

// serve is the compatible routes for a caller who may use some agents.
func serve(t *testing.T, m *echo, limitTo int, mayUse ...string) http.Handler {
	t.Helper()
	file, err := agents.Parse("agents.yaml", []byte("agents:\n  judge: {role: Judge, description: Decides, instructions: CANARY}\n  clerk: {role: Clerk}\n"), "test/echo")
	if err != nil {
		t.Fatal(err)
	}
	listing := agents.NewListing(file)
	chat := &agents.Chat{File: file, Models: agents.Models{"test": m}, Timeout: time.Minute}
	openai := compat.OpenAI{Listing: listing, Chat: chat, Now: func() time.Time { return time.Unix(1700000000, 0) }}
	handlers := map[string]api.Handler{
		"openai.models": openai.Models, "openai.model": openai.Model, "openai.completions": openai.Completions,
		"elizaos.agents": compat.ElizaOSAgents(listing), "txtai.workflow": compat.TxtaiWorkflow(chat),
	}
	var rows []route.Route
	for _, row := range route.Table() {
		if handlers[row.Name] != nil {
			rows = append(rows, row)
		}
	}
	caller := auth.Caller{ID: "key", Kind: auth.IssuedKey, Scopes: []route.Scope{route.AgentsRead, route.Chat}, Agents: mayUse}
	h, err := api.New(api.Config{Routes: rows, Handlers: handlers, Door: door{caller}, Log: slog.New(slog.DiscardHandler),
		Limiter: limit.Hourly{Store: &limit.Memory{}, Now: func() time.Time { return time.Unix(1700000000, 0) }}, RateLimit: limitTo})
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
		{"OpenAI: completion", "POST", "/v1/chat/completions", `{"model":"clerk","messages":[{"role":"user","content":"a"}]}`,
			`{"id":"chatcmpl-id","object":"chat.completion","created":1700000000,"model":"clerk","choices":[{"index":0,"message":{"role":"assistant","content":"you said a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`},
		{"OpenAI: a cut completion", "POST", "/v1/chat/completions", `{"model":"clerk","max_tokens":5,"messages":[{"role":"user","content":"a"}]}`,
			`{"id":"chatcmpl-id","object":"chat.completion","created":1700000000,"model":"clerk","choices":[{"index":0,"message":{"role":"assistant","content":"you said a"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`},
	} {
		if got := strings.TrimSpace(send(h, row.method, row.path, row.body).Body.String()); got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
		}
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
	if w := send(serve(t, m, 0), "POST", "/workflow", `{"elements":`+string(elements)+`}`); w.Code != 200 {
		t.Fatal(errors.New(w.Body.String()))
	}
	if m.most > 8 || len(m.requests) != 20 {
		t.Errorf("%d at once, %d in all; want 8 at most, 20", m.most, len(m.requests))
	}
	many, _ := json.Marshal(make([]string, 101))
	if w := send(serve(t, &echo{}, 0), "POST", "/workflow", `{"elements":`+string(many)+`}`); w.Code != 400 {
		t.Errorf("101 elements: %d", w.Code)
	}
}

// Contract §3: OpenAI's clients sleep through a Retry-After, so beyond a minute
// they are told not to.
func TestOpenAIClientsAreToldNotToSleep(t *testing.T) {
	t.Parallel()
	h := serve(t, &echo{}, 1)
	send(h, "GET", "/v1/models", "")
	if w := send(h, "GET", "/v1/models", ""); w.Code != 429 || w.Header().Get("x-should-retry") != "false" {
		t.Errorf("/v1: %d %v", w.Code, w.Header())
	}
	if w := send(h, "GET", "/api/agents", ""); w.Code != 429 || w.Header().Get("x-should-retry") != "" {
		t.Errorf("elsewhere: %d %v", w.Code, w.Header())
	}
}
