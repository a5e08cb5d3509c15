package jobs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/secret"
	"postern/shared/table"
)

// Worker does jobs. It is safe for concurrent use.
type Worker struct {
	Store *Store
	Log   *slog.Logger

	// Run does what an Order's Request says, on the account of caller, and
	// returns what JSON takes. It ends when ctx does. Its error is told to the
	// job's owner as the api's error table has it; one beside a result is for the
	// log alone.
	Run func(ctx context.Context, caller auth.Caller, requestID string, request []byte) (result any, err error)

	// Longest is the time that a Run takes at most. A run that is older is dead.
	Longest time.Duration

	// Alone says that nobody else runs jobs of this table, and that Do is called
	// with one id once at a time: so a job that runs already does so no longer.
	Alone bool

	// Room is nil if there is room for a result; a job isn't begun without. Nil:
	// there always is.
	Room func() error

	// Present is a caller as it is now, or an auth.Reason if it may no longer call.
	Present func(ctx context.Context, was auth.Caller) (auth.Caller, error)

	Usage api.Usage // is told of runs that a budget refused; nil: nobody is

	// Courier delivers callbacks, and Notices say what they are told of jobs of a
	// type; others are sent as their owner reads them.
	Courier interface {
		Send(ctx context.Context, to *Callback, delivery string, header http.Header, body []byte) error
	}
	Notices map[string]func(Job) Notice
}

// Notice is what a callback is told.
type Notice struct {
	Header http.Header // beside those that every callback has
	Body   any         // for JSON
}

const (
	leaseMargin = 30 * time.Second // beyond Longest: to record the result, and for clocks that differ
	watchEvery  = time.Second      // a cancelled run ends that late at most
	endTimeout  = 10 * time.Second // to record how a job ended

	// maxResult bounds a result as JSON, in bytes. A Lambda's answer has 6 MB, and
	// in it the result is part of a string, in which each byte may take two.
	maxResult = 6<<20/2 - 64<<10
)

// ErrBusy is Do's for a job that somebody else is running.
var ErrBusy = errors.New("the job is running")

var (
	errTaken     = errors.New("the job is no longer this run's")
	errAttempts  = fmt.Errorf("%d runs of the job have died", maxAttempts)
	errNoRequest = errors.New("what the job is about is gone")
	errScope     = api.Fail(api.ScopeMissing, "The key that asked for this job had lost the scope %q before it began.", route.Chat)
	errTooLarge  = api.Fail(api.ModelFailed, "The answer has more than the %d bytes of JSON that a job keeps: ask for less, or for a stream.", maxResult)
)

// Do does what there is left to do for a job, and returns nil when that is
// nothing: a job that ended, that was deleted or that never was wants nothing
// more. After any error the same id must come again.
func (w *Worker) Do(ctx context.Context, id string) (err error) {
	defer caught(&err)
	if !ValidID(id) {
		w.Log.LogAttrs(ctx, slog.LevelWarn, "what is no job's id is dropped")
		return nil
	}
	r, err := w.Store.read(ctx, id)
	if err != nil {
		return orNil(err, table.ErrNotFound)
	}
	if !r.Status.Ended() {
		err = w.settle(ctx, r)
	}
	if err == nil && r.Callback != nil {
		err = w.deliver(ctx, r)
	}
	if errors.Is(err, errTaken) {
		return w.left(ctx, id)
	}
	return err
}

// caught makes a panic an error.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// left is nil if nothing is left to do for a job that somebody else has changed.
// If something is, that one may do it, or may die of it.
func (w *Worker) left(ctx context.Context, id string) error {
	r, err := w.Store.read(ctx, id)
	switch {
	case err != nil:
		return orNil(err, table.ErrNotFound)
	case r.Status.Ended() && r.Callback == nil:
		return nil
	}
	return ErrBusy
}

// settle brings a job to its end.
func (w *Worker) settle(ctx context.Context, r *record) error {
	now := w.Store.now()
	if r.Status == Running && !w.Alone && now.Before(r.Lease) {
		return ErrBusy
	}
	caller, err := w.caller(ctx, r)
	reason, refused := errors.AsType[auth.Reason](err)
	switch {
	case refused:
		return w.end(ctx, r, Cancelled, &api.Error{Code: api.Unauthenticated, Err: reason,
			Detail: "The key that asked for this job was revoked or disabled, or had expired, before it began."})
	case errors.Is(err, errScope):
		return w.end(ctx, r, Cancelled, err)
	case err != nil:
		return err
	case r.Attempts >= maxAttempts:
		return w.end(ctx, r, Failed, errAttempts)
	}
	request, err := w.Store.large().Get(ctx, itemKey(r.ID, requestSort))
	switch {
	case errors.Is(err, table.ErrNotFound): // and never will be
		return w.end(ctx, r, Failed, errNoRequest)
	case err != nil:
		return fmt.Errorf("reading what it is about: %w", err)
	}
	if w.Room != nil {
		if err := w.Room(); err != nil {
			return err
		}
	}
	before := *r
	r.begin(now, rand.Text(), w.Longest+leaseMargin)
	if err := w.put(ctx, r); err != nil {
		return err
	}
	w.Store.removeResult(ctx, &before) // of a run that died before it could record it
	result, err := w.run(ctx, caller, r, request.Value)
	if result == nil && ctx.Err() != nil {
		return ctx.Err() // nobody has failed: this process is stopping
	}
	return w.record(ctx, r, result, err)
}

// caller is who the job is for, now.
func (w *Worker) caller(ctx context.Context, r *record) (auth.Caller, error) {
	caller, err := r.owner()
	if err != nil {
		return caller, err
	}
	if caller, err = w.Present(ctx, caller); err != nil {
		return caller, err
	}
	switch {
	case !caller.ExpiresAt.IsZero() && !w.Store.now().Before(caller.ExpiresAt):
		return caller, auth.Expired
	case !caller.Holds(route.Chat):
		return caller, errScope
	}
	return caller, nil
}

// run runs the job until it ends, or is no longer this run's: errTaken.
func (w *Worker) run(ctx context.Context, caller auth.Caller, r *record, request []byte) (result any, err error) {
	err = w.watched(ctx, r.ID, func(now *record) bool { return now.heldBy(r.Holder) }, func(ctx context.Context) (err error) {
		defer caught(&err)
		result, err = w.Run(ctx, caller, r.RequestID, request)
		return err
	})
	return result, err
}

// watched calls do, which ends when its context does, as long as the job's record
// is what it shall be; else its error is errTaken. If the table can't be asked, do
// goes on.
func (w *Worker) watched(ctx context.Context, id string, holds func(*record) bool, do func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			now, err := w.Store.read(ctx, id)
			if errors.Is(err, table.ErrNotFound) || err == nil && !holds(now) {
				stop(errTaken)
				return
			}
		}
	}()
	err := do(ctx)
	if context.Cause(ctx) == errTaken {
		return errTaken
	}
	return err
}

// record keeps how a run ended, its result first: what a record names is there.
func (w *Worker) record(ctx context.Context, r *record, result any, err error) error {
	if errors.Is(err, errTaken) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	var kept []byte
	lost := err // beside a result
	if result != nil || err == nil {
		kept, err = encode(result)
	}
	if err != nil {
		if w.Usage != nil && api.CodeOf(err) == api.BudgetExceeded {
			w.Usage.Refused(ctx, r.Owner)
		}
		return w.end(ctx, r, Failed, err)
	}
	if _, err := w.Store.large().Put(ctx, r.resultKey(), kept, 0, r.expires()); err != nil {
		return fmt.Errorf("keeping its result: %w", err)
	}
	err = w.end(ctx, r, Succeeded, lost)
	if errors.Is(err, errTaken) {
		w.Store.removeResult(ctx, r)
	}
	return err
}

// end records how the job ended, and leaves the one line in the log that it has.
func (w *Worker) end(ctx context.Context, r *record, status Status, cause error) error {
	r.end(w.Store.now(), status)
	level, attrs := slog.LevelInfo, []slog.Attr{slog.String("job", r.ID), slog.String("caller", r.Owner), slog.String("status", string(status)),
		slog.Int("attempts", r.Attempts), slog.String("request_id", r.RequestID)}
	if cause != nil {
		level, attrs = slog.LevelWarn, append(attrs, slog.String("error", cause.Error()))
	}
	if cause != nil && status != Succeeded {
		p := api.ProblemOf(cause, r.RequestID)
		r.Error = &p
	}
	if err := w.put(ctx, r); err != nil {
		return err
	}
	w.Log.LogAttrs(ctx, level, "job", attrs...)
	w.Store.removeRequest(ctx, r.ID) // else it goes when it expires
	return nil
}

// put writes a record, or returns errTaken if somebody else has meanwhile.
func (w *Worker) put(ctx context.Context, r *record) error {
	err := w.Store.put(ctx, r)
	if errors.Is(err, table.ErrConflict) {
		return errTaken
	}
	return err
}

// deliver tells the callback how the job ended, and forgets it and its secret,
// whether or not it could be told.
func (w *Worker) deliver(ctx context.Context, r *record) error {
	job, err := w.Store.withResult(ctx, r)
	if err != nil {
		return orNil(err, errNoJob)
	}
	notice := Notice{Body: job}
	if form := w.Notices[r.Type]; form != nil {
		notice = form(job)
	}
	body, err := api.Encode(notice.Body)
	if err != nil {
		return err
	}
	to := &Callback{url: secret.New(r.Callback.URL), secret: secret.New(r.Callback.Secret)}
	err = w.watched(ctx, r.ID, func(now *record) bool { return now.Callback != nil }, func(ctx context.Context) error {
		return w.Courier.Send(ctx, to, r.Callback.Delivery, notice.Header, body)
	})
	switch {
	case errors.Is(err, errTaken): // by who deleted the job
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		w.Log.LogAttrs(ctx, slog.LevelWarn, "callback not delivered", slog.String("job", r.ID), slog.String("caller", r.Owner), slog.String("request_id", r.RequestID), slog.String("error", err.Error()))
	}
	r.Callback, r.Result = nil, nil
	return w.put(ctx, r)
}

// encode is a result as it is kept.
func encode(result any) ([]byte, error) {
	kept, err := api.Encode(result)
	if err == nil && len(kept) > maxResult {
		return nil, errTooLarge
	}
	return kept, err
}

// orNil is err, unless that is only to say that there is nothing left to do.
func orNil(err, done error) error {
	if errors.Is(err, done) {
		return nil
	}
	return err
}
