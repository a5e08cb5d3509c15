package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/shared/check"
	"postern/shared/route"
)

// naming is, by a route's name, requests that name an agent; nil where none can
// be named. A new route stands here too (TestP13TwoTenants).
var naming = map[string]func(agent string) []check.Case{
	"agents.get": func(agent string) []check.Case {
		return []check.Case{get("/agents/"+agent, check.Want{}), get("/agents/"+escaped(agent), check.Want{}), send("HEAD", "/agents/"+agent, "", check.Want{})}
	},
	"openai.model": func(agent string) []check.Case {
		return []check.Case{get("/v1/models/"+agent, check.Want{}), get("/v1/models/"+escaped(agent), check.Want{})}
	},
	"chat": func(agent string) []check.Case {
		return []check.Case{
			send("POST", "/chat", fmt.Sprintf(`{"message":"hello","agent":%q}`, agent), check.Want{}),
			send("POST", "/chat", fmt.Sprintf(`{"message":"hello","agent":%q,"stream":true}`, agent), check.Want{}),
		}
	},
	"openai.completions": func(agent string) []check.Case {
		return []check.Case{
			send("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hello"}]}`, agent), check.Want{}),
			send("POST", "/v1/chat/completions", fmt.Sprintf(`{"model":%q,"messages":[]}`, agent), check.Want{}),
		}
	},
	"txtai.workflow": func(agent string) []check.Case {
		return []check.Case{send("POST", "/workflow", fmt.Sprintf(`{"name":%q,"elements":["hello"]}`, agent), check.Want{})}
	},
	"sessions.get": nil, "sessions.delete": nil, // keepApart has these
	"jobs.list": nil, "jobs.get": nil, "jobs.cancel": nil, "jobs.delete": nil, // and keepJobsApart these
	"omnidev.ask": nil, "omnidev.jobs": nil, "omnidev.job": nil, "omnidev.delete": nil,
	"health": nil, "whoami": nil, "agents.list": nil, "openai.models": nil, "elizaos.agents": nil,
}

// escaped is a name with its first letter as an escape.
func escaped(name string) string { return fmt.Sprintf("%%%x", name[0]) + name[1:] }

// tenant is a key for one agent. It is no administrator's.
type tenant struct {
	key    check.Key
	agent  string
	others []string // agents that it may not use
}

// TestP13TwoTenants asks every route for what is another's. It must be like what
// there is not, in every byte but the name that was asked for.
func TestP13TwoTenants(t *testing.T) {
	for _, row := range route.Table() {
		if _, told := naming[row.Name]; !told && row.Scope != route.Admin {
			t.Errorf("route %s isn't told of in naming", row.Name)
		}
	}
	eachSide(t, func(t *testing.T, s side) {
		issue := func(agent string, others ...string) tenant {
			return tenant{s.issue(t, token, fmt.Sprintf(`{"name":"of %s","scopes":["agents:read","chat"],"agents":[%q]}`, agent, agent)), agent, others}
		}
		a, b := issue("assistant", "sumfrench", "reviewer"), issue("sumfrench", "assistant", "reviewer")
		for _, x := range []tenant{a, b} {
			s.seesItsOwn(t, x)
			for _, name := range slices.Sorted(maps.Keys(naming)) {
				if naming[name] == nil {
					continue
				}
				own, unknown := naming[name](x.agent), naming[name]("no-such-agent")
				for i := range own {
					if status := s.raw(t, x.key.Token, own[i]); status != 200 && !strings.Contains(own[i].Body, `"messages":[]`) {
						t.Errorf("%s: its own agent is answered %d: %s %s", s.name, status, own[i].Path, own[i].Body)
					}
					want := s.answer(t, x.key, unknown[i], "no-such-agent")
					if !strings.Contains(want, "404") && !strings.Contains(own[i].Body, `"messages":[]`) {
						t.Errorf("%s: an unknown agent is answered %s", s.name, want)
					}
					for _, other := range x.others {
						c := naming[name](other)[i]
						if got := s.answer(t, x.key, c, other); got != want {
							t.Errorf("%s: %s %s %s: another's agent is told from one that there is not:\n%s\n%s", s.name, c.Method, c.Path, c.Body, got, want)
						}
					}
				}
			}
		}
		s.keepApart(t, a, b)
		s.keepJobsApart(t, a, b)
		// Whoever may use both sees both, and is another caller.
		both := s.issue(t, token, `{"name":"of both","scopes":["agents:read","chat"],"agents":["sumfrench","assistant"]}`)
		s.as(t, both.Token, get("/agents", check.Want{Status: 200, JSON: map[string]any{"agents.0.name": "assistant", "agents.1.name": "sumfrench", "agents.2": check.Absent}}))
		nothing := s.issue(t, token, `{"name":"of none that there is","scopes":["agents:read","chat"],"agents":["Assistant"]}`)
		s.as(t, nothing.Token, get("/agents", check.Want{Status: 200, Body: `{"agents":[]}`}))
		s.as(t, nothing.Token, send("POST", "/chat", `{"message":"hello"}`, notFound))

		// Of each other's requests they know nothing, and root knows them apart.
		for _, path := range []string{"/usage", "/usage?key=" + b.key.ID, "/usage?key=" + a.key.ID, "/keys", "/keys/" + b.key.ID, "/keys/" + a.key.ID, "/audit"} {
			s.as(t, a.key.Token, get(path, noScope))
		}
		type row struct{ Caller, Agent string }
		for _, x := range []tenant{a, b} {
			rows := decode[struct{ Usage []row }](t, s.as(t, token, get("/usage?key="+x.key.ID, fine))).Usage
			agents := map[string]bool{}
			for _, r := range rows {
				agents[r.Agent] = true
				if r.Caller != x.key.ID || r.Agent != "" && r.Agent != x.agent {
					t.Errorf("%s: the report about %s has %+v", s.name, x.agent, r)
				}
			}
			if !agents[x.agent] {
				t.Errorf("%s: the report about %s lacks its agent: %v", s.name, x.agent, rows)
			}
		}
	})
}

// TestP13AWorkflowTakesAllItsAgents: for whoever may not use one of them it isn't
// there.
func TestP13AWorkflowTakesAllItsAgents(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agents.yaml")
	err := os.WriteFile(file, []byte("name: pipeline\nagents: {first: {role: Writer}, second: {role: Editor}}\nsteps: [{agent: second}, {agent: first}]\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	environment := map[string]string{"AGENTS_FILE": file}
	for _, s := range []side{start(t, environment).side(t), deploy(t, nil, environment).side(t)} {
		whole := s.issue(t, token, `{"name":"whole","scopes":["chat"],"agents":["first","second"]}`)
		part := s.issue(t, token, `{"name":"part","scopes":["chat"],"agents":["first"]}`)
		for body, agents := range map[string][2]string{
			`{"message":"hello"}`: {"pipeline", "first"}, `{"message":"hello","agent":"pipeline"}`: {"pipeline", ""}, `{"message":"hello","agent":"second"}`: {"second", ""},
		} {
			s.as(t, whole.Token, send("POST", "/chat", body, check.Want{Status: 200, JSON: map[string]any{"agent": agents[0]}}))
			want := check.Want{Status: 200, JSON: map[string]any{"agent": agents[1]}}
			if agents[1] == "" {
				want = notFound
			}
			s.as(t, part.Token, send("POST", "/chat", body, want))
		}
		s.as(t, whole.Token, send("POST", "/workflow", `{"name":"pipeline","elements":["hello"]}`, fine))
		s.as(t, part.Token, send("POST", "/workflow", `{"name":"pipeline","elements":["hello"]}`, notFound))
	}
}

// seesItsOwn: every list has the tenant's agent and no other, which answers where
// none is named.
func (s side) seesItsOwn(t *testing.T, x tenant) {
	t.Helper()
	for path, list := range map[string]string{"/agents": "agents.%d.name", "/v1/models": "data.%d.id", "/api/agents": "data.agents.%d.name"} {
		answer := s.as(t, x.key.Token, get(path, check.Want{Status: 200, JSON: map[string]any{
			fmt.Sprintf(list, 0): x.agent, strings.TrimSuffix(fmt.Sprintf(list, 1), ".name"): check.Absent}}))
		for _, other := range x.others {
			if strings.Contains(string(answer.Body), other) {
				t.Errorf("%s: GET %s tells of %s: %s", s.name, path, other, answer.Body)
			}
		}
	}
	s.as(t, x.key.Token, send("POST", "/chat", `{"message":"hello"}`, check.Want{Status: 200, JSON: map[string]any{"agent": x.agent}}))
	s.as(t, x.key.Token, get("/whoami", check.Want{Status: 200, JSON: map[string]any{"id": x.key.ID, "agents": "[" + x.agent + "]"}}))
}

// answer is all that comes back, but for what tells one request from another.
func (s side) answer(t *testing.T, key check.Key, c check.Case, name string) string {
	t.Helper()
	response, _ := s.run(t, key.Token, c)
	if response == nil {
		t.Errorf("%s: no answer to %s %s", s.name, c.Method, c.Path)
		return ""
	}
	for name := range allowed {
		response.Header.Del(name)
	}
	all := fmt.Sprint(response.Status, " ", response.Header, " ", string(response.Body))
	return strings.ReplaceAll(strings.ReplaceAll(all, name, "<name>"), requestID(response.Body), "<request id>")
}

// requestID is what a problem document says of it.
func requestID(body []byte) string {
	_, rest, _ := strings.Cut(string(body), `"request_id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	if id == "" {
		return "no request id"
	}
	return id
}
