package apigw

import (
	"context"
	"log/slog"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
)

// Queued is what aws-lambda-go starts for a function behind an SQS queue. It calls
// do with the body of each message, one after the other. Where do fails, the
// message is reported as failed and comes again, after the queue's visibility
// timeout; all others are gone for good, so that is what do returns nil for if it is
// no job's id at all. The event source mapping must have ReportBatchItemFailures:
// without it nothing comes again.
func Queued(do func(ctx context.Context, id string) error, log *slog.Logger) func(context.Context, events.SQSEvent) (events.SQSEventResponse, error) {
	return func(ctx context.Context, event events.SQSEvent) (events.SQSEventResponse, error) {
		ctx, cancel := answerable(ctx)
		defer cancel()
		failed := []events.SQSBatchItemFailure{}
		for _, message := range event.Records {
			if err := do(ctx, message.Body); err != nil {
				log.Warn("a job comes again", "job", message.Body, "error", err.Error())
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
