package sqsfake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"postern/tests/lambdahost"
	"postern/tests/sqsfake"
)

// function is a Function that answers what f does of the event.
type function func(ctx context.Context, e events.SQSEvent) (string, error)

func (f function) Invoke(ctx context.Context, payload []byte) (*lambdahost.Result, error) {
	var e events.SQSEvent
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	answer, err := f(ctx, e)
	if failure, ok := errors.AsType[*lambdahost.FunctionError](err); ok {
		return &lambdahost.Result{Err: failure}, nil
	}
	return &lambdahost.Result{Payload: []byte(answer)}, err
}

// What of a batch of two is deleted, by what the function answers. ID stands for
// the first one's.
func TestAnAnswerDecidesWhatIsDeleted(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, answer string
		err          error
		left         string
	}{
		{"an empty list", `{"batchItemFailures":[]}`, nil, ""},
		{"no list", `{"batchItemFailures":null}`, nil, ""},
		{"an empty object", `{}`, nil, ""},
		{"null", `null`, nil, ""},
		{"nothing", "", nil, ""},
		{"one of them", `{"batchItemFailures":[{"itemIdentifier":"ID"}]}`, nil, "one"},
		{"no JSON", `{"batchItemFailures"`, nil, "one two"},
		{"a text", `"done"`, nil, "one two"},
		{"an object for a list", `{"batchItemFailures":{}}`, nil, "one two"},
		{"an empty id", `{"batchItemFailures":[{"itemIdentifier":""}]}`, nil, "one two"},
		{"a null id", `{"batchItemFailures":[{"itemIdentifier":null}]}`, nil, "one two"},
		{"a wrong key", `{"batchItemFailures":[{"ItemIdentifier":"ID"}]}`, nil, "one two"},
		{"an id that wasn't there", `{"batchItemFailures":[{"itemIdentifier":"ID"},{"itemIdentifier":"x"}]}`, nil, "one two"},
		{"a function that fails", `{}`, &lambdahost.FunctionError{Type: "Runtime.ExitError"}, "one two"},
		{"a function that isn't there", `{}`, lambdahost.ErrClosed, "one two"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, jobs, _, c := start(t)
			first := jobs.Send("one")
			jobs.Send("two")
			m := sqsfake.Mapping{Queue: jobs, ReportBatchItemFailures: true, Function: function(func(context.Context, events.SQSEvent) (string, error) {
				return strings.ReplaceAll(row.answer, "ID", first), row.err
			})}
			if n := m.Poll(t.Context()); n != 1 {
				t.Errorf("%d invocations", n)
			}
			if got := bodies(jobs); got != row.left {
				t.Errorf("left are %q, want %q", got, row.left)
			}
			if n := m.Poll(t.Context()); n != 0 {
				t.Errorf("%d invocations before the timeout", n)
			}
			c.after(time.Minute)
			if n := m.Poll(t.Context()); (n == 1) != (row.left != "") {
				t.Errorf("%d invocations after it", n)
			}
		})
	}
}

func TestWithoutReportsEveryAnswerIsASuccess(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := start(t)
	id := jobs.Send("one")
	sqsfake.Mapping{Queue: jobs, Function: function(func(context.Context, events.SQSEvent) (string, error) {
		return fmt.Sprintf(`{"batchItemFailures":[{"itemIdentifier":%q}]}`, id), nil
	})}.Poll(t.Context())
	if bodies(jobs) != "" {
		t.Error("the answer was read")
	}
}

func TestTheEvent(t *testing.T) {
	t.Parallel()
	_, jobs, _, _ := start(t)
	id := jobs.Send("one")
	sqsfake.Mapping{Queue: jobs, Function: function(func(_ context.Context, e events.SQSEvent) (string, error) {
		want := events.SQSMessage{
			MessageId: id, ReceiptHandle: e.Records[0].ReceiptHandle, Body: "one", Md5OfBody: "f97c5d29941bfb1b2fdab0874906ab82",
			Attributes: map[string]string{
				"ApproximateReceiveCount": "1", "SentTimestamp": "1772366400000", "ApproximateFirstReceiveTimestamp": "1772366400000",
				"SenderId": "AROAEXAMPLE:function",
			},
			MessageAttributes: map[string]events.SQSMessageAttribute{},
			EventSourceARN:    jobs.ARN(), EventSource: "aws:sqs", AWSRegion: "us-east-1",
		}
		if diff := cmp.Diff([]events.SQSMessage{want}, e.Records); diff != "" || e.Records[0].ReceiptHandle == "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		return "", nil
	})}.Poll(t.Context())
}

func TestBatchesAndTheirConcurrency(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ batch, concurrency, invocations, most int }{
		{1, 2, 5, 2}, {1, 0, 5, 1}, {2, 1, 3, 1}, {0, 1, 1, 1}, {1, 9, 5, 5},
	} {
		t.Run(fmt.Sprint(row), func(t *testing.T) {
			t.Parallel()
			_, jobs, _, _ := start(t)
			for i := range 5 {
				jobs.Send(fmt.Sprint(i))
			}
			var now, most, open atomic.Int64
			all := make(chan struct{}) // closed once as many run as may
			m := sqsfake.Mapping{Queue: jobs, BatchSize: row.batch, MaximumConcurrency: row.concurrency, Function: function(func(context.Context, events.SQSEvent) (string, error) {
				n := now.Add(1)
				defer now.Add(-1)
				if n > most.Load() {
					most.Store(n)
				}
				if open.Add(1) == int64(row.most) {
					close(all)
				}
				<-all
				return "", nil
			})}
			if n := m.Poll(t.Context()); n != row.invocations || most.Load() > int64(row.most) || bodies(jobs) != "" {
				t.Errorf("%d invocations, %d at once, left %q", n, most.Load(), bodies(jobs))
			}
		})
	}
}

// Run invokes as messages come, and as they come again.
func TestRun(t *testing.T) {
	t.Parallel()
	s := sqsfake.Start(sqsfake.Config{})
	defer s.Close()
	jobs := s.Create("jobs", sqsfake.Attributes{})
	ctx, end := context.WithCancel(t.Context())
	seen, ended := make(chan string, 10), make(chan struct{})
	m := sqsfake.Mapping{Queue: jobs, MaximumConcurrency: 2, ReportBatchItemFailures: true, Function: function(func(_ context.Context, e events.SQSEvent) (string, error) {
		count := e.Records[0].Attributes["ApproximateReceiveCount"]
		seen <- e.Records[0].Body + count
		if count == "1" {
			return "no", nil
		}
		return "", nil
	})}
	go func() { m.Run(ctx); close(ended) }()
	for _, body := range []string{"a", "b"} {
		jobs.Send(body)
		if got := <-seen; got != body+"1" {
			t.Errorf("invoked with %s, want %s1", got, body)
		}
		jobs.Redeliver()
		if got := <-seen; got != body+"2" {
			t.Errorf("invoked with %s, want %s2", got, body)
		}
		for bodies(jobs) != "" { // until the answer has come
			time.Sleep(time.Millisecond)
		}
	}
	end()
	<-ended
	jobs.Send("c")
	if len(seen) > 0 {
		t.Error("it runs on")
	}
}

// A message comes again by itself when its timeout ends.
func TestRunAwaitsTimeouts(t *testing.T) {
	t.Parallel()
	s := sqsfake.Start(sqsfake.Config{})
	defer s.Close()
	jobs := s.Create("jobs", sqsfake.Attributes{VisibilityTimeout: 10 * time.Millisecond})
	ctx, end := context.WithCancel(t.Context())
	seen, ended := make(chan string), make(chan struct{})
	m := sqsfake.Mapping{Queue: jobs, Function: function(func(ctx context.Context, e events.SQSEvent) (string, error) {
		select {
		case seen <- e.Records[0].Attributes["ApproximateReceiveCount"]:
		case <-ctx.Done():
		}
		return "", errors.New("never")
	})}
	go func() { m.Run(ctx); close(ended) }()
	jobs.Send("a")
	for _, want := range []string{"1", "2", "3"} {
		if got := <-seen; got != want {
			t.Errorf("received %s times, want %s", got, want)
		}
	}
	end()
	<-ended
}

func TestRunEndsWithTheServer(t *testing.T) {
	t.Parallel()
	s := sqsfake.Start(sqsfake.Config{})
	ended := make(chan struct{})
	go func() {
		sqsfake.Mapping{Queue: s.Create("jobs", sqsfake.Attributes{})}.Run(context.Background())
		close(ended)
	}()
	s.Close()
	<-ended
}

// A compiled bootstrap is a Function.
func TestALambdaBehindAQueue(t *testing.T) {
	t.Parallel()
	bootstrap := filepath.Join(t.TempDir(), "bootstrap")
	if out, err := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", bootstrap, "./testdata/bootstrap").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	host, err := lambdahost.Start(lambdahost.Config{Bootstrap: bootstrap, Timeout: time.Minute, Output: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	_, jobs, dead, c := start(t)
	for _, body := range []string{"good", "bad", "good", "exit", "good"} {
		jobs.Send(body)
	}
	m := sqsfake.Mapping{Queue: jobs, Function: host, BatchSize: 1, MaximumConcurrency: 2, ReportBatchItemFailures: true}
	for range 3 {
		m.Poll(t.Context())
		c.after(time.Minute)
	}
	if bodies(jobs) != "" || bodies(dead) != "bad exit" {
		t.Errorf("in the queue %q, dead %q", bodies(jobs), bodies(dead))
	}
}
