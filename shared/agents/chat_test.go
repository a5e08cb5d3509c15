package agents_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
)

// Contract §4: these members, in this order, and no others.
func TestChatReply(t *testing.T) {
	got := newSite(t, says("Good ", "day."), auth.RootCaller()).chat(asking("hello"))
	want := `{"response":"Good day.","status":"success","agent":"judge","model":"test/one","usage":{"input_tokens":7,"output_tokens":2},"request_id":"ID"}` + "\n"
	if got.Status != 200 || got.Body != want {
		t.Errorf("%d\n%s, want\n%s", got.Status, got.Body, want)
	}
	if h := got.Header; h.Get("Content-Type") != "application/json" || h.Get("X-Request-Id") != "ID" {
		t.Errorf("headers %v", h)
	}
}

// I17: the message is not ignored, and the agent is the one of the file.
func TestModelIsTold(t *testing.T) {
	const message = " Is it fair?\nAnd \u2028 \"quoted\" <b> \U0001F600 "
	for _, row := range []struct{ agent, model, system string }{
		{"judge", "one", "Your role: Judge CANARY\nYour goal: Be fair CANARY\n\nHear both. CANARY"},
		{"clerk", "two", "Write it down. CANARY"},
	} {
		t.Run(row.agent, func(t *testing.T) {
			var told []model.Request
			m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
				told = append(told, req)
				yield(stop, nil)
			})
			body := asking(message)
			newSite(t, m, auth.RootCaller()).chat(strings.TrimSuffix(body, "}") + `,"agent":"` + row.agent + `"}`)
			want := []model.Request{{
				Model:    row.model,
				System:   strings.ReplaceAll(row.system, "CANARY", canary),
				Messages: []model.Message{{Role: model.User, Text: message}},
			}}
			if diff := cmp.Diff(want, told); diff != "" {
				t.Errorf("the model was told (-want +got):\n%s", diff)
			}
		})
	}
}

// Contract §4: without a name the first agent that the caller may use.
func TestWhichAgentAnswers(t *testing.T) {
	for _, row := range []struct {
		name   string
		caller auth.Caller
		asked  string // JSON of the agent member; "": left out
		want   string // "": 404
	}{
		{"the first by default", auth.RootCaller(), "", "judge"},
		{"an empty name is no name", auth.RootCaller(), `""`, "judge"},
		{"null is no name", auth.RootCaller(), `null`, "judge"},
		{"the named one", auth.RootCaller(), `"usher"`, "usher"},
		{"the first that the caller may use", only("usher", "clerk"), "", "clerk"},
		{"the named one of those it may use", only("usher", "clerk"), `"usher"`, "usher"},
		{"not the default in place of a foreign one", only("clerk"), `"judge"`, ""},
		{"not the default in place of an unknown one", auth.RootCaller(), `"nobody"`, ""},
		{"not by another case", auth.RootCaller(), `"JUDGE"`, ""},
		{"not by a name with white space", auth.RootCaller(), `" judge"`, ""},
		{"none for who may use none", only([]string{}...), "", ""},
		{"none for who may use what there isn't", only("nobody"), `"nobody"`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			body := `{"message":"m"}`
			if row.asked != "" {
				body = `{"message":"m","agent":` + row.asked + `}`
			}
			asked := false
			m := part(func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
				asked = true
				yield(stop, nil)
			})
			got := newSite(t, m, row.caller).chat(body)
			if row.want == "" {
				if p := got.problem(t); got.Status != 404 || p.Error != "Not found" || asked {
					t.Errorf("%d %s, model asked: %v", got.Status, got.Body, asked)
				}
			} else if got.Status != 200 || !strings.Contains(got.Body, `"agent":"`+row.want+`"`) {
				t.Errorf("%d %s, want %s", got.Status, got.Body, row.want)
			}
		})
	}
}

// Contract §3: what a bad request is told. No model is asked about any of them.
func TestBadChats(t *testing.T) {
	for _, row := range []struct {
		name, body  string
		status      int
		err, detail string
	}{
		{"no message", `{}`, 400, "Message required", "a string that is not blank"},
		{"null", `{"message":null}`, 400, "Message required", ""},
		{"an empty message", `{"message":""}`, 400, "Message required", ""},
		{"a blank message", `{"message":" \t\r\n\u00a0\u2003"}`, 400, "Message required", ""},
		{"a number", `{"message":1}`, 400, "Message required", ""},
		{"a list", `{"message":["hello"]}`, 400, "Message required", ""},
		{"an object", `{"message":{"text":"hello"}}`, 400, "Message required", ""},
		{"a truth", `{"message":true}`, 400, "Message required", ""},
		{"an agent that is no string", `{"message":"m","agent":1}`, 400, "Invalid request", `"agent" takes a string, not a number`},
		{"a session that is no string", `{"message":"m","session_id":7}`, 400, "Invalid request", `"session_id" takes a string, not a number`},
		{"a stream that is no truth", `{"message":"m","stream":"yes"}`, 400, "Invalid request", `"stream" takes true or false, not a string`},
		{"an unknown field", `{"message":"m","prompt":"p"}`, 400, "Invalid request", `"prompt" is not known here. Known: "message", "agent", "session_id", "stream", "callback".`},
		{"no JSON", `hello`, 400, "Invalid request", "is not JSON"},
		{"nothing", ``, 400, "Invalid request", "is empty"},
		{"half an object", `{"message":"m"`, 400, "Invalid request", "ends in the middle"},
		{"two objects", `{"message":"m"}{}`, 400, "Invalid request", "more after"},
		{"a list of chats", `[{"message":"m"}]`, 400, "Invalid request", "a JSON object, not an array"},
	} {
		for _, accept := range []string{"application/json", "text/event-stream"} {
			t.Run(row.name+" as "+accept, func(t *testing.T) {
				m := part(func(context.Context, model.Request, func(model.Event, error) bool) { t.Error("a model was asked") })
				got := newSite(t, m, auth.RootCaller()).chat(row.body, "Accept: "+accept)
				p := got.problem(t)
				if got.Status != row.status || p.Status != row.status || p.Error != row.err || !strings.Contains(p.Detail, row.detail) {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			})
		}
	}
	r := chatRequest(asking("m"))
	r.Header.Set("Content-Type", "text/plain")
	if got := newSite(t, says("x"), auth.RootCaller()).send(r); got.Status != 415 {
		t.Errorf("text/plain: %d %s", got.Status, got.Body)
	}
}

// Contract §3: 256 KiB is a message's bound, in bytes; 1 MiB a body's.
func TestMessageSize(t *testing.T) {
	const limit = 256 << 10
	for _, row := range []struct {
		name, body string
		status     int
	}{
		{"the largest message", asking(strings.Repeat("a", limit)), 200},
		{"one byte more", asking(strings.Repeat("a", limit+1)), 413},
		{"the largest in two-byte characters", asking(strings.Repeat("é", limit/2)), 200},
		{"one character more", asking(strings.Repeat("é", limit/2+1)), 413},
		{"escapes count as what they stand for", `{"message":"` + strings.Repeat(`\n`, limit-1) + `a"}`, 200},
		{"and so one more", `{"message":"` + strings.Repeat(`\n`, limit) + `a"}`, 413},
		{"a large body around a small message", strings.Repeat(" ", 1<<20-len(asking("m"))) + asking("m"), 200},
		{"a body too large", strings.Repeat(" ", 1<<20-len(asking("m"))+1) + asking("m"), 413},
	} {
		t.Run(row.name, func(t *testing.T) {
			size := 0
			m := part(func(_ context.Context, req model.Request, yield func(model.Event, error) bool) {
				size = len(req.Messages[0].Text)
				yield(stop, nil)
			})
			got := newSite(t, m, auth.RootCaller()).chat(row.body)
			if got.Status != row.status {
				t.Errorf("%d %.200s", got.Status, got.Body)
			}
			if row.status == 413 {
				if p := got.problem(t); p.Error != "Request too large" || size != 0 {
					t.Errorf("%s, and the model got %d bytes", got.Body, size)
				}
			}
			if strings.HasPrefix(row.name, "the largest") && size != limit {
				t.Errorf("the model got %d bytes", size)
			}
		})
	}
}

// upstream is what a backend might say: nobody but the log may hear it (P4, I15).
const upstream = `post "https://10.0.0.7/v1": Incorrect API key provided: CANARY-sk-9f2c /srv/app.go:7`

// modelFailures are what a backend can do, before its first word or after.
var modelFailures = []struct {
	name   string
	err    error
	status int
	title  string
}{
	{"it answers with an error", fmt.Errorf("%w: %s", model.ErrFailed, upstream), 502, "Model backend failed"},
	{"its answer goes on and on", fmt.Errorf("%w: %s", model.ErrTooLarge, upstream), 502, "Model backend failed"},
	{"it can't be reached", fmt.Errorf("calling: %w: %s", model.ErrUnavailable, upstream), 503, "Model backend unavailable"},
	{"it is too slow", fmt.Errorf("%w: %s", model.ErrTimeout, upstream), 504, "Model backend timed out"},
	{"it is too slow, and unavailable by its own word", errors.Join(model.ErrUnavailable, model.ErrTimeout, errors.New(upstream)), 504, "Model backend timed out"},
	{"an error without a class", errors.New(upstream), 500, "Internal error"},
	{"a deadline of its own", fmt.Errorf("%s: %w", upstream, context.DeadlineExceeded), 500, "Internal error"},
	{"a cancellation of its own", fmt.Errorf("%s: %w", upstream, context.Canceled), 500, "Internal error"},
}

// Contract §3: a failure before the first piece is a problem document with its
// own status, even to who asked for a stream.
func TestModelFailsAtOnce(t *testing.T) {
	for _, row := range modelFailures {
		for _, accept := range []string{"application/json", "text/event-stream"} {
			t.Run(row.name+" as "+accept, func(t *testing.T) {
				s := newSite(t, failsAfter(row.err), auth.RootCaller())
				got := s.chat(asking("m"), "Accept: "+accept)
				p := got.problem(t)
				if got.Status != row.status || p.Status != row.status || p.Title != row.title || p.Error != row.title || p.RequestID != "ID" {
					t.Errorf("%d %s", got.Status, got.Body)
				}
				if large := errors.Is(row.err, model.ErrTooLarge); large != strings.Contains(p.Detail, "too large to be passed on: ask for less") {
					t.Errorf("the detail is %s", p.Detail) // to try again would cost as much again
				}
				if retry := got.Header.Get("Retry-After"); (retry != "") != (row.status == 503) {
					t.Errorf("Retry-After %q", retry)
				}
				checkFailureIsPrivate(t, s, got, row.status)
			})
		}
	}
}

// busy is a backend that is there and takes no more.
type busy struct {
	after time.Duration
	yes   bool
}

func (busy) Error() string                       { return upstream }
func (busy) Unwrap() error                       { return model.ErrUnavailable }
func (b busy) Overloaded() (time.Duration, bool) { return b.after, b.yes }

// A backend that is there isn't called unreachable, and when it wants to be asked
// again is passed on.
func TestOverloadedModel(t *testing.T) {
	const overloaded, unreachable = "The language model is overloaded or out of quota: try again later.", "The language model can't be reached or isn't configured: try again later."
	for _, row := range []struct {
		name          string
		err           error
		retry, detail string
	}{
		{"it says when", busy{90 * time.Second, true}, "90", overloaded},
		{"it doesn't", busy{0, true}, "5", overloaded},
		{"wrapped", fmt.Errorf("calling: %w", busy{time.Second, true}), "1", overloaded},
		{"it could say so, but isn't", busy{time.Minute, false}, "5", unreachable},
		{"one that can't", model.ErrUnavailable, "5", unreachable},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := newSite(t, failsAfter(row.err), auth.RootCaller()).chat(asking("m"))
			if p := got.problem(t); got.Status != 503 || p.Error != "Model backend unavailable" || p.Detail != row.detail || got.Header.Get("Retry-After") != row.retry {
				t.Errorf("%d %v %s", got.Status, got.Header, got.Body)
			}
			if strings.Contains(got.everything(), "CANARY") {
				t.Errorf("P4, I15: %s", got.everything())
			}
		})
	}
}

// A reply of plain JSON that breaks off in the middle is a failure as a whole.
func TestModelFailsMidwayOfJSON(t *testing.T) {
	for _, row := range modelFailures {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t, failsAfter(row.err, "Half ", "an answer"), auth.RootCaller())
			got := s.chat(asking("m"))
			if p := got.problem(t); got.Status != row.status || p.Error != row.title || strings.Contains(got.Body, "Half") {
				t.Errorf("%d %s", got.Status, got.Body)
			}
			checkFailureIsPrivate(t, s, got, row.status)
		})
	}
}

func checkFailureIsPrivate(t *testing.T, s *site, got reply, status int) {
	t.Helper()
	for _, part := range []string{"CANARY", "10.0.0.7", "app.go", "Incorrect"} {
		if strings.Contains(got.everything(), part) {
			t.Errorf("%q of the upstream's text got out:\n%s", part, got.everything())
		}
	}
	line := s.log.line(t)
	if text, _ := line["error"].(string); line["level"] != "ERROR" || line["route"] != "chat" || !strings.Contains(text, "CANARY-sk-9f2c") {
		t.Errorf("log line %v", line)
	}
}

// A model that ends without a stop may have been cut: that isn't an answer.
func TestModelEndsWithoutStop(t *testing.T) {
	for _, m := range []part{breaksOff(), breaksOff("Half ", "an answer")} {
		s := newSite(t, m, auth.RootCaller())
		if got := s.chat(asking("m")); got.Status != 502 || got.problem(t).Error != "Model backend failed" {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		if line := s.log.line(t); line["level"] != "ERROR" {
			t.Errorf("log line %v", line)
		}
	}
}

// An answer of no words is an answer, whatever the reason to stop.
func TestEmptyAnswer(t *testing.T) {
	for _, reason := range []model.StopReason{model.EndTurn, model.MaxTokens, model.Filtered} {
		got := newSite(t, saysThen(model.Event{Stop: reason}, nil), auth.RootCaller()).chat(asking("m"))
		if want := `{"response":"","status":"success"`; got.Status != 200 || !strings.HasPrefix(got.Body, want) {
			t.Errorf("%s: %d %s", reason, got.Status, got.Body)
		}
	}
}

// P15: a model that panics is a 500 without a word of why, and the next chat is
// answered.
func TestModelPanics(t *testing.T) {
	calls := 0
	m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
		if calls++; calls == 1 {
			panicsAfter(upstream)(ctx, req, yield)
		}
		says("well again")(ctx, req, yield)
	})
	s := newSite(t, m, auth.RootCaller())
	got := s.chat(asking("m"))
	if p := got.problem(t); got.Status != 500 || p.Error != "Internal error" {
		t.Errorf("%d %s", got.Status, got.Body)
	}
	checkFailureIsPrivate(t, s, got, 500)
	if got := s.chat(asking("m")); got.Status != 200 {
		t.Errorf("the next chat: %d %s", got.Status, got.Body)
	}
}

// Contract §4: CHAT_TIMEOUT, or 5 s before a Lambda's deadline, whichever comes
// first. Before the first piece that is a 504.
func TestChatIsBounded(t *testing.T) {
	for _, row := range []struct {
		name     string
		timeout  time.Duration
		deadline time.Duration // of the request; 0: none
		want     time.Duration
	}{
		{"one machine", 300 * time.Second, 0, 300 * time.Second},
		{"a timeout of one's own", time.Second, 0, time.Second},
		{"a Lambda's deadline", 300 * time.Second, 60 * time.Second, 55 * time.Second},
		{"a Lambda's deadline far away", 30 * time.Second, 900 * time.Second, 30 * time.Second},
		{"a Lambda's deadline just behind", 300 * time.Second, 301 * time.Second, 296 * time.Second},
		{"a Lambda's deadline too near to begin", 300 * time.Second, 4 * time.Second, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSiteTimeout(t, hangsAfter(), auth.RootCaller(), row.timeout)
				start := time.Now()
				r := chatRequest(asking("m"))
				if row.deadline != 0 {
					ctx, cancel := context.WithDeadline(t.Context(), start.Add(row.deadline))
					defer cancel()
					r = r.WithContext(ctx)
				}
				got := s.send(r)
				if took := time.Since(start); took != row.want {
					t.Errorf("it ended after %v, want %v", took, row.want)
				}
				if p := got.problem(t); got.Status != 504 || p.Error != "Model backend timed out" {
					t.Errorf("%d %s", got.Status, got.Body)
				}
				if line := s.log.line(t); line["level"] != "ERROR" {
					t.Errorf("log line %v", line)
				}
			})
		})
	}
}

// A model that notices the end of its time in its own way, and one that just
// ends, have timed out all the same.
func TestTimeoutInEveryDisguise(t *testing.T) {
	for name, last := range map[string]func(yield func(model.Event, error) bool){
		"the upstream's own error":   func(yield func(model.Event, error) bool) { yield(model.Event{}, errors.New("connection reset")) },
		"failed":                     func(yield func(model.Event, error) bool) { yield(model.Event{}, model.ErrFailed) },
		"cancelled":                  func(yield func(model.Event, error) bool) { yield(model.Event{}, context.Canceled) },
		"an end without a last word": func(func(model.Event, error) bool) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := part(func(ctx context.Context, _ model.Request, yield func(model.Event, error) bool) {
					<-ctx.Done()
					last(yield)
				})
				if got := newSite(t, m, auth.RootCaller()).chat(asking("m")); got.Status != 504 {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			})
		})
	}
}

// Where nobody may be silent for long, an answer in one piece ends sooner than one
// that is heard while it comes.
func TestSilence(t *testing.T) {
	for name, row := range map[string]struct {
		body string
		want time.Duration
	}{
		"in one piece": {asking("m"), 40 * time.Second},
		"streamed":     {`{"message":"m","stream":true}`, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := siteOf(t, &agents.Chat{File: mustParse(t, threeAgents), Models: agents.Models{"test": hangsAfter()}, Timeout: time.Minute, Silence: 40 * time.Second}, auth.RootCaller())
				begin := time.Now()
				got := s.chat(row.body)
				if took := time.Since(begin); took != row.want || !strings.Contains(got.Body, "Model backend timed out") {
					t.Errorf("%d after %v: %s", got.Status, took, got.Body)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // as for /v1 and /workflow
		c := newChat(t, hangsAfter(), time.Minute)
		c.Silence = 40 * time.Second
		begin := time.Now()
		_, err := c.Answers(t.Context(), auth.RootCaller(), "", agents.Ask("m"))
		if took := time.Since(begin); code(t, err) != api.ModelTimeout || took != 40*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		begin = time.Now()
		err = c.Stream(t.Context(), auth.RootCaller(), "", agents.Ask("m"), func(agents.Event) error { return nil })
		if took := time.Since(begin); code(t, err) != api.ModelTimeout || took != time.Minute {
			t.Errorf("streamed: %v after %v", err, took)
		}
	})
}

// An answer in time leaves nothing running: synctest would not end.
func TestTimeoutIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ctx context.Context
		m := part(func(c context.Context, req model.Request, yield func(model.Event, error) bool) {
			ctx = c
			says("x")(c, req, yield)
		})
		newSite(t, m, auth.RootCaller()).chat(asking("m"))
		if ctx.Err() == nil {
			t.Error("the model's context is still open after the chat")
		}
	})
}

// One Chat serves many callers at once, each with its own answer.
func TestConcurrentChats(t *testing.T) {
	echo := part(func(_ context.Context, req model.Request, yield func(model.Event, error) bool) {
		for word := range strings.SplitAfterSeq(req.Messages[0].Text, " ") {
			yield(model.Event{Text: word}, nil)
		}
		yield(stop, nil)
	})
	s := newSite(t, echo, auth.RootCaller())
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			message := fmt.Sprintf("number %d of 64", i)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, chatRequest(asking(message)))
			if !strings.HasPrefix(w.Body.String(), `{"response":"`+message+`"`) {
				t.Errorf("%q was answered with %s", message, w.Body)
			}
		})
	}
	all.Wait()
}

// Whoever keeps the usage is told of every run, under the name of what ran.
func TestRunsAreTold(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		m    model.Model
		body string
		want string // "": nobody is told
	}{
		{"a reply", says("Good ", "day."), asking("hello"), "limited judge {7 2}"},
		{"a stream", says("Good ", "day."), `{"message":"hello","stream":true}`, "limited judge {7 2}"},
		{"another agent", says("Good."), `{"message":"hello","agent":"clerk"}`, "limited clerk {7 2}"},
		{"a failure", failsAfter(model.ErrFailed, "Go"), asking("hello"), "limited judge {0 0}"},
		{"an agent that there isn't", says("x"), `{"message":"hello","agent":"nobody"}`, ""},
		{"a bad body", says("x"), `{}`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var told []string
			s := newSiteRan(t, row.m, only("judge", "clerk"), func(_ context.Context, c auth.Caller, agent string, since time.Time, used model.Usage) {
				told = append(told, fmt.Sprintf("%s %s {%d %d}", c.ID, agent, used.InputTokens, used.OutputTokens))
				if age := time.Since(since); age < 0 || age > time.Minute {
					t.Errorf("it began %s ago", age)
				}
			})
			s.chat(row.body)
			if got := strings.Join(told, "; "); got != row.want {
				t.Errorf("told %q, want %q", got, row.want)
			}
		})
	}
}
