package agents

import "reflect"

// The document's types, from which the schema test generates agents.schema.json.
var (
	DocumentType    = reflect.TypeFor[document]()
	AgentListType   = reflect.TypeFor[agentList]()
	KeyedAgentType  = reflect.TypeFor[keyedAgent]()
	ListedAgentType = reflect.TypeFor[listedAgent]()
	StepListType    = reflect.TypeFor[stepList]()
	StepFieldsType  = reflect.TypeFor[stepFields]()
	ListedStepType  = reflect.TypeFor[listedStep]()
	VariablesType   = reflect.TypeFor[variables]()
	PlacedTextType  = reflect.TypeFor[placedText]()
	ModelBlockType  = reflect.TypeFor[modelBlock]()
	WorkflowType    = reflect.TypeFor[workflowBlock]()
	DeployType      = reflect.TypeFor[Deploy]()
	ForeignType     = reflect.TypeFor[foreign]()
)

// IsWorkflow reports whether steps run instead of one agent.
func (r Runnable) IsWorkflow() bool { return r.workflow != nil }

// Bounds of prompts, and of a workflow.
const (
	MaxPrompt = maxPrompt
	MaxResult = maxResult
	MaxSteps  = maxSteps

	MaxVariables = maxVariables
)
