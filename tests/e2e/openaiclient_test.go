package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	openai "github.com/sashabaranov/go-openai"
)

var update = flag.Bool("update", false, "write the recordings of OpenAI's clients")

// openAIClients is where npm's client is, and the recordings.
const openAIClients = "../openaiclient"

// TestOpenAIsClients lets OpenAI's own client and go-openai chat with either side.
// What they send, what they get and what they make of it is recorded.
func TestOpenAIsClients(t *testing.T) {
	t.Parallel()
	for client, run := range map[string]func(t *testing.T, url string) []string{"npm": npmClient, "go-openai": goClient} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			t.Run("local", func(t *testing.T) {
				t.Parallel()
				m := startReciter(t)
				here := start(t, map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": m.url, "OPENAI_API_KEY": modelKey})
				recordClient(t, client, here.url, run)
				m.awaitLeft(t) // its caller's leaving ends the call to the model
			})
			t.Run("Lambda", func(t *testing.T) {
				t.Parallel()
				m := startReciter(t)
				cloud := deploy(t, map[string]string{"Model": "openai/test", "OpenAIBaseUrl": m.url, "ModelApiKeySecretArn": aSecret}, nil)
				recordClient(t, client, cloud.url, run)
			})
		})
	}
}

// reciter is a model that tells what it was asked, so that a recording shows it.
type reciter struct {
	url  string
	left chan struct{} // a call that hung was given up
}

func startReciter(t *testing.T) *reciter {
	m := &reciter{left: make(chan struct{}, 1)}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL + "/v1"
	return m
}

func (m *reciter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Messages    []struct{ Role, Content string }
		MaxTokens   int `json:"max_tokens"`
		Temperature *float64
		Stop        []string
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.Header.Get("Authorization") != "Bearer "+modelKey {
		http.Error(w, "what is that", http.StatusBadRequest)
		return
	}
	said, reason := "You said", "stop"
	for _, message := range req.Messages[1:] { // the first is the agent's prompt
		said += fmt.Sprintf(" %s: %s", message.Role, message.Content)
	}
	if req.MaxTokens > 0 {
		said, reason = fmt.Sprintf("%s (%d tokens, %g, %q)", said, req.MaxTokens, *req.Temperature, req.Stop), "length"
	}
	last := req.Messages[len(req.Messages)-1].Content
	if last == "broken" {
		http.Error(w, "CANARY-TEXT stack", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for word := range strings.SplitAfterSeq(said, " ") {
		delta, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": map[string]any{"content": word}}}})
		fmt.Fprintf(w, "data: %s\n\n", delta)
		w.(http.Flusher).Flush()
		switch last {
		case "cut it off":
			panic(http.ErrAbortHandler)
		case "hang":
			<-r.Context().Done()
			m.left <- struct{}{}
			return
		}
	}
	fmt.Fprintf(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":%q}]}`+"\n\n", reason)
	io.WriteString(w, `data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}`+"\n\n"+"data: [DONE]\n\n")
}

func (m *reciter) awaitLeft(t *testing.T) {
	t.Helper()
	select {
	case <-m.left:
	case <-time.After(patience):
		t.Error("the model still works for a caller who has left")
	}
}

// npmClient runs the steps of client.mjs.
func npmClient(t *testing.T, url string) []string {
	if _, err := os.Stat(openAIClients + "/client.mjs"); err != nil { // go test's cache shall know it
		t.Fatal(err)
	}
	if _, err := os.Stat(openAIClients + "/node_modules/openai/package.json"); err != nil {
		missing(t, "OpenAI's client is not installed: npm ci --prefix tests/openaiclient")
	}
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "node is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "client.mjs")
	node.Dir = openAIClients
	node.Env = []string{"PATH=" + os.Getenv("PATH"), "OPENAI_BASE_URL=" + url, "OPENAI_API_KEY=" + token}
	node.Stderr = os.Stderr
	out, err := node.Output()
	if err != nil {
		t.Fatalf("%v after %s", err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// missing is the end of a test whose counterpart isn't there: in CI a failure.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// goClient is the same steps with go-openai.
func goClient(t *testing.T, url string) (lines []string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := func(key string) *openai.Client {
		config := openai.DefaultConfig(key)
		config.BaseURL = url
		return openai.NewClientWithConfig(config)
	}
	c, stranger := client(token), client("sk-wrong")
	plain := func(req openai.ChatCompletionRequest) (string, error) {
		answer, err := c.CreateChatCompletion(ctx, req)
		if err != nil {
			return "", err
		}
		choice := answer.Choices[0]
		return fmt.Sprintf("%s, %s, %d tokens: %s", answer.Model, choice.FinishReason, answer.Usage.TotalTokens, choice.Message.Content), nil
	}
	streamed := func(req openai.ChatCompletionRequest) (string, error) { return readStream(ctx, c, req) }
	ask := func(text string) openai.ChatCompletionRequest {
		return openai.ChatCompletionRequest{Model: "assistant", Messages: []openai.ChatCompletionMessage{{Role: "user", Content: text}}}
	}
	of := func(name string, req openai.ChatCompletionRequest) openai.ChatCompletionRequest {
		req.Model = name
		return req
	}
	withUsage := ask("hello there")
	withUsage.StreamOptions = &openai.StreamOptions{IncludeUsage: true}
	//lint:ignore SA1019 the older name on the wire is what older clients send
	history := openai.ChatCompletionRequest{Model: "assistant", MaxTokens: 5, Temperature: 0.5, Stop: []string{"END"}, Messages: []openai.ChatCompletionMessage{
		{Role: "system", Content: "Be brief."}, {Role: "user", Content: "one"}, {Role: "assistant", Content: "two"},
		{Role: "user", MultiContent: []openai.ChatMessagePart{{Type: "text", Text: "three"}}},
	}}
	for _, step := range []struct {
		name string
		run  func() (string, error)
	}{
		{"the models", func() (string, error) {
			list, err := c.ListModels(ctx)
			var names []string
			for _, m := range list.Models {
				names = append(names, m.ID)
			}
			return strings.Join(names, " "), err
		}},
		{"one model", func() (string, error) { m, err := c.GetModel(ctx, "sumfrench"); return m.ID, err }},
		{"one model that there is not", func() (string, error) { _, err := c.GetModel(ctx, "gpt-4"); return "", err }},
		{"a chat", func() (string, error) { return plain(ask("hello there")) }},
		{"a chat with history and bounds", func() (string, error) { return plain(history) }},
		{"a stream", func() (string, error) { return streamed(ask("hello\nthere \u2028 \"you\"")) }},
		{"a stream with usage", func() (string, error) { return streamed(withUsage) }},
		{"a stream with history and bounds", func() (string, error) { return streamed(history) }},
		{"a wrong key", func() (string, error) { _, err := stranger.ListModels(ctx); return "", err }},
		{"a chat with a wrong key", func() (string, error) { return readStream(ctx, stranger, ask("hello")) }},
		{"an unknown model", func() (string, error) { return plain(of("gpt-4", ask("hello"))) }},
		{"a stream of an unknown model", func() (string, error) { return streamed(of("gpt-4", ask("hello"))) }},
		{"no message", func() (string, error) { return plain(openai.ChatCompletionRequest{Model: "assistant"}) }},
		{"a model that fails", func() (string, error) { return plain(ask("broken")) }},
		{"a stream of a model that fails", func() (string, error) { return streamed(ask("broken")) }},
		{"a stream of a model that fails midway", func() (string, error) { return streamed(ask("cut it off")) }},
		{"a stream that is left", func() (string, error) {
			stream, err := c.CreateChatCompletionStream(ctx, ask("hang"))
			if err != nil {
				return "", err
			}
			defer stream.Close()
			for {
				if chunk, err := stream.Recv(); err != nil || chunk.Choices[0].Delta.Content != "" {
					return chunk.Choices[0].Delta.Content, err
				}
			}
		}},
	} {
		text, err := step.run()
		if e, ok := errors.AsType[*openai.RequestError](err); ok { // its text is the body, which each side lays out in its own way
			text += fmt.Sprintf("%T %d", e, e.HTTPStatusCode)
		} else if err != nil {
			text += fmt.Sprintf("%T %v", err, err)
		}
		lines = append(lines, fmt.Sprintf("%s: %q", step.name, text))
	}
	return lines
}

// readStream is what go-openai makes of a whole stream.
func readStream(ctx context.Context, c *openai.Client, req openai.ChatCompletionRequest) (string, error) {
	stream, err := c.CreateChatCompletionStream(ctx, req)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var text, reason string
	tokens := 0
	for {
		chunk, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Sprintf("%s, %d tokens: %s", reason, tokens, text), nil
		case err != nil:
			return fmt.Sprintf("after %q ", text), err
		}
		if chunk.Usage != nil {
			tokens = chunk.Usage.TotalTokens
		}
		for _, choice := range chunk.Choices {
			text += choice.Delta.Content
			if choice.FinishReason != "" {
				reason = string(choice.FinishReason)
			}
		}
	}
}

// recordClient runs a client against a side, and compares what went to and fro with
// the recording of that client, which is the same for both sides.
func recordClient(t *testing.T, client, side string, run func(t *testing.T, url string) []string) {
	t.Helper()
	to, err := url.Parse(side)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	r.proxy = &httputil.ReverseProxy{
		Rewrite:        func(p *httputil.ProxyRequest) { p.SetURL(to) },
		ModifyResponse: r.answered,
	}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	lines := run(t, server.URL+"/v1")
	server.Close() // waits for what is under way
	if len(lines) != len(r.exchanges) {
		t.Fatalf("%d steps made %d requests", len(lines), len(r.exchanges))
	}
	var b strings.Builder
	for i, line := range lines {
		fmt.Fprintf(&b, "== %s\n%s\n%s\n\n", line, r.exchanges[i].request, r.exchanges[i].answer())
	}
	got := strings.ReplaceAll(volatile.ReplaceAllString(b.String(), `"$1":"$2…"`), token, "<token>")
	if strings.Contains(got, "CANARY") || strings.Contains(got, modelKey) {
		t.Errorf("P4: what must not be seen: %s", got)
	}
	golden := openAIClients + "/testdata/" + client + ".golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run with -update:\n%s", golden, d)
	}
}

// volatile is what belongs to one request: its ids and its moment.
var volatile = regexp.MustCompile(`"(id|request_id|created)":(?:"(chatcmpl-)[^"]*"|"[^"]{20,}"|[1-9]\d*)`)

// recorder notes what passes through it. A client's requests come one after the
// other.
type recorder struct {
	proxy     *httputil.ReverseProxy
	mu        sync.Mutex
	exchanges []*exchange
}

type exchange struct {
	request string
	head    string       // status and content type
	body    bytes.Buffer // as far as it was read
}

// answer is the response, its JSON without the spaces that API Gateway's has.
func (x *exchange) answer() string {
	body := x.body.Bytes()
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil {
		body = compact.Bytes()
	}
	return x.head + "\n" + strings.TrimSpace(string(body))
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	req.Body = io.NopCloser(bytes.NewReader(body))
	text := req.Method + " " + req.URL.RequestURI()
	for _, name := range []string{"Accept", "Authorization", "Content-Type"} {
		if value := req.Header.Get(name); value != "" {
			text += "\n" + name + ": " + value
		}
	}
	r.mu.Lock()
	r.exchanges = append(r.exchanges, &exchange{request: text + "\n" + string(body)})
	r.mu.Unlock()
	r.proxy.ServeHTTP(w, req)
}

func (r *recorder) answered(response *http.Response) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.exchanges[len(r.exchanges)-1]
	x.head = fmt.Sprintf("%d %s", response.StatusCode, response.Header.Get("Content-Type"))
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(response.Body, &x.body), response.Body}
	return nil
}
