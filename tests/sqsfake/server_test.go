package sqsfake_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/tests/sqsfake"
)

const signed = "AWS4-HMAC-SHA256 Credential=AKIA/20260301/us-east-1/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature="

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) after(d time.Duration) { c.now = c.now.Add(d) }

// start is a fake with the queue "jobs", which gives up after two receives, and
// its dead letters.
func start(t *testing.T) (s *sqsfake.Server, jobs, dead *sqsfake.Queue, c *clock) {
	c = &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	s = sqsfake.Start(sqsfake.Config{Now: func() time.Time { return c.now }})
	t.Cleanup(s.Close)
	dead = s.Create("dead", sqsfake.Attributes{Retention: 14 * 24 * time.Hour})
	jobs = s.Create("jobs", sqsfake.Attributes{VisibilityTimeout: time.Minute, Retention: 7 * 24 * time.Hour, DeadLetters: dead, MaxReceiveCount: 2})
	return s, jobs, dead, c
}

// send is a call that says what became of it: a status and a body, or "broken".
func send(ctx context.Context, url, operation, body string, change ...func(*http.Request)) (int, string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.0")
	r.Header.Set("X-Amz-Target", "AmazonSQS."+operation)
	r.Header.Set("X-Amz-Date", "20260301T120000Z")
	r.Header.Set("Authorization", signed+strings.Repeat("a", 64))
	for _, f := range change {
		f(r)
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "broken"
	}
	defer reply.Body.Close()
	got, err := io.ReadAll(reply.Body)
	if err != nil {
		return 0, "cut"
	}
	return reply.StatusCode, string(got)
}

// call is a call to q that succeeds.
func call(t *testing.T, q *sqsfake.Queue, operation, fields string) map[string]any {
	t.Helper()
	status, got := send(t.Context(), q.URL(), operation, `{"QueueUrl":"`+q.URL()+`"`+fields+`}`)
	var out map[string]any
	if err := json.Unmarshal([]byte(got), &out); err != nil || status != 200 {
		t.Fatalf("%s: %d %s", operation, status, got)
	}
	return out
}

// received is one message of a ReceiveMessage.
type received struct{ body, receipt, count string }

func receive(t *testing.T, q *sqsfake.Queue) []received {
	t.Helper()
	var all []received
	messages := call(t, q, "ReceiveMessage", `,"MaxNumberOfMessages":10,"MessageSystemAttributeNames":["ApproximateReceiveCount"]`)["Messages"]
	for _, m := range messages.([]any) {
		m := m.(map[string]any)
		all = append(all, received{m["Body"].(string), m["ReceiptHandle"].(string), m["Attributes"].(map[string]any)["ApproximateReceiveCount"].(string)})
	}
	return all
}

func bodies(q *sqsfake.Queue) string {
	var all []string
	for _, m := range q.Messages() {
		all = append(all, m.Body)
	}
	return strings.Join(all, " ")
}

func TestAMessageIsInvisibleTillItsTimeoutEnds(t *testing.T) {
	t.Parallel()
	s, jobs, _, c := start(t)
	out := call(t, jobs, "SendMessage", `,"MessageBody":"one"`)
	if out["MD5OfMessageBody"] != "f97c5d29941bfb1b2fdab0874906ab82" || out["MessageId"] == "" {
		t.Errorf("SendMessage answers %v", out)
	}
	first := receive(t, jobs)
	if len(first) != 1 || first[0].body != "one" || first[0].count != "1" {
		t.Fatalf("received %v", first)
	}
	c.after(time.Minute - 1)
	if again := receive(t, jobs); again != nil {
		t.Errorf("it is visible after 59 s: %v", again)
	}
	c.after(1)
	second := receive(t, jobs)
	if len(second) != 1 || second[0].count != "2" || second[0].receipt == first[0].receipt {
		t.Fatalf("after its timeout: %v", second)
	}
	call(t, jobs, "DeleteMessage", `,"ReceiptHandle":"`+first[0].receipt+`"`)
	if bodies(jobs) != "one" {
		t.Error("an old receipt deletes it")
	}
	call(t, jobs, "DeleteMessage", `,"ReceiptHandle":"`+second[0].receipt+`"`)
	if bodies(jobs) != "" {
		t.Error("its receipt doesn't delete it")
	}
	if v := s.Violations(); v != nil {
		t.Error(v)
	}
}

func TestAMessageThatIsNeverDeletedIsADeadLetter(t *testing.T) {
	t.Parallel()
	_, jobs, dead, c := start(t)
	id := jobs.Send("one")
	for range 2 {
		if got := receive(t, jobs); len(got) != 1 {
			t.Fatalf("received %v", got)
		}
		c.after(time.Minute)
	}
	if got := receive(t, jobs); got != nil {
		t.Errorf("received a third time: %v", got)
	}
	want := []sqsfake.Message{{ID: id, Body: "one", Receives: 2}}
	if diff := cmp.Diff(want, dead.Messages()); diff != "" || bodies(jobs) != "" {
		t.Errorf("dead letters (-want +got):\n%sin the queue: %s", diff, bodies(jobs))
	}
}

func TestMessagesAreKeptForSoLong(t *testing.T) {
	t.Parallel()
	_, jobs, dead, c := start(t)
	jobs.Send("early")
	for range 2 {
		receive(t, jobs)
		c.after(time.Minute)
	}
	receive(t, jobs) // buries it
	jobs.Send("late")
	c.after(7*24*time.Hour - 1)
	if bodies(jobs) != "late" {
		t.Errorf("in the queue: %s", bodies(jobs))
	}
	c.after(1)
	if bodies(jobs) != "" || receive(t, jobs) != nil || bodies(dead) != "early" {
		t.Errorf("after a week: %s, %s", bodies(jobs), bodies(dead))
	}
	c.after(7*24*time.Hour - 2*time.Minute)
	if bodies(dead) != "" {
		t.Errorf("two weeks after it was sent: %s", bodies(dead))
	}
}

func TestVisibilityCanBeChanged(t *testing.T) {
	t.Parallel()
	s, jobs, _, c := start(t)
	jobs.Send("one")
	receipt := receive(t, jobs)[0].receipt
	fields := `,"ReceiptHandle":"` + receipt + `","VisibilityTimeout":`
	call(t, jobs, "ChangeMessageVisibility", fields+"120")
	c.after(90 * time.Second)
	if got := receive(t, jobs); got != nil {
		t.Errorf("received %v", got)
	}
	call(t, jobs, "ChangeMessageVisibility", fields+"0")
	status, got := send(t.Context(), s.URL, "ChangeMessageVisibility", `{"QueueUrl":"`+jobs.URL()+`"`+fields+"9}")
	if status != 400 || !strings.Contains(got, "MessageNotInflight") {
		t.Errorf("of one that is visible: %d %s", status, got)
	}
	if got := receive(t, jobs); len(got) != 1 {
		t.Errorf("received %v", got)
	}
	if got := receive(t, jobs); got != nil {
		t.Errorf("received %v", got)
	}
	jobs.Redeliver()
	if got := jobs.Messages(); got[0].InFlight {
		t.Errorf("redelivered: %v", got)
	}
}

func TestQueueAttributes(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := start(t)
	jobs.Send("one")
	receive(t, jobs)
	jobs.Send("two")
	jobs.Send("three")
	want := map[string]any{
		"ApproximateNumberOfMessages": "2", "ApproximateNumberOfMessagesNotVisible": "1", "VisibilityTimeout": "60",
		"MessageRetentionPeriod": "604800", "QueueArn": "arn:aws:sqs:us-east-1:123456789012:jobs",
		"RedrivePolicy": `{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:dead","maxReceiveCount":2}`,
	}
	if diff := cmp.Diff(any(want), call(t, jobs, "GetQueueAttributes", `,"AttributeNames":["All"]`)["Attributes"]); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if got := call(t, jobs, "GetQueueAttributes", `,"AttributeNames":["VisibilityTimeout"]`)["Attributes"]; !cmp.Equal(got, any(map[string]any{"VisibilityTimeout": "60"})) {
		t.Errorf("one: %v", got)
	}
}

func TestWhatIsRefusedIsAViolation(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, operation, fields string
		change                  func(*http.Request)
		code                    string
		innocent                bool
	}{
		{"another queue", "SendMessage", `,"MessageBody":"x","QueueUrl":"http://127.0.0.1/1/other"`, nil, "QueueDoesNotExist", true},
		{"no signature", "SendMessage", `,"MessageBody":"x"`, func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationToken", false},
		{"another service's signature", "SendMessage", `,"MessageBody":"x"`, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "/sqs/", "/sns/", 1))
		}, "MissingAuthenticationToken", false},
		{"no date", "SendMessage", `,"MessageBody":"x"`, func(r *http.Request) { r.Header.Del("X-Amz-Date") }, "MissingAuthenticationToken", false},
		{"the old protocol", "SendMessage", `,"MessageBody":"x"`, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, "UnknownOperationException", false},
		{"an empty message", "SendMessage", "", nil, "InvalidParameterValue", false},
		{"a large message", "SendMessage", `,"MessageBody":"` + strings.Repeat("x", 1<<20+1) + `"`, nil, "InvalidParameterValue", false},
		{"too many at once", "ReceiveMessage", `,"MaxNumberOfMessages":11`, nil, "InvalidParameterValue", false},
		{"a field that it doesn't know", "SendMessage", `,"MessageBody":"x","DelaySeconds":1`, nil, "SerializationException", false},
		{"an operation that it doesn't know", "PurgeQueue", "", nil, "UnknownOperationException", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, jobs, _, _ := start(t)
			if row.change == nil {
				row.change = func(*http.Request) {}
			}
			status, got := send(t.Context(), s.URL, row.operation, `{"QueueUrl":"`+jobs.URL()+`"`+row.fields+"}", row.change)
			if status != 400 || !strings.Contains(got, `"com.amazonaws.sqs#`+row.code+`"`) {
				t.Errorf("%d %s", status, got)
			}
			if (len(s.Violations()) == 0) != row.innocent || bodies(jobs) != "" {
				t.Errorf("violations %v, messages %q", s.Violations(), bodies(jobs))
			}
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		fault  *sqsfake.Fault
		want   string
		stored string
	}{
		{"an error", sqsfake.Fail(500, "InternalFailure"), `500 {"__type":"com.amazonaws.sqs#InternalFailure","message":"injected by a test"}`, ""},
		{"garbage", sqsfake.Garbage(200, "<html>"), "200 <html>", ""},
		{"down", sqsfake.Drop(), "0 broken", ""},
		{"a lost answer", sqsfake.Lose(), "0 broken", "x"},
		{"a damaged answer", sqsfake.Damage(func([]byte) []byte { return []byte("{}") }), "200 {}", "x"},
		{"another operation's", sqsfake.Drop().On("ReceiveMessage"), "200 ok", "x"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, jobs, _, _ := start(t)
			s.Inject(row.fault.Times(1))
			status, got := send(t.Context(), s.URL, "SendMessage", `{"QueueUrl":"`+jobs.URL()+`","MessageBody":"x"}`)
			if strings.Contains(got, "MD5OfMessageBody") {
				got = "ok"
			}
			if text := fmt.Sprint(status, " ", got); text != row.want || bodies(jobs) != row.stored {
				t.Errorf("%s, stored %q", text, bodies(jobs))
			}
			s.Heal()
			call(t, jobs, "SendMessage", `,"MessageBody":"y"`)
			if s.Calls("SendMessage") != 2 || s.Calls("") != 2 {
				t.Errorf("%d of %d calls", s.Calls("SendMessage"), s.Calls(""))
			}
		})
	}
}

func TestAHangEndsWithItsReleaseOrItsClient(t *testing.T) {
	t.Parallel()
	s, jobs, _, _ := start(t)
	hang, release := sqsfake.Hang()
	s.Inject(hang)
	body := `{"QueueUrl":"` + jobs.URL() + `","MessageBody":"x"}`
	ctx, leave := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer leave()
	if _, got := send(ctx, s.URL, "SendMessage", body); got != "broken" || bodies(jobs) != "" {
		t.Errorf("a client that left: %s, stored %q", got, bodies(jobs))
	}
	time.AfterFunc(20*time.Millisecond, release)
	if status, got := send(t.Context(), s.URL, "SendMessage", body); status != 200 || !strings.Contains(bodies(jobs), "x") {
		t.Errorf("%d %s, stored %q", status, got, bodies(jobs))
	}
}
