package agents_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
	"postern/shared/model"
	"postern/shared/table/memory"
)

// later is the header of who doesn't wait.
const later = "Prefer: respond-async"

// desk is threeAgents at noon, whose jobs wait until a test has them done.
type desk struct {
	*site
	served *agents.Chat
	kept   *kept
	worked logbook  // the worker's log
	sent   []string // ids, as the queue was given them
	told   []string // what callbacks were told
	down   error    // of the queue
}

func newDesk(t testing.TB, m model.Model, caller auth.Caller) *desk {
	t.Helper()
	file, err := parse(threeAgents)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{kept: newKept()}
	d.served = &agents.Chat{
		File: file, Models: agents.Models{"test": m}, Timeout: time.Minute, Sessions: d.kept,
		Jobs: &jobs.Store{Table: &memory.Table{Now: clockAtNoon}, Queue: d, Now: clockAtNoon},
	}
	d.site = siteOf(t, d.served, caller)
	return d
}

func (d *desk) Send(_ context.Context, id, _ string) error {
	if d.down == nil {
		d.sent = append(d.sent, id)
	}
	return d.down
}

// work has the last job done for who its owner is by now, and returns it.
func (d *desk) work(t testing.TB, owner auth.Caller) jobs.Job {
	t.Helper()
	if len(d.sent) == 0 {
		t.Fatal("no job is in the queue")
	}
	id := d.sent[len(d.sent)-1]
	worker := &jobs.Worker{
		Store: d.served.Jobs, Log: slog.New(slog.NewJSONHandler(&d.worked, nil)), Run: d.served.Run, Longest: time.Minute,
		Present: func(context.Context, auth.Caller) (auth.Caller, error) { return owner, nil }, Courier: courier{d},
	}
	if err := worker.Do(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	job, err := d.served.Jobs.Get(t.Context(), owner, id)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// courier takes what callbacks are told.
type courier struct{ *desk }

func (c courier) Send(_ context.Context, _ *jobs.Callback, _ string, _ http.Header, body []byte) error {
	c.told = append(c.told, strings.TrimSpace(string(body)))
	return nil
}

// never is a model that no test here may have asked.
func never(t testing.TB) part {
	return func(context.Context, model.Request, func(model.Event, error) bool) { t.Error("a model was asked") }
}

// RFC 7240, sections 2 and 4.1: who prefers not to wait.
func TestPrefer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		headers []string // values of Prefer, in order
		later   bool
	}{
		{"alone", []string{"respond-async"}, true},
		{"in another case", []string{"Respond-ASYNC"}, true},
		{"with white space around", []string{" \trespond-async \t"}, true},
		{"with a parameter", []string{"respond-async; wait=10"}, true},
		{"with a parameter and no space", []string{"respond-async;wait=10"}, true},
		{"with an empty parameter", []string{"respond-async ;"}, true},
		{"the first of a list", []string{"respond-async, wait=10"}, true},
		{"the last of a list", []string{`return=minimal; foo="some parameter", wait=10,respond-async`}, true},
		{"in a list with holes", []string{",,respond-async,"}, true},
		{"in the second of two headers", []string{"wait=10", "respond-async"}, true},
		{"in the first of two headers", []string{"respond-async", "wait=10"}, true},
		{"twice", []string{"respond-async", "respond-async"}, true},
		{"with an empty value, which is none", []string{`respond-async=""`}, true},
		{"with an empty value between spaces", []string{`respond-async = "" ; wait=10`}, true},
		{"behind a quoted comma", []string{`foo="a,b", respond-async`}, true},
		{"behind a quoted quote", []string{`foo="a\"", respond-async`}, true},
		{"behind a quoted backslash", []string{`foo="a\\", respond-async`}, true},

		{"no header", nil, false},
		{"an empty header", []string{""}, false},
		{"other preferences", []string{"wait=10, handling=lenient"}, false},
		{"a longer word", []string{"respond-asynchronous"}, false},
		{"a shorter word", []string{"respond"}, false},
		{"two words", []string{"respond async"}, false},
		{"a value of another preference", []string{"return=respond-async"}, false},
		{"a parameter of another preference", []string{"return=minimal; respond-async"}, false},
		{"with a value that it doesn't have, in quotes", []string{`respond-async="no"`}, false},
		{"in quotes", []string{`"respond-async"`}, false},
		{"in another's quotes", []string{`foo="respond-async"`}, false},
		{"between another's quoted commas", []string{`foo="a,respond-async,b"`}, false},
		{"between quoted commas behind a quoted quote", []string{`foo="\",respond-async,b"`}, false},
		{"with a value that it doesn't have", []string{"respond-async=false"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, says("x"), auth.RootCaller())
			r := chatRequest(asking("m"))
			r.Header["Prefer"] = row.headers
			got := d.send(r)
			if later := got.Status == 202 && len(d.sent) == 1; later != row.later || !later && (got.Status != 200 || len(d.sent) > 0) {
				t.Errorf("%d with %d jobs, want later: %v. %s", got.Status, len(d.sent), row.later, got.Body)
			}
		})
	}
}

// Contract §4: the answer to who doesn't wait is the job, to the letter.
func TestAcceptedChat(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"a message":                   asking("m"),
		"an agent and a session":      saying("m", `,"agent":"clerk"`),
		"nulls, which are no fields":  `{"message":"m","agent":null,"session_id":null,"stream":null,"callback":null}`,
		"a callback":                  `{"message":"m","callback":{"url":"https://hooks.example.com/x?CANARY","secret":"CANARY"}}`,
		"a callback without a secret": `{"message":"m","callback":{"url":"https://hooks.example.com/x?CANARY","secret":null}}`,
		"a stream that is not wanted": `{"message":"m","stream":false}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, never(t), auth.RootCaller())
			got := d.chat(body, later)
			if len(d.sent) != 1 {
				t.Fatalf("%d jobs are in the queue: %s", len(d.sent), got.Body)
			}
			want := `{"id":"` + d.sent[0] + `","status":"queued","created_at":"2026-03-01T12:00:00Z","started_at":null,"finished_at":null,"result":null,"error":null}` + "\n"
			if got.Status != 202 || got.Body != want {
				t.Errorf("%d\n%swant\n%s", got.Status, got.Body, want)
			}
			h := got.Header
			if h.Get("Location") != "/jobs/"+d.sent[0] || h.Get("Preference-Applied") != "respond-async" || h.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", h)
			}
			if strings.Contains(d.log.String(), "CANARY") {
				t.Errorf("P4: the log has a callback in it: %s", &d.log.Book)
			}
			if job, err := d.served.Jobs.Get(t.Context(), auth.RootCaller(), d.sent[0]); err != nil || job.Status != jobs.Queued {
				t.Errorf("%v %+v", err, job)
			}
		})
	}
}

// What can be refused at once is, and nothing is queued.
func TestRefusedAtOnce(t *testing.T) {
	t.Parallel()
	const missing = `The field "callback.url" is missing`
	with := func(callback string) string { return `{"message":"m","callback":` + callback + `}` }
	for _, row := range []struct {
		name, body string
		headers    []string
		title      string
		detail     string
	}{
		{"a callback without the preference", with(`{"url":"https://hooks.example.com/"}`), nil, "Invalid request", `"callback" is for who doesn't wait: send the header "Prefer: respond-async"`},
		{"an empty callback without the preference", with(`{}`), nil, "Invalid request", `"callback"`},
		{"an empty callback", with(`{}`), []string{later}, "Invalid request", missing},
		{"a callback of a secret alone", with(`{"secret":"CANARY"}`), []string{later}, "Invalid request", missing},
		{"a url that is null", with(`{"url":null}`), []string{later}, "Invalid request", missing},
		{"a url without TLS", with(`{"url":"http://CANARY.example.com/"}`), []string{later}, "Invalid request", `"callback.url" does not begin with https://`},
		{"a url on this machine", with(`{"url":"https://127.0.0.1/CANARY"}`), []string{later}, "Invalid request", `"callback.url" has a private or reserved address`},
		{"a secret that is too long", with(`{"url":"https://hooks.example.com/","secret":"` + strings.Repeat("x", 513) + `"}`), []string{later}, "Invalid request", `"callback.secret" is too long`},
		{"an unknown field in it", with(`{"url":"https://hooks.example.com/","x":1}`), []string{later}, "Invalid request", `"callback.x" is not known here. Known: "url", "secret".`},
		{"an unknown field in it without the preference", with(`{"x":1}`), nil, "Invalid request", `"callback.x"`},
		{"a callback that is a string", with(`"https://hooks.example.com/CANARY"`), []string{later}, "Invalid request", `"callback" takes an object, not a string`},
		{"a callback that is a list", with(`[]`), []string{later}, "Invalid request", `"callback" takes an object, not an array`},
		{"a url that is a number", with(`{"url":1}`), []string{later}, "Invalid request", `"callback.url" takes a string, not a number`},
		{"a secret that is an object", with(`{"secret":{}}`), []string{later}, "Invalid request", `"callback.secret" takes a string, not an object`},
		{"a stream", `{"message":"m","stream":true}`, []string{later}, "Invalid request", `leave out "stream"`},
		{"a stream by Accept", asking("m"), []string{later, "Accept: text/event-stream"}, "Invalid request", `"Accept: text/event-stream"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, never(t), auth.RootCaller())
			got := d.chat(row.body, row.headers...)
			p := got.problem(t)
			if got.Status != 400 || p.Error != row.title || !strings.Contains(p.Detail, row.detail) || len(d.sent) != 0 {
				t.Errorf("%d %s, %d jobs", got.Status, got.Body, len(d.sent))
			}
			if strings.Contains(got.everything()+d.log.String(), "CANARY") {
				t.Errorf("P4: a callback is repeated: %s", got.Body)
			}
		})
	}
}

// Who doesn't wait is refused what who waits is refused, in the same words.
func TestRefusedAlike(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		body   string
		status int
	}{
		{`{}`, 400}, {`{"message":null}`, 400}, {`{"message":" \n"}`, 400}, {`{"message":1}`, 400}, {`{"message":["m"]}`, 400},
		{asking(strings.Repeat("a", agents.MaxMessage+1)), 413},
		{`{"message":"m","prompt":"p"}`, 400}, {`{"message":"m"`, 400}, {``, 400}, {`[]`, 400},
		{`{"message":"m","agent":1}`, 400}, {`{"message":"m","agent":"nobody"}`, 404}, {`{"message":"m","agent":"clerk"}`, 404},
		{`{"message":"m","session_id":""}`, 400}, {`{"message":"m","session_id":"a/b"}`, 400}, {`{"message":"m","session_id":7}`, 400},
	} {
		d := newDesk(t, never(t), only("judge"))
		waited, got := d.chat(row.body), d.chat(row.body, later)
		if got.Status != row.status || got.Body != waited.Body || len(d.sent) != 0 {
			t.Errorf("%.40s: %d %s, %d jobs; who waits is told %d %s", row.body, got.Status, got.Body, len(d.sent), waited.Status, waited.Body)
		}
	}
}

// Contract §5: what fails closed before anything is queued.
func TestNothingIsQueued(t *testing.T) {
	t.Parallel()
	d := newDesk(t, never(t), auth.AnonymousCaller())
	if p := d.chat(asking("m"), later).problem(t); p.Status != 400 || !strings.Contains(p.Detail, "needs a credential") || len(d.sent) != 0 {
		t.Errorf("anonymous: %+v, %d jobs", p, len(d.sent))
	}
	d = newDesk(t, never(t), auth.RootCaller())
	d.kept.reading = api.Because(api.Unavailable, errors.New(upstream))
	if p := d.chat(saying("m", ""), later).problem(t); p.Status != 503 || len(d.sent) != 0 {
		t.Errorf("conversations are down: %+v, %d jobs", p, len(d.sent))
	}
	d = newDesk(t, never(t), auth.RootCaller())
	d.down = errors.New(upstream)
	got := d.chat(asking("m"), later)
	if p := got.problem(t); p.Error != "Service unavailable" || got.Header.Get("Retry-After") == "" || got.Header.Get("Location") != "" || strings.Contains(got.everything(), "CANARY") {
		t.Errorf("the queue is down: %+v %v", p, got.Header)
	}
	if list, _, err := d.served.Jobs.List(t.Context(), auth.RootCaller(), "", 10); err != nil || len(list) != 0 {
		t.Errorf("%v: %d jobs are left of one that nobody will do", err, len(list))
	}
}

// A server without a queue heeds no preference, as RFC 7240 lets it.
func TestWithoutAQueue(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("Good ", "day."), auth.RootCaller())
	got := s.chat(asking("m"), later)
	if got.Status != 200 || !strings.Contains(got.Body, `"response":"Good day."`) || got.Header.Get("Preference-Applied") != "" || got.Header.Get("Location") != "" {
		t.Errorf("%d %v %s", got.Status, got.Header, got.Body)
	}
	if got := s.chat(`{"message":"m","stream":true}`, later); got.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("a stream: %d %s", got.Status, got.Body)
	}
	if p := s.chat(`{"message":"m","callback":{"url":"https://hooks.example.com/"}}`, later).problem(t); p.Status != 400 || !strings.Contains(p.Detail, `"callback"`) {
		t.Errorf("a callback: %+v", p)
	}
}

// Contract §4: the result of a job is what POST /chat would have answered.
func TestAJobsResultIsTheReply(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"a message":  asking("m"),
		"an agent":   `{"message":"m","agent":"clerk"}`,
		"a session":  saying("m", ""),
		"any script": asking(`"<Ä日🙂>` + "\u2028&"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			waited := newDesk(t, says("Good ", "<day>."), auth.RootCaller()).chat(body).Body
			d := newDesk(t, says("Good ", "<day>."), auth.RootCaller())
			d.chat(body, later)
			job := d.work(t, auth.RootCaller())
			if job.Status != jobs.Succeeded || job.Error != nil || string(job.Result) != waited {
				t.Errorf("%s %+v\n%swant\n%s", job.Status, job.Error, job.Result, waited)
			}
		})
	}
	d := newDesk(t, says("x"), auth.RootCaller())
	result, err := d.served.Run(t.Context(), auth.RootCaller(), "the request that asked", []byte(asking("m")))
	if text, _ := json.Marshal(result); err != nil || !strings.Contains(string(text), `"request_id":"the request that asked"`) {
		t.Errorf("%v %s", err, text)
	}
	if result, err := d.served.Run(t.Context(), auth.RootCaller(), "ID", []byte(`{"message":`)); err == nil || result != nil {
		t.Errorf("half a request: %v %v", result, err)
	}
}

// Contract §4: a callback is told of the job as its owner reads it.
func TestAJobsCallback(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		m    model.Model
		part string
	}{
		"a success": {says("Good <day>."), `"status":"succeeded","created_at":"2026-03-01T12:00:00Z","started_at":"2026-03-01T12:00:00Z","finished_at":"2026-03-01T12:00:00Z","result":{"response":"Good <day>.",`},
		"a failure": {failsAfter(model.ErrFailed), `"result":null,"error":{"status":502,`},
	} {
		d := newDesk(t, row.m, auth.RootCaller())
		d.chat(`{"message":"m","callback":{"url":"https://hooks.example.com/","secret":"s"}}`, later)
		if len(d.told) != 0 {
			t.Errorf("%s: a callback is told %q before the end", name, d.told)
		}
		job, err := api.Encode(d.work(t, auth.RootCaller()))
		if want := string(job); err != nil || len(d.told) != 1 || d.told[0] != strings.TrimSpace(want) || !strings.Contains(want, row.part) {
			t.Errorf("%s: the callback is told %q, %v; the job is %s", name, d.told, err, job)
		}
	}
	d := newDesk(t, says("x"), auth.RootCaller())
	d.chat(asking("m"), later)
	if d.work(t, auth.RootCaller()); len(d.told) != 0 {
		t.Errorf("without a callback somebody is told %q", d.told)
	}
}

// A job goes on with a conversation as it is when it runs, and adds to it.
func TestAJobInASession(t *testing.T) {
	t.Parallel()
	script := &script{}
	d := newDesk(t, part(script.answer), auth.RootCaller())
	d.chat(saying("later", ""), later)
	d.chat(saying("sooner", ""))
	if job := d.work(t, auth.RootCaller()); !strings.Contains(string(job.Result), `"session_id":"s"`) {
		t.Errorf("%s %s", job.Status, job.Result)
	}
	d.chat(saying("after", ""))
	want := said("sooner", "answer 1", "later", "answer 2", "after")
	if diff := cmp.Diff(want, script.asked[2].Messages); diff != "" {
		t.Errorf("the last model was told (-want +got):\n%s", diff)
	}
}

// An answer is not lost where its turn is: as for who waits.
func TestAJobWhoseTurnIsLost(t *testing.T) {
	t.Parallel()
	d := newDesk(t, says("Good day."), auth.RootCaller())
	d.kept.adding = errors.New(upstream)
	result, err := d.served.Run(t.Context(), auth.RootCaller(), "ID", []byte(saying("m", "")))
	text, _ := json.Marshal(result)
	if err == nil || !strings.Contains(err.Error(), "lost to its conversation") || !strings.Contains(string(text), "Good day.") || strings.Contains(string(text), "session_id") {
		t.Errorf("%v %s", err, text)
	}
	d.chat(saying("m", ""), later)
	job := d.work(t, auth.RootCaller())
	if job.Status != jobs.Succeeded || job.Error != nil || strings.Contains(string(job.Result), "CANARY") || !strings.Contains(d.worked.String(), "lost to its conversation") {
		t.Errorf("%+v, the log: %s", job, &d.worked)
	}
}

// What a job fails of, its owner is told as who waits is told.
func TestAJobThatFails(t *testing.T) {
	t.Parallel()
	clerkOnly := auth.RootCaller()
	clerkOnly.Agents = []string{"clerk"}
	for _, row := range []struct {
		name   string
		m      model.Model
		body   string
		owner  auth.Caller // when it runs
		status int
		title  string
	}{
		{"an agent that was forbidden since", says("x"), `{"message":"m","agent":"judge"}`, clerkOnly, 404, "Not found"},
		{"a model that fails", failsAfter(errors.Join(model.ErrFailed, errors.New(upstream)), "Half "), asking("m"), auth.RootCaller(), 502, "Model backend failed"},
		{"a model that isn't there", failsAfter(errors.Join(model.ErrUnavailable, errors.New(upstream))), asking("m"), auth.RootCaller(), 503, "Model backend unavailable"},
		{"a model that panics", panicsAfter(upstream, "Half "), asking("m"), auth.RootCaller(), 500, "Internal error"},
		{"a budget that nobody keeps", says("x"), asking("m"), withBudget(1000), 503, "Service unavailable"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			asks := auth.RootCaller()
			asks.ID = row.owner.ID
			d := newDesk(t, row.m, asks)
			d.chat(strings.TrimSuffix(row.body, "}")+`,"session_id":"s"}`, later)
			job := d.work(t, row.owner)
			if job.Status != jobs.Failed || job.Result != nil || job.Error == nil || job.Error.Status != row.status || job.Error.Error != row.title || job.Error.RequestID != "ID" {
				t.Errorf("%s %s %+v", job.Status, job.Result, job.Error)
			}
			if told, _ := json.Marshal(job); strings.Contains(string(told), "CANARY") {
				t.Errorf("P4: %s", told)
			}
			for _, call := range d.kept.calls {
				if strings.HasPrefix(call, "append") {
					t.Errorf("a failure is a turn: %s", call)
				}
			}
		})
	}
	// An agent that is no longer in the file is one that there isn't.
	d := newDesk(t, never(t), auth.RootCaller())
	if _, err := d.served.Run(t.Context(), auth.RootCaller(), "ID", []byte(`{"message":"m","agent":"nobody"}`)); !errors.Is(err, agents.ErrNoAgent) {
		t.Error(err)
	}
}

// The default agent is the default of the caller as it is by now.
func TestAJobsDefaultAgent(t *testing.T) {
	t.Parallel()
	d := newDesk(t, says("x"), only("judge"))
	d.chat(asking("m"), later)
	if job := d.work(t, only("usher")); !strings.Contains(string(job.Result), `"agent":"usher"`) {
		t.Errorf("%s %s", job.Status, job.Result)
	}
}

// A job has a chat's time, and on Lambda ends before the deadline.
func TestAJobThatTakesTooLong(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		deadline time.Duration // of the process; 0: none
		after    time.Duration
	}{
		{"CHAT_TIMEOUT", 0, time.Minute},
		{"5 s before the Lambda's end", 30 * time.Second, 25 * time.Second},
		{"a Lambda that has longer", time.Hour, time.Minute},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, hangsAfter("Half "), auth.RootCaller())
				ctx, since := t.Context(), time.Now()
				if row.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, row.deadline)
					defer cancel()
				}
				result, err := d.served.Run(ctx, auth.RootCaller(), "ID", []byte(saying("m", "")))
				if took := time.Since(since); result != nil || api.CodeOf(err) != api.ModelTimeout || took != row.after {
					t.Errorf("%v %v after %v", result, err, took)
				}
				if len(d.kept.calls) != 1 {
					t.Errorf("the conversations were asked %q", d.kept.calls)
				}
			})
		})
	}
}

// Contract §5: a job is on its owner's account, as a chat is.
func TestAJobsBudget(t *testing.T) {
	t.Parallel()
	d, budget := newDesk(t, says("x"), withBudget(10_000)), newCounted()
	var ran []string
	d.served.Budget = budget
	d.served.Ran = func(_ context.Context, caller auth.Caller, agent string, _ time.Time, used model.Usage) {
		ran = append(ran, caller.ID+" "+agent)
	}
	d.chat(asking("m"), later)
	if len(budget.asked) != 0 || len(ran) != 0 {
		t.Errorf("before it runs: %q, %q", budget.asked, ran)
	}
	if job := d.work(t, withBudget(10_000)); job.Status != jobs.Succeeded || len(budget.settled) != 1 || cmp.Diff([]string{"key judge"}, ran) != "" {
		t.Errorf("%s %+v, settled %v, told of %q", job.Status, job.Error, budget.settled, ran)
	}
	d.chat(asking("m"), later)
	job := d.work(t, withBudget(1))
	if job.Status != jobs.Failed || job.Error.Status != http.StatusTooManyRequests || job.Error.Error != "Token budget exceeded" || len(ran) != 1 {
		t.Errorf("%s %+v, told of %q", job.Status, job.Error, ran)
	}
}
