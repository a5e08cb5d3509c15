package agents_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"postern/shared/agents"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/secret"
)

const offline = "offline/eliza"

const allDeploy = `deploy:
  type: api
  api:
    host: 0.0.0.0
    port: 8005
    workers: 4
    cors_enabled: true
    auth_enabled: false
    auth_token: correct-horse-battery`

func parse(text string) (*agents.File, error) {
	return agents.Parse("agents.yaml", []byte(text), offline)
}

func mustParse(t *testing.T, text string) *agents.File {
	t.Helper()
	f, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func names(f *agents.File) (list []string) {
	for _, a := range f.Agents {
		list = append(list, a.Name)
	}
	return list
}

func TestSampleHasThreeOfflineAgents(t *testing.T) {
	f, err := agents.Load("../../agents.yaml", offline)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"assistant", "sumfrench", "reviewer"}, names(f)); diff != "" {
		t.Error(diff)
	}
	for _, a := range f.Agents {
		if a.Model.String() != offline || a.ModelWhere != "" || a.Description == "" {
			t.Errorf("%s: model %s from %q, described as %q", a.Name, a.Model, a.ModelWhere, a.Description)
		}
	}
	text, _ := os.ReadFile("../../agents.yaml")
	if first, _, _ := strings.Cut(string(text), "\n"); first != "# yaml-language-server: $schema=./agents.schema.json" {
		t.Errorf("the first line is %q", first)
	}
	switchedOn := strings.Replace(string(text), "\n# llm:", "\nllm:", 1)
	if got := mustParse(t, switchedOn).Agents[0].Model; got != (model.Name{Provider: "openai", Name: "gpt-4o-mini"}) {
		t.Errorf("without its # the llm line gives %s", got)
	}
}

func TestAgentsKeepTheirOrder(t *testing.T) {
	want := []string{"zeta", "alpha", "Mid Point", "0", "é.1_x-y"}
	var mapping, list strings.Builder
	for _, name := range want {
		fmt.Fprintf(&mapping, "  %s: {role: r}\n", name)
		fmt.Fprintf(&list, "  - {name: '%s', role: r}\n", name)
	}
	for form, text := range map[string]string{"mapping": mapping.String(), "list": list.String()} {
		f := mustParse(t, "agents:\n"+text)
		if diff := cmp.Diff(want, names(f)); diff != "" {
			t.Errorf("%s: %s", form, diff)
		}
	}
}

func TestAgentFields(t *testing.T) {
	const full = `
llm: gpt-4o-mini
agents:
  x:
    role: " Judge "
    goal: Be fair
    instructions: |
      Hear both.

      Then decide.
    description: Decides
    llm: bedrock/claude
  y: {goal: g, backstory: same}
  z: {instructions: " same", backstory: "same "}
  both: {instructions: Ask once., backstory: " A clerk. ", role: Clerk}
`
	want := []agents.Agent{
		{
			Name: "x", Description: "Decides", Role: "Judge", Goal: "Be fair", Instructions: "Hear both.\n\nThen decide.",
			Model: model.Name{Provider: "bedrock", Name: "claude"}, ModelWhere: "agents.yaml:12: agents.x.llm",
		},
		{Name: "y", Description: "g", Goal: "g", Instructions: "same", Model: model.Name{Provider: "openai", Name: "gpt-4o-mini"}, ModelWhere: "agents.yaml:2: llm"},
		{Name: "z", Instructions: "same", Model: model.Name{Provider: "openai", Name: "gpt-4o-mini"}, ModelWhere: "agents.yaml:2: llm"},
		{Name: "both", Description: "Clerk", Role: "Clerk", Instructions: "A clerk.\n\nAsk once.", Model: model.Name{Provider: "openai", Name: "gpt-4o-mini"}, ModelWhere: "agents.yaml:2: llm"},
	}
	for ending, text := range map[string]string{"LF": full, "CRLF": strings.ReplaceAll(full, "\n", "\r\n")} {
		if diff := cmp.Diff(want, mustParse(t, text).Agents); diff != "" {
			t.Errorf("%s: %s", ending, diff)
		}
	}
}

// A description is public, so instructions, which are not, never become one.
func TestDescriptionFallsBackToRoleThenGoal(t *testing.T) {
	for text, want := range map[string]string{
		"{description: d, role: r, goal: g}": "d",
		"{role: r, goal: g}":                 "r",
		"{goal: g, instructions: i}":         "g",
		"{instructions: i}":                  "",
	} {
		if got := mustParse(t, "agents: {a: "+text+"}").Agents[0].Description; got != want {
			t.Errorf("%s is described as %q, want %q", text, got, want)
		}
	}
}

func TestDeployBlockTellsWhereEachValueStands(t *testing.T) {
	got := mustParse(t, allDeploy+"\nagents: {a: {role: r}}").Deploy
	if s := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(s, "correct-horse") {
		t.Errorf("printing gives the token away: %s", s)
	}
	want := agents.Deploy{
		Host:        agents.Value[string]{V: "0.0.0.0", Where: "agents.yaml:4: deploy.api.host"},
		Port:        agents.Value[int]{V: 8005, Where: "agents.yaml:5: deploy.api.port"},
		Workers:     agents.Value[int]{V: 4, Where: "agents.yaml:6: deploy.api.workers"},
		CORSEnabled: agents.Value[bool]{V: true, Where: "agents.yaml:7: deploy.api.cors_enabled"},
		AuthEnabled: agents.Value[bool]{V: false, Where: "agents.yaml:8: deploy.api.auth_enabled"},
		AuthToken:   agents.Value[secret.String]{V: secret.New("correct-horse-battery"), Where: "agents.yaml:9: deploy.api.auth_token"},
	}
	sameSecret := cmp.Comparer(func(a, b secret.String) bool { return a.Reveal() == b.Reveal() })
	if diff := cmp.Diff(want, got, sameSecret, cmpopts.IgnoreUnexported(agents.Deploy{})); diff != "" {
		t.Error(diff)
	}
	if got.Where() != "agents.yaml:3: deploy.api" {
		t.Errorf("the block stands in %q", got.Where())
	}
	if !got.AuthEnabled.IsSet() || mustParse(t, "agents: {a: {role: r}}").Deploy != (agents.Deploy{}) {
		t.Error("a false value must be set, an absent block must not")
	}
}

// A file that PraisonAI deployed elsewhere starts here, and its server's settings
// count: a build must see the token.
func TestAnotherDeploymentIsNamedInTheWarning(t *testing.T) {
	f := mustParse(t, `agents: {a: {role: r}}
deploy:
  type: docker
  docker: {image_name: bakery, expose: [8005], build_args: {TOKEN: hunter2}}
  cloud:
    provider: aws
    env_vars: {OPENAI_API_KEY: "${OPENAI_API_KEY}"}
  agents: [{name: a, entrypoint: agents.yaml}]
  api: {auth_token: correct-horse-battery}
`)
	want := []string{"agents.yaml: not acted on: deploy.type (line 3), deploy.docker (line 4), deploy.cloud (line 5), deploy.agents (line 8)"}
	if diff := cmp.Diff(want, f.Warnings); diff != "" {
		t.Error(diff)
	}
	if got := f.Deploy.AuthToken; got.V.Reveal() != "correct-horse-battery" || got.Where != "agents.yaml:9: deploy.api.auth_token" {
		t.Errorf("the token's place is %q", got.Where)
	}
	if w := mustParse(t, "agents: {a: {role: r}}\ndeploy: {type: api}").Warnings; w != nil {
		t.Errorf("type: api is acted on, and yet %q", w)
	}
}

// P18, I17: what is malformed or missing stops the start, with the place, the
// fault and the cure in one line.
func TestRefusals(t *testing.T) {
	const agent = "\nagents: {a: {role: r}}"
	const nameRule = "a name has 1 to 64 letters, digits, spaces, or . _ - and begins with a letter or a digit"
	tests := []struct{ name, text, want string }{
		{"a mistyped field", "agents:\n  sumfrench:\n    instrutions: x", `agents.yaml:3: agents.sumfrench.instrutions: unknown field; did you mean "instructions"?`},
		{"a field in capitals", "agents: {a: {Role: x}}", `agents.yaml:1: agents.a.Role: unknown field; did you mean "role"?`},
		{"a field like no other", "agents: {a: {temperature: x}}", `agents.yaml:1: agents.a.temperature: unknown field; known fields are role, goal, instructions, backstory, description, llm, model, tasks`},
		{"a field like no other in a list", "agents:\n- name: a\n  colour: []", `agents.yaml:3: agents[0].colour: unknown field; known fields are name, role, goal, instructions, backstory, description, llm, model, tasks`},
		{"a field like no other at the top", "\ncolours: {}", `agents.yaml:2: colours: unknown field; known fields are name, llm, input, topic, variables, agents, roles, steps, tasks, workflow, deploy`},
		{"a mistyped field that nothing acts on", "agents: {a: {max_itr: 3}}", `agents.yaml:1: agents.a.max_itr: unknown field; did you mean "max_iter"?`},
		{"a mistyped setting", "deploy:\n  api:\n    prot: 1", `agents.yaml:3: deploy.api.prot: unknown field; did you mean "port"?`},

		{"a text for a port", "deploy: {api: {port: http}}", `agents.yaml:1: deploy.api.port: must be a whole number, not text`},
		{"a fraction for a port", "deploy: {api: {port: 80.5}}", `agents.yaml:1: deploy.api.port: must be a whole number, not a decimal number`},
		{"an enormous port", "deploy: {api: {port: 18446744073709551615}}", `agents.yaml:1: deploy.api.port: is too large a number`},
		{"yes for a switch", "deploy: {api: {auth_enabled: yes}}", `agents.yaml:1: deploy.api.auth_enabled: must be true or false, not text`},
		{"a number for a role", "agents: {a: {role: 7}}", `agents.yaml:1: agents.a.role: must be text, not a whole number; put quotes around it`},
		{"a list for a role", "agents: {a: {role: [x]}}", `agents.yaml:1: agents.a.role: must be text, not a list`},
		{"a text for an agent", "agents: {a: x}", `agents.yaml:1: agents.a: must be a block of fields, not text`},
		{"a text for the agents", "agents: x", `agents.yaml:1: agents: must be agents by their names, or a list of agents, not text`},
		{"a text for the file", "hello", `agents.yaml: must be a block of fields, not text`},
		{"nothing after a field", "agents:\n  a:\n    role:\n", `agents.yaml:3: agents.a.role: must be text, but nothing is here; write it or delete the line`},
		{"a blank text", "agents: {a: {role: '  '}}", `agents.yaml:1: agents.a.role: is empty; write something or delete the line`},
		{"an unknown deployment", "deploy: {type: lambda}" + agent, `agents.yaml:1: deploy.type: must be api, docker or cloud, of which api alone is acted on; delete the line`},
		{"a mistyped deployment", "deploy: {dokcer: {}}" + agent, `agents.yaml:1: deploy.dokcer: unknown field; did you mean "docker"?`},

		{"a model's block without a model", "agents: {a: {llm: {temperature: 1}}}", "agents.yaml:1: agents.a.llm: has no model; add `model:` and its name, or write the name alone"},
		{"a model's block with a key", "llm:\n  model: x\n  api_key: sk-1", `agents.yaml:3: llm.api_key: PraisonAI has this here, Postern doesn't; set OPENAI_API_KEY and OPENAI_BASE_URL in the environment`},
		{"a model's block with an address", "llm: {base_url: http://x}", `agents.yaml:1: llm.base_url: PraisonAI has this here, Postern doesn't; set OPENAI_API_KEY and OPENAI_BASE_URL in the environment`},
		{"a model in a block with spaces", "llm: {model: a b}", `agents.yaml:1: llm.model: is no model's name; write provider/name without spaces, for example offline/eliza`},
		{"a model with spaces", "llm: a model", `agents.yaml:1: llm: is no model's name; write provider/name without spaces, for example offline/eliza`},

		{"an empty file", "", "agents.yaml: is empty; run `postern init` for a sample"},
		{"a file of comments", "# agents\n", "agents.yaml: is empty; run `postern init` for a sample"},
		{"no agents", "llm: a/b", "agents.yaml: has no agents; add one under `agents:`, or run `postern init` for a sample"},
		{"an empty list of agents", "agents: []", "agents.yaml: has no agents; add one under `agents:`, or run `postern init` for a sample"},
		{"an agent that says nothing", "agents:\n  a:\n    llm: x/y", `agents.yaml:2: agents.a: says nothing to the model; write instructions, or a role and a goal`},
		{"an agent without a name", "agents:\n- name: a\n  role: r\n- role: r", "agents.yaml:4: agents[1]: has no name; add `name:` and what callers will ask for"},
		{"a bad name", "agents: [{name: a/b, role: r}]", `agents.yaml:1: agents[0].name: is no name; ` + nameRule},
		{"a bad key", "agents:\n  _a: {role: r}", `agents.yaml:2: agents: a key here is no name; ` + nameRule},
		{"a list as a key", "? [a]\n: b", `agents.yaml:2: is not valid YAML: found an invalid key for this map`},
		{"a field twice", "agents:\n  a:\n    role: x\n    goal: y\n    role: z", `agents.yaml:5: agents.a.role: is written twice, first in line 3; keep one`},
		{"a name twice as a key", "agents:\n  a: {role: x}\n  'a': {role: x}", `agents.yaml:3: agents.a: is written twice, first in line 2; keep one`},
		{"a name twice in a list", "agents:\n- {name: a, role: x}\n- {name: a, role: y}", `agents.yaml:3: agents[1]: this name is already in line 2; choose another`},

		{"an anchor", "agents: {a: {role: &x r}}", `agents.yaml:1: agents.a.role: anchors and aliases (& and *) are not supported; write the value itself, in quotes if it begins so`},
		{"an alias", "agents: {a: {role: *x}}", `agents.yaml:1: agents.a.role: anchors and aliases (& and *) are not supported; write the value itself, in quotes if it begins so`},
		{"a merge key", "agents:\n  a:\n    <<: {role: r}", `agents.yaml:3: agents.a: merge keys (<<) are not supported; write the fields themselves`},
		{"a tag", "agents: {a: {role: !!str 7}}", `agents.yaml:1: agents.a.role: tags (!) are not supported; delete it, or put quotes around a text that begins so`},
		{"a directive", "%YAML 1.2\n---\na: b", `agents.yaml:1: directives (%) are not supported; delete the line`},
		{"a second document", "agents: {a: {role: r}}\n---\nb: c", "agents.yaml:2: a second YAML document begins here; keep one, without `---` between"},

		{"brackets too deep", "agents:\n" + strings.Repeat("[", 17), `agents.yaml:2: is nested more than 16 deep`},
		{"dashes too deep", strings.Repeat("- ", 17), `agents.yaml:1: is nested more than 16 deep`},
		{"too many tokens", strings.Repeat("- a\n", 10_001), `agents.yaml: has more than 20000 YAML tokens; split it over several deployments`},
		{"a tab in the indentation", "agents:\n  a:\n\t role: r", `agents.yaml:3: a tab stands in the indentation; use spaces`},
		{"a byte order mark", "\ufeffagents: {}", `agents.yaml: begins with a byte order mark; save it as UTF-8 without BOM`},
		{"Latin-1", "agents:\n  caf\xe9: {}", `agents.yaml:2: is not UTF-8; save the file as UTF-8`},
		{"a NUL", "a\n\n\x00", `agents.yaml:3: has the control character U+0000; delete it`},
		{"an old Macintosh's line ends", "a: b\rc: d", `agents.yaml:1: has the control character U+000D; delete it`},
		{"a second colon", "agents:\n  a:\n    role: judge: fair", "agents.yaml:3: wrong indentation, or a second `: ` in one line; put quotes around a text that has one"},
		{"an open bracket", "agents:\n  a: [", `agents.yaml:2: is not valid YAML: sequence end token ']' not found`},
		{"an open quote", "agents: 'a\n", `agents.yaml:1: is not valid YAML: could not find end character of single-quoted text`},
		{"an at sign", "agents: @a", `agents.yaml:1: a text can't begin with @ or a backquote; put quotes around it`},
		{"a backslash", `agents: "\q"`, `agents.yaml:1: unknown escape after \ in double quotes; use single quotes, or write \\`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(tt.text)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// P4: an error about the token, or about what was meant to be it, never repeats
// the value.
func TestErrorsNeverRepeatTheToken(t *testing.T) {
	const token = "hunter2hunter2hunter2"
	for _, text := range []string{
		"auth_token: [" + token + "]",
		"auth_token: &" + token,
		"auth_token: *" + token,
		"auth_token: !" + token + " x",
		"auth_token: |" + token + "\n      x",
		"auth_token: >" + token + "\n      x",
		"auth_token: " + token + ": x",
		"auth_token: '" + token,
		"auth_token: \"" + token + "\\q\"",
		"auth_token: @" + token,
		"auth_token: {" + token + ": x}",
		"auth_token: {? " + token + "}",
		"auth_tokne: " + token,
		"port: " + token,
		"auth_token " + token,
		"'auth_token: " + token + "': x",
		"auth_token: a\n    auth_token: " + token,
	} {
		_, err := parse("deploy:\n  api:\n    " + text + "\nagents: {a: {role: r}}")
		if err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestLoadRefusals(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, []byte(strings.Repeat("#", 2<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.yaml")
	tests := []struct{ name, path, want string }{
		{"a missing file never means defaults (I17)", missing, missing + ": no such file; run `postern init` to write one, or name another with --agents"},
		{"a missing file of an odd name", "no\nsuch", `"no\nsuch": no such file; run ` + "`postern init` to write one, or name another with --agents"},
		{"a folder", dir, dir + ": is a folder, a pipe or a device and no file; name a file with --agents or AGENTS_FILE"},
		{"a pipe that nobody writes to", pipe, pipe + ": is a folder, a pipe or a device and no file; name a file with --agents or AGENTS_FILE"},
		{"a device", os.DevNull, os.DevNull + ": is a folder, a pipe or a device and no file; name a file with --agents or AGENTS_FILE"},
		{"a file above 1 MiB", large, large + ": is larger than 1 MiB, the most that an agents file may have"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := agents.Load(tt.path, offline)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFallbackMustBeAModelsName(t *testing.T) {
	_, err := agents.Parse("agents.yaml", []byte("agents: {a: {role: r}}"), "a b")
	const want = `MODEL: model "a b": write provider/name, for example offline/eliza`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// worked is how long this process has had a processor, which doesn't count what
// others do on a busy machine.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// P15: no file makes the reader work for long. Without the bounds on tokens and
// depth the first row takes over a minute, and sixty times that at 1 MiB.
func TestHostileFilesAreRefusedQuickly(t *testing.T) { // minds the process' time: not parallel
	const size = 128 << 10
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	var keys, stairs, laughs, crowd strings.Builder
	for i := 0; keys.Len() < 70_000; i++ { // just below the bound on tokens
		fmt.Fprintf(&keys, "k%d: v\n", i)
	}
	for i := 0; stairs.Len() < size-2_000; i++ {
		fmt.Fprintf(&stairs, "%sa:\n", strings.Repeat(" ", i))
	}
	for i := range 1_300 {
		fmt.Fprintf(&crowd, "- {name: a%d, role: r, cache: x}\n", i)
	}
	laughs.WriteString("l0: &l0 ha\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&laughs, "l%d: &l%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d,", i-1), 10), ","))
	}
	for name, text := range map[string]string{
		"open brackets":    fill("["),
		"open braces":      fill("{a: "),
		"closing brackets": fill("]") + fill("["),
		"dashes":           fill("- "),
		"question marks":   fill("? "),
		"tags":             fill("!a "),
		"anchors":          fill("&a "),
		"keys":             keys.String(),
		"one key":          fill("a: b\n"),
		"stairs":           stairs.String(),
		"documents":        fill("---\n"),
		"billion laughs":   laughs.String(),
		"one long word":    fill("x"),
		"one long quote":   `"` + fill("x ")[2:] + `"`,
		"blank lines":      fill("\n"),
		"comments":         fill("# a\n"),

		"stairs that nothing reads":       "framework:\n " + strings.ReplaceAll(stairs.String(), "\n", "\n "),
		"a list that nothing reads":       "framework: [" + strings.Repeat("{a: [b]},", 2_000) + "]",
		"steps of agents that aren't":     "agents: {a: {role: r}}\nsteps:\n" + strings.Repeat("- {agent: b}\n", 2_800),
		"agents of fields without effect": "steps: [{agent: x}]\nagents:\n" + crowd.String(),
	} {
		t.Run(name, func(t *testing.T) {
			start := worked(t)
			if _, err := parse(text[:min(len(text), size)]); err == nil {
				t.Error("accepted")
			}
			if took := worked(t) - start; took > 10*time.Second { // it takes 0.2 s; the rest is for -race
				t.Errorf("took %v", took)
			} else {
				t.Logf("took %v", took)
			}
		})
	}
}

// FuzzParse (P15): no panic, at least one agent or one line of error, and no
// token in it.
func FuzzParse(f *testing.F) {
	sample, err := os.ReadFile("../../agents.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sample)
	samples, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(samples) == 0 {
		f.Fatal(samples, err)
	}
	for _, path := range samples {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, seed := range []string{
		allDeploy + "\nagents: {a: {role: r}}",
		"agents:\n- name: a\n  role: |-\n    x\n\n    y\n- {name: b, goal: \"\\u00e9\"}\n",
		"agents: &x\n  a: *x\n<<: *x\n? [a]\n: !!str b\n",
		"%YAML 1.2\n---\na: >+2\n   b\n...\n---\n",
		"\ufeffa:\r\n\tb: 'c\n",
		"name: w\nvariables: {x: 1, y: [2]}\nagents: {a: {role: r, tools: {? x}}}\nsteps:\n  s: {agent: a, action: '{{x}} {{z}}', loop: }\n",
		"roles: [{name: a, role: r, tasks: [{task: x, context: *y}]}]\nmodels: {<<: {api_key: z}}",
		"agents: {a: {role: 0x1F, goal: .inf, llm: {model: x}}}",
	} {
		f.Add([]byte(seed))
	}
	tokens := regexp.MustCompile(`auth_token: *["']?([A-Za-z0-9+/_-]{12,})`)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := agents.Parse("agents.yaml", data, offline)
		if err == nil {
			if len(file.Agents) == 0 {
				t.Error("no agents and no error")
			}
			for _, a := range file.Agents {
				if a.SystemPrompt() == "" || a.Model.Provider == "" {
					t.Errorf("an empty agent: %+v", a)
				}
			}
			for _, w := range file.Warnings {
				if strings.ContainsAny(w, "\r\n\x1b") || !strings.HasPrefix(w, "agents.yaml: not acted on: ") {
					t.Errorf("not one line about the file: %q", w)
				}
			}
			if w := file.Workflow; w != nil {
				checkRuns(t, file)
			}
			return
		}
		if strings.ContainsAny(err.Error(), "\r\n\x1b") || !strings.HasPrefix(err.Error(), "agents.yaml:") {
			t.Errorf("not one line about the file: %q", err)
		}
		for _, m := range tokens.FindAllSubmatch(data, -1) {
			if token := string(m[1]); strings.Count(string(data), token) == 1 && strings.Contains(err.Error(), token) {
				t.Errorf("the token stands in %q", err)
			}
		}
	})
}

// checkRuns plays the file's workflow to its end.
func checkRuns(t *testing.T, file *agents.File) {
	runner := agents.Runner{File: file, Models: agents.Models{}}
	for _, a := range file.Agents {
		runner.Models[a.Model.Provider] = says("x")
	}
	what, found := runner.Find(auth.RootCaller(), "")
	if !found || !what.IsWorkflow() {
		t.Fatal("root doesn't find the workflow")
	}
	steps := 0
	for event, err := range runner.Run(t.Context(), what, agents.Ask("message")) {
		if err != nil && !errors.Is(err, agents.ErrPromptTooLarge) {
			t.Fatal(err)
		}
		if event.Step != nil {
			steps++
		}
		if event.Result != nil && steps != len(file.Workflow.Steps) {
			t.Errorf("%d steps of %d", steps, len(file.Workflow.Steps))
		}
	}
}

func BenchmarkParseSample(b *testing.B) {
	sample, err := os.ReadFile("../../agents.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := agents.Parse("agents.yaml", sample, offline); err != nil {
			b.Fatal(err)
		}
	}
}
