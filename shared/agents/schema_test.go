package agents_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"postern/shared/agents"
	"postern/shared/model"
	"postern/shared/secret"
)

var update = flag.Bool("update", false, "write agents.schema.json")

const (
	samplePath = "../../agents.yaml"
	schemaPath = "../../agents.schema.json"
)

// schema generates agents.schema.json from the types that the reader fills.
// What types can't say is added here: patterns, what must be there, and what is
// a mapping or a list.
func schema(t *testing.T) *jsonschema.Schema {
	one, maxVariables := 1, agents.MaxVariables
	ref := func(name string) *jsonschema.Schema { return &jsonschema.Schema{Ref: "#/$defs/" + name} }
	required := func(names ...string) (any []*jsonschema.Schema) {
		for _, name := range names {
			any = append(any, &jsonschema.Schema{Required: []string{name}})
		}
		return any
	}
	const name = `^[\p{L}\p{Nd}]([\p{L}\p{M}\p{Nd} ._-]{0,62}[\p{L}\p{M}\p{Nd}._-])?$`
	keyedOrListed := func(keyed, listed *jsonschema.Schema) []*jsonschema.Schema {
		return []*jsonschema.Schema{
			{Type: "object", PropertyNames: &jsonschema.Schema{Type: "string", Pattern: name}, MinProperties: &one, AdditionalProperties: keyed},
			{Type: "array", MinItems: &one, Items: listed},
		}
	}
	text := &jsonschema.Schema{Type: "string", Pattern: `\S`}
	modelName := &jsonschema.Schema{Type: "string", Pattern: `^[^/ \t\r\n]+(/[^ \t\r\n]+)?$`}
	options := &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[agents.Value[string]]():        text,
		reflect.TypeFor[agents.Value[secret.String]](): text,
		reflect.TypeFor[agents.Value[model.Name]]():    {AnyOf: []*jsonschema.Schema{modelName, ref("model")}},
		reflect.TypeFor[agents.Value[int]]():           {Type: "integer"},
		reflect.TypeFor[agents.Value[bool]]():          {Type: "boolean"},
		agents.PlacedTextType:                          text,
		agents.VariablesType: {
			Type:                 "object",
			PropertyNames:        &jsonschema.Schema{Type: "string", Pattern: name, Not: &jsonschema.Schema{Enum: []any{"input", "previous_output"}}},
			AdditionalProperties: &jsonschema.Schema{},
			MaxProperties:        &maxVariables,
		},
		agents.AgentListType: {AnyOf: keyedOrListed(ref("agent"), ref("listedAgent"))},
		agents.StepListType:  {AnyOf: keyedOrListed(ref("step"), ref("listedStep"))},
	}}
	generate := func(of reflect.Type) *jsonschema.Schema {
		s, err := jsonschema.ForType(of, options)
		if err != nil {
			t.Fatal(err)
		}
		addForeign(s, of)
		return s
	}

	agent, listed := generate(agents.KeyedAgentType), generate(agents.ListedAgentType)
	agent.AnyOf = required("instructions", "backstory", "role", "goal")
	listed.AnyOf = agent.AnyOf
	listed.Properties["name"].Pattern = name
	step, listedStep, llm := generate(agents.StepFieldsType), generate(agents.ListedStepType), generate(agents.ModelBlockType)
	step.Properties["type"].Enum, listedStep.Properties["type"].Enum = []any{"task", "agent"}, []any{"task", "agent"}
	listedStep.Properties["name"].Pattern = name
	llm.Properties["model"].Pattern = modelName.Pattern

	root := generate(agents.DocumentType)
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "agents.yaml of Postern"
	root.OneOf = required("agents", "roles")
	root.Not = &jsonschema.Schema{Required: []string{"steps", "tasks"}}
	root.Properties["name"].Pattern = name
	for _, steps := range []string{"steps", "tasks"} { // under an agent they are that agent's
		root.Properties[steps].AnyOf = keyedOrListed(
			&jsonschema.Schema{Ref: "#/$defs/step", Required: []string{"agent"}},
			&jsonschema.Schema{Ref: "#/$defs/listedStep", Required: []string{"agent"}})
	}
	root.Properties["agents"].Description = "The agents, by name or as a list. The first answers when a request names none and there is no workflow."
	root.Properties["roles"].Description = "Another name for agents; write only one of them."
	workflow, deploy := generate(agents.WorkflowType), generate(agents.DeployType)
	root.Properties["workflow"].Properties = workflow.Properties
	root.Properties["workflow"].PropertyOrder = workflow.PropertyOrder
	api := root.Properties["deploy"].Properties["api"]
	api.Properties, api.PropertyOrder = deploy.Properties, deploy.PropertyOrder
	root.Properties["deploy"].Properties["type"].Enum = []any{"api", "docker", "cloud"}
	block, _ := agents.DocumentType.FieldByName("Deploy")
	addForeign(root.Properties["deploy"], block.Type)
	root.Defs = map[string]*jsonschema.Schema{"agent": agent, "listedAgent": listed, "step": step, "listedStep": listedStep, "model": llm,
		"foreign": {Description: "Of PraisonAI: accepted, and not acted on."}}
	return root
}

// addForeign adds what of knows and doesn't act on: any value.
func addForeign(s *jsonschema.Schema, of reflect.Type) {
	for _, f := range reflect.VisibleFields(of) {
		if f.Type != agents.ForeignType {
			continue
		}
		for _, name := range strings.Fields(f.Tag.Get("names")) {
			s.Properties[name] = &jsonschema.Schema{Ref: "#/$defs/foreign"}
			s.PropertyOrder = append(s.PropertyOrder, name)
		}
	}
}

func TestSchemaFileIsWhatTheTypesSay(t *testing.T) {
	got, err := json.MarshalIndent(schema(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(schemaPath, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run go test ./shared/agents -update (-file +types):\n%s", diff)
	}
}

func TestSchemaAndParserAgree(t *testing.T) {
	sample, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	// Not in the table, because a schema can't say it: a name twice in a list,
	// two names of a field that differ, anchors, tags, an api_key in a field that
	// nothing acts on, a step of an agent that there isn't, steps in two places,
	// a workflow with an agent's name.
	tests := []struct {
		name, text string
		valid      bool
	}{
		{"the sample is valid", string(sample), true},
		{"a mapping of agents is valid", "agents: {a: {role: r}}", true},
		{"a list of agents is valid", "agents: [{name: a, goal: g}]", true},
		{"a backstory alone is valid", "agents: {a: {backstory: b}}", true},
		{"a name in another script is valid", "agents: {सहायक: {role: r}}", true},
		{"a bare model is valid", "llm: gpt-4o-mini\nagents: {a: {role: r}}", true},
		{"a model with two slashes is valid", "llm: openai/meta-llama/L3\nagents: {a: {role: r, llm: bedrock/x}}", true},
		{"a whole deploy block is valid", allDeploy + "\nagents: {a: {role: r}}", true},
		{"an empty deploy block is valid", "deploy: {api: {}}\nagents: {a: {role: r}}", true},

		{"a name beside an agent's key is valid", "agents: {a: {name: Aunt, role: r}}", true},
		{"a model in a block is valid", "llm: {model: gpt-4o, temperature: 0.3}\nagents: {a: {role: r, llm: {model: a/b}}}", true},
		{"another name of llm is valid", "agents: {a: {role: r, model: a/b}}", true},
		{"roles with tasks are valid", "topic: t\nroles: {a: {role: r, tasks: {t: {description: d, expected_output: e}}}}", true},
		{"a list of roles with a list of tasks is valid", "roles: [{name: a, role: r, tasks: [{description: d}, {name: t, agent: a, task: d}]}]", true},
		{"agents with steps are valid", "name: W\ninput: i\nvariables: {x: 1, y: true, z: [1]}\nagents: {a: {role: r}}\nsteps: [{agent: a, action: x}, {name: s, agent: a, type: task}]", true},
		{"steps by name are valid", "agents: {a: {role: r}}\nsteps: {s: {agent: a}}", true},
		{"tasks at the top are valid", "agents: {a: {role: r}}\ntasks: [{agent: a, description: d}]", true},
		{"a workflow block is valid", "workflow: {verbose: true, default_llm: a/b, memory_config: {x: [1]}}\nagents: {a: {role: r}}", true},
		{"another of PraisonAI's deployments is valid", "deploy: {type: cloud, cloud: {provider: aws}, docker: 1, agents: [x]}\nagents: {a: {role: r}}", true},
		{"PraisonAI's fields are valid with any value", "framework: 1\nprocess: [x]\nagents: {a: {role: r, tools: , max_iter: {a: b}}}\nsteps: [{agent: a, context: [x], output_json: {type: object}}]\ndeploy: {api: {reload: 3}}", true},

		{"a list is no file", "[]", false},
		{"no agents", "llm: a/b", false},
		{"empty mapping of agents", "agents: {}", false},
		{"empty list of agents", "agents: []", false},
		{"agents that are text", "agents: a", false},
		{"an agent without a name in a list", "agents: [{role: r}]", false},
		{"an agent that is text", "agents: {a: hello}", false},
		{"an agent that says nothing", "agents: {a: {description: d}}", false},
		{"an agent with an unknown field", "agents: {a: {role: r, tool: x}}", false},
		{"an unknown field at the top", "role: {}\nagents: {a: {role: r}}", false},
		{"both agents and roles", "roles: {b: {role: r}}\nagents: {a: {role: r}}", false},
		{"both steps and tasks", "agents: {a: {role: r}}\nsteps: [{agent: a}]\ntasks: [{agent: a}]", false},
		{"a special kind of agent", "agents: {a: {role: r, agent: ImageAgent}}", false},
		{"a pipeline", "type: job\nagents: {a: {role: r}}", false},
		{"steps that are text", "agents: {a: {role: r}}\nsteps: a", false},
		{"an empty list of steps", "agents: {a: {role: r}}\nsteps: []", false},
		{"an empty mapping of tasks", "agents: {a: {role: r, tasks: {}}}", false},
		{"a step without an agent", "agents: {a: {role: r}}\nsteps: [{action: x}]", false},
		{"a step of two agents", "agents: {a: {role: r}}\nsteps: [{agent: [a, a]}]", false},
		{"a step that loops", "agents: {a: {role: r}}\nsteps: [{agent: a, loop: {over: x}}]", false},
		{"a step of a strange type", "agents: {a: {role: r}}\nsteps: [{agent: a, type: loop}]", false},
		{"a step with an unknown field", "agents: {a: {role: r}}\nsteps: [{agent: a, acton: x}]", false},
		{"a blank action", "agents: {a: {role: r}}\nsteps: [{agent: a, action: ' '}]", false},
		{"a task with a bad name", "agents: {a: {role: r, tasks: {'a/b': {description: d}}}}", false},
		{"a step with a bad name", "agents: {a: {role: r}}\nsteps: [{agent: a, name: 'a: b'}]", false},
		{"a workflow with a bad name", "name: 'a: b'\nagents: {a: {role: r}}", false},
		{"a variable of a name that is taken", "agents: {a: {role: r}}\nvariables: {input: x}", false},
		{"too many variables", "agents: {a: {role: r}}\nvariables:\n" + manyVariables(), false},
		{"variables in a list", "agents: {a: {role: r}}\nvariables: [x]", false},
		{"steps in the workflow's block", "agents: {a: {role: r}}\nworkflow: {steps: [{agent: a}]}", false},
		{"an unknown setting", "deploy: {api: {tls: true}}\nagents: {a: {role: r}}", false},
		{"an unknown deployment", "deploy: {lambda: {}}\nagents: {a: {role: r}}", false},
		{"an unknown deploy type", "deploy: {type: lambda}\nagents: {a: {role: r}}", false},
		{"a name that begins with a dash", "agents: {-a: {role: r}}", false},
		{"a name with a slash", "agents: [{name: a/b, role: r}]", false},
		{"a name that ends with a space", "agents: {'a ': {role: r}}", false},
		{"a name of 65 characters", "agents: {" + strings.Repeat("é", 65) + ": {role: r}}", false},
		{"a blank text", "agents: {a: {role: ' '}}", false},
		{"a missing value", "agents: {a: {role: }}", false},
		{"a number for a text", "agents: {a: {role: 1}}", false},
		{"a list for a text", "agents: {a: {role: [r]}}", false},
		{"a model's block without a model", "llm: {temperature: 1}\nagents: {a: {role: r}}", false},
		{"a model's block with a key", "llm: {model: x, api_key: y}\nagents: {a: {role: r}}", false},
		{"a model's block with an unknown field", "llm: {model: x, modle: y}\nagents: {a: {role: r}}", false},
		{"a model's block with a bad name", "llm: {model: a b}\nagents: {a: {role: r}}", false},
		{"a model without a provider before its slash", "llm: /x\nagents: {a: {role: r}}", false},
		{"a model with a space", "llm: a b\nagents: {a: {role: r}}", false},
		{"a text for a port", "deploy: {api: {port: '80'}}\nagents: {a: {role: r}}", false},
		{"a fraction for a port", "deploy: {api: {port: 80.5}}\nagents: {a: {role: r}}", false},
		{"a text for a switch", "deploy: {api: {auth_enabled: 'no'}}\nagents: {a: {role: r}}", false},
		{"a number for a token", "deploy: {api: {auth_token: 12}}\nagents: {a: {role: r}}", false},
	}

	stored, err := os.ReadFile(schemaPath)
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(stored, &s); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, parserSays := agents.Parse("agents.yaml", []byte(tt.text), offline)
			if (parserSays == nil) != tt.valid {
				t.Errorf("the parser says: %v", parserSays)
			}
			var instance any
			if err := yaml.Unmarshal([]byte(tt.text), &instance); err != nil {
				t.Fatal(err)
			}
			if schemaSays := resolved.Validate(instance); (schemaSays == nil) != tt.valid {
				t.Errorf("the schema says: %v", schemaSays)
			}
		})
	}
}

// Every field that PraisonAI has is acted on, named in the warning, or refused
// with what to do. The list is theirs; none of it is unknown here.
func TestEveryFieldOfPraisonAIIsKnown(t *testing.T) {
	const agent = "agents: {a: {role: r}}\n"
	files := map[string]string{
		"top":        "FIELD:\n" + agent,
		"agent":      "agents: {a: {role: r, FIELD: }}",
		"step":       agent + "steps: [{agent: a, FIELD: }]",
		"workflow":   agent + "workflow: {FIELD: }",
		"llm":        agent + "llm: {model: m, FIELD: }",
		"deploy":     agent + "deploy: {FIELD: }",
		"deploy.api": agent + "deploy: {api: {FIELD: }}",
	}
	list, err := os.ReadFile("testdata/praisonai-fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		place, names, _ := strings.Cut(line, ": ")
		block, fate, _ := strings.Cut(place, " ")
		for _, name := range strings.Fields(names) {
			text := strings.Replace(files[block], "FIELD", name, 1)
			if got := fateOf(text, name); files[block] == "" || got != fate {
				t.Errorf("%s in %s: %s, want %s", name, block, got, fate)
			}
		}
	}
}

// fateOf tells what becomes of a file in which a field has no value: one that is
// acted on needs a value, and stands beside the same one if the file has it.
func fateOf(text, name string) string {
	file, err := parse(text)
	switch {
	case err == nil:
		if regexp.MustCompile(`not acted on: (\S+\.|\S+\[0\]\.)?` + name + ` \(line`).MatchString(strings.Join(file.Warnings, "")) {
			return "warned"
		}
		return "accepted in silence"
	case strings.Contains(err.Error(), "but nothing is here"), strings.Contains(err.Error(), "is written twice"):
		return "acted-on"
	case strings.Contains(err.Error(), ": PraisonAI has this here, Postern doesn't; "):
		return "refused"
	}
	return err.Error()
}

// manyVariables is one more than there may be, to stand under a key.
func manyVariables() (lines string) {
	for i := range agents.MaxVariables + 1 {
		lines += fmt.Sprintf("  v%d: x\n", i)
	}
	return lines
}
