package lambdahost_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/tests/lambdahost"
)

var bootstrap string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "lambdahost")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	bootstrap = filepath.Join(folder, "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", bootstrap, "./testdata/bootstrap")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the test's bootstrap: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// brief is a timeout that a test waits for, and that all else in the same process
// must keep: on a machine that has much to do an answer may take a second.
const brief = 2 * time.Second

func start(t testing.TB, cfg lambdahost.Config) *lambdahost.Host {
	t.Helper()
	cfg.Bootstrap = bootstrap
	cfg.Timeout = cmp.Or(cfg.Timeout, time.Minute)
	cfg.InitTimeout = cmp.Or(cfg.InitTimeout, time.Minute)
	h, err := lambdahost.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.Close()
		if t.Failed() {
			t.Logf("the function's output:\n%s", h.Logs())
		}
	})
	return h
}

type event struct {
	Do   string `json:"do"`
	Text string `json:"text,omitempty"`
	Gate string `json:"gate,omitempty"`
}

func invoke(t testing.TB, h *lambdahost.Host, e event) *lambdahost.Result {
	t.Helper()
	payload, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.Invoke(t.Context(), payload)
	if err != nil {
		t.Fatalf("invoking %+v: %v", e, err)
	}
	return r
}

func pidOf(t testing.TB, h *lambdahost.Host) int {
	t.Helper()
	r := invoke(t, h, event{Do: "echo"})
	if r.Err != nil {
		t.Fatalf("the function doesn't answer any more: %v", r.Err)
	}
	var reply struct{ PID int }
	if err := json.Unmarshal(r.Payload, &reply); err != nil {
		t.Fatal(err)
	}
	return reply.PID
}

// gate is a door in the function's way: it says that it was reached, and opens
// when the test says so.
type gate struct {
	URL     string
	reached chan struct{}
	open    chan struct{}
}

func newGate(t testing.TB) *gate {
	g := &gate{reached: make(chan struct{}, 16), open: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		g.reached <- struct{}{}
		select {
		case <-g.open:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	g.URL = server.URL
	return g
}

// open sends an invocation through g, from a goroutine of the test.
func open(t *testing.T, h *lambdahost.Host, g *gate) {
	r, err := h.Invoke(t.Context(), fmt.Appendf(nil, `{"do":"wait","gate":%q}`, g.URL))
	if err != nil || string(r.Payload) != `"opened"` {
		t.Errorf("waiting at the gate: %v, %+v", err, r)
	}
}

func TestABufferedReplyComesBack(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{})
	first := invoke(t, h, event{Do: "echo", Text: "hello"})
	if !strings.Contains(string(first.Payload), `"text":"hello"`) {
		t.Errorf("payload = %s, want the text", first.Payload)
	}
	if first.Init <= 0 || first.Duration <= 0 {
		t.Errorf("a cold invocation has Init %v and Duration %v, want both above zero", first.Init, first.Duration)
	}
	second := invoke(t, h, event{Do: "echo"})
	if second.Init != 0 {
		t.Errorf("a warm invocation has Init %v, want zero", second.Init)
	}
	if first.RequestID == second.RequestID || len(first.RequestID) != 36 {
		t.Errorf("request ids %q and %q, want two UUIDs", first.RequestID, second.RequestID)
	}
}

func TestAFailureIsTheFunctionsAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		event   event
		kind    string
		message string
		fresh   bool // the next invocation finds a new process
	}{
		{"an error is reported and the process goes on", event{Do: "error", Text: "Unauthorized"}, "errorString", "Unauthorized", false},
		{"a panic is reported and ends the process", event{Do: "panic", Text: "oh"}, "string", "oh", true},
		{"an exit is an exit error and ends the process", event{Do: "exit"}, "Runtime.ExitError", "exit status 4", true},
		{"a reply above 6 MB is refused and ends the process", event{Do: "large"}, "Function.ResponseSizeTooLarge", "6291556 bytes", true},
		{"metadata above 16 KB are no reply", event{Do: "long prelude"}, "Runtime.InvalidPrelude", "16384 bytes", false},
		{"a stream without metadata is no reply", event{Do: "no prelude"}, "Runtime.InvalidPrelude", "ended before", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := start(t, lambdahost.Config{})
			before := pidOf(t, h)
			r := invoke(t, h, tt.event)
			if r.Err == nil || r.Err.Type != tt.kind || !strings.Contains(r.Err.Message, tt.message) {
				t.Fatalf("failure = %v, want %s with %q", r.Err, tt.kind, tt.message)
			}
			if after := pidOf(t, h); (after != before) != tt.fresh {
				t.Errorf("process %d, then %d; fresh wanted: %v", before, after, tt.fresh)
			}
		})
	}
}

func TestATimeoutEndsTheEnvironment(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{Timeout: brief})
	before := pidOf(t, h)
	r := invoke(t, h, event{Do: "hang"})
	if r.Err == nil || r.Err.Type != "Sandbox.Timedout" || !strings.Contains(r.Err.Message, "Task timed out after 2.00 seconds") {
		t.Fatalf("failure = %v, want a timeout", r.Err)
	}
	if r.Duration < brief {
		t.Errorf("timed out after %v, before its time", r.Duration)
	}
	if pidOf(t, h) == before {
		t.Error("the process that timed out still serves")
	}
}

func TestAnEnvironmentThatRestsDoesNotTimeOut(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{Timeout: brief})
	before := pidOf(t, h)
	time.Sleep(brief + 100*time.Millisecond) // past the deadline of the invocation that ended
	if pidOf(t, h) != before {
		t.Error("the process ended at the deadline of an invocation that it had answered")
	}
}

func TestOnlyTheInvocationThatRunsCanBeAnswered(t *testing.T) {
	t.Parallel()
	h, g := start(t, lambdahost.Config{}), newGate(t)
	var env []string
	if err := json.Unmarshal(invoke(t, h, event{Do: "env"}).Payload, &env); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "AWS_LAMBDA_RUNTIME_API=127.0.0.1:") })
	if i < 0 {
		t.Fatalf("no Runtime API on loopback in %v", env)
	}
	api := strings.TrimPrefix(env[i], "AWS_LAMBDA_RUNTIME_API=")
	done := make(chan struct{})
	go func() {
		defer close(done)
		open(t, h, g)
	}()
	<-g.reached
	for _, path := range []string{"/response", "/error"} {
		reply, err := http.Post("http://"+api+"/2018-06-01/runtime/invocation/another"+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		if reply.StatusCode != http.StatusBadRequest {
			t.Errorf("an unknown id's %s is taken with %d", path, reply.StatusCode)
		}
	}
	close(g.open)
	<-done
}

func TestTheFunctionSeesItsDeadline(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{Timeout: time.Minute})
	earliest := time.Now().Add(time.Minute).UnixMilli()
	var got int64
	if err := json.Unmarshal(invoke(t, h, event{Do: "deadline"}).Payload, &got); err != nil {
		t.Fatal(err)
	}
	if latest := time.Now().Add(time.Minute).UnixMilli(); got < earliest || got > latest {
		t.Errorf("deadline %d, want within %d and %d", got, earliest, latest)
	}
}

func TestAProcessThatCantComeUpFailsItsInvocation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, init, kind, message string
		timeout                   time.Duration
	}{
		{"it exits", "exit", "Runtime.ExitError", "exit status 3", time.Minute},
		{"it never polls", "hang", "Sandbox.Timedout", "timed out", 500 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := start(t, lambdahost.Config{Env: []string{"INIT=" + tt.init}, InitTimeout: tt.timeout})
			for range 2 { // the second finds no hold left behind by the first
				r := invoke(t, h, event{Do: "echo"})
				if r.Err == nil || r.Err.Type != tt.kind || !strings.Contains(r.Err.Message, tt.message) {
					t.Errorf("failure = %v, want %s with %q", r.Err, tt.kind, tt.message)
				}
			}
			if tt.init == "exit" && !strings.Contains(h.Logs(), "no configuration") {
				t.Errorf("logs %q lack what the process wrote", h.Logs())
			}
		})
	}
}

func TestAStreamArrivesAsItIsWritten(t *testing.T) {
	t.Parallel()
	h, g := start(t, lambdahost.Config{}), newGate(t)
	r := invoke(t, h, event{Do: "stream", Gate: g.URL})
	if r.Stream == nil {
		t.Fatalf("no stream: %+v", r)
	}
	var metadata struct{ StatusCode int }
	if err := json.Unmarshal(r.Stream.Metadata, &metadata); err != nil || metadata.StatusCode != 201 {
		t.Errorf("metadata %s (%v), want status 201", r.Stream.Metadata, err)
	}
	first := make([]byte, len("first,"))
	if _, err := io.ReadFull(r.Stream.Body, first); err != nil || string(first) != "first," {
		t.Fatalf("before the gate opened: %q, %v", first, err)
	}
	close(g.open)
	rest, err := io.ReadAll(r.Stream.Body)
	if err != nil || string(rest) != "second" {
		t.Errorf("after the gate opened: %q, %v", rest, err)
	}
}

func TestAnEmptyStreamIsAReply(t *testing.T) {
	t.Parallel()
	r := invoke(t, start(t, lambdahost.Config{}), event{Do: "stream nothing"})
	body, err := io.ReadAll(r.Stream.Body)
	if err != nil || len(body) != 0 {
		t.Errorf("body %q, %v; want an empty one", body, err)
	}
}

func TestAStreamTellsHowItBroke(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		do      string
		timeout time.Duration
		kind    string
		message string
		fresh   bool
	}{
		{"an error of the body's reader", "stream error", time.Minute, "errorString", "backend gone", false},
		{"an exit", "stream exit", time.Minute, "Runtime.ExitError", "exit status 5", true},
		{"a timeout", "stream hang", brief, "Sandbox.Timedout", "timed out after 2.00 seconds", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, g := start(t, lambdahost.Config{Timeout: tt.timeout}), newGate(t)
			before := pidOf(t, h)
			r := invoke(t, h, event{Do: tt.do, Text: "backend gone", Gate: g.URL})
			if r.Stream == nil {
				t.Fatalf("no stream: %+v", r.Err)
			}
			first := make([]byte, len("first,"))
			if _, err := io.ReadFull(r.Stream.Body, first); err != nil {
				t.Fatalf("what came before the fault: %q, %v", first, err)
			}
			close(g.open)
			rest, err := io.ReadAll(r.Stream.Body)
			if len(rest) != 0 {
				t.Errorf("after the fault came %q", rest)
			}
			var failure *lambdahost.FunctionError
			if !errors.As(err, &failure) || failure.Type != tt.kind || !strings.Contains(failure.Message, tt.message) {
				t.Errorf("the body ended with %v, want %s with %q", err, tt.kind, tt.message)
			}
			if after := pidOf(t, h); (after != before) != tt.fresh {
				t.Errorf("process %d, then %d; fresh wanted: %v", before, after, tt.fresh)
			}
		})
	}
}

func TestAReaderWhoLeavesDoesNotStopTheFunction(t *testing.T) {
	t.Parallel()
	h, g := start(t, lambdahost.Config{}), newGate(t)
	before := pidOf(t, h)
	r := invoke(t, h, event{Do: "stream", Gate: g.URL})
	r.Stream.Body.Close()
	close(g.open)
	if pidOf(t, h) != before {
		t.Error("the process ended with its reader")
	}
}

func TestACallerWhoLeavesDoesNotStopTheFunction(t *testing.T) {
	t.Parallel()
	for _, do := range []string{"wait", "stream late"} {
		t.Run(do, func(t *testing.T) {
			t.Parallel()
			h, g := start(t, lambdahost.Config{}), newGate(t)
			before := pidOf(t, h)
			ctx, leave := context.WithCancel(t.Context())
			go func() {
				<-g.reached
				leave()
			}()
			if _, err := h.Invoke(ctx, fmt.Appendf(nil, `{"do":%q,"gate":%q}`, do, g.URL)); !errors.Is(err, context.Canceled) {
				t.Fatalf("error = %v, want that the caller left", err)
			}
			close(g.open)
			if pidOf(t, h) != before {
				t.Error("the process ended with its caller")
			}
		})
	}
}

func TestAnEnvironmentTakesOneInvocationAtATime(t *testing.T) {
	t.Parallel()
	h, g := start(t, lambdahost.Config{}), newGate(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		open(t, h, g)
	}()
	<-g.reached
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Invoke(ctx, []byte(`{"do":"echo"}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second invocation got %v beside the first, want to queue", err)
	}
	close(g.open)
	<-done
	pidOf(t, h)
}

func TestEnvironmentsServeSideBySideUpToConcurrency(t *testing.T) {
	t.Parallel()
	h, g := start(t, lambdahost.Config{Concurrency: 2}), newGate(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { open(t, h, g) })
	}
	<-g.reached
	<-g.reached // both are inside at once
	close(g.open)
	wg.Wait()
	if first, second := pidOf(t, h), pidOf(t, h); first != second {
		t.Errorf("processes %d and %d served one after the other, want the warm one again", first, second)
	}
}

func TestTheFunctionSeesItsOwnVariablesOnly(t *testing.T) {
	t.Setenv("POSTERN_LEAK", "of the test")
	h := start(t, lambdahost.Config{FunctionName: "agents", Env: []string{"TABLE_NAME=t", "AWS_REGION=eu-west-1"}})
	var env []string
	if err := json.Unmarshal(invoke(t, h, event{Do: "env"}).Payload, &env); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"TABLE_NAME=t", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=agents", "_HANDLER=bootstrap"} {
		if !slices.Contains(env, want) {
			t.Errorf("the function lacks %s", want)
		}
	}
	for _, v := range env {
		if strings.HasPrefix(v, "POSTERN_LEAK=") || strings.HasPrefix(v, "HOME=") {
			t.Errorf("the function sees %s", v)
		}
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	h, g := start(t, lambdahost.Config{}), newGate(t)
	go func() {
		<-g.reached
		h.Close()
	}()
	r := invoke(t, h, event{Do: "hang", Gate: g.URL})
	if r.Err == nil || r.Err.Type != "Runtime.ExitError" {
		t.Errorf("failure = %v, want an exit error", r.Err)
	}
	if _, err := h.Invoke(t.Context(), []byte(`{}`)); !errors.Is(err, lambdahost.ErrClosed) {
		t.Errorf("error after Close = %v, want ErrClosed", err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func TestOnlyAnExtensionGetsASIGTERM(t *testing.T) {
	t.Parallel()
	for _, registers := range []bool{true, false} {
		var env []string
		if registers {
			env = []string{"SIGTERM=1"}
		}
		h := start(t, lambdahost.Config{Env: env, TerminationGrace: brief}) // which it uses up: its handler doesn't end it
		pidOf(t, h)
		h.Close()
		if got := strings.Contains(h.Logs(), "terminated"); got != registers {
			t.Errorf("with an extension %v, its SIGTERM handler ran: %v", registers, got)
		}
	}
}

func TestAnEventAboveTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{})
	if _, err := h.Invoke(t.Context(), make([]byte, lambdahost.MaxPayload+1)); !errors.Is(err, lambdahost.ErrPayloadTooLarge) {
		t.Errorf("error = %v, want ErrPayloadTooLarge", err)
	}
}

func TestABootstrapThatIsMissingIsAnErrorOfStart(t *testing.T) {
	t.Parallel()
	if _, err := lambdahost.Start(lambdahost.Config{Bootstrap: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a missing bootstrap started")
	}
}

func BenchmarkWarmRoundTrip(b *testing.B) {
	h := start(b, lambdahost.Config{})
	pidOf(b, h)
	payload := []byte(`{"do":"echo","text":"hello"}`)
	var inside time.Duration
	for b.Loop() {
		r, err := h.Invoke(b.Context(), payload)
		if err != nil || r.Err != nil {
			b.Fatal(err, r)
		}
		inside += r.Duration
	}
	b.ReportMetric(float64(inside.Nanoseconds())/float64(b.N), "handed-out-ns/op")
}

func BenchmarkColdStart(b *testing.B) {
	var init time.Duration
	for b.Loop() {
		h := start(b, lambdahost.Config{})
		init += invoke(b, h, event{Do: "echo"}).Init
		h.Close()
	}
	b.ReportMetric(float64(init.Microseconds())/float64(b.N), "init-µs/op")
}
