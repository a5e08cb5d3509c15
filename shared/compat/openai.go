package compat

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
)

// The routes of OpenAI's API that its clients need to chat
// (platform.openai.com/docs/api-reference): an agent is a model.

// modelEntry is an agent as OpenAI describes a model. created is constant: an
// agent has no birthday.
type modelEntry struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func modelOf(name string) modelEntry { return modelEntry{name, "model", 0, "postern"} }

// openAIModels serves GET /v1/models.
func openAIModels(listing *agents.Listing) api.Handler {
	type list struct {
		Object string       `json:"object"`
		Data   []modelEntry `json:"data"`
	}
	return func(w http.ResponseWriter, _ *http.Request, caller auth.Caller) error {
		models := list{"list", []modelEntry{}}
		for _, a := range listing.For(caller) {
			models.Data = append(models.Data, modelOf(a.Name))
		}
		return api.WriteJSON(w, http.StatusOK, models)
	}
}

// openAIModel serves GET /v1/models/{name}.
func openAIModel(listing *agents.Listing) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		a, found := listing.Find(caller, r.PathValue("name"))
		if !found {
			return openAIError(w, agents.ErrNoAgent)
		}
		return api.WriteJSON(w, http.StatusOK, modelOf(a.Name))
	}
}

type completionRequest struct {
	Model               string              `json:"model"`
	Messages            []completionMessage `json:"messages"`
	Stream              bool                `json:"stream"`
	StreamOptions       streamOptions       `json:"stream_options"`
	MaxTokens           *int                `json:"max_tokens"`
	MaxCompletionTokens *int                `json:"max_completion_tokens"`
	Temperature         *float64            `json:"temperature"`
	Stop                texts               `json:"stop"`
	N                   *int                `json:"n"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type completionMessage struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// texts is a text or a list of texts.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var one *string // nil: null, which is no text, and not an empty one
	if json.Unmarshal(b, &one) == nil && one != nil {
		*t = texts{*one}
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
	errTexts   = errors.New("it takes a text or a list of texts")
	errContent = errors.New("it takes a text or a list of text parts")
)

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

func usageOf(u model.Usage) completionUsage {
	return completionUsage{u.InputTokens, u.OutputTokens, u.InputTokens + u.OutputTokens}
}

// openAICompletions serves POST /v1/chat/completions.
func openAICompletions(chat *agents.Chat) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		req, err := api.DecodeForeign[completionRequest](r)
		if err != nil {
			return openAIError(w, err)
		}
		in, err := req.input()
		if err != nil {
			return openAIError(w, err)
		}
		id, created := "chatcmpl-"+api.RequestID(w), time.Now().Unix()
		if req.Stream {
			s := newCompletionStream(w, id, created, req)
			defer s.Close()
			if err := chat.Stream(r.Context(), caller, req.Model, in, s.take); err != nil {
				return s.fail(r, err)
			}
			return s.finish()
		}
		answers, err := chat.Answers(r.Context(), caller, req.Model, in)
		if err != nil {
			return openAIFailure(w, r, err)
		}
		answer := answers[0]
		return api.WriteJSON(w, http.StatusOK, completion{
			ID:      id,
			Object:  "chat.completion",
			Created: created,
			Model:   answer.Agent,
			Choices: []completionChoice{{Message: reply{"assistant", answer.Text}, FinishReason: finishReason(answer.Stop)}},
			Usage:   usageOf(answer.Usage),
		})
	}
}

// input is the request as a run takes it. The agent's prompt is its author's, so
// a system message of the caller's is told as the caller's.
func (req completionRequest) input() (agents.Input, error) {
	switch {
	case req.Model == "":
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "model" takes an agent's name: GET /v1/models lists them.`)
	case req.N != nil && *req.N != 1:
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "n" takes 1.`)
	case req.MaxTokens != nil && *req.MaxTokens < 1, req.MaxCompletionTokens != nil && *req.MaxCompletionTokens < 1:
		return agents.Input{}, api.Fail(api.InvalidRequest, `The fields "max_tokens" and "max_completion_tokens" take a whole number above 0.`)
	case req.Temperature != nil && (*req.Temperature < 0 || *req.Temperature > 2):
		return agents.Input{}, api.Fail(api.InvalidRequest, `The field "temperature" takes a number from 0 to 2.`)
	}
	in := agents.Input{Temperature: req.Temperature, StopAt: req.Stop}
	for _, bound := range []*int{req.MaxTokens, req.MaxCompletionTokens} {
		if bound != nil {
			in.MaxTokens = max(in.MaxTokens, *bound)
		}
	}
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

// openAIFailure is openAIError for a run, in which the caller may have left: that
// is no failure, and nobody reads an answer to it.
func openAIFailure(w http.ResponseWriter, r *http.Request, err error) error {
	if left := r.Context().Err(); left != nil {
		return left
	}
	return openAIError(w, err)
}

// openAIError answers with err in OpenAI's shape. OpenAI's clients sleep through a
// Retry-After, and try a 502 again: through more than a minute they shall not, nor
// what is refused for good.
func openAIError(w http.ResponseWriter, err error) error {
	api.SetErrorHeaders(w.Header(), err)
	if e, ok := errors.AsType[*api.Error](err); ok && (e.RetryAfter > time.Minute || e.Code == api.ModelRefused) {
		w.Header().Set("x-should-retry", "false")
	}
	status, body := faultOf(err, api.RequestID(w))
	if err := api.WriteJSON(w, status, body); err != nil {
		return err
	}
	return api.Told(err)
}

type fault struct {
	Error faultError `json:"error"`
}

type faultError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// faultOf renders err as OpenAI does, for the request of that id.
func faultOf(err error, requestID string) (status int, body fault) {
	p := api.ProblemOf(err, requestID)
	f := faultError{Message: p.Title + ": " + p.Detail, Type: "invalid_request_error"}
	switch {
	case p.Status == http.StatusNotFound:
		f.Code = new("model_not_found")
	case p.Status >= 500:
		f.Type = "server_error"
	}
	return p.Status, fault{f}
}
