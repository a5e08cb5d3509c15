package openai

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/shared/model"
	"postern/shared/secret"
)

// What an upstream may make us read and keep. A token costs some 250 bytes of
// the stream and 4 of the answer, so all of these are beyond any model's longest.
const (
	maxLine   = 1 << 20
	maxStream = 64 << 20
	maxAnswer = 4 << 20 // text, and the tool calls
	maxCalls  = 128     // as many as OpenAI takes tools
)

// answer reads the events of one stream, and keeps what can't be passed on yet.
type answer struct {
	lines *bufio.Scanner
	key   secret.String

	begun  bool         // it has said something, if only that it begins
	reason finishReason // "": not finished
	usage  model.Usage
	calls  []call
	size   int // of text and calls, in bytes
}

// call is a tool call on its way.
type call struct {
	index     *int // nil: the server doesn't count them
	id, name  string
	arguments []byte
}

// chunk is what counts of one event. Error is in the streams of vLLM, LiteLLM and
// OpenRouter.
type chunk struct {
	Choices []struct {
		Index        int          `json:"index"`
		FinishReason finishReason `json:"finish_reason"`
		Delta        struct {
			Content   string     `json:"content"`
			Refusal   string     `json:"refusal"`
			ToolCalls []toolCall `json:"tool_calls"`
		} `json:"delta"`
	} `json:"choices"`
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

func newAnswer(stream io.Reader, key secret.String) *answer {
	lines := bufio.NewScanner(io.LimitReader(stream, maxStream))
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	return &answer{lines: lines, key: key}
}

// next returns the next piece of text, never an empty one; io.EOF at the end of
// an answer that is whole, and a *failure at any other end.
func (a *answer) next() (string, error) {
	for a.lines.Scan() {
		data, err := a.field(a.lines.Bytes())
		if err != nil {
			return "", err
		}
		if len(data) == 0 {
			continue
		}
		if string(data) == "[DONE]" {
			return "", a.end(nil)
		}
		if text, err := a.take(data); err != nil || text != "" {
			return text, err
		}
	}
	return "", a.end(cmp.Or(a.lines.Err(), io.ErrUnexpectedEOF))
}

// field returns what a line of the stream has behind "data:", nothing for the
// other kinds (https://html.spec.whatwg.org/multipage/server-sent-events.html).
// A line that is of no kind is not skipped, as a browser would: it is the page or
// the error of something that isn't a model.
func (a *answer) field(line []byte) ([]byte, error) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	switch string(name) {
	case "data":
		return bytes.TrimSpace(value), nil
	case "", "event", "id", "retry":
		return nil, nil
	default:
		return nil, a.failed("not an event stream", line)
	}
}

// take adds one event to the answer and returns its text.
func (a *answer) take(data []byte) (string, error) {
	var c chunk
	if err := json.Unmarshal(data, &c); err != nil {
		return "", a.failed("an event can't be read", []byte(err.Error()+": "+string(data)))
	}
	if len(c.Error) > 0 && string(c.Error) != "null" {
		return "", a.failed("an error in the stream", c.Error)
	}
	if c.Usage != nil {
		a.usage = model.Usage{InputTokens: max(0, c.Usage.PromptTokens), OutputTokens: max(0, c.Usage.CompletionTokens)}
	}
	var said strings.Builder
	for _, choice := range c.Choices {
		if choice.Index != 0 { // one answer was asked for
			continue
		}
		a.begun = true
		if choice.FinishReason != "" && choice.FinishReason != finishNull {
			a.reason = choice.FinishReason
		}
		said.WriteString(choice.Delta.Content)
		said.WriteString(choice.Delta.Refusal)
		for _, fragment := range choice.Delta.ToolCalls {
			a.add(fragment)
		}
	}
	if a.size += said.Len(); a.size > maxAnswer || len(a.calls) > maxCalls {
		return "", a.failed("the answer is too large", nil)
	}
	return said.String(), nil
}

// add puts a fragment to the call it belongs to, or begins one. Fragments go
// together by their index. Some servers have none (Gemini), or the same one for
// every call (Ollama before 0.20.6, ollama/ollama#15457): there another id is
// another call.
func (a *answer) add(fragment toolCall) {
	i := len(a.calls) - 1
	if fragment.Index != nil {
		for ; i >= 0; i-- {
			if index := a.calls[i].index; index != nil && *index == *fragment.Index {
				break
			}
		}
	}
	if i < 0 || fragment.ID != "" && a.calls[i].id != "" && fragment.ID != a.calls[i].id {
		if len(a.calls) > maxCalls {
			return
		}
		a.calls = append(a.calls, call{index: fragment.Index})
		i = len(a.calls) - 1
	}
	c := &a.calls[i]
	if c.id == "" {
		c.id = fragment.ID
	}
	if c.name == "" {
		c.name = fragment.Function.Name
	}
	c.arguments = append(c.arguments, fragment.Function.Arguments...)
	a.size += len(fragment.ID) + len(fragment.Function.Name) + len(fragment.Function.Arguments)
}

// end tells a whole answer from a broken one: "[DONE]" or a finish reason makes
// it whole. What could be missing after the reason is the usage.
func (a *answer) end(err error) error {
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		return a.failed(fmt.Sprintf("an event of more than %d bytes", maxLine), nil)
	case a.reason != "", err == nil && a.begun:
		return io.EOF
	case err == nil:
		return a.failed("an empty answer", nil)
	case isTimeout(err):
		return &failure{kind: model.ErrTimeout, text: "in the middle of an answer: " + excerpt(err.Error(), a.key)}
	default:
		return a.failed("the answer was cut", []byte(err.Error()))
	}
}

// finish returns what comes after the text. An id that the server left out is
// the number of the call in the conversation, of which some are earlier.
func (a *answer) finish(earlier int) ([]model.ToolCall, model.Event, error) {
	end := model.Event{Stop: model.EndTurn, Usage: a.usage}
	switch {
	case a.reason == finishLength:
		end.Stop = model.MaxTokens
		return nil, end, nil
	case a.reason == finishContentFilter:
		end.Stop = model.Filtered
		return nil, end, nil
	case len(a.calls) > 0: // whatever the reason: some servers say "stop"
		end.Stop = model.ToolUse
	}
	var calls []model.ToolCall
	for i, c := range a.calls {
		arguments := bytes.TrimSpace(c.arguments)
		if len(arguments) == 0 {
			arguments = []byte("{}")
		}
		if c.name == "" || arguments[0] != '{' || !json.Valid(arguments) {
			return nil, end, a.failed("a tool call without a name or an object of arguments", fmt.Appendf(nil, "%s(%s)", c.name, arguments))
		}
		if c.id == "" {
			c.id = fmt.Sprintf("call_%d", earlier+i+1)
		}
		calls = append(calls, model.ToolCall{ID: c.id, Name: c.name, Arguments: slices.Clip(arguments)})
	}
	return calls, end, nil
}

func (a *answer) failed(what string, text []byte) error {
	if len(text) > 0 {
		what += ": " + excerpt(string(text), a.key)
	}
	return &failure{kind: model.ErrFailed, text: what}
}
