package apigw

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
)

// QueueHandler is what aws-lambda-go starts for a function behind an SQS queue.
type QueueHandler = func(context.Context, events.SQSEvent) (events.SQSEventResponse, error)

// Queued calls do with the job's id in each message, one after the other. Where
// do fails or panics, the message is reported as failed and comes again, after
// the queue's visibility timeout; all others are gone for good. The event source
// mapping must have ReportBatchItemFailures: without it nothing comes again.
//
// What is no job's id would never be done, so it is dropped; the log names the
// message, not what is in it.
func Queued(do func(ctx context.Context, id string) error, log *slog.Logger) QueueHandler {
	return func(ctx context.Context, event events.SQSEvent) (events.SQSEventResponse, error) {
		ctx, cancel := answerable(ctx)
		defer cancel()
		failed := []events.SQSBatchItemFailure{}
		for _, message := range event.Records {
			if !isJobID(message.Body) {
				log.Warn("A message was dropped: it is no job's id", "message", message.MessageId)
				continue
			}
			if err := attempt(ctx, do, message.Body); err != nil {
				log.Warn("A job comes again", "job", message.Body, "error", err.Error())
				failed = append(failed, events.SQSBatchItemFailure{ItemIdentifier: message.MessageId})
			}
		}
		return events.SQSEventResponse{BatchItemFailures: failed}, nil
	}
}

// StartQueue serves a queue with do for as long as the process lives.
func StartQueue(do func(ctx context.Context, id string) error, log *slog.Logger) {
	lambda.Start(Queued(do, log))
}

// attempt is do, unless the time is up; a panic is an error.
func attempt(ctx context.Context, do func(context.Context, string) error, id string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return do(ctx, id)
}

// isJobID is jobs.ValidID, without linking jobs into every function.
func isJobID(s string) bool {
	return len(s) == 26 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}
