package compat

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
)

// OpenAI serves the routes of OpenAI's API that its clients need to chat
// (platform.openai.com/docs/api-reference): an agent is a model.
type OpenAI struct {
	Listing *agents.Listing
	Chat    *agents.Chat     // for Completions alone
	Now     func() time.Time // nil: time.Now
}

// openAIModel is an agent as OpenAI describes a model. created is constant: an
// agent has no birthday.
type openAIModel struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func modelOf(name string) openAIModel { return openAIModel{name, "model", 0, "postern"} }

// Models serves GET /v1/models.
func (o OpenAI) Models(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	list := struct {
		Object string        `json:"object"`
		Data   []openAIModel `json:"data"`
	}{"list", []openAIModel{}}
	for _, a := range o.Listing.For(caller) {
		list.Data = append(list.Data, modelOf(a.Name))
	}
	return api.WriteJSON(w, http.StatusOK, list)
}

// Model serves GET /v1/models/{name}.
func (o OpenAI) Model(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	a, found := o.Listing.Find(caller, r.PathValue("name"))
	if !found {
		return openAIError(w, agents.ErrNoAgent)
	}
	return api.WriteJSON(w, http.StatusOK, modelOf(a.Name))
}

type completionRequest struct {
	Model               string              `json:"model"`
	Messages            []completionMessage `json:"messages"`
	Stream              bool                `json:"stream"`
	MaxTokens           int                 `json:"max_tokens"`
	MaxCompletionTokens int                 `json:"max_completion_tokens"`
	Temperature         *float64            `json:"temperature"`
	Stop                texts               `json:"stop"`
	N                   int                 `json:"n"`
}

type completionMessage struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// texts is a text or a list of texts.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = texts{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return errTexts
	}
	*t = many
	return nil
}

// content is a message's text, whether it came as one or in parts.
type content string

func (c *content) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*c = content(text)
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if json.Unmarshal(b, &parts) != nil {
		return errContent
	}
	for _, p := range parts {
		if p.Type != "text" {
			return errContent
		}
		*c += content(p.Text)
	}
	return nil
}

var (
	errTexts   = constError("it takes a text or a list of texts")
	errContent = constError("it takes a text or a list of text parts")
)

type constError string

func (e constError) Error() string { return string(e) }

type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   completionUsage    `json:"usage"`
}

type completionChoice struct {
	Index        int    `json:"index"`
	Message      reply  `json:"message"`
	FinishReason string `json:"finish_reason"`
}

type reply struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type completionUsage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// Completions serves POST /v1/chat/completions, so far in one piece.
func (o OpenAI) Completions(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	req, err := api.DecodeForeign[completionRequest](r)
	if err != nil {
		return openAIError(w, err)
	}
	in, err := req.input()
	if err != nil {
		return openAIError(w, err)
	}
	answer, err := o.Chat.Answer(r.Context(), caller, req.Model, in)
	if err != nil {
		return openAIError(w, err)
	}
	now := time.Now()
	if o.Now != nil {
		now = o.Now()
	}
	return api.WriteJSON(w, http.StatusOK, completion{
		ID:      "chatcmpl-" + api.RequestID(w),
		Object:  "chat.completion",
		Created: now.Unix(),
		Model:   answer.Agent,
		Choices: []completionChoice{{Message: reply{"assistant", answer.Text}, FinishReason: finishReason(answer.Stop)}},
		Usage: completionUsage{answer.Usage.InputTokens, answer.Usage.OutputTokens,
			answer.Usage.InputTokens + answer.Usage.OutputTokens},
	})
}

// input is the request as a run takes it. The agent's prompt is its author's, so
// a system message of the caller's is told as the caller's.
func (req completionRequest) input() (agents.Input, error) {
	switch {
	case req.Model == "":
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "model" takes an agent's name: GET /v1/models lists them.`)
	case req.Stream:
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "stream" takes false here so far; POST /chat streams.`)
	case req.N > 1:
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "n" takes 1.`)
	case req.MaxTokens < 0 || req.MaxCompletionTokens < 0:
		return agents.Input{}, api.Fail(api.InvalidRequest, `The fields "max_tokens" and "max_completion_tokens" take a whole number above 0.`)
	case req.Temperature != nil && (*req.Temperature < 0 || *req.Temperature > 2):
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "temperature" takes a number from 0 to 2.`)
	}
	in := agents.Input{MaxTokens: max(req.MaxTokens, req.MaxCompletionTokens), Temperature: req.Temperature, StopAt: req.Stop}
	for i, m := range req.Messages {
		role := model.User
		switch m.Role {
		case "user", "system", "developer":
		case "assistant":
			role = model.Assistant
		default:
			return agents.Input{}, api.Fail(api.InvalidRequest, `The field "messages.%d.role" takes user, assistant, system or developer.`, i)
		}
		if len(m.Content) > agents.MaxMessage {
			return agents.Input{}, &api.Error{Code: api.TooLarge}
		}
		in.Messages = append(in.Messages, model.Message{Role: role, Text: string(m.Content)})
	}
	last := len(in.Messages) - 1
	if last < 0 || in.Messages[last].Role != model.User || strings.TrimSpace(in.Messages[last].Text) == "" {
		return agents.Input{}, &api.Error{Code: api.MessageRequired, Detail: `The field "messages" takes a list whose last message is a user's with a text.`}
	}
	return in, nil
}

func finishReason(s model.StopReason) string {
	switch s {
	case model.MaxTokens:
		return "length"
	case model.Filtered:
		return "content_filter"
	default:
		return "stop"
	}
}

// openAIError answers with err in OpenAI's shape.
func openAIError(w http.ResponseWriter, err error) error {
	api.SetErrorHeaders(w.Header(), err)
	p := api.ProblemOf(err, api.RequestID(w))
	kind, code := "invalid_request_error", any(nil)
	switch {
	case p.Status == http.StatusNotFound:
		code = "model_not_found"
	case p.Status >= 500:
		kind = "server_error"
	}
	type fault struct {
		Message string `json:"message"`
		Type    string `json:"type"`
		Param   any    `json:"param"`
		Code    any    `json:"code"`
	}
	if err := api.WriteJSON(w, p.Status, struct {
		Error fault `json:"error"`
	}{fault{p.Title + ": " + p.Detail, kind, nil, code}}); err != nil {
		return err
	}
	return api.Told(err)
}
