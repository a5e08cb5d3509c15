package openai

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"postern/shared/model"
)

// What an upstream may make us read and keep. A token costs some 250 bytes of
// the stream and 4 of the answer, so all of these are beyond any model's longest.
const (
	maxLine   = 1 << 20
	maxStream = 64 << 20
	maxAnswer = 4 << 20 // text, and the tool calls
	maxCalls  = 128     // as many as OpenAI takes tools
	maxTokens = 1 << 31 // in one answer, so that no sum of them overflows
)

// usageTime is how long an answer that has ended may take to say what it used.
// Some servers keep the stream open without a word.
const usageTime = 2 * time.Second

// answer reads the events of one stream, and keeps what can't be passed on yet.
type answer struct {
	reply *reply
	lines *bufio.Scanner
	last  bool   // the line at hand has no end: it may be half of one
	data  []byte // the lines so far of an event that has several

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
	Usage json.RawMessage `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// tokens is a count of tokens by an upstream. One that is no number is none: it
// is no reason to lose the answer.
type tokens int

// errNoCount makes a usage with one impossible half none at all: the other half
// alone would say too little.
var errNoCount = errors.New("not a number of tokens")

func (t *tokens) UnmarshalJSON(b []byte) error {
	var n float64 // some servers write 7.0
	if json.Unmarshal(b, &n) != nil || n < 0 {
		return errNoCount
	}
	*t = tokens(min(n, maxTokens))
	return nil
}

func newAnswer(r *reply) *answer {
	a := &answer{reply: r, lines: bufio.NewScanner(io.LimitReader(r, maxStream))}
	a.lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	a.lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		a.last = atEOF && bytes.IndexByte(data, '\n') < 0
		return bufio.ScanLines(data, atEOF)
	})
	return a
}

// next returns the next piece of text, never an empty one; io.EOF at the end of
// an answer that is whole, and a *failure at any other end.
func (a *answer) next() (string, error) {
	for a.scan() {
		text, err := a.read(a.lines.Bytes())
		if err != nil && a.last && a.reason != "" {
			err = io.EOF // the stream was cut in what came after the answer
		}
		if err != nil || text != "" {
			return text, err
		}
	}
	return "", a.end(cmp.Or(a.lines.Err(), io.ErrUnexpectedEOF))
}

func (a *answer) scan() bool {
	if a.reason != "" {
		a.reply.endIn(usageTime)
	}
	return a.lines.Scan()
}

// read takes one line of the stream and returns its text
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). A line that is
// of no kind is not skipped, as a browser would: it is the page or the error of
// something that isn't a model.
func (a *answer) read(line []byte) (string, error) {
	line = bytes.TrimPrefix(line, []byte("\ufeff")) // which may stand before the first
	name, value, _ := bytes.Cut(line, []byte(":"))
	switch {
	case len(line) == 0:
		return a.dispatch()
	case string(name) == "data":
		return a.add(bytes.TrimSpace(value))
	case len(name) == 0, string(name) == "event", string(name) == "id", string(name) == "retry":
		return "", nil
	case line[0] == '{', line[0] == '[':
		return "", a.failed("JSON, not an event stream", string(line))
	default:
		return "", a.failed("not an event stream", string(line))
	}
}

// add takes one line of an event's data. Nearly always it is all of it, and some
// servers leave out the blank line that ends the event; where it isn't, more lines
// follow.
func (a *answer) add(data []byte) (string, error) {
	switch {
	case len(data) == 0:
		return "", nil
	case len(a.data) == 0 && string(data) == "[DONE]":
		return "", a.end(nil)
	case len(a.data) == 0 && json.Valid(data):
		return a.take(data)
	case len(a.data)+len(data) > maxLine:
		return "", a.end(bufio.ErrTooLong)
	}
	a.data = append(append(a.data, data...), '\n')
	return "", nil
}

// dispatch ends an event whose data had several lines.
func (a *answer) dispatch() (string, error) {
	if len(a.data) == 0 {
		return "", nil
	}
	data := a.data
	a.data = nil
	return a.take(data)
}

// take adds one event to the answer and returns its text.
func (a *answer) take(data []byte) (string, error) {
	var c chunk
	if err := json.Unmarshal(data, &c); err != nil {
		return "", a.failed("an event can't be read", err.Error()+": "+string(data))
	}
	if len(c.Error) > 0 && string(c.Error) != "null" {
		return "", a.failed("an error in the stream", string(c.Error))
	}
	var used *struct {
		PromptTokens     tokens `json:"prompt_tokens"`
		CompletionTokens tokens `json:"completion_tokens"`
	}
	if json.Unmarshal(c.Usage, &used) == nil && used != nil {
		a.usage = model.Usage{InputTokens: int(used.PromptTokens), OutputTokens: int(used.CompletionTokens)}
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
			a.addCall(fragment)
		}
	}
	if a.size += said.Len(); a.size > maxAnswer || len(a.calls) > maxCalls {
		return "", &failure{kind: model.ErrTooLarge, text: fmt.Sprintf("more than %d bytes, or %d tool calls", maxAnswer, maxCalls)}
	}
	return said.String(), nil
}

// addCall puts a fragment to the call it belongs to, or begins one. Fragments go
// together by their index. Some servers have none (Gemini), or the same one for
// every call (Ollama before 0.20.6, ollama/ollama#15457): there another id is
// another call.
func (a *answer) addCall(fragment toolCall) {
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
		return a.failed(fmt.Sprintf("an event of more than %d bytes", maxLine), "")
	case a.reason != "", err == nil && a.begun:
		return io.EOF
	case err == nil:
		return a.failed("an empty answer", "")
	case isTimeout(err):
		return &failure{kind: model.ErrTimeout, text: "in the middle of an answer: " + excerpt(err.Error(), a.reply.key)}
	default:
		return a.failed("the answer was cut", err.Error())
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
			return nil, end, a.failed("a tool call without a name or an object of arguments", fmt.Sprintf("%s(%s)", c.name, arguments))
		}
		if c.id == "" {
			c.id = fmt.Sprintf("call_%d", earlier+i+1)
		}
		calls = append(calls, model.ToolCall{ID: c.id, Name: c.name, Arguments: arguments})
	}
	return calls, end, nil
}

func (a *answer) failed(what, text string) error {
	if text != "" {
		what += ": " + excerpt(text, a.reply.key)
	}
	return &failure{kind: model.ErrFailed, text: what}
}
