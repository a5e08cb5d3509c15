package apigw

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/awslabs/aws-lambda-go-api-proxy/core"
)

// StreamHandler is what aws-lambda-go starts for a streaming function.
type StreamHandler = func(context.Context, events.APIGatewayProxyRequest) (*events.APIGatewayProxyStreamingResponse, error)

// Streamed serves h in the streaming form: the status and the headers go out as
// soon as h has written them, and the body as h writes it. API Gateway's route
// must be of the response transfer mode STREAM. aws-lambda-go-api-proxy can't do
// this, so the bridge is our own; the event is converted by its core all the
// same.
func Streamed(h http.Handler) StreamHandler {
	var accessor core.RequestAccessor
	return func(ctx context.Context, event events.APIGatewayProxyRequest) (*events.APIGatewayProxyStreamingResponse, error) {
		ctx, cancel := context.WithCancel(ctx)
		r, err := accessor.EventToRequestWithContext(ctx, prepare(event))
		if err != nil {
			cancel()
			status, header, body := notARequest(event)
			return &events.APIGatewayProxyStreamingResponse{StatusCode: status, MultiValueHeaders: header, Body: strings.NewReader(body)}, nil
		}
		body, pipe := io.Pipe()
		w := &streamWriter{header: http.Header{}, pipe: pipe, started: make(chan struct{})}
		go func() {
			defer cancel()
			pipe.CloseWithError(w.serve(bridge{h}, r))
		}()
		<-w.started
		return &events.APIGatewayProxyStreamingResponse{
			StatusCode:        w.status,
			MultiValueHeaders: w.sent,
			Body:              streamBody{body, cancel},
		}, nil
	}
}

// streamBody is the reader that the Lambda runtime drains. Closing it early
// ends the handler.
type streamBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b streamBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// streamWriter is the ResponseWriter of one streamed response. A pipe has no
// buffer, so a slow reader holds the handler back.
type streamWriter struct {
	header  http.Header
	pipe    *io.PipeWriter
	started chan struct{} // closed once status and sent are set

	status int
	sent   http.Header
}

// serve runs h, a bridge, to its end. A handler that breaks off
// (http.ErrAbortHandler) leaves a body that ends in an error, not one that
// looks whole.
func (w *streamWriter) serve(h bridge, r *http.Request) (err error) {
	defer func() {
		if recover() != nil {
			err = errBrokenOff
		}
		if w.status == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

func (w *streamWriter) Header() http.Header { return w.header }

// WriteHeader is called once, by the bridge.
func (w *streamWriter) WriteHeader(status int) {
	w.status, w.sent = status, w.header.Clone()
	close(w.started)
}

func (w *streamWriter) Write(b []byte) (int, error) { return w.pipe.Write(b) }
