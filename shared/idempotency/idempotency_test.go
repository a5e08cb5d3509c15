package idempotency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/idempotency"
	"postern/shared/jobs"
	"postern/shared/model"
	"postern/shared/table/memory"
)

func TestARepeatedRequestRunsOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("Good ", "day."))
	first := s.send(request{key: "k"})
	if first.status != 200 || first.replayed || !strings.Contains(first.body, `"response":"Good day."`) {
		t.Fatalf("%+v", first)
	}
	for range 3 {
		again := s.send(request{key: "k"})
		if again.status != 200 || again.body != first.body || !again.replayed || again.header.Get("Content-Type") != "application/json" {
			t.Errorf("%+v, want the first's\n%+v", again, first)
		}
		if id := again.header.Get("X-Request-Id"); id == "request-1" || strings.Contains(again.body, id) {
			t.Errorf("the response is request %s's, want its own id in the header and the first's in the body %s", id, again.body)
		}
	}
	if s.runs.Load() != 1 {
		t.Errorf("the model ran %d times", s.runs.Load())
	}
	if lines := s.log.String(); strings.Count(lines, `"replayed":true`) != 3 {
		t.Errorf("the log\n%s", lines)
	}
	// Without a key, and with others, it runs.
	for i, key := range []string{"", "K", "k2", strings.Repeat("k", 255), `"8e03978e-40d5-43e8-bc93-6894a57f9324"`} {
		if other := s.send(request{key: key}); other.status != 200 || other.replayed || int(s.runs.Load()) != 2+i {
			t.Errorf("key %q: %+v after %d runs", key, other, s.runs.Load())
		}
	}
}

// Contract §4: JSON is replayed as a stream where one is asked for, and a stream
// as JSON.
func TestAReplayHasTheFormThatIsAskedFor(t *testing.T) {
	t.Parallel()
	const stream = "text/event-stream"
	for name, row := range map[string]struct {
		body string
		runs [3]string // Accept of the first request and of two more
	}{
		"JSON, then a stream":      {hello, [3]string{"", stream, ""}},
		"a stream, then JSON":      {hello, [3]string{stream, "", stream}},
		"a stream in its own body": {`{"message":"hello","stream":true}`, [3]string{"", "", stream}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, says("Good ", "day."))
			var reply string
			for i, accept := range row.runs {
				got := s.send(request{key: "k", body: row.body, accept: accept})
				if got.status != 200 || got.replayed != (i > 0) {
					t.Fatalf("request %d: %+v", i, got)
				}
				text := got.body
				if accept == stream || strings.Contains(row.body, "stream") {
					if ct := got.header.Get("Content-Type"); ct != stream {
						t.Errorf("request %d: Content-Type %q", i, ct)
					}
					deltas, done := got.events(t)
					want := []string{"Good day."}
					if i == 0 {
						want = []string{"Good ", "day."}
					}
					if diff := cmp.Diff(want, deltas); diff != "" {
						t.Errorf("request %d: deltas (-want +got):\n%s", i, diff)
					}
					text = done
				}
				if i == 0 {
					reply = text
				}
				if text != reply {
					t.Errorf("request %d: %q, want %q", i, text, reply)
				}
			}
			if s.runs.Load() != 1 || !strings.Contains(reply, `"response":"Good day."`) {
				t.Errorf("%d runs: %s", s.runs.Load(), reply)
			}
		})
	}
}

// I18: no text is cut, and none changed, however long it is.
func TestEveryByteSurvives(t *testing.T) {
	t.Parallel()
	awkward := "a\nb\r\nc\u2028\u2029\u0085\"\\<script>&amp;\x00\x1f\x7f\ufeff\U0001F600é\n\nevent: done\ndata: {}\n\n"
	for name, text := range map[string]string{
		"awkward": awkward, "nothing": "", "4 MiB": strings.Repeat(awkward, 4<<20/len(awkward)),
	} {
		for _, accept := range []string{"", "text/event-stream"} {
			t.Run(name+" "+accept, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { // where a slow machine uses up no time that a claim has, and no heartbeat comes between
					half := strings.Index(text, "<")
					s := newSite(t, says(text[:max(half, 0)], text[max(half, 0):]))
					first := s.send(request{key: "k", accept: accept})
					reply := first.body
					if accept != "" {
						_, reply = first.events(t)
					}
					if again := s.send(request{key: "k"}); again.body != reply || !again.replayed {
						t.Errorf("%d bytes of JSON, want %d", len(again.body), len(reply))
					}
					streamed := s.send(request{key: "k", accept: "text/event-stream"})
					deltas, done := streamed.events(t)
					if done != reply || len(deltas) != 1 || deltas[0] != text || !streamed.replayed {
						t.Errorf("%d deltas and %d bytes, want %d", len(deltas), len(done), len(reply))
					}
					var whole struct{ Response string }
					if err := json.Unmarshal([]byte(reply), &whole); err != nil || whole.Response != text || s.runs.Load() != 1 {
						t.Errorf("%d bytes of text in %d runs, %v", len(whole.Response), s.runs.Load(), err)
					}
				})
			})
		}
	}
}

func TestAnotherBodyIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x"))
	s.send(request{key: "k"})
	for _, body := range []string{`{"message":"hello!"}`, hello + " ", `{"message":"hello","stream":true}`} {
		if got := s.send(request{key: "k", body: body}); got.status != 422 || got.reason() != "Idempotency key reused" {
			t.Errorf("%s: %+v", body, got)
		}
	}
	if s.runs.Load() != 1 {
		t.Errorf("the model ran %d times", s.runs.Load())
	}
	if again := s.send(request{key: "k"}); !again.replayed {
		t.Errorf("afterwards: %+v", again)
	}
}

// P13: each caller's keys are its own, whatever its id looks like.
func TestP13KeysAreTheirCallers(t *testing.T) {
	t.Parallel()
	s := newSite(t, says("x"))
	callers := []string{"", "admin", "a", "A", "a#k", "root#k", "a/k", "client-1a2b3c4d"}
	bodies := map[string]string{}
	for i, who := range callers {
		got := s.send(request{key: "k", who: who, body: fmt.Sprintf(`{"message":"of %d"}`, i)})
		if got.status != 200 || got.replayed {
			t.Errorf("%q: %+v", who, got)
		}
		bodies[who] = got.body
	}
	for i, who := range callers {
		got := s.send(request{key: "k", who: who, body: fmt.Sprintf(`{"message":"of %d"}`, i)})
		if !got.replayed || got.body != bodies[who] {
			t.Errorf("%q: %+v", who, got)
		}
	}
	if int(s.runs.Load()) != len(callers) {
		t.Errorf("%d runs of %d callers", s.runs.Load(), len(callers))
	}
}

func TestHeadersThatAreNoKey(t *testing.T) {
	t.Parallel()
	for name, q := range map[string]request{
		"empty":                 {header: http.Header{"Idempotency-Key": {""}}},
		"two":                   {header: http.Header{"Idempotency-Key": {"k", "k"}}},
		"none that is there":    {header: http.Header{"Idempotency-Key": {}}},
		"a space":               {key: "a b"},
		"a tab":                 {key: "a\tb"},
		"too long":              {key: strings.Repeat("k", 256)},
		"no ASCII":              {key: "kéy"},
		"DEL":                   {key: "k\x7f"},
		"of somebody anonymous": {key: "k", who: "anonymous"},
	} {
		s := newSite(t, says("x"))
		got := s.send(q)
		if got.status != 400 || got.reason() != "Invalid request" || !strings.Contains(got.body, "Idempotency-Key") || s.runs.Load() != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	s := newSite(t, says("x"))
	if got := s.send(request{who: "anonymous"}); got.status != 200 {
		t.Errorf("somebody anonymous without a key: %+v", got)
	}
}

// What the handler refuses it refuses in the same words, and a refusal keeps no
// key: the request that was meant may follow under the same one.
func TestARefusedBodyTakesNoKey(t *testing.T) {
	t.Parallel()
	for name, q := range map[string]request{
		"no JSON":               {body: `{"message"`},
		"another type":          {header: http.Header{"Content-Type": {"text/plain"}}},
		"too large":             {body: `{"message":"` + strings.Repeat("x", api.MaxBody) + `"}`},
		"a message too large":   {body: `{"message":"` + strings.Repeat("x", 300<<10) + `"}`},
		"an unknown field":      {body: `{"message":"x","mesage":"y"}`},
		"a stream that is none": {body: `{"message":"x","stream":7}`},
		"no message":            {body: `{}`},
		"no such agent":         {body: `{"message":"x","agent":"nobody"}`},
		"no UTF-8":              {body: "{\"message\":\"\xff\"}"},
	} {
		s := newSite(t, says("x"))
		id := func(a answered) string {
			return strings.ReplaceAll(a.body, a.header.Get("X-Request-Id"), "ID")
		}
		bare := s.send(q)
		q.key = "k"
		for range 2 {
			if got := s.send(q); got.status < 400 || got.status != bare.status || id(got) != id(bare) {
				t.Errorf("%s: %+v, without a key %+v", name, got, bare)
			}
		}
		if got := s.send(request{key: "k"}); got.status != 200 || got.replayed {
			t.Errorf("%s: then %+v", name, got)
		}
	}
}

// A failure is told, and not kept.
func TestAFailureFreesTheKey(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]script{
		"before a word": func(context.Context, func(string) bool) error { return model.ErrFailed },
		"midway": func(_ context.Context, yield func(string) bool) error {
			yield("Half")
			return model.ErrUnavailable
		},
	} {
		for _, accept := range []string{"", "text/event-stream"} {
			ok := false
			s := newSite(t, func(ctx context.Context, yield func(string) bool) error {
				if ok {
					return says("Whole.")(ctx, yield)
				}
				return broken(ctx, yield)
			})
			if got := s.send(request{key: "k", accept: accept}); strings.Contains(got.body, "event: done") || strings.Contains(got.body, "success") {
				t.Errorf("%s: %+v", name, got)
			}
			ok = true
			if got := s.send(request{key: "k", accept: accept, body: `{"message":"another"}`}); !strings.Contains(got.body, `"response":"Whole."`) || got.replayed {
				t.Errorf("%s, then: %+v", name, got)
			}
			if got := s.send(request{key: "k", accept: accept, body: `{"message":"another"}`}); !got.replayed || s.runs.Load() != 2 {
				t.Errorf("%s, at last: %+v after %d runs", name, got, s.runs.Load())
			}
		}
	}
}

func TestAPanicFreesTheKey(t *testing.T) {
	t.Parallel()
	calm := false
	s := newSite(t, func(_ context.Context, yield func(string) bool) error {
		if !calm {
			panic("oh")
		}
		yield("x")
		return nil
	})
	if got := s.send(request{key: "k"}); got.status != 500 {
		t.Errorf("%+v", got)
	}
	calm = true
	if got := s.send(request{key: "k"}); got.status != 200 || got.replayed {
		t.Errorf("then: %+v", got)
	}
}

// A caller who leaves ends the run, and may ask anew.
func TestACallerWhoLeavesFreesTheKey(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"", "text/event-stream"} {
		ctx, leave := context.WithCancel(t.Context())
		stays := false
		s := newSite(t, func(ctx context.Context, yield func(string) bool) error {
			if !stays {
				yield("Half")
				leave()
				<-ctx.Done()
				return ctx.Err()
			}
			yield("Whole.")
			return nil
		})
		func() {
			defer func() { recover() }() // the frame cuts the connection
			s.do(request{key: "k", accept: accept}.make().WithContext(ctx))
		}()
		stays = true
		if got := s.send(request{key: "k", accept: accept}); !strings.Contains(got.body, "Whole.") || got.replayed {
			t.Errorf("Accept %q: %+v", accept, got)
		}
	}
}

// A connection that is lost with the last event has lost nothing: the reply was
// whole, and is kept before its end is sent.
func TestALostEndIsReplayed(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"", "text/event-stream"} {
		s := newSite(t, says("Good day."))
		func() {
			defer func() { recover() }()
			s.ServeHTTP(&deafAtTheEnd{httptest.NewRecorder(), func() {
				if got := s.send(request{key: "k", accept: accept}); !got.replayed {
					t.Errorf("Accept %q: at the end's sight: %+v", accept, got)
				}
			}}, request{key: "k", accept: accept}.make())
		}()
		if got := s.send(request{key: "k", accept: accept}); got.status != 200 || !got.replayed || !strings.Contains(got.body, `"response":"Good day."`) || s.runs.Load() != 1 {
			t.Errorf("Accept %q: %+v after %d runs", accept, got, s.runs.Load())
		}
	}
}

// deafAtTheEnd is a connection that breaks with the reply.
type deafAtTheEnd struct {
	*httptest.ResponseRecorder
	met func()
}

func (d *deafAtTheEnd) Write(b []byte) (int, error) {
	if strings.Contains(string(b), `"success"`) {
		d.met()
		return 0, errors.New("broken pipe")
	}
	return d.ResponseRecorder.Write(b)
}

// While a request runs its key answers 409; afterwards the reply.
func TestARunningRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, accept := range []string{"", "text/event-stream"} {
			s := newSite(t, func(_ context.Context, yield func(string) bool) error {
				yield("Well,")
				time.Sleep(longest - time.Second)
				return nil
			})
			var all sync.WaitGroup
			var first answered
			all.Go(func() { first = s.send(request{key: "k", accept: accept}) })
			synctest.Wait()
			for range 3 {
				got := s.send(request{key: "k", accept: accept})
				if got.status != 409 || got.reason() != "Request in progress" || got.header.Get("Retry-After") != "5" {
					t.Errorf("%+v", got)
				}
				if got := s.send(request{key: "k", body: `{"message":"other"}`}); got.status != 422 {
					t.Errorf("another body: %+v", got)
				}
				if got := s.send(request{key: "k", who: "else", body: `{}`}); got.status != 400 {
					t.Errorf("another caller: %+v", got)
				}
				time.Sleep(15 * time.Second)
			}
			all.Wait()
			if got := s.send(request{key: "k"}); first.status != 200 || !got.replayed || s.runs.Load() != 1 {
				t.Errorf("%+v, then %+v after %d runs", first, got, s.runs.Load())
			}
		}
	})
}

// Of many requests at once one runs, and the others are told so or get its reply.
// In a bubble the time that a claim has isn't used up by a slow machine.
func TestOneOfManyRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, says("x"))
		const n = 64
		got := make([]answered, n)
		var all sync.WaitGroup
		begin := make(chan struct{})
		for i := range n {
			all.Go(func() {
				<-begin
				got[i] = s.send(request{key: "k"})
			})
		}
		close(begin)
		all.Wait()
		ran, reply := 0, s.send(request{key: "k"}).body
		for _, a := range got {
			switch {
			case a.status == 200 && !a.replayed:
				ran++
				fallthrough
			case a.status == 200:
				if a.body != reply {
					t.Errorf("%s, want %s", a.body, reply)
				}
			case a.status != 409 || a.reason() != "Request in progress" || a.header.Get("Retry-After") == "":
				t.Errorf("%+v", a)
			}
		}
		if ran != 1 || s.runs.Load() != 1 {
			t.Errorf("%d of %d were answered by %d runs", ran, n, s.runs.Load())
		}
	})
}

// Of many that find a dead claim one takes it over.
func TestOneOfManyTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, says("x"))
		s.crash(t)
		time.Sleep(longest + time.Minute)
		var ran atomic.Int32
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				if got := s.send(request{key: "k"}); got.status == 200 && !got.replayed {
					ran.Add(1)
				} else if got.status != 200 && got.status != 409 {
					t.Errorf("%+v", got)
				}
			})
		}
		all.Wait()
		if ran.Load() != 1 || s.runs.Load() != 2 { // the dead one is one
			t.Errorf("%d took it over, %d runs", ran.Load(), s.runs.Load())
		}
	})
}

// crash leaves the claim of a process that died while it ran: nothing that it did
// after the claim reaches the table.
func (s *site) crash(t *testing.T) {
	t.Helper()
	s.table.failing(2, 1000)
	s.runs.Add(1)
	handler := s.Handler
	s.serve(t, func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New("killed") })
	s.send(request{key: "k"})
	s.Handler, s.table.fail = handler, nil
}

// P17: a crash blocks its key for as long as its lease, and no longer.
func TestADeadClaimEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, says("x"))
		s.crash(t)
		for range 9 { // until 1 s before the lease's end
			if got := s.send(request{key: "k"}); got.status != 409 {
				t.Fatalf("%+v", got)
			}
			time.Sleep((longest + 29*time.Second) / 9)
		}
		if got := s.send(request{key: "k"}); got.status != 409 || got.header.Get("Retry-After") != "2" && got.header.Get("Retry-After") != "1" {
			t.Errorf("in the last second: %+v", got)
		}
		time.Sleep(time.Second + time.Millisecond)
		if got := s.send(request{key: "k", body: `{"message":"other"}`}); got.status != 422 {
			t.Errorf("another body: %+v", got)
		}
		if got := s.send(request{key: "k"}); got.status != 200 || got.replayed {
			t.Errorf("the same: %+v", got)
		}
		if got := s.send(request{key: "k"}); !got.replayed {
			t.Errorf("again: %+v", got)
		}
	})
}

// Who comes back after its lease is over changes nothing of the next one's,
// whatever became of its own run.
func TestALateRunKeepsNothing(t *testing.T) {
	t.Parallel()
	for _, outcome := range []error{nil, model.ErrFailed} {
		synctest.Test(t, func(t *testing.T) {
			slow := newSite(t, nil)
			var n atomic.Int32
			slow.serve(t, func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
				mine := n.Add(1)
				time.Sleep(time.Duration(3-mine) * 80 * time.Second) // the first 160 s, the second 80 s
				if mine == 1 && outcome != nil {
					return outcome
				}
				return api.WriteJSON(w, 200, map[string]int32{"run": mine})
			})
			var all sync.WaitGroup
			all.Go(func() { slow.send(request{key: "k"}) })
			time.Sleep(longest + 31*time.Second)
			all.Go(func() {
				if got := slow.send(request{key: "k"}); got.body != "{\"run\":2}\n" {
					t.Errorf("the second: %+v", got)
				}
			})
			time.Sleep(75 * time.Second) // the first has ended, the second hasn't
			if got := slow.send(request{key: "k"}); got.status != 409 {
				t.Errorf("while the second runs: %+v", got)
			}
			all.Wait()
			if got := slow.send(request{key: "k"}); got.body != "{\"run\":2}\n" || !got.replayed {
				t.Errorf("at last: %+v", got)
			}
		})
	}
}

// Contract §4: for 24 hours.
func TestAKeyIsForgottenAfterADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, says(strings.Repeat("long ", 100_000)))
		s.send(request{key: "k"})
		time.Sleep(idempotency.Keep - time.Second)
		if got := s.send(request{key: "k"}); !got.replayed || s.runs.Load() != 1 {
			t.Errorf("before the day is over: %.200s", got.body)
		}
		time.Sleep(time.Second)
		if got := s.send(request{key: "k", body: `{"message":"other"}`}); got.status != 200 || got.replayed || s.runs.Load() != 2 {
			t.Errorf("afterwards: %.200s", got.body)
		}
	})
}

// If the table can't be asked nothing runs; if it can't be told, the answer is
// sent all the same.
func TestTheTableFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := func(s *site, first, last int, q request) answered {
			s.table.failing(first, last)
			defer func() { s.table.fail = nil }()
			return s.send(q)
		}
		for _, accept := range []string{"", "text/event-stream"} {
			q := request{key: "k", accept: accept}
			s := newSite(t, says("x"))
			if got := down(s, 1, 1, q); got.status != 503 || got.reason() != "Service unavailable" || got.header.Get("Retry-After") == "" || s.runs.Load() != 0 || strings.Contains(got.body, "SECRET") {
				t.Errorf("claiming: %+v after %d runs", got, s.runs.Load())
			}
			// Keeping: the head of before is read, the reply written.
			for n := 2; n <= 3; n++ {
				s := newSite(t, says("x"))
				if got := down(s, n, 99, q); got.status != 200 || !strings.Contains(got.body, `"response":"x"`) || strings.Contains(got.body, "SECRET") {
					t.Errorf("keeping, call %d: %+v", n, got)
				}
				if !strings.Contains(s.log.String(), `"msg":"reply not kept for its Idempotency-Key","caller":"root","error":"SECRETTEXT`) {
					t.Errorf("the log\n%s", s.log)
				}
				if got := s.send(q); got.status != 409 {
					t.Errorf("while the lease runs: %+v", got)
				}
				time.Sleep(longest + 31*time.Second)
				if got := s.send(q); got.status != 200 || got.replayed || s.runs.Load() != 2 {
					t.Errorf("when it is over: %+v", got)
				}
				if got := down(s, 2, 2, q); got.status != 503 { // a conflict, then the look at what is there
					t.Errorf("looking: %+v", got)
				}
				if got := s.send(q); !got.replayed {
					t.Errorf("at last: %+v", got)
				}
			}
		}
		// Freeing.
		s := newSite(t, func(context.Context, func(string) bool) error { return model.ErrFailed })
		if got := down(s, 2, 99, request{key: "k"}); got.status != 502 || !strings.Contains(s.log.String(), "not freed") {
			t.Errorf("freeing: %+v\n%s", got, s.log)
		}
		if got := s.send(request{key: "k"}); got.status != 409 {
			t.Errorf("while the lease runs: %+v", got)
		}
		// A record that makes no sense.
		s = newSite(t, says("x"))
		s.send(request{key: "k"})
		items, _ := s.table.List(t.Context(), "replay#root", query)
		s.table.Put(t.Context(), items[0].Key, []byte("vnonsense"), items[0].Version, time.Time{})
		if got := s.send(request{key: "k"}); got.status != 500 || s.runs.Load() != 1 {
			t.Errorf("nonsense: %+v", got)
		}
	})
}

// A handler may answer with more than 200, and may have an error for the log
// beside its reply.
func TestWhatElseHandlersAnswer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		handler  func(w http.ResponseWriter) error
		status   int
		body     string
		kept     bool
		location string
	}{
		{"an accepted job", func(w http.ResponseWriter) error {
			w.Header().Set("Location", "/jobs/7")
			return api.WriteJSON(w, 202, map[string]string{"id": "7"})
		}, 202, `{"id":"7"}` + "\n", true, "/jobs/7"},
		{"an answer with an error for the log", func(w http.ResponseWriter) error {
			api.WriteJSON(w, 200, 1)
			return api.Told(errors.New("a turn is lost"))
		}, 200, "1\n", true, ""},
		{"another type", func(w http.ResponseWriter) error {
			w.Header().Set("Content-Type", "text/plain")
			_, err := io.WriteString(w, "text")
			return err
		}, 200, "text", false, ""},
		{"a refusal of its own making", func(w http.ResponseWriter) error { return api.WriteJSON(w, 418, "no") }, 418, "\"no\"\n", false, ""},
		{"nothing", func(http.ResponseWriter) error { return nil }, 200, "", false, ""},
	} {
		s := newSite(t, nil)
		runs := 0
		s.serve(t, func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
			runs++
			api.Annotate(w, slog.String("noted", api.ClientAddress(w).String()))
			return row.handler(w)
		})
		for i := range 2 {
			got := s.send(request{key: "k", accept: []string{"", "text/event-stream"}[min(i, row.status/202)]})
			if got.status != row.status || got.body != row.body || got.replayed != (row.kept && i == 1) || got.header.Get("Location") != row.location {
				t.Errorf("%s, request %d: %+v", row.name, i, got)
			}
		}
		if (runs == 1) != row.kept {
			t.Errorf("%s: %d runs", row.name, runs)
		}
		if !strings.Contains(s.log.String(), `"noted":"192.0.2.7"`) {
			t.Errorf("%s: what the handler noted isn't in the log", row.name)
		}
	}
}

// order notes what it is sent.
type order struct{ ids []string }

func (o *order) Send(_ context.Context, id, _ string) error {
	o.ids = append(o.ids, id)
	return nil
}

// A chat that nobody waits for is asked for once, however often it is sent: the
// same job comes back, whether or not the repetition prefers to wait.
func TestARepeatedAsynchronousChatIsOneJob(t *testing.T) {
	t.Parallel()
	s, queue := newSite(t, says("x")), &order{}
	file, err := agents.Parse("agents.yaml", []byte("agents: {judge: {role: Judge, llm: test/one}}"), "test/one")
	if err != nil {
		t.Fatal(err)
	}
	chat := &agents.Chat{File: file, Timeout: longest, Jobs: &jobs.Store{Table: &memory.Table{}, Queue: queue}}
	s.serve(t, chat.Handle)
	later := http.Header{"Prefer": {"respond-async"}}

	first := s.send(request{key: "k", header: later})
	if first.status != 202 || len(queue.ids) != 1 || first.header.Get("Location") != "/jobs/"+queue.ids[0] || first.replayed {
		t.Fatalf("%+v, jobs %q", first, queue.ids)
	}
	for name, again := range map[string]request{
		"the same":                {key: "k", header: later},
		"without the preference":  {key: "k"},
		"as a stream, by Accept":  {key: "k", accept: "text/event-stream"},
		"with another preference": {key: "k", header: http.Header{"Prefer": {"wait=10, respond-async"}}},
	} {
		got := s.send(again)
		if got.status != 202 || got.body != first.body || got.header.Get("Location") != first.header.Get("Location") || got.header.Get("Content-Type") != "application/json" || !got.replayed {
			t.Errorf("%s: %+v, want %+v", name, got, first)
		}
	}
	if got := s.send(request{key: "k", header: later, body: `{"message":"another"}`}); got.status != 422 {
		t.Errorf("another body: %+v", got)
	}
	if len(queue.ids) != 1 {
		t.Errorf("%d jobs", len(queue.ids))
	}
	if got := s.send(request{key: "another", header: later}); got.status != 202 || got.body == first.body || len(queue.ids) != 2 {
		t.Errorf("another key: %+v, jobs %q", got, queue.ids)
	}
	// What was refused is no job, and leaves the key to who asks better.
	refused := request{key: "free", header: later, body: `{"message":"hello","agent":"nobody"}`}
	if got := s.send(refused); got.status != 404 {
		t.Errorf("refused: %+v", got)
	}
	if got := s.send(request{key: "free", header: later}); got.status != 202 || len(queue.ids) != 3 {
		t.Errorf("after a refusal: %+v, jobs %q", got, queue.ids)
	}
}

// A reply that a handler breaks off is none, and its caller sees that.
func TestHalfAReplyIsNotKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	runs := 0
	s.serve(t, func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
		runs++
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"half":`)
		return errors.New("and no more")
	})
	for range 2 {
		func() {
			defer func() {
				if recover() != http.ErrAbortHandler {
					t.Error("the connection isn't cut")
				}
			}()
			s.send(request{key: "k"})
		}()
	}
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
}

// The deltas of a keyed stream arrive as they are spoken, and the end when the
// reply is kept.
func TestAKeyDelaysNoDelta(t *testing.T) {
	t.Parallel()
	pieces := make(chan string)
	s := newSite(t, func(_ context.Context, yield func(string) bool) error {
		for p := range pieces {
			yield(p)
		}
		return nil
	})
	server := httptest.NewServer(s)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a failure, not a wait
	defer cancel()
	go func() { pieces <- "one" }()
	r := request{key: "k", accept: "text/event-stream"}.make()
	ask, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/chat", r.Body)
	ask.Header = r.Header
	response, err := http.DefaultClient.Do(ask)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for _, p := range []string{"one", "two", "three"} {
		if p != "one" {
			pieces <- p
		}
		want := fmt.Sprintf("event: delta\ndata: {\"delta\":%q}\n\n", p)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
	}
	close(pieces)
	rest, err := io.ReadAll(response.Body)
	if err != nil || !strings.HasPrefix(string(rest), "event: done\n") {
		t.Errorf("%q, %v", rest, err)
	}
	if got := s.send(request{key: "k"}); !got.replayed {
		t.Errorf("%+v", got)
	}
}
