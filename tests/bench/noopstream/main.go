// Noopstream is the baseline of the chat's function: a Lambda of the same event
// and reply types, in the streaming form, that answers what it finds in METADATA
// and BODY. With a TABLE_NAME it makes the one write first that counts a request.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"

	"postern/shared/table"
	"postern/shared/table/dynamodb"
)

func main() {
	var metadata events.APIGatewayProxyResponse
	if err := json.Unmarshal([]byte(os.Getenv("METADATA")), &metadata); err != nil {
		log.Fatal(err)
	}
	count := func(context.Context) error { return nil }
	if name := os.Getenv("TABLE_NAME"); name != "" {
		t, err := dynamodb.New(dynamodb.Config{Table: name, Getenv: os.Getenv})
		if err != nil {
			log.Fatal(err)
		}
		count = func(ctx context.Context) error { return add(ctx, t) }
	}
	lambda.Start(func(ctx context.Context, _ events.APIGatewayProxyRequest) (*events.APIGatewayProxyStreamingResponse, error) {
		return &events.APIGatewayProxyStreamingResponse{
			StatusCode:        metadata.StatusCode,
			MultiValueHeaders: metadata.MultiValueHeaders,
			Body:              strings.NewReader(os.Getenv("BODY")),
		}, count(ctx)
	})
}

func add(ctx context.Context, t table.Table) error {
	_, _, err := t.Add(ctx, table.Key{Partition: "noop", Sort: "noop"},
		[]table.Delta{{Counter: "requests", By: 1}}, table.NoMax, time.Now().Add(time.Hour))
	return err
}
