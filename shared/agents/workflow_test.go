package agents_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/agents"
	"postern/shared/auth"
	"postern/shared/model"
)

// script is a model that writes down what it is asked and answers in turn with
// what it is given, then with "answer 1", "answer 2" ….
type script struct {
	answers []string
	asked   []model.Request
}

func (s *script) models() agents.Models {
	m := agents.Models{}
	for _, provider := range []string{"test", "offline", "openai", "groq", "anthropic", "cohere"} {
		m[provider] = part(s.answer)
	}
	return m
}

func (s *script) answer(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
	s.asked = append(s.asked, req)
	answer := fmt.Sprintf("answer %d", len(s.asked))
	if len(s.asked) <= len(s.answers) {
		answer = s.answers[len(s.asked)-1]
	}
	says(strings.SplitAfter(answer, "\n")...)(ctx, req, yield)
}

// prompts are the texts of the messages that s was asked.
func (s *script) prompts() (texts []string) {
	for _, req := range s.asked {
		texts = append(texts, req.Messages[len(req.Messages)-1].Text)
	}
	return texts
}

// play runs what root finds under name, and returns its events.
func (s *script) play(t testing.TB, text, name string, in agents.Input) ([]agents.Event, error) {
	t.Helper()
	file, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	runner := agents.Runner{File: file, Models: s.models()}
	what, found := runner.Find(auth.RootCaller(), name)
	if !found {
		t.Fatalf("there is no %q", name)
	}
	return collect(runner.Run(t.Context(), what, in))
}

func collect(seq func(func(agents.Event, error) bool)) (events []agents.Event, err error) {
	for event, e := range seq {
		if e != nil {
			return events, e
		}
		events = append(events, event)
	}
	return events, nil
}

// Issue 3: files with the structure of three of PraisonAI's samples, and what
// becomes of them: the warnings, the order, every prompt, every event.
func TestPraisonAISamples(t *testing.T) {
	for _, name := range []string{"praison-roles", "praison-steps", "praison-advanced"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".yaml")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, err := agents.Parse("agents.yaml", text, offline)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{}
			runner := agents.Runner{File: file, Models: s.models()}
			what, found := runner.Find(auth.RootCaller(), "")
			if !found || !what.IsWorkflow() {
				t.Fatal("its workflow isn't what answers")
			}

			var got strings.Builder
			for _, w := range file.Warnings {
				fmt.Fprintf(&got, "warning: %s\n", w)
			}
			fmt.Fprintf(&got, "answers as: %s, %s\n", what.Name(), what.Model())
			for event, err := range runner.Run(t.Context(), what, agents.Ask("<the message>")) {
				switch {
				case err != nil:
					t.Fatal(err)
				case event.Step != nil:
					fmt.Fprintf(&got, "\n=== step %q of %s, %s\n", event.Step.Step, event.Step.Agent, event.Step.Model)
				case event.Result != nil:
					fmt.Fprintf(&got, "\n=== done: %s, %+v\n", event.Result.Stop, event.Result.Usage)
				default:
					fmt.Fprintf(&got, "\n=== text %q\n", event.Text)
				}
			}
			for i, req := range s.asked {
				fmt.Fprintf(&got, "\n=== request %d, model %q\n--- system\n%s\n--- user\n%s\n", i+1, req.Model, req.System, req.Messages[0].Text)
				if len(req.Messages) != 1 || req.Messages[0].Role != model.User || req.Tools != nil {
					t.Errorf("request %d: %+v", i+1, req)
				}
			}
			golden(t, filepath.Join("testdata", name+".golden"), got.String())
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s, which -update writes (-file +now):\n%s", path, diff)
	}
}

// However it is written, it is this workflow.
func TestWorkflowShapes(t *testing.T) {
	want := &agents.Workflow{
		Input: "bread",
		Steps: []agents.Step{
			{Name: "bake", Agent: "baker", Instruction: "Bake {topic}.", ExpectedOutput: "A loaf."},
			{Name: "step 2", Agent: "baker", Instruction: "{{input}}"},
			{Name: "eat", Agent: "guest", Instruction: "Eat."},
		},
	}
	const agentsOf = "agents: {baker: {role: r}, guest: {role: r}}\n"
	for name, text := range map[string]string{
		"steps in a list": agentsOf + "input: bread\nsteps:\n- {name: bake, agent: baker, action: Bake {topic}., expected_output: A loaf.}\n- {agent: baker}\n- {name: eat, agent: guest, action: Eat.}",
		"other names":     "roles: {baker: {role: r}, guest: {role: r}}\ntopic: ' bread '\ntasks:\n- {name: bake, agent: baker, description: 'Bake {topic}.', expected_output: A loaf.}\n- {agent: baker, type: task}\n- {name: eat, agent: guest, task: Eat.}",
		"steps by name":   agentsOf + "input: bread\nsteps:\n  bake: {agent: baker, action: 'Bake {topic}.', expected_output: A loaf.}\n  step 2: {agent: baker}\n  eat: {agent: guest, type: agent, action: Eat.}",
		"tasks of roles":  "topic: bread\nroles:\n  baker: {role: r, tasks: {bake: {description: 'Bake {topic}.', expected_output: A loaf.}, step 2: {}}}\n  guest: {role: r, tasks: {eat: {description: Eat.}}}",
		"tasks in lists":  "input: bread\ntopic: bread\nagents:\n- {name: baker, role: r, tasks: [{name: bake, description: 'Bake {topic}.', action: 'Bake {topic}. ', expected_output: A loaf.}, {agent: baker}]}\n- {name: guest, role: r, tasks: [{name: eat, action: Eat.}]}",
	} {
		t.Run(name, func(t *testing.T) {
			text = strings.ReplaceAll(text, "action: Bake {topic}.,", "action: 'Bake {topic}.',")
			f := mustParse(t, text)
			if diff := cmp.Diff(want, f.Workflow); diff != "" {
				t.Error(diff)
			}
			if f.Warnings != nil {
				t.Errorf("warnings %q", f.Warnings)
			}
			if diff := cmp.Diff([]string{"baker", "guest"}, names(f)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Two names of one field may say the same, and nothing else.
func TestAliases(t *testing.T) {
	const rest = "\nsteps: [{agent: a}]\nagents: {a: {role: r}}"
	for _, row := range []struct{ name, same, differ, want string }{
		{"input and topic", "input: x\ntopic: ' x '" + rest, "input: x\ntopic: y" + rest,
			`agents.yaml:2: topic: is another name for input, and the two differ; keep one`},
		{"llm and model", "agents: {a: {role: r, llm: gpt, model: openai/gpt}}", "agents: {a: {role: r, model: gpt, llm: tpg}}",
			`agents.yaml:1: agents.a.model: is another name for llm, and the two differ; keep one`},
		{"llm as a block", "agents: {a: {role: r, llm: {model: gpt}, model: gpt}}", "agents: {a: {role: r, model: gpt, llm: {model: tpg}}}",
			`agents.yaml:1: agents.a.model: is another name for llm, and the two differ; keep one`},
		{"the file's llm and the workflow's", "llm: gpt\nworkflow: {llm: gpt, default_llm: gpt}" + rest, "llm: gpt\nworkflow: {default_llm: tpg}" + rest,
			`agents.yaml:2: workflow.default_llm: is another name for llm, and the two differ; keep one`},
		{"both of the workflow's", "workflow: {llm: gpt, default_llm: gpt}" + rest, "workflow: {llm: gpt, default_llm: tpg}" + rest,
			`agents.yaml:1: workflow.default_llm: is another name for llm, and the two differ; keep one`},
		{"action, description and task", "agents: {a: {role: r}}\nsteps: [{agent: a, action: x, description: x, task: x}]", "agents: {a: {role: r}}\nsteps: [{agent: a, action: x, task: y}]",
			`agents.yaml:2: steps[0].task: is another name for action, and the two differ; keep one`},
		{"description and task", "agents: {a: {role: r, tasks: {t: {description: x, task: x}}}}", "agents: {a: {role: r, tasks: {t: {description: x, task: y}}}}",
			`agents.yaml:1: agents.a.tasks.t.task: is another name for description, and the two differ; keep one`},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := parse(row.same); err != nil {
				t.Errorf("the same: %v", err)
			}
			if _, err := parse(row.differ); err == nil || err.Error() != row.want {
				t.Errorf("different: %v\nwant %s", err, row.want)
			}
		})
	}
}

// An llm block's model, and each of its places, is the model.
func TestModelNames(t *testing.T) {
	for text, want := range map[string]string{
		"agents: {a: {role: r, model: x/y}}":                                         "x/y from agents.yaml:1: agents.a.model",
		"agents: {a: {role: r, llm: {model: y}}}":                                    "openai/y from agents.yaml:1: agents.a.llm",
		"workflow: {default_llm: {model: x/y}}\nagents: {a: {role: r}}":              "x/y from agents.yaml:1: workflow.default_llm",
		"workflow: {llm: x/y}\nagents: {a: {role: r, llm: z/z}}":                     "z/z from agents.yaml:2: agents.a.llm",
		"agents: {a: {role: r, function_calling_llm: x/y, reflect_llm: {model: z}}}": "offline/eliza from ",
	} {
		a := mustParse(t, text).Agents[0]
		if got := a.Model.String() + " from " + a.ModelWhere; got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestWorkflowRefusals(t *testing.T) {
	const agent = "agents: {baker: {role: r}, guest: {role: r}}\n"
	const kind = "PraisonAI has this here, Postern doesn't; write steps of one agent and one action each, which run in turn"
	const nameRule = "is no name; a name has 1 to 64 letters, digits, spaces, or . _ - and begins with a letter or a digit"
	tests := []struct{ name, text, want string }{
		{"a mistyped agent", agent + "steps:\n- agent: bakre", `agents.yaml:3: steps[0].agent: there is no such agent; did you mean "baker"?`},
		{"an agent like no other", agent + "steps:\n- agent: hunter2", `agents.yaml:3: steps[0].agent: there is no such agent; there is baker, guest`},
		{"an agent in another case", agent + "steps:\n- agent: Baker", `agents.yaml:3: steps[0].agent: there is no such agent; did you mean "baker"?`},
		{"a step without an agent", agent + "steps:\n- agent: baker\n- action: x", "agents.yaml:4: steps[1]: has no agent; add `agent:` and the name of one"},
		{"a step by name without an agent", agent + "steps:\n  s: {action: x}", "agents.yaml:3: steps.s: has no agent; add `agent:` and the name of one"},
		{"an agent that is described in the step", agent + "steps: [{agent: {role: r}}]", `agents.yaml:2: steps[0].agent: must be text, not a block of fields`},
		{"a task under an agent for another", "agents:\n  a: {role: r}\n  b:\n    role: r\n    tasks:\n      t:\n        agent: a", `agents.yaml:7: agents.b.tasks.t.agent: a task under an agent is that agent's; delete the line, or move the task`},
		{"a mistyped field", agent + "steps: [{agent: baker, acton: x}]", `agents.yaml:2: steps[0].acton: unknown field; did you mean "action"?`},
		{"a field like no other", agent + "steps: [{agent: baker, colour: x}]", `agents.yaml:2: steps[0].colour: unknown field; known fields are name, agent, type, action, description, task, expected_output`},
		{"a bad name", agent + "steps: [{agent: baker, name: 'a: b'}]", `agents.yaml:2: steps[0].name: ` + nameRule},
		{"a name twice in a list", agent + "steps:\n- {name: x, agent: baker}\n- {agent: baker}\n- {agent: baker}\n- {name: x, agent: guest}", `agents.yaml:6: steps[3]: this name is already in line 3; choose another`},
		{"a name twice as a key", agent + "steps:\n  x: {agent: baker}\n  x: {agent: guest}", `agents.yaml:4: steps.x: is written twice, first in line 3; keep one`},
		{"a name twice in an agent's list", "agents:\n  a:\n    role: r\n    tasks:\n    - {name: x}\n    - {name: x}", `agents.yaml:6: agents.a.tasks[1]: this name is already in line 5; choose another`},
		{"no steps", agent + "steps: []", `agents.yaml:2: steps: has no steps; add one or delete the line`},
		{"no tasks", "agents:\n  a:\n    role: r\n    tasks: {}", `agents.yaml:4: agents.a.tasks: has no steps; add one or delete the line`},
		{"text for steps", agent + "steps: baker", `agents.yaml:2: steps: must be a list of steps, or steps by their names, not text`},
		{"text for a step", agent + "steps: [baker]", `agents.yaml:2: steps[0]: must be a block of fields, not text`},
		{"too many steps", agent + "steps:\n" + strings.Repeat("- agent: baker\n", agents.MaxSteps+1), `agents.yaml:103: steps[100]: is step 101; a workflow may have 100`},

		{"agents and roles", agent + "roles: {x: {role: r}}", `agents.yaml:2: roles: is another name for agents, in line 1; keep one`},
		{"steps and tasks", agent + "steps: [{agent: baker}]\ntasks: [{agent: baker}]", `agents.yaml:3: tasks: is another name for steps, in line 2; keep one`},
		{"steps in two places", "steps: [{agent: a}]\nagents:\n  a:\n    role: r\n    tasks: {t: {task: x}}", `agents.yaml:5: agents.a.tasks: the steps are at the top of the file, in line 1; move these there`},
		{"the workflow's name is an agent's", "name: guest\n" + agent + "steps: [{agent: baker}]", `agents.yaml:1: name: is an agent's name, too; choose another`},
		{"the workflow's name is none", "name: 'Ask: us'\n" + agent, `agents.yaml:1: name: ` + nameRule},

		{"a parallel step", agent + "steps:\n- name: both\n  parallel: [{agent: baker}]", `agents.yaml:4: steps[0].parallel: ` + kind},
		{"a route", agent + "steps: [{route: {x: [baker]}}]", `agents.yaml:2: steps[0].route: ` + kind},
		{"a loop", agent + "steps: [{agent: baker, loop: {over: x}}]", `agents.yaml:2: steps[0].loop: ` + kind},
		{"a repetition", agent + "steps: [{agent: baker, repeat: {until: x}}]", `agents.yaml:2: steps[0].repeat: ` + kind},
		{"a recipe", agent + "steps: [{include: x}]", `agents.yaml:2: steps[0].include: ` + kind},
		{"a condition", agent + "steps: [{if: {condition: x}}]", `agents.yaml:2: steps[0].if: ` + kind},
		{"a condition in a task", "agents: {a: {role: r, tasks: {t: {condition: x}}}}", `agents.yaml:1: agents.a.tasks.t.condition: ` + kind},
		{"a command", agent + "steps: [{run: rm -rf /}]", `agents.yaml:2: steps[0].run: ` + kind},
		{"a judge", agent + "steps: [{judge: {}}]", `agents.yaml:2: steps[0].judge: ` + kind},
		{"a type", agent + "steps: [{type: parallel}]", `agents.yaml:2: steps[0].type: must be task or agent, as Postern has no other of PraisonAI's kinds of step; delete the line, or write task`},
		{"a job", "type: job\n" + agent, `agents.yaml:1: type: PraisonAI has this here, Postern doesn't; write steps of one agent and one action each, which run in turn`},
		{"recipes", "includes: [x]\n" + agent, `agents.yaml:1: includes: PraisonAI has this here, Postern doesn't; write steps of one agent and one action each, which run in turn`},
		{"a special agent", "agents: {a: {role: r, agent: ImageAgent}}", `agents.yaml:1: agents.a.agent: PraisonAI has this here, Postern doesn't; delete the line if text will do, with which every agent here answers`},
		{"steps in the workflow's block", "workflow:\n  steps: []\n" + agent, `agents.yaml:2: workflow.steps: PraisonAI has this here, Postern doesn't; write it at the top of the file`},

		{"a variable with input's name", "variables: {input: x}\n" + agent, `agents.yaml:1: variables.input: this name has a meaning of its own; choose another`},
		{"a variable that is an alias", "variables: {x: *y}\n" + agent, `agents.yaml:1: variables.x: anchors and aliases (& and *) are not supported; write the value itself, in quotes if it begins so`},
		{"too many variables", "variables:\n" + manyVariables() + agent, `agents.yaml:1: variables: has more than 100 variables`},
		{"variables that are text", "variables: x\n" + agent, `agents.yaml:1: variables: must be variables by their names, not text`},

		{"an anchor in what nothing acts on", "framework:\n  a:\n  - &x b\n" + agent, `agents.yaml:3: framework: anchors and aliases (& and *) are not supported; write the value itself, in quotes if it begins so`},
		{"an alias in what nothing acts on", "framework: *x\n" + agent, `agents.yaml:1: framework: anchors and aliases (& and *) are not supported; write the value itself, in quotes if it begins so`},
		{"a tag in what nothing acts on", "framework: {a: !!str b}\n" + agent, `agents.yaml:1: framework: tags (!) are not supported; delete it, or put quotes around a text that begins so`},
		{"a merge key in what nothing acts on", "framework:\n  <<: {a: b}\n" + agent, `agents.yaml:2: framework: merge keys (<<) are not supported; write the fields themselves`},
		{"a secret in what nothing acts on", "models:\n  x:\n    api_key: hunter2\n" + agent, `agents.yaml:3: models: has an api_key, and secrets don't belong in this file; delete it`},
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

// Nothing is passed over in silence: what PraisonAI knows and we don't act on is
// named, in one line, in the file's order.
func TestWarnings(t *testing.T) {
	const agent = "\nagents: {a: {role: r}}"
	tests := []struct{ name, text, want string }{
		{"a plain file has none", agent, ""},
		{"fields in every place", `framework: crewai
agents:
  a:
    name: Aunt
    role: r
    allow_delegation: false
    max_iter:
    llm: {model: x, temperature: 0.5}
workflow: {planning: true}
steps:
- agent: a
  context: [x]
  output_json: {type: object, properties: {url: {type: string}}}
deploy: {api: {reload: true}}
process: sequential`,
			"agents.yaml: not acted on: framework (line 1), agents.a.name (line 4), agents.a.allow_delegation (line 6), agents.a.max_iter (line 7), agents.a.llm.temperature (line 8), workflow.planning (line 9), steps[0].context (line 12), steps[0].output_json (line 13), deploy.api.reload (line 14), process (line 15)"},
		{"tasks under agents, in lists", "roles:\n- {name: a, role: r, tools: [x], tasks: [{images: [y]}]}",
			"agents.yaml: not acted on: roles[0].tools (line 2), roles[0].tasks[0].images (line 2)"},
		{"what only a workflow acts on", "name: n\ninput: i\nframework: f\ntopic: i\nvariables: {x: y}" + agent,
			"agents.yaml: not acted on: name (line 1), input (line 2), framework (line 3), topic (line 4), variables (line 5)"},
		{"and a workflow does", "name: n\ninput: i\ntopic: i\nvariables: {x: y}\nsteps: [{agent: a}]" + agent, ""},
		{"variables that are no text", "variables: {x: [1], y: {a: b}, z: }\nsteps: [{agent: a}]" + agent,
			"agents.yaml: not acted on: variables.x (line 1), variables.y (line 1), variables.z (line 1)"},
		{"placeholders that nothing replaces", "variables: {x: y}\nsteps:\n- {agent: a, action: '{{x}} {{input}} {{topic}} {{previous_output}} {y} }} {{', expected_output: '}}'}\n- {agent: a, action: '{{today}}'}\n- {agent: a, expected_output: '{{ x }}'}" + agent,
			"agents.yaml: not acted on: a {{…}} in steps[1] (line 4), a {{…}} in steps[2] (line 5)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want []string
			if tt.want != "" {
				want = []string{tt.want}
			}
			if diff := cmp.Diff(want, mustParse(t, tt.text).Warnings); diff != "" {
				t.Error(diff)
			}
		})
	}
	file := "agents:\n"
	for i := range 41 {
		file += fmt.Sprintf("- {name: a%d, role: r, cache: x}\n", i)
	}
	if many := mustParse(t, file).Warnings; len(many) != 1 || strings.Count(many[0], "(line ") != 30 || !strings.HasSuffix(many[0], ", and 11 more") {
		t.Errorf("of many: %q", many)
	}
}

// Every value of a field that nothing acts on is accepted, and none is shown.
func TestForeignValues(t *testing.T) {
	for _, value := range []string{"", "x", "7", "-.5", "true", "~", "[]", "{}", "[a, {b: [c]}]", "{a b: {'c/d': [1]}}", "|\n  x\n  y", ".inf", ".nan", "'@'", "{? x}"} {
		for _, text := range []string{
			"hooks: " + value + "\nagents: {a: {role: r}}\n",
			"agents:\n  a:\n    role: r\n    memory: " + strings.ReplaceAll(value, "\n", "\n    ") + "\n",
		} {
			f, err := parse(text)
			if err != nil {
				t.Errorf("%s: %v", text, err)
			} else if len(f.Warnings) != 1 || strings.Contains(f.Warnings[0], "'@'") {
				t.Errorf("%s: %q", text, f.Warnings)
			}
		}
	}
}

// What stands for what, in all texts of a step, and nothing twice.
func TestPlaceholders(t *testing.T) {
	for _, row := range []struct {
		name, before string // of agents and steps
		action       string
		want         string
	}{
		{"all names of the input", "", "{{input}} {{topic}} {input} {topic}", "MSG MSG MSG MSG"},
		{"none is left for an unknown name", "", "{{x}} {x} {{ input }} {} {{}} {\"topic\": {\"a\": 1}} {{{topic}}}", "{{x}} {x} {{ input }} {} {{}} {\"topic\": {\"a\": 1}} {MSG}"},
		{"the file's input and topic give way", "input: FILE\ntopic: FILE\n", "{{input}} {topic}", "MSG MSG"},
		{"variables", "variables: {x: X, n: 0x10, t: yes, b: true, f: 1.50}\n", "{{x}} {{n}} {{t}} {{b}} {{f}} {x} {topic}", "X 0x10 yes true 1.50 {x} MSG"},
		{"a variable named topic stands for {{topic}} alone", "variables: {topic: VAR}\n", "{{topic}} {topic} {{input}}", "VAR MSG MSG"},
		{"which then isn't the input", "variables: {topic: VAR}\n", "About {{topic}}", "About VAR\n\nInput:\nMSG"},
		{"variables are not searched again", "variables: {x: '{{y}} {topic}', y: Y}\n", "{{x}} {topic}", "{{y}} {topic} MSG"},
		{"a first step has no result before it", "", "{topic}: {{previous_output}}.", "MSG: ."},
		{"without an action the input is all", "", "", "MSG"},
		{"no message is ignored (I17)", "", "Do it.", "Do it.\n\nInput:\nMSG"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := &script{}
			text := row.before + "agents: {a: {role: r}}\nsteps:\n- agent: a\n"
			if row.action != "" {
				text += "  action: '" + row.action + "'\n"
			}
			if _, err := s.play(t, text, "", agents.Ask("MSG")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{row.want}, s.prompts()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// No caller and no model can write a placeholder.
func TestPlaceholdersOfOthersStay(t *testing.T) {
	const message = "{topic} {{input}} {{previous_output}} {{x}}"
	s := &script{answers: []string{message, "end"}}
	const text = "variables: {x: X}\nagents: {a: {role: 'r {topic}'}}\nsteps:\n- {agent: a, action: '{{input}}|{{x}}'}\n- {agent: a, action: '{{previous_output}}|{{x}}|{topic}', expected_output: '{{x}} {topic}'}"
	if _, err := s.play(t, text, "", agents.Ask(message)); err != nil {
		t.Fatal(err)
	}
	want := []string{message + "|X", message + "|X|" + message + "\n\nExpected output: X " + message}
	if diff := cmp.Diff(want, s.prompts()); diff != "" {
		t.Error(diff)
	}
	if s.asked[0].System != "Your role: r "+message {
		t.Errorf("system prompt %q", s.asked[0].System)
	}
}

// Each step has the results of all before it, or the last where it says so.
func TestResultsBefore(t *testing.T) {
	s := &script{}
	const text = "agents: {a: {role: r}, b: {role: r}}\nsteps:\n- {name: one, agent: a}\n- {agent: b, action: Second}\n- {name: three, agent: a, action: Third, expected_output: E}\n- {agent: a, action: 'Last {{previous_output}}'}\n- {agent: a, action: End, expected_output: 'as {{previous_output}}'}"
	if _, err := s.play(t, text, "", agents.Ask("MSG")); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"MSG",
		"Second\n\nResult of one (a):\nanswer 1",
		"Third\n\nExpected output: E\n\nResult of one (a):\nanswer 1\n\nResult of step 2 (b):\nanswer 2",
		"Last answer 3",
		"End\n\nExpected output: as answer 4",
	}
	if diff := cmp.Diff(want, s.prompts()); diff != "" {
		t.Error(diff)
	}
}

// P15: however long the message and the results, a prompt stays within its
// bound: the oldest results go first, and a text that can't shrink is refused.
func TestPromptsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 256<<10)
	t.Run("the oldest results are left out", func(t *testing.T) {
		s := &script{}
		var steps strings.Builder
		for i := range 12 {
			fmt.Fprintf(&steps, "- {name: s%d, agent: a, action: Go}\n", i)
			s.answers = append(s.answers, fmt.Sprint(i)+strings.Repeat("é", 40<<10)) // beyond maxResult
		}
		if _, err := s.play(t, "agents: {a: {role: r}}\nsteps:\n"+steps.String(), "", agents.Ask(long)); err != nil {
			t.Fatal(err)
		}
		last := s.prompts()[11]
		const head = "Go\n\nEarlier results are left out.\n\nResult of s4 (a):\n4éé"
		if !strings.HasPrefix(last, head) || !strings.HasSuffix(last, "é\n[The rest is left out.]") {
			t.Errorf("it begins %q and ends %q", last[:min(len(last), 80)], last[len(last)-30:])
		}
		for _, req := range s.asked {
			if n := len(req.System) + len(req.Messages[0].Text); n > agents.MaxPrompt {
				t.Errorf("a prompt of %d bytes", n)
			}
		}
	})
	t.Run("a result is cut between characters", func(t *testing.T) {
		for shift := range 4 {
			s := &script{answers: []string{strings.Repeat("x", shift) + strings.Repeat("\U0001F600", agents.MaxResult/4)}}
			want := s.answers[0]
			if shift > 0 {
				want = want[:len(want)-4] + "\n[The rest is left out.]"
				s.answers[0] += "\nz" // a piece that would fit behind the gap
			}
			if _, err := s.play(t, "agents: {a: {role: r}}\nsteps: [{agent: a}, {agent: a, action: '{{previous_output}}'}]", "", agents.Ask("m")); err != nil {
				t.Fatal(err)
			}
			if got := s.prompts()[1]; got != want {
				t.Errorf("shift %d: %d bytes that end in %q", shift, len(got), got[len(got)-30:])
			}
		}
	})
	for name, row := range map[string]struct {
		text string
		asks int
	}{
		"an instruction repeats the message":     {"agents: {a: {role: r}}\nsteps: [{agent: a, action: '" + strings.Repeat("{topic}", 50) + "'}]", 0},
		"a prompt repeats the message":           {"agents: {a: {role: '{topic}{topic}'}}\nsteps: [{agent: a}]", 0},
		"a later step does":                      {"agents: {a: {role: r}}\nsteps: [{agent: a}, {agent: a, action: '{topic}{topic}'}]", 1},
		"an expected output repeats the message": {"agents: {a: {role: r}}\nsteps: [{agent: a, expected_output: '{topic}{topic}'}]", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			_, err := s.play(t, row.text, "", agents.Ask(long))
			if !errors.Is(err, agents.ErrPromptTooLarge) || len(s.asked) != row.asks || strings.Contains(err.Error(), "xx") {
				t.Errorf("%d asked, %.100v", len(s.asked), err)
			}
		})
	}
	t.Run("the largest message fits", func(t *testing.T) {
		s := &script{}
		if _, err := s.play(t, "agents: {a: {role: r}}\nsteps: [{agent: a}, {agent: a, action: 'Again: {topic}'}]", "", agents.Ask(long)); err != nil {
			t.Error(err)
		}
	})
}

// The usage is that of all steps, the text that of the last, and the bounds are
// the last step's.
func TestRunOfAWorkflow(t *testing.T) {
	const text = "name: W\ninput: FILE\nagents: {a: {role: r, llm: test/one}, b: {role: s, llm: test/two}}\nsteps: [{name: x, agent: a}, {agent: b}]"
	cool := 0.5
	conversation := agents.Input{
		Messages:  []model.Message{{Role: model.User, Text: "old"}, {Role: model.Assistant, Text: "older"}, {Role: model.User, Text: "new"}},
		MaxTokens: 9, Temperature: &cool, StopAt: []string{"."},
	}
	s := &script{}
	got, err := s.play(t, text, "W", conversation)
	if err != nil {
		t.Fatal(err)
	}
	want := []agents.Event{
		{Step: &agents.Began{Step: "x", Agent: "a", Model: "test/one"}},
		{Step: &agents.Began{Step: "step 2", Agent: "b", Model: "test/two"}},
		{Text: "answer 2"},
		{Result: &agents.Result{Stop: model.EndTurn, Usage: model.Usage{InputTokens: 14, OutputTokens: 4}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	told := []model.Request{
		{Model: "one", System: "Your role: r", Messages: []model.Message{{Role: model.User, Text: "new"}}},
		{Model: "two", System: "Your role: s", Messages: []model.Message{{Role: model.User, Text: "new\n\nResult of x (a):\nanswer 1"}}, MaxTokens: 9, Temperature: &cool, StopAt: []string{"."}},
	}
	if diff := cmp.Diff(told, s.asked); diff != "" {
		t.Error(diff)
	}

	// The same conversation with an agent is told as a whole.
	s = &script{}
	got, err = s.play(t, text, "a", conversation)
	if err != nil || len(got) != 2 || got[0].Text != "answer 1" || got[1].Result == nil {
		t.Errorf("%+v, %v", got, err)
	}
	told = []model.Request{{Model: "one", System: "Your role: r", Messages: conversation.Messages, MaxTokens: 9, Temperature: &cool, StopAt: []string{"."}}}
	if diff := cmp.Diff(told, s.asked); diff != "" {
		t.Error(diff)
	}

	// The file's input is for who brings nothing.
	for _, in := range []agents.Input{{}, agents.Ask(""), agents.Ask(" \n")} {
		s = &script{}
		if _, err := s.play(t, text, "", in); err != nil || s.prompts()[0] != "FILE" {
			t.Errorf("%q, %v", s.prompts(), err)
		}
	}
}

// An agent's braces mean nothing outside a workflow.
func TestSingleAgentsPromptIsAsWritten(t *testing.T) {
	s := &script{}
	if _, err := s.play(t, "variables: {x: X}\nagents: {a: {instructions: 'Write {{x}} and {topic}.'}}", "", agents.Ask("{topic}")); err != nil {
		t.Fatal(err)
	}
	if s.asked[0].System != "Write {{x}} and {topic}." || s.prompts()[0] != "{topic}" {
		t.Errorf("%+v", s.asked)
	}
}

// P13: who may not use all agents of a workflow neither gets it nor sees it.
func TestFind(t *testing.T) {
	const named = "name: W\nagents: {a: {role: r}, b: {role: r, llm: test/two}, c: {role: r}}\nsteps: [{agent: b}, {agent: a}, {agent: b}]"
	nameless := strings.TrimPrefix(named, "name: W\n")
	plain := "agents: {a: {role: r}, b: {role: r}}"
	for _, row := range []struct {
		name, text string
		caller     auth.Caller
		asked      string
		want       string // "": none
	}{
		{"the workflow by default", named, auth.RootCaller(), "", "workflow W test/two"},
		{"the workflow by its name", named, auth.RootCaller(), "W", "workflow W test/two"},
		{"an agent by its name", named, auth.RootCaller(), "c", "agent c offline/eliza"},
		{"not by another case", named, auth.RootCaller(), "w", ""},
		{"the workflow for who may use its agents and no others", named, only("b", "a"), "", "workflow W test/two"},
		{"by name, too", named, only("b", "a"), "W", "workflow W test/two"},
		{"the first agent for who may use one of them", named, only("c", "a"), "", "agent a offline/eliza"},
		{"for who may use another", named, only("c"), "", "agent c offline/eliza"},
		{"not the workflow by name", named, only("c", "a"), "W", ""},
		{"nor for who may use the first step's agent alone", named, only("c", "b"), "W", ""},
		{"whose first agent is the default", named, only("c", "b"), "", "agent b test/two"},
		{"not even if the list names it", named, only("W", "a"), "W", ""},
		{"nothing for who may use nothing", named, only([]string{}...), "", ""},
		{"nothing for nobody", named, auth.Caller{}, "", ""},
		{"a workflow without a name answers by default", nameless, auth.RootCaller(), "", "workflow b test/two"},
		{"and in no other way", nameless, auth.RootCaller(), "b", "agent b test/two"},
		{"without a workflow the first agent", plain, auth.RootCaller(), "", "agent a offline/eliza"},
	} {
		t.Run(row.name, func(t *testing.T) {
			what, found := agents.Runner{File: mustParse(t, row.text)}.Find(row.caller, row.asked)
			got := ""
			if found {
				got = fmt.Sprintf("agent %s %s", what.Name(), what.Model())
				if what.IsWorkflow() {
					got = strings.Replace(got, "agent", "workflow", 1)
				}
			}
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// One model's failure is the run's, wherever it comes; what was told before
// stays told, and no further step begins.
func TestWorkflowFails(t *testing.T) {
	const text = "agents: {a: {role: r, llm: good/x}, b: {role: r, llm: bad/x}}\nsteps: [{agent: FIRST}, {agent: SECOND}, {agent: a}]"
	for _, row := range []struct {
		name, first, second string
		bad                 part
		want                []string // kinds of events
		err                 error
	}{
		{"before the first step", "b", "a", failsAfter(model.ErrUnavailable), nil, model.ErrUnavailable},
		{"inside the first step", "b", "a", failsAfter(model.ErrFailed, "half"), []string{"step b"}, model.ErrFailed},
		{"before the second", "a", "b", failsAfter(model.ErrTimeout), []string{"step a", "step b"}, model.ErrTimeout},
		{"by breaking off", "a", "b", breaksOff("half"), []string{"step a", "step b"}, model.ErrFailed},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := mustParse(t, strings.NewReplacer("FIRST", row.first, "SECOND", row.second).Replace(text))
			calls := 0
			good := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
				calls++
				says("good")(ctx, req, yield)
			})
			runner := agents.Runner{File: file, Models: agents.Models{"good": good, "bad": row.bad}}
			what, _ := runner.Find(auth.RootCaller(), "")
			events, err := collect(runner.Run(t.Context(), what, agents.Ask("m")))
			if !errors.Is(err, row.err) {
				t.Errorf("error %v", err)
			}
			var kinds []string
			for _, e := range events {
				kinds = append(kinds, "step "+e.Step.Agent)
			}
			if diff := cmp.Diff(row.want, kinds); diff != "" {
				t.Error(diff)
			}
			if want := strings.Count(strings.Join(row.want, " "), "step a"); calls != want {
				t.Errorf("the good model was called %d times, want %d", calls, want)
			}
		})
	}
}

// A run ends between steps and inside them: by its context, and by a consumer
// who wants no more.
func TestWorkflowIsCancelled(t *testing.T) {
	const text = "agents: {a: {role: r, llm: test/x}}\nsteps: [{agent: a}, {agent: a}, {agent: a}]"
	t.Run("between steps", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
			if calls++; calls == 2 {
				cancel() // and the model doesn't notice
			}
			says("x")(ctx, req, yield)
		})
		runner := agents.Runner{File: mustParse(t, text), Models: agents.Models{"test": m}}
		what, _ := runner.Find(auth.RootCaller(), "")
		_, err := collect(runner.Run(ctx, what, agents.Ask("m")))
		if !errors.Is(err, context.Canceled) || calls != 2 {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
	t.Run("inside a step", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
			cancel()
			hangsAfter("x")(ctx, req, yield)
		})
		runner := agents.Runner{File: mustParse(t, text), Models: agents.Models{"test": m}}
		what, _ := runner.Find(auth.RootCaller(), "")
		if _, err := collect(runner.Run(ctx, what, agents.Ask("m"))); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for leaveAt := range 5 {
		t.Run(fmt.Sprintf("by leaving at event %d", leaveAt), func(t *testing.T) {
			s := &script{}
			file := mustParse(t, text)
			runner := agents.Runner{File: file, Models: s.models()}
			what, _ := runner.Find(auth.RootCaller(), "")
			n := 0
			for range runner.Run(t.Context(), what, agents.Ask("m")) { // panics if it goes on after the break
				if n++; n > leaveAt {
					break
				}
			}
			if want := []int{1, 1, 2, 3, 3}[leaveAt]; len(s.asked) != want {
				t.Errorf("%d models were asked, want %d", len(s.asked), want)
			}
		})
	}
}

// What models claim to have used is summed up, and no sum is less than its parts.
func TestWorkflowsUsageIsTheSum(t *testing.T) {
	t.Parallel()
	const most = 1 << 31
	for _, row := range []struct {
		name         string
		first, again int
		want         int
	}{
		{"two claims", 3, 4, 7},
		{"two that would overflow", math.MaxInt, math.MaxInt, 2 * most},
		{"one below nothing", -5, 4, 4},
	} {
		claims := func(n int) part {
			return saysThen(model.Event{Stop: model.EndTurn, Usage: model.Usage{InputTokens: n, OutputTokens: n}}, nil, "x")
		}
		file := mustParse(t, "agents: {a: {role: r, llm: test/x}}\nsteps: [{agent: a}, {agent: a}]")
		runner := agents.Runner{File: file, Models: agents.Models{"test": inTurn(claims(row.first), claims(row.again))}}
		what, _ := runner.Find(auth.RootCaller(), "")
		events, err := collect(runner.Run(t.Context(), what, agents.Ask("m")))
		if err != nil {
			t.Fatal(err)
		}
		if got := events[len(events)-1].Result.Usage; got.InputTokens != row.want || got.OutputTokens != row.want {
			t.Errorf("%s: %+v, want %d each", row.name, got, row.want)
		}
	}
}

// A model that wants a tool has none.
func TestToolCallsAreNoText(t *testing.T) {
	m := part(func(_ context.Context, _ model.Request, yield func(model.Event, error) bool) {
		_ = yield(model.Event{ToolCall: &model.ToolCall{ID: "1"}}, nil) && yield(model.Event{Text: "x"}, nil) && yield(stop, nil)
	})
	runner := agents.Runner{File: mustParse(t, "agents: {a: {role: r, llm: test/x}}"), Models: agents.Models{"test": m}}
	what, _ := runner.Find(auth.RootCaller(), "a")
	events, err := collect(runner.Run(t.Context(), what, agents.Ask("m")))
	if err != nil || len(events) != 2 || events[0].Text != "x" {
		t.Errorf("%+v, %v", events, err)
	}
	if slices.ContainsFunc(events, func(e agents.Event) bool { return e.Step != nil }) {
		t.Error("an agent alone has no steps")
	}
}

// mill is a site's file with a workflow; its agents share the provider test.
const mill = `name: Mill
llm: test/one
agents:
  grinder: {description: Grinds., instructions: "Grind. ` + canary + `"}
  baker: {description: Bakes., instructions: "Bake. ` + canary + `", llm: test/two}
  guest: {description: Eats., instructions: "Eat. ` + canary + `"}
steps:
- {name: grind, agent: grinder, action: "Grind {topic}"}
- {agent: baker, action: "Bake"}
`

// inTurn is a model of several parts, each for one call.
func inTurn(parts ...part) part {
	calls := 0
	return func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
		calls++
		parts[calls-1](ctx, req, yield)
	}
}

// Contract §4: the workflow answers who may use all its agents and names none;
// the wire, byte by byte.
func TestChatWithAWorkflow(t *testing.T) {
	const reply = `{"response":"A loaf.","status":"success","agent":"Mill","model":"test/two","usage":{"input_tokens":14,"output_tokens":4},"request_id":"ID"}`
	answers := func() part { return inTurn(says("Flo", "ur."), says("A ", "loaf.")) }
	for _, body := range []string{`{"message":"rye"}`, `{"message":"rye","agent":"Mill"}`} {
		if got := newSiteOf(t, mill, answers(), auth.RootCaller(), time.Minute).chat(body); got.Status != 200 || got.Body != reply+"\n" {
			t.Errorf("%s: %d %s", body, got.Status, got.Body)
		}
		want := "event: step\ndata: {\"step\":\"grind\",\"agent\":\"grinder\",\"model\":\"test/one\"}\n\n" +
			"event: step\ndata: {\"step\":\"step 2\",\"agent\":\"baker\",\"model\":\"test/two\"}\n\n" +
			"event: delta\ndata: {\"delta\":\"A \"}\n\n" +
			"event: delta\ndata: {\"delta\":\"loaf.\"}\n\n" +
			"event: done\ndata: " + reply + "\n\n"
		if got := newSiteOf(t, mill, answers(), auth.RootCaller(), time.Minute).chat(body, "Accept: text/event-stream"); got.Status != 200 || got.Body != want {
			t.Errorf("%s: %d\n%s\nwant\n%s", body, got.Status, got.Body, want)
		}
	}
}

// P13: who may not use every agent of the workflow gets its first agent, and
// can't tell the workflow's name from one that doesn't exist.
func TestChatWithoutTheWorkflow(t *testing.T) {
	s := newSiteOf(t, mill, says("x"), only("guest", "baker"), time.Minute)
	for _, accept := range []string{"application/json", "text/event-stream"} {
		got := s.chat(`{"message":"m"}`, "Accept: "+accept)
		if got.Status != 200 || !strings.Contains(got.Body, `"agent":"baker"`) || strings.Contains(got.Body, "step") {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		foreign, unknown := s.chat(`{"message":"m","agent":"Mill"}`, "Accept: "+accept), s.chat(`{"message":"m","agent":"Milk"}`, "Accept: "+accept)
		if foreign.Status != 404 || foreign.everything() != unknown.everything() {
			t.Errorf("%d %s\n%s", foreign.Status, foreign.everything(), unknown.everything())
		}
	}
}

// The workflow is no agent: no list shows it, not even to root, and no answer
// has a prompt.
func TestWorkflowIsNotListed(t *testing.T) {
	s := newSiteOf(t, mill, says("x"), auth.RootCaller(), time.Minute)
	list, one := s.get("/agents"), s.get("/agents/Mill")
	if list.Status != 200 || strings.Contains(list.Body, "Mill") || strings.Count(list.Body, `"name"`) != 3 || one.Status != 404 {
		t.Errorf("%s\n%d %s", list.Body, one.Status, one.Body)
	}
	for _, got := range []reply{list, one, s.chat(asking("m")), s.stream("m")} {
		if strings.Contains(got.everything(), canary) || strings.Contains(s.log.String(), canary) {
			t.Errorf("a prompt in %s", got.everything())
		}
	}
}

// Contract §3: what fails before the first step has begun has its own status,
// what fails later is the stream's last event.
func TestWorkflowFailsOnTheWire(t *testing.T) {
	for _, row := range modelFailures {
		t.Run(row.name, func(t *testing.T) {
			s := newSiteOf(t, mill, failsAfter(row.err), auth.RootCaller(), time.Minute)
			got := s.stream("m")
			if p := got.problem(t); got.Status != row.status || p.Error != row.title {
				t.Errorf("at once: %d %s", got.Status, got.Body)
			}
			checkFailureIsPrivate(t, s, got, row.status)

			s = newSiteOf(t, mill, inTurn(says("x"), failsAfter(row.err)), auth.RootCaller(), time.Minute)
			got = s.stream("m")
			events := frames(t, got.Body)
			if got.Status != 200 || len(events) != 3 || events[0].Event != "step" || events[1].Event != "step" || events[2].Event != "error" || readProblem(t, events[2].Data).Status != row.status {
				t.Errorf("in the second step: %d %s", got.Status, got.Body)
			}
			checkFailureIsPrivate(t, s, got, row.status)

			s = newSiteOf(t, mill, inTurn(says("x"), failsAfter(row.err, "half")), auth.RootCaller(), time.Minute)
			if got = s.chat(asking("m")); got.Status != row.status || strings.Contains(got.Body, "half") {
				t.Errorf("as JSON: %d %s", got.Status, got.Body)
			}
		})
	}
	t.Run("a message that is too long for its step", func(t *testing.T) {
		text := strings.Replace(mill, "Grind {topic}", "{topic} {topic} {topic}", 1)
		s := newSiteOf(t, text, says("x"), auth.RootCaller(), time.Minute)
		got := s.stream(strings.Repeat("x", 200<<10))
		if p := got.problem(t); got.Status != 413 || p.Error != "Request too large" || !strings.Contains(p.Detail, "workflow") {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	})
}

// The time of a chat is that of all its steps together.
func TestWorkflowIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := part(func(ctx context.Context, req model.Request, yield func(model.Event, error) bool) {
			time.Sleep(40 * time.Second)
			says("x")(ctx, req, yield)
		})
		start := time.Now()
		got := newSiteOf(t, mill, inTurn(slow, hangsAfter("half")), auth.RootCaller(), time.Minute).stream("m")
		events := frames(t, got.Body)
		if took := time.Since(start); took != time.Minute {
			t.Errorf("it took %v", took)
		}
		if last := events[len(events)-1]; last.Event != "error" || readProblem(t, last.Data).Status != 504 {
			t.Errorf("%s", got.Body)
		}
	})
}
