package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"postern/shared/check"
)

// awkwardText is more than three items of the table hold.
var awkwardText = strings.Repeat("a\nb\r\n\u2028\"\\<b>&\x00\x7f\ufeff\U0001F600é\n\nevent: done\ndata: {}\n\n", 20_000)

// teller is a model that counts how often it was asked, and says so.
type teller struct {
	url  string
	runs atomic.Int32
	slow chan struct{} // what is asked "slowly" waits for this
}

func startTeller(t *testing.T) *teller {
	m := &teller{slow: make(chan struct{})}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL + "/v1"
	return m
}

func (m *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := m.runs.Add(1)
	asked, _ := io.ReadAll(r.Body)
	text := fmt.Sprint("run ", n)
	switch {
	case strings.Contains(string(asked), "at length"):
		text = awkwardText
	case strings.Contains(string(asked), "slowly"):
		<-m.slow
	case strings.Contains(string(asked), "fail once") && n == 1:
		http.Error(w, "no", http.StatusInternalServerError)
		return
	}
	tell(w, text)
}

// tell streams a text as an OpenAI-compatible server does.
func tell(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for len(text) > 0 {
		piece := text[:min(len(text), len(awkwardText)/50)]
		text = text[len(piece):]
		delta, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": map[string]any{"content": piece}}}})
		fmt.Fprintf(w, "data: %s\n\n", delta)
	}
	io.WriteString(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n"+"data: [DONE]\n\n")
}

// keyed is a chat with an idempotency key.
func keyed(key, body string, want check.Want) check.Case {
	c := send("POST", "/chat", body, want)
	c.Name = fmt.Sprintf("key %q, %s", key, body)
	c.Header = http.Header{"Idempotency-Key": {key}}
	return c
}

var (
	ran      = check.Want{Status: 200, Header: map[string]string{"Idempotency-Replayed": check.Absent}}
	replayed = check.Want{Status: 200, Header: map[string]string{"Idempotency-Replayed": "true"}}
)

// onTellers runs a test on both sides, with a model of its own each. again is the
// same side after a crash, or in other processes.
func onTellers(t *testing.T, test func(t *testing.T, s side, m *teller, again func() side)) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		m := startTeller(t)
		environment := map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": m.url}
		here := start(t, environment)
		test(t, here.side(t), m, func() side {
			here.end(syscall.SIGKILL)
			return startIn(t, here.dir, environment).side(t)
		})
	})
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		m := startTeller(t)
		s := stack{parameters: map[string]string{"Model": "openai/test", "OpenAIBaseUrl": m.url}, atOnce: 4}
		cloud := s.deploy(t)
		test(t, cloud.side(t), m, func() side {
			s.beside = cloud
			return s.deploy(t).side(t)
		})
	})
}

// TestAKeyedChatRunsOnce: the same reply, in either form, for its caller alone, in
// any process and after a crash (contract §4, P13, P17).
func TestAKeyedChatRunsOnce(t *testing.T) {
	onTellers(t, func(t *testing.T, s side, m *teller, again func() side) {
		const body, streamed = `{"message":"hello"}`, `{"message":"hello","stream":true}`
		first := string(s.as(t, token, keyed("k", body, ran)).Body)
		if got := string(s.as(t, token, keyed("k", body, replayed)).Body); got != first || !strings.Contains(first, `"response":"run 1"`) {
			t.Errorf("%s\nis replayed as\n%s", first, got)
		}
		asStream := keyed("k", body, replayed)
		asStream.Header.Set("Accept", "text/event-stream")
		if got, want := string(s.as(t, token, asStream).Body), "event: delta\ndata: {\"delta\":\"run 1\"}\n\nevent: done\ndata: "+first+"\n"; got != want {
			t.Errorf("as a stream:\n%s\nwant\n%s", got, want)
		}
		stream := string(s.as(t, token, keyed("s", streamed, ran)).Body)
		if got := string(s.as(t, token, keyed("s", streamed, replayed)).Body); got != stream {
			t.Errorf("%s\nis replayed as\n%s", stream, got)
		}
		s.as(t, token, keyed("k", streamed, check.Want{Status: 422, Error: "Idempotency key reused"}))
		s.as(t, token, keyed("k k", body, check.Want{Status: 400, Error: "Invalid request", Detail: "Idempotency-Key"}))

		tenant := s.issue(t, token, `{"name":"tenant","scopes":["chat"]}`)
		if got := string(s.as(t, tenant.Token, keyed("k", streamed, ran)).Body); !strings.Contains(got, "run 3") {
			t.Errorf("P13: another caller gets %s", got)
		}

		const long = `{"message":"at length"}`
		whole := s.as(t, token, keyed("long", long, ran))
		if got := decode[struct{ Response string }](t, whole).Response; got != awkwardText {
			t.Errorf("%d bytes are an answer of %d", len(awkwardText), len(got))
		}
		s = again()
		if got := s.as(t, token, keyed("long", long, replayed)); string(got.Body) != string(whole.Body) {
			t.Errorf("%d bytes are replayed as %d", len(whole.Body), len(got.Body))
		}
		if got := string(s.as(t, token, keyed("k", body, replayed)).Body); got != first {
			t.Errorf("%s\nis replayed as\n%s", first, got)
		}
		s.as(t, tenant.Token, keyed("k", streamed, replayed))
		if n := m.runs.Load(); n != 4 {
			t.Errorf("the model ran %d times", n)
		}
	})
}

func TestAKeyedChatThatFailedRunsAgain(t *testing.T) {
	onTellers(t, func(t *testing.T, s side, m *teller, _ func() side) {
		s.as(t, token, keyed("k", `{"message":"fail once"}`, check.Want{Status: 502, Error: "Model backend failed"}))
		s.as(t, token, keyed("k", `{"message":"fail once", "stream":true}`, ran))
		s.as(t, token, keyed("k", `{"message":"fail once", "stream":true}`, replayed))
	})
}

// TestAKeyedChatInProgress: of many at once one runs, also where a process dies in
// the middle of it.
func TestAKeyedChatInProgress(t *testing.T) {
	onTellers(t, func(t *testing.T, s side, m *teller, again func() side) {
		const body = `{"message":"slowly"}`
		inProgress := check.Want{Status: 409, Error: "Request in progress", Header: map[string]string{"Retry-After": "5"}}
		var all sync.WaitGroup
		statuses := make(chan int, 3)
		for range cap(statuses) {
			all.Go(func() { statuses <- s.raw(t, token, keyed("k", body, check.Want{})) })
		}
		for range cap(statuses) - 1 {
			if status := <-statuses; status != 409 {
				t.Errorf("%s: status %d meanwhile", s.name, status)
			}
		}
		s.as(t, token, keyed("k", body, inProgress))
		eventually(t, "the model is asked", func() bool { return m.runs.Load() == 1 })
		other := again()
		other.as(t, token, keyed("k", body, inProgress))
		other.as(t, token, keyed("k", `{"message":"quickly"}`, check.Want{Status: 422, Error: "Idempotency key reused"}))
		close(m.slow)
		all.Wait()
		if n := m.runs.Load(); n != 1 {
			t.Errorf("%s: the model ran %d times", s.name, n)
		}
	})
}
