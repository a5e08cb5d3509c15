// Package model is the one interface to a language model.
//
// A Model turns a Request (system prompt, turns, tools, bounds) into a stream
// of Events: pieces of text as they arrive, whole tool calls, and exactly one
// last event that says why the model stopped and what it used. There is no
// second, buffered call: whoever wants the whole answer collects the stream.
//
// The interface is shaped by the two wire formats that stand behind it,
// OpenAI's chat completions and Bedrock's ConverseStream: both stream deltas,
// both report usage once at the end, both name a stop reason, both take tool
// calls as (id, name, JSON arguments) and want the results back under the same
// id. Leaves (model/offline, model/openai, model/bedrock) translate and nothing
// more; they are imported by mains alone, so a Lambda links only what it runs.
//
// Cancellation is the context's: a leaf stops its upstream call when ctx ends
// and yields ctx's error. Breaking out of the loop cancels too.
package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Failures of a backend, for errors.Is. A leaf wraps the upstream's own text
// for the log; that text never reaches a caller.
var (
	ErrFailed      = errors.New("model backend failed")      // it answered, with an error or nonsense
	ErrUnavailable = errors.New("model backend unavailable") // not reachable, not configured, overloaded
	ErrTimeout     = errors.New("model backend timed out")

	// ErrTooLarge is ErrFailed's case of an answer that goes on and on.
	ErrTooLarge = fmt.Errorf("%w: the answer is too large", ErrFailed)
	// ErrRefused is ErrFailed's case of a request that the backend won't run as it
	// stands, nor another time. It has written nothing; some bill what they read.
	ErrRefused = fmt.Errorf("%w: it refuses the request", ErrFailed)
	// ErrTooLong is ErrRefused's case of messages beyond the model's window.
	ErrTooLong = fmt.Errorf("%w: it is too long", ErrRefused)
)

// Refusal is what a refusal with that text means: ErrTooLong, or ErrRefused. There
// is no one word for the former; these are OpenAI's, vLLM's, llama.cpp's, LiteLLM's
// and those of the models behind Bedrock.
func Refusal(text string) error {
	text = strings.ToLower(text)
	for _, words := range []string{
		"context length", "context_length", "context window", "contextwindow", "context size", "context_size",
		"input is too long", "prompt is too long", "too many input tokens", "input tokens exceed",
	} {
		if strings.Contains(text, words) {
			return ErrTooLong
		}
	}
	return ErrRefused
}

// Unused reports whether a call that failed so is known to have used nothing.
func Unused(err error) bool { return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrTooLong) }

// Model is one provider's models, or a single one.
type Model interface {
	// Stream runs req once. It yields text and tool calls as they arrive and
	// ends with one Event whose Stop is set; after an error nothing follows.
	// The sequence is single-use, and stops the upstream call when the
	// consumer breaks out or ctx ends.
	Stream(ctx context.Context, req Request) iter.Seq2[Event, error]
}

// Request is one call of a model.
type Request struct {
	Model    string // the name without its provider: "eliza", "gpt-4o-mini"
	System   string
	Messages []Message // oldest first; the last is the one to answer
	Tools    []Tool

	MaxTokens   int      // 0: the provider's default
	Temperature *float64 // nil: the provider's default
	StopAt      []string // sequences that end the answer

	Once bool // no second try unless the first is known to have used nothing (Unused)
}

// Role says whose turn a message is.
type Role string

const (
	User      Role = "user"
	Assistant Role = "assistant"
	ToolRole  Role = "tool"
)

// Message is one turn. An assistant's turn may carry tool calls beside or
// instead of text; a tool's turn is the result of the call ToolCallID.
type Message struct {
	Role       Role
	Text       string
	ToolCalls  []ToolCall
	ToolCallID string
}

// Tool is something the model may ask to be run. Parameters is a JSON Schema
// of type object.
type Tool struct {
	Name        string
	Description string
	Parameters  json.RawMessage
}

// ToolCall is the model's wish to run a tool: complete, never a fragment.
type ToolCall struct {
	ID        string
	Name      string
	Arguments json.RawMessage // an object
}

// Event is one piece of an answer. Exactly one of its three parts is set: Text,
// ToolCall, or Stop (with Usage), which comes last.
type Event struct {
	Text     string
	ToolCall *ToolCall
	Stop     StopReason
	Usage    Usage
}

// StopReason is why a model ended its turn.
type StopReason string

const (
	EndTurn   StopReason = "end_turn"   // it had said all, or met a stop sequence
	ToolUse   StopReason = "tool_use"   // it waits for the results of its tool calls
	MaxTokens StopReason = "max_tokens" // cut at the bound
	Filtered  StopReason = "filtered"   // the provider withheld the rest
)

// Usage counts tokens as the provider bills them; a model that has no tokens
// counts words.
type Usage struct {
	InputTokens  int `json:"input_tokens"`
	OutputTokens int `json:"output_tokens"`
}

// Name is a model's full name, "provider/name".
type Name struct{ Provider, Name string }

func (n Name) String() string { return n.Provider + "/" + n.Name }

// ParseName reads "provider/name". A bare name is OpenAI's, as in the files
// people bring along ("gpt-4o-mini"); only the first slash divides, so
// "openai/meta-llama/Llama-3" keeps its own.
func ParseName(s string) (Name, error) {
	provider, name, found := strings.Cut(s, "/")
	if !found {
		provider, name = "openai", s
	}
	if provider == "" || name == "" || strings.ContainsAny(s, " \t\r\n") {
		return Name{}, fmt.Errorf("model %q: write provider/name, for example offline/eliza", s)
	}
	return Name{provider, name}, nil
}
