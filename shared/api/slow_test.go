package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
)

// pipes is a network of net.Pipe, which tells time by the bubble's clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// serve runs h on a server without timeouts of its own, for the test's time.
func serve(t *testing.T, h http.Handler) *pipes {
	network := &pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(network)
	t.Cleanup(func() { server.Close() })
	return network
}

// P15: a sender that stalls is answered as soon as there is an answer, and let go
// after 30 s, or 5 s after an answer that didn't want its body. The connection is
// of no use to it afterwards.
func TestSlowBodyIsCut(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		door     error
		status   int
		answered time.Duration // at the latest
		released time.Duration
	}{
		{"a caller's", nil, 400, 31 * time.Second, 36 * time.Second},
		{"a stranger's", auth.NoCredential, 401, 0, 6 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, behind(&guard{caller: auth.RootCaller(), err: row.door}),
				handling("chat", func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
					_, err := api.Decode[order](r)
					return err
				}))
			conn := serve(t, s).dial()
			defer conn.Close()
			start := time.Now()
			fmt.Fprint(conn, "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n")
			go func() {
				for { // a byte every 5 s
					if _, err := io.WriteString(conn, " "); err != nil {
						return
					}
					time.Sleep(5 * time.Second)
				}
			}()
			in := bufio.NewReader(conn)
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s: %v", row.name, err)
			}
			if response.StatusCode != row.status {
				t.Errorf("%s: status %d, want %d", row.name, response.StatusCode, row.status)
			}
			if waited := time.Since(start); waited > row.answered {
				t.Errorf("%s: it took %v to answer, want %v at most", row.name, waited, row.answered)
			}
			io.Copy(io.Discard, in) // until the server hangs up
			if waited := time.Since(start); waited > row.released {
				t.Errorf("%s: it took %v to let go, want %v at most", row.name, waited, row.released)
			}
			conn.Close()
			time.Sleep(time.Minute) // the sender notices
		})
	}
}

// That deadline is the body's alone: a handler may take longer, and the
// connection lives on.
func TestBodyDeadlineIsTheBodysAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, handling("chat", func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
			if _, err := api.Decode[order](r); err != nil {
				return err
			}
			select {
			case <-r.Context().Done():
				return context.Cause(r.Context())
			case <-time.After(5 * time.Minute):
				return api.WriteJSON(w, http.StatusOK, "at last")
			}
		}))
		conn := serve(t, s).dial()
		defer conn.Close()
		in := bufio.NewReader(conn)
		for i := range 2 {
			fmt.Fprint(conn, "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("request %d: %v", i+1, err)
			}
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != 200 || err != nil || string(body) != "\"at last\"\n" {
				t.Errorf("request %d: %d %q %v", i+1, response.StatusCode, body, err)
			}
			time.Sleep(10 * time.Minute) // idle
		}
	})
}

// A caller who stops reading is let go after a minute, and is no failure of ours.
func TestSlowReaderIsCut(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		handler api.Handler
	}{
		{"of a stream", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			stream := api.OpenStream(w)
			defer stream.Close()
			for {
				if err := stream.Send("delta", "piece"); err != nil {
					return err
				}
				time.Sleep(time.Second)
			}
		}},
		{"of a large body", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			return api.WriteJSON(w, http.StatusOK, strings.Repeat("x", 1<<20))
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, handling("health", row.handler))
			conn := serve(t, s).dial()
			defer conn.Close()
			start := time.Now()
			fmt.Fprint(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
			for s.log.String() == "" && time.Since(start) < time.Hour {
				time.Sleep(time.Second)
			}
			if waited := time.Since(start); waited > 61*time.Second {
				t.Errorf("the reader %s was let go after %v, want a minute", row.name, waited)
			}
			if line := s.log.only(t); line["level"] != "INFO" || line["status"] != 200.0 {
				t.Errorf("the reader %s: log line %v", row.name, line)
			}
		})
	}
}

// That deadline is each response's own: a connection that was idle for longer
// than it, and a stream that lasts longer, are not cut.
func TestSendDeadlineIsEachResponsesOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, handling("chat", func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
			if _, err := api.Decode[order](r); err != nil {
				return err
			}
			stream := api.OpenStream(w)
			defer stream.Close()
			time.Sleep(10 * time.Minute) // the heartbeat alone
			return stream.Send("done", 1)
		}))
		conn := serve(t, s).dial()
		defer conn.Close()
		in := bufio.NewReader(conn)
		for i, request := range []string{
			"OPTIONS /chat HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
			"OPTIONS /chat HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			time.Sleep(10 * time.Minute) // idle
			fmt.Fprint(conn, request)
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("request %d: %v", i+1, err)
			}
			if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode >= 300 {
				t.Errorf("request %d: %d %q %v", i+1, response.StatusCode, body, err)
			}
		}
	})
}

// Until something is sent a stream may be withdrawn, for an answer with another
// status; a heartbeat is something.
func TestStreamIsWithdrawn(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		acts func(*api.Stream)
		want string
	}{
		{"at once", func(*api.Stream) {}, "503 withdrawn true"},
		{"just before the heartbeat", func(*api.Stream) { time.Sleep(15*time.Second - 1) }, "503 withdrawn true"},
		{"after it: too late", func(*api.Stream) { time.Sleep(15*time.Second + 1) }, "200 withdrawn false :"},
		{"after an event: too late", func(s *api.Stream) { s.Send("delta", 1) }, "200 withdrawn false event: delta data: 1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			withdrawn := false
			w := httptest.NewRecorder()
			s := newSite(t, handling("health", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
				stream := api.OpenStream(w)
				defer stream.Close()
				row.acts(stream)
				if withdrawn = stream.Withdraw(); !withdrawn {
					return nil
				}
				if err := stream.Send("delta", 1); err == nil {
					t.Errorf("%s: it sends after all", row.name)
				}
				return &api.Error{Code: api.Unavailable}
			}))
			s.ServeHTTP(w, request("GET", "/health"))
			time.Sleep(time.Minute)
			got := fmt.Sprintf("%d withdrawn %v", w.Code, withdrawn)
			if isStream := w.Header().Get("Content-Type") == "text/event-stream"; isStream == withdrawn {
				t.Errorf("%s: Content-Type %q", row.name, w.Header().Get("Content-Type"))
			} else if isStream {
				got += " " + strings.Join(strings.Fields(w.Body.String()), " ")
			}
			if got != row.want {
				t.Errorf("%s: %s, want %s", row.name, got, row.want)
			}
		})
	}
}

// A stream in silence is kept alive, and its frames are whole JSON lines (I18).
func TestStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &statuses{ResponseRecorder: httptest.NewRecorder()}
		s := newSite(t, handling("health", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			stream := api.OpenStream(w)
			defer stream.Close()
			if err := stream.Send("delta", map[string]string{"delta": "a\n\ndata: b\r<c>\u2028"}); err != nil {
				return err
			}
			time.Sleep(31 * time.Second)
			return stream.Send("done", 1)
		}))
		s.ServeHTTP(w, request("GET", "/health"))
		time.Sleep(time.Minute) // nothing is written after the end
		want := "event: delta\ndata: {\"delta\":\"a\\n\\ndata: b\\r<c>\\u2028\"}\n\n:\n\n:\n\nevent: done\ndata: 1\n\n"
		if w.Body.String() != want {
			t.Errorf("stream\n%q, want\n%q", w.Body, want)
		}
		if h := w.Header(); h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" || !w.Flushed {
			t.Errorf("headers %v, flushed %v", h, w.Flushed)
		}
		if w.n != 1 {
			t.Errorf("it begins %d times", w.n)
		}
	})
}

// statuses counts how often a response is given one.
type statuses struct {
	*httptest.ResponseRecorder
	n int
}

func (s *statuses) WriteHeader(status int) {
	s.n++
	s.ResponseRecorder.WriteHeader(status)
}

func TestWantsStream(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]bool{
		"":                                    false,
		"*/*":                                 false,
		"application/json":                    false,
		"text/event-stream":                   true,
		"Text/Event-Stream; q=1":              true,
		"application/json, text/event-stream": true,
		"text/event-streams":                  false,
	} {
		r := request("POST", "/chat")
		if accept != "" {
			r.Header["Accept"] = strings.Split(accept, "|")
		}
		if got := api.WantsStream(r); got != want {
			t.Errorf("Accept %q: %v", accept, got)
		}
	}
	if r := request("POST", "/chat", "Accept: application/json", "Accept: text/event-stream"); !api.WantsStream(r) {
		t.Error("a second header is not read")
	}
}

// P15, P17: what needs no credential is held to the same, preflights too; and
// nobody waits for a "100 Continue" that will not come.
func TestStrangersDontHoldConnections(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, request string
		status        int
	}{
		{"a preflight with a body that never comes", "OPTIONS /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n", 204},
		{"a chunked preflight", "OPTIONS /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 204},
		{"an unknown path", "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n", 404},
		{"a refusal that is waited for", "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\nExpect: 100-continue\r\n\r\n", 401},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, behind(&guard{err: auth.NoCredential}), handling("chat", func(http.ResponseWriter, *http.Request, auth.Caller) error { return nil }))
			conn := serve(t, s).dial()
			defer conn.Close()
			start := time.Now()
			fmt.Fprint(conn, row.request)
			in := bufio.NewReader(conn)
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s: %v", row.name, err)
			}
			if response.StatusCode != row.status || time.Since(start) > 0 {
				t.Errorf("%s: status %d after %v, want %d at once", row.name, response.StatusCode, time.Since(start), row.status)
			}
			io.Copy(io.Discard, in)
			if waited := time.Since(start); waited > 6*time.Second {
				t.Errorf("%s: it took %v to let go, want 6 s at most", row.name, waited)
			}
		})
	}
}
