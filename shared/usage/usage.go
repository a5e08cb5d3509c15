// Package usage counts who asks for what: each authenticated request, against
// its caller's limit, and what it cost.
//
// A caller and a clock hour (UTC) are one item of counters:
//
//	partition "use#<caller>", sort "2026-11-21T10"
//	  requests        those that the hourly limit counts
//	  admin           administrative ones, which no limit counts
//	  refused         those that a missing scope, the limit or a budget stopped
//	  runs/<agent>    how often the agent ran, and what its model was told and
//	  in/<agent>      said, in tokens
//	  out/<agent>
//
// So a request costs one conditional Add, which is its limit, its usage and its
// caller's last use at once: the item is kept for a fixed time after it was last
// written, so its expiry tells when that was. A chat adds once more when it has
// ended. The first request of a caller in an hour also leaves its name in a
// directory of the day (partition "hours#2026-11-21", sort
// "2026-11-21T10/<caller>"), from which everybody's usage is read without a scan.
// A day of a caller's token budget is an item of "budget#<caller>" (budget.go).
//
// Only a request that can't be counted against a limit is refused for it. What
// is counted for the report alone may be lost, with a line in the log.
package usage

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/model"
	"postern/shared/table"
)

// Keep is how long an hour's counters last after the last of its requests.
const Keep = 400 * 24 * time.Hour

// The counters of an item.
const (
	requests = "requests"
	admin    = "admin"
	refused  = "refused"
	runs     = "runs/"
	input    = "in/"
	output   = "out/"
)

const (
	hourFormat = "2006-01-02T15"
	dayFormat  = "2006-01-02"
	separator  = "/" // of hour and caller in the directory; no hour has one
)

// reportTimeout bounds what is counted for the report alone. It is done even
// for a caller who has left.
const reportTimeout = 2 * time.Second

// Ledger counts in a table. Its limits are exact for all who share the table.
type Ledger struct {
	table  table.Table
	log    *slog.Logger
	now    func() time.Time
	hourly limit.Hourly
	named  atomic.Pointer[hourName] // the last hour; nearly all requests are in it

	mu      sync.Mutex
	pending map[string]tally // refusals by caller that are not in the table yet
}

// hourName is a window and its hourFormat.
type hourName struct {
	window time.Time
	text   string
}

// tally is refusals of one caller that wait to be written together.
type tally struct {
	window  time.Time
	count   int64
	written time.Time // when the last of them were
}

// pause is the least time between two writes of one caller's refusals: a flood of
// requests from who has no request left costs the table one write in it.
const pause = time.Second

// maxPending bounds the callers of pending.
const maxPending = 10_000

// New returns the ledger of t; now is time.Now where it is nil. What could not
// be written of the report goes to log.
func New(t table.Table, log *slog.Logger, now func() time.Time) *Ledger {
	if now == nil {
		now = time.Now
	}
	l := &Ledger{table: t, log: log, now: now, pending: map[string]tally{}}
	l.hourly = limit.Hourly{Store: hours{l}, Now: now}
	return l
}

// Take implements api.Limiter.
func (l *Ledger) Take(ctx context.Context, caller string, max int) (limit.Decision, error) {
	return l.hourly.Take(ctx, caller, max)
}

// hours is a Ledger as a limit.Store.
type hours struct{ *Ledger }

var oneRequest = []table.Delta{{Counter: requests, By: 1}}

// Take implements limit.Store.
func (h hours) Take(ctx context.Context, caller string, window time.Time, max int64) (int64, bool, error) {
	return h.add(ctx, caller, window, oneRequest, max)
}

// add counts in the item of (caller, window), and enters the caller into the
// day's directory with the first of a kind.
func (l *Ledger) add(ctx context.Context, caller string, window time.Time, deltas []table.Delta, max int64) (int64, bool, error) {
	hour := l.nameOf(window)
	expires := l.now().Truncate(time.Second).Add(Keep)
	n, added, err := l.table.Add(ctx, table.Key{Partition: callerPartition + caller, Sort: hour}, deltas, max, expires)
	if err == nil && added && n == deltas[0].By {
		entry := table.Key{Partition: dayPartition + window.Format(dayFormat), Sort: hour + separator + caller}
		if _, _, err := l.table.Add(ctx, entry, []table.Delta{{Counter: "seen", By: 1}}, table.NoMax, expires); err != nil {
			l.lost(ctx, caller, err)
		}
	}
	return n, added, err
}

// nameOf is a window in hourFormat, which is made once an hour and not for each
// request.
func (l *Ledger) nameOf(window time.Time) string {
	last := l.named.Load()
	if last == nil || !last.window.Equal(window) {
		last = &hourName{window, window.Format(hourFormat)}
		l.named.Store(last)
	}
	return last.text
}

const (
	callerPartition = "use#"
	dayPartition    = "hours#"
)

// Refused counts a request that a missing scope, the limit or a budget stopped.
// A caller's refusals are written at most once a second, together; the last ones
// before a long silence may be missing from the report.
func (l *Ledger) Refused(ctx context.Context, caller string) {
	now := l.now()
	window := now.UTC().Truncate(limit.Window)
	if n := l.due(caller, window, now); n > 0 {
		l.report(ctx, caller, window, []table.Delta{{Counter: refused, By: n}})
	}
}

// due adds one to a caller's tally and takes what is to be written now.
func (l *Ledger) due(caller string, window, now time.Time) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.pending[caller]
	if !t.window.Equal(window) {
		t = tally{window: window}
	}
	t.count++
	n := int64(0)
	if since := now.Sub(t.written); since >= pause || since < 0 {
		n, t.count, t.written = t.count, 0, now
	}
	if len(l.pending) >= maxPending {
		clear(l.pending)
	}
	l.pending[caller] = t
	return n
}

// Administered counts an administrative request.
func (l *Ledger) Administered(ctx context.Context, caller string) {
	l.report(ctx, caller, l.now().UTC().Truncate(limit.Window), []table.Delta{{Counter: admin, By: 1}})
}

// Ran counts one run of an agent, or of a workflow under its name, in the hour
// in which its request came in.
func (l *Ledger) Ran(ctx context.Context, caller auth.Caller, agent string, since time.Time, u model.Usage) {
	l.report(ctx, caller.ID, since.UTC().Truncate(limit.Window), []table.Delta{
		{Counter: runs + agent, By: 1},
		{Counter: input + agent, By: int64(u.InputTokens)},
		{Counter: output + agent, By: int64(u.OutputTokens)},
	})
}

// flush writes every refusal that waits.
func (l *Ledger) flush(ctx context.Context) {
	l.mu.Lock()
	waiting := l.pending
	l.pending = map[string]tally{}
	l.mu.Unlock()
	for caller, t := range waiting {
		if t.count > 0 {
			l.report(ctx, caller, t.window, []table.Delta{{Counter: refused, By: t.count}})
		}
	}
}

func (l *Ledger) report(ctx context.Context, caller string, window time.Time, deltas []table.Delta) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if _, _, err := l.add(ctx, caller, window, deltas, table.NoMax); err != nil {
		l.lost(ctx, caller, err)
	}
}

func (l *Ledger) lost(ctx context.Context, caller string, err error) {
	l.log.LogAttrs(ctx, slog.LevelWarn, "usage not counted", slog.String("caller", caller), slog.String("error", err.Error()))
}

// LastUsed is when the caller's last request was counted, to the second; zero:
// not within Keep.
func (l *Ledger) LastUsed(ctx context.Context, caller string) (time.Time, error) {
	items, err := l.table.List(ctx, callerPartition+caller, table.Query{Reversed: true, Limit: 1})
	if err != nil || len(items) == 0 {
		return time.Time{}, err
	}
	return items[0].Expires.Add(-Keep), nil
}
