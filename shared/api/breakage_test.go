package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"postern/shared/api"
	"postern/shared/auth"
)

// A panic is a 500 and a log line with its stack, and the process goes on.
func TestPanicIsAnsweredLoggedAndSurvived(t *testing.T) {
	t.Parallel()
	s := newSite(t, handling("agents.list", func(http.ResponseWriter, *http.Request, auth.Caller) error { panic("SECRETTEXT") }))
	got := s.ask("GET", "/agents")
	if got.Status != 500 || got.problem(t).Error != "Internal error" {
		t.Errorf("%d %s", got.Status, got.Body)
	}
	if all := got.everything(); strings.Contains(all, "SECRET") || strings.Contains(all, ".go") {
		t.Errorf("I15: the panic is in the response:\n%s", all)
	}
	line := s.log.only(t)
	text, _ := line["error"].(string)
	if line["level"] != "ERROR" || line["status"] != 500.0 || line["route"] != "agents.list" ||
		!strings.HasPrefix(text, "panic: SECRETTEXT\n") || !strings.Contains(text, "breakage_test.go") {
		t.Errorf("log line %v", line)
	}
	if got := s.ask("GET", "/whoami"); got.Status != 200 {
		t.Errorf("the next request is answered %d", got.Status)
	}
}

// A response that broke off must not look whole: chunked without its last chunk,
// or shorter than its Content-Length.
func TestBrokenOffResponsesAreCut(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		handler func(w http.ResponseWriter) error
		status  int
		whole   bool
		logged  string // the event line's error; "": an ordinary line
	}{
		{"an error after the first bytes", func(w http.ResponseWriter) error {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			return errors.New("model left")
		}, 200, false, "model left"},
		{"a panic after the first bytes", func(w http.ResponseWriter) error {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic("oops")
		}, 200, false, "panic: oops"},
		{"an error after the headers went", func(w http.ResponseWriter) error {
			http.NewResponseController(w).Flush()
			return errors.New("model left")
		}, 200, false, "model left"},
		{"an error after a status", func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusAccepted)
			http.NewResponseController(w).Flush()
			return api.Fail(api.InvalidRequest, "too late")
		}, 202, false, "Invalid request"},
		{"an error that the stream has told of", func(w http.ResponseWriter) error {
			io.WriteString(w, "error event")
			return api.Told(api.Because(api.ModelFailed, errors.New("model left")))
		}, 200, true, "Model backend failed: model left"},
		{"nothing wrong", func(w http.ResponseWriter) error {
			_, err := io.WriteString(w, "all")
			return err
		}, 200, true, ""},
		{"nothing at all", func(http.ResponseWriter) error { return nil }, 200, true, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, handling("health", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error { return row.handler(w) }))
			server := httptest.NewUnstartedServer(s)
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.Start()
			response, err := http.Get(server.URL + "/health")
			if err == nil {
				_, err = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if response.StatusCode != row.status {
					t.Errorf("status %d, want %d", response.StatusCode, row.status)
				}
			}
			if whole := err == nil; whole != row.whole {
				t.Errorf("whole: %v (%v), want %v", whole, err, row.whole)
			}
			server.Close() // after it, the log is written

			line := s.log.only(t)
			text, _ := line["error"].(string)
			if row.logged == "" && (text != "" || line["level"] != "INFO") || !strings.HasPrefix(text, row.logged) {
				t.Errorf("log line %v", line)
			}
			if row.logged != "" && line["level"] != "ERROR" {
				t.Errorf("a failure at level %v", line["level"])
			}
			if line["status"] != float64(row.status) {
				t.Errorf("the log says status %v, the caller got %d", line["status"], row.status)
			}
		})
	}
}

// A caller who leaves is not our failure: 499 in the event line, no 500.
func TestCallerWhoLeaves(t *testing.T) {
	t.Parallel()
	ctx, leave := context.WithCancel(context.Background())
	s := newSite(t, handling("chat", func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
		leave()
		return fmt.Errorf("asking the model: %w", r.Context().Err())
	}))
	w := &statusWriter{ResponseWriter: httptest.NewRecorder()}
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("the connection goes on")
			}
		}()
		s.ServeHTTP(w, posting("/chat", "{}").WithContext(ctx))
	}()
	if w.status != 0 {
		t.Errorf("a caller who left was sent %d", w.status)
	}
	if line := s.log.only(t); line["status"] != 499.0 || line["level"] != "INFO" || line["error"] != nil {
		t.Errorf("log line %v", line)
	}
}

// Who has closed its own half alone reads the end of the connection, and no empty
// success.
func TestHalfACaller(t *testing.T) {
	t.Parallel()
	s := newSite(t, handling("chat", func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
		<-r.Context().Done()
		return r.Context().Err()
	}))
	server := httptest.NewServer(s)
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
		t.Errorf("it read %q, error %v", got, err)
	}
}

// In the middle of a stream too.
func TestCallerWhoLeavesAStream(t *testing.T) {
	t.Parallel()
	ctx, leave := context.WithCancel(context.Background())
	s := newSite(t, handling("chat", func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
		io.WriteString(w, "half")
		leave()
		return r.Context().Err()
	}))
	if !panics(func() { s.send(posting("/chat", "{}").WithContext(ctx)) }) {
		t.Error("the connection wasn't cut")
	}
	if line := s.log.only(t); line["status"] != 200.0 || line["level"] != "INFO" {
		t.Errorf("log line %v", line)
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) { w.status = status }
