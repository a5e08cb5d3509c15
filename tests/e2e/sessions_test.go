package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"postern/shared/check"
	"postern/tests/dynamofake"
)

// memory is a model behind an OpenAI-compatible server that answers with all that
// it was told but the system prompt, or fails where the last message says so.
func memory(t *testing.T) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var req struct {
			Messages []struct{ Role, Content string }
		}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &req); err != nil {
			t.Error(err)
		}
		var told []string
		for _, m := range req.Messages {
			if m.Role != "system" {
				told = append(told, m.Role+":"+m.Content)
			}
		}
		if strings.HasSuffix(told[len(told)-1], ":fail") {
			http.Error(w, "as you wish", http.StatusInternalServerError)
			return
		}
		delta, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": map[string]any{"content": "<" + strings.Join(told, "|") + ">"}}}})
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\n"+`data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n", delta)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1", asked
}

// talk is a chat in a conversation.
func talk(session, message string, want check.Want) check.Case {
	return send("POST", "/chat", fmt.Sprintf(`{"message":%q,"session_id":%q}`, message, session), want)
}

// answered is a chat's reply in a conversation; "" for none.
func answered(session, response string) check.Want {
	want := check.Want{Status: 200, JSON: map[string]any{"response": response, "session_id": any(session)}}
	if session == "" {
		want.JSON["session_id"] = check.Absent
	}
	return want
}

type conversation struct {
	ID        string
	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
	Messages  []struct{ Role, Content, Agent, Time string }
}

// recall reads a transcript.
func (s side) recall(t *testing.T, credential, session string) conversation {
	t.Helper()
	return decode[conversation](t, s.as(t, credential, get("/sessions/"+session, fine)))
}

// TestAConversation is one from its begin to its end, and what it survives.
func TestAConversation(t *testing.T) {
	t.Parallel()
	url, asked := memory(t)
	here := start(t, map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": url})
	cloud := stack{parameters: map[string]string{"Model": "openai/test", "OpenAIBaseUrl": url}, atOnce: 3}.deploy(t)
	for _, s := range []side{here.side(t), cloud.side(t)} {
		key := s.issue(t, token, `{"name":"talker","scopes":["agents:read","chat"]}`)
		s.as(t, key.Token, talk("my.talk_1-A", "one", answered("my.talk_1-A", "<user:one>")))
		s.as(t, key.Token, talk("my.talk_1-A", "two", answered("my.talk_1-A", "<user:one|assistant:<user:one>|user:two>")))
		s.as(t, key.Token, send("POST", "/chat", `{"message":"aside"}`, answered("", "<user:aside>")))
		s.as(t, key.Token, talk("another", "three", answered("another", "<user:three>")))

		// What fails, and what is refused, is no turn.
		s.as(t, key.Token, talk("my.talk_1-A", "fail", check.Want{Status: 502, Error: "Model backend failed"}))
		s.as(t, key.Token, talk("my.talk_1-A", " ", check.Want{Status: 400, Error: "Message required"}))
		s.as(t, key.Token, talk("begins with a failure", "x", check.Want{Status: 400, Error: "Invalid request", Detail: `"session_id"`}))
		s.as(t, key.Token, talk("begins-with-a-failure", "fail", check.Want{Status: 502, Error: "Model backend failed"}))
		s.as(t, key.Token, get("/sessions/begins-with-a-failure", notFound))

		// A key that is rotated keeps its conversations; whichever agent answers is told.
		rotated := decode[record](t, s.as(t, token, send("POST", "/keys/"+key.ID+"/rotate", `{"grace":"0"}`, fine)))
		stream := s.as(t, rotated.Key, send("POST", "/chat", `{"message":"four","session_id":"my.talk_1-A","agent":"reviewer","stream":true}`, fine))
		if text := string(stream.Body); !strings.Contains(text, `"session_id":"my.talk_1-A"`) || !strings.Contains(text, "|user:two|assistant:") {
			t.Errorf("%s: the stream is %s", s.name, text)
		}
		got := s.recall(t, rotated.Key, "my.talk_1-A")
		if len(got.Messages) != 6 || got.ID != "my.talk_1-A" || got.CreatedAt != got.Messages[0].Time || got.UpdatedAt != got.Messages[5].Time ||
			got.Messages[4].Content != "four" || got.Messages[4].Role != "user" || got.Messages[5].Agent != "reviewer" || got.Messages[5].Role != "assistant" {
			t.Errorf("%s: the transcript is %+v", s.name, got)
		}
		s.as(t, key.Token, get("/sessions/my.talk_1-A", refused))

		s.as(t, rotated.Key, send("DELETE", "/sessions/my.talk_1-A", "", check.Want{Status: 204}))
		s.as(t, rotated.Key, get("/sessions/my.talk_1-A", notFound))
		s.as(t, rotated.Key, send("DELETE", "/sessions/my.talk_1-A", "", notFound))
		s.as(t, rotated.Key, talk("my.talk_1-A", "five", answered("my.talk_1-A", "<user:five>")))
		if got := s.recall(t, rotated.Key, "another"); len(got.Messages) != 2 {
			t.Errorf("%s: another transcript is %+v", s.name, got)
		}
		// P4: what is kept of a conversation are its words.
		answer := s.as(t, rotated.Key, get("/sessions/another", fine))
		for _, secret := range []string{key.Token, rotated.Key} {
			if leak := leakedKey(string(answer.Body), secret); leak != "" {
				t.Errorf("P4: a transcript has %s in it", leak)
			}
		}
	}
	if n := asked.Load(); n != 2*8 {
		t.Errorf("the model was asked %d times", n)
	}
	kept := ""
	files, _ := filepath.Glob(filepath.Join(here.dir, ".postern", "*"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		kept += string(text)
	}
	if !strings.Contains(kept, "assistant:") || leaked(kept) != "" {
		t.Errorf("P4: the data folder has %q in it, or lacks the conversations", leaked(kept))
	}
	if leak := leaked(here.logs()) + leaked(cloud.logs()); leak != "" || strings.Contains(here.logs()+cloud.logs(), "user:") {
		t.Errorf("P4: the logs have %s or what was said in them", leak)
	}
}

// keepApart has two tenants talk under one id: each is told of its own (P13).
func (s side) keepApart(t *testing.T, a, b tenant) {
	t.Helper()
	for i, x := range []tenant{a, b, a, b} {
		s.as(t, x.key.Token, talk("shared", fmt.Sprintf("word %d of %s", i, x.agent), check.Want{Status: 200, JSON: map[string]any{"session_id": "shared"}}))
	}
	for _, x := range []tenant{a, b} {
		got := s.recall(t, x.key.Token, "shared")
		if len(got.Messages) != 4 {
			t.Errorf("%s: %+v", s.name, got)
		}
		for i, m := range got.Messages {
			if !strings.Contains(m.Content, "of "+x.agent) && i%2 == 0 || m.Agent != "" && m.Agent != x.agent {
				t.Errorf("%s: %s is shown %+v", s.name, x.agent, m)
			}
		}
	}
	// Another's is like none, in every byte.
	s.as(t, a.key.Token, talk("alone", "hello", fine))
	for _, method := range []string{"GET", "HEAD", "DELETE"} {
		want := s.answer(t, b.key, send(method, "/sessions/unknown", "", check.Want{}), "unknown")
		for _, path := range []string{"/sessions/alone", "/sessions/%61lone", "/sessions/" + a.key.ID, "/sessions/..%2F" + a.key.ID + "%2Falone", "/sessions/session%23" + a.key.ID} {
			if got := s.answer(t, b.key, send(method, path, "", check.Want{}), "unknown"); got != want || !strings.Contains(got, "404") {
				t.Errorf("%s: %s %s is told from what there is not:\n%s\n%s", s.name, method, path, got, want)
			}
		}
	}
	s.as(t, token, get("/sessions/alone", notFound)) // root is another caller
	s.as(t, b.key.Token, talk("alone", "hello", fine))
	if got := s.recall(t, a.key.Token, "alone"); len(got.Messages) != 2 {
		t.Errorf("%s: %+v", s.name, got)
	}
	s.as(t, b.key.Token, send("DELETE", "/sessions/alone", "", check.Want{Status: 204}))
	s.as(t, a.key.Token, get("/sessions/alone", fine))
}

// TestConcurrentTurnsAreAllKept: many requests on one conversation, several at
// once. Each lot has an end, so that none loses more often than it has others: a
// turn has 3 s to be written, and a slow disk takes long for each.
func TestConcurrentTurnsAreAllKept(t *testing.T) {
	const lots, atOnce = 8, 8
	const turns = lots * atOnce
	eachSide(t, func(t *testing.T, s side) {
		for lot := range lots {
			var all sync.WaitGroup
			for i := range atOnce {
				all.Go(func() {
					s.as(t, token, talk("busy", fmt.Sprint("message ", lot*atOnce+i), check.Want{Status: 200, JSON: map[string]any{"session_id": "busy"}}))
				})
			}
			all.Wait()
		}
		found := map[string]bool{}
		got := s.recall(t, token, "busy")
		for _, m := range got.Messages {
			if m.Role == "user" {
				found[m.Content] = true
			}
		}
		if len(got.Messages) != 2*turns || len(found) != turns {
			t.Errorf("%s: %d messages, of which %d are different questions", s.name, len(got.Messages), len(found))
		}
	})
}

// TestAConversationSurvivesARestart, even one that nobody had time to prepare.
func TestAConversationSurvivesARestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]syscall.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := memory(t)
			environment := map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": url}
			here := start(t, environment)
			here.side(t).as(t, token, talk("s", "one", answered("s", "<user:one>")))
			here.end(end)
			again := startIn(t, here.dir, environment).side(t)
			again.as(t, token, talk("s", "two", answered("s", "<user:one|assistant:<user:one>|user:two>")))
		})
	}
}

// TestConversationsWithoutTheTable: what can't be read is told before a model is
// asked, and an answer that is there is not lost with its turn.
func TestConversationsWithoutTheTable(t *testing.T) {
	t.Parallel()
	url, asked := memory(t)
	d := deploy(t, map[string]string{"Model": "openai/test", "OpenAIBaseUrl": url}, nil)
	s := d.side(t)
	s.as(t, token, talk("s", "one", answered("s", "<user:one>")))
	d.table.Inject(dynamofake.Fail(500, "InternalServerError").On("GetItem"))
	before := asked.Load()
	s.as(t, token, talk("s", "two", outage))
	s.as(t, token, send("POST", "/chat", `{"message":"two","session_id":"s","stream":true}`, outage))
	s.as(t, token, get("/sessions/s", outage))
	s.as(t, token, send("DELETE", "/sessions/s", "", outage))
	if n := asked.Load(); n != before {
		t.Errorf("the model was asked %d times", n-before)
	}
	s.as(t, token, send("POST", "/chat", `{"message":"aside"}`, answered("", "<user:aside>")))

	d.table.Heal()
	d.table.Inject(dynamofake.Fail(500, "InternalServerError").On("PutItem"))
	const whole = "<user:one|assistant:<user:one>|user:three>"
	s.as(t, token, talk("s", "three", answered("", whole)))
	stream := s.as(t, token, send("POST", "/chat", `{"message":"three","session_id":"s","stream":true}`, fine))
	if text := string(stream.Body); !strings.Contains(text, "event: done\n") || strings.Contains(text, "session_id") {
		t.Errorf("the stream is %s", text)
	}
	d.table.Heal()
	if got := s.recall(t, token, "s"); len(got.Messages) != 2 {
		t.Errorf("%+v", got)
	}
	d.end()
	if logs := d.hosts["ChatFunction"].Logs(); strings.Count(logs, "lost to its conversation") != 2 {
		t.Errorf("the log is %s", logs)
	}
}

// TestAnonymousCallersHaveNoConversations: theirs would be everybody's.
func TestAnonymousCallersHaveNoConversations(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"API_AUTH": "disabled"}).side(t)
	s.as(t, "", talk("s", "one", check.Want{Status: 400, Error: "Invalid request", Detail: `"session_id" takes a credential`}))
	s.as(t, "", get("/sessions/s", notFound))
	s.as(t, "", send("DELETE", "/sessions/s", "", notFound))
	s.as(t, "", send("POST", "/chat", `{"message":"hello"}`, fine))
}
