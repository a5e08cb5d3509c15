package bedrockfake

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
)

// Step is one thing that an answer does. It reports whether the answer goes on.
type Step func(*answer) bool

// answer is one on its way to a client.
type answer struct {
	w      http.ResponseWriter
	r      *http.Request
	closed <-chan struct{}
}

// Say is a whole answer: each text one event, then end_turn, 10 tokens in and 2
// out.
func Say(texts ...string) []Step {
	steps := []Step{MessageStart()}
	for _, text := range texts {
		steps = append(steps, Text(text))
	}
	return append(steps, BlockStop(0), Stop("end_turn"), Usage(10, 2))
}

// MessageStart is the first event of every answer of Bedrock's.
func MessageStart() Step { return Event("messageStart", fields{"role": "assistant"}) }

// Text is a piece of text, in content block 0.
func Text(text string) Step {
	return Event("contentBlockDelta", fields{"contentBlockIndex": 0, "delta": fields{"text": text}})
}

// ToolStart begins a tool call in a content block of its own.
func ToolStart(block int, id, name string) Step {
	return Event("contentBlockStart", fields{"contentBlockIndex": block, "start": fields{"toolUse": fields{"toolUseId": id, "name": name}}})
}

// ToolInput is a fragment of a tool call's arguments.
func ToolInput(block int, fragment string) Step {
	return Event("contentBlockDelta", fields{"contentBlockIndex": block, "delta": fields{"toolUse": fields{"input": fragment}}})
}

// BlockStop ends a content block.
func BlockStop(block int) Step { return Event("contentBlockStop", fields{"contentBlockIndex": block}) }

// Stop ends the message. Bedrock's usage follows it.
func Stop(reason string) Step { return Event("messageStop", fields{"stopReason": reason}) }

// Usage is the last event of every answer of Bedrock's.
func Usage(input, output int) Step {
	return Event("metadata", fields{
		"usage":   fields{"inputTokens": input, "outputTokens": output, "totalTokens": input + output},
		"metrics": fields{"latencyMs": 1},
	})
}

// Whole is a whole answer of Converse's: its content, 10 tokens in and 2 out.
func Whole(stop string, content ...any) []Step {
	return JSON(fields{
		"output":     fields{"message": fields{"role": "assistant", "content": content}},
		"stopReason": stop,
		"usage":      fields{"inputTokens": 10, "outputTokens": 2, "totalTokens": 12},
		"metrics":    fields{"latencyMs": 1},
	})
}

// TextBlock is text in a whole answer.
func TextBlock(text string) any { return fields{"text": text} }

// ToolBlock is a tool call in a whole answer; its input is JSON.
func ToolBlock(id, name, input string) any {
	return fields{"toolUse": fields{"toolUseId": id, "name": name, "input": json.RawMessage(input)}}
}

// JSON is any whole answer.
func JSON(answer any) []Step {
	body, err := json.Marshal(answer)
	if err != nil {
		panic(fmt.Sprintf("bedrockfake: a whole answer: %v", err))
	}
	return []Step{Bytes(body)}
}

type fields = map[string]any

// Event is any event, its payload as JSON. Like Bedrock it adds a member "p" that
// no model of the API has, and that hides the payload's length.
func Event(kind string, payload fields) Step {
	padded := fields{"p": "abcdefghijk"}
	maps.Copy(padded, payload)
	body, err := json.Marshal(padded)
	if err != nil {
		panic(fmt.Sprintf("bedrockfake: the payload of a %s: %v", kind, err))
	}
	return Frame(kind, body)
}

// Frame is an event with any payload.
func Frame(kind string, payload []byte) Step {
	return message(payload, ":event-type", kind, ":content-type", "application/json", ":message-type", "event")
}

// Exception is an exception inside an answer, by its member's name
// ("throttlingException"). Nothing follows it.
func Exception(kind, text string) Step {
	payload, _ := json.Marshal(fields{"message": text}) // never fails
	return last(message(payload, ":exception-type", kind, ":content-type", "application/json", ":message-type", "exception"))
}

// Error is a failure outside the API's model inside an answer. Nothing follows it.
func Error(code, text string) Step {
	return last(message(nil, ":error-code", code, ":error-message", text, ":message-type", "error"))
}

func last(step Step) Step {
	return func(a *answer) bool {
		step(a)
		return false
	}
}

func message(payload []byte, headers ...string) Step {
	var m eventstream.Message
	m.Payload = payload
	for i := 0; i < len(headers); i += 2 {
		m.Headers.Set(headers[i], eventstream.StringValue(headers[i+1]))
	}
	return func(a *answer) bool {
		err := eventstream.NewEncoder().Encode(a.w, m)
		a.flush()
		return err == nil
	}
}

// Bytes is anything at all in an event's place.
func Bytes(b []byte) Step {
	return func(a *answer) bool {
		_, err := a.w.Write(b)
		a.flush()
		return err == nil
	}
}

func (a *answer) flush() { http.NewResponseController(a.w).Flush() }

// Begin sends the response's header and nothing else.
func Begin() Step {
	return func(a *answer) bool {
		a.flush()
		return true
	}
}

// Gate holds an answer until release is called. A client that leaves, or Close,
// ends it.
func Gate() (s Step, release func()) {
	open := make(chan struct{})
	s = func(a *answer) bool {
		select {
		case <-open:
			return true
		case <-a.r.Context().Done():
		case <-a.closed:
		}
		return false
	}
	return s, sync.OnceFunc(func() { close(open) })
}

// Hang says nothing more till the client leaves.
func Hang() Step {
	s, _ := Gate()
	return s
}

// Cut breaks the connection off in the middle of the answer.
func Cut() Step { return func(*answer) bool { panic(http.ErrAbortHandler) } }

// Record returns the bytes of steps that send some.
func Record(steps ...Step) []byte {
	w := httptest.NewRecorder()
	for _, step := range steps {
		if !step(&answer{w: w}) {
			break
		}
	}
	return w.Body.Bytes()
}
