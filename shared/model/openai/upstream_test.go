package openai_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/shared/model"
	"postern/shared/model/openai"
	"postern/shared/secret"
)

// upstream is a server that speaks the wire: real bytes over a real socket.
type upstream struct {
	*httptest.Server

	mu          sync.Mutex
	requests    []received
	connections int
	left        chan struct{} // one for each request whose client went away
}

type received struct {
	header http.Header
	path   string
	body   string
}

// serve starts an upstream whose n-th request gets the n-th answer, and every
// later one the last.
func serve(t *testing.T, answers ...http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{left: make(chan struct{}, 100)}
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		u.mu.Lock()
		answer := answers[min(len(u.requests), len(answers)-1)]
		u.requests = append(u.requests, received{r.Header, r.Method + " " + r.URL.String(), string(body)})
		u.mu.Unlock()
		defer func() {
			if r.Context().Err() != nil {
				u.left <- struct{}{}
			}
		}()
		answer(w, r)
	}))
	u.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			u.mu.Lock()
			u.connections++
			u.mu.Unlock()
		}
	}
	u.Start()
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) received() []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests
}

// model is the package's Model of this upstream, with a key.
func (u *upstream) model(t *testing.T) model.Model {
	t.Helper()
	return client(t, openai.Config{BaseURL: u.URL + "/v1", Key: keyIs(canary)})
}

func client(t *testing.T, c openai.Config) model.Model {
	t.Helper()
	m, err := openai.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func keyIs(key string) func(context.Context) (secret.String, error) {
	return func(context.Context) (secret.String, error) { return secret.New(key), nil }
}

// canary is a key that must turn up in the Authorization header and nowhere else.
const canary = "sk-proj-CANARY0123456789abcdefghijklmnopqrstuvwxyzCANARY"

// says answers 200 with these events.
func says(events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range events {
			fmt.Fprintf(w, "data: %s\n\n", event)
			w.(http.Flusher).Flush()
		}
	}
}

// sends answers 200 with these bytes.
func sends(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, body)
	}
}

// refuses answers with a status; header is pairs of names and values.
func refuses(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// hangsUp closes the connection without an answer.
func hangsUp(w http.ResponseWriter, _ *http.Request) {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	connection.Close()
}

// waits sends nothing until the client has gone.
func waits(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// raw serves one answer of any bytes to each connection; write may write for as
// long as it likes, until it fails.
func raw(t *testing.T, write func(w io.Writer)) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				r, err := http.ReadRequest(bufio.NewReader(connection))
				if err != nil {
					return
				}
				io.Copy(io.Discard, r.Body)
				write(connection)
			}()
		}
	}()
	return "http://" + listener.Addr().String() + "/v1"
}

const (
	begin  = `{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-test","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}`
	stop   = `{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-test","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}`
	used   = `{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-test","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`
	done   = `[DONE]`
	toolsR = `{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`
)

func text(s string) string {
	return fmt.Sprintf(`{"id":"c1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-test","choices":[{"index":0,"delta":{"content":%q},"logprobs":null,"finish_reason":null}],"usage":null}`, s)
}

func tool(fragments string) string {
	return `{"choices":[{"index":0,"delta":{"tool_calls":[` + fragments + `]},"finish_reason":null}]}`
}

// hello is a whole answer.
func hello() http.HandlerFunc { return says(begin, text("Hel"), text("lo"), stop, used, done) }

var ask = model.Request{Model: "gpt-test", Messages: []model.Message{{Role: model.User, Text: "Hi"}}}

// collect runs a stream to its end.
func collect(t testing.TB, stream iter.Seq2[model.Event, error]) (events []model.Event, err error) {
	t.Helper()
	for event, e := range stream {
		if err != nil {
			t.Fatalf("%v, %v after the error %v", event, e, err)
		}
		if err = e; err == nil {
			events = append(events, event)
		}
	}
	return events, err
}

// run asks m for an answer, with all the time that a test has: its context goes
// on after the answer, so whatever ends with the answer, the package has ended.
func run(t testing.TB, m model.Model) ([]model.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*tooLong)
	t.Cleanup(cancel)
	return collect(t, m.Stream(ctx, ask))
}

// tooLong is what nothing here takes that ends by itself, on a busy machine either.
const tooLong = 30 * time.Second

func said(events []model.Event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.Text)
	}
	return b.String()
}
