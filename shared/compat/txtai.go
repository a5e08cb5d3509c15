package compat

import (
	"fmt"
	"net/http"
	"strings"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
)

// maxElements bounds one txtai request.
const maxElements = 100

// txtaiWorkflow serves POST /workflow as txtai's API does (neuml.github.io/txtai,
// "API"): {"name", "elements"} is answered with a list of results, one an
// element, in order. The name, which txtai demands, is an agent's or the
// workflow's.
func txtaiWorkflow(chat *agents.Chat) api.Handler {
	type request struct {
		Name     string   `json:"name"`
		Elements []string `json:"elements"`
	}
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		req, err := api.DecodeForeign[request](r)
		switch {
		case err != nil:
			return err
		case req.Name == "":
			return api.Fail(api.InvalidRequest, `The field "name" takes the name of an agent, or of the workflow: GET /agents lists the agents.`)
		case len(req.Elements) == 0:
			return api.Fail(api.InvalidRequest, `The field "elements" takes at least one text.`)
		case len(req.Elements) > maxElements:
			return api.Fail(api.InvalidRequest, `The field "elements" takes %d texts at most, not %d.`, maxElements, len(req.Elements))
		}
		inputs, results := make([]agents.Input, len(req.Elements)), make([]string, len(req.Elements))
		for i, e := range req.Elements {
			switch {
			case strings.TrimSpace(e) == "":
				return &api.Error{Code: api.MessageRequired, Detail: fmt.Sprintf(`The field "elements.%d" takes a text that is not blank.`, i)}
			case len(e) > agents.MaxMessage:
				return &api.Error{Code: api.TooLarge, Detail: "An element may have 256 KiB."}
			}
			inputs[i] = agents.Ask(e)
		}
		answers, err := chat.Answers(r.Context(), caller, req.Name, inputs...)
		if err != nil {
			return err
		}
		for i, answer := range answers {
			results[i] = answer.Text
		}
		return api.WriteJSON(w, http.StatusOK, results)
	}
}
