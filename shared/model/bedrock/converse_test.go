package bedrock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/model"
	"postern/tests/bedrockfake"
)

// The refusals of OpenAI's gpt-oss, and of Llama 4 with tools.
const (
	noStreaming          = "The model is unsupported for streaming."
	noStreamingWithTools = "This model doesn't support tool use in streaming mode."
)

// startUnstreamed is start with a Bedrock whose models don't stream.
func startUnstreamed(t testing.TB) (*bedrockfake.Server, model.Model) {
	t.Helper()
	fake, m := start(t)
	fake.RefuseStreaming(noStreaming)
	return fake, m
}

// asked lists the operations that were called.
func asked(fake *bedrockfake.Server) string {
	var all []string
	for _, c := range fake.Calls() {
		all = append(all, c.Operation)
	}
	return strings.Join(all, " ")
}

const (
	once  = "converse-stream converse"
	twice = once + " " + once
)

var text, tool = bedrockfake.TextBlock, bedrockfake.ToolBlock

func TestWholeAnswers(t *testing.T) {
	t.Parallel()
	type fields = map[string]any
	answer := func(usage fields, content ...any) []bedrockfake.Step {
		return bedrockfake.JSON(fields{"output": fields{"message": fields{"content": content}}, "stopReason": "end_turn", "usage": usage})
	}
	for _, test := range []struct {
		name   string
		script []bedrockfake.Step
		want   []model.Event
	}{
		{"text", bedrockfake.Whole("end_turn", text("Grüß Gott,\n \"Welt\" 👋")),
			[]model.Event{{Text: "Grüß Gott,\n \"Welt\" 👋"}, end(model.EndTurn)}},
		{"several blocks are told in their order, the calls among them",
			bedrockfake.Whole("tool_use", text("Let me see."), tool("t1", "search", `{"query":"a b","n":12345678901234567890}`), text("And"), tool("t2", "now", `{}`)),
			[]model.Event{{Text: "Let me see."}, call("t1", "search", `{"n":12345678901234567890,"query":"a b"}`), {Text: "And"}, call("t2", "now", `{}`), end(model.ToolUse)}},
		{"numbers stay as they are", bedrockfake.Whole("tool_use", tool("t1", "x", `{"a":[1.10,1e400,-0,0.30000000000000000001]}`)),
			[]model.Event{call("t1", "x", `{"a":[1.10,1e400,-0,0.30000000000000000001]}`), end(model.ToolUse)}},
		{"a tool call without arguments has an empty object",
			bedrockfake.Whole("tool_use", tool("t1", "now", `null`), map[string]any{"toolUse": fields{"toolUseId": "t2", "name": "now"}}),
			[]model.Event{call("t1", "now", `{}`), call("t2", "now", `{}`), end(model.ToolUse)}},
		{"an empty text is no event", bedrockfake.Whole("end_turn", text(""), text("a")), []model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"an answer may be without text", bedrockfake.Whole("end_turn"), []model.Event{end(model.EndTurn)}},
		{"reasoning and content of a newer Bedrock are passed over",
			bedrockfake.Whole("end_turn", fields{"reasoningContent": fields{"reasoningText": fields{"text": "hm"}}}, fields{"somethingNew": fields{"text": "x"}}, nil, text("a")),
			[]model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"what a prompt cache took counts as input",
			answer(fields{"inputTokens": 5, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 2, "outputTokens": 2}, text("a")),
			[]model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"a count below zero is none", answer(fields{"inputTokens": -5, "outputTokens": -1}), []model.Event{{Stop: model.EndTurn}}},
		{"stopped by a sequence", bedrockfake.Whole("stop_sequence"), []model.Event{end(model.EndTurn)}},
		{"stopped at the bound", bedrockfake.Whole("max_tokens", text("a")), []model.Event{{Text: "a"}, end(model.MaxTokens)}},
		{"stopped at the model's window", bedrockfake.Whole("model_context_window_exceeded"), []model.Event{end(model.MaxTokens)}},
		{"stopped by a guardrail", bedrockfake.Whole("guardrail_intervened", text("No.")), []model.Event{{Text: "No."}, end(model.Filtered)}},
		{"stopped by a filter", bedrockfake.Whole("content_filtered"), []model.Event{end(model.Filtered)}},
		{"it may come byte by byte", bytewise(bedrockfake.Whole("end_turn", text("a"))), []model.Event{{Text: "a"}, end(model.EndTurn)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := startUnstreamed(t)
			fake.ScriptWhole(test.script...)
			events, err := collect(t.Context(), t, m, hello())
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, events); diff != "" {
				t.Errorf("the answer (-want +got):\n%s", diff)
			}
			if got := asked(fake); got != once {
				t.Errorf("the calls are %s, want %s", got, once)
			}
		})
	}
}

func TestTheSameRequestIsAskedWithoutAStream(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	fake.RefuseStreaming(noStreamingWithTools)
	temperature := 0.5
	_, err := collect(t.Context(), t, m, model.Request{
		Model:  "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.meta.llama4/converse",
		System: "Be brief.",
		Messages: []model.Message{
			{Role: model.User, Text: "Hello?"},
			{Role: model.Assistant, ToolCalls: []model.ToolCall{{ID: "t1", Name: "now", Arguments: []byte(`{"n":12345678901234567890}`)}}},
			{Role: model.ToolRole, ToolCallID: "t1", Text: "noon"},
		},
		Tools:       []model.Tool{{Name: "now", Description: "the time"}},
		MaxTokens:   7,
		Temperature: &temperature,
		StopAt:      []string{"END"},
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := fake.Calls()
	if asked(fake) != once || calls[0].Model != calls[1].Model || !strings.Contains(calls[1].Model, "llama4") {
		t.Fatalf("the calls are %s, of %q and %q", asked(fake), calls[0].Model, calls[1].Model)
	}
	if diff := cmp.Diff(string(calls[0].Body), string(calls[1].Body)); diff != "" {
		t.Errorf("the second call says another thing:\n%s", diff)
	}
}

func TestWhichRefusalsAreOfStreaming(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault *bedrockfake.Fault
		calls string
	}{
		{"gpt-oss's", bedrockfake.Fail(400, "ValidationException", noStreaming), once},
		{"Llama's", bedrockfake.Fail(400, "ValidationException", noStreamingWithTools), once},
		{"in capitals", bedrockfake.Fail(400, "ValidationException", "STREAMING IS NOT SUPPORTED"), once},
		{"another", bedrockfake.Fail(400, "ValidationException", "The provided model identifier is invalid."), "converse-stream"},
		{"of no permission", bedrockfake.Fail(403, "AccessDeniedException", "no streaming for you"), "converse-stream"},
		{"of a broken model", bedrockfake.Fail(424, "ModelErrorException", "no streaming"), "converse-stream"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			fake.Inject(test.fault.Times(1))
			_, err := collect(t.Context(), t, m, hello())
			if got := asked(fake); got != test.calls || (err == nil) != (got == once) {
				t.Errorf("the calls are %s, want %s; the error is %v", got, test.calls, err)
			}
		})
	}
	t.Run("in an answer", func(t *testing.T) {
		t.Parallel()
		fake, m := start(t)
		fake.Script(steps(bedrockfake.Begin(), bedrockfake.Exception("validationException", noStreaming))...)
		if _, err := collect(t.Context(), t, m, hello()); !errors.Is(err, model.ErrRefused) || asked(fake) != "converse-stream" {
			t.Errorf("the calls are %s, the error is %v", asked(fake), err)
		}
	})
}

func TestFailuresOfWholeAnswers(t *testing.T) {
	t.Parallel()
	fail := bedrockfake.Fail
	for _, test := range []struct {
		name   string
		fault  *bedrockfake.Fault
		script []bedrockfake.Step
		want   error
		text   string
		calls  string
	}{
		{"throttled", fail(429, "ThrottlingException", "x"), nil, model.ErrUnavailable, `ThrottlingException: "x"`, twice},
		{"internal", fail(500, "InternalServerException", "x"), nil, model.ErrFailed, `InternalServerException: "x"`, twice},
		{"a proxy's 502", bedrockfake.Reply(502, "text/html", strings.NewReader("<html>secret")), nil, model.ErrFailed, "HTTP status 502", twice},
		{"slow model", fail(408, "ModelTimeoutException", "x"), nil, model.ErrTimeout, `ModelTimeoutException: "x"`, once},
		{"denied", fail(403, "AccessDeniedException", "x"), nil, model.ErrUnavailable, `AccessDeniedException: "x"`, once},
		{"refused", fail(400, "ValidationException", "x"), nil, model.ErrRefused, `ValidationException: "x"`, once},
		{"refused for streaming again", fail(400, "ValidationException", noStreaming), nil, model.ErrRefused, noStreaming, once},
		{"too long", fail(400, "ValidationException", "Input is too long for requested model."), nil, model.ErrTooLong, "Input is too long", once},
		{"broken off before the answer", bedrockfake.Drop(), nil, model.ErrFailed, "no answer: \"EOF\"", twice},

		{"broken off inside the answer, which is on the bill", nil, steps(bedrockfake.Bytes([]byte(`{"output":`)), bedrockfake.Cut()), model.ErrFailed, "cut off", once},
		{"broken off behind the answer", nil, steps(bedrockfake.Whole("end_turn", text("a")), bedrockfake.Cut()), model.ErrFailed, "cut off", once},
		{"malformed", nil, steps(bedrockfake.Bytes([]byte(`{"output":{"message":{"content":[{"text":"secret`))), model.ErrFailed, "garbled", once},
		{"of another type", nil, steps(bedrockfake.Bytes([]byte(`"secret"`))), model.ErrFailed, "garbled", once},
		{"a page", nil, steps(bedrockfake.Bytes([]byte(`<html>secret`))), model.ErrFailed, "garbled", once},
		{"nothing", nil, nil, model.ErrFailed, `stopped for ""`, once},
		{"no stop", nil, bedrockfake.JSON(map[string]any{"usage": map[string]any{"inputTokens": 1}}), model.ErrFailed, `stopped for ""`, once},
		{"no usage", nil, bedrockfake.JSON(map[string]any{"stopReason": "end_turn"}), model.ErrFailed, "cut off", once},
		{"a stop of a newer Bedrock", nil, bedrockfake.Whole("pause_turn"), model.ErrFailed, `stopped for "pause_turn"`, once},
		{"a malformed tool call", nil, bedrockfake.Whole("malformed_tool_use"), model.ErrFailed, `stopped for "malformed_tool_use"`, once},
		{"a call without an id", nil, bedrockfake.Whole("tool_use", tool("", "x", `{}`)), model.ErrFailed, "without an id", once},
		{"arguments that are no object", nil, bedrockfake.Whole("tool_use", tool("t1", "x", `[1]`)), model.ErrFailed, "no JSON object", once},
		{"arguments without end", nil, bedrockfake.Whole("tool_use", tool("t1", "x", `{"a":"`+strings.Repeat("x", 1<<20)+`"}`)), model.ErrFailed, "more than 1048576 bytes", once},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := startUnstreamed(t)
			fake.ScriptWhole(test.script...)
			if test.fault != nil {
				fake.Inject(test.fault)
			}
			events, err := collect(t.Context(), t, m, hello())
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("the error is %v, want %v: … %s", err, test.want, test.text)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 400) {
				t.Errorf("the error tells too much: %v", err)
			}
			if len(events) != 0 {
				t.Errorf("events came: %v", events)
			}
			// net/http itself may send a second try once more; see TestFailuresBeforeAnAnswer.
			if got := asked(fake); got != test.calls && (test.calls == once || !strings.HasPrefix(got, once)) {
				t.Errorf("the calls are %s, want %s", got, test.calls)
			}
		})
	}
}

func TestASecondTryMaySucceedWithoutAStream(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault *bedrockfake.Fault
	}{
		{"after a throttle", bedrockfake.Fail(429, "ThrottlingException", "x")},
		{"after a proxy's 503", bedrockfake.Reply(503, "text/html", strings.NewReader("<html>"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := startUnstreamed(t)
			fake.Inject(test.fault.Times(1))
			events, err := collect(t.Context(), t, m, hello())
			if diff := cmp.Diff([]model.Event{{Text: "Hello."}, end(model.EndTurn)}, events); diff != "" || err != nil {
				t.Errorf("%v, the answer (-want +got):\n%s", err, diff)
			}
			if got := asked(fake); got != twice {
				t.Errorf("the calls are %s, want %s", got, twice)
			}
		})
	}
}

func TestWhoeverLeavesEndsTheCallWithoutAStream(t *testing.T) {
	t.Parallel()
	two := bedrockfake.Whole("end_turn", text("one"), text("two"))
	for _, test := range []struct {
		name   string
		script []bedrockfake.Step
		fault  *bedrockfake.Fault
		left   bool                     // the fake sees it
		each   func(cancel func()) bool // at an event; nil: the context ends meanwhile
		want   error                    // nil: none is yielded
	}{
		{"the context ends before the response", nil, bedrockfake.Stall(), true, nil, context.Canceled},
		{"the context ends before the answer", steps(bedrockfake.Begin(), bedrockfake.Hang()), nil, true, nil, context.Canceled},
		{"the context ends inside the answer", steps(bedrockfake.Bytes([]byte(`{"output":`)), bedrockfake.Hang()), nil, true, nil, context.Canceled},
		{"the context ends before the answer's end", steps(two, bedrockfake.Hang()), nil, true, nil, context.Canceled},
		{"the context ends between events", two, nil, false, func(cancel func()) bool { cancel(); return true }, context.Canceled},
		{"the consumer breaks out", two, nil, false, func(func()) bool { return false }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := startUnstreamed(t)
			fake.ScriptWhole(test.script...)
			if test.fault != nil {
				fake.Inject(test.fault)
			}
			patient, stop := context.WithTimeout(t.Context(), patience)
			defer stop()
			ctx, cancel := context.WithCancel(patient)
			defer cancel()
			if test.each == nil {
				go func() {
					fake.Await(patient, 2)
					time.Sleep(20 * time.Millisecond)
					cancel()
				}()
			}
			var failed error
			for event, err := range m.Stream(ctx, hello()) {
				if failed = err; err == nil && (event.Text != "one" || test.each == nil || !test.each(cancel)) {
					if event.Text != "one" {
						t.Errorf("after the end comes %+v", event)
					}
					break
				}
			}
			if test.want == nil && failed != nil || !errors.Is(failed, test.want) {
				t.Errorf("the error is %v, want %v", failed, test.want)
			}
			if test.left {
				if err := fake.AwaitLeft(patient, 1); err != nil {
					t.Error("the fake doesn't see the client leave:", err)
				}
			}
			if got := asked(fake); got != once {
				t.Errorf("the calls are %s, want %s", got, once)
			}
		})
	}
}

func TestADeadlineWithoutAStreamIsATimeout(t *testing.T) {
	t.Parallel()
	fake, m := startUnstreamed(t)
	fake.Inject(bedrockfake.Stall())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := collect(ctx, t, m, hello()); !errors.Is(err, model.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want a timeout of the context's", err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it takes %v", took)
	}
}

func TestManyAtOnceWithoutAStream(t *testing.T) {
	t.Parallel()
	fake, m := startUnstreamed(t)
	fake.ScriptWhole(bedrockfake.Whole("tool_use", text(strings.Repeat("a", 1000)), tool("t1", "x", `{"a":"b"}`))...)
	want := []model.Event{{Text: strings.Repeat("a", 1000)}, call("t1", "x", `{"a":"b"}`), end(model.ToolUse)}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 4 {
				if events, err := collect(t.Context(), t, m, hello()); err != nil || !cmp.Equal(want, events) {
					t.Errorf("an answer is %+v, %v", events, err)
				}
			}
		})
	}
	all.Wait()
}

func TestNothingIsLeftRunningWithoutAStream(t *testing.T) { // counts goroutines: not parallel
	fake, m := startUnstreamed(t)
	fake.ScriptWhole(bedrockfake.Whole("end_turn", text("a"), text("b"))...)
	before := runtime.NumGoroutine()
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for range m.Stream(ctx, hello()) {
			if i%2 == 0 {
				break
			}
		}
		cancel()
	}
	if n := fake.Connections(); n > 4 {
		t.Errorf("80 calls took %d connections", n)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before+5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestNoGiantWholeAnswerIsRead is P15.
func TestNoGiantWholeAnswerIsRead(t *testing.T) { // measures memory: not parallel
	const begun = `{"output":{"message":{"content":[{"text":"`
	for _, test := range []struct {
		name string
		body func() io.Reader
		code int
		want error
	}{
		{"an answer without end", func() io.Reader { return io.MultiReader(strings.NewReader(begun), endless("x")) }, 200, model.ErrTooLarge},
		{"blanks without end", func() io.Reader { return endless(" ") }, 200, model.ErrTooLarge},
		{"an error without end", func() io.Reader { return io.MultiReader(strings.NewReader(`{"message":"`), endless("x")) }, 400, model.ErrFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake, m := startUnstreamed(t)
			fake.Inject(bedrockfake.Reply(test.code, "application/json", test.body()))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := collect(t.Context(), t, m, hello())
			runtime.ReadMemStats(&after)
			if !errors.Is(err, test.want) || asked(fake) != once {
				t.Errorf("the calls are %s; the error is %v, want %v", asked(fake), err, test.want)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 40<<20 {
				t.Errorf("%d bytes were allocated", got)
			}
		})
	}
	t.Run("an answer just below the bound", func(t *testing.T) {
		fake, m := startUnstreamed(t)
		long := strings.Repeat("x", 2<<20-1000)
		fake.ScriptWhole(bedrockfake.Whole("end_turn", text(long))...)
		events, err := collect(t.Context(), t, m, hello())
		if err != nil || len(events) != 2 || events[0].Text != long {
			t.Errorf("%d events, %v", len(events), err)
		}
	})
}

// TestSecretsStayOutOfFailuresWithoutAStream is P4: a server that sends back all
// it got, in what the SDK's errors repeat.
func TestSecretsStayOutOfFailuresWithoutAStream(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{`%s`, `%q`, `{"output":%q}`, `{"output":{"message":{"content":[{"text":%q`, `{"usage":{"inputTokens":%q}}`} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			fake, m := startUnstreamed(t)
			fake.Inject(bedrockfake.Handle(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, shape, r.Header.Get("X-Amz-Security-Token")+r.Header.Get("Authorization"))
			}))
			events, err := collect(t.Context(), t, m, hello())
			if err == nil {
				t.Error("it succeeds")
			}
			secretFree(t, fmt.Sprintf("%v %v %+v", events, err, err))
		})
	}
}

// FuzzWhole is P15: whatever comes for a whole answer, nothing panics, and there
// is one end.
func FuzzWhole(f *testing.F) {
	for _, script := range [][]bedrockfake.Step{
		bedrockfake.Whole("end_turn", text("Hello"), text(" world")),
		bedrockfake.Whole("tool_use", tool("t", "x", `{"a":[1.5,"\u00e4",null,true,{}]}`)),
		bedrockfake.Whole("end_turn", nil, map[string]any{"reasoningContent": map[string]any{"reasoningText": map[string]any{"text": "x"}}}),
	} {
		f.Add(bedrockfake.Record(script...))
	}
	for _, s := range []string{"", "null", "[]", `"`, `{"output":null}`, `{"output":{"message":null}}`, `{"output":{"message":{"content":null}},"usage":[]}`,
		`{"output":{"message":{"content":[{"toolUse":{"input":` + strings.Repeat("[", 20000), `{"usage":{"inputTokens":1e300}}`} {
		f.Add([]byte(s))
	}
	fake, m := startUnstreamed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		fake.ScriptWhole(bedrockfake.Bytes(data))
		events, err := collect(t.Context(), t, m, hello())
		if err != nil && !slices.ContainsFunc([]error{model.ErrFailed, model.ErrUnavailable, model.ErrTimeout}, func(kind error) bool { return errors.Is(err, kind) }) {
			t.Errorf("an error of no kind: %v", err)
		}
		if n := len(events); n > 0 && events[n-1].Usage.InputTokens < 0 {
			t.Errorf("negative usage: %+v", events[n-1])
		}
	})
}
