package agents

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
	"postern/shared/model"
)

// MaxMessage bounds a chat's message, in bytes.
const MaxMessage = 256 << 10

// deadlineMargin is left before a Lambda's deadline, to tell the caller that
// the time is up instead of being killed.
const deadlineMargin = 5 * time.Second

// Chat serves POST /chat.
type Chat struct {
	File    *File
	Models  Models
	Timeout time.Duration // of one chat
	Silence time.Duration // of one that says nothing before its end; 0: none but Timeout
	Budget  Budget        // nil: callers who have a budget are refused

	Sessions Sessions    // needed where a request may name a session
	Jobs     *jobs.Store // nil: every caller waits for its answer

	// Ran is told of each run when it has ended, well or not; nil: nobody is.
	// A run that failed is told without the tokens it may have used.
	Ran func(ctx context.Context, caller auth.Caller, agent string, since time.Time, used model.Usage)
}

// Sessions keeps conversations, each of them its caller's own (package sessions).
type Sessions interface {
	// Read returns what a model is told of a conversation, oldest first: nothing
	// of one that there is not. Its errors are for the api's error table.
	Read(ctx context.Context, caller auth.Caller, id string) ([]model.Message, error)

	// Append adds a message and its whole answer to a conversation, or begins it,
	// whatever has become of ctx meanwhile.
	Append(ctx context.Context, caller auth.Caller, id, agent, message, answer string) error
}

type chatRequest struct {
	Message   any     `json:"message"` // a string; any, so that another type is told as a missing message
	Agent     string  `json:"agent"`
	SessionID *string `json:"session_id"` // nil: no conversation
	Stream    bool    `json:"stream"`

	Callback *jobs.CallbackWords `json:"callback"` // of a run that nobody waits for
}

type chatReply struct {
	Response  string      `json:"response"`
	Status    string      `json:"status"`
	Agent     string      `json:"agent"`
	Model     string      `json:"model"`
	SessionID string      `json:"session_id,omitempty"`
	Usage     model.Usage `json:"usage"`
	RequestID string      `json:"request_id"`
}

type delta struct {
	Delta string `json:"delta"`
}

// Handle is the api.Handler.
func (c *Chat) Handle(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	req, err := api.Decode[chatRequest](r)
	if err != nil {
		return err
	}
	message, _ := req.Message.(string)
	switch {
	case strings.TrimSpace(message) == "":
		return &api.Error{Code: api.MessageRequired}
	case len(message) > MaxMessage:
		return &api.Error{Code: api.TooLarge}
	}
	if c.Jobs != nil && wantsLater(r) {
		return c.accept(w, r, caller, req, message)
	}
	if req.Callback != nil {
		return errCallback
	}
	what, found := c.runner().Find(caller, req.Agent)
	if !found {
		return ErrNoAgent
	}
	streamed := req.Stream || api.WantsStream(r)
	ctx, cancel := c.bound(r.Context(), streamed)
	defer cancel()
	in, err := c.recall(ctx, caller, req.SessionID, message)
	if err != nil {
		return err
	}

	run := &run{w: w, what: what, id: api.RequestID(w)}
	if streamed {
		run.stream = api.OpenStream(w)
		defer run.stream.Close()
	}
	if err := c.run(ctx, caller, what, in, run.take); err != nil {
		return run.fail(r, failure(ctx, err))
	}
	lost := c.remember(ctx, caller, req.SessionID, message, run)
	if err := run.finish(); err != nil {
		return err
	}
	return lost
}

// recall is message in its conversation, if it is in one.
func (c *Chat) recall(ctx context.Context, caller auth.Caller, session *string, message string) (Input, error) {
	in := Ask(message)
	if session == nil {
		return in, nil
	}
	before, err := c.Sessions.Read(ctx, caller, *session)
	in.Messages, in.Past = append(before, in.Messages...), len(before)
	return in, err
}

// remember adds message and the answer of r, which is whole, to their
// conversation. Where that can't be done the caller gets the answer all the same,
// without the session's id: the error is for the log.
func (c *Chat) remember(ctx context.Context, caller auth.Caller, session *string, message string, r *run) error {
	if session == nil {
		return nil
	}
	if err := c.Sessions.Append(ctx, caller, *session, r.what.Name(), message, r.text.String()); err != nil {
		return api.Told(fmt.Errorf("a turn is lost to its conversation: %w", err))
	}
	r.session = *session
	return nil
}

func (c *Chat) runner() Runner { return Runner{c.File, c.Models, c.Budget} }

// run runs what to its end, each of its events going to take.
func (c *Chat) run(ctx context.Context, caller auth.Caller, what Runnable, in Input, take func(Event) error) (err error) {
	var used model.Usage
	begun := false
	if c.Ran != nil {
		since := time.Now()
		defer func() {
			if begun || !overBudget(err) { // else nothing has run
				c.Ran(ctx, caller, what.Name(), since, used)
			}
		}()
	}
	for event, err := range c.runner().Run(ctx, what, in) {
		if event.Result != nil {
			used = event.Result.Usage
		}
		if err == nil {
			begun = true
			err = take(event)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bound ends ctx when the chat has taken too long. heard says that somebody hears
// it while it goes on, or that nobody waits.
func (c *Chat) bound(ctx context.Context, heard bool) (context.Context, context.CancelFunc) {
	longest := c.Timeout
	if !heard && c.Silence > 0 {
		longest = min(longest, c.Silence)
	}
	end := time.Now().Add(longest)
	if deadline, there := ctx.Deadline(); there && deadline.Add(-deadlineMargin).Before(end) {
		end = deadline.Add(-deadlineMargin)
	}
	return context.WithDeadline(ctx, end)
}

// failure gives a run's error its public face.
func failure(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, model.ErrTimeout), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Because(api.ModelTimeout, err)
	case errors.Is(err, model.ErrUnavailable):
		return unavailable(err)
	case errors.Is(err, model.ErrTooLarge):
		return &api.Error{Code: api.ModelFailed, Detail: "The language model's answer is too large to be passed on: ask for less.", Err: err}
	case errors.Is(err, model.ErrTooLong):
		return &api.Error{Code: api.TooLarge, Detail: "This, with all that the language model is told beside it, is more than it takes at once: send less.", Err: err}
	case errors.Is(err, model.ErrRefused):
		return api.Because(api.ModelRefused, err)
	case errors.Is(err, model.ErrFailed):
		return api.Because(api.ModelFailed, err)
	case errors.Is(err, ErrPromptTooLarge):
		return &api.Error{Code: api.TooLarge, Detail: "This message is too long for the workflow that is to answer it.", Err: err}
	default:
		return err
	}
}

// overloaded is the error of a model that can tell a backend which takes no more
// for now (yes) from one that isn't there. after is when to ask again, 0 if nobody
// knows.
type overloaded interface {
	error
	Overloaded() (after time.Duration, yes bool)
}

func unavailable(err error) error {
	e := api.Because(api.ModelUnavailable, err)
	if refusal, ok := errors.AsType[overloaded](err); ok {
		if after, yes := refusal.Overloaded(); yes {
			e.Detail, e.RetryAfter = "The language model is overloaded or out of quota: try again later.", after
		}
	}
	return e
}

// run is one answer on its way to the caller: collected into one JSON reply, or
// passed on piece by piece.
type run struct {
	w    http.ResponseWriter
	id   string // of the request, which w's headers are not asked for while a stream may begin
	what Runnable

	stream  *api.Stream // nil: JSON
	text    strings.Builder
	usage   model.Usage
	session string // that keeps the turn; "": none
}

func (r *run) take(e Event) error {
	switch {
	case e.Result != nil:
		r.usage = e.Result.Usage
		return nil
	case e.Step != nil && r.stream != nil:
		return r.stream.Send("step", e.Step)
	case e.Step != nil:
		return nil
	}
	r.text.WriteString(e.Text)
	if r.stream == nil {
		return nil
	}
	return r.stream.Send("delta", delta{e.Text})
}

func (r *run) finish() error {
	if r.stream != nil {
		return r.stream.Send("done", r.reply())
	}
	return api.WriteJSON(r.w, http.StatusOK, r.reply())
}

func (r *run) reply() chatReply {
	return chatReply{
		Response:  r.text.String(),
		Status:    "success",
		Agent:     r.what.Name(),
		Model:     r.what.Model().String(),
		SessionID: r.session,
		Usage:     r.usage,
		RequestID: r.id,
	}
}

// fail tells the caller of err: as the response, with its own status, or as the
// last event of a stream that has begun. Whatever breaks a stream after its caller
// has left, as a write that fails does, is no failure of ours.
func (r *run) fail(req *http.Request, err error) error {
	if r.stream == nil || r.stream.Withdraw() {
		return err
	}
	if left := req.Context().Err(); left != nil {
		return left
	}
	if sent := r.stream.Send("error", api.ProblemOf(err, r.id)); sent != nil {
		return err
	}
	return api.Told(err)
}
