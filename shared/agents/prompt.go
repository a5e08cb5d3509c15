package agents

import "strings"

// SystemPrompt is what a model is told before a conversation, of this form,
// without the parts that the agent doesn't have:
//
//	Your role: <role>
//	Your goal: <goal>
//
//	<instructions>
//
// It depends on nothing else, so a provider can cache it.
func (a Agent) SystemPrompt() string {
	var head []string
	if a.Role != "" {
		head = append(head, "Your role: "+a.Role)
	}
	if a.Goal != "" {
		head = append(head, "Your goal: "+a.Goal)
	}
	return strings.TrimSpace(strings.Join(head, "\n") + "\n\n" + a.Instructions)
}
