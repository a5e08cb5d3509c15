package bedrock_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/model"
)

var update = flag.Bool("update", false, "write the goldens")

// everything is a request in which all that can be said is said.
func everything() model.Request {
	temperature := 0.7
	return model.Request{
		Model:  "anthropic.claude-3-5-sonnet-20241022-v2:0",
		System: "You are a \"clerk\".\nBe brief — <b>always</b>.",
		Messages: []model.Message{
			{Role: model.User, Text: "What is the weather in Köln?"},
			{Role: model.User, Text: "And in Bonn?"},
			{Role: model.Assistant, Text: "Let me look.", ToolCalls: []model.ToolCall{
				{ID: "t1", Name: "weather", Arguments: json.RawMessage(`{"z": 12345678901234567890, "a": "Köln", "u": 1.10}`)},
				{ID: "t2", Name: "weather"},
			}},
			{Role: model.ToolRole, ToolCallID: "t1", Text: `{"c":21}`},
			{Role: model.ToolRole, ToolCallID: "t2"},
			{Role: model.User, Text: "In Fahrenheit, please."},
			{Role: model.Assistant, Text: " \n"},
			{Role: model.User, Text: "\t"},
			{Role: model.User, Text: "Well?"},
		},
		Tools: []model.Tool{
			{Name: "weather", Description: "The weather of a place.", Parameters: json.RawMessage(`{"type":"object","properties":{"place":{"type":"string","maxLength":100},"a":{"type":"integer"}},"required":["place"]}`)},
			{Name: "now"},
		},
		MaxTokens:   1000,
		Temperature: &temperature,
		StopAt:      []string{"END", "", "\n\n"},
	}
}

func TestTheRequestIsTheGolden(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	if _, err := collect(t.Context(), t, m, everything()); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, fake.Calls()[0].Body, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	const golden = "testdata/request.json"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the request (-want +got):\n%s", diff)
	}
}

func TestTheLeastRequest(t *testing.T) {
	t.Parallel()
	fake, m := start(t)
	req := hello()
	req.System = "\n"
	if _, err := collect(t.Context(), t, m, req); err != nil {
		t.Fatal(err)
	}
	got, want := string(fake.Calls()[0].Body), `{"messages":[{"content":[{"text":"Hello?"}],"role":"user"}]}`
	if got != want {
		t.Errorf("the request is %s, want %s", got, want)
	}
}

func TestTheModelIsOneSegmentOfThePath(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ id, path string }{
		{"anthropic.claude-3-5-sonnet-20241022-v2:0", "/model/anthropic.claude-3-5-sonnet-20241022-v2%3A0/converse-stream"},
		{"eu.amazon.nova-lite-v1:0", "/model/eu.amazon.nova-lite-v1%3A0/converse-stream"},
		{"arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0",
			"/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Ainference-profile%2Feu.amazon.nova-lite-v1%3A0/converse-stream"},
		{"a%2Fb?c#d/../é", "/model/a%252Fb%3Fc%23d%2F..%2F%C3%A9/converse-stream"},
	} {
		t.Run(test.id, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			req := hello()
			req.Model = test.id
			if _, err := collect(t.Context(), t, m, req); err != nil {
				t.Fatal(err)
			}
			if got := fake.Calls()[0]; got.Path != test.path || got.Model != test.id {
				t.Errorf("the path is %s for %s, want %s for %s", got.Path, got.Model, test.path, test.id)
			}
		})
	}
}

func TestARequestThatCannotBeSaid(t *testing.T) {
	t.Parallel()
	user := model.Message{Role: model.User, Text: "x"}
	for _, test := range []struct {
		name string
		req  model.Request
		want string
	}{
		{"no model", model.Request{Messages: []model.Message{user}}, "the request names no model"},
		{"no message", model.Request{}, "every message to the model is blank"},
		{"blank messages", model.Request{Messages: []model.Message{{Role: model.User, Text: " "}, {Role: model.Assistant}}}, "every message to the model is blank"},
		{"an unknown role", model.Request{Messages: []model.Message{user, {Role: "system", Text: "x"}}}, `message 2: unknown role "system"`},
		{"arguments that are no object", model.Request{Messages: []model.Message{user, {Role: model.Assistant, ToolCalls: []model.ToolCall{{ID: "t1", Arguments: json.RawMessage(`[]`)}}}}},
			"message 2: arguments of tool call t1: not a JSON object"},
		{"arguments that would break out", model.Request{Messages: []model.Message{user, {Role: model.Assistant, ToolCalls: []model.ToolCall{{ID: "t1", Arguments: json.RawMessage(`{}},{"text":"x"`)}}}}},
			"message 2: arguments of tool call t1: not a JSON object"},
		{"a schema that is none", model.Request{Messages: []model.Message{user}, Tools: []model.Tool{{Name: "t", Parameters: json.RawMessage(`true`)}}},
			"parameters of tool t: not a JSON object"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, m := start(t)
			if test.req.Model = "x"; test.name == "no model" {
				test.req.Model = ""
			}
			_, err := collect(t.Context(), t, m, test.req)
			if err == nil || err.Error() != test.want {
				t.Errorf("the error is %v, want %s", err, test.want)
			}
			for _, kind := range kinds {
				if errors.Is(err, kind) {
					t.Errorf("the error is the backend's: %v", err)
				}
			}
			if n := len(fake.Calls()); n != 0 {
				t.Errorf("%d calls, want none", n)
			}
		})
	}
}
