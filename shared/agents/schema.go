package agents

import (
	"reflect"
	"strings"

	"postern/shared/model"
	"postern/shared/secret"
)

// document is agents.yaml as people write it, and the only description of it:
// the reader fills these types by their json names, and agents.schema.json is
// generated from them, descriptions included (a test compares). A new field is
// one line here; what it means is said in document.file.
type document struct {
	LLM    Value[model.Name] `json:"llm,omitzero" jsonschema:"The model of every agent that names none: provider/name. A bare name is OpenAI's. Without it the MODEL setting decides; its default is offline/eliza."`
	Agents agentList         `json:"agents"`
	Deploy deployBlock       `json:"deploy,omitzero" jsonschema:"How to serve the agents on one machine. Ignored on AWS."`
}

// agentList is the agents in the file's order, whether written as a mapping
// from name to agent or as a list.
type agentList []agentFields

// agentFields is one agent. In a mapping its key is the name.
type agentFields struct {
	Role         Value[string]     `json:"role,omitzero" jsonschema:"Who the agent is, in a few words. Part of its prompt."`
	Goal         Value[string]     `json:"goal,omitzero" jsonschema:"What the agent is to achieve. Part of its prompt."`
	Instructions Value[string]     `json:"instructions,omitzero" jsonschema:"How the agent works: its prompt. Never shown to callers."`
	Backstory    Value[string]     `json:"backstory,omitzero" jsonschema:"Another name for instructions; write only one of them."`
	Description  Value[string]     `json:"description,omitzero" jsonschema:"Short public text in the list of agents. Default: the role, else the goal."`
	LLM          Value[model.Name] `json:"llm,omitzero" jsonschema:"The model of this agent: provider/name. A bare name is OpenAI's. Default: the file's llm."`

	name string
	at   spot
}

// listedAgent is an agent in a list, which has its name beside its fields.
type listedAgent struct {
	Name Value[string] `json:"name" jsonschema:"The name by which callers ask for the agent."`
	agentFields
}

// deployBlock is PraisonAI's: a type and the block of that type.
type deployBlock struct {
	Type Value[string] `json:"type,omitzero" jsonschema:"Always api, and may be left out."`
	API  Deploy        `json:"api,omitzero" jsonschema:"The server's settings. A flag or an environment variable beats them."`
}

// Deploy is the block deploy.api: settings by the names of PraisonAI. Their
// ranges are checked where all settings are, by package settings.
type Deploy struct {
	Host        Value[string]        `json:"host,omitzero" jsonschema:"The address to listen on; API_HOST. Default: 127.0.0.1."`
	Port        Value[int]           `json:"port,omitzero" jsonschema:"The port to listen on; API_PORT. Default: 8080."`
	Workers     Value[int]           `json:"workers,omitzero" jsonschema:"Accepted and not needed: one process uses all cores."`
	CORSEnabled Value[bool]          `json:"cors_enabled,omitzero" jsonschema:"true lets every web page call the API, as CORS_ORIGINS=* does. Default: false."`
	AuthEnabled Value[bool]          `json:"auth_enabled,omitzero" jsonschema:"false serves without credentials, as API_AUTH=disabled does. Default: true."`
	AuthToken   Value[secret.String] `json:"auth_token,omitzero" jsonschema:"The API token; API_TOKEN. Better kept in the environment than in this file. Default: generated at start."`

	where string
}

// Where is the place of the block, "agents.yaml:12: deploy.api"; empty if the
// file has none.
func (d Deploy) Where() string { return d.where }

// Value is a field as the file gives it. Its zero value is an absent field.
type Value[T any] struct {
	V     T
	Where string // "agents.yaml:14: deploy.api.port"; empty if absent
}

// IsSet reports whether the file has the field.
func (v Value[T]) IsSet() bool { return v.Where != "" }

// fields returns what the struct behind ptr can read, by the names that the
// file uses, in the order of the struct.
func fields(ptr any) (names []string, byName map[string]readable) {
	v := reflect.ValueOf(ptr).Elem()
	byName = map[string]readable{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		names = append(names, name)
		byName[name] = v.FieldByIndex(f.Index).Addr().Interface().(readable)
	}
	return names, byName
}
