package bedrockfake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// request is the part of ConverseStream's and Converse's that the fake knows; whatever else
// comes is refused.
type request struct {
	System   []struct{ Text string }
	Messages []struct {
		Role    string
		Content []block
	}
	InferenceConfig *struct {
		MaxTokens     *int
		Temperature   *float64
		StopSequences []string
	}
	ToolConfig *struct {
		Tools []struct {
			ToolSpec struct {
				Name        string
				Description *string
				InputSchema struct{ JSON map[string]any }
			}
		}
	}
}

type block struct {
	Text    *string
	ToolUse *struct {
		ToolUseID, Name string
		Input           map[string]any
	}
	ToolResult *struct {
		ToolUseID string
		Content   []struct{ Text *string }
	}
}

// check returns the rule of Bedrock's that a request breaks, or "": those that
// Converse has for every model, and, as Anthropic's models want it, that each
// tool call has its result in the turn after it.
func check(body []byte) string {
	var in request
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return "the body is no request that this fake knows: " + err.Error()
	}
	if len(in.Messages) == 0 {
		return "a conversation must have a message"
	}
	if in.Messages[0].Role != "user" {
		return "a conversation must start with a user message"
	}
	for i, text := range in.System {
		if blank(&text.Text) {
			return fmt.Sprintf("the text field at system.%d is blank", i)
		}
	}
	calls := map[string]bool{} // of the turn before
	for i, m := range in.Messages {
		if want := []string{"user", "assistant"}[i%2]; m.Role != want {
			return fmt.Sprintf("roles must alternate: messages.%d is %s", i, m.Role)
		}
		if len(m.Content) == 0 {
			return fmt.Sprintf("the content field at messages.%d is empty", i)
		}
		called := map[string]bool{}
		for j, b := range m.Content {
			if rule := b.check(m.Role, in.ToolConfig != nil, calls, called); rule != "" {
				return fmt.Sprintf("messages.%d.content.%d: %s", i, j, rule)
			}
		}
		if m.Role == "user" && len(calls) > 0 {
			return fmt.Sprintf("messages.%d: tool calls without results: %d", i, len(calls))
		}
		calls = called
	}
	if in.ToolConfig != nil {
		for i, tool := range in.ToolConfig.Tools {
			switch spec := tool.ToolSpec; {
			case spec.InputSchema.JSON["type"] != "object":
				return fmt.Sprintf("toolConfig.tools.%d: the schema's type must be object", i)
			case spec.Name == "" || spec.Description != nil && *spec.Description == "":
				return fmt.Sprintf("toolConfig.tools.%d: empty name or description", i)
			}
		}
	}
	return ""
}

func (b block) check(role string, tools bool, calls, called map[string]bool) string {
	switch {
	case (b.ToolUse != nil || b.ToolResult != nil) && !tools:
		return "toolConfig must be defined when using toolUse and toolResult content blocks"
	case b.ToolUse != nil:
		called[b.ToolUse.ToolUseID] = true
		if b.ToolUse.Input == nil || role != "assistant" {
			return "a tool call without input, or a user's"
		}
	case b.ToolResult != nil:
		if !calls[b.ToolResult.ToolUseID] {
			return "a result of no tool call of the turn before"
		}
		delete(calls, b.ToolResult.ToolUseID)
		if len(b.ToolResult.Content) == 0 || blank(b.ToolResult.Content[0].Text) {
			return "the result is empty or blank"
		}
	case blank(b.Text):
		return "the text field in the ContentBlock object is blank"
	}
	return ""
}

func blank(s *string) bool { return s == nil || strings.TrimSpace(*s) == "" }
