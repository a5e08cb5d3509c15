// Bootstrap is a Lambda behind a queue, which fails at what is bad.
package main

import (
	"context"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(func(_ context.Context, event events.SQSEvent) (events.SQSEventResponse, error) {
		var response events.SQSEventResponse
		for _, r := range event.Records {
			switch r.Body {
			case "bad":
				response.BatchItemFailures = append(response.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: r.MessageId})
			case "exit":
				os.Exit(5)
			}
		}
		return response, nil
	})
}
