package agents

import "reflect"

// The document's types, from which the schema test generates agents.schema.json.
var (
	DocumentType    = reflect.TypeFor[document]()
	AgentListType   = reflect.TypeFor[agentList]()
	AgentFieldsType = reflect.TypeFor[agentFields]()
	ListedAgentType = reflect.TypeFor[listedAgent]()
)
