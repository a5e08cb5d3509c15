package openai

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"postern/shared/model"
	"postern/shared/secret"
)

// dialect is what servers disagree about.
type dialect struct {
	// maxCompletionTokens: Request.MaxTokens is sent as max_completion_tokens,
	// which OpenAI's reasoning models demand (they refuse max_tokens, and
	// OpenAI refuses both at once). Everybody else gets max_tokens, which all
	// of them know: Ollama takes the new name without a word and ignores it
	// (ollama/ollama#7125), and this bound carries token budgets.
	maxCompletionTokens bool
}

// dialectOf knows OpenAI's own servers and Azure's by their host.
func dialectOf(host string) dialect {
	host = "." + strings.ToLower(strings.TrimSuffix(host, "."))
	return dialect{
		maxCompletionTokens: strings.HasSuffix(host, ".api.openai.com") || strings.HasSuffix(host, ".openai.azure.com"),
	}
}

// The types of the wire are written out: go-openai's leave out a temperature of 0
// and the content of a message where it is empty, and weigh 262 KB.

// request is the body of a chat completion.
type request struct {
	Model               string        `json:"model"`
	Messages            []message     `json:"messages"`
	Temperature         *float64      `json:"temperature,omitempty"`
	MaxTokens           int           `json:"max_tokens,omitempty"`
	MaxCompletionTokens int           `json:"max_completion_tokens,omitempty"`
	Stop                []string      `json:"stop,omitempty"`
	Tools               []tool        `json:"tools,omitempty"`
	Stream              bool          `json:"stream"`
	StreamOptions       streamOptions `json:"stream_options"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type tool struct {
	Type     string     `json:"type"`
	Function definition `json:"function"`
}

type definition struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters"`
}

// toolCall is a call whole, or a fragment of one.
type toolCall struct {
	Index    *int     `json:"index,omitempty"`
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type function struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// functionType is the one type of tools that there is.
const functionType = "function"

// finishReason is why an answer ended; some servers write "null" for none.
type finishReason string

const (
	finishNull          finishReason = "null"
	finishLength        finishReason = "length"
	finishContentFilter finishReason = "content_filter"
)

type message struct {
	Role       model.Role `json:"role"` // OpenAI's own words
	Content    *string    `json:"content"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

func (d dialect) encode(req model.Request) ([]byte, error) {
	r := request{
		Model:         req.Model,
		Messages:      encodeMessages(req),
		Temperature:   req.Temperature,
		Stop:          req.StopAt,
		Tools:         encodeTools(req.Tools),
		Stream:        true,
		StreamOptions: streamOptions{IncludeUsage: true},
	}
	if d.maxCompletionTokens {
		r.MaxCompletionTokens = req.MaxTokens
	} else {
		r.MaxTokens = req.MaxTokens
	}
	return json.Marshal(r)
}

func encodeMessages(req model.Request) []message {
	messages := make([]message, 0, len(req.Messages)+1)
	if req.System != "" {
		messages = append(messages, message{Role: "system", Content: &req.System})
	}
	for _, m := range req.Messages {
		encoded := message{Role: m.Role, Content: &m.Text, ToolCallID: m.ToolCallID}
		for _, call := range m.ToolCalls {
			encoded.ToolCalls = append(encoded.ToolCalls, toolCall{
				ID:       call.ID,
				Type:     functionType,
				Function: function{Name: call.Name, Arguments: cmp.Or(string(call.Arguments), "{}")},
			})
		}
		if m.Text == "" && len(m.ToolCalls) > 0 {
			encoded.Content = nil // null, as OpenAI says it itself
		}
		messages = append(messages, encoded)
	}
	return messages
}

func encodeTools(tools []model.Tool) (encoded []tool) {
	for _, t := range tools {
		parameters := t.Parameters
		if len(parameters) == 0 {
			parameters = json.RawMessage(`{"type":"object","properties":{}}`)
		}
		encoded = append(encoded, tool{
			Type:     functionType,
			Function: definition{t.Name, t.Description, parameters},
		})
	}
	return encoded
}

// earlierCalls counts the tool calls of a conversation.
func earlierCalls(req model.Request) (n int) {
	for _, m := range req.Messages {
		n += len(m.ToolCalls)
	}
	return n
}

func newRequest(ctx context.Context, endpoint string, body []byte, key secret.String) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "text/event-stream")
	// A compressed stream comes in lumps, and its size is no bound.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "postern")
	if !key.IsEmpty() {
		req.Header.Set("Authorization", "Bearer "+key.Reveal())
	}
	return req, nil
}
