package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/model"
	"postern/tests/logbook"
)

// voice is a model that speaks as it is written.
type voice func(ctx context.Context, say func(string) bool, yield func(model.Event, error) bool)

func (v voice) Stream(ctx context.Context, _ model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		v(ctx, func(text string) bool { return yield(model.Event{Text: text}, nil) }, yield)
	}
}

var end = model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: 3, OutputTokens: 4}}

// says is a model that says pieces, pausing before each, and ends.
func says(pause time.Duration, pieces ...string) voice {
	return func(_ context.Context, say func(string) bool, yield func(model.Event, error) bool) {
		for _, piece := range pieces {
			time.Sleep(pause)
			if !say(piece) {
				return
			}
		}
		yield(end, nil)
	}
}

// fails is a model that fails after pieces and a pause.
func fails(pause time.Duration, err error, pieces ...string) voice {
	return func(_ context.Context, say func(string) bool, yield func(model.Event, error) bool) {
		for _, piece := range pieces {
			if !say(piece) {
				return
			}
		}
		time.Sleep(pause)
		yield(model.Event{}, err)
	}
}

// hangs is a model that says pieces and then nothing, until its context's end,
// which told hears of.
func hangs(told chan<- error, pieces ...string) voice {
	return func(ctx context.Context, say func(string) bool, yield func(model.Event, error) bool) {
		for _, piece := range pieces {
			if !say(piece) {
				return
			}
		}
		<-ctx.Done()
		if told != nil {
			told <- ctx.Err()
		}
		yield(model.Event{}, ctx.Err())
	}
}

const asked = `{"model":"clerk","stream":true,"messages":[{"role":"user","content":"a"}]}`

func complete(h http.Handler, body string) *httptest.ResponseRecorder {
	return send(h, "POST", "/v1/chat/completions", body)
}

// chunkLine is a frame of asked's answer, in 2000, when synctest's clock begins.
func chunkLine(rest string) string {
	return `data: {"id":"chatcmpl-id","object":"chat.completion.chunk","created":946684800,"model":"clerk",` + rest + "}\n\n"
}

const (
	role    = `"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]`
	stopped = `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]`
	done    = "data: [DONE]\n\n"
)

func saying(text string) string {
	return `"choices":[{"index":0,"delta":{"content":"` + text + `"},"finish_reason":null}]`
}

func failed(title, detail, kind string) string {
	return `data: {"error":{"message":"` + title + ": " + detail + `","type":"` + kind + `","param":null,"code":null}}` + "\n\n"
}

var (
	backendFailed = failed("Model backend failed", "The language model answered with an error: try again later.", "server_error")
	tooSlow       = failed("Model backend timed out", "The language model took too long: try again, or ask for less.", "server_error")
)

// The wire, byte by byte, whatever becomes of the run; a chat's time is a minute.
func TestOpenAIStream(t *testing.T) {
	const beat = ":\n\n"
	withUsage := strings.Replace(asked, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
	for _, row := range []struct {
		name  string
		body  string
		model model.Model
		want  string
	}{
		{"an answer", asked, says(0, "Good ", "day."),
			chunkLine(role) + chunkLine(saying("Good ")) + chunkLine(saying("day.")) + chunkLine(stopped) + done},
		{"its usage, which the others have as null", withUsage, says(0, "Good ", "day."),
			chunkLine(role+`,"usage":null`) + chunkLine(saying("Good ")+`,"usage":null`) + chunkLine(saying("day.")+`,"usage":null`) + chunkLine(stopped+`,"usage":null`) +
				chunkLine(`"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}`) + done},
		{"no usage", strings.Replace(withUsage, `{"include_usage":true}`, `{"include_usage":false}`, 1), says(0, "x"), chunkLine(role) + chunkLine(saying("x")) + chunkLine(stopped) + done},
		{"no options", strings.Replace(withUsage, `{"include_usage":true}`, `null`, 1), says(0, "x"), chunkLine(role) + chunkLine(saying("x")) + chunkLine(stopped) + done},
		{"no words", asked, says(0), chunkLine(role) + chunkLine(stopped) + done},
		{"a cut answer", strings.Replace(asked, `"stream"`, `"max_tokens":5,"stream"`, 1), &echo{},
			chunkLine(role) + chunkLine(saying("you said a")) + chunkLine(strings.Replace(stopped, "stop", "length", 1)) + done},
		{"awkward words", asked, says(0, "\n\ndata: [DONE]\n\n", "\r\"\\\u2028<&>"),
			chunkLine(role) + chunkLine(saying(`\n\ndata: [DONE]\n\n`)) + chunkLine(saying(`\r\"\\\u2028<&>`)) + chunkLine(stopped) + done},
		{"silence is filled", asked, says(31*time.Second, "x"), beat + beat + chunkLine(role) + chunkLine(saying("x")) + chunkLine(stopped) + done},
		{"silence in the middle", asked, says(16*time.Second, "x", "y"),
			beat + chunkLine(role) + chunkLine(saying("x")) + beat + chunkLine(saying("y")) + chunkLine(stopped) + done},
		{"a failure midway", asked, fails(0, fmt.Errorf("%w: CANARY", model.ErrFailed), "half"), chunkLine(role) + chunkLine(saying("half")) + backendFailed},
		{"a failure after a heartbeat", asked, fails(16*time.Second, model.ErrFailed), beat + backendFailed},
		{"a failure that nobody foresaw", asked, fails(0, errors.New("CANARY"), "half"),
			chunkLine(role) + chunkLine(saying("half")) + failed("Internal error", "Try again; if it goes on, report the request_id.", "server_error")},
		{"an end without a stop", asked, voice(func(_ context.Context, say func(string) bool, _ func(model.Event, error) bool) { say("half") }),
			chunkLine(role) + chunkLine(saying("half")) + backendFailed},
		{"no end", asked, voice(func(ctx context.Context, say func(string) bool, yield func(model.Event, error) bool) {
			time.Sleep(time.Second)
			hangs(nil, "half")(ctx, say, yield)
		}), chunkLine(role) + chunkLine(saying("half")) + beat + beat + beat + tooSlow},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := complete(serve(t, row.model, 0), row.body)
				ended := got.Body.String()
				time.Sleep(time.Minute)
				if got.Code != 200 || ended != row.want {
					t.Errorf("%d\n%q, want\n%q", got.Code, ended, row.want)
				}
				if got.Body.String() != ended {
					t.Errorf("after the end came %q", got.Body.String()[len(ended):])
				}
				if h := got.Header(); h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" || h.Get("X-Accel-Buffering") != "no" {
					t.Errorf("headers %v", h)
				}
			})
		})
	}
}

// OpenAI's clients say stream, whatever they accept.
func TestWhoGetsAnOpenAIStream(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		field string
		want  string
	}{
		{`"stream":true`, "text/event-stream"},
		{`"stream":false`, "application/json"},
		{`"stream":null`, "application/json"},
		{`"stream":false,"stream_options":{"include_usage":true}`, "application/json"},
	} {
		got := complete(serve(t, &echo{}, 0), strings.Replace(asked, `"stream":true`, row.field, 1))
		if got.Code != 200 || got.Header().Get("Content-Type") != row.want {
			t.Errorf("%s: %d %v", row.field, got.Code, got.Header())
		}
	}
}

// Before anything was sent, a failure is as it is without a stream, to the byte.
func TestOpenAIStreamThatDoesNotBegin(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		body   string
		model  model.Model
		status int
	}{
		{"a model that fails", asked, fails(0, fmt.Errorf("%w: CANARY", model.ErrFailed)), 502},
		{"a model that is away", asked, fails(0, model.ErrUnavailable), 503},
		{"a model that wants to be left alone", strings.Replace(asked, `"a"`, `"wait 61s"`, 1), &echo{}, 503},
		{"a model that is slow", asked, fails(14*time.Second, model.ErrTimeout), 504},
		{"what nobody foresaw", asked, fails(0, errors.New("CANARY")), 500},
		{"nobody's name", strings.Replace(asked, `clerk`, `nobody`, 1), &echo{}, 404},
		{"no messages", `{"model":"clerk","stream":true}`, &echo{}, 400},
		{"options that are none", strings.Replace(asked, `"stream":true`, `"stream":true,"stream_options":1`, 1), &echo{}, 400},
		{"a stream that is none", strings.Replace(asked, `"stream":true`, `"stream":"yes"`, 1), &echo{}, 400},
		{"a long message", strings.Replace(asked, `"a"`, `"`+strings.Repeat("a", 257<<10)+`"`, 1), &echo{}, 413},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := serve(t, row.model, 0)
				got, plain := complete(h, row.body), complete(h, strings.Replace(row.body, `"stream":true`, `"stream":false`, 1))
				var shape struct {
					Error struct{ Message, Type string }
				}
				if err := json.Unmarshal(got.Body.Bytes(), &shape); err != nil || got.Code != row.status || shape.Error.Message == "" || strings.Contains(got.Body.String(), "CANARY") {
					t.Fatalf("%d %v %s", got.Code, err, got.Body)
				}
				if got.Body.String() != plain.Body.String() {
					t.Errorf("streamed %s, plain %s", got.Body, plain.Body)
				}
				for _, name := range []string{"Content-Type", "Retry-After", "x-should-retry", "X-Accel-Buffering"} {
					if a, b := got.Header().Get(name), plain.Header().Get(name); a != b {
						t.Errorf("%s is %q, unstreamed %q", name, a, b)
					}
				}
			})
		})
	}
}

// The conversation and its bounds reach the model of a stream as of any other.
func TestOpenAIStreamReachesTheModel(t *testing.T) {
	t.Parallel()
	m := &echo{}
	h := serve(t, m, 0)
	body := `{"model":"judge","stream":true,"temperature":0,"stop":["END","FIN"],"max_completion_tokens":9,"messages":[
		{"role":"system","content":"S"},{"role":"user","content":"one"},{"role":"assistant","content":"two"},{"role":"user","content":[{"type":"text","text":"three"}]}]}`
	complete(h, body)
	complete(h, strings.Replace(body, "true", "false", 1))
	if len(m.requests) != 2 {
		t.Fatalf("%d requests", len(m.requests))
	}
	a, _ := json.Marshal(m.requests[0])
	b, _ := json.Marshal(m.requests[1])
	if !bytes.Equal(a, b) || len(m.requests[0].Messages) != 4 || *m.requests[0].Temperature != 0 || len(m.requests[0].StopAt) != 2 || m.requests[0].MaxTokens != 9 {
		t.Errorf("streamed %s\nplain %s", a, b)
	}
}

// Of a workflow OpenAI's clients see the answer alone, by the workflow's name.
func TestOpenAIStreamOfAWorkflow(t *testing.T) {
	t.Parallel()
	const file = "name: both\n" + twoAgents + "steps: [{agent: clerk}, {agent: judge}]\n"
	m := &echo{}
	got := complete(serveFile(t, file, m, slog.DiscardHandler, 0), strings.Replace(asked, `"clerk"`, `"both"`, 1)).Body.String()
	if len(m.requests) != 2 || strings.Count(got, "you said") != 2 || strings.Count(got, "data: ") != 4 || !strings.Contains(got, `"model":"both"`) {
		t.Errorf("%d requests, %s", len(m.requests), got)
	}
}

// A caller who leaves ends the model's work, whether or not it has spoken, and the
// log knows no failure.
func TestCallerLeavesAnOpenAIRun(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		body   string
		pieces []string
		end    error  // what the model says of it; nil: it ends without a word
		status string // in the log
	}{
		{"in the middle of a stream", asked, []string{"half"}, context.Canceled, "200"},
		{"in the middle, which the model calls a failure", asked, []string{"half"}, model.ErrUnavailable, "200"},
		{"in the middle, and the model breaks off", asked, []string{"half"}, nil, "200"},
		{"before a stream begins", asked, nil, context.Canceled, "499"},
		{"before a stream begins, which the model calls a failure", asked, nil, model.ErrUnavailable, "499"},
		{"of an answer in one piece", strings.Replace(asked, "true", "false", 1), []string{"half"}, model.ErrUnavailable, "499"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var log logbook.Book
			told, begun := make(chan error, 1), make(chan struct{})
			m := voice(func(ctx context.Context, say func(string) bool, yield func(model.Event, error) bool) {
				close(begun)
				hangs(told, row.pieces...)(ctx, say, func(model.Event, error) bool {
					return row.end == nil || yield(model.Event{}, row.end)
				})
			})
			server := httptest.NewServer(serveFile(t, twoAgents, m, slog.NewTextHandler(&log, nil), 0))
			defer server.Close()
			ctx, leave := context.WithTimeout(t.Context(), time.Minute) // a failure, not a wait
			defer leave()
			left := make(chan struct{})
			go func() {
				defer close(left)
				r, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/chat/completions", strings.NewReader(row.body))
				r.Header.Set("Content-Type", "application/json")
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					return
				}
				defer response.Body.Close()
				response.Body.Read(make([]byte, 1)) // the first frame is here
				leave()
			}()
			<-begun
			if row.status == "499" {
				leave()
			}
			<-left
			select {
			case err := <-told:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the model's context ended with %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("the model goes on")
			}
			server.Close() // waits for the event line
			if line := log.String(); !strings.Contains(line, "level=INFO") || !strings.Contains(line, "status="+row.status) {
				t.Errorf("log %s", line)
			}
		})
	}
}

// deaf is a connection that takes headers and nothing more.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// What nobody takes ends the model's work too.
func TestOpenAIStreamIsNotTaken(t *testing.T) {
	t.Parallel()
	said := 0
	m := voice(func(_ context.Context, say func(string) bool, yield func(model.Event, error) bool) {
		for range 100 {
			if said++; !say("x") {
				return
			}
		}
	})
	h := serve(t, m, 0)
	defer func() {
		if recover() != http.ErrAbortHandler || said != 1 {
			t.Errorf("the model said %d words to nobody", said)
		}
	}()
	r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(asked))
	r.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(deaf{httptest.NewRecorder()}, r)
}

// P15: a panic midway cuts the stream, so that nobody takes it for a whole one.
func TestModelPanicsInAnOpenAIStream(t *testing.T) {
	t.Parallel()
	h := serve(t, voice(func(_ context.Context, say func(string) bool, _ func(model.Event, error) bool) {
		say("half")
		panic("oh")
	}), 0)
	w := httptest.NewRecorder()
	defer func() {
		if recover() != http.ErrAbortHandler || strings.Contains(w.Body.String(), "DONE") || strings.Contains(w.Body.String(), "oh") {
			t.Errorf("it ends with %s", w.Body)
		}
	}()
	r := httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(asked))
	r.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(w, r)
}

// Words are on the wire before the next is said.
func TestOpenAIChunksArriveAsTheyAreSaid(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	server := httptest.NewServer(serve(t, voice(func(_ context.Context, say func(string) bool, yield func(model.Event, error) bool) {
		for range 3 {
			say("word")
			<-next
		}
		yield(end, nil)
	}), 0))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a failure, not a wait
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/chat/completions", strings.NewReader(asked))
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got []byte
	for n := 1; n <= 3; n++ {
		for bytes.Count(got, []byte("word")) < n {
			piece := make([]byte, 4096)
			read, err := response.Body.Read(piece)
			if err != nil {
				t.Fatalf("after %q: %v", got, err)
			}
			got = append(got, piece[:read]...)
		}
		next <- struct{}{}
	}
}

// openAIWire is what any line of a stream may be, and nothing else may.
var openAIWire = regexp.MustCompile(`\A(data: \{[^\n\r\x{2028}\x{2029}]*\}\n\n)+data: \[DONE\]\n\n\z`)

// I18: 200 KB of awkward text come whole.
func TestLongAwkwardOpenAIStream(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("é\n\u2028\u2029\r\n\"\\</script>\x00\ufeff\U0001F600data: [DONE]\n\n", 5000)
	var pieces []string
	for rest := []rune(text); len(rest) > 0; {
		n := min(len(rest), 97)
		pieces, rest = append(pieces, string(rest[:n])), rest[n:]
	}
	got := complete(serve(t, says(0, pieces...), 0), asked).Body.String()
	if len(text) < 200_000 || !openAIWire.MatchString(got) {
		t.Fatalf("%d bytes of text; the stream begins with %.300q", len(text), got)
	}
	var whole strings.Builder
	for line := range strings.Lines(got) {
		var c struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if data, found := strings.CutPrefix(line, "data: {"); found {
			if err := json.Unmarshal([]byte("{"+data), &c); err != nil {
				t.Fatal(err)
			}
			whole.WriteString(c.Choices[0].Delta.Content)
		}
	}
	if whole.String() != text {
		t.Error("the text came otherwise")
	}
}
