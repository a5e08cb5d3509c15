package compat_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/compat"
	"postern/shared/jobs"
	"postern/shared/model"
	"postern/shared/route"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

// What OmniDev documents is in its docs/API_OPERATIONS.md and
// docs/N8N_ASYNC_PATTERNS.md (github.com/slaguardia/omnidev, commit d6aae9c).

// office is OmniDev's routes, over jobs that wait until a test has them done.
type office struct {
	echo
	chat      *agents.Chat
	sent      []string // ids, as the queue was given them
	delivered []jobs.Notice
	now       time.Time
	meanwhile func() // called when the model is asked; nil: nothing
}

// start is when every job here is asked for, if nothing is said: at a whole
// second, whose milliseconds are written all the same.
var start = time.Date(2025, 11, 30, 3, 12, 22, 0, time.UTC)

func newOffice(t *testing.T) *office {
	t.Helper()
	file, err := agents.Parse("agents.yaml", []byte(twoAgents), "test/echo")
	if err != nil {
		t.Fatal(err)
	}
	o := &office{now: start}
	store := &jobs.Store{Table: &memory.Table{Now: func() time.Time { return o.now }}, Queue: o, Now: func() time.Time { return o.now }}
	o.chat = &agents.Chat{File: file, Models: agents.Models{"test": o}, Timeout: time.Minute, Jobs: store}
	return o
}

// Stream answers as echo does, and takes 126 s.
func (o *office) Stream(ctx context.Context, req model.Request) iter.Seq2[model.Event, error] {
	if o.meanwhile != nil {
		o.meanwhile()
	}
	o.now = o.now.Add(126 * time.Second)
	return o.echo.Stream(ctx, req)
}

func (o *office) Send(_ context.Context, id, _ string) error {
	o.sent = append(o.sent, id)
	return nil
}

// courier takes what callbacks are told.
type courier struct{ *office }

func (c courier) Send(_ context.Context, _ *jobs.Callback, _ string, header http.Header, body []byte) error {
	c.delivered = append(c.delivered, jobs.Notice{Header: header, Body: strings.TrimSpace(string(body))})
	return nil
}

func aKey(id string) auth.Caller {
	return auth.Caller{ID: id, Kind: auth.IssuedKey, Scopes: []route.Scope{route.Chat}}
}

// as serves one caller.
func (o *office) as(t *testing.T, caller auth.Caller) http.Handler {
	t.Helper()
	handlers := compat.Chats(o.chat)
	handlers["chat"] = o.chat.Handle
	if o.chat.Jobs != nil {
		maps.Copy(handlers, compat.Jobs(o.chat.Jobs))
		maps.Copy(handlers, o.chat.Jobs.Handlers())
	}
	h, err := api.New(api.Config{
		Routes:   slices.DeleteFunc(route.Table(), func(r route.Route) bool { return handlers[r.Name] == nil }),
		Handlers: handlers, Door: door{caller}, Log: slog.New(slog.DiscardHandler), Limiter: usage.New(&memory.Table{}, slog.New(slog.DiscardHandler), nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// ask submits a question and returns its job's id.
func (o *office) ask(t *testing.T, question string) string {
	t.Helper()
	w := send(o.as(t, aKey("a")), "POST", "/api/ask", fmt.Sprintf(`{"workspaceId":"w","question":%q}`, question))
	var reply struct{ JobID string }
	if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != 200 || !jobs.ValidID(reply.JobID) {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return reply.JobID
}

// work has a job done.
func (o *office) work(t *testing.T, id string) {
	t.Helper()
	worker := &jobs.Worker{Store: o.chat.Jobs, Log: slog.New(slog.DiscardHandler), Run: o.chat.Run, Longest: time.Minute, Courier: courier{o}, Notices: compat.Notices(),
		Present: func(_ context.Context, was auth.Caller) (auth.Caller, error) { return was, nil }}
	if err := worker.Do(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// get is a body, without the newline at its end.
func (o *office) get(t *testing.T, path string) string {
	t.Helper()
	w := send(o.as(t, aKey("a")), "GET", path, "")
	if w.Code != 200 {
		t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
	}
	return strings.TrimSpace(w.Body.String())
}

// The documented requests are answered at once, to the letter, and the model is
// told the question after its context.
func TestOmniDevAsks(t *testing.T) {
	t.Parallel()
	const question = "How does the authentication system work?"
	for _, row := range []struct{ name, more, told string }{
		{"a question", ``, question},
		{"a branch, which is passed over", `,"sourceBranch":"main"`, question},
		{"a callback", `,"callback":{"url":"https://n8n.example.com/webhook/workflow-job-complete","secret":"optional-shared-secret"}`, question},
		{"a callback without a secret", `,"callback":{"url":"https://n8n.example.com/webhook/your-hook"}`, question},
		{"more in a callback, which is passed over", `,"callback":{"url":"https://n8n.example.com/","retries":3}`, question},
		{"a context", `,"context":"It is written in Go."`, "It is written in Go.\n\n" + question},
		{"a context that is null", `,"context":null`, question},
		{"a blank context", `,"context":" \n"`, question},
		{"what only edits have", `,"createMR":true`, question},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			w := send(o.as(t, aKey("a")), "POST", "/api/ask", `{"workspaceId":"workspace-123","question":"`+question+`"`+row.more+`}`)
			if len(o.sent) != 1 {
				t.Fatalf("%d jobs: %d %s", len(o.sent), w.Code, w.Body)
			}
			want := `{"success":true,"queued":true,"jobId":"` + o.sent[0] + `","message":"Job queued - poll /api/jobs/:jobId for results","workspace":{"id":"workspace-123"}}` + "\n"
			if w.Code != 200 || w.Body.String() != want {
				t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
			}
			if len(o.requests) != 0 {
				t.Error("the model was asked before the answer")
			}
			o.work(t, o.sent[0])
			if len(o.requests) != 1 || o.requests[0].Messages[0].Text != row.told || !strings.Contains(o.requests[0].System, "Judge") {
				t.Errorf("the models were told %+v, want %q of the first agent", o.requests, row.told)
			}
			job, err := o.chat.Jobs.Get(t.Context(), aKey("a"), o.sent[0])
			if err != nil || job.Label != "workspace-123" || job.Type != "ask" {
				t.Errorf("%v %+v", err, job)
			}
			if called := strings.Contains(row.more, "callback"); called != (len(o.delivered) == 1) {
				t.Errorf("%d callbacks", len(o.delivered))
			}
		})
	}
}

// What can't be asked is refused by the name of its field, and not queued.
func TestOmniDevFaults(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", agents.MaxMessage)
	for _, row := range []struct {
		name, body string
		status     int
		title      string
		detail     string
	}{
		{"no workspace", `{"question":"q"}`, 400, "Invalid request", `"workspaceId" takes a text of 1 to 200 bytes`},
		{"an empty workspace", `{"workspaceId":"","question":"q"}`, 400, "Invalid request", `"workspaceId"`},
		{"a workspace that is null", `{"workspaceId":null,"question":"q"}`, 400, "Invalid request", `"workspaceId"`},
		{"a workspace that is too long", `{"workspaceId":"` + strings.Repeat("w", 201) + `","question":"q"}`, 400, "Invalid request", `"workspaceId"`},
		{"a workspace of another type", `{"workspaceId":7,"question":"q"}`, 400, "Invalid request", `"workspaceId" takes a string, not a number`},
		{"no question", `{"workspaceId":"w"}`, 400, "Message required", `"question"`},
		{"a blank question", `{"workspaceId":"w","question":" \t"}`, 400, "Message required", `"question"`},
		{"a context alone", `{"workspaceId":"w","context":"c"}`, 400, "Message required", `"question"`},
		{"a question of another type", `{"workspaceId":"w","question":["q"]}`, 400, "Invalid request", `"question" takes a string, not an array`},
		{"a question that is too long", `{"workspaceId":"w","question":"x` + long + `"}`, 413, "Request too large", "256 KiB"},
		{"a question that is too long with its context", `{"workspaceId":"w","question":"q","context":"` + long + `"}`, 413, "Request too large", "256 KiB"},
		{"a context of another type", `{"workspaceId":"w","question":"q","context":{}}`, 400, "Invalid request", `"context" takes a string, not an object`},
		{"a callback of another type", `{"workspaceId":"w","question":"q","callback":"https://n8n.example.com/"}`, 400, "Invalid request", `"callback" takes an object, not a string`},
		{"an empty callback", `{"workspaceId":"w","question":"q","callback":{}}`, 400, "Invalid request", `"callback.url" is missing`},
		{"a callback without TLS", `{"workspaceId":"w","question":"q","callback":{"url":"http://n8n.example.com/"}}`, 400, "Invalid request", `"callback.url" does not begin with https://`},
		{"a callback near by", `{"workspaceId":"w","question":"q","callback":{"url":"https://n8n/"}}`, 400, "Invalid request", `"callback.url" has a host that only a local network knows`},
		{"a callback's secret of another type", `{"workspaceId":"w","question":"q","callback":{"url":"https://n8n.example.com/","secret":1}}`, 400, "Invalid request", `"callback.secret" takes a string`},
		{"no JSON", `workspaceId=w`, 400, "Invalid request", "not JSON"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			w := send(o.as(t, aKey("a")), "POST", "/api/ask", row.body)
			var p api.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != row.status || p.Error != row.title || !strings.Contains(p.Detail, row.detail) || len(o.sent) != 0 {
				t.Errorf("%d %s, %d jobs", w.Code, w.Body, len(o.sent))
			}
		})
	}
	// The largest that there may be, at its bounds.
	o := newOffice(t)
	w := send(o.as(t, aKey("a")), "POST", "/api/ask", `{"workspaceId":"`+strings.Repeat("w", 200)+`","question":"`+long+`"}`)
	if w.Code != 200 || len(o.sent) != 1 {
		t.Errorf("%d %.200s", w.Code, w.Body)
	}
}

// Where there is nobody to give an answer to, or nothing to queue in, a question
// is refused with what to do instead.
func TestOmniDevCantQueue(t *testing.T) {
	t.Parallel()
	const body = `{"workspaceId":"w","question":"q"}`
	o := newOffice(t)
	if w := send(o.as(t, auth.AnonymousCaller()), "POST", "/api/ask", body); w.Code != 400 || !strings.Contains(w.Body.String(), "needs a credential") || !strings.Contains(w.Body.String(), "POST /chat") {
		t.Errorf("anonymous: %d %s", w.Code, w.Body)
	}
	nobodys := aKey("a")
	nobodys.Agents = []string{"nobody"}
	if w := send(o.as(t, nobodys), "POST", "/api/ask", body); w.Code != 404 {
		t.Errorf("without agents: %d %s", w.Code, w.Body)
	}
	o.chat.Jobs = nil
	if w := send(o.as(t, aKey("a")), "POST", "/api/ask", body); w.Code != 503 || !strings.Contains(w.Body.String(), "POST /chat") {
		t.Errorf("without a queue: %d %s", w.Code, w.Body)
	}
	if len(o.sent) != 0 {
		t.Errorf("%d jobs", len(o.sent))
	}
}

// A job in each of OmniDev's states, to the letter: what there isn't yet isn't
// null, but absent.
func TestOmniDevJob(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	cancel := func(id string) {
		if w := send(o.as(t, aKey("a")), "POST", "/jobs/"+id+"/cancel", ""); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	const asked = `"type":"ask","status":"%s","createdAt":"2025-11-30T03:12:22.000Z"`
	for _, row := range []struct {
		name, question string
		act            func(id string)
		status, rest   string
	}{
		{"waiting", "q", func(string) {}, "pending", `}`},
		{"done", "q", func(id string) { o.work(t, id) }, "completed",
			`,"startedAt":"2025-11-30T03:12:24.070Z","completedAt":"2025-11-30T03:14:30.070Z","result":{"output":"you said q","executionTimeMs":126000}}`},
		{"failed", "fail", func(id string) { o.work(t, id) }, "failed",
			`,"startedAt":"2025-11-30T03:12:24.070Z","completedAt":"2025-11-30T03:14:30.070Z","error":"Model backend unavailable: The language model can't be reached or isn't configured: try again later."}`},
		{"cancelled", "q", cancel, "failed", `,"completedAt":"2025-11-30T03:12:24.070Z","error":"Cancelled"}`},
	} {
		o.now = start
		id := o.ask(t, row.question)
		o.now = start.Add(2070 * time.Millisecond)
		row.act(id)
		if got, want := o.get(t, "/api/jobs/"+id), `{"id":"`+id+`",`+fmt.Sprintf(asked, row.status)+row.rest; got != want {
			t.Errorf("%s:\n%s, want\n%s", row.name, got, want)
		}
	}
	// While it runs.
	o.now = start
	id := o.ask(t, "q")
	o.now = start.Add(2 * time.Second)
	o.meanwhile = func() {
		if got, want := o.get(t, "/api/jobs/"+id), `{"id":"`+id+`",`+fmt.Sprintf(asked, "processing")+`,"startedAt":"2025-11-30T03:12:24.000Z"}`; got != want {
			t.Errorf("running:\n%s, want\n%s", got, want)
		}
		if w := send(o.as(t, aKey("a")), "DELETE", "/api/jobs/"+id, ""); w.Code != 409 {
			t.Errorf("a running job is deleted: %d %s", w.Code, w.Body)
		}
	}
	o.work(t, id)
	if len(o.requests) == 0 {
		t.Error("the model was never asked")
	}
}

// omniDevPage is a list as OmniDev has it.
type omniDevPage struct {
	Jobs []struct {
		ID, Type, Status, Error string
		Result                  json.RawMessage
	}
	Meta struct {
		Total, Returned int
		StatusFilter    []string
		Limit           *int
	}
}

// The newest first, as many as are asked for; what is no status and no limit is
// passed over, as OmniDev does.
func TestOmniDevList(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	if got := o.get(t, "/api/jobs"); got != `{"jobs":[],"meta":{"total":0,"returned":0,"statusFilter":null,"limit":null}}` {
		t.Errorf("no jobs: %s", got)
	}
	name := map[string]string{} // by id
	for i, question := range []string{"done", "fail", "cancelled", "waits", "done too"} {
		o.now = start.Add(time.Duration(i) * time.Hour)
		id := o.ask(t, question)
		name[id] = question
		switch question {
		case "waits":
		case "cancelled":
			send(o.as(t, aKey("a")), "POST", "/jobs/"+id+"/cancel", "")
		default:
			o.work(t, id)
		}
	}
	limited := func(n int) *int { return &n }
	for _, row := range []struct {
		query  string
		want   string // questions, in order
		total  int
		filter []string
		limit  *int
	}{
		{"", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?status=completed", "done too,done", 2, []string{"completed"}, nil},
		{"?status=failed", "cancelled,fail", 2, []string{"failed"}, nil},
		{"?status=pending", "waits", 1, []string{"pending"}, nil},
		{"?status=processing", "", 0, []string{"processing"}, nil},
		{"?status=completed,failed", "done too,cancelled,fail,done", 4, []string{"completed", "failed"}, nil},
		{"?status=failed&status=pending", "waits,cancelled,fail", 3, []string{"failed", "pending"}, nil},
		{"?status=%20completed%20,,completed,bogus", "done too,done", 2, []string{"completed"}, nil},
		{"?status=bogus", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?status=succeeded", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?status=", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?limit=2", "done too,waits", 5, nil, limited(2)},
		{"?limit=1&status=failed", "cancelled", 2, []string{"failed"}, limited(1)},
		{"?limit=501", "done too,waits,cancelled,fail,done", 5, nil, limited(500)},
		{"?limit=0", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?limit=-1", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?limit=ten", "done too,waits,cancelled,fail,done", 5, nil, nil},
		{"?workspaceId=w", "done too,waits,cancelled,fail,done", 5, nil, nil},
	} {
		var page omniDevPage
		if err := json.Unmarshal([]byte(o.get(t, "/api/jobs"+row.query)), &page); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, job := range page.Jobs {
			got = append(got, name[job.ID])
			if job.Result != nil || job.Type != "ask" || (job.Status == "failed") != (job.Error != "") {
				t.Errorf("%s: %+v", row.query, job)
			}
		}
		if strings.Join(got, ",") != row.want || page.Meta.Total != row.total || page.Meta.Returned != len(got) || !cmp.Equal(page.Meta.StatusFilter, row.filter) || !cmp.Equal(page.Meta.Limit, row.limit) {
			t.Errorf("%s: %q %+v", row.query, got, page.Meta)
		}
	}
	// A chat that nobody waited for is one of the jobs, and theirs is one of ours.
	o.now = start.Add(24 * time.Hour)
	r := httptest.NewRequest("POST", "/chat", strings.NewReader(`{"message":"ours"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Prefer", "respond-async")
	o.as(t, aKey("a")).ServeHTTP(httptest.NewRecorder(), r)
	if got := o.get(t, "/api/jobs?limit=1"); !strings.Contains(got, `"type":"chat","status":"pending"`) {
		t.Errorf("a chat: %s", got)
	}
	if got := o.get(t, "/jobs"); !strings.Contains(got, `"type":"ask","label":"w","status":"succeeded"`) {
		t.Errorf("ours: %s", got)
	}
}

// More than a page of jobs is one list, of 500 at most.
func TestOmniDevLongList(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var first string
	for i := range 520 {
		o.now = start.Add(time.Duration(i) * time.Second)
		job, err := o.chat.Jobs.Submit(t.Context(), aKey("a"), jobs.Order{Type: "ask"})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = job.ID
		}
	}
	if _, err := o.chat.Jobs.Cancel(t.Context(), aKey("a"), first); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"":               `"meta":{"total":520,"returned":500,"statusFilter":null,"limit":null}}`,
		"?limit=150":     `"meta":{"total":520,"returned":150,"statusFilter":null,"limit":150}}`,
		"?status=failed": `"id":"` + first + `"`,
	} {
		if got := o.get(t, "/api/jobs"+query); !strings.Contains(got, want) {
			t.Errorf("%s: no %s at the end of %s", query, want, got[max(0, len(got)-200):])
		}
	}
}

// DELETE is for jobs that have ended.
func TestOmniDevDelete(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	id := o.ask(t, "q")
	remove := func(id string) *httptest.ResponseRecorder {
		return send(o.as(t, aKey("a")), "DELETE", "/api/jobs/"+id, "")
	}
	if w := remove(id); w.Code != 409 || !strings.Contains(w.Body.String(), `"error":"Conflict"`) {
		t.Errorf("a waiting job: %d %s", w.Code, w.Body)
	}
	o.work(t, id)
	if got := o.get(t, "/api/jobs/"+id); !strings.Contains(got, `"status":"completed"`) {
		t.Errorf("after a refusal: %s", got)
	}
	if w := remove(id); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"success":true}` {
		t.Errorf("a job that ended: %d %s", w.Code, w.Body)
	}
	for _, w := range []*httptest.ResponseRecorder{remove(id), send(o.as(t, aKey("a")), "GET", "/api/jobs/"+id, "")} {
		if w.Code != 404 || !strings.Contains(w.Body.String(), `"error":"Not found"`) {
			t.Errorf("a job that is gone: %d %s", w.Code, w.Body)
		}
	}
}

// P13: another's job is like one that there is not, whatever has become of it.
func TestOmniDevForeignJobs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	waiting, done := o.ask(t, "q"), o.ask(t, "q")
	o.work(t, done)
	another := o.as(t, aKey("b"))
	for _, method := range []string{"GET", "DELETE"} {
		unknown := send(another, method, "/api/jobs/"+strings.Repeat("A", 26), "")
		for _, id := range []string{waiting, done, strings.ToLower(done), "2025-11-30T03-12-22Z-a1b2c3d4"} {
			if w := send(another, method, "/api/jobs/"+id, ""); w.Code != 404 || w.Body.String() != unknown.Body.String() {
				t.Errorf("%s %s: %d %s, want %s", method, id, w.Code, w.Body, unknown.Body)
			}
		}
	}
	if w := send(another, "GET", "/api/jobs", ""); !strings.Contains(w.Body.String(), `"jobs":[],"meta":{"total":0`) {
		t.Errorf("another's list: %s", w.Body)
	}
	if got := o.get(t, "/api/jobs"); !strings.Contains(got, `"total":2`) {
		t.Errorf("the own list: %s", got)
	}
}

// What a callback is told, its headers and its body.
func TestOmniDevNotice(t *testing.T) {
	t.Parallel()
	for question, want := range map[string]struct{ status, rest string }{
		"q":    {"completed", `"result":{"output":"you said q","executionTimeMs":126000}}`},
		"fail": {"failed", `"error":"Model backend unavailable: The language model can't be reached or isn't configured: try again later."}`},
	} {
		o := newOffice(t)
		w := send(o.as(t, aKey("a")), "POST", "/api/ask", `{"workspaceId":"w","question":"`+question+`","callback":{"url":"https://n8n.example.com/hook","secret":"CANARY"}}`)
		if w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		id := o.sent[0]
		o.work(t, id)
		if len(o.delivered) != 1 {
			t.Fatalf("%s: %d callbacks", question, len(o.delivered))
		}
		header := http.Header{"X-Workflow-Job-Id": {id}, "X-Workflow-Job-Type": {"ask"}, "X-Workflow-Job-Status": {want.status}}
		if diff := cmp.Diff(header, o.delivered[0].Header); diff != "" {
			t.Errorf("%s: headers (-want +got)\n%s", question, diff)
		}
		body := `{"jobId":"` + id + `","type":"ask","status":"` + want.status + `","timestamp":"2025-11-30T03:14:28.000Z",` + want.rest
		if o.delivered[0].Body != body {
			t.Errorf("%s: the callback is told\n%s, want\n%s", question, o.delivered[0].Body, body)
		}
		if got := o.get(t, "/api/jobs/"+id); strings.Contains(got, "CANARY") || strings.Contains(got, "n8n") {
			t.Errorf("P4: %s", got)
		}
	}
}
