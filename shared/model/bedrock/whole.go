package bedrock

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"github.com/aws/smithy-go"
)

// unstreamed reports whether ConverseStream was refused for its streaming. There
// is no exception of its own for that, and each model has other words for it. A
// refusal that merely speaks of streaming comes once more, from Converse.
func unstreamed(err error) bool {
	exception, ok := errors.AsType[smithy.APIError](err)
	return ok && exception.ErrorCode() == "ValidationException" &&
		strings.Contains(strings.ToLower(exception.ErrorMessage()), "streaming")
}

// wholeInput is in for Converse. A field that newInput sets belongs here too.
func wholeInput(in *bedrockruntime.ConverseStreamInput) *bedrockruntime.ConverseInput {
	return &bedrockruntime.ConverseInput{
		ModelId:         in.ModelId,
		Messages:        in.Messages,
		System:          in.System,
		ToolConfig:      in.ToolConfig,
		InferenceConfig: in.InferenceConfig,
	}
}

// whole is an answer of Converse's as the stream that it would have been.
type whole chan types.ConverseStreamOutput

func (w whole) Events() <-chan types.ConverseStreamOutput { return w }
func (whole) Err() error                                  { return nil }
func (whole) Close() error                                { return nil }

func newWhole(out *bedrockruntime.ConverseOutput) (whole, error) {
	var parts []types.ConverseStreamOutput
	if message, ok := out.Output.(*types.ConverseOutputMemberMessage); ok {
		for _, block := range message.Value.Content {
			of, err := partsOf(block)
			if err != nil {
				return nil, err
			}
			parts = append(parts, of...)
		}
	}
	parts = append(parts,
		&types.ConverseStreamOutputMemberMessageStop{Value: types.MessageStopEvent{StopReason: out.StopReason}},
		&types.ConverseStreamOutputMemberMetadata{Value: types.ConverseStreamMetadataEvent{Usage: out.Usage}})
	w := make(whole, len(parts))
	defer close(w)
	for _, part := range parts {
		w <- part
	}
	return w, nil
}

// partsOf passes over the content that answer does. Blocks need no index: each
// ends before the next begins.
func partsOf(block types.ContentBlock) ([]types.ConverseStreamOutput, error) {
	switch b := block.(type) {
	case *types.ContentBlockMemberText:
		return []types.ConverseStreamOutput{delta(&types.ContentBlockDeltaMemberText{Value: b.Value})}, nil
	case *types.ContentBlockMemberToolUse:
		var input []byte // none is an empty object, as in a stream
		if b.Value.Input != nil {
			var err error
			if input, err = b.Value.Input.MarshalSmithyDocument(); err != nil {
				return nil, fmt.Errorf("%w: %w", errNonsense, err)
			}
		}
		start := types.ToolUseBlockStart{ToolUseId: b.Value.ToolUseId, Name: b.Value.Name}
		return []types.ConverseStreamOutput{
			&types.ConverseStreamOutputMemberContentBlockStart{Value: types.ContentBlockStartEvent{
				Start: &types.ContentBlockStartMemberToolUse{Value: start}}},
			delta(&types.ContentBlockDeltaMemberToolUse{Value: types.ToolUseBlockDelta{Input: aws.String(string(input))}}),
			&types.ConverseStreamOutputMemberContentBlockStop{},
		}, nil
	default:
		return nil, nil
	}
}

func delta(d types.ContentBlockDelta) types.ConverseStreamOutput {
	return &types.ConverseStreamOutputMemberContentBlockDelta{Value: types.ContentBlockDeltaEvent{Delta: d}}
}
