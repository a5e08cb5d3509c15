package compat

import (
	"net/http"
	"sync"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
)

// Bounds of one txtai request.
const (
	maxElements        = 100
	concurrentElements = 8
)

// TxtaiWorkflow serves POST /workflow as txtai's API does (neuml.github.io/txtai,
// "API"): {"name", "elements"} is answered with a list of results, one an
// element, in order. The name is an agent's or the workflow's; without one the
// default answers. The first failure, in the elements' order, is the answer to
// all.
func TxtaiWorkflow(chat *agents.Chat) api.Handler {
	type request struct {
		Name     string   `json:"name"`
		Elements []string `json:"elements"`
	}
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		req, err := api.DecodeForeign[request](r)
		switch {
		case err != nil:
			return err
		case len(req.Elements) == 0:
			return api.Fail(api.InvalidRequest, `The field "elements" takes at least one text.`)
		case len(req.Elements) > maxElements:
			return api.Fail(api.InvalidRequest, `The field "elements" takes %d texts at most, not %d.`, maxElements, len(req.Elements))
		}
		for _, e := range req.Elements {
			if len(e) > agents.MaxMessage {
				return &api.Error{Code: api.TooLarge, Detail: "An element may have 256 KiB."}
			}
		}
		results, errs := make([]string, len(req.Elements)), make([]error, len(req.Elements))
		var group sync.WaitGroup
		slots := make(chan struct{}, concurrentElements)
		for i, e := range req.Elements {
			slots <- struct{}{}
			group.Go(func() {
				defer func() { <-slots }()
				var answer agents.Answer
				answer, errs[i] = chat.Answer(r.Context(), caller, req.Name, agents.Ask(e))
				results[i] = answer.Text
			})
		}
		group.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return api.WriteJSON(w, http.StatusOK, results)
	}
}
