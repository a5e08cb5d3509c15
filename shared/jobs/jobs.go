// Package jobs runs what nobody waits for: it is asked for now, done by and by,
// and its result is kept for its owner.
//
// A job goes through
//
//	queued → running → succeeded | failed | cancelled
//
// in a record of its own, whose versions decide who is right when several act at
// once. Submit keeps the record and then gives the job's id, and whose it is so
// that each owner has a turn, to a Queue: SQS (package sqs), or on one machine the
// Pool. A Worker is handed ids, perhaps more than once, and does what there is left
// to do: it takes a queued job, or one whose run is dead, runs it, records how it
// ended, and then delivers the Callback.
//
// A run holds a lease for as long as a run may take. It looks every second
// whether the job is still its own; who cancels or deletes a job does that to the
// record, and the run notices. So a result is recorded once, by whoever still
// holds the job, though a crash may have a model, or a callback, called again
// (P17).
//
// A job belongs to its caller by construction: what others ask for is answered
// like a job that there is not (P13), and ids are 130 random bits (I12). A worker
// asks anew who the owner is before it begins; a queued job of a key that was
// revoked meanwhile is cancelled. Everybody who is anonymous is one caller, whose
// jobs would be everybody's; so there are none. Jobs are kept for 7 days.
package jobs

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
)

// Keep is how long a job is kept after it was asked for.
const Keep = 7 * 24 * time.Hour

// Status is how far a job is.
type Status string

const (
	Queued    Status = "queued"
	Running   Status = "running"
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Ended reports whether nothing more will happen to a job's status.
func (s Status) Ended() bool { return s != Queued && s != Running }

// Job is what its owner sees.
type Job struct {
	ID         string          `json:"id"`
	Type       string          `json:"type,omitempty"`  // who took the order, where that wasn't POST /chat
	Label      string          `json:"label,omitempty"` // the owner's own word for it
	Status     Status          `json:"status"`
	CreatedAt  time.Time       `json:"created_at"`
	StartedAt  *time.Time      `json:"started_at"`
	FinishedAt *time.Time      `json:"finished_at"`
	Result     json.RawMessage `json:"result"` // of one that succeeded; null in a list
	Error      *api.Problem    `json:"error"`  // of one that failed, or that we cancelled
}

// Order is a job to be.
type Order struct {
	Type      string
	Label     string
	RequestID string    // of the request that asks for it
	Request   []byte    // for Worker.Run
	Callback  *Callback // nil: none
}

// record is a job as it is kept. Its request and its result are items of their
// own.
type record struct {
	Job
	Owner     string         `json:"owner"`
	Caller    map[string]any `json:"caller"` // the owner as it was (auth.ContextOf)
	RequestID string         `json:"request_id"`
	Attempts  int            `json:"attempts"`           // runs that were begun
	Holder    string         `json:"holder,omitempty"`   // the run that it is, or was: random, so that no two claims are equal
	Lease     time.Time      `json:"lease"`              // when a run that goes on is dead
	Callback  *target        `json:"callback,omitempty"` // yet to be delivered

	version int64
}

// target is a Callback as it is kept: until it is delivered, or given up.
type target struct {
	URL      string `json:"url"`
	Secret   string `json:"secret,omitempty"`
	Delivery string `json:"delivery"` // names the delivery, in all its tries
}

// maxAttempts is how often a job is begun whose runs die without a word, as they
// do if the job kills its process. A stop that cuts a run off counts too.
const maxAttempts = 5

// newRecord is the record of an order.
func newRecord(now time.Time, caller auth.Caller, o Order) (*record, error) {
	snapshot, err := auth.ContextOf(caller)
	if err != nil {
		return nil, err
	}
	r := &record{Owner: caller.ID, Caller: snapshot, RequestID: o.RequestID}
	r.Job = Job{ID: rand.Text(), Type: o.Type, Label: o.Label, Status: Queued, CreatedAt: now}
	if o.Callback != nil {
		r.Callback = &target{o.Callback.url.Reveal(), o.Callback.secret.Reveal(), rand.Text()}
	}
	return r, nil
}

// owner is the job's caller as it was when it asked.
func (r *record) owner() (auth.Caller, error) {
	snapshot := maps.Clone(r.Caller)
	snapshot["principalId"] = r.Owner
	return auth.CallerOf(snapshot)
}

// begin gives the job to a run.
func (r *record) begin(now time.Time, holder string, lease time.Duration) {
	r.Status, r.StartedAt = Running, &now
	r.Holder, r.Lease = holder, now.Add(lease)
	r.Attempts++
}

// end says how the job ended. A caller who cancels it, and one who may no longer
// call, is told nothing more.
func (r *record) end(now time.Time, status Status) {
	r.Status, r.FinishedAt = status, &now
	if status == Cancelled {
		r.Callback = nil
	}
}

// heldBy reports whether the job runs under holder.
func (r *record) heldBy(holder string) bool { return r.Status == Running && r.Holder == holder }

// expires is when the record and all that belongs to it goes.
func (r *record) expires() time.Time { return r.CreatedAt.Add(Keep) }

// place is the job's in its owner's list, which is in the order of creation.
func (r *record) place() string { return r.CreatedAt.Format("20060102T150405.000Z") + "-" + r.ID }

const (
	idLength    = 26
	placeLength = len("20060102T150405.000Z-") + idLength
)

// ValidID reports whether s has the form of a job's id (crypto/rand.Text).
func ValidID(s string) bool {
	return len(s) == idLength && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}
