package bedrock_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/model"
	"postern/tests/bedrockfake"
)

var kinds = []error{model.ErrFailed, model.ErrRefused, model.ErrTooLong, model.ErrUnavailable, model.ErrTimeout}

// isOnly reports whether err is want, and no other of the kinds.
func isOnly(err, want error) bool {
	for _, kind := range kinds {
		if errors.Is(err, kind) != errors.Is(want, kind) {
			return false
		}
	}
	return true
}

func TestFailuresBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	zeros := func() io.Reader { return strings.NewReader(strings.Repeat("\x00", 100)) }
	for _, test := range []struct {
		name  string
		fault *bedrockfake.Fault
		want  error
		text  string
		calls int
	}{
		{"throttled", bedrockfake.Fail(429, "ThrottlingException", "Too many\nrequests"), model.ErrUnavailable, `ThrottlingException: "Too many\nrequests"`, 2},
		{"unavailable", bedrockfake.Fail(503, "ServiceUnavailableException", "x"), model.ErrUnavailable, `ServiceUnavailableException: "x"`, 2},
		{"not ready", bedrockfake.Fail(429, "ModelNotReadyException", "x"), model.ErrUnavailable, `ModelNotReadyException: "x"`, 2},
		{"denied", bedrockfake.Fail(403, "AccessDeniedException", "User: arn:aws:sts::1:role/x is not authorized"), model.ErrUnavailable, "AccessDeniedException: \"User: arn", 1},
		{"unknown model", bedrockfake.Fail(404, "ResourceNotFoundException", "x"), model.ErrUnavailable, `ResourceNotFoundException: "x"`, 1},
		{"over quota", bedrockfake.Fail(400, "ServiceQuotaExceededException", "x"), model.ErrUnavailable, `ServiceQuotaExceededException: "x"`, 1},
		{"slow model", bedrockfake.Fail(408, "ModelTimeoutException", "x"), model.ErrTimeout, `ModelTimeoutException: "x"`, 1},
		{"internal", bedrockfake.Fail(500, "InternalServerException", "x"), model.ErrFailed, `InternalServerException: "x"`, 2},
		{"invalid", bedrockfake.Fail(400, "ValidationException", "The provided model identifier is invalid."), model.ErrRefused, `ValidationException: "The provided model identifier is invalid."`, 1},
		{"too long", bedrockfake.Fail(400, "ValidationException", "Input is too long for requested model."), model.ErrTooLong, `ValidationException: "Input is too long`, 1},
		{"too long, by the model's own word", bedrockfake.Fail(400, "ValidationException", "The model returned the following errors: Input Tokens Exceeded: Number of input tokens exceeds maximum length."), model.ErrTooLong, "", 1},
		{"a proxy's 413", bedrockfake.Reply(413, "text/html", strings.NewReader("secret")), model.ErrTooLong, "HTTP status 413", 1},
		{"broken model", bedrockfake.Fail(424, "ModelErrorException", "x"), model.ErrFailed, `ModelErrorException: "x"`, 1},

		{"a bad token, of which nothing is repeated", bedrockfake.Fail(403, "UnrecognizedClientException", "secret"), model.ErrUnavailable, `HTTP status 403, "UnrecognizedClientException"`, 1},
		{"an undocumented exception", bedrockfake.Fail(400, "BrandNewException", "secret"), model.ErrFailed, `HTTP status 400, "BrandNewException"`, 1},
		{"an undocumented throttle", bedrockfake.Fail(429, "TooManyRequestsException", "secret"), model.ErrUnavailable, "HTTP status 429", 2},
		{"a name of a kilobyte", bedrockfake.Fail(400, strings.Repeat("x", 1000), "secret"), model.ErrFailed, "HTTP status 400", 1},
		{"a proxy's 502", bedrockfake.Reply(502, "text/html", strings.NewReader("<html>secret")), model.ErrFailed, "HTTP status 502", 2},
		{"a proxy's 504", bedrockfake.Reply(504, "text/html", strings.NewReader("<html>secret")), model.ErrTimeout, "HTTP status 504", 1},
		{"a proxy's 503 without a body", bedrockfake.Reply(503, "text/html", strings.NewReader("")), model.ErrUnavailable, "HTTP status 503", 2},
		{"a proxy's 401", bedrockfake.Reply(401, "text/plain", strings.NewReader("secret")), model.ErrUnavailable, "HTTP status 401", 1},
		{"an error that is no JSON", bedrockfake.Reply(400, "application/json", strings.NewReader("{{{secret")), model.ErrFailed, "HTTP status 400", 1},

		{"broken off", bedrockfake.Drop(), model.ErrFailed, "no answer: \"EOF\"", 2},
		{"an empty answer", bedrockfake.Reply(200, "application/vnd.amazon.eventstream", strings.NewReader("")), model.ErrFailed, "cut off", 2},
		{"a page for an answer", bedrockfake.Reply(200, "text/html", strings.NewReader("<html><body>Log in to the network</body></html>")), model.ErrFailed, "a frame of", 1},
		{"zeros for an answer", bedrockfake.Reply(200, "application/vnd.amazon.eventstream", zeros()), model.ErrFailed, "a frame of", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			fake.Inject(test.fault)
			events, err := collect(t.Context(), t, m, hello())
			if !isOnly(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("the error is %v, want %v: … %s", err, test.want, test.text)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 400) {
				t.Errorf("the error tells too much: %v", err)
			}
			if len(events) != 0 {
				t.Errorf("events came: %v", events)
			}
			// A second try may find a connection that the fake is just closing;
			// then net/http itself sends it once more.
			if n := len(fake.Calls()); n != test.calls && (test.calls < 2 || n != test.calls+1) {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
		})
	}
}

func TestFailuresInsideAnAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fail  bedrockfake.Step
		want  error
		text  string
		first int // calls if it is the first event
	}{
		{"throttled", bedrockfake.Exception("throttlingException", "x"), model.ErrUnavailable, `ThrottlingException: "x"`, 2},
		{"unavailable", bedrockfake.Exception("serviceUnavailableException", "x"), model.ErrUnavailable, `ServiceUnavailableException: "x"`, 2},
		{"internal", bedrockfake.Exception("internalServerException", "x"), model.ErrFailed, `InternalServerException: "x"`, 2},
		{"broken stream", bedrockfake.Exception("modelStreamErrorException", "x"), model.ErrFailed, `ModelStreamErrorException: "x"`, 2},
		{"invalid", bedrockfake.Exception("validationException", "x"), model.ErrRefused, `ValidationException: "x"`, 1},
		{"slow, which the stream's model doesn't have", bedrockfake.Exception("modelTimeoutException", "x"), model.ErrTimeout, `ModelTimeoutException: "x"`, 1},
		{"an undocumented exception", bedrockfake.Exception("brandNewException", "secret"), model.ErrFailed, `"brandNewException"`, 1},
		{"an unmodelled error", bedrockfake.Error("InternalError", "secret"), model.ErrFailed, `"InternalError"`, 1},
		{"broken off", bedrockfake.Cut(), model.ErrFailed, "cut off", 2},
		{"broken off inside a frame", func() bedrockfake.Step {
			return bedrockfake.Bytes([]byte{0, 0, 1, 0, 0, 0})
		}(), model.ErrFailed, "cut off", 2},
		{"garbage", bedrockfake.Bytes([]byte(strings.Repeat("garbage ", 20))), model.ErrFailed, "a frame of", 1},
		{"a frame below a frame's least", bedrockfake.Bytes(prelude(15, 0)), model.ErrFailed, "a frame of 15 bytes", 1},
		{"a frame above our most", bedrockfake.Bytes(prelude(1<<20+1, 0)), model.ErrFailed, "a frame of 1048577 bytes", 1},
		{"a frame shorter than its headers", bedrockfake.Bytes(prelude(100, 85)), model.ErrFailed, "100 bytes, 85 of headers", 1},
		{"a damaged frame", bedrockfake.Bytes(damaged()), model.ErrFailed, "checksum", 1},
		{"a payload that is no JSON", bedrockfake.Frame("contentBlockDelta", []byte(`{"delta":`)), model.ErrFailed, "contentBlockDelta", 1},
		{"a payload of the wrong type", bedrockfake.Frame("contentBlockDelta", []byte(`{"delta":{"text":["x"]}}`)), model.ErrFailed, "contentBlockDelta", 1},
	} {
		for _, begun := range []bool{false, true} {
			name, want := test.name+" at once", test.first
			script := steps(bedrockfake.Begin(), test.fail)
			var events []model.Event
			if begun {
				name, want = test.name+" after an event", 1
				script = steps(bedrockfake.MessageStart(), bedrockfake.Text("one"), test.fail)
				events = []model.Event{{Text: "one"}}
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				fake, m := start(t)
				fake.Script(script...)
				got, err := collect(t.Context(), t, m, hello())
				if !isOnly(err, test.want) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("the error is %v, want %v: … %s", err, test.want, test.text)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("the error tells too much: %v", err)
				}
				if diff := cmp.Diff(events, got); diff != "" {
					t.Errorf("events before it (-want +got):\n%s", diff)
				}
				if n := len(fake.Calls()); n != want {
					t.Errorf("%d calls, want %d", n, want)
				}
			})
		}
	}
}

func TestNonsense(t *testing.T) {
	t.Parallel()
	stop, usage := bedrockfake.Stop("end_turn"), bedrockfake.Usage(10, 2)
	for _, test := range []struct {
		name   string
		script []bedrockfake.Step
		text   string
	}{
		{"an end without a stop", steps(bedrockfake.Text("one"), usage), "cut off"},
		{"an end without a usage", steps(bedrockfake.Text("one"), stop), "cut off"},
		{"an end with an empty usage", steps(stop, bedrockfake.Event("metadata", nil)), "cut off"},
		{"a malformed tool call", steps(bedrockfake.Stop("malformed_tool_use"), usage), `stopped for "malformed_tool_use"`},
		{"malformed output", steps(bedrockfake.Stop("malformed_model_output"), usage), `stopped for "malformed_model_output"`},
		{"a stop of a newer Bedrock", steps(bedrockfake.Stop("pause_turn"), usage), `stopped for "pause_turn"`},
		{"a stop without a reason", steps(bedrockfake.Event("messageStop", nil), usage), `stopped for ""`},
		{"a stop inside a tool call", steps(bedrockfake.ToolStart(0, "t1", "x"), stop, usage), "inside a tool call"},
		{"arguments that are no JSON", steps(bedrockfake.ToolStart(0, "t1", "x"), bedrockfake.ToolInput(0, `{"a":`), bedrockfake.BlockStop(0), stop, usage), "no JSON object"},
		{"arguments that are no object", steps(bedrockfake.ToolStart(0, "t1", "x"), bedrockfake.ToolInput(0, `[1]`), bedrockfake.BlockStop(0), stop, usage), "no JSON object"},
		{"a fragment without a call", steps(bedrockfake.ToolInput(0, `{}`), stop, usage), "hasn't begun"},
		{"a fragment after its call", steps(bedrockfake.ToolStart(0, "t1", "x"), bedrockfake.BlockStop(0), bedrockfake.ToolInput(0, `{}`)), "hasn't begun"},
		{"a call that begins twice", steps(bedrockfake.ToolStart(0, "t1", "x"), bedrockfake.ToolStart(0, "t2", "y")), "begins twice"},
		{"a call without an id", steps(bedrockfake.ToolStart(0, "", "x")), "without an id"},
		{"a call without a name", steps(bedrockfake.ToolStart(0, "t1", "")), "without an id or a name"},
		{"arguments without end", steps(bedrockfake.ToolStart(0, "t1", "x"), bedrockfake.ToolInput(0, strings.Repeat(" ", 1<<19)),
			bedrockfake.ToolInput(0, strings.Repeat(" ", 1<<19)), bedrockfake.ToolInput(0, " ")), "more than 1048576 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			fake.Script(steps(bedrockfake.MessageStart(), test.script)...)
			_, err := collect(t.Context(), t, m, hello())
			if !isOnly(err, model.ErrFailed) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("the error is %v, want %v: … %s", err, model.ErrFailed, test.text)
			}
			if n := len(fake.Calls()); n != 1 {
				t.Errorf("%d calls, want 1", n)
			}
		})
	}
}

func TestASecondTryMaySucceed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault *bedrockfake.Fault
	}{
		{"after a throttle", bedrockfake.Fail(429, "ThrottlingException", "x")},
		{"after a broken connection", bedrockfake.Drop()},
		{"after an empty answer", bedrockfake.Reply(200, "application/vnd.amazon.eventstream", strings.NewReader(""))},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			if _, err := collect(t.Context(), t, m, hello()); err != nil { // so that there is a connection to break
				t.Fatal(err)
			}
			fake.Inject(test.fault.Times(1))
			events, err := collect(t.Context(), t, m, hello())
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]model.Event{{Text: "Hello."}, end(model.EndTurn)}, events); diff != "" {
				t.Errorf("the answer (-want +got):\n%s", diff)
			}
			calls := fake.Calls()
			if len(calls) != 3 {
				t.Fatalf("%d calls, want 3", len(calls))
			}
			if diff := cmp.Diff(string(calls[1].Body), string(calls[2].Body)); diff != "" {
				t.Errorf("the second try says another thing:\n%s", diff)
			}
		})
	}
}

// Whose tokens are counted is asked for once, where the first try may be on the
// bill: what was set aside is for one.
func TestOnce(t *testing.T) {
	t.Parallel()
	once := hello()
	once.Once = true
	for name, row := range map[string]struct {
		fault *bedrockfake.Fault
		calls int
	}{
		"broken off": {bedrockfake.Drop(), 1},
		"internal":   {bedrockfake.Fail(500, "InternalServerException", "x"), 1},
		"throttled":  {bedrockfake.Fail(429, "ThrottlingException", "x"), 2},
	} {
		fake, m := start(t)
		fake.Inject(row.fault)
		collect(t.Context(), t, m, once)
		if n := len(fake.Calls()); n != row.calls {
			t.Errorf("%s: %d calls, want %d", name, n, row.calls)
		}
	}
}

func TestAnErrorsTextIsBounded(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	fake.Inject(bedrockfake.Fail(400, "ValidationException", strings.Repeat("ä", 299)+"\x00\x1b[31m"))
	_, err := collect(t.Context(), t, m, hello())
	want := fmt.Sprintf("%v: ValidationException: %q", model.ErrRefused, strings.Repeat("ä", 150))
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

// A reset overtakes what isn't read yet, so it waits for the client to have the
// response's header.
func TestAResetAfterTheHeader(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	there := make(chan struct{}, 9)
	fake.Inject(bedrockfake.Handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		http.NewResponseController(w).Flush()
		select {
		case <-there:
		case <-r.Context().Done():
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}))
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotFirstResponseByte: func() { there <- struct{}{} }})
	events, err := collect(ctx, t, m, hello())
	if !isOnly(err, model.ErrFailed) || !strings.Contains(err.Error(), "cut off: read tcp") || len(events) != 0 {
		t.Errorf("%v, and the error is %v", events, err)
	}
	if n := len(fake.Calls()); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
}

// prelude is how a frame begins: the two lengths and their checksum.
func prelude(whole, headers uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, whole)
	b = binary.BigEndian.AppendUint32(b, headers)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// damaged is an event of which a byte has changed.
func damaged() []byte {
	b := bedrockfake.Record(bedrockfake.Text("one"))
	b[len(b)/2] ^= 1
	return b
}

// endless is a body that never ends.
type endless string

func (e endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], e)
	}
	return n, nil
}

// TestNoEndlessBodyIsRead is P15: what a broken server sends is bounded.
func TestNoEndlessBodyIsRead(t *testing.T) { // measures memory: not parallel
	for _, test := range []struct {
		name string
		body io.Reader
		code int
		most uint64 // bytes
	}{
		{"an error", io.MultiReader(strings.NewReader(`{"message":"`), endless("x")), 400, 8 << 20},
		{"headers", io.MultiReader(bytes.NewReader(prelude(1<<20, 1<<32-1)), endless("x")), 200, 8 << 20},
		{"a frame", io.MultiReader(bytes.NewReader(prelude(1<<32-1, 0)), endless("x")), 200, 8 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake, m := start(t)
			fake.Inject(bedrockfake.Reply(test.code, "application/json", test.body))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := collect(t.Context(), t, m, hello())
			runtime.ReadMemStats(&after)
			if !isOnly(err, model.ErrFailed) {
				t.Errorf("the error is %v, want %v", err, model.ErrFailed)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > test.most {
				t.Errorf("%d bytes were allocated, want at most %d", got, test.most)
			}
		})
	}
}

// FuzzBytes is P15: whatever bytes come for an answer, nothing panics, and there
// is one end.
func FuzzBytes(f *testing.F) {
	for _, script := range [][]bedrockfake.Step{
		bedrockfake.Say("Hello", " world"),
		steps(bedrockfake.ToolStart(0, "t", "x"), bedrockfake.ToolInput(0, "{}"), bedrockfake.BlockStop(0), bedrockfake.Stop("tool_use"), bedrockfake.Usage(1, 1)),
		steps(bedrockfake.Text("x"), bedrockfake.Exception("throttlingException", "x")),
	} {
		f.Add(bedrockfake.Record(script...))
	}
	f.Add([]byte{})
	f.Add([]byte("\x00\x00\x00\x10\x00\x00\x00\x00"))
	f.Add(prelude(1<<32-1, 0))
	f.Add(prelude(16, 1<<32-1))
	f.Add(damaged())
	fuzz(f, func(data []byte) bedrockfake.Step { return bedrockfake.Bytes(data) })
}

// FuzzFrames gets past the checksums: each line is an event, its kind and its
// payload.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("contentBlockDelta {\"contentBlockIndex\":0,\"delta\":{\"text\":\"x\"}}\nmessageStop {\"stopReason\":\"end_turn\"}\nmetadata {\"usage\":{\"inputTokens\":1,\"outputTokens\":1}}"))
	f.Add([]byte("contentBlockStart {\"start\":{\"toolUse\":{\"toolUseId\":\"t\",\"name\":\"x\"}}}\ncontentBlockDelta {\"delta\":{\"toolUse\":{\"input\":\"{}\"}}}\ncontentBlockStop {}"))
	f.Add([]byte("metadata {\"usage\":{\"inputTokens\":-1,\"outputTokens\":1e300}}\nmessageStop null\nsomethingNew [[[["))
	f.Add([]byte("contentBlockDelta {\"delta\":{\"text\":null,\"toolUse\":{}}}\ncontentBlockDelta {\"delta\":[]}\ncontentBlockDelta {\"contentBlockIndex\":99999999999}"))
	f.Add([]byte("contentBlockDelta " + strings.Repeat(`{"delta":`, 5000)))
	fuzz(f, func(data []byte) bedrockfake.Step {
		var script []bedrockfake.Step
		for line := range strings.SplitSeq(string(data), "\n") {
			kind, payload, _ := strings.Cut(line, " ")
			if len(kind) < 256 {
				script = append(script, bedrockfake.Frame(kind, []byte(payload)))
			}
		}
		return bedrockfake.Bytes(bedrockfake.Record(script...))
	})
}

func fuzz(f *testing.F, step func([]byte) bedrockfake.Step) {
	fake, m := start(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		// An event comes first, or most runs would pause before a second try.
		fake.Script(bedrockfake.MessageStart(), step(data))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		began := time.Now()
		events, err := collect(ctx, t, m, hello())
		if err != nil && !isOnly(err, model.ErrFailed) && !isOnly(err, model.ErrUnavailable) && !isOnly(err, model.ErrTimeout) {
			t.Errorf("an error of no kind: %v", err)
		}
		if n := len(events); n > 0 && events[n-1].Usage.InputTokens < 0 {
			t.Errorf("negative usage: %+v", events[n-1])
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("it takes %v", took)
		}
	})
}
