package bedrock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/document"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"postern/shared/model"
)

// noOutput stands for the result of a tool that has none: Bedrock takes neither
// a blank text nor, with every model, an empty list.
const noOutput = "(no output)"

var (
	errNoModel = errors.New("the request names no model")
	errNothing = errors.New("every message to the model is blank")
)

// newInput says req in Converse's shape. Its errors are a caller's mistake.
func newInput(req model.Request) (*bedrockruntime.ConverseStreamInput, error) {
	if req.Model == "" {
		return nil, errNoModel
	}
	messages, err := turns(req.Messages)
	if err != nil {
		return nil, err
	}
	tools, err := toolConfig(req.Tools)
	if err != nil {
		return nil, err
	}
	input := &bedrockruntime.ConverseStreamInput{
		ModelId:         &req.Model,
		Messages:        messages,
		ToolConfig:      tools,
		InferenceConfig: inference(req),
	}
	if !blank(req.System) {
		input.System = []types.SystemContentBlock{&types.SystemContentBlockMemberText{Value: req.System}}
	}
	return input, nil
}

// turns says a conversation as Converse wants it: the roles user and assistant
// in turn, and no turn or text that is blank. A tool's result belongs to the
// user's turn, so neighbours of one role become one turn.
func turns(messages []model.Message) ([]types.Message, error) {
	var all []types.Message
	for i, m := range messages {
		role, content, err := blocks(m)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i+1, err)
		}
		last := len(all) - 1
		switch {
		case len(content) == 0:
		case last >= 0 && all[last].Role == role:
			all[last].Content = append(all[last].Content, content...)
		default:
			all = append(all, types.Message{Role: role, Content: content})
		}
	}
	if len(all) == 0 {
		return nil, errNothing
	}
	return all, nil
}

func blocks(m model.Message) (types.ConversationRole, []types.ContentBlock, error) {
	switch m.Role {
	case model.User:
		return types.ConversationRoleUser, text(m.Text), nil
	case model.Assistant:
		content := text(m.Text)
		for _, call := range m.ToolCalls {
			input, err := object(call.Arguments)
			if err != nil {
				return "", nil, fmt.Errorf("arguments of tool call %s: %w", call.ID, err)
			}
			content = append(content, &types.ContentBlockMemberToolUse{Value: types.ToolUseBlock{
				ToolUseId: &call.ID,
				Name:      &call.Name,
				Input:     input,
			}})
		}
		return types.ConversationRoleAssistant, content, nil
	case model.ToolRole:
		result := m.Text
		if blank(result) {
			result = noOutput
		}
		return types.ConversationRoleUser, []types.ContentBlock{&types.ContentBlockMemberToolResult{Value: types.ToolResultBlock{
			ToolUseId: &m.ToolCallID,
			Content:   []types.ToolResultContentBlock{&types.ToolResultContentBlockMemberText{Value: result}},
		}}}, nil
	default:
		return "", nil, fmt.Errorf("unknown role %q", m.Role)
	}
}

func text(s string) []types.ContentBlock {
	if blank(s) {
		return nil
	}
	return []types.ContentBlock{&types.ContentBlockMemberText{Value: s}}
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

func toolConfig(tools []model.Tool) (*types.ToolConfiguration, error) {
	if len(tools) == 0 {
		return nil, nil
	}
	config := &types.ToolConfiguration{}
	for _, tool := range tools {
		parameters := tool.Parameters
		if len(parameters) == 0 {
			parameters = json.RawMessage(`{"type":"object"}`)
		}
		schema, err := object(parameters)
		if err != nil {
			return nil, fmt.Errorf("parameters of tool %s: %w", tool.Name, err)
		}
		spec := types.ToolSpecification{
			Name:        &tool.Name,
			InputSchema: &types.ToolInputSchemaMemberJson{Value: schema},
		}
		if !blank(tool.Description) {
			spec.Description = &tool.Description
		}
		config.Tools = append(config.Tools, &types.ToolMemberToolSpec{Value: spec})
	}
	return config, nil
}

// inference returns nil where req leaves all to the provider.
func inference(req model.Request) *types.InferenceConfiguration {
	var config types.InferenceConfiguration
	if req.MaxTokens > 0 {
		config.MaxTokens = aws.Int32(int32(min(req.MaxTokens, math.MaxInt32)))
	}
	if req.Temperature != nil {
		config.Temperature = aws.Float32(float32(*req.Temperature))
	}
	for _, sequence := range req.StopAt {
		if sequence != "" {
			config.StopSequences = append(config.StopSequences, sequence)
		}
	}
	if config.MaxTokens == nil && config.Temperature == nil && config.StopSequences == nil {
		return nil
	}
	return &config
}

// rawDocument is a JSON object as it was written. The SDK's own document goes
// through Go values, and numbers beyond a float64 don't come out as they went in.
type rawDocument struct {
	document.Interface
	text json.RawMessage
}

func (d rawDocument) MarshalSmithyDocument() ([]byte, error) { return d.text, nil }

// object takes JSON that must be an object; none at all is an empty one.
func object(raw json.RawMessage) (document.Interface, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	if raw[0] != '{' || !json.Valid(raw) {
		return nil, errors.New("not a JSON object")
	}
	return rawDocument{document.NewLazyDocument(nil), raw}, nil
}
