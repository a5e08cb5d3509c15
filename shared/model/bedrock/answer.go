package bedrock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"postern/shared/model"
)

// maxToolInput bounds the arguments of all tool calls of one answer, in bytes.
const maxToolInput = 1 << 20

var errNonsense = errors.New("the answer makes no sense")

// answer is one answer's events so far. Text passes through; the fragments of a
// tool call wait for their block's end, the stop reason and the usage for each
// other: Bedrock sends the usage last.
type answer struct {
	open  map[int32]*toolUse // tool calls that are still arriving, by content block
	size  int                // bytes of arguments, of those that have arrived too
	stop  model.StopReason
	usage *model.Usage
}

type toolUse struct {
	id, name string
	input    bytes.Buffer
}

// take returns the event that part completes, or the zero Event. Kinds of events
// and of content that we don't ask for are passed over.
func (a *answer) take(part types.ConverseStreamOutput) (model.Event, error) {
	switch p := part.(type) {
	case *types.ConverseStreamOutputMemberContentBlockStart:
		if start, ok := p.Value.Start.(*types.ContentBlockStartMemberToolUse); ok {
			return model.Event{}, a.begin(aws.ToInt32(p.Value.ContentBlockIndex), start.Value)
		}
	case *types.ConverseStreamOutputMemberContentBlockDelta:
		switch delta := p.Value.Delta.(type) {
		case *types.ContentBlockDeltaMemberText:
			return model.Event{Text: delta.Value}, nil
		case *types.ContentBlockDeltaMemberToolUse:
			return model.Event{}, a.add(aws.ToInt32(p.Value.ContentBlockIndex), aws.ToString(delta.Value.Input))
		}
	case *types.ConverseStreamOutputMemberContentBlockStop:
		return a.end(aws.ToInt32(p.Value.ContentBlockIndex))
	case *types.ConverseStreamOutputMemberMessageStop:
		stop, err := stopReason(p.Value.StopReason)
		if err != nil {
			return model.Event{}, err
		}
		a.stop = stop
		return a.finish()
	case *types.ConverseStreamOutputMemberMetadata:
		a.usage = usage(p.Value.Usage)
		return a.finish()
	}
	return model.Event{}, nil
}

func (a *answer) begin(block int32, start types.ToolUseBlockStart) error {
	if a.open[block] != nil {
		return fmt.Errorf("%w: content block %d begins twice", errNonsense, block)
	}
	call := &toolUse{id: aws.ToString(start.ToolUseId), name: aws.ToString(start.Name)}
	if call.id == "" || call.name == "" {
		return fmt.Errorf("%w: a tool call without an id or a name", errNonsense)
	}
	if a.open == nil {
		a.open = map[int32]*toolUse{}
	}
	a.open[block] = call
	return nil
}

func (a *answer) add(block int32, fragment string) error {
	call := a.open[block]
	if call == nil {
		return fmt.Errorf("%w: a fragment of a tool call that hasn't begun", errNonsense)
	}
	if a.size += len(fragment); a.size > maxToolInput {
		return fmt.Errorf("%w: more than %d bytes of arguments", errNonsense, maxToolInput)
	}
	call.input.WriteString(fragment)
	return nil
}

// end is a content block's end. A call without any argument comes without
// fragments, or with empty ones.
func (a *answer) end(block int32) (model.Event, error) {
	call := a.open[block]
	if call == nil {
		return model.Event{}, nil
	}
	delete(a.open, block)
	input := bytes.TrimSpace(call.input.Bytes())
	if len(input) == 0 {
		input = []byte("{}")
	}
	if input[0] != '{' || !json.Valid(input) {
		return model.Event{}, fmt.Errorf("%w: the arguments of tool call %.64q are no JSON object", errNonsense, call.id)
	}
	return model.Event{ToolCall: &model.ToolCall{ID: call.id, Name: call.name, Arguments: input}}, nil
}

// finish returns the last event once both its parts are there.
func (a *answer) finish() (model.Event, error) {
	switch {
	case a.stop == "" || a.usage == nil:
		return model.Event{}, nil
	case len(a.open) > 0:
		return model.Event{}, fmt.Errorf("%w: it ends inside a tool call", errNonsense)
	}
	return model.Event{Stop: a.stop, Usage: *a.usage}, nil
}

// stopReason refuses a reason that it doesn't know: a caller would take the
// answer for whole.
func stopReason(reason types.StopReason) (model.StopReason, error) {
	switch reason {
	case types.StopReasonEndTurn, types.StopReasonStopSequence:
		return model.EndTurn, nil
	case types.StopReasonToolUse:
		return model.ToolUse, nil
	case types.StopReasonMaxTokens, types.StopReasonModelContextWindowExceeded:
		return model.MaxTokens, nil
	case types.StopReasonGuardrailIntervened, types.StopReasonContentFiltered:
		return model.Filtered, nil
	default: // malformed_model_output and malformed_tool_use among them
		return "", fmt.Errorf("%w: it stopped for %.64q", errNonsense, reason)
	}
}

// usage counts what a prompt cache read or took in as input, which it was;
// inputTokens leaves it out.
func usage(u *types.TokenUsage) *model.Usage {
	if u == nil {
		return nil
	}
	return &model.Usage{
		InputTokens:  count(u.InputTokens) + count(u.CacheReadInputTokens) + count(u.CacheWriteInputTokens),
		OutputTokens: count(u.OutputTokens),
	}
}

func count(n *int32) int { return max(0, int(aws.ToInt32(n))) }
