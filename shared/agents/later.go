package agents

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
)

// Errand is a chat that nobody waits for.
type Errand struct {
	Message   string  `json:"message"`
	Agent     string  `json:"agent,omitempty"`      // as the caller said it; "": the default
	SessionID *string `json:"session_id,omitempty"` // nil: no conversation
}

var (
	errCallback = api.Fail(api.InvalidRequest, `The field "callback" is for who doesn't wait: send the header "Prefer: respond-async" with it, or leave it out. Under sam local nobody can do otherwise than wait.`)
	errBoth     = api.Fail(api.InvalidRequest, `A stream is for who waits: leave out "stream" and "Accept: text/event-stream", or the header "Prefer: respond-async".`)
)

// accept answers POST /chat for who doesn't wait.
func (c *Chat) accept(w http.ResponseWriter, r *http.Request, caller auth.Caller, req chatRequest, message string) error {
	if req.Stream || api.WantsStream(r) {
		return errBoth
	}
	callback, err := jobs.NewCallback(req.Callback)
	if err != nil {
		return err
	}
	order := jobs.Order{RequestID: api.RequestID(w), Callback: callback}
	job, err := c.Later(r.Context(), caller, Errand{message, req.Agent, req.SessionID}, order)
	if err != nil {
		return err
	}
	w.Header().Set("Preference-Applied", "respond-async")
	return jobs.Accepted(w, job)
}

// Later has an errand run as a job, unless it can be refused at once. order says
// what isn't the errand's own: its type, its label, its callback.
func (c *Chat) Later(ctx context.Context, caller auth.Caller, errand Errand, order jobs.Order) (jobs.Job, error) {
	if _, found := c.runner().Find(caller, errand.Agent); !found {
		return jobs.Job{}, ErrNoAgent
	}
	if _, err := c.recall(ctx, caller, errand.SessionID, errand.Message); err != nil {
		return jobs.Job{}, err
	}
	request, err := json.Marshal(errand)
	if err != nil {
		return jobs.Job{}, err
	}
	order.Request = request
	return c.Jobs.Submit(ctx, caller, order)
}

// Run runs an errand to its end, as a jobs.Worker's Run. The result is what POST
// /chat would have answered.
func (c *Chat) Run(ctx context.Context, caller auth.Caller, requestID string, request []byte) (any, error) {
	var e Errand
	if err := json.Unmarshal(request, &e); err != nil {
		return nil, err
	}
	what, found := c.runner().Find(caller, e.Agent)
	if !found {
		return nil, ErrNoAgent
	}
	ctx, cancel := c.bound(ctx, true)
	defer cancel()
	in, err := c.recall(ctx, caller, e.SessionID, e.Message)
	if err != nil {
		return nil, err
	}
	run := &run{what: what, id: requestID}
	if err := c.run(ctx, caller, what, in, run.take); err != nil {
		return nil, failure(ctx, err)
	}
	lost := c.remember(ctx, caller, e.SessionID, e.Message, run)
	return run.reply(), lost
}

// wantsLater reports whether r prefers an answer that it doesn't wait for (RFC
// 7240, section 4.1).
func wantsLater(r *http.Request) bool {
	for _, header := range r.Header["Prefer"] {
		for preference := range strings.SplitSeq(unquoted(header), ",") {
			name, _, _ := strings.Cut(preference, ";")
			name = strings.TrimRight(name, "= \t") // an empty value is none
			if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
				return true
			}
		}
	}
	return false
}

// unquoted is a header's value with its quoted strings empty: there may be commas
// in them. Where a string isn't empty, a ? stands for it.
func unquoted(value string) string {
	pieces := strings.Split(strings.NewReplacer(`\\`, "?", `\"`, "?").Replace(value), `"`)
	for i := 1; i < len(pieces); i += 2 {
		pieces[i] = strings.Repeat("?", min(len(pieces[i]), 1))
	}
	return strings.Join(pieces, "")
}
