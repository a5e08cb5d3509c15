// Package audit is what was done: a chained record of every administrative act.
//
// Whoever changes a key does it inside Log.Do, which writes two events: the
// intent before the act, and its outcome before the act is acknowledged. Where
// an intent can't be written nothing is done, and where an outcome can't be the
// caller is told of a failure; so nothing happens that the record doesn't show,
// and an intent without outcome says that something may have happened.
//
//	7  keys.revoke            root  key 4fGh…   previous_hash: hash of 6
//	8  keys.revoke.succeeded  root  key 4fGh…   previous_hash: hash of 7
//
// Events are numbered from 1 without a gap, and each has a hash over all that it
// says and over the hash of the one before (Event tells how). So nobody can
// alter, remove, insert or reorder events without writing all later ones anew,
// and then their hashes are others: who has noted number and hash of one event,
// its Head, can hold an export against it (Verify), off the machine and without
// asking the store. Each act's log line carries its Head for that. What was cut
// off behind the newest Head that anybody has noted can't be missed.
//
// The chain is one partition of the table, an item an event, sorted by number.
// Two who append at once race for a number; the table gives it to one, and the
// other takes the next.
package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/table"
)

// Log is the chain in a table. Any number of Logs may write to one chain.
type Log struct {
	Table table.Table
	Now   func() time.Time // nil: time.Now
}

// Act is something that somebody is about to do.
type Act struct {
	Actor     string // the caller's id
	Action    string // "keys.create": lower-case letters, digits, _ and dots, at most 64
	Target    string // what is acted upon; may be empty
	RequestID string // one of its own for each Do of an action on a target: an outcome is known by it
	IP        string // where the request is from; may be empty
}

// patience is how long one event may take to be written.
const patience = 5 * time.Second

// Do records act, does it, and records what came of it, in whatever way the
// request's own time has ended meanwhile. Once that is written, do's error is
// returned as it is.
//
// Where the chain can't be written to, the error is an *api.Error of code
// Unavailable. If it was the intent, do was not called. If it was the outcome,
// the act must not be acknowledged; do's error, if any, is wrapped too, so a
// caller maps errors of its own inside do, not here. An event whose writing
// failed may stand in the chain nevertheless.
//
// What came of it is told by do's error. None is success. One that says that
// nothing was changed, which is table.ErrConflict, ErrNotFound and ErrTooLarge
// and every *api.Error below 500, is failure: do must not return those when it
// has changed something. After any other the outcome is unknown: the store may
// have done what it didn't answer for. A panic leaves an intent without outcome.
//
// The event is the last one that was certainly written, the outcome as a rule;
// its Seq and Hash belong into the request's log line.
func (l *Log) Do(ctx context.Context, act Act, do func(context.Context) error) (Event, error) {
	if err := act.check(); err != nil {
		return Event{}, err
	}
	intent, err := l.append(ctx, act)
	if err != nil {
		return Event{}, unwritten("the intent", act, err)
	}
	failure := do(ctx)
	act.Action += outcomeOf(failure)
	outcome, err := l.append(context.WithoutCancel(ctx), act)
	if err != nil {
		return intent, unwritten("the outcome", act, errors.Join(err, failure))
	}
	return outcome, failure
}

func unwritten(what string, act Act, err error) error {
	return api.Because(api.Unavailable, fmt.Errorf("writing %s %s of request %s to the audit chain: %w", what, act.Action, act.RequestID, err))
}

// check refuses what Verify could not make sense of.
func (a Act) check() error {
	switch _, outcome := splitAction(a.Action); {
	case a.Action == "" || len(a.Action) > 64 || strings.Trim(a.Action, "abcdefghijklmnopqrstuvwxyz0123456789_.") != "":
		return fmt.Errorf("audit: the action %q must be 1 to 64 lower-case letters, digits, _ and dots", a.Action)
	case outcome != "":
		return fmt.Errorf("audit: the action %q must not end like an outcome", a.Action)
	case a.Actor == "" || a.RequestID == "":
		return fmt.Errorf("audit: the action %q needs an actor and a request id", a.Action)
	}
	return nil
}

// outcomeOf is what do's error says of the act, as the end of an action.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return succeeded
	case errors.Is(err, table.ErrConflict), errors.Is(err, table.ErrNotFound), errors.Is(err, table.ErrTooLarge),
		api.ProblemOf(err, "").Status < 500:
		return failed
	}
	return unknown
}

// append writes act as the chain's next event. It may lose the race for a number
// as often as there is patience: each loss is somebody else's event.
func (l *Log) append(ctx context.Context, act Act) (Event, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now := time.Now
	if l.Now != nil {
		now = l.Now
	}
	at := now()
	newest, err := l.list(ctx, table.Query{Reversed: true, Limit: 1})
	if err != nil {
		return Event{}, err
	}
	var head Head
	for try := 0; ; try++ {
		if len(newest) > 0 {
			head = newest[len(newest)-1].Head()
		}
		e := act.event(at, head)
		_, err := l.Table.Put(ctx, keyOf(e.Seq), e.encode(), 0, time.Time{})
		if !errors.Is(err, table.ErrConflict) {
			return e, err
		}
		if err := pause(ctx, try); err != nil {
			return Event{}, err
		}
		newest, err = l.list(ctx, table.Query{After: keyOf(head.Seq).Sort, Limit: 100})
		if err != nil {
			return Event{}, err
		}
		// A Put whose reply was lost, and which the leaf sent again, is in its
		// own way.
		if len(newest) > 0 && newest[0] == e {
			return e, nil
		}
	}
}

// pause waits before another try, at random and longer after more of them, so
// that those who collided don't do so again.
func pause(ctx context.Context, try int) error {
	timer := time.NewTimer(rand.N(time.Duration(min(try+1, 20)) * 2 * time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("others were faster %d times: %w", try+1, ctx.Err())
	}
}

// list reads events of the chain. The error of a table that doesn't answer is an
// *api.Error of code Unavailable.
func (l *Log) list(ctx context.Context, q table.Query) ([]Event, error) {
	items, err := l.Table.List(ctx, partition, q)
	if err != nil {
		return nil, api.Because(api.Unavailable, fmt.Errorf("reading the audit chain: %w", err))
	}
	events := make([]Event, 0, len(items))
	for _, item := range items {
		e, err := decode(item.Value)
		if err == nil && keyOf(e.Seq) != item.Key {
			err = fmt.Errorf("it is event %d", e.Seq)
		}
		if err != nil {
			return nil, fmt.Errorf("item %s of the audit chain is damaged: %w", item.Sort, err)
		}
		events = append(events, e)
	}
	return events, nil
}
