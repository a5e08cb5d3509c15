package sqsfake_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern/tests/sqsfake"
)

const signed = "AWS4-HMAC-SHA256 Credential=AKIA/20260301/us-east-1/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature="

// start is a fake with the queue "jobs".
func start(t *testing.T) (*sqsfake.Server, *sqsfake.Queue) {
	s := sqsfake.Start()
	t.Cleanup(s.Close)
	return s, s.Create("jobs", sqsfake.Attributes{})
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

func bodies(q *sqsfake.Queue) string {
	var all []string
	for _, m := range q.Messages() {
		all = append(all, m.Body)
	}
	return strings.Join(all, " ")
}

func TestAMessageIsSent(t *testing.T) {
	t.Parallel()
	s, jobs := start(t)
	s.Create("others", sqsfake.Attributes{})
	status, got := send(t.Context(), s.URL, "SendMessage", `{"QueueUrl":"`+jobs.URL()+`","MessageBody":"one"}`)
	m := jobs.Messages()
	if len(m) != 1 || m[0].Body != "one" {
		t.Fatalf("%d %s, messages %v", status, got, m)
	}
	if want := `{"MD5OfMessageBody":"f97c5d29941bfb1b2fdab0874906ab82","MessageId":"` + m[0].ID + `"}`; status != 200 || got != want {
		t.Errorf("%d %s, want %s", status, got, want)
	}
	if v := s.Violations(); v != nil {
		t.Error(v)
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
		{"a field that it doesn't know", "SendMessage", `,"MessageBody":"x","DelaySeconds":1`, nil, "SerializationException", false},
		{"an operation that it doesn't know", "ReceiveMessage", `,"MaxNumberOfMessages":10`, nil, "UnknownOperationException", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, jobs := start(t)
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

func TestACallThatIsNotAllowedIsRefused(t *testing.T) {
	t.Parallel()
	s, jobs := start(t)
	allowed, asked := false, ""
	s.Authorize(func(principal, action, resource, leadingKey string) bool {
		asked = fmt.Sprintf("%s %s %s %q", principal, action, resource, leadingKey)
		return allowed
	})
	body := `{"QueueUrl":"` + jobs.URL() + `","MessageBody":"x"}`
	status, got := send(t.Context(), s.URL, "SendMessage", body)
	if status != 400 || !strings.Contains(got, "AccessDeniedException") || !strings.Contains(got, "is not authorized to perform: sqs:sendmessage on resource: "+jobs.ARN()) {
		t.Errorf("%d %s", status, got)
	}
	if want := `AKIA sqs:SendMessage arn:aws:sqs:us-east-1:123456789012:jobs ""`; asked != want {
		t.Errorf("asked about %s", asked)
	}
	if len(s.Violations()) != 1 || bodies(jobs) != "" {
		t.Errorf("violations %v, messages %q", s.Violations(), bodies(jobs))
	}
	allowed = true
	if status, got := send(t.Context(), s.URL, "SendMessage", body); status != 200 || len(s.Violations()) != 1 {
		t.Errorf("allowed: %d %s", status, got)
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
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, jobs := start(t)
			s.Inject(row.fault.Times(1))
			body := `{"QueueUrl":"` + jobs.URL() + `","MessageBody":"x"}`
			status, got := send(t.Context(), s.URL, "SendMessage", body)
			if text := fmt.Sprint(status, " ", got); text != row.want || bodies(jobs) != row.stored {
				t.Errorf("%s, stored %q", text, bodies(jobs))
			}
			if status, got := send(t.Context(), s.URL, "SendMessage", body); status != 200 || !strings.Contains(got, "MessageId") {
				t.Errorf("after it: %d %s", status, got)
			}
			send(t.Context(), s.URL, "Other", body)
			if s.Calls("SendMessage") != 2 || s.Calls("") != 3 {
				t.Errorf("%d of %d calls", s.Calls("SendMessage"), s.Calls(""))
			}
		})
	}
}

func TestAHangEndsWithItsReleaseOrItsClient(t *testing.T) {
	t.Parallel()
	s, jobs := start(t)
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
