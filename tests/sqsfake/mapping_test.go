package sqsfake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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

// run has m hand messages to f until n of them were handed out, and returns how
// many invocations that was.
func run(t *testing.T, m sqsfake.Mapping, n int64, f function) (invocations int64) {
	t.Helper()
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	var times, seen atomic.Int64
	m.Function = function(func(ctx context.Context, e events.SQSEvent) (string, error) {
		times.Add(1)
		answer, err := f(ctx, e)
		if seen.Add(int64(len(e.Records))) >= n {
			end()
		}
		return answer, err
	})
	m.Run(ctx)
	if seen.Load() != n {
		t.Errorf("%d messages were handed out, want %d", seen.Load(), n)
	}
	return times.Load()
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
			_, jobs := start(t)
			first := jobs.Send("one")
			jobs.Send("two")
			run(t, sqsfake.Mapping{Queue: jobs}, 2, func(context.Context, events.SQSEvent) (string, error) {
				return strings.ReplaceAll(row.answer, "ID", first), row.err
			})
			if got := bodies(jobs); got != row.left {
				t.Errorf("left are %q, want %q", got, row.left)
			}
		})
	}
}

func TestTheEvent(t *testing.T) {
	t.Parallel()
	begin := time.Now().Truncate(time.Millisecond)
	_, jobs := start(t)
	id := jobs.Send("one")
	run(t, sqsfake.Mapping{Queue: jobs}, 1, func(_ context.Context, e events.SQSEvent) (string, error) {
		for _, name := range []string{"SentTimestamp", "ApproximateFirstReceiveTimestamp"} {
			ms, err := strconv.ParseInt(e.Records[0].Attributes[name], 10, 64)
			if at := time.UnixMilli(ms); err != nil || at.Before(begin) || at.After(time.Now()) {
				t.Errorf("%s is %s, %v", name, at, err)
			}
			delete(e.Records[0].Attributes, name)
		}
		want := events.SQSMessage{
			MessageId: id, ReceiptHandle: e.Records[0].ReceiptHandle, Body: "one", Md5OfBody: "f97c5d29941bfb1b2fdab0874906ab82",
			Attributes:        map[string]string{"ApproximateReceiveCount": "1", "SenderId": "AROAEXAMPLE:function"},
			MessageAttributes: map[string]events.SQSMessageAttribute{},
			EventSourceARN:    "arn:aws:sqs:us-east-1:123456789012:jobs", EventSource: "aws:sqs", AWSRegion: "us-east-1",
		}
		if diff := cmp.Diff([]events.SQSMessage{want}, e.Records); diff != "" || e.Records[0].ReceiptHandle == "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		return "", nil
	})
}

func TestBatchesAndTheirConcurrency(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		batch, concurrency int
		invocations, most  int64
	}{
		{1, 2, 5, 2}, {1, 0, 5, 1}, {2, 1, 3, 1}, {0, 1, 1, 1}, {1, 9, 5, 5},
	} {
		t.Run(fmt.Sprint(row), func(t *testing.T) {
			t.Parallel()
			_, jobs := start(t)
			for i := range 5 {
				jobs.Send(fmt.Sprint(i))
			}
			var now, open atomic.Int64
			all := make(chan struct{}) // closed once as many run as may
			n := run(t, sqsfake.Mapping{Queue: jobs, BatchSize: row.batch, MaximumConcurrency: row.concurrency}, 5, func(ctx context.Context, _ events.SQSEvent) (string, error) {
				if now := now.Add(1); now > row.most {
					t.Errorf("%d at once", now)
				}
				defer now.Add(-1)
				if open.Add(1) == row.most {
					close(all)
				}
				select {
				case <-all:
				case <-ctx.Done():
					t.Errorf("fewer than %d at once", row.most)
				}
				return "", nil
			})
			if n != row.invocations || bodies(jobs) != "" {
				t.Errorf("%d invocations, left %q", n, bodies(jobs))
			}
		})
	}
}

// Whoever has a message that is redelivered works on, but is late with an answer:
// what deletes it is the answer of who got it last.
func TestAMessageThatIsRedelivered(t *testing.T) {
	t.Parallel()
	_, jobs := start(t)
	jobs.Send("one")
	again := make(chan struct{})
	run(t, sqsfake.Mapping{Queue: jobs, MaximumConcurrency: 2}, 2, func(ctx context.Context, e events.SQSEvent) (string, error) {
		if e.Records[0].Attributes["ApproximateReceiveCount"] == "2" {
			close(again)
			return "no", nil
		}
		jobs.Redeliver()
		select {
		case <-again:
		case <-ctx.Done():
		}
		return "", nil
	})
	if bodies(jobs) != "one" {
		t.Error("an old receipt deletes it")
	}
	jobs.Redeliver()
	run(t, sqsfake.Mapping{Queue: jobs}, 1, func(context.Context, events.SQSEvent) (string, error) { return "", nil })
	if bodies(jobs) != "" {
		t.Error("its receipt doesn't delete it")
	}
}

// A message that isn't deleted comes again when its timeout ends, and not before.
func TestRunAwaitsTimeouts(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	const timeout = 10 * time.Millisecond
	jobs := s.Create("short", sqsfake.Attributes{VisibilityTimeout: timeout})
	begin := time.Now()
	jobs.Send("a")
	var counts []string
	run(t, sqsfake.Mapping{Queue: jobs}, 3, func(_ context.Context, e events.SQSEvent) (string, error) {
		counts = append(counts, e.Records[0].Attributes["ApproximateReceiveCount"])
		return "no", nil
	})
	if took := time.Since(begin); !cmp.Equal(counts, []string{"1", "2", "3"}) || took < 2*timeout {
		t.Errorf("received for the times %v in %s", counts, took)
	}
}

func TestRunAwaitsMessages(t *testing.T) {
	t.Parallel()
	_, jobs := start(t)
	time.AfterFunc(10*time.Millisecond, func() { jobs.Send("a") })
	run(t, sqsfake.Mapping{Queue: jobs}, 1, func(context.Context, events.SQSEvent) (string, error) { return "", nil })
	if bodies(jobs) != "" {
		t.Error("it isn't deleted")
	}
}

func TestRunEndsWithTheServer(t *testing.T) {
	t.Parallel()
	s := sqsfake.Start()
	ended := make(chan struct{})
	go func() {
		sqsfake.Mapping{Queue: s.Create("jobs", sqsfake.Attributes{})}.Run(context.Background())
		close(ended)
	}()
	s.Close()
	<-ended
}
