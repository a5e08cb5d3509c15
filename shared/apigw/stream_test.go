package apigw_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/auth"
)

// stream starts h, a bare handler, in the streaming form.
func stream(t *testing.T, ctx context.Context, h http.HandlerFunc) *events.APIGatewayProxyStreamingResponse {
	t.Helper()
	response, err := apigw.Streamed(h)(ctx, proxied("POST", "/chat"))
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// True streams (I18): what is written has arrived before the handler goes on.
func TestStreamArrivesAsItIsWritten(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	got := stream(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusAccepted)
		<-goOn // the status arrives alone
		io.WriteString(w, "first")
		<-goOn
		io.WriteString(w, "second")
	})
	if got.StatusCode != 202 || got.MultiValueHeaders["Content-Type"][0] != "text/event-stream" {
		t.Errorf("%d %v", got.StatusCode, got.MultiValueHeaders)
	}
	for _, want := range []string{"first", "second"} {
		goOn <- struct{}{}
		b := make([]byte, len(want))
		if _, err := io.ReadFull(got.Body, b); err != nil || string(b) != want {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
	}
	if rest, err := io.ReadAll(got.Body); len(rest) != 0 || err != nil {
		t.Errorf("at the end: %q, %v", rest, err)
	}
}

// A flush sends the headers ahead of any body.
func TestStreamIsFlushed(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	got := stream(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-goOn
	})
	close(goOn)
	if got.StatusCode != 200 {
		t.Errorf("status %d", got.StatusCode)
	}
}

// One handler, two forms, one reply.
func TestBothFormsAgree(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		handler http.HandlerFunc
		want    reply
	}{
		{"nothing written", func(http.ResponseWriter, *http.Request) {}, reply{200, http.Header{}, ""}},
		{"headers alone", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", `"1"`) }, reply{200, http.Header{"Etag": {`"1"`}}, ""}},
		{"a status alone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, reply{204, http.Header{}, ""}},
		{"a body", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Add("Vary", "a")
			w.Header().Add("Vary", "b")
			io.WriteString(w, "he")
			io.WriteString(w, "llo é")
		}, reply{200, http.Header{"Content-Type": {"text/plain"}, "Vary": {"a", "b"}}, "hello é"}},
		{"a late status is ignored", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			w.WriteHeader(500)
		}, reply{201, http.Header{}, ""}},
		{"a status after the body is ignored", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, "x")
			w.WriteHeader(500)
		}, reply{200, http.Header{"Content-Type": {"text/plain"}}, "x"}},
		{"an interim status is not the status", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(404)
		}, reply{404, http.Header{}, ""}},
		{"WWW-Authenticate is dropped: API Gateway would rename it", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(401)
			io.WriteString(w, "no")
		}, reply{401, http.Header{"Content-Type": {"text/plain"}}, "no"}},
		{"a flush is a status", func(w http.ResponseWriter, _ *http.Request) {
			http.NewResponseController(w).Flush()
			w.WriteHeader(500)
		}, reply{200, http.Header{}, ""}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(row.want, both(t, row.handler, proxied("GET", "/x"))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Headers set late change nothing that was sent.
func TestStreamedHeadersAreThoseFirstWritten(t *testing.T) {
	t.Parallel()
	got := stream(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-A", "1")
		w.WriteHeader(200)
		w.Header().Set("X-A", "2")
		w.Header().Set("X-B", "2")
		io.WriteString(w, "x")
	})
	io.Copy(io.Discard, got.Body)
	if diff := cmp.Diff(map[string][]string{"X-A": {"1"}}, got.MultiValueHeaders); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A response that broke off must not look whole, in either form.
func TestBrokenOffResponses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		handler api.Handler
		body    string
	}{
		{"an error", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			io.WriteString(w, "half")
			return errors.New("SECRETTEXT")
		}, "half"},
		{"a panic", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			io.WriteString(w, "half")
			panic("SECRETTEXT")
		}, "half"},
		{"an error after the headers", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			http.NewResponseController(w).Flush()
			return errors.New("SECRETTEXT")
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := functionWith(t, row.handler, new(logbook))
			event := as(proxied("POST", "/chat"), root())
			response, err := apigw.Streamed(h)(t.Context(), event)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			if string(body) != row.body || err == nil || err.Error() != "response broken off" {
				t.Errorf("streamed: body %q, error %v", body, err)
			}
			if got, err := buffered(h, event); err == nil || err.Error() != "response broken off" || got.Status != 0 {
				t.Errorf("buffered: %+v, error %v", got, err)
			}
		})
	}
}

// A panic outside any frame is still an answer, and not a crash of the Lambda.
func TestPanicOutsideTheFrame(t *testing.T) {
	t.Parallel()
	got := stream(t, t.Context(), func(http.ResponseWriter, *http.Request) { panic("x") })
	if body, err := io.ReadAll(got.Body); got.StatusCode != 500 || len(body) != 0 || err == nil {
		t.Errorf("%d %q %v", got.StatusCode, body, err)
	}
}

// A panic in a handler, before its response, is the frame's 500.
func TestPanicInAHandler(t *testing.T) {
	t.Parallel()
	h := functionWith(t, func(http.ResponseWriter, *http.Request, auth.Caller) error { panic("SECRETTEXT") }, new(logbook))
	if got := both(t, h, as(proxied("POST", "/chat"), root())); got.Status != 500 || got.error() != "Internal error" {
		t.Errorf("%d %s", got.Status, got.Body)
	}
}

// Who closes the body ends the handler; so does who ends the invocation.
func TestClosedStreamEndsItsHandler(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(io.Reader, context.CancelFunc){
		"the body is closed":       func(body io.Reader, _ context.CancelFunc) { body.(io.Closer).Close() },
		"the invocation is at end": func(_ io.Reader, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error)
			got := stream(t, ctx, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "x")
				<-r.Context().Done()
				ended <- r.Context().Err()
			})
			io.ReadFull(got.Body, make([]byte, 1))
			leave(got.Body, cancel)
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// A handler that goes on writing to a closed stream is told.
func TestWritingToAClosedStream(t *testing.T) {
	t.Parallel()
	failed := make(chan error)
	got := stream(t, t.Context(), func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(w, "x"); err != nil {
				failed <- err
				return
			}
		}
	})
	got.Body.(io.Closer).Close()
	if err := <-failed; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
