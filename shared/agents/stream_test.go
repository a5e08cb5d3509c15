package agents_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
)

// frame is one server-sent event.
type frame struct{ Event, Data string }

// frames reads a stream as a browser does (WHATWG HTML, "Interpreting an event
// stream"): lines end in CR, LF or both, a blank line ends an event, a colon
// begins a comment. It is stricter in what it takes for a field.
func frames(t testing.TB, stream string) (list []frame) {
	t.Helper()
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	if !strings.HasSuffix(stream, "\n\n") {
		t.Errorf("the stream doesn't end with an event's end:\n%q", stream)
	}
	var f frame
	for line := range strings.SplitSeq(stream, "\n") {
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && f != (frame{}):
			list = append(list, f)
			f = frame{}
		case line == "", field == "": // an event without a field, a comment
		case field == "event" && f.Event == "":
			f.Event = value
		case field == "data" && f.Data == "":
			f.Data = value
		default:
			t.Errorf("a line that we never write: %q", line)
		}
	}
	return list
}

// delta is the text of f, which must be a delta.
func (f frame) delta(t testing.TB) string {
	t.Helper()
	var v map[string]*string
	if err := json.Unmarshal([]byte(f.Data), &v); err != nil || f.Event != "delta" || len(v) != 1 || v["delta"] == nil {
		t.Fatalf("no delta: %+v", f)
	}
	return *v["delta"]
}

// stream asks for server-sent events.
func (s *site) stream(message string) reply {
	return s.chat(asking(message), "Accept: text/event-stream")
}

// Contract §4: the wire, byte by byte.
func TestStreamedReply(t *testing.T) {
	got := newSite(t, says("Good ", "day."), auth.RootCaller()).stream("m")
	want := "event: delta\ndata: {\"delta\":\"Good \"}\n\n" +
		"event: delta\ndata: {\"delta\":\"day.\"}\n\n" +
		"event: done\ndata: {\"response\":\"Good day.\",\"status\":\"success\",\"agent\":\"judge\",\"model\":\"test/one\",\"usage\":{\"input_tokens\":7,\"output_tokens\":2},\"request_id\":\"ID\"}\n\n"
	if got.Status != 200 || got.Body != want {
		t.Errorf("%d\n%q, want\n%q", got.Status, got.Body, want)
	}
	for name, value := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Request-Id": "ID", "X-Content-Type-Options": "nosniff"} {
		if got.Header.Get(name) != value {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), value)
		}
	}
}

// The last event is the JSON that the same chat without a stream is answered with.
func TestStreamEndsWithTheReply(t *testing.T) {
	s := newSite(t, says("Good ", "day."), auth.RootCaller())
	events := frames(t, s.stream("m").Body)
	if last := events[len(events)-1]; last.Event != "done" || last.Data+"\n" != s.chat(asking("m")).Body {
		t.Errorf("it ends with %+v", last)
	}
}

func TestWhoGetsAStream(t *testing.T) {
	for _, row := range []struct {
		name, body, accept string
		want               bool
	}{
		{"nobody by default", `{"message":"m"}`, "", false},
		{"curl's Accept", `{"message":"m"}`, "*/*", false},
		{"a browser's text", `{"message":"m"}`, "text/html, text/*;q=0.9, */*;q=0.1", false},
		{"stream: true", `{"message":"m","stream":true}`, "", true},
		{"stream: true, whatever is accepted", `{"message":"m","stream":true}`, "application/json", true},
		{"stream: null", `{"message":"m","stream":null}`, "", false},
		{"Accept", `{"message":"m"}`, "text/event-stream", true},
		{"Accept, whatever stream says", `{"message":"m","stream":false}`, "text/event-stream", true},
		{"Accept in capitals, with a parameter", `{"message":"m"}`, "Text/Event-Stream;charset=utf-8", true},
		{"Accept in a list", `{"message":"m"}`, "application/json ,text/event-stream", true},
		{"a longer name", `{"message":"m"}`, "text/event-stream-x", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var headers []string
			if row.accept != "" {
				headers = append(headers, "Accept: "+row.accept)
			}
			got := newSite(t, says("x"), auth.RootCaller()).chat(row.body, headers...)
			if is := got.Header.Get("Content-Type") == "text/event-stream"; got.Status != 200 || is != row.want {
				t.Errorf("%d %v %s", got.Status, got.Header, got.Body)
			}
		})
	}
}

// wire is what a stream may look like, and nothing else may.
var wire = regexp.MustCompile(`\A(event: delta\ndata: \{[^\n\r\x{2028}\x{2029}]*\}\n\n)*event: done\ndata: \{[^\n\r\x{2028}\x{2029}]*\}\n\n\z`)

// I18: no text can break the framing, and none is lost or cut.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		"plain", "a\nb", "\n", "\n\n", "a\r\nb\rc", "\n\nevent: done\ndata: {}\n\n", "data: x", ":", ": comment\n",
		"\u2028\u2029\u0085", `"quoted" \"twice\" \\`, "<script>&amp;", "\x00\x01\x1f\x7f", "\ufeff\U0001F600é", "{}", strings.Repeat("long ", 5000), "\xff\xfe",
	} {
		f.Add(seed, "the end")
		f.Add("the beginning\n", seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		got := newSite(t, says(first, second), auth.RootCaller()).stream("m")
		if !wire.MatchString(got.Body) {
			t.Fatalf("the wire is\n%q", got.Body)
		}
		events := frames(t, got.Body)
		if len(events) != 3 || events[2].Event != "done" {
			t.Fatalf("events %+v", events)
		}
		if !utf8.ValidString(first) || !utf8.ValidString(second) {
			return // what stands for bad bytes is the encoder's business
		}
		if diff := cmp.Diff([]string{first, second}, []string{events[0].delta(t), events[1].delta(t)}); diff != "" {
			t.Errorf("the deltas (-want +got):\n%s", diff)
		}
		var done struct{ Response string }
		if err := json.Unmarshal([]byte(events[2].Data), &done); err != nil || done.Response != first+second {
			t.Errorf("the reply is %q, %v", done.Response, err)
		}
	})
}

// A failure after the first piece is the stream's last event; the status was
// sent, so the log has what became of it.
func TestModelFailsMidwayOfAStream(t *testing.T) {
	for _, row := range modelFailures {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t, failsAfter(row.err, "Half ", "an answer"), auth.RootCaller())
			got := s.stream("m")
			events := frames(t, got.Body)
			if got.Status != 200 || len(events) != 3 || events[0].delta(t)+events[1].delta(t) != "Half an answer" || events[2].Event != "error" {
				t.Fatalf("%d %q", got.Status, got.Body)
			}
			p := readProblem(t, events[2].Data)
			if p.Status != row.status || p.Title != row.title || p.Error != row.title || p.Detail == "" || p.RequestID != "ID" {
				t.Errorf("problem %+v", p)
			}
			checkFailureIsPrivate(t, s, got, row.status)
		})
	}
}

func TestStreamEndsWithoutStop(t *testing.T) {
	s := newSite(t, breaksOff("Half"), auth.RootCaller())
	events := frames(t, s.stream("m").Body)
	if len(events) != 2 || events[1].Event != "error" || readProblem(t, events[1].Data).Status != 502 {
		t.Errorf("events %+v", events)
	}
	if line := s.log.line(t); line["level"] != "ERROR" {
		t.Errorf("log line %v", line)
	}
	if got := newSite(t, breaksOff(), auth.RootCaller()).stream("m"); got.Status != 502 {
		t.Errorf("without a word: %d %s", got.Status, got.Body)
	}
}

// The first piece begins the stream; an answer of no words is a stream of done.
func TestEmptyAnswerStreamed(t *testing.T) {
	got := newSite(t, says(), auth.RootCaller()).stream("m")
	if events := frames(t, got.Body); got.Status != 200 || len(events) != 1 || events[0].Event != "done" {
		t.Errorf("%d %q", got.Status, got.Body)
	}
}

// A stream that panics is cut: nobody may take it for a whole one. Over a real
// connection, because that is what is cut.
func TestModelPanicsMidwayOfAStream(t *testing.T) {
	s := newSite(t, panicsAfter(upstream, "Half"), auth.RootCaller())
	server := httptest.NewServer(s)
	defer server.Close()
	body, err := io.ReadAll(post(t, t.Context(), server.URL, asking("m")).Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the connection ended with %v", err)
	}
	if want := "event: delta\ndata: {\"delta\":\"Half\"}\n\n"; string(body) != want {
		t.Errorf("body %q", body)
	}
	server.Close() // waits for the event line
	if line := s.log.line(t); line["level"] != "ERROR" {
		t.Errorf("log line %v", line)
	}
}

func post(t testing.TB, ctx context.Context, url, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, "POST", url+"/chat", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"text/event-stream"}}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// gated yields a piece for each one that it is given.
func gated(pieces <-chan string) part {
	return func(ctx context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for {
			select {
			case p, more := <-pieces:
				if !more {
					yield(stop, nil)
					return
				}
				if !yield(model.Event{Text: p}, nil) {
					return
				}
			case <-ctx.Done():
				yield(model.Event{}, ctx.Err())
				return
			}
		}
	}
}

// I18: a stream is no finished reply cut up. The caller has read each piece
// before the model is given the next.
func TestDeltasArriveAsTheyAreYielded(t *testing.T) {
	pieces := make(chan string)
	server := httptest.NewServer(newSite(t, gated(pieces), auth.RootCaller()))
	defer server.Close()

	go func() { pieces <- "one " }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a failure, not a wait
	defer cancel()
	body := bufio.NewReader(post(t, ctx, server.URL, asking("m")).Body)
	next := func() string {
		var text strings.Builder
		for !strings.HasSuffix(text.String(), "\n\n") {
			line, err := body.ReadString('\n')
			if err != nil {
				t.Fatalf("after %q: %v", text.String(), err)
			}
			text.WriteString(line)
		}
		return text.String()
	}
	for i, p := range []string{"one ", "two\n\n", "three"} {
		if i > 0 {
			pieces <- p
		}
		if got := frames(t, next()); len(got) != 1 || got[0].delta(t) != p {
			t.Fatalf("piece %d is %+v", i, got)
		}
	}
	close(pieces)
	if got := frames(t, next()); len(got) != 1 || got[0].Event != "done" {
		t.Errorf("the end is %+v", got)
	}
	if _, err := body.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// A caller who leaves stops the model, whether it has spoken yet or not, and is
// no failure of ours.
func TestCallerWhoLeavesStopsTheModel(t *testing.T) {
	for _, row := range []struct {
		name   string
		pieces []string
		accept string
		status float64 // in the log
	}{
		{"before the first piece", nil, "text/event-stream", 499},
		{"in the middle of a stream", []string{"Half"}, "text/event-stream", 200},
		{"in the middle of a plain reply", []string{"Half"}, "application/json", 499},
	} {
		t.Run(row.name, func(t *testing.T) {
			asked, told := make(chan struct{}), make(chan error, 1)
			m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
				hangsAfter(row.pieces...)(ctx, req, func(e model.Event, err error) bool {
					if err != nil {
						told <- err
					}
					return yield(e, err)
				})
			})
			first := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
				close(asked)
				m(ctx, req, yield)
			})
			s := newSite(t, first, auth.RootCaller())
			server := httptest.NewServer(s)
			defer server.Close()

			ctx, leave := context.WithTimeout(t.Context(), time.Minute) // a failure, not a wait
			defer leave()
			left := make(chan struct{})
			go func() {
				defer close(left)
				r, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/chat", strings.NewReader(asking("m")))
				r.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {row.accept}}
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					if row.status == 200 {
						t.Errorf("no piece came: %v", err)
					}
					return
				}
				defer response.Body.Close()
				response.Body.Read(make([]byte, 1)) // the first piece is here
				leave()
			}()
			<-asked
			if row.status == 499 {
				leave()
			}
			<-left
			select {
			case err := <-told:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the model's context ended with %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("the model goes on")
			}
			server.Close() // waits for the event line
			if line := s.log.line(t); line["level"] != "INFO" || line["status"] != row.status || line["error"] != nil {
				t.Errorf("log line %v", line)
			}
		})
	}
}

// A caller who leaves while the model speaks is met by a write that fails, or by
// the end of its context: neither is a failure of ours.
func TestCallerWhoLeavesATalkingModel(t *testing.T) {
	talks := part(func(ctx context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for ctx.Err() == nil && yield(model.Event{Text: "and then "}, nil) {
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a failure, not a wait
	defer cancel()
	for range 20 {
		s := newSite(t, talks, auth.RootCaller())
		server := httptest.NewServer(s)
		response := post(t, ctx, server.URL, asking("m"))
		response.Body.Read(make([]byte, 1))
		response.Body.Close()
		server.Close() // waits for the event line
		if line := s.log.line(t); line["level"] != "INFO" {
			t.Fatalf("log line %v", line)
		}
	}
}

// A stream that ends while nobody reads: the model is told by a refused piece.
func TestModelIsStoppedByAWriteThatFails(t *testing.T) {
	yielded := 0
	m := part(func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
		for range 100 {
			yielded++
			if !yield(model.Event{Text: "x"}, nil) {
				return
			}
		}
	})
	s := newSite(t, m, auth.RootCaller())
	defer func() {
		if recover() != http.ErrAbortHandler || yielded != 1 {
			t.Errorf("the model yielded %d pieces to nobody", yielded)
		}
	}()
	s.ServeHTTP(deaf{httptest.NewRecorder()}, chatRequest(asking("m"), "Accept: text/event-stream"))
}

// deaf is a connection that takes headers and nothing more.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// Contract §4: a comment each 15 s of silence, none while the model speaks, none
// after the end however the stream ends.
func TestHeartbeat(t *testing.T) {
	const delta, beat = "event: delta\ndata: {\"delta\":\"x\"}\n\n", ":\n\n"
	speak := func(gaps ...time.Duration) part {
		return func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
			for _, gap := range gaps {
				time.Sleep(gap)
				yield(model.Event{Text: "x"}, nil)
			}
			yield(stop, nil)
		}
	}
	const s = time.Second
	for _, row := range []struct {
		name  string
		model part
		want  string // before the last event
		last  string // the last event's name; "": the stream is cut
	}{
		{"none between pieces", speak(0, 14*s, 14*s, 14*s), strings.Repeat(delta, 4), "done"},
		{"two in 44 s", speak(0, 44*s), delta + strings.Repeat(beat, 2) + delta, "done"},
		{"three in 46 s", speak(0, 46*s), delta + strings.Repeat(beat, 3) + delta, "done"},
		{"each piece begins the silence anew", speak(0, 16*s, 14*s, 16*s), delta + beat + delta + delta + beat + delta, "done"},
		{"none in the first 14 s", speak(14 * s), delta, "done"},
		{"before the first word", speak(50 * s), strings.Repeat(beat, 3) + delta, "done"},
		{"none after a failure before the first word", slowly(20*s, failsAfter(model.ErrFailed)), beat, "error"},
		{"none after a panic before the first word", slowly(20*s, panicsAfter("oh")), beat, ""},
		{"of a model that never speaks", hangsAfter(), strings.Repeat(beat, 3), "error"},
		{"until the chat's time is up", hangsAfter("x"), delta + strings.Repeat(beat, 3), "error"},
		{"none after a failure", failsAfter(model.ErrFailed, "x"), delta, "error"},
		{"none after a panic", panicsAfter("oh", "x"), delta, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := httptest.NewRecorder()
				func() {
					defer func() {
						if p := recover(); p != nil && p != http.ErrAbortHandler {
							panic(p)
						}
					}()
					newSiteTimeout(t, row.model, auth.RootCaller(), 55*s).ServeHTTP(w, chatRequest(asking("m"), "Accept: text/event-stream"))
				}()
				ended := w.Body.String()
				time.Sleep(time.Minute)
				synctest.Wait()
				if w.Body.String() != ended {
					t.Errorf("after the end came %q", strings.TrimPrefix(w.Body.String(), ended))
				}
				rest, found := strings.CutPrefix(ended, row.want)
				if !found {
					t.Fatalf("stream %q", ended)
				}
				if row.last == "" && rest != "" || row.last != "" && !strings.HasPrefix(rest, "event: "+row.last+"\n") {
					t.Errorf("it goes on with %q", rest)
				}
			})
		})
	}
}

// slowly is m after a while.
func slowly(pause time.Duration, m part) part {
	return func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
		time.Sleep(pause)
		m(ctx, req, yield)
	}
}

// What fails before the first heartbeat has its own status; what fails after it is
// told by an event, for 200 was sent.
func TestModelFailsBeforeItsFirstWord(t *testing.T) {
	for _, row := range modelFailures {
		for _, pause := range []time.Duration{14 * time.Second, 16 * time.Second} {
			t.Run(fmt.Sprint(row.name, " after ", pause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t, slowly(pause, failsAfter(row.err)), auth.RootCaller())
					got := s.stream("m")
					checkFailureIsPrivate(t, s, got, row.status)
					var p api.Problem
					if pause < 15*time.Second {
						if p = got.problem(t); got.Status != row.status {
							t.Errorf("%d %s", got.Status, got.Body)
						}
					} else {
						events := frames(t, got.Body)
						if got.Status != 200 || len(events) != 1 || events[0].Event != "error" {
							t.Fatalf("%d %q", got.Status, got.Body)
						}
						p = readProblem(t, events[0].Data)
					}
					if p.Status != row.status || p.Title != row.title || p.RequestID != "ID" {
						t.Errorf("problem %+v", p)
					}
				})
			})
		}
	}
}

// Contract §4: a stream that has begun ends with event: error when its time is
// up, on Lambda 5 s before the deadline.
func TestStreamIsBounded(t *testing.T) {
	for name, deadline := range map[string]time.Duration{"CHAT_TIMEOUT": 0, "a Lambda's deadline": 60 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSiteTimeout(t, hangsAfter("Half"), auth.RootCaller(), 55*time.Second)
				start, r := time.Now(), chatRequest(asking("m"), "Accept: text/event-stream")
				if deadline != 0 {
					s = newSite(t, hangsAfter("Half"), auth.RootCaller())
					ctx, cancel := context.WithDeadline(t.Context(), start.Add(deadline))
					defer cancel()
					r = r.WithContext(ctx)
				}
				events := frames(t, s.send(r).Body)
				if took := time.Since(start); took != 55*time.Second {
					t.Errorf("it took %v", took)
				}
				if names := []string{events[0].Event, events[len(events)-1].Event}; !slices.Equal(names, []string{"delta", "error"}) || len(events) != 2 {
					t.Fatalf("events %+v", events)
				}
				if p := readProblem(t, events[1].Data); p.Status != 504 || p.Error != "Model backend timed out" {
					t.Errorf("problem %+v", p)
				}
				if line := s.log.line(t); line["level"] != "ERROR" || line["status"] != 200.0 {
					t.Errorf("log line %v", line)
				}
			})
		})
	}
}

// I18: a long answer is whole, and so is each of its many pieces.
func TestLongStream(t *testing.T) {
	pieces := make([]string, 20_000)
	for i := range pieces {
		pieces[i] = "word "
	}
	events := frames(t, newSite(t, says(pieces...), auth.RootCaller()).stream("m").Body)
	if n := len(events); n != len(pieces)+1 || len(events[n-1].Data) < len(pieces)*len("word ") {
		t.Errorf("%d events", n)
	}
}
