package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/shared/check"
	"postern/shared/jobs"
)

// nobodysJob has the form of a job's id.
const nobodysJob = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// asker is a model that answers what it is asked, and counts how often it was
// asked each thing. What begins with "hang" it answers when it is let, and notices
// who leaves before.
type asker struct {
	url  string
	let  chan struct{}
	left chan string

	mu   sync.Mutex
	runs map[string]int
	busy atomic.Int32 // questions that hang
}

func startAsker(t *testing.T) *asker {
	m := &asker{let: make(chan struct{}), left: make(chan string, 1000), runs: map[string]int{}}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL + "/v1"
	return m
}

func (m *asker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+modelKey { // which the worker must be able to read, too
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var asked struct{ Messages []struct{ Content string } }
	body, _ := io.ReadAll(r.Body)
	json.Unmarshal(body, &asked)
	question := asked.Messages[len(asked.Messages)-1].Content
	m.mu.Lock()
	m.runs[question]++
	m.mu.Unlock()
	text := "You asked: " + question
	switch {
	case strings.HasPrefix(question, "hang"):
		m.busy.Add(1)
		defer m.busy.Add(-1)
		select {
		case <-m.let:
		case <-r.Context().Done():
			m.left <- question
			return
		}
	case question == "in quotes": // of each character JSON in JSON makes four
		text = strings.Repeat("\"\n", 1_500_000/2)
	case question == "at length":
		text = awkwardText
	}
	w.Header().Set("Content-Type", "text/event-stream")
	tell(w, text)
}

// asked is how often the model was asked that.
func (m *asker) asked(question string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runs[question]
}

// hanging waits until so many questions hang.
func (m *asker) hanging(t *testing.T, n int32) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d questions hang", n), func() bool { return m.busy.Load() == n })
}

// eventually polls for what other processes bring about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// onAskers runs a test on both sides, with a model of its own each.
func onAskers(t *testing.T, test func(t *testing.T, s side, m *asker, logs func() string)) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		m := startAsker(t)
		here := start(t, m.environment())
		test(t, here.side(t), m, here.logs)
	})
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		m := startAsker(t)
		cloud := stack{parameters: m.parameters(), atOnce: 4}.deploy(t)
		test(t, cloud.side(t), m, cloud.logs)
	})
}

func (m *asker) environment() map[string]string {
	return map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": m.url, "OPENAI_API_KEY": modelKey, "API_RATE_LIMIT": "0"}
}

func (m *asker) parameters() map[string]string {
	return map[string]string{"Model": "openai/test", "OpenAIBaseUrl": m.url, "ModelApiKeySecretArn": aSecret}
}

var accepted = check.Want{Status: 202, Header: map[string]string{"Location": check.Any, "Preference-Applied": "respond-async"}, JSON: map[string]any{"status": "queued"}}

// laterCase is a chat that nobody waits for.
func laterCase(body string, want check.Want) check.Case {
	c := send("POST", "/chat", body, want)
	c.Header = http.Header{"Prefer": {"respond-async"}}
	return c
}

// later submits a message and returns its job's id.
func (s side) later(t *testing.T, credential, message string) string {
	t.Helper()
	answer := s.as(t, credential, laterCase(fmt.Sprintf(`{"message":%q}`, message), accepted))
	id := decode[jobs.Job](t, answer).ID
	if location := answer.Header.Get("Location"); !strings.HasSuffix(location, "/jobs/"+id) || id == "" {
		t.Errorf("%s: Location %q of job %q", s.name, location, id)
	}
	return id
}

// job is a job as its owner sees it.
func (s side) job(t *testing.T, credential, id string) jobs.Job {
	t.Helper()
	return decode[jobs.Job](t, s.as(t, credential, get("/jobs/"+id, fine)))
}

// ended waits for a job's end.
func (s side) ended(t *testing.T, credential, id string) (job jobs.Job) {
	t.Helper()
	eventually(t, "job "+id+" ends", func() bool {
		job = s.job(t, credential, id)
		return job.Status.Ended()
	})
	return job
}

// newest is the id of the job that was submitted last.
func (s side) newest(t *testing.T) string {
	t.Helper()
	list := decode[struct{ Jobs []jobs.Job }](t, s.as(t, token, get("/jobs?limit=1", fine))).Jobs
	if len(list) == 0 {
		t.Fatal("there is no job")
	}
	return list[0].ID
}

// response is what a job's result says.
func response(t *testing.T, job jobs.Job) string {
	t.Helper()
	var result struct{ Response string }
	if err := json.Unmarshal(job.Result, &result); err != nil {
		t.Errorf("the result of job %s, %s: %v: %s", job.ID, job.Status, err, job.Result)
	}
	return result.Response
}

// TestAnAsynchronousRun is one from its order to its deletion.
func TestAnAsynchronousRun(t *testing.T) {
	onAskers(t, func(t *testing.T, s side, m *asker, _ func() string) {
		c := laterCase(`{"message":"hello","session_id":"s","agent":"reviewer"}`, accepted)
		c.Header.Set("Idempotency-Key", "once")
		first := s.as(t, token, c)
		id := decode[jobs.Job](t, first).ID
		c.Want = check.Want{Status: 202, Header: map[string]string{"Location": first.Header.Get("Location"), "Idempotency-Replayed": "true"}, Body: string(first.Body)}
		s.as(t, token, c)

		job := s.ended(t, token, id)
		if job.Status != jobs.Succeeded || job.StartedAt == nil || job.FinishedAt == nil || response(t, job) != "You asked: hello" || m.asked("hello") != 1 {
			t.Errorf("%s: %+v of %d runs", s.name, job, m.asked("hello"))
		}
		s.as(t, token, get("/jobs/"+id, check.Want{Status: 200, JSON: map[string]any{
			"result.agent": "reviewer", "result.session_id": "s", "result.status": "success", "result.request_id": first.Header.Get("X-Request-Id"), "type": check.Absent}}))
		if got := s.recall(t, token, "s"); len(got.Messages) != 2 {
			t.Errorf("%s: the conversation has %+v", s.name, got)
		}
		s.as(t, token, get("/jobs", check.Want{Status: 200, JSON: map[string]any{"jobs.0.id": id, "jobs.0.status": "succeeded", "jobs.0.result": nil, "jobs.1": check.Absent, "next": nil}}))
		s.as(t, token, send("POST", "/jobs/"+id+"/cancel", "", conflict))

		// The job of a key that has a budget is on that.
		spender := s.issue(t, token, `{"name":"spender","scopes":["chat"],"tokens_per_day":1200}`)
		withinAnHour(t)
		if job := s.ended(t, spender.Token, s.later(t, spender.Token, "counted")); job.Status != jobs.Succeeded {
			t.Errorf("%s: %+v", s.name, job)
		}
		if job := s.ended(t, spender.Token, s.later(t, spender.Token, strings.Repeat("too much ", 100))); job.Status != jobs.Failed || job.Error.Error != "Token budget exceeded" {
			t.Errorf("%s: %+v", s.name, job)
		}

		long := s.ended(t, token, s.later(t, token, "at length"))
		if got := response(t, long); got != awkwardText {
			t.Errorf("%s: %d bytes are a result of %d", s.name, len(awkwardText), len(got))
		}
		// The largest answer that is kept is one that each side can show.
		if got := response(t, s.ended(t, token, s.later(t, token, "in quotes"))); len(got) != 1_500_000 {
			t.Errorf("%s: 1,500,000 bytes are a result of %d", s.name, len(got))
		}
		s.as(t, token, send("DELETE", "/jobs/"+s.newest(t), "", check.Want{Status: 204}))
		s.as(t, token, get("/jobs?limit=1", check.Want{Status: 200, JSON: map[string]any{"jobs.0.id": long.ID, "jobs.1": check.Absent, "next": check.Any}}))
		for _, gone := range []string{id, long.ID} {
			s.as(t, token, send("DELETE", "/jobs/"+gone, "", check.Want{Status: 204}))
			s.as(t, token, get("/jobs/"+gone, notFound))
			s.as(t, token, send("DELETE", "/jobs/"+gone, "", notFound))
		}
		s.as(t, token, get("/jobs", check.Want{Status: 200, Body: `{"jobs":[],"next":null}`}))
	})
}

// TestARunningJobIsCancelled: its model is left, by whichever process asks it.
func TestARunningJobIsCancelled(t *testing.T) {
	onAskers(t, func(t *testing.T, s side, m *asker, _ func() string) {
		for _, end := range []func(id string){
			func(id string) {
				s.as(t, token, send("POST", "/jobs/"+id+"/cancel", "", check.Want{Status: 200, JSON: map[string]any{"status": "cancelled"}}))
			},
			func(id string) { s.as(t, token, send("DELETE", "/jobs/"+id, "", check.Want{Status: 204})) },
		} {
			id := s.later(t, token, "hang")
			m.hanging(t, 1)
			if job := s.job(t, token, id); job.Status != jobs.Running || job.StartedAt == nil {
				t.Errorf("%s: %+v", s.name, job)
			}
			end(id)
			m.hanging(t, 0) // how soon is TestWatch's, which has a clock of its own
		}
		s.as(t, token, get("/jobs", check.Want{Status: 200, JSON: map[string]any{"jobs.0.status": "cancelled", "jobs.0.result": nil, "jobs.0.error": nil, "jobs.1": check.Absent}}))
	})
}

// fill has so many jobs hang that no other begins. It returns their ids, and whose
// they are.
func (s side) fill(t *testing.T, m *asker) map[string]string {
	counts := []int{8, 4, 2, 1, 1} // of five callers, see jobs.Pool
	if s.name != "on this machine" {
		counts = []int{1, 1}
	}
	ids := map[string]string{}
	for i, n := range counts {
		credential := token
		if i > 0 {
			credential = s.issue(t, token, `{"name":"filler","scopes":["chat"]}`).Token
		}
		for range n {
			ids[s.later(t, credential, "hang")] = credential
		}
		m.hanging(t, int32(len(ids)))
	}
	return ids
}

// TestAQueuedJobOfARevokedKeyIsCancelled, and so is that of one that was disabled
// or lost its scope; one that was changed runs as it is now.
func TestAQueuedJobOfARevokedKeyIsCancelled(t *testing.T) {
	onAskers(t, func(t *testing.T, s side, m *asker, logs func() string) {
		running := s.fill(t, m)
		rows := []struct {
			name, method, path, body string
			want                     jobs.Status
		}{
			{"revoked", "DELETE", "", "", jobs.Cancelled},
			{"disabled", "PATCH", "", `{"disabled":true}`, jobs.Cancelled},
			{"without the scope", "PATCH", "", `{"scopes":["agents:read"]}`, jobs.Cancelled},
			{"without the agent", "PATCH", "", `{"agents":["sumfrench"]}`, jobs.Failed},
			{"rotated", "POST", "/rotate", `{"grace":"0s"}`, jobs.Succeeded},
			{"as it was", "GET", "", "", jobs.Succeeded},
		}
		var ids, owners []string
		for _, row := range rows {
			key := s.issue(t, token, fmt.Sprintf(`{"name":%q,"scopes":["chat"]}`, row.name))
			answer := s.as(t, key.Token, laterCase(fmt.Sprintf(`{"message":%q,"agent":"assistant"}`, row.name), accepted))
			ids, owners = append(ids, decode[jobs.Job](t, answer).ID), append(owners, key.ID)
			want := fine
			if row.method == "DELETE" {
				want.Status = 204
			}
			s.as(t, token, send(row.method, "/keys/"+key.ID+row.path, row.body, want))
		}
		close(m.let)
		for id, credential := range running {
			s.ended(t, credential, id)
		}
		// Whoever lost its key sees nothing any more; so the log tells.
		for i, row := range rows {
			line := fmt.Sprintf(`"job":"%s","caller":"%s","status":"%s"`, ids[i], owners[i], row.want)
			eventually(t, "the job of a key "+row.name+" is "+string(row.want), func() bool { return strings.Contains(logs(), line) })
		}
		for _, row := range rows {
			runs := 0
			if row.want == jobs.Succeeded {
				runs = 1
			}
			if m.asked(row.name) != runs {
				t.Errorf("%s: the job of a key %s ran %d times, want %s", s.name, row.name, m.asked(row.name), row.want)
			}
		}
	})
}

// keepJobsApart: another's job is like none, in every byte (P13, I12).
func (s side) keepJobsApart(t *testing.T, a, b tenant) {
	t.Helper()
	own := s.later(t, a.key.Token, "hello")
	s.ended(t, a.key.Token, own)
	for _, c := range []check.Case{
		get("/jobs/", check.Want{}), send("HEAD", "/jobs/", "", check.Want{}), send("DELETE", "/jobs/", "", check.Want{}), send("POST", "/jobs/%s/cancel", "", check.Want{}),
		get("/api/jobs/", check.Want{}), send("DELETE", "/api/jobs/", "", check.Want{}),
	} {
		at := func(id string) check.Case {
			c := c
			if strings.Contains(c.Path, "%s") {
				c.Path = fmt.Sprintf(c.Path, id)
			} else {
				c.Path += id
			}
			return c
		}
		want := s.answer(t, b.key, at(nobodysJob), nobodysJob)
		for _, id := range []string{own, "%" + fmt.Sprintf("%x", own[0]) + own[1:], strings.ToLower(own), own + "%23x", own[:25], a.key.ID} {
			if got := s.answer(t, b.key, at(id), id); got != want || !strings.Contains(got, "404") {
				t.Errorf("%s: %s is told from what there is not:\n%s\n%s", s.name, at(id).Path, got, want)
			}
		}
		if got := s.answer(t, check.Key{ID: "root", Token: token}, at(own), own); got != want && !strings.Contains(got, "404") {
			t.Errorf("%s: root is shown %s", s.name, got)
		}
	}
	s.as(t, b.key.Token, get("/jobs", check.Want{Status: 200, Body: `{"jobs":[],"next":null}`}))
	s.as(t, b.key.Token, get("/jobs?after=20261121T100000.000Z-"+own, check.Want{Status: 200, Body: `{"jobs":[],"next":null}`}))
	s.as(t, b.key.Token, get("/api/jobs", check.Want{Status: 200, JSON: map[string]any{"jobs.0": check.Absent, "meta.total": 0}}))
	if job := s.job(t, a.key.Token, own); job.Status != jobs.Succeeded {
		t.Errorf("%s: %+v", s.name, job)
	}
}

// TestP17NoJobIsLost: 500 jobs, the server killed three times with 8 of them
// running and many more in the queue. Each that was acknowledged has one result in
// the end, whatever the model was asked.
func TestP17NoJobIsLost(t *testing.T) {
	t.Parallel()
	const all, kills = 500, 3
	m := startAsker(t)
	here := start(t, m.environment())
	at := map[string]string{} // by id
	for n := range all {
		message := fmt.Sprint("hang ", n)
		at[here.side(t).later(t, token, message)] = message
		if n%(all/kills) == all/kills-1 {
			m.hanging(t, 8)
			here.end(syscall.SIGKILL)
			m.hanging(t, 0)
			here = startIn(t, here.dir, m.environment())
			for range 100 {
				m.let <- struct{}{} // so many end, and no more
			}
		}
	}
	close(m.let)
	s := here.side(t)
	for id, message := range at {
		if job := s.ended(t, token, id); job.Status != jobs.Succeeded || response(t, job) != "You asked: "+message {
			t.Errorf("%q: %+v", message, job)
		}
		if runs := m.asked(message); runs < 1 || runs > 1+kills {
			t.Errorf("%q was asked %d times", message, runs)
		}
	}
	if len(at) != all {
		t.Errorf("%d jobs", len(at))
	}
}

// TestP17SIGTERMFinishesWhatRuns, and the next start what waits.
func TestP17SIGTERMFinishesWhatRuns(t *testing.T) {
	t.Parallel()
	m := startAsker(t)
	here := start(t, m.environment())
	s := here.side(t)
	running := s.fill(t, m)
	waiting := s.later(t, token, "after them")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		here.end(syscall.SIGTERM)
	}()
	eventually(t, "its port is closed", func() bool { // after that no job begins
		c, err := net.Dial("tcp", strings.TrimPrefix(here.url, "http://"))
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	close(m.let)
	<-ended
	if m.asked("after them") != 0 || len(m.left) != 0 {
		t.Errorf("a job began, or %d were broken off", len(m.left))
	}
	s = startIn(t, here.dir, m.environment()).side(t)
	running[waiting] = token
	for id, credential := range running {
		if job := s.ended(t, credential, id); job.Status != jobs.Succeeded {
			t.Errorf("%+v", job)
		}
	}
	if m.asked("hang") != len(running)-1 {
		t.Errorf("%d runs of %d jobs", m.asked("hang"), len(running))
	}
}

// TestAMessageThatComesAgain: SQS delivers once at least, also while the job
// runs, when it has ended, and when the function that ran it is dead.
func TestAMessageThatComesAgain(t *testing.T) {
	t.Parallel()
	m := startAsker(t)
	cloud := stack{parameters: m.parameters(), atOnce: 4}.deploy(t)
	s := cloud.side(t)
	id := s.later(t, token, "hang")
	m.hanging(t, 1)
	cloud.queue.Redeliver()
	eventually(t, "somebody else has been told that it runs", func() bool { return strings.Contains(cloud.logs(), "the job is running") })
	close(m.let)
	if job := s.ended(t, token, id); job.Status != jobs.Succeeded || m.asked("hang") != 1 {
		t.Errorf("%+v of %d runs", job, m.asked("hang"))
	}
	cloud.queue.Redeliver()
	cloud.queue.Send(nobodysJob)
	cloud.queue.Send("no id at all")
	eventually(t, "the queue is empty", func() bool { return len(cloud.queue.Messages()) == 0 })
	if job := s.job(t, token, id); job.Status != jobs.Succeeded || m.asked("hang") != 1 {
		t.Errorf("%+v of %d runs", job, m.asked("hang"))
	}
}
