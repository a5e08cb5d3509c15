package openai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"postern/shared/model"
	"postern/shared/model/openai"
)

// isKind tells that err is of one kind, and of one alone.
func isKind(t *testing.T, err, want error) {
	t.Helper()
	for _, kind := range []error{model.ErrFailed, model.ErrRefused, model.ErrTooLong, model.ErrUnavailable, model.ErrTimeout} {
		if errors.Is(err, kind) != errors.Is(want, kind) {
			t.Errorf("%v: is it %q? %v", err, kind, errors.Is(err, kind))
		}
	}
}

// Each status, and how often it is asked for.
func TestStatuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		want   error
		tries  int
	}{
		{400, model.ErrRefused, 1},
		{401, model.ErrUnavailable, 1}, // the key is wrong
		{402, model.ErrUnavailable, 1}, // the account is empty
		{403, model.ErrUnavailable, 1}, // the key may not
		{404, model.ErrUnavailable, 1}, // no such model, or no such path
		{405, model.ErrFailed, 1},
		{408, model.ErrTimeout, 1},
		{409, model.ErrFailed, 1},
		{413, model.ErrTooLong, 1},
		{415, model.ErrFailed, 1},
		{422, model.ErrRefused, 1},
		{429, model.ErrUnavailable, 2},
		{500, model.ErrFailed, 1},
		{501, model.ErrFailed, 1},
		{502, model.ErrFailed, 2},
		{503, model.ErrUnavailable, 2},
		{504, model.ErrTimeout, 2},
		{599, model.ErrFailed, 1},
		{201, model.ErrFailed, 1},
		{204, model.ErrFailed, 1},
		{300, model.ErrUnavailable, 1},
		{304, model.ErrUnavailable, 1},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.status), func(t *testing.T) {
			t.Parallel()
			body := `{"error":{"message":"The upstream's word","type":"x"}}`
			if test.status == 204 || test.status == 304 {
				body = ""
			}
			u := serve(t, refuses(test.status, body))
			events, err := run(t, u.model(t))
			isKind(t, err, test.want)
			if len(events) > 0 {
				t.Errorf("events %v", events)
			}
			if n := len(u.received()); n != test.tries {
				t.Errorf("%d tries, want %d", n, test.tries)
			}
			for _, part := range []string{fmt.Sprint("status ", test.status), strings.Trim(body, "{")} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q isn't in %q", part, err)
				}
			}
		})
	}
}

// What is longer than the window is refused with one status by all, and with words
// of its own by each.
func TestTooLong(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]error{
		`{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`: model.ErrTooLong,
		`{"object":"error","message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens","type":"BadRequestError"}`:                 model.ErrTooLong,
		`{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}`:                                           model.ErrTooLong,
		`{"error":{"message":"litellm.ContextWindowExceededError: ..."}}`:                                                                                                model.ErrTooLong,
		`{"error":{"message":"temperature is too high"}}`:                                                                                                                model.ErrRefused,
		``: model.ErrRefused,
	} {
		u := serve(t, refuses(400, body))
		_, err := run(t, u.model(t))
		isKind(t, err, want)
	}
}

// Whose tokens are counted is asked for once, where the first try may be on the
// bill: what was set aside is for one.
func TestOnce(t *testing.T) {
	t.Parallel()
	once := ask
	once.Once = true
	for status, tries := range map[int]int{429: 2, 503: 2, 502: 1, 504: 1} {
		u := serve(t, refuses(status, ""))
		collect(t, u.model(t).Stream(t.Context(), once))
		if n := len(u.received()); n != tries {
			t.Errorf("%d: %d tries, want %d", status, n, tries)
		}
	}
	u := serve(t, hello(), hangsUp)
	m := u.model(t)
	for _, want := range []error{nil, model.ErrFailed} { // the second on a connection that was used before
		if _, err := collect(t, m.Stream(t.Context(), once)); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if n := len(u.received()); n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
}

// A second try sends the same request, and its answer is all that is seen.
func TestSecondTry(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]http.HandlerFunc{
		"429":                         refuses(429, ""),
		"502":                         refuses(502, "<html>Bad gateway</html>"),
		"503, Retry-After: 0":         refuses(503, "", "Retry-After", "0"),
		"503, Retry-After: long ago":  refuses(503, "", "Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
		"504":                         refuses(504, ""),
		"x-should-retry isn't needed": refuses(429, "", "X-Should-Retry", "true"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := serve(t, first, hello())
			events, err := run(t, u.model(t))
			if err != nil || said(events) != "Hello" {
				t.Fatalf("got %v, %v", events, err)
			}
			got := u.received()
			if len(got) != 2 || got[0].body != got[1].body || got[0].header.Get("Authorization") != got[1].header.Get("Authorization") {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestNoSecondTry(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   error
	}{
		{"it wants us to wait too long", refuses(429, "", "Retry-After", "3"), model.ErrUnavailable},
		{"much too long", refuses(503, "", "Retry-After", "99999999999999999999"), model.ErrUnavailable},
		{"less than no time", refuses(503, "", "Retry-After", "-1"), model.ErrUnavailable},
		{"by a date", refuses(503, "", "Retry-After", "Wed, 21 Oct 2037 07:28:00 GMT"), model.ErrUnavailable},
		{"it says so", refuses(429, "", "X-Should-Retry", "false"), model.ErrUnavailable},
		{"no number, no date", refuses(503, "", "Retry-After", "soon"), model.ErrUnavailable},
		{"all of the prompt was sent: it may be at work", hangsUp, model.ErrFailed},
		{"an answer has begun", func(w http.ResponseWriter, r *http.Request) {
			says(begin, text("Hel"))(w, r)
			panic(http.ErrAbortHandler)
		}, model.ErrFailed},
		{"an answer has begun, without a word", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, model.ErrFailed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u := serve(t, test.answer, hello())
			_, err := run(t, u.model(t))
			isKind(t, err, test.want)
			if n := len(u.received()); n != 1 {
				t.Errorf("%d tries", n)
			}
		})
	}
}

// A prompt is not paid for twice: after a connection that broke without an answer
// there is a second try only where the first can't have been at work, and that one
// is on a connection of its own.
func TestBrokenConnection(t *testing.T) {
	t.Parallel()
	// The server's first connections, as many as the burst before, die under their
	// second request.
	type number struct{}
	calls := func(t *testing.T, burst int) (died, connections int64) {
		var dead, made atomic.Int64
		var together sync.WaitGroup // so that each of the burst needs a connection
		together.Add(burst)
		u := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if seen := r.Context().Value(number{}).(*atomic.Int64); seen.Add(1) > 1 {
				dead.Add(1)
				hangsUp(w, r)
				return
			}
			if made.Load() <= int64(burst) {
				together.Done()
				together.Wait()
			}
			hello()(w, r)
		}))
		u.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			made.Add(1)
			return context.WithValue(ctx, number{}, new(atomic.Int64))
		}
		u.Start()
		defer u.Close()
		m := client(t, openai.Config{BaseURL: u.URL})
		var all sync.WaitGroup
		for range burst {
			all.Go(func() {
				if _, err := run(t, m); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		events, err := run(t, m)
		if err != nil || said(events) != "Hello" {
			t.Errorf("got %v, %v", events, err)
		}
		return dead.Load(), made.Load()
	}
	for burst := range 4 {
		t.Run(fmt.Sprintf("it was used before, as were %d", burst), func(t *testing.T) {
			t.Parallel()
			died, connections := calls(t, burst)
			for n := 0; n < 20 && died == 0 && burst > 0; n++ { // a busy machine may have kept none, as their answers' ends were late
				died, connections = calls(t, burst)
			}
			if want := int64(min(burst, 1)); died != want || connections != int64(burst)+1 {
				t.Errorf("%d connections were tried in vain, want %d; %d in all", died, want, connections)
			}
		})
	}
	t.Run("half of the prompt was sent", func(t *testing.T) {
		t.Parallel()
		var dials atomic.Int64
		u := serve(t, hello())
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if dials.Add(1) == 1 {
				conn = &breaking{conn, 100}
			}
			return conn, err
		}
		long := ask
		long.Messages = []model.Message{{Role: model.User, Text: strings.Repeat("x", 64<<10)}}
		events, err := collect(t, client(t, openai.Config{BaseURL: u.URL, HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial}}}).Stream(t.Context(), long))
		if err != nil || said(events) != "Hello" || dials.Load() != 2 {
			t.Errorf("got %v, %v after %d dials", events, err, dials.Load())
		}
	})
}

// breaking is a connection that breaks when left bytes have been written.
type breaking struct {
	net.Conn
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	n, err := b.Conn.Write(p[:min(len(p), b.left)])
	if b.left -= n; err == nil && n < len(p) {
		b.Close()
		err = syscall.EPIPE
	}
	return n, err
}

// What a 429 says of when to ask again is told on, where that is some use.
func TestOverloaded(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, header string
		status       int
		after        time.Duration
		overloaded   bool
	}{
		{"it doesn't say", "", 429, 0, true},
		{"at once", "0", 429, 0, true},
		{"in a second", "1", 429, time.Second, true},
		{"in half a minute", "30", 429, 30 * time.Second, true},
		{"at a date", "Sat, 01 Jan 2000 00:10:00 GMT", 429, 10 * time.Minute, true}, // the bubble's time begins with 2000
		{"at a date that has passed", "Fri, 31 Dec 1999 23:59:00 GMT", 429, 0, true},
		{"in an hour", "3600", 429, time.Hour, true},
		{"in more", "3601", 429, 0, true},
		{"in more than there is", "99999999999999999999", 429, 0, true},
		{"in less than nothing", "-5", 429, 0, true},
		{"with a word", "soon", 429, 0, true},
		{"another refusal", "30", 503, 0, false},
		{"not a refusal", "30", 500, 0, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := client(t, openai.Config{HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					header := http.Header{"X-Should-Retry": {"false"}}
					if row.header != "" {
						header.Set("Retry-After", row.header)
					}
					return &http.Response{StatusCode: row.status, Header: header, Body: http.NoBody}, nil
				})}})
				_, err := collect(t, m.Stream(t.Context(), ask))
				told, ok := errors.AsType[interface {
					error
					Overloaded() (time.Duration, bool)
				}](err)
				if !ok {
					t.Fatalf("%v can't say", err)
				}
				if after, yes := told.Overloaded(); after != row.after || yes != row.overloaded {
					t.Errorf("%v, %v, want %v, %v", after, yes, row.after, row.overloaded)
				}
			})
		})
	}
}

// 101 makes the connection the body, which neither a deadline nor a cancellation
// ends: it is closed unread.
func TestSwitchingProtocols(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
	for name, more := range map[string]string{"and silence": "", "and events": "data: " + text("a") + "\n\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			closed := make(chan struct{})
			url := raw(t, func(w io.Writer) {
				io.WriteString(w, head+more)
				io.Copy(io.Discard, w.(net.Conn))
				close(closed)
			})
			before := time.Now()
			_, err := run(t, client(t, openai.Config{BaseURL: url}))
			isKind(t, err, model.ErrFailed)
			if took := time.Since(before); took > tooLong || !strings.Contains(err.Error(), "status 101") {
				t.Errorf("%v after %v", err, took)
			}
			select {
			case <-closed:
			case <-time.After(tooLong):
				t.Error("the connection is still open")
			}
		})
	}
}

// The pause between two tries, by a clock that only these tests have.
func TestPause(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		after    string
		deadline time.Duration
		tries    int
		took     time.Duration
	}{
		{"short by itself", "", time.Minute, 2, 200 * time.Millisecond},
		{"no shorter because of Retry-After: 0", "0", time.Minute, 2, 200 * time.Millisecond},
		{"as Retry-After says", "1", time.Minute, 2, time.Second},
		{"up to two seconds", "2", time.Minute, 2, 2 * time.Second},
		{"none beyond", "3", time.Minute, 1, 0},
		{"none beyond the deadline: no use to wait for it", "2", 1500 * time.Millisecond, 1, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				m := client(t, openai.Config{HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					tries++
					header := http.Header{}
					if test.after != "" {
						header.Set("Retry-After", test.after)
					}
					return &http.Response{StatusCode: 429, Header: header, Body: io.NopCloser(strings.NewReader("slow down"))}, nil
				})}})
				ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
				defer cancel()
				before := time.Now()
				_, err := collect(t, m.Stream(ctx, ask))
				isKind(t, err, model.ErrUnavailable)
				if took := time.Since(before); tries != test.tries || took != test.took {
					t.Errorf("%d tries in %v, want %d in %v", tries, took, test.tries, test.took)
				}
			})
		})
	}
	t.Run("ends with the caller", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			m := client(t, openai.Config{HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				tries++
				return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"2"}}, Body: http.NoBody}, nil
			})}})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			before := time.Now()
			_, err := collect(t, m.Stream(ctx, ask))
			if took := time.Since(before); err != context.Canceled || took != 100*time.Millisecond || tries != 1 {
				t.Errorf("%v after %v and %d tries", err, took, tries)
			}
		})
	})
}

// Nobody is there. The dials are counted: one second try, except after a dial
// that took all its time.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	const closed = "127.0.0.1:1" // a port of the system's choice may soon be another test's
	refusedDial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, closed)
	}
	tests := []struct {
		name  string
		dial  func(context.Context, string, string) (net.Conn, error)
		tries int64
	}{
		{"connection refused", refusedDial, 2},
		{"no such host", func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
		}, 2},
		{"dial times out", func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Deadline: time.Now().Add(-time.Second)}).DialContext(ctx, "tcp", closed)
		}, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int64
			_, err := run(t, client(t, openai.Config{BaseURL: "http://nowhere.invalid/v1", HTTPClient: &http.Client{Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					tries.Add(1)
					return test.dial(ctx, network, address)
				},
			}}}))
			isKind(t, err, model.ErrUnavailable)
			if strings.Contains(err.Error(), "chat/completions") {
				t.Errorf("the URL, which the log needn't have, is in %v", err)
			}
			if tries.Load() != test.tries {
				t.Errorf("%d tries, want %d: %v", tries.Load(), test.tries, err)
			}
		})
	}
	t.Run("by our own client", func(t *testing.T) {
		_, err := run(t, client(t, openai.Config{BaseURL: "http://" + closed}))
		isKind(t, err, model.ErrUnavailable)
	})
	t.Run("a certificate of nobody's", func(t *testing.T) {
		u := httptest.NewUnstartedServer(hello())
		u.Config.ErrorLog = log.New(io.Discard, "", 0)
		u.StartTLS()
		defer u.Close()
		_, err := run(t, client(t, openai.Config{BaseURL: u.URL}))
		isKind(t, err, model.ErrUnavailable)
	})
}

func TestTooSlow(t *testing.T) {
	t.Parallel()
	soon := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	drips := func(w io.Writer, what string) {
		for {
			if _, err := io.WriteString(w, what); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	for name, m := range map[string]func(t *testing.T) model.Model{
		"before its header": func(t *testing.T) model.Model { return serve(t, waits).model(t) },
		"in its header": func(t *testing.T) model.Model {
			return client(t, openai.Config{BaseURL: raw(t, func(w io.Writer) {
				io.WriteString(w, "HTTP/1.1 200 OK\r\n")
				drips(w, "X-Wait: yes\r\n")
			})})
		},
		"before its first word": func(t *testing.T) model.Model {
			return serve(t, func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); waits(w, r) }).model(t)
		},
		"between two words": func(t *testing.T) model.Model {
			return serve(t, func(w http.ResponseWriter, r *http.Request) { says(begin, text("Hel"))(w, r); waits(w, r) }).model(t)
		},
		"in the middle of a line": func(t *testing.T) model.Model {
			return serve(t, func(w http.ResponseWriter, r *http.Request) {
				sends("data: {\"choices\":")(w, r)
				w.(http.Flusher).Flush()
				waits(w, r)
			}).model(t)
		},
		"with nothing but heartbeats": func(t *testing.T) model.Model {
			return client(t, openai.Config{BaseURL: raw(t, func(w io.Writer) {
				io.WriteString(w, "HTTP/1.1 200 OK\r\n\r\n")
				drips(w, ": wait\n\n")
			})})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := time.Now()
			_, err := collect(t, m(t).Stream(soon(t), ask))
			isKind(t, err, model.ErrTimeout)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v isn't the context's error", err)
			}
			if took := time.Since(before); took > tooLong {
				t.Errorf("it took %v", took)
			}
		})
	}

	t.Run("by the HTTP client's own measure", func(t *testing.T) {
		u, tries := serve(t, waits), 0 // counted here: on a busy machine one may end before it arrives
		transport := &http.Transport{ResponseHeaderTimeout: 50 * time.Millisecond}
		_, err := run(t, client(t, openai.Config{BaseURL: u.URL, HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			tries++
			return transport.RoundTrip(r)
		})}}))
		isKind(t, err, model.ErrTimeout)
		if tries != 1 {
			t.Errorf("%d tries: another would take as long", tries)
		}
		u = serve(t, func(w http.ResponseWriter, r *http.Request) { says(text("Hel"))(w, r); waits(w, r) })
		_, err = run(t, client(t, openai.Config{BaseURL: u.URL, HTTPClient: &http.Client{Timeout: 100 * time.Millisecond}}))
		isKind(t, err, model.ErrTimeout)
	})
	t.Run("by the clock, a moment before the context notices", func(t *testing.T) {
		m := client(t, openai.Config{HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		})}})
		_, err := collect(t, m.Stream(late{t.Context()}, ask))
		isKind(t, err, model.ErrTimeout)
	})
	t.Run("to say why it refuses", func(t *testing.T) {
		u := serve(t, func(w http.ResponseWriter, r *http.Request) {
			refuses(500, "Oh ")(w, r)
			w.(http.Flusher).Flush()
			waits(w, r)
		})
		before := time.Now()
		_, err := run(t, u.model(t))
		isKind(t, err, model.ErrFailed)
		if took := time.Since(before); took > tooLong || !strings.HasSuffix(err.Error(), "500 Internal Server Error: Oh") {
			t.Errorf("%v after %v", err, took)
		}
		<-u.left
	})
}

// late is a context whose deadline has passed a moment ago.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Microsecond), true }

// The upstream sees at once that its answer isn't wanted any more.
func TestLeaving(t *testing.T) {
	t.Parallel()
	endless := func(w http.ResponseWriter, r *http.Request) {
		says(begin, text("Hel"))(w, r)
		waits(w, r)
	}
	gone := func(t *testing.T, u *upstream) {
		t.Helper()
		select {
		case <-u.left:
		case <-time.After(tooLong):
			t.Error("the upstream has not seen it")
		}
		if n := len(u.received()); n != 1 {
			t.Errorf("%d tries", n)
		}
	}
	t.Run("the context ends in the middle", func(t *testing.T) {
		t.Parallel()
		u := serve(t, endless)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		for event, err := range u.model(t).Stream(ctx, ask) {
			if event.Text == "Hel" {
				cancel()
			}
			last = err
		}
		if last != context.Canceled {
			t.Errorf("got %v", last)
		}
		gone(t, u)
	})
	t.Run("the context ends before the header", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		u := serve(t, func(w http.ResponseWriter, r *http.Request) { cancel(); waits(w, r) })
		if _, err := collect(t, u.model(t).Stream(ctx, ask)); err != context.Canceled {
			t.Errorf("got %v", err)
		}
		gone(t, u)
	})
	t.Run("the consumer breaks out", func(t *testing.T) {
		t.Parallel()
		u := serve(t, endless)
		for range u.model(t).Stream(t.Context(), ask) {
			break
		}
		gone(t, u)
	})
	t.Run("the consumer panics", func(t *testing.T) {
		t.Parallel()
		u := serve(t, endless)
		func() {
			defer func() { recover() }()
			for range u.model(t).Stream(t.Context(), ask) {
				panic("oh")
			}
		}()
		gone(t, u)
	})
	t.Run("the context has ended: nothing is sent", func(t *testing.T) {
		t.Parallel()
		u := serve(t, hello())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := collect(t, u.model(t).Stream(ctx, ask)); err != context.Canceled || len(u.received()) != 0 {
			t.Errorf("got %v, %v", err, u.received())
		}
	})
	t.Run("the consumer breaks out at a tool call, and at the end", func(t *testing.T) {
		t.Parallel()
		u := serve(t, says(tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{}"}},{"index":1,"id":"b","function":{"name":"x"}}`), toolsR, done))
		for event := range u.model(t).Stream(t.Context(), ask) {
			if event.ToolCall == nil || event.ToolCall.ID != "a" {
				t.Errorf("got %v", event)
			}
			break
		}
		for event := range u.model(t).Stream(t.Context(), ask) {
			if event.Stop != "" {
				break
			}
		}
	})
}

// Nonsense with a 200 on it: failed, asked for once, and whatever came before
// was passed on.
func TestNonsense(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer http.HandlerFunc
		text   string // before it
		inLog  string
	}{
		{"nothing", sends(""), "", "the answer was cut: unexpected EOF"},
		{"nothing but [DONE]", says(done), "", "an empty answer"},
		{"only another choice", says(`{"choices":[{"index":1,"delta":{"content":"x"}}]}`, done), "", "an empty answer"},
		{"HTML", sends("<!DOCTYPE html>\n<html><body>Welcome to nginx!</body></html>\n"), "", "not an event stream: <!DOCTYPE html>"},
		{"a whole JSON reply", sends(`{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}`), "", `JSON, not an event stream: {"choices"`},
		{"an error with a 200", sends(`{"error":{"message":"model is loading"}}`), "", "model is loading"},
		{"JSON in lines", sends("{\n  \"choices\": []\n}\n"), "", "JSON, not an event stream: {"},
		{"a list of JSON", sends(`[{"error":{"code":503}}]`), "", "JSON, not an event stream: [{"},
		{"malformed JSON", says(text("Hel"), `{"choices":[{`, done), "Hel", "unexpected end of JSON input"},
		{"another type", says(text("Hel"), `{"choices":"none"}`, done), "Hel", "choices"},
		{"a list", says(`[]`, done), "", "an event can't be read"},
		{"deep JSON", says(text("Hel"), strings.Repeat(`{"a":`, 100_000)), "Hel", "depth"},
		{"an error in the stream", says(text("Hel"), `{"error":{"message":"CUDA out of memory","code":500}}`, done), "Hel", "CUDA out of memory"},
		{"an error that is a string", says(text("Hel"), `{"error":"out of memory"}`, done), "Hel", "out of memory"},
		{"an error beside choices", says(text("Hel"), `{"id":"x","choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502,"message":"provider disconnected"}}`, done), "Hel", "provider disconnected"},
		{"an error after the reason", says(text("Hel"), stop, `{"error":{"message":"late"}}`, done), "Hel", "late"},
		{"cut before any reason", says(begin, text("Hel"), text("lo")), "Hello", "the answer was cut"},
		{"cut in the middle of a line", sends("data: " + text("Hel") + "\n\ndata: {\"choices\":[{\"ind"), "Hel", "the answer was cut"},
		{"cut in an event of several lines", sends("data: " + text("Hel") + "\n\ndata: {\"choices\":\ndata: []\n"), "Hel", "the answer was cut"},
		{"several lines that are no JSON", sends("data: " + text("Hel") + "\n\ndata: {\"choices\":\ndata: [}\n\n"), "Hel", "an event can't be read"},
		{"cut where the reason is the word null", says(text("Hel"), `{"choices":[{"index":0,"delta":{},"finish_reason":"null"}]}`), "Hel", "the answer was cut"},
		{"the connection breaks", func(w http.ResponseWriter, r *http.Request) {
			says(text("Hel"))(w, r)
			panic(http.ErrAbortHandler)
		}, "Hel", "the answer was cut"},
		{"arguments cut", says(text("Hel"), tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{\"n\":"}}`), toolsR, done), "Hel", "without a name or an object of arguments: x("},
		{"arguments no object", says(tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"[1]"}}`), toolsR, done), "", "without a name or an object of arguments: x("},
		{"arguments twice", says(tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{}{}"}}`), toolsR, done), "", "without a name or an object of arguments: x("},
		{"a call of no tool", says(tool(`{"index":0,"id":"a","function":{"arguments":"{}"}}`), toolsR, done), "", "without a name or an object of arguments: ({})"},
		{"too many calls", says(tool(strings.TrimSuffix(manyCalls(200), ",")), toolsR, done), "", "too large"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u := serve(t, test.answer, hello())
			events, err := run(t, u.model(t))
			isKind(t, err, model.ErrFailed)
			if said(events) != test.text {
				t.Errorf("text %q, want %q", said(events), test.text)
			}
			for _, event := range events {
				if event.ToolCall != nil || event.Stop != "" {
					t.Errorf("event %v", event)
				}
			}
			if err != nil && !strings.Contains(err.Error(), test.inLog) {
				t.Errorf("%q isn't in %q", test.inLog, err)
			}
			if n := len(u.received()); n != 1 {
				t.Errorf("%d tries", n)
			}
		})
	}

	for name, more := range map[string]string{"": "", ", in a line": `data: {"choices":[],"usage":{"prompt_`, ", in a line's name": "dat", ", in an event": "data: {\"choices\":[],\ndata: \"usage\":\n"} {
		t.Run("the connection breaks after the reason"+name+": only usage is missing", func(t *testing.T) {
			u := serve(t, func(w http.ResponseWriter, r *http.Request) {
				says(text("Hel"), stop)(w, r)
				io.WriteString(w, more)
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			})
			events, err := run(t, u.model(t))
			if err != nil || said(events) != "Hel" || events[len(events)-1].Stop != model.EndTurn {
				t.Errorf("got %v, %v", events, err)
			}
		})
	}
}

func manyCalls(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"index":%d,"function":{"name":"x"}},`, i+1)
	}
	return b.String()
}

// P15: an upstream without end is left early, whichever part of it has none.
func TestEndless(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
	tests := []struct {
		name  string
		start string
		again string
		most  int64 // bytes it gets rid of; the sockets' buffers hold some MB
		want  error
		inLog string
	}{
		{"a header's line", "HTTP/1.1 200 OK\r\nX-Header: ", strings.Repeat("x", 4096), 16 << 20, model.ErrFailed, "exceeded"},
		{"headers", "HTTP/1.1 200 OK\r\n", strings.Repeat("X-Header: x\r\n", 100), 16 << 20, model.ErrFailed, "exceeded"},
		{"a status line", "HTTP/1.1 200 ", strings.Repeat("K", 4096), 16 << 20, model.ErrFailed, ""},
		{"no HTTP at all", "", strings.Repeat("SSH-2.0-OpenSSH ", 100), 16 << 20, model.ErrFailed, ""},
		{"an event", head + "data: ", strings.Repeat("x", 4096), 16 << 20, model.ErrFailed, "an event of more than 1048576 bytes"},
		{"an event in lines", head, "data: [" + strings.Repeat(" ", 4096) + "0,\n", 16 << 20, model.ErrFailed, "an event of more than 1048576 bytes"},
		{"a heartbeat", head + ":", strings.Repeat("x", 4096), 16 << 20, model.ErrFailed, "an event of more than 1048576 bytes"},
		{"text", head, "data: " + text(strings.Repeat("x", 64<<10)) + "\n\n", 24 << 20, model.ErrFailed, "too large"},
		{"arguments", head, "data: " + tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"`+strings.Repeat("x", 64<<10)+`"}}`) + "\n\n", 24 << 20, model.ErrFailed, "too large"},
		{"calls in one event", head, "data: " + tool(strings.TrimSuffix(manyCalls(25_000), ",")) + "\n\n", 16 << 20, model.ErrFailed, "too large"},
		{"heartbeats", head, ":" + strings.Repeat("x", 64<<10) + "\n\n", 100 << 20, model.ErrFailed, "the answer was cut"},
		{"an error's body", "HTTP/1.1 500 Oh\r\n\r\n", strings.Repeat("x", 4096), 16 << 20, model.ErrFailed, "status 500"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			written := make(chan int64, 10)
			url := raw(t, func(w io.Writer) {
				total, err := io.WriteString(w, test.start)
				for err == nil && int64(total) < 4*test.most {
					var n int
					n, err = io.WriteString(w, test.again)
					total += n
				}
				written <- int64(total)
			})
			_, err := run(t, client(t, openai.Config{BaseURL: url, Key: keyIs(canary)}))
			isKind(t, err, test.want)
			if err != nil && (!strings.Contains(err.Error(), test.inLog) || len(err.Error()) > 500) {
				t.Errorf("got %v", err)
			}
			select {
			case n := <-written:
				if n > test.most {
					t.Errorf("the upstream could send %d bytes", n)
				}
			case <-time.After(tooLong):
				t.Error("the connection is still open")
			}
		})
	}
}

// Our own client takes no header that only fills memory.
func TestLargeHeader(t *testing.T) {
	t.Parallel()
	u := serve(t, refuses(200, "data: [DONE]", "X-Large", strings.Repeat("x", 256<<10)))
	_, err := run(t, u.model(t))
	isKind(t, err, model.ErrFailed)
	if !strings.Contains(err.Error(), "exceeded") {
		t.Errorf("got %v", err)
	}
}

// A redirect would carry the prompt, and the key, to another address.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, own := range map[string]*http.Client{"our client": nil, "somebody's": {CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}} {
			elsewhere := serve(t, hello())
			u := serve(t, refuses(status, "", "Location", elsewhere.URL+"/v1/chat/completions"))
			_, err := run(t, client(t, openai.Config{BaseURL: u.URL, Key: keyIs(canary), HTTPClient: own}))
			isKind(t, err, model.ErrUnavailable)
			if n := len(elsewhere.received()); n != 0 {
				t.Errorf("%s followed %d", name, status)
			}
		}
	}
}

// P4: whatever way a server echoes the key, no error shows it; nor more than
// 300 bytes of its text, nor a line break that could forge a line of the log.
func TestKeyIsNotShown(t *testing.T) {
	t.Parallel()
	echo := "Authorization: Bearer " + canary
	filler := strings.Repeat("x", 250)
	status := func(code int, body string) http.HandlerFunc { return refuses(code, body) }
	for name, answer := range map[string]http.HandlerFunc{
		"in an error's body": func(w http.ResponseWriter, r *http.Request) {
			refuses(400, `{"error":{"message":"bad header `+r.Header.Get("Authorization")+`"}}`)(w, r)
		},
		"in a page":                     status(500, "<html>\n<pre>\n"+echo+"\n</pre>\x1b[31m\x00\u0085\n2026/01/01 ERROR forged"),
		"as OpenAI does, starred":       status(401, `{"error":{"message":"Incorrect API key provided: `+canary[:12]+strings.Repeat("*", 20)+canary[len(canary)-12:]+`."}}`),
		"cut by it":                     status(401, "your key "+canary[:20]+"..."),
		"cut by us at 300 bytes":        status(400, filler+canary),
		"cut by us in a character":      status(400, "x"+strings.Repeat("ä", 299)),
		"cut by us at 4096 bytes":       status(400, strings.Repeat(" ", 4096-30)+canary),
		"many times":                    status(400, strings.Repeat(canary, 100)),
		"again and again, with spaces":  status(400, strings.Repeat(canary+" ", 1000)),
		"escaped":                       status(400, `{"message":"`+canary[:20]+`\u002d`+canary[20:]+`"}`),
		"with a byte that is no UTF-8":  status(400, canary[:20]+"\xff"+canary[20:]),
		"in a reason phrase and header": refuses(403, "", "X-Echo", canary, "Retry-After", canary, "Location", "/?"+canary),
		"in two tries":                  status(503, echo),
		"in a redirect":                 refuses(308, "moved "+canary, "Location", "http://127.0.0.1:1/?key="+canary),
		"in an error of the stream":     says(text("a"), `{"error":{"message":"`+echo+`"}}`),
		"in an event that's malformed":  says(text("a"), `{"choices":[`+canary),
		"in an event of another type":   says(text("a"), `{"choices":"`+canary+`"}`),
		"in a number":                   says(`{"choices":[{"index":1e9999` + canary + `}]}`),
		"in a stray line":               sends(canary + "\n"),
		"in a field's name":             sends(canary + ": data\n"),
		"in a tool's arguments":         says(tool(`{"index":0,"function":{"name":"x","arguments":"`+canary+`"}}`), toolsR, done),
		"in a tool's name":              says(tool(`{"index":0,"function":{"name":"`+canary+`","arguments":"["}}`), toolsR, done),
		"in something that is no HTTP":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := ""
			if answer != nil {
				url = serve(t, answer).URL
			} else {
				url = raw(t, func(w io.Writer) { io.WriteString(w, "ECHO "+echo+"\r\n\r\n") })
			}
			_, err := run(t, client(t, openai.Config{BaseURL: url, Key: keyIs(canary)}))
			notShown(t, err)
		})
	}
	t.Run("when it fits no header", func(t *testing.T) {
		u := serve(t, hello())
		_, err := run(t, client(t, openai.Config{BaseURL: u.URL, Key: keyIs(canary + "\n" + canary)}))
		isKind(t, err, model.ErrUnavailable)
		notShown(t, err)
	})
	t.Run("when it is short", func(t *testing.T) {
		u := serve(t, refuses(400, "the key hunter2 is short, hunter2hunter2"))
		_, err := run(t, client(t, openai.Config{BaseURL: u.URL, Key: keyIs("hunter2")}))
		if want := "model backend failed: it refuses the request: status 400 Bad Request: the key [redacted] is short, [redacted]"; err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

func notShown(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	var line bytes.Buffer
	slog.New(slog.NewJSONHandler(&line, nil)).Error("x", "err", err)
	for _, shown := range []string{err.Error(), fmt.Sprintf("%v %+v %#v %q", err, err, err, err), line.String()} {
		for i := 0; i+8 <= len(canary); i++ {
			if strings.Contains(shown, canary[i:i+8]) {
				t.Fatalf("%q of the key is in %s", canary[i:i+8], shown)
			}
		}
	}
	if len(err.Error()) > 420 {
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
	if !json.Valid(line.Bytes()) || !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\n\r\x1b\x00\u0085") {
		t.Errorf("got %q", err)
	}
}
