package agents

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
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
}

type chatRequest struct {
	Message any    `json:"message"` // a string; any, so that another type is told as a missing message
	Agent   string `json:"agent"`
	Stream  bool   `json:"stream"`
}

type chatReply struct {
	Response  string      `json:"response"`
	Status    string      `json:"status"`
	Agent     string      `json:"agent"`
	Model     string      `json:"model"`
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
	runner := Runner{c.File, c.Models}
	what, found := runner.Find(caller, req.Agent)
	if !found {
		return ErrNoAgent
	}
	ctx, cancel := c.bound(r.Context())
	defer cancel()

	run := &run{w: w, what: what, streams: req.Stream || api.WantsStream(r)}
	defer run.close()
	for event, err := range runner.Run(ctx, what, Ask(message)) {
		if err == nil {
			err = run.take(event)
		}
		if err != nil {
			return run.fail(r, failure(ctx, err))
		}
	}
	return run.finish()
}

// Answer is a run that has ended well.
type Answer struct {
	Text  string
	Agent string // Runnable.Name
	Model model.Name
	Result
}

// Answer runs to its end what caller asks for by name ("": the default), within
// the time of a chat. Its errors are for the api's error table.
func (c *Chat) Answer(ctx context.Context, caller auth.Caller, name string, in Input) (Answer, error) {
	runner := Runner{c.File, c.Models}
	what, found := runner.Find(caller, name)
	if !found {
		return Answer{}, ErrNoAgent
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var text strings.Builder
	answer := Answer{Agent: what.Name(), Model: what.Model()}
	for event, err := range runner.Run(ctx, what, in) {
		if err != nil {
			return Answer{}, failure(ctx, err)
		}
		if event.Result != nil {
			answer.Result = *event.Result
		}
		text.WriteString(event.Text)
	}
	answer.Text = text.String()
	return answer, nil
}

// bound ends ctx when the chat has taken too long.
func (c *Chat) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	end := time.Now().Add(c.Timeout)
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
		return api.Because(api.ModelUnavailable, err)
	case errors.Is(err, model.ErrFailed):
		return api.Because(api.ModelFailed, err)
	case errors.Is(err, ErrPromptTooLarge):
		return &api.Error{Code: api.TooLarge, Detail: "This message is too long for the workflow that is to answer it.", Err: err}
	default:
		return err
	}
}

// run is one answer on its way to the caller: collected into one JSON reply, or
// passed on piece by piece. A stream begins with the first piece, so that what
// fails before it is an ordinary error with its own status.
type run struct {
	w       http.ResponseWriter
	what    Runnable
	streams bool

	stream *api.Stream // nil until the first piece
	text   strings.Builder
	usage  model.Usage
}

func (r *run) take(e Event) error {
	switch {
	case e.Result != nil:
		r.usage = e.Result.Usage
		return nil
	case e.Step != nil && r.streams:
		return r.open().Send("step", e.Step)
	case e.Step != nil:
		return nil
	}
	r.text.WriteString(e.Text)
	if !r.streams {
		return nil
	}
	return r.open().Send("delta", delta{e.Text})
}

func (r *run) open() *api.Stream {
	if r.stream == nil {
		r.stream = api.OpenStream(r.w)
	}
	return r.stream
}

func (r *run) finish() error {
	reply := chatReply{
		Response:  r.text.String(),
		Status:    "success",
		Agent:     r.what.Name(),
		Model:     r.what.Model().String(),
		Usage:     r.usage,
		RequestID: api.RequestID(r.w),
	}
	if r.streams {
		return r.open().Send("done", reply)
	}
	return api.WriteJSON(r.w, http.StatusOK, reply)
}

// fail tells the caller of err: as the response, or as the last event of a
// stream that has begun. Whatever breaks a stream after its caller has left, as
// a write that fails does, is no failure of ours.
func (r *run) fail(req *http.Request, err error) error {
	if r.stream == nil {
		return err
	}
	if left := req.Context().Err(); left != nil {
		return left
	}
	if sent := r.stream.Send("error", api.ProblemOf(err, api.RequestID(r.w))); sent != nil {
		return err
	}
	return api.Told(err)
}

func (r *run) close() {
	if r.stream != nil {
		r.stream.Close()
	}
}
