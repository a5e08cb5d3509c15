package bedrock_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"

	"postern/shared/model"
	"postern/shared/model/bedrock"
	"postern/tests/bedrockfake"
)

// Canaries: what of them ever shows in an error or an answer has leaked (P4).
const (
	accessKey    = "AKIACANARYCANARYCANA"
	secretKey    = "canary/SecretAccessKey/0123456789abcdefg"
	sessionToken = "canarySessionTokenIQoJb3JpZ2luX2VjEJr0123456789"
	bearerToken  = "canaryBearerTokenABSKQmVkcm9ja0FQSUtleQ"
)

// patience is more than anything here takes.
const patience = 30 * time.Second

func environment(url string) map[string]string {
	return map[string]string{
		"AWS_REGION":                       "eu-west-1",
		"AWS_ACCESS_KEY_ID":                accessKey,
		"AWS_SECRET_ACCESS_KEY":            secretKey,
		"AWS_SESSION_TOKEN":                sessionToken,
		"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": url,
	}
}

func open(t testing.TB, env map[string]string, with ...bedrock.Option) model.Model {
	t.Helper()
	m, err := bedrock.New(func(name string) string { return env[name] }, with...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// start returns a fake, and a model on it whose requests must break no rule.
func start(t testing.TB) (*bedrockfake.Server, model.Model) {
	t.Helper()
	fake := bedrockfake.Start()
	t.Cleanup(func() {
		fake.Close()
		if v := fake.Violations(); len(v) != 0 {
			t.Errorf("requests break rules of Bedrock's: %q", v)
		}
	})
	return fake, open(t, environment(fake.URL))
}

func hello() model.Request {
	return model.Request{Model: "amazon.nova-lite-v1:0", Messages: []model.Message{{Role: model.User, Text: "Hello?"}}}
}

// collect reads a whole answer, and sees to what every answer must be: events
// of one part each, exactly one Stop or one error, and that at the end.
func collect(ctx context.Context, t testing.TB, m model.Model, req model.Request) (events []model.Event, failed error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ended := false
	for event, err := range m.Stream(ctx, req) {
		if ended {
			t.Errorf("after its end the answer goes on: %v, %v", event, err)
		}
		if err != nil {
			failed, ended = err, true
			if event != (model.Event{}) {
				t.Errorf("an event beside the error: %v", event)
			}
			continue
		}
		ended = event.Stop != ""
		parts := 0
		for _, there := range []bool{event.Text != "", event.ToolCall != nil, event.Stop != ""} {
			if there {
				parts++
			}
		}
		if parts != 1 {
			t.Errorf("an event of %d parts: %+v", parts, event)
		}
		events = append(events, event)
	}
	if !ended {
		t.Error("the answer has neither a stop nor an error")
	}
	return events, failed
}

func end(reason model.StopReason) model.Event {
	return model.Event{Stop: reason, Usage: model.Usage{InputTokens: 10, OutputTokens: 2}}
}

func call(id, name, arguments string) model.Event {
	return model.Event{ToolCall: &model.ToolCall{ID: id, Name: name, Arguments: []byte(arguments)}}
}

func steps(parts ...any) (all []bedrockfake.Step) {
	for _, part := range parts {
		switch p := part.(type) {
		case bedrockfake.Step:
			all = append(all, p)
		case []bedrockfake.Step:
			all = append(all, p...)
		}
	}
	return all
}

func bytewise(script []bedrockfake.Step) (all []bedrockfake.Step) {
	for _, b := range bedrockfake.Record(script...) {
		all = append(all, bedrockfake.Bytes([]byte{b}))
	}
	return all
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	begin, stop, usage := bedrockfake.MessageStart(), bedrockfake.Stop, bedrockfake.Usage(10, 2)
	for _, test := range []struct {
		name   string
		script []bedrockfake.Step
		want   []model.Event
	}{
		{"pieces of text are passed on as they are",
			bedrockfake.Say("Grü", "ß Gott,\n", " \"Welt\"", " 👋"),
			[]model.Event{{Text: "Grü"}, {Text: "ß Gott,\n"}, {Text: " \"Welt\""}, {Text: " 👋"}, end(model.EndTurn)}},
		{"frames that come byte by byte are put together",
			bytewise(bedrockfake.Say("one", "two")),
			[]model.Event{{Text: "one"}, {Text: "two"}, end(model.EndTurn)}},
		{"an empty piece is no event",
			bedrockfake.Say("", "a", ""),
			[]model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"an answer may be without text", bedrockfake.Say(), []model.Event{end(model.EndTurn)}},
		{"a tool call is put together of its fragments, after the text before it",
			steps(begin, bedrockfake.Text("Let me see."), bedrockfake.BlockStop(0),
				bedrockfake.ToolStart(1, "t1", "search"), bedrockfake.ToolInput(1, ""), bedrockfake.ToolInput(1, `{"query": "a`),
				bedrockfake.ToolInput(1, ` b", "n": 12345678901234567890}`), bedrockfake.BlockStop(1), stop("tool_use"), usage),
			[]model.Event{{Text: "Let me see."}, call("t1", "search", `{"query": "a b", "n": 12345678901234567890}`), end(model.ToolUse)}},
		{"tool calls that arrive interleaved are kept apart",
			steps(begin, bedrockfake.ToolStart(1, "t1", "one"), bedrockfake.ToolStart(2, "t2", "two"),
				bedrockfake.ToolInput(1, `{"a"`), bedrockfake.ToolInput(2, `{"b"`), bedrockfake.ToolInput(1, `:1}`), bedrockfake.ToolInput(2, `:2}`),
				bedrockfake.BlockStop(2), bedrockfake.BlockStop(1), stop("tool_use"), usage),
			[]model.Event{call("t2", "two", `{"b":2}`), call("t1", "one", `{"a":1}`), end(model.ToolUse)}},
		{"a tool call without arguments has an empty object",
			steps(begin, bedrockfake.ToolStart(0, "t1", "now"), bedrockfake.BlockStop(0),
				bedrockfake.ToolStart(1, "t2", "now"), bedrockfake.ToolInput(1, " "), bedrockfake.BlockStop(1), stop("tool_use"), usage),
			[]model.Event{call("t1", "now", `{}`), call("t2", "now", `{}`), end(model.ToolUse)}},
		{"the usage may come before the stop",
			steps(begin, bedrockfake.Text("a"), usage, stop("end_turn")),
			[]model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"what comes after the end is not looked at",
			steps(bedrockfake.Say("a"), bedrockfake.Text("b"), stop("max_tokens"), bedrockfake.Exception("throttlingException", "late")),
			[]model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"reasoning, citations and events of a newer Bedrock are passed over",
			steps(begin,
				bedrockfake.Event("contentBlockDelta", map[string]any{"contentBlockIndex": 0, "delta": map[string]any{"reasoningContent": map[string]any{"text": "hm"}}}),
				bedrockfake.Event("contentBlockDelta", map[string]any{"contentBlockIndex": 0, "delta": map[string]any{"somethingNew": map[string]any{"text": "x"}}}),
				bedrockfake.Event("somethingNew", map[string]any{"text": "x"}),
				bedrockfake.Say("a")),
			[]model.Event{{Text: "a"}, end(model.EndTurn)}},
		{"what a prompt cache took counts as input",
			steps(begin, stop("end_turn"), bedrockfake.Event("metadata", map[string]any{"usage": map[string]any{
				"inputTokens": 5, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 2, "outputTokens": 2, "totalTokens": 12}})),
			[]model.Event{end(model.EndTurn)}},
		{"a count below zero is none",
			steps(begin, stop("end_turn"), bedrockfake.Usage(-5, -1)),
			[]model.Event{{Stop: model.EndTurn}}},
		{"stopped by a sequence", steps(begin, stop("stop_sequence"), usage), []model.Event{end(model.EndTurn)}},
		{"stopped at the bound", steps(begin, stop("max_tokens"), usage), []model.Event{end(model.MaxTokens)}},
		{"stopped at the model's window", steps(begin, stop("model_context_window_exceeded"), usage), []model.Event{end(model.MaxTokens)}},
		{"stopped by a guardrail", steps(begin, stop("guardrail_intervened"), usage), []model.Event{end(model.Filtered)}},
		{"stopped by a filter", steps(begin, stop("content_filtered"), usage), []model.Event{end(model.Filtered)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			fake.Script(test.script...)
			events, err := collect(t.Context(), t, m, hello())
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, events); diff != "" {
				t.Errorf("the answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPiecesArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	first, releaseFirst := bedrockfake.Gate()
	second, releaseSecond := bedrockfake.Gate()
	fake.Script(steps(bedrockfake.MessageStart(), first, bedrockfake.Text("one"), second, bedrockfake.Text("two"),
		bedrockfake.Stop("end_turn"), bedrockfake.Usage(10, 2))...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	time.AfterFunc(10*time.Millisecond, releaseFirst)
	var got []model.Event
	for event, err := range m.Stream(ctx, hello()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, event)
		if event.Text == "one" {
			releaseSecond() // what comes after can't have been sent before
		}
	}
	if diff := cmp.Diff([]model.Event{{Text: "one"}, {Text: "two"}, end(model.EndTurn)}, got); diff != "" {
		t.Errorf("the answer (-want +got):\n%s", diff)
	}
}

func TestWhoeverLeavesEndsTheCall(t *testing.T) {
	t.Parallel()
	speaks := steps(bedrockfake.MessageStart(), bedrockfake.Text("one"), bedrockfake.Hang())
	for _, test := range []struct {
		name   string
		script []bedrockfake.Step
		fault  *bedrockfake.Fault
		leave  func(cancel func())      // while the answer hangs
		each   func(cancel func()) bool // at each event; false breaks out
		want   error                    // nil: none is yielded
	}{
		{"the context ends before the response", nil, bedrockfake.Stall(), func(cancel func()) { cancel() }, nil, context.Canceled},
		{"the context ends before the first event", steps(bedrockfake.Begin(), bedrockfake.Hang()), nil, func(cancel func()) { cancel() }, nil, context.Canceled},
		{"the context ends in the middle", speaks, nil, nil, func(cancel func()) bool { cancel(); return true }, context.Canceled},
		{"the consumer breaks out", speaks, nil, nil, func(func()) bool { return false }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			fake.Script(test.script...)
			if test.fault != nil {
				fake.Inject(test.fault)
			}
			patient, stop := context.WithTimeout(t.Context(), patience)
			defer stop()
			ctx, cancel := context.WithCancel(patient)
			defer cancel()
			if test.leave != nil {
				go func() {
					fake.Await(patient, 1)
					time.Sleep(20 * time.Millisecond)
					test.leave(cancel)
				}()
			}
			var failed error
			for event, err := range m.Stream(ctx, hello()) {
				if failed = err; err == nil && (event.Text != "one" || !test.each(cancel)) {
					break
				}
			}
			if test.want == nil && failed != nil || !errors.Is(failed, test.want) {
				t.Errorf("the error is %v, want %v", failed, test.want)
			}
			if err := fake.AwaitLeft(patient, 1); err != nil {
				t.Error("the fake doesn't see the client leave:", err)
			}
			if n := len(fake.Calls()); n != 1 {
				t.Errorf("%d calls, want 1", n)
			}
		})
	}
}

func TestADeadlineIsATimeout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		script []bedrockfake.Step
		fault  *bedrockfake.Fault
	}{
		{"before the response", nil, bedrockfake.Stall()},
		{"in the middle", steps(bedrockfake.MessageStart(), bedrockfake.Text("one"), bedrockfake.Hang()), nil},
		{"in the pause before the second try", nil, bedrockfake.Fail(503, "ServiceUnavailableException", "")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			for n := 0; n < 50 && calls == 0; n++ { // on a busy machine the deadline may come before the call does
				fake, m := start(t)
				fake.Script(test.script...)
				if test.fault != nil {
					fake.Inject(test.fault)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				began := time.Now()
				_, err := collect(ctx, t, m, hello())
				if !errors.Is(err, model.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the error is %v, want a timeout of the context's", err)
				}
				if took := time.Since(began); took > patience/2 {
					t.Errorf("it takes %v", took)
				}
				calls = len(fake.Calls())
			}
			if calls != 1 {
				t.Errorf("%d calls, want 1", calls)
			}
		})
	}
}

func TestAContextThatHasEndedCallsNobody(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := collect(ctx, t, m, hello()); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, want the context's", err)
	}
	if n := len(fake.Calls()); n != 0 {
		t.Errorf("%d calls, want none", n)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	// An unknown event makes the SDK encode it again, which its own codec can't do
	// for two streams at once.
	unknown := bedrockfake.Event("somethingNew", map[string]any{"text": strings.Repeat("x", 1000)})
	fake.Script(steps(bedrockfake.MessageStart(), unknown, bedrockfake.Text("a"), unknown, bedrockfake.Text("b"), unknown,
		bedrockfake.Stop("end_turn"), bedrockfake.Usage(10, 2))...)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 4 {
				events, err := collect(t.Context(), t, m, hello())
				if want := []model.Event{{Text: "a"}, {Text: "b"}, end(model.EndTurn)}; err != nil || !cmp.Equal(want, events) {
					t.Errorf("an answer is %+v, %v", events, err)
				}
			}
		})
	}
	all.Wait()
}

// TestAFastAnswerIsNotLost: a request whose response begins at once used to lose
// its connection now and then; see awsclient.HTTP.
func TestAFastAnswerIsNotLost(t *testing.T) { // takes the machine for itself: not parallel
	fake, m := start(t)
	const calls = 500
	for range calls {
		if _, err := collect(t.Context(), t, m, hello()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(fake.Calls()); n != calls {
		t.Errorf("%d calls, want %d", n, calls)
	}
}

// Under load a body's end may come too late to be waited for, but not each time.
func TestAConnectionIsUsedAgain(t *testing.T) { // minds the time: not parallel
	fake, m := start(t)
	for n := 1; n <= 100; n++ {
		late, release := bedrockfake.Gate()
		fake.Script(steps(bedrockfake.Say("a"), late)...)
		time.AfterFunc(10*time.Millisecond, release)
		if _, err := collect(t.Context(), t, m, hello()); err != nil {
			t.Fatal(err)
		}
		if n >= 8 && fake.Connections() <= n/2 {
			return
		}
	}
	t.Errorf("100 answers took %d connections, want 1", fake.Connections())
}

func TestAnEndThatHangsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	fake.Script(steps(bedrockfake.Say("a"), bedrockfake.Hang())...)
	began := time.Now()
	if _, err := collect(t.Context(), t, m, hello()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it takes %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := fake.AwaitLeft(ctx, 1); err != nil {
		t.Error(err)
	}
}

func TestNothingIsLeftRunning(t *testing.T) { // counts goroutines: not parallel
	fake, m := start(t)
	fake.Script(steps(bedrockfake.MessageStart(), bedrockfake.Text("a"), bedrockfake.Text("b"), bedrockfake.Hang())...)
	before := runtime.NumGoroutine()
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for _, err := range m.Stream(ctx, hello()) {
			if err != nil || i%2 == 0 {
				break
			}
			cancel()
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := fake.AwaitLeft(ctx, 40); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before+5; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	_, err := bedrock.New(func(string) string { return "" })
	if err == nil || !strings.HasPrefix(err.Error(), "AWS_REGION: ") {
		t.Errorf("without a region the error is %v, want one that names AWS_REGION", err)
	}
	if _, err := bedrock.New(func(name string) string { return map[string]string{"AWS_REGION": "eu-west-1"}[name] }); err != nil {
		t.Errorf("with a region alone the error is %v, want none: credentials are read at each request", err)
	}
	if _, err := bedrock.New(func(string) string { return "" }, bedrock.WithCredentials("eu-west-1", aws.AnonymousCredentials{})); err != nil {
		t.Errorf("with a profile's region the error is %v, want none", err)
	}
}

func TestTheEndpointForBedrockBeatsTheOneForAll(t *testing.T) {
	t.Parallel()
	right, _ := start(t)
	wrong, _ := start(t)
	env := environment(right.URL)
	env["AWS_ENDPOINT_URL"] = wrong.URL
	collect(t.Context(), t, open(t, env), hello())
	delete(env, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME")
	env["AWS_ENDPOINT_URL"] = right.URL
	collect(t.Context(), t, open(t, env), hello())
	if r, w := len(right.Calls()), len(wrong.Calls()); r != 2 || w != 0 {
		t.Errorf("%d and %d calls, want 2 and none", r, w)
	}
}

type provider func(context.Context) (aws.Credentials, error)

func (p provider) Retrieve(ctx context.Context) (aws.Credentials, error) { return p(ctx) }

func TestCredentials(t *testing.T) { // sets the process' environment: not parallel
	t.Setenv("AWS_BEARER_TOKEN_BEDROCK", bearerToken)
	fake, fromEnvironment := start(t)
	env := environment(fake.URL)
	fromProfile := open(t, env, bedrock.WithCredentials("us-west-2", provider(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKIAPROFILE", SecretAccessKey: "example"}, nil
	})))
	withoutRegion := open(t, env, bedrock.WithCredentials("", provider(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKIAPROFILE", SecretAccessKey: "example"}, nil
	})))
	for _, test := range []struct {
		name         string
		m            model.Model
		scope, token string
	}{
		{"the environment's", fromEnvironment, accessKey + "/DAY/eu-west-1/bedrock/", sessionToken},
		{"a profile's, with its region", fromProfile, "AKIAPROFILE/DAY/us-west-2/bedrock/", ""},
		{"a profile's, with the environment's region", withoutRegion, "AKIAPROFILE/DAY/eu-west-1/bedrock/", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := collect(t.Context(), t, test.m, hello()); err != nil {
				t.Fatal(err)
			}
			calls := fake.Calls()
			header := calls[len(calls)-1].Header
			day, _, _ := strings.Cut(header.Get("X-Amz-Date"), "T") // the test's own may have ended meanwhile
			scope := strings.Replace(test.scope, "DAY", day, 1)
			if got := header.Get("Authorization"); !strings.HasPrefix(got, "AWS4-HMAC-SHA256 Credential="+scope) || len(day) != 8 {
				t.Errorf("signed as %s, want %s", got, scope)
			}
			if got := header.Get("X-Amz-Security-Token"); got != test.token {
				t.Errorf("the session token is %q, want %q", got, test.token)
			}
			if strings.Contains(fmt.Sprint(header), bearerToken) {
				t.Error("AWS_BEARER_TOKEN_BEDROCK was sent")
			}
		})
	}
}

func TestWithoutCredentialsNothingIsSent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, unset, hint string }{
		{"no access key", "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"},
		{"no secret key", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set"},
		{"a profile that gives none", "", "aws sts get-caller-identity"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, _ := start(t)
			env := environment(fake.URL)
			var with []bedrock.Option
			if test.unset == "" {
				with = append(with, bedrock.WithCredentials("", provider(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{}, errors.New("parse failed of process output: " + secretKey)
				})))
			}
			delete(env, test.unset)
			_, err := collect(t.Context(), t, open(t, env, with...), hello())
			if !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), test.hint) {
				t.Errorf("the error is %v, want unavailable and %q", err, test.hint)
			}
			secretFree(t, fmt.Sprintf("%v %+v", err, err))
			if n := len(fake.Calls()); n != 0 {
				t.Errorf("%d calls, want none", n)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	const nobody = "http://127.0.0.1:1" // a port of the system's choice may soon be another test's
	_, err := collect(t.Context(), t, open(t, environment(nobody)), hello())
	if !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("the error is %v, want unavailable: connection refused", err)
	}
}

func secretFree(t testing.TB, text string) {
	t.Helper()
	for _, secret := range []string{accessKey, secretKey, sessionToken, bearerToken, "Signature="} {
		if strings.Contains(text, secret) {
			t.Errorf("%q shows in: %s", secret, text)
		}
	}
}

// TestSecretsStayOutOfFailures is P4: a server that sends back all it got.
func TestSecretsStayOutOfFailures(t *testing.T) {
	t.Parallel()
	echo := func(r *http.Request) string {
		var all strings.Builder
		fmt.Fprintf(&all, "%s\n", r.URL)
		r.Header.Write(&all)
		return all.String()
	}
	for _, test := range []struct {
		name string
		h    http.HandlerFunc
	}{
		{"a signature that doesn't match", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Amzn-ErrorType", "InvalidSignatureException")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"message":%q}`, "The Canonical String for this request should have been "+echo(r))
		}},
		{"an error page", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprintf(w, "<html>%s", echo(r))
		}},
		{"a page", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, echo(r)) }},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/?"+r.Header.Get("X-Amz-Security-Token"), http.StatusFound)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			fake.Inject(bedrockfake.Handle(test.h))
			events, err := collect(t.Context(), t, m, hello())
			if err == nil {
				t.Error("it succeeds")
			}
			secretFree(t, fmt.Sprintf("%v %v %+v", events, err, err))
		})
	}
}
