package agents_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"postern/shared/auth"
)

const (
	judgeItem = `{"name":"judge","description":"Judges.","model":"test/one","tools":[]}`
	clerkItem = `{"name":"clerk","description":"Writes.","model":"test/two","tools":[]}`
	usherItem = `{"name":"usher","description":"Opens doors.","model":"test/one","tools":[]}`
)

// A caller sees the agents that it may use and no others, in the file's order.
func TestListing(t *testing.T) {
	for _, row := range []struct {
		name   string
		caller auth.Caller
		want   string
	}{
		{"all for who has no allow-list", auth.RootCaller(), judgeItem + "," + clerkItem + "," + usherItem},
		{"one for who may use one", only("clerk"), clerkItem},
		{"in the file's order, not the list's", only("usher", "judge"), judgeItem + "," + usherItem},
		{"names that there aren't add nothing", only("nobody", "usher"), usherItem},
		{"names are compared exactly", only("Judge", "judge ", "jud"), ""},
		{"an empty allow-list allows none", only([]string{}...), ""},
		{"no caller sees anything", auth.Caller{ID: "", Scopes: auth.RootCaller().Scopes, Agents: []string{"judge"}}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := newSite(t, says("x"), row.caller).get("/agents")
			if want := `{"agents":[` + row.want + "]}\n"; got.Status != 200 || got.Body != want {
				t.Errorf("%d %s, want %s", got.Status, got.Body, want)
			}
			if ct := got.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("Content-Type %q", ct)
			}
		})
	}
}

func TestOneAgent(t *testing.T) {
	for _, row := range []struct {
		name   string
		caller auth.Caller
		path   string
		want   string // "": 404
	}{
		{"the first", auth.RootCaller(), "/agents/judge", judgeItem},
		{"another", auth.RootCaller(), "/agents/clerk", clerkItem},
		{"one of the allow-list", only("clerk"), "/agents/clerk", clerkItem},
		{"one outside it", only("clerk"), "/agents/judge", ""},
		{"one that there isn't", auth.RootCaller(), "/agents/nobody", ""},
		{"one that there isn't, though the list names it", only("nobody"), "/agents/nobody", ""},
		{"another case", auth.RootCaller(), "/agents/Judge", ""},
		{"a longer name", auth.RootCaller(), "/agents/judges", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := newSite(t, says("x"), row.caller).get(row.path)
			if row.want == "" {
				if p := got.problem(t); got.Status != 404 || p.Error != "Not found" {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			} else if got.Status != 200 || got.Body != row.want+"\n" {
				t.Errorf("%d %s, want %s", got.Status, got.Body, row.want)
			}
		})
	}
}

// P13: an agent of others can't be told from one that doesn't exist: by no
// route, in no byte but the request_id (which this door makes the same).
func TestForeignAgentIsLikeUnknown(t *testing.T) {
	s := newSite(t, says("x"), only("clerk"))
	for _, row := range []struct {
		name string
		ask  func(agent string) reply
	}{
		{"GET /agents/{name}", func(a string) reply { return s.get("/agents/" + a) }},
		{"HEAD /agents/{name}", func(a string) reply { return s.send(httptest.NewRequest("HEAD", "/agents/"+a, nil)) }},
		{"POST /chat", func(a string) reply { return s.chat(`{"message":"m","agent":"` + a + `"}`) }},
		{"POST /chat as a stream", func(a string) reply {
			return s.chat(`{"message":"m","stream":true,"agent":"`+a+`"}`, "Accept: text/event-stream")
		}},
		{"POST /chat without a message", func(a string) reply { return s.chat(`{"agent":"` + a + `"}`) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			foreign, unknown := row.ask("judge"), row.ask("judgf")
			if foreign.Status != unknown.Status || foreign.everything() != unknown.everything() {
				t.Errorf("foreign %d\n%s\nunknown %d\n%s", foreign.Status, foreign.everything(), unknown.Status, unknown.everything())
			}
			if foreign.Status == 200 || strings.Contains(foreign.everything(), "judge") {
				t.Errorf("%d\n%s", foreign.Status, foreign.everything())
			}
		})
	}
}

// Contract §4, P4: no prompt text, wherever agents are shown.
func TestNoPromptIsShown(t *testing.T) {
	s := newSite(t, says("x"), auth.RootCaller())
	for _, got := range []reply{
		s.get("/agents"), s.get("/agents/judge"), s.get("/agents/clerk"), s.get("/agents/nobody"),
		s.chat(asking("hello")), s.chat(asking("hello"), "Accept: text/event-stream"), s.chat(`{"message":1}`), s.chat(`{"prompt":1}`),
	} {
		if strings.Contains(got.everything(), canary) {
			t.Errorf("a prompt in %d\n%s", got.Status, got.everything())
		}
	}
	if strings.Contains(s.log.String(), canary) {
		t.Errorf("a prompt in the log:\n%s", s.log)
	}
}
