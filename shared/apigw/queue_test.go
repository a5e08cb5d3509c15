package apigw_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"postern/shared/apigw"
)

// job is an id that begins with name.
func job(name string) string { return name + strings.Repeat("A", 26-len(name)) }

// queued is an event of messages with these bodies, whose ids are m0, m1 and so on.
func queued(bodies ...string) events.SQSEvent {
	var e events.SQSEvent
	for i, body := range bodies {
		e.Records = append(e.Records, events.SQSMessage{MessageId: fmt.Sprint("m", i), Body: body})
	}
	return e
}

// failures are the messages that an answer names.
func failures(r events.SQSEventResponse) string {
	var ids []string
	for _, f := range r.BatchItemFailures {
		ids = append(ids, f.ItemIdentifier)
	}
	return strings.Join(ids, " ")
}

func TestAMessageComesAgainIfItsJobFailed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		bodies []string
		done   string // in this order
		failed string
		logged string // by job
	}{
		{"a job", []string{job("OK")}, "OK", "", ""},
		{"one that fails", []string{job("BAD")}, "BAD", "m0", "BAD"},
		{"each by itself", []string{job("OK"), job("BAD"), job("OK2"), job("BAD2")}, "OK BAD OK2 BAD2", "m1 m3", "BAD BAD2"},
		{"the same job twice", []string{job("OK"), job("OK")}, "OK OK", "", ""},
		{"none", nil, "", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var log logbook
			var done []string
			handler := apigw.Queued(func(_ context.Context, id string) error {
				name := strings.TrimRight(id, "A")
				done = append(done, name)
				if strings.HasPrefix(name, "BAD") {
					return errors.New("no table")
				}
				return nil
			}, log.logger())
			response, err := handler(t.Context(), queued(row.bodies...))
			if err != nil || failures(response) != row.failed || strings.Join(done, " ") != row.done {
				t.Errorf("done %q, failed %q, %v", done, failures(response), err)
			}
			if encoded, _ := json.Marshal(response); row.failed == "" && string(encoded) != `{"batchItemFailures":[]}` {
				t.Errorf("the answer is %s", encoded)
			}
			var logged []string
			for text := range strings.Lines(log.String()) {
				var line struct{ Level, Msg, Job, Error string }
				if err := json.Unmarshal([]byte(text), &line); err != nil || line.Level != "WARN" || line.Error != "no table" {
					t.Errorf("the log says %s", text)
				}
				logged = append(logged, strings.TrimRight(line.Job, "A"))
			}
			if got := strings.Join(logged, " "); got != row.logged {
				t.Errorf("logged %q", got)
			}
		})
	}
}

// A job has an end before Lambda's own, so that its failure can be told.
func TestAJobEndsBeforeItsFunction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		deadline := time.Now().Add(time.Minute)
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		defer cancel()
		var begun []string
		handler := apigw.Queued(func(ctx context.Context, id string) error {
			begun = append(begun, id)
			if end, _ := ctx.Deadline(); !end.Equal(deadline.Add(-time.Second)) {
				t.Errorf("the job's end is %s before Lambda's", deadline.Sub(end))
			}
			<-ctx.Done()
			return ctx.Err()
		}, slog.New(slog.DiscardHandler))
		response, err := handler(ctx, queued(job("ONE"), job("TWO")))
		if err != nil || failures(response) != "m0 m1" {
			t.Errorf("failed %q, %v", failures(response), err)
		}
		if diff := cmp.Diff([]string{job("ONE"), job("TWO")}, begun); diff != "" {
			t.Errorf("begun (-want +got):\n%s", diff)
		}
		if ctx.Err() != nil {
			t.Error("Lambda's end came first")
		}
	})
}
