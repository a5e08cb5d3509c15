// Bootstrap is a Lambda that does what its event asks, for lambdahost's tests.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
)

type request struct {
	Do   string `json:"do"`
	Text string `json:"text"`
	Gate string `json:"gate"` // a URL whose answer is awaited half-way
}

func main() {
	switch os.Getenv("INIT") {
	case "exit":
		fmt.Fprintln(os.Stderr, "no configuration")
		os.Exit(3)
	case "hang":
		select {}
	}
	if os.Getenv("SIGTERM") != "" {
		lambda.StartWithOptions(handle, lambda.WithEnableSIGTERM(func() { fmt.Println("terminated") }))
	}
	lambda.Start(handle)
}

func handle(ctx context.Context, r request) (any, error) {
	switch r.Do {
	case "echo":
		return map[string]any{"text": r.Text, "pid": os.Getpid()}, nil
	case "env":
		return os.Environ(), nil
	case "large":
		return strings.Repeat("x", 7<<20), nil
	case "wait":
		return "opened", await(r.Gate)
	case "error":
		return nil, errors.New(r.Text)
	case "panic":
		panic(r.Text)
	case "exit":
		os.Exit(4)
	case "hang":
		await(r.Gate)
		select {}
	case "deadline":
		deadline, _ := ctx.Deadline()
		return deadline.UnixMilli(), nil
	case "no prelude":
		return raw{strings.NewReader("no metadata here")}, nil
	}
	headers := map[string]string{"Content-Type": "text/plain"}
	switch r.Do {
	case "stream late":
		await(r.Gate)
		r.Gate = ""
	case "long prelude":
		headers["X-Long"] = strings.Repeat("x", 20<<10)
	}
	body, writer := io.Pipe()
	go stream(writer, r)
	return &events.APIGatewayProxyStreamingResponse{StatusCode: 201, Headers: headers, Body: body}, nil
}

func stream(to *io.PipeWriter, r request) {
	if r.Do == "stream nothing" {
		to.Close()
		return
	}
	io.WriteString(to, "first,")
	await(r.Gate)
	switch r.Do {
	case "stream error":
		to.CloseWithError(errors.New(r.Text))
	case "stream exit":
		os.Exit(5)
	case "stream hang":
		select {}
	default:
		io.WriteString(to, "second")
		to.Close()
	}
}

func await(gate string) error {
	if gate == "" {
		return nil
	}
	reply, err := http.Get(gate)
	if err != nil {
		return err
	}
	return reply.Body.Close()
}

// raw claims to be a streamed reply and is none.
type raw struct{ io.Reader }

func (raw) MarshalJSON() ([]byte, error) { return nil, errors.New("not json") }
func (raw) ContentType() string          { return "application/vnd.awslambda.http-integration-response" }
