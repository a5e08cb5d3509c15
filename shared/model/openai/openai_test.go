package openai_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/model"
	"postern/shared/model/openai"
	"postern/shared/secret"
)

var update = flag.Bool("update", false, "write the golden files")

// A request's body is golden, indented and sorted by key.
func TestRequestBody(t *testing.T) {
	t.Parallel()
	zero := 0.0
	tests := []struct {
		golden string
		req    model.Request
	}{
		{"least", ask},
		{"everything", model.Request{
			Model:  "meta-llama/Llama-3",
			System: "You are terse.\n\"Quoted\" <b>&</b> ü",
			Messages: []model.Message{
				{Role: model.User, Text: "Weather in Rome and Oslo?"},
				{Role: model.Assistant, ToolCalls: []model.ToolCall{
					{ID: "call_1", Name: "weather", Arguments: json.RawMessage(`{"city":"Rome"}`)},
					{ID: "call_2", Name: "now"},
				}},
				{Role: model.ToolRole, ToolCallID: "call_1", Text: "24 °C"},
				{Role: model.ToolRole, ToolCallID: "call_2", Text: ""},
				{Role: model.Assistant, Text: "Rome is warm.", ToolCalls: []model.ToolCall{
					{ID: "call_3", Name: "weather", Arguments: json.RawMessage(`{"city":"Oslo"}`)},
				}},
				{Role: model.ToolRole, ToolCallID: "call_3", Text: "3 °C"},
				{Role: model.Assistant, Text: "Oslo is cold."},
				{Role: model.User, Text: "Thanks."},
			},
			Tools: []model.Tool{
				{Name: "weather", Description: "Tells the weather", Parameters: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}`)},
				{Name: "now"},
			},
			MaxTokens:   300,
			Temperature: &zero, // 0 is said, not left out
			StopAt:      []string{"\n\n", "END"},
		}},
	}
	for _, test := range tests {
		t.Run(test.golden, func(t *testing.T) {
			t.Parallel()
			u := serve(t, hello())
			if _, err := collect(t, u.model(t).Stream(t.Context(), test.req)); err != nil {
				t.Fatal(err)
			}
			sent := u.received()[0].body
			for _, field := range []string{`"messages":[`, `"temperature"`} { // written as they are, zero or not
				if n := strings.Count(sent, field); n > 1 {
					t.Errorf("%s stands %d times in %s", field, n, sent)
				}
			}
			var body any
			if err := json.Unmarshal([]byte(sent), &body); err != nil {
				t.Fatal(err)
			}
			got, _ := json.MarshalIndent(body, "", "  ")
			path := filepath.Join("testdata", test.golden+".golden")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestHead(t *testing.T) {
	t.Parallel()
	for base, path := range map[string]string{
		"":                "POST /chat/completions",
		"/v1":             "POST /v1/chat/completions",
		"/v1/":            "POST /v1/chat/completions",
		"/some/where/v1/": "POST /some/where/v1/chat/completions",
	} {
		u := serve(t, hello())
		if _, err := run(t, client(t, openai.Config{BaseURL: u.URL + base, Key: keyIs("sk-1")})); err != nil {
			t.Fatal(err)
		}
		got := u.received()[0]
		if got.path != path {
			t.Errorf("base %q: %s, want %s", base, got.path, path)
		}
		delete(got.header, "Content-Length")
		want := http.Header{
			"Authorization": {"Bearer sk-1"}, "Content-Type": {"application/json"}, "Accept": {"text/event-stream"},
			"Accept-Encoding": {"identity"}, "User-Agent": {"postern"},
		}
		if diff := cmp.Diff(want, got.header); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
	}
}

// roundTrip is a transport that only looks.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The bound carries token budgets: a server that ignores its name ignores them.
func TestBoundIsNamedAsTheServerKnowsIt(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]string{
		"":                             "max_completion_tokens",
		"https://api.openai.com/v1":    "max_completion_tokens",
		"https://API.OpenAI.com./v1":   "max_completion_tokens",
		"https://eu.api.openai.com/v1": "max_completion_tokens",
		"https://somebody.openai.azure.com/openai/v1":      "max_completion_tokens",
		"http://localhost:11434/v1":                        "max_tokens",
		"http://api.openai.com.example.com/v1":             "max_tokens",
		"http://notapi.openai.com/v1":                      "max_tokens",
		"http://litellm:4000":                              "max_tokens",
		"http://[::1]:8000/v1":                             "max_tokens",
		"https://generativelanguage.example/v1beta/openai": "max_tokens",
	} {
		var sent map[string]any
		m := client(t, openai.Config{BaseURL: base, HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent = nil
			if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
				t.Error(err)
			}
			return &http.Response{StatusCode: 400, Body: http.NoBody}, nil
		})}})
		req := ask
		req.MaxTokens = 77
		collect(t, m.Stream(t.Context(), req))
		got := map[string]any{}
		for _, name := range []string{"max_tokens", "max_completion_tokens"} {
			if value, there := sent[name]; there {
				got[name] = value
			}
		}
		if diff := cmp.Diff(map[string]any{want: 77.0}, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", base, diff)
		}
	}
}

func TestNewRefusesWhatIsNoURL(t *testing.T) {
	t.Parallel()
	for _, base := range []string{
		"localhost:11434", "api.openai.com/v1", "ftp://host/v1", "http://", "https:///v1", "http://%zz/", "http://host:port/",
		"https://user:" + canary + "@host/v1", "https://host/v1?key=" + canary, "https://host/v1#" + canary, "\nhttp://host",
	} {
		_, err := openai.New(openai.Config{BaseURL: base})
		if err == nil {
			t.Errorf("%q is accepted", base)
		} else if !strings.Contains(err.Error(), "OPENAI_BASE_URL: write") || strings.Contains(err.Error(), canary) {
			t.Errorf("%q: %v", base, err)
		}
	}
}

// A request that can't be written is nobody's failure but ours.
func TestRequestThatIsNoJSON(t *testing.T) {
	t.Parallel()
	u := serve(t, hello())
	req := ask
	req.Tools = []model.Tool{{Name: "broken", Parameters: json.RawMessage(`{`)}}
	_, err := collect(t, u.model(t).Stream(t.Context(), req))
	for _, kind := range []error{model.ErrFailed, model.ErrUnavailable, model.ErrTimeout} {
		if err == nil || errors.Is(err, kind) {
			t.Errorf("got %v", err)
		}
	}
	if n := len(u.received()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// Each row is what a server may say, and what it comes to.
func TestAnswer(t *testing.T) {
	t.Parallel()
	usage := model.Usage{InputTokens: 7, OutputTokens: 2}
	end := func(stop model.StopReason) model.Event { return model.Event{Stop: stop} }
	call := func(id, name, arguments string) model.Event {
		return model.Event{ToolCall: &model.ToolCall{ID: id, Name: name, Arguments: json.RawMessage(arguments)}}
	}
	piece := func(s string) model.Event { return model.Event{Text: s} }
	finish := func(reason string) string {
		return fmt.Sprintf(`{"choices":[{"index":0,"delta":{},"finish_reason":%q}]}`, reason)
	}
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   []model.Event
	}{
		{"text, stop and usage", hello(), []model.Event{piece("Hel"), piece("lo"), {Stop: model.EndTurn, Usage: usage}}},
		{"no usage: zeros", says(text("a"), stop, done), []model.Event{piece("a"), end(model.EndTurn)}},
		{"usage on every chunk: the last counts", says(
			`{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}`,
			`{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}`, done),
			[]model.Event{piece("a"), {Stop: model.EndTurn, Usage: usage}}},
		{"usage below zero is zero", says(text("a"), stop, `{"choices":[],"usage":{"prompt_tokens":-7,"completion_tokens":-2}}`, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"usage in fractions", says(text("a"), stop, `{"choices":[],"usage":{"prompt_tokens":7.0,"completion_tokens":2.5}}`, done),
			[]model.Event{piece("a"), {Stop: model.EndTurn, Usage: usage}}},
		{"usage that would overflow is bounded", says(text("a"), stop, `{"choices":[],"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":1e300}}`, done),
			[]model.Event{piece("a"), {Stop: model.EndTurn, Usage: model.Usage{InputTokens: 1 << 31, OutputTokens: 1 << 31}}}},
		{"a usage with a half that is no number is none", says(text("a"), stop, `{"choices":[],"usage":{"prompt_tokens":"7","completion_tokens":2}}`, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"and one with a half below zero", says(text("a"), stop, `{"choices":[],"usage":{"prompt_tokens":-100000,"completion_tokens":5}}`, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"and no list, no object, nothing", says(text("a"), stop, `{"choices":[],"usage":{"prompt_tokens":[7],"completion_tokens":{}}}`, `{"choices":[],"usage":{}}`, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"usage that is none doesn't undo what was said", says(text("a"), stop, used, `{"choices":[],"usage":"none"}`, `{"choices":[],"usage":[]}`, `{"choices":[],"usage":null}`, done),
			[]model.Event{piece("a"), {Stop: model.EndTurn, Usage: usage}}},
		{"nothing but an end", says(begin, stop, used, done), []model.Event{{Stop: model.EndTurn, Usage: usage}}},

		{"length", says(text("a"), finish("length"), done), []model.Event{piece("a"), end(model.MaxTokens)}},
		{"content_filter", says(text("a"), finish("content_filter"), done), []model.Event{piece("a"), end(model.Filtered)}},
		{"an unknown reason", says(text("a"), finish("eos"), done), []model.Event{piece("a"), end(model.EndTurn)}},
		{"no reason, but [DONE]", says(text("a"), done), []model.Event{piece("a"), end(model.EndTurn)}},
		{"no [DONE], but a reason", says(text("a"), stop), []model.Event{piece("a"), end(model.EndTurn)}},
		{"what follows [DONE] is not read", says(text("a"), stop, done, text("b"), "{"), []model.Event{piece("a"), end(model.EndTurn)}},
		{"a refusal is text", says(`{"choices":[{"index":0,"delta":{"refusal":"No."}}]}`, stop, done), []model.Event{piece("No."), end(model.EndTurn)}},
		{"reasoning is left out", says(`{"choices":[{"index":0,"delta":{"reasoning_content":"hm","reasoning":"hm"}}]}`, text("a"), stop, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"another choice is left out", says(`{"choices":[{"index":1,"delta":{"content":"x"}},{"index":0,"delta":{"content":"a"}}]}`, stop, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"SambaNova: created is a fraction", says(`{"created":1748694614.85,"choices":[{"index":0,"delta":{"content":"a"}}]}`, stop, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"an error that is null", says(`{"error":null,"choices":[{"index":0,"delta":{"content":"a"}}]}`, stop, done),
			[]model.Event{piece("a"), end(model.EndTurn)}},

		{"the other lines of an event stream", sends(": PROCESSING\n\nevent: message\nid: 1\nretry: 10\ndata:" + text("a") + "\r\n\r\n:\n\ndata: " + stop + "\n\ndata: [DONE]"),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"a byte order mark", sends("\ufeffdata: " + text("a") + "\n\ndata: " + stop + "\n\ndata: [DONE]\n\n"),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"an event in several lines", sends("data: {\"choices\":[\ndata: {\"delta\":\r\n: wait\nid: 1\ndata:\ndata: {\"content\":\"a\"}}\ndata:]}\n\ndata: " + stop + "\n\ndata: [DONE]\n\n"),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"heartbeats that are empty events", sends("data:\n\ndata: " + text("a") + "\n\ndata:\n\ndata: " + stop + "\n\n"),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"1,000 heartbeats", sends(strings.Repeat(": wait\n\n", 1000) + "data: " + text("a") + "\ndata: " + stop + "\n"),
			[]model.Event{piece("a"), end(model.EndTurn)}},
		{"a long line that is just not too long", says(text(strings.Repeat("a", 1_000_000)), stop, done),
			[]model.Event{piece(strings.Repeat("a", 1_000_000)), end(model.EndTurn)}},

		{"a tool call in fragments", says(begin,
			tool(`{"index":0,"id":"call_a","type":"function","function":{"name":"weather","arguments":""}}`),
			tool(`{"index":0,"function":{"arguments":"{\"city\":"}}`),
			tool(`{"index":0,"function":{"arguments":"\"Rome\"}"}}`), toolsR, used, done),
			[]model.Event{call("call_a", "weather", `{"city":"Rome"}`), {Stop: model.ToolUse, Usage: usage}}},
		{"text, then two tool calls, interleaved", says(text("Let me see."),
			tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{\"n\""}}`),
			tool(`{"index":1,"id":"b","function":{"name":"y","arguments":"{\"m\""}}`),
			tool(`{"index":0,"function":{"arguments":":1}"}},{"index":1,"function":{"arguments":":2}"}}`), toolsR, done),
			[]model.Event{piece("Let me see."), call("a", "x", `{"n":1}`), call("b", "y", `{"m":2}`), end(model.ToolUse)}},
		{"a tool without arguments", says(tool(`{"index":0,"id":"a","function":{"name":"now","arguments":""}}`), toolsR, done),
			[]model.Event{call("a", "now", `{}`), end(model.ToolUse)}},
		{"an id and a name in every fragment", says(
			tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{"}}`),
			tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"}"}}`), toolsR, done),
			[]model.Event{call("a", "x", `{}`), end(model.ToolUse)}},
		{"Ollama: each call has index 0", says(
			tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{\"n\":1}"}}`),
			tool(`{"index":0,"id":"b","function":{"name":"x","arguments":"{\"n\":"}}`),
			tool(`{"index":0,"function":{"arguments":"2}"}}`), toolsR, done),
			[]model.Event{call("a", "x", `{"n":1}`), call("b", "x", `{"n":2}`), end(model.ToolUse)}},
		{"Gemini: no index", says(
			tool(`{"id":"a","function":{"name":"x","arguments":"{\"n\":1}"}},{"id":"b","function":{"name":"y","arguments":"{}"}}`), toolsR, done),
			[]model.Event{call("a", "x", `{"n":1}`), call("b", "y", `{}`), end(model.ToolUse)}},
		{"no ids: they are numbered", says(
			tool(`{"index":0,"function":{"name":"x","arguments":"{}"}},{"index":1,"function":{"name":"y","arguments":"{}"}}`), toolsR, done),
			[]model.Event{call("call_1", "x", `{}`), call("call_2", "y", `{}`), end(model.ToolUse)}},
		{"a tool call, but the reason is stop", says(tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{}"}}`), stop, done),
			[]model.Event{call("a", "x", `{}`), end(model.ToolUse)}},
		{"the reason is tool_calls, but there is none", says(text("a"), toolsR, done), []model.Event{piece("a"), end(model.EndTurn)}},
		{"a tool call cut by length isn't made", says(tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{\"n\""}}`), finish("length"), done),
			[]model.Event{end(model.MaxTokens)}},
		{"nor by the filter", says(tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{}"}}`), finish("content_filter"), done),
			[]model.Event{end(model.Filtered)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := run(t, serve(t, test.answer).model(t))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// Ids that we give stay apart from those we gave earlier in the conversation.
func TestNumberedCallsGoOn(t *testing.T) {
	t.Parallel()
	u := serve(t, says(tool(`{"index":0,"function":{"name":"x","arguments":"{}"}}`), toolsR, done))
	req := ask
	req.Messages = append(slices.Clone(req.Messages),
		model.Message{Role: model.Assistant, ToolCalls: []model.ToolCall{{ID: "call_1", Name: "x"}, {ID: "call_2", Name: "x"}}},
		model.Message{Role: model.ToolRole, ToolCallID: "call_1"}, model.Message{Role: model.ToolRole, ToolCallID: "call_2"})
	events, err := collect(t, u.model(t).Stream(t.Context(), req))
	if err != nil || len(events) != 2 || events[0].ToolCall.ID != "call_3" {
		t.Errorf("got %v, %v", events, err)
	}
}

// I18: each piece is here before the server says the next.
func TestDeltasArriveAsSent(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			w.(http.Flusher).Flush()
		}
	})
	pieces := []string{"one", " two", " three"}
	go func() { next <- text(pieces[0]) }()
	i := 0
	for event, err := range u.model(t).Stream(t.Context(), ask) {
		if err != nil {
			t.Fatal(err)
		}
		if i == len(pieces) {
			if event.Stop != model.EndTurn {
				t.Errorf("the end is %v", event)
			}
			return
		}
		if event.Text != pieces[i] {
			t.Errorf("piece %d is %v", i, event)
		}
		i++
		if i < len(pieces) {
			next <- text(pieces[i])
			continue
		}
		next <- stop
		close(next)
	}
	t.Error("no end")
}

func TestKey(t *testing.T) {
	t.Parallel()
	t.Run("none: no header", func(t *testing.T) {
		u := serve(t, hello())
		for _, key := range []func(context.Context) (secret.String, error){nil, keyIs(""), keyIs(" \n")} {
			if _, err := run(t, client(t, openai.Config{BaseURL: u.URL, Key: key})); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range u.received() {
			if _, there := r.header["Authorization"]; there {
				t.Errorf("Authorization: %q", r.header["Authorization"])
			}
		}
	})
	t.Run("read before every try, white space dropped", func(t *testing.T) {
		u := serve(t, refuses(503, ""), hello())
		asked := 0
		m := client(t, openai.Config{BaseURL: u.URL, Key: func(context.Context) (secret.String, error) {
			asked++
			return secret.New(fmt.Sprintf(" key-%d\n", asked)), nil
		}})
		for range 2 {
			if _, err := run(t, m); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, r := range u.received() {
			got = append(got, r.header.Get("Authorization"))
		}
		if diff := cmp.Diff([]string{"Bearer key-1", "Bearer key-2", "Bearer key-3"}, got); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
	})
	t.Run("can't be read: unavailable, and nothing is sent", func(t *testing.T) {
		u := serve(t, hello())
		_, err := run(t, client(t, openai.Config{BaseURL: u.URL, Key: func(context.Context) (secret.String, error) {
			return secret.String{}, fmt.Errorf("access denied: %w", context.DeadlineExceeded)
		}}))
		if !errors.Is(err, model.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("got %v", err)
		}
		if n := len(u.received()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("gets the caller's context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := collect(t, client(t, openai.Config{Key: func(ctx context.Context) (secret.String, error) {
			cancel()
			<-ctx.Done()
			return secret.String{}, ctx.Err()
		}}).Stream(ctx, ask))
		if err != context.Canceled {
			t.Errorf("got %v", err)
		}
	})
}

// A chat a minute shouldn't pay for a TLS handshake each. An answer's end is waited
// for, and in a bubble, where no time passes while the network is at work, it is
// never late.
func TestConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{})
		u := serve(t, func(w http.ResponseWriter, r *http.Request) { hello()(w, r); <-told })
		m := u.model(t)
		for range 5 {
			for event, err := range m.Stream(t.Context(), ask) {
				if err != nil {
					t.Fatal(err)
				}
				if event.Stop != "" {
					told <- struct{}{}
				}
			}
		}
		if u.connections != 1 {
			t.Errorf("%d connections for 5 calls", u.connections)
		}
	})
}

// A server that keeps the stream open after its last event doesn't keep us.
func TestServerThatDoesntHangUp(t *testing.T) {
	t.Parallel()
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hello()(w, r)
		<-r.Context().Done()
	})
	before := time.Now()
	if events, err := run(t, u.model(t)); err != nil || said(events) != "Hello" {
		t.Errorf("got %v, %v", events, err)
	}
	if took := time.Since(before); took > tooLong {
		t.Errorf("it took %v", took)
	}
	<-u.left
}

// After the reason only usage can come, for which 2 s are enough; a caller who is
// slow to take the last text doesn't use them up.
func TestUsageIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	last := strings.Replace(text("lo"), `"finish_reason":null`, `"finish_reason":"stop"`, 1)
	for _, row := range []struct {
		name   string
		events []string
		pause  time.Duration // before the last event
		more   string        // half of what was to come
		slow   time.Duration // of the consumer, at each text
		took   time.Duration
		want   model.Usage
	}{
		{"it never comes", []string{text("Hel"), last}, 0, "", 0, 2 * time.Second, model.Usage{}},
		{"it breaks off", []string{text("Hel"), last}, 0, "data: {\"usa", 0, 2 * time.Second, model.Usage{}},
		{"it comes in time, and no end", []string{text("Hel"), last, used}, 1900 * time.Millisecond, "", 0, 2 * time.Second, model.Usage{InputTokens: 7, OutputTokens: 2}},
		{"it comes too late", []string{text("Hel"), last, used}, 2100 * time.Millisecond, "", 0, 2 * time.Second, model.Usage{}},
		{"before the reason there is time", []string{text("Hel"), last}, time.Minute, "", 0, 62 * time.Second, model.Usage{}},
		{"a slow caller", []string{text("Hel"), last, used, done}, 0, "", 3 * time.Second, 6 * time.Second, model.Usage{InputTokens: 7, OutputTokens: 2}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := client(t, openai.Config{HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					body, w := io.Pipe()
					context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
					go func() {
						for i, event := range row.events {
							if i == len(row.events)-1 {
								time.Sleep(row.pause)
							}
							fmt.Fprintf(w, "data: %s\n\n", event)
						}
						io.WriteString(w, row.more)
					}()
					return &http.Response{StatusCode: 200, Body: body}, nil
				})}})
				before, said := time.Now(), ""
				var end model.Event
				for event, err := range m.Stream(t.Context(), ask) {
					if err != nil {
						t.Fatal(err)
					}
					if event.Text != "" {
						time.Sleep(row.slow)
					}
					said += event.Text
					end = event
				}
				if took := time.Since(before).Truncate(drain); said != "Hello" || end.Stop != model.EndTurn || end.Usage != row.want || took != row.took {
					t.Errorf("%q, %+v after %v, want %+v after %v", said, end, took, row.want, row.took)
				}
				time.Sleep(time.Minute) // the upstream says the rest to nobody
			})
		})
	}
}

// drain is more than what the end of a body may take after its last event.
const drain = 100 * time.Millisecond

// OpenAI's own server speaks HTTP/2.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	type connection struct{}
	left := make(chan struct{})
	var calls atomic.Int64
	u := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("it is %s", r.Proto)
		}
		io.Copy(io.Discard, r.Body)
		switch calls.Add(1) {
		case 1:
			hello()(w, r)
		case 2:
			says(text("Hel"))(w, r)
			<-r.Context().Done()
			close(left)
		case 3:
			panic(http.ErrAbortHandler) // a reset before the answer: the prompt was read
		case 4:
			r.Context().Value(connection{}).(net.Conn).Close() // used before, and dead: tried again
		case 5:
			hello()(w, r)
		default:
			says(text("Hel"))(w, r)
			panic(http.ErrAbortHandler)
		}
	}))
	u.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connection{}, c)
	}
	u.EnableHTTP2 = true
	u.StartTLS()
	defer u.Close()
	m := client(t, openai.Config{BaseURL: u.URL, HTTPClient: u.Client()})
	if events, err := run(t, m); err != nil || said(events) != "Hello" {
		t.Errorf("got %v, %v", events, err)
	}
	for range m.Stream(t.Context(), ask) {
		break
	}
	select {
	case <-left:
	case <-time.After(tooLong):
		t.Error("the upstream has not seen that we left")
	}
	_, err := run(t, m)
	isKind(t, err, model.ErrFailed)
	if calls.Load() != 3 {
		t.Errorf("%d calls: a stream that was reset is sent again", calls.Load())
	}
	if events, err := run(t, m); err != nil || said(events) != "Hello" || calls.Load() != 5 {
		t.Errorf("got %v, %v after %d calls", events, err, calls.Load())
	}
	_, err = run(t, m)
	isKind(t, err, model.ErrFailed)
	if calls.Load() != 6 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	u := serve(t, hello())
	m := u.model(t)
	results := make(chan error)
	for range 64 {
		go func() {
			events, err := run(t, m)
			if err == nil && said(events) != "Hello" {
				err = fmt.Errorf("got %v", events)
			}
			results <- err
		}()
	}
	for range 64 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// Ollama is not installable everywhere: this runs only where OLLAMA_HOST names
// one that answers and has a model.
func TestOllama(t *testing.T) {
	t.Parallel()
	host := os.Getenv("OLLAMA_HOST")
	if host == "" {
		t.Skip("OLLAMA_HOST is not set")
	}
	if !strings.Contains(host, "://") {
		host = "http://" + host
	}
	response, err := (&http.Client{Timeout: 2 * time.Second}).Get(host + "/v1/models")
	if err != nil {
		t.Skipf("OLLAMA_HOST doesn't answer: %v", err)
	}
	defer response.Body.Close()
	var list struct{ Data []struct{ ID string } }
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&list); err != nil || len(list.Data) == 0 {
		t.Skipf("the Ollama of OLLAMA_HOST has no model: %v", err)
	}
	req := ask
	req.Model, req.MaxTokens = list.Data[0].ID, 8
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, err := collect(t, client(t, openai.Config{BaseURL: host + "/v1"}).Stream(ctx, req))
	if err != nil || len(events) == 0 {
		t.Fatalf("%s: %v, %v", req.Model, events, err)
	}
	last := events[len(events)-1]
	if last.Stop == "" || last.Usage.InputTokens == 0 || last.Usage.OutputTokens > req.MaxTokens {
		t.Errorf("%s ends with %+v", req.Model, last)
	}
}
