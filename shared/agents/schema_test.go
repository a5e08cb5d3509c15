package agents_test

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
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
// What types can't say is added here: patterns, "at least one of", and that
// agents are a mapping or a list.
func schema(t *testing.T) *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string", Pattern: `\S`}
	modelName := &jsonschema.Schema{Type: "string", Pattern: `^[^/ \t\r\n]+(/[^ \t\r\n]+)?$`}
	agentName := &jsonschema.Schema{Type: "string", Pattern: `^[\p{L}\p{Nd}]([\p{L}\p{M}\p{Nd} ._-]{0,62}[\p{L}\p{M}\p{Nd}._-])?$`}
	oneAgent, one := &jsonschema.Schema{Ref: "#/$defs/agent"}, 1

	options := &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[agents.Value[string]]():        text,
		reflect.TypeFor[agents.Value[secret.String]](): text,
		reflect.TypeFor[agents.Value[model.Name]]():    modelName,
		reflect.TypeFor[agents.Value[int]]():           {Type: "integer"},
		reflect.TypeFor[agents.Value[bool]]():          {Type: "boolean"},
		agents.AgentListType: {
			Description: "The agents, by name or as a list. The first answers when a request names none.",
			AnyOf: []*jsonschema.Schema{
				{Type: "object", PropertyNames: agentName, MinProperties: &one, AdditionalProperties: oneAgent},
				{Type: "array", MinItems: &one, Items: &jsonschema.Schema{Ref: "#/$defs/listedAgent"}},
			},
		},
	}}
	generate := func(of reflect.Type) *jsonschema.Schema {
		s, err := jsonschema.ForType(of, options)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}

	speaks := []*jsonschema.Schema{{Required: []string{"instructions"}}, {Required: []string{"backstory"}}, {Required: []string{"role"}}, {Required: []string{"goal"}}}
	agent, listed := generate(agents.AgentFieldsType), generate(agents.ListedAgentType)
	agent.AnyOf, listed.AnyOf = speaks, speaks
	listed.Properties["name"].Pattern = agentName.Pattern

	root := generate(agents.DocumentType)
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "agents.yaml of Postern"
	root.Properties["deploy"].Properties["type"].Enum = []any{"api"}
	root.Defs = map[string]*jsonschema.Schema{"agent": agent, "listedAgent": listed}
	return root
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
	// a backstory that differs from the instructions, anchors, tags.
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

		{"a list is no file", "[]", false},
		{"no agents", "llm: a/b", false},
		{"empty mapping of agents", "agents: {}", false},
		{"empty list of agents", "agents: []", false},
		{"agents that are text", "agents: a", false},
		{"an agent without a name in a list", "agents: [{role: r}]", false},
		{"a name in a mapping", "agents: {a: {name: a, role: r}}", false},
		{"an agent that is text", "agents: {a: hello}", false},
		{"an agent that says nothing", "agents: {a: {description: d}}", false},
		{"an agent with an unknown field", "agents: {a: {role: r, tool: x}}", false},
		{"an unknown field at the top", "roles: {}\nagents: {a: {role: r}}", false},
		{"an unknown setting", "deploy: {api: {tls: true}}\nagents: {a: {role: r}}", false},
		{"an unknown deployment", "deploy: {docker: {}}\nagents: {a: {role: r}}", false},
		{"another deploy type", "deploy: {type: docker}\nagents: {a: {role: r}}", false},
		{"a name that begins with a dash", "agents: {-a: {role: r}}", false},
		{"a name with a slash", "agents: [{name: a/b, role: r}]", false},
		{"a name that ends with a space", "agents: {'a ': {role: r}}", false},
		{"a name of 65 characters", "agents: {" + strings.Repeat("é", 65) + ": {role: r}}", false},
		{"a blank text", "agents: {a: {role: ' '}}", false},
		{"a missing value", "agents: {a: {role: }}", false},
		{"a number for a text", "agents: {a: {role: 1}}", false},
		{"a list for a text", "agents: {a: {role: [r]}}", false},
		{"a model that is a block", "llm: {model: x}\nagents: {a: {role: r}}", false},
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
