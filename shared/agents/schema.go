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
//
// It holds both of PraisonAI's shapes, and either may be mixed with the other:
// roles with tasks and a topic, and agents with steps and an input. Their
// fields are from docs.praison.ai, pages "YAML Configuration Reference" and
// "YAML Workflows", and from the schema that PraisonAI publishes for editors
// (praisonai/config/agents.schema.json). Two names of one field may stand side
// by side if they say the same.
type document struct {
	Name      placedText        `json:"name,omitzero" jsonschema:"The name by which callers ask for the workflow that the steps make."`
	LLM       Value[model.Name] `json:"llm,omitzero" jsonschema:"The model of every agent that names none: provider/name. A bare name is OpenAI's. Without it the MODEL setting decides; its default is offline/eliza."`
	Input     placedText        `json:"input,omitzero" jsonschema:"What the workflow works on if a request brings nothing. The message of POST /chat takes its place."`
	Topic     placedText        `json:"topic,omitzero" jsonschema:"Another name for input; write only one of them."`
	Variables variables         `json:"variables,omitzero" jsonschema:"Texts that stand in for {{name}} in the steps and in the prompts of their agents."`
	Agents    agentList         `json:"agents,omitzero"`
	Roles     agentList         `json:"roles,omitzero"`
	Steps     stepList          `json:"steps,omitzero" jsonschema:"The workflow: what agents do in turn, each with the results before it. It answers requests that name no agent."`
	Tasks     stepList          `json:"tasks,omitzero" jsonschema:"Another name for steps; write only one of them."`
	Workflow  workflowBlock     `json:"workflow,omitzero" jsonschema:"PraisonAI's settings of the workflow. Only its model is acted on."`
	Deploy    deployBlock       `json:"deploy,omitzero" jsonschema:"How to serve the agents on one machine. Ignored on AWS."`

	Foreign foreign `json:"-" names:"description framework process manager_llm dependencies tools toolsets config models providers callbacks context history approve permissions strict_tools tools_run_on run_on cli_backend memory memory_config planning reasoning verbose hooks schedule task metadata flags"`
	Kinds   refused `json:"-" names:"type includes" cure:"write steps of one agent and one action each, which run in turn"`
}

// agentList is the agents in the file's order, whether written as a mapping
// from name to agent or as a list.
type agentList struct {
	at  spot
	all []agentFields
}

// agentFields is one agent. In a mapping its key is the name.
type agentFields struct {
	Role         Value[string]     `json:"role,omitzero" jsonschema:"Who the agent is, in a few words. Part of its prompt."`
	Goal         Value[string]     `json:"goal,omitzero" jsonschema:"What the agent is to achieve. Part of its prompt."`
	Instructions Value[string]     `json:"instructions,omitzero" jsonschema:"How the agent works: its prompt. Never shown to callers."`
	Backstory    Value[string]     `json:"backstory,omitzero" jsonschema:"Where the agent comes from, or its prompt as instructions are. With both, the backstory comes first. Never shown to callers."`
	Description  Value[string]     `json:"description,omitzero" jsonschema:"Short public text in the list of agents. Default: the role, else the goal."`
	LLM          Value[model.Name] `json:"llm,omitzero" jsonschema:"The model of this agent: provider/name. A bare name is OpenAI's. Default: the file's llm."`
	Model        Value[model.Name] `json:"model,omitzero" jsonschema:"Another name for llm; write only one of them."`
	Tasks        stepList          `json:"tasks,omitzero" jsonschema:"The agent's steps of the workflow. Those of all agents run in the file's order."`

	Foreign foreign `json:"-" names:"tools toolsets tool_choice tool_timeout tool_retry_policy function_calling_llm reflect_llm llm_routing llm_models allow_delegation max_iter max_rpm max_execution_time max_retry_limit min_reflect max_reflect min_iterations max_iterations verbose markdown cache streaming stream memory knowledge context planning planning_tools reasoning autonomy guardrails approval skills reflection self_reflect handoff web web_fetch cli_backend runtime system_template prompt_template response_template hooks message_steering style voice audio video ocr"`
	Kinds   refused `json:"-" names:"agent" cure:"delete the line if text will do, with which every agent here answers"`

	name string
	at   spot
}

// keyedAgent is an agent in a mapping. PraisonAI shows its name in place of the
// key; here the key is all its names.
type keyedAgent struct {
	Display foreign `json:"-" names:"name"`
	agentFields
}

// listedAgent is an agent in a list, which has its name beside its fields.
type listedAgent struct {
	Name Value[string] `json:"name" jsonschema:"The name by which callers ask for the agent."`
	agentFields
}

// stepList is steps in the file's order, written as a list or as a mapping from
// name to step.
type stepList struct {
	at  spot
	all []stepFields
}

// stepFields is one step, or one task of an agent.
type stepFields struct {
	Agent          Value[string] `json:"agent,omitzero" jsonschema:"The name of the agent that does the step."`
	Type           Value[string] `json:"type,omitzero" jsonschema:"task or agent, and may be left out."`
	Action         Value[string] `json:"action,omitzero" jsonschema:"What the agent is to do. {{input}} and {topic} stand for the message, {{previous_output}} for the result before. Default: {{input}}."`
	Description    Value[string] `json:"description,omitzero" jsonschema:"Another name for action; write only one of them."`
	Task           Value[string] `json:"task,omitzero" jsonschema:"Another name for action; write only one of them."`
	ExpectedOutput Value[string] `json:"expected_output,omitzero" jsonschema:"What the result is to be like. Part of the step's prompt."`

	Foreign foreign `json:"-" names:"tools context config output_file create_directory output_json output_pydantic output_structure output_variable async_execution max_retries retry_delay skip_on_failure guardrail guardrails callback images human_input"`
	Kinds   refused `json:"-" names:"parallel route routes loop repeat include if condition steps count workflow run python script judge approve" cure:"write steps of one agent and one action each, which run in turn"`

	name string // empty: it has none
	at   spot
}

// listedStep is a step in a list, which may have a name beside its fields.
type listedStep struct {
	Name Value[string] `json:"name,omitzero" jsonschema:"What events and later steps call this one. Default: its number."`
	stepFields
}

// variables are texts by their names.
type variables struct {
	at    spot
	texts map[string]string
}

// workflowBlock is PraisonAI's settings of a workflow.
type workflowBlock struct {
	LLM        Value[model.Name] `json:"llm,omitzero" jsonschema:"Another name for the file's llm; write only one of them."`
	DefaultLLM Value[model.Name] `json:"default_llm,omitzero" jsonschema:"Another name for the file's llm; write only one of them."`

	Foreign foreign `json:"-" names:"planning planning_llm reasoning verbose output memory memory_config router routing_strategy timeout max_parallel error_handling"`
	Kinds   refused `json:"-" names:"name variables steps" cure:"write it at the top of the file"`
}

// modelBlock is an llm with settings.
type modelBlock struct {
	Model Value[string] `json:"model" jsonschema:"provider/name. A bare name is OpenAI's."`

	Foreign foreign `json:"-" names:"temperature max_tokens top_p timeout api_type aws_region"`
	Secrets refused `json:"-" names:"api_key base_url api_base" cure:"set OPENAI_API_KEY and OPENAI_BASE_URL in the environment"`
}

// deployBlock is PraisonAI's: a type and the block of that type. Only the server's
// is acted on, whatever the type.
type deployBlock struct {
	Type placedText `json:"type,omitzero" jsonschema:"api, and may be left out. docker and cloud are accepted, and not acted on."`
	API  Deploy     `json:"api,omitzero" jsonschema:"The server's settings. A flag or an environment variable beats them."`

	Foreign foreign `json:"-" names:"docker cloud agents"`
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

	Foreign foreign `json:"-" names:"reload"`

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

// placedText is a text whose place is still known when all is read.
type placedText struct {
	Value[string]
	at spot
}

// foreign stands for the fields, listed in its tag, that PraisonAI knows and
// nothing here acts on. They take any value; File.Warnings names those that a
// file has.
type foreign struct{}

// refused stands for the fields, listed in its tag, that PraisonAI knows and
// that must not be passed over: without them something else would run than the
// file says. Its text is the tag's cure.
type refused string

// fields returns what the struct behind ptr can read, by the names that the
// file uses. The names are in the order of the struct; own are those that are
// acted on.
func fields(ptr any) (own, all []string, byName map[string]readable) {
	v := reflect.ValueOf(ptr).Elem()
	byName = map[string]readable{}
	var others []string
	for _, f := range reflect.VisibleFields(v.Type()) {
		if f.Anonymous || !f.IsExported() {
			continue
		}
		field := v.FieldByIndex(f.Index)
		into := field.Addr().Interface().(readable)
		for _, name := range strings.Fields(f.Tag.Get("names")) {
			byName[name] = into
			if r, no := into.(*refused); no {
				*r = refused(f.Tag.Get("cure"))
			} else {
				others = append(others, name)
			}
		}
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			own, byName[name] = append(own, name), into
		}
	}
	return own, append(own[:len(own):len(own)], others...), byName
}
