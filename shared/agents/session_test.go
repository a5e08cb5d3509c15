package agents_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/sessions"
	"postern/shared/table/memory"
)

// kept is conversations that can be made to fail. It notes what it is asked.
type kept struct {
	agents.Sessions
	reading, adding error
	calls           []string
}

func newKept() *kept {
	return &kept{Sessions: &sessions.Store{Table: &memory.Table{}, Keep: time.Hour}}
}

func (k *kept) Read(ctx context.Context, caller auth.Caller, id string) ([]model.Message, error) {
	k.calls = append(k.calls, "read "+caller.ID+" "+id)
	if k.reading != nil {
		return nil, k.reading
	}
	return k.Sessions.Read(ctx, caller, id)
}

func (k *kept) Append(ctx context.Context, caller auth.Caller, id, agent, message, answer string) error {
	k.calls = append(k.calls, fmt.Sprintf("append %s %s %s %q %q", caller.ID, id, agent, message, answer))
	if k.adding != nil {
		return k.adding
	}
	return k.Sessions.Append(ctx, caller, id, agent, message, answer)
}

// newSiteKept is the agents of text, with conversations.
func newSiteKept(t testing.TB, text string, m model.Model, k *kept, caller auth.Caller) *site {
	t.Helper()
	file, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return siteOf(t, &agents.Chat{File: file, Models: agents.Models{"test": m}, Timeout: time.Minute, Sessions: k}, caller)
}

// saying is the body of a chat in the session s; more are further members.
func saying(message, more string) string {
	return strings.TrimSuffix(asking(message), "}") + `,"session_id":"s"` + more + "}"
}

func said(texts ...string) (messages []model.Message) {
	for i, text := range texts {
		messages = append(messages, model.Message{Role: []model.Role{model.User, model.Assistant}[i%2], Text: text})
	}
	return messages
}

// narrow is a model of a window of so many bytes of text. It notes how many
// messages it is told, whether or not it takes them.
func narrow(window int, told *[]int) part {
	return func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
		*told = append(*told, len(req.Messages))
		n := 0
		for _, m := range req.Messages {
			n += len(m.Text)
		}
		if n > window {
			yield(model.Event{}, fmt.Errorf("%w: status 400", model.ErrTooLong))
			return
		}
		says("0123456789")(ctx, req, yield)
	}
}

// A conversation that has outgrown its model's window goes on with what was said
// last. What the caller says itself is left as it is.
func TestASmallWindow(t *testing.T) {
	t.Parallel()
	var told []int
	k := newKept()
	s := newSiteKept(t, threeAgents, narrow(70, &told), k, auth.RootCaller())
	for i := range 6 { // of 20 bytes each
		if got := s.chat(saying("0123456789", "")); got.Status != 200 {
			t.Fatalf("chat %d: %d %s", i, got.Status, got.Body)
		}
	}
	if diff := cmp.Diff([]int{1, 3, 5, 7, 9, 5, 11, 5}, told); diff != "" {
		t.Errorf("the model was told (-want +got):\n%s", diff)
	}
	told = nil
	got := s.chat(saying(strings.Repeat("x", 71), ""))
	if got.Status != 413 || !strings.Contains(got.Body, "more than it takes at once: send less") {
		t.Errorf("%d %s", got.Status, got.Body)
	}
	if diff := cmp.Diff([]int{13, 7, 3, 1}, told); diff != "" {
		t.Errorf("the model was told (-want +got):\n%s", diff)
	}
	if len(k.calls) != 6*2+1 {
		t.Errorf("a chat that failed is kept: %q", k.calls)
	}

	told = nil
	runner := agents.Runner{File: mustParse(t, threeAgents), Models: agents.Models{"test": narrow(70, &told)}}
	what, _ := runner.Find(auth.RootCaller(), "")
	_, err := collect(runner.Run(t.Context(), what, agents.Input{Messages: said(strings.Repeat("x", 70), "y", "z")}))
	if !errors.Is(err, model.ErrTooLong) || len(told) != 1 {
		t.Errorf("a caller's own messages were told %v: %v", told, err)
	}
}

// A stream that has begun isn't begun anew.
func TestNoSecondBeginning(t *testing.T) {
	t.Parallel()
	runs := 0
	m := part(func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
		runs++
		_ = yield(model.Event{Text: "half"}, nil) && yield(model.Event{}, model.ErrTooLong)
	})
	runner := agents.Runner{File: mustParse(t, threeAgents), Models: agents.Models{"test": m}}
	what, _ := runner.Find(auth.RootCaller(), "")
	_, err := collect(runner.Run(t.Context(), what, agents.Input{Messages: said("a", "b", "c"), Past: 2}))
	if !errors.Is(err, model.ErrTooLong) || runs != 1 {
		t.Errorf("%d runs: %v", runs, err)
	}
}

// Contract §4: a conversation goes on, whichever agent answers and however it is
// asked; the system prompt is the answering agent's own.
func TestConversation(t *testing.T) {
	t.Parallel()
	var told []model.Request
	m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
		told = append(told, req)
		says("answer ", fmt.Sprint(len(told)))(ctx, req, yield)
	})
	k := newKept()
	s := newSiteKept(t, threeAgents, m, k, auth.RootCaller())
	for i, body := range []string{
		saying("one", ""), saying("two", `,"stream":true`), asking("aside"), saying("three", `,"agent":"clerk"`), `{"message":"null","session_id":null}`, saying("four", ""),
	} {
		got := s.chat(body)
		if in := strings.Contains(got.Body, `"session_id":"s"`); got.Status != 200 || in != strings.Contains(body, `"s"`) {
			t.Errorf("chat %d: %d %s", i+1, got.Status, got.Body)
		}
	}
	var got [][]model.Message
	for _, req := range told {
		got = append(got, req.Messages)
	}
	want := [][]model.Message{
		said("one"),
		said("one", "answer 1", "two"),
		said("aside"),
		said("one", "answer 1", "two", "answer 2", "three"),
		said("null"),
		said("one", "answer 1", "two", "answer 2", "three", "answer 4", "four"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the models were told (-want +got):\n%s", diff)
	}
	if told[5].System != told[0].System || told[3].System != "Write it down. "+canary {
		t.Errorf("the system prompts are %q and %q", told[0].System, told[3].System)
	}
	if len(k.calls) != 8 || k.calls[5] != `append root s clerk "three" "answer 4"` {
		t.Errorf("the conversations were asked %q", k.calls)
	}
}

// Contract §4: where session_id stands in a reply, and in a stream's last event.
func TestReplyInASession(t *testing.T) {
	t.Parallel()
	const want = `{"response":"Good day.","status":"success","agent":"judge","model":"test/one","session_id":"s","usage":{"input_tokens":7,"output_tokens":2},"request_id":"ID"}` + "\n"
	s := newSiteKept(t, threeAgents, says("Good ", "day."), newKept(), auth.RootCaller())
	if got := s.chat(saying("m", "")); got.Status != 200 || got.Body != want {
		t.Errorf("%d\n%s, want\n%s", got.Status, got.Body, want)
	}
	if got := s.chat(saying("m", `,"stream":true`)); !strings.HasSuffix(got.Body, "\n\nevent: done\ndata: "+want+"\n") {
		t.Errorf("the stream is\n%s", got.Body)
	}
}

// What is no whole answer leaves a conversation as it was.
func TestFailuresAreNoTurns(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		m    part
		more string
	}{
		{"a model that fails", failsAfter(model.ErrFailed), ""},
		{"one that fails midway", failsAfter(model.ErrFailed, "Half "), ""},
		{"one that fails midway of a stream", failsAfter(model.ErrFailed, "Half "), `,"stream":true`},
		{"one that ends without a stop", breaksOff("Half "), ""},
		{"one that panics", panicsAfter("x", "Half "), ""},
		{"one that panics in a stream", panicsAfter("x", "Half "), `,"stream":true`},
		{"an agent that there isn't", says("x"), `,"agent":"nobody"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			k := newKept()
			func() {
				defer func() { recover() }() // net/http cuts a stream's connection so
				newSiteKept(t, threeAgents, row.m, k, auth.RootCaller()).chat(saying("m", row.more))
			}()
			if calls := strings.Join(k.calls, "; "); calls != "read root s" && !(strings.Contains(row.more, "nobody") && calls == "") {
				t.Errorf("the conversations were asked %s", calls)
			}
		})
	}
}

// Nor is an answer whose caller left, or whose time was up.
func TestWhatEndsEarlyIsNoTurn(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"a reply": saying("m", ""), "a stream": saying("m", `,"stream":true`)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKept()
				s := newSiteKept(t, threeAgents, hangsAfter("Half "), k, auth.RootCaller())
				ctx, leave := context.WithTimeout(t.Context(), time.Second)
				defer leave()
				s.send(chatRequest(body).WithContext(ctx)) // the caller leaves
				s.chat(body)                               // CHAT_TIMEOUT
				if len(k.calls) != 2 || k.calls[1] != "read root s" {
					t.Errorf("the conversations were asked %q", k.calls)
				}
			})
		})
	}
}

// A caller who leaves once the answer is whole still has it in the conversation.
func TestAWholeAnswerIsKeptForWhoHasLeft(t *testing.T) {
	t.Parallel()
	k := newKept()
	ctx, leave := context.WithCancel(t.Context())
	m := part(func(c context.Context, req model.Request, yield func(model.Event, error) bool) {
		yield(model.Event{Text: "whole"}, nil)
		leave()
		yield(stop, nil)
	})
	s := newSiteKept(t, threeAgents, m, k, auth.RootCaller())
	s.ServeHTTP(httptest.NewRecorder(), chatRequest(saying("m", "")).WithContext(ctx))
	if got, err := k.Sessions.Read(t.Context(), auth.RootCaller(), "s"); err != nil || cmp.Diff(said("m", "whole"), got) != "" {
		t.Errorf("%v %v", got, err)
	}
}

// A conversation that can't be read is told before a model is asked; the form is
// an ordinary response, in a stream too.
func TestConversationsAreDown(t *testing.T) {
	t.Parallel()
	for _, more := range []string{"", `,"stream":true`} {
		k := newKept()
		k.reading = api.Because(api.Unavailable, errors.New(upstream))
		script := &script{}
		s := newSiteKept(t, threeAgents, part(script.answer), k, auth.RootCaller())
		got := s.chat(saying("m", more))
		if p := got.problem(t); got.Status != 503 || p.Error != "Service unavailable" || got.Header.Get("Retry-After") == "" || strings.Contains(got.everything(), "CANARY") {
			t.Errorf("%d %v %s", got.Status, got.Header, got.Body)
		}
		if len(script.asked) != 0 {
			t.Error("a model was asked")
		}
		if got := s.chat(asking("m")); got.Status != 200 { // what is in no conversation needs none
			t.Errorf("without a session: %d %s", got.Status, got.Body)
		}
	}
}

// An answer is not lost where its turn is: it comes without the session's id, and
// the log says why.
func TestATurnThatIsNotKept(t *testing.T) {
	t.Parallel()
	for _, more := range []string{"", `,"stream":true`} {
		k := newKept()
		k.adding = errors.New(upstream)
		s := newSiteKept(t, threeAgents, says("Good ", "day."), k, auth.RootCaller())
		got := s.chat(saying("m", more))
		if got.Status != 200 || !strings.Contains(got.Body, `"response":"Good day."`) || strings.Contains(got.everything(), "session_id") || strings.Contains(got.everything(), "CANARY") {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		line := s.log.line(t)
		if text, _ := line["error"].(string); line["level"] != "ERROR" || line["status"] != 200.0 || line["decision"] != "allow" || !strings.Contains(text, "lost to its conversation") {
			t.Errorf("log line %v", line)
		}
	}
}

// A workflow works on the message alone; the conversation keeps it and the last
// step's answer.
func TestAWorkflowInASession(t *testing.T) {
	t.Parallel()
	const pipeline = `name: pipeline
llm: test/one
agents: {first: {role: Writer}, second: {role: Editor}}
steps: [{agent: first}, {agent: second}]
`
	k, script := newKept(), &script{}
	s := newSiteKept(t, pipeline, part(script.answer), k, auth.RootCaller())
	for _, message := range []string{"one", "two"} {
		if got := s.chat(saying(message, "")); got.Status != 200 || !strings.Contains(got.Body, `"session_id":"s"`) {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	}
	if len(script.asked) != 4 || len(script.asked[2].Messages) != 1 || strings.Contains(script.asked[2].Messages[0].Text, "one") {
		t.Errorf("the models were asked %+v", script.asked)
	}
	got, err := k.Sessions.Read(t.Context(), auth.RootCaller(), "s")
	if diff := cmp.Diff(said("one", "answer 2", "two", "answer 4"), got); err != nil || diff != "" {
		t.Errorf("%v: the conversation is (-want +got):\n%s", err, diff)
	}
}

// P13: one id is as many conversations as it has callers.
func TestConversationsAreTheirCallers(t *testing.T) {
	t.Parallel()
	k, script := newKept(), &script{}
	a, b := only("judge"), only("judge")
	b.ID = "another"
	for _, caller := range []auth.Caller{a, b, a, b} {
		newSiteKept(t, threeAgents, part(script.answer), k, caller).chat(saying("I am "+caller.ID, ""))
	}
	for i, want := range [][]model.Message{
		said("I am limited"), said("I am another"), said("I am limited", "answer 1", "I am limited"), said("I am another", "answer 2", "I am another"),
	} {
		if diff := cmp.Diff(want, script.asked[i].Messages); diff != "" {
			t.Errorf("chat %d (-want +got):\n%s", i+1, diff)
		}
	}
	anonymous := newSiteKept(t, threeAgents, part(script.answer), k, auth.AnonymousCaller())
	if p := anonymous.chat(saying("m", "")).problem(t); p.Status != 400 || !strings.Contains(p.Detail, `"session_id"`) || len(script.asked) != 4 {
		t.Errorf("%+v, and the model was asked %d times", p, len(script.asked))
	}
}
