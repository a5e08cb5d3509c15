// Package idempotency lets a caller repeat a POST safely: the same
// Idempotency-Key gets the same reply for 24 hours, and what is behind it runs
// once (draft-ietf-httpapi-idempotency-key-header).
//
// Replies.Wrap puts that before a handler that answers by api.WriteJSON or by an
// api.Stream. A request without the header passes through. One with it goes
// through three states, in one item of the table for (caller, key):
//
//	running    whoever comes meanwhile gets 409, and another body 422
//	finished   a success: its JSON is kept and replayed, as JSON or as a stream
//	free       it failed: whoever comes next runs it, another body too
//
// The reply is kept before its end is sent: who has seen the end can count on the
// replay, and who lost the connection just then gets what was paid for. A run
// that ends because its caller has left failed like any other.
//
// A claim is a lease of the longest time that a run may take, and is not renewed:
// after a crash the key answers 409 until then, and runs again. Only the same
// body may take it over. If the table can't be asked, nothing runs; if the reply
// can't be kept, it is sent all the same, the log says so, and the lease runs out.
//
// A replay has the header "Idempotency-Replayed: true". Its body is the first
// reply's, byte for byte, so its request_id names the request that ran; of an
// asynchronous run it is the job as it was queued. Who prefers to wait, or not to,
// is no part of what makes a request the same.
package idempotency

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/table"
)

// Keep is how long a key is remembered.
const Keep = 24 * time.Hour

// maxKey is the longest key, in bytes.
const maxKey = 255

// leaseMargin is what a lease has beyond the longest run: to keep the reply, and
// for clocks that differ. A handler that a slow reader holds up longer than that
// loses its claim and no more.
const leaseMargin = 30 * time.Second

// retry is when to ask again about a request that still runs. Nobody knows when it
// will have ended; a lease that ends sooner is the better answer.
const retry = 5 * time.Second

// Bounds of the table's work. It is done even for a caller who has left: a claim
// whose fate is open would block the key.
const (
	claimTimeout = 5 * time.Second
	keepTimeout  = 10 * time.Second // less than a stream may be silent
)

// Replies are the kept replies of all callers.
type Replies struct {
	items table.Large
	log   *slog.Logger
	lease time.Duration
	now   func() time.Time
}

// New returns the replies in t of handlers that take no longer than longest; now
// is time.Now where it is nil. What could not be kept goes to log.
func New(t table.Table, log *slog.Logger, longest time.Duration, now func() time.Time) *Replies {
	if now == nil {
		now = time.Now
	}
	return &Replies{items: table.Large{Table: t}, log: log, lease: longest + leaseMargin, now: now}
}

// Wrap is next with the promises of this package.
func (s *Replies) Wrap(next api.Handler) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		values, there := r.Header["Idempotency-Key"]
		if !there {
			return next(w, r, caller)
		}
		if err := checkKey(values, caller); err != nil {
			return err
		}
		body, streamed, err := read(r)
		if err != nil {
			return err
		}
		claim, kept, err := s.claim(r.Context(), caller.ID, values[0], digest(r, body))
		if err != nil {
			return err
		}
		if kept != nil {
			api.Annotate(w, slog.Bool("replayed", true))
			return kept.replay(w, streamed)
		}
		return claim.run(next, w, r, caller)
	}
}

// checkKey refuses a header that is no key, and a caller who is several people:
// they would get each other's replies.
func checkKey(values []string, caller auth.Caller) error {
	fits := len(values) == 1 && len(values[0]) > 0 && len(values[0]) <= maxKey
	for i := 0; fits && i < len(values[0]); i++ {
		fits = values[0][i] > ' ' && values[0][i] <= '~'
	}
	switch {
	case !fits:
		return api.Fail(api.InvalidRequest, "The header Idempotency-Key takes one value of 1 to %d visible ASCII characters, such as a random UUID.", maxKey)
	case caller.Kind == auth.Anonymous:
		return api.Fail(api.InvalidRequest, "The header Idempotency-Key needs a credential: callers without one can't be told apart. Send the request without it.")
	}
	return nil
}

// read reads r's body, which the handler then reads again, and says whether a
// stream is asked for. A body that no handler would take is refused before its
// key is claimed.
func read(r *http.Request) (body []byte, streamed bool, err error) {
	var copied bytes.Buffer
	first := *r
	first.Body = io.NopCloser(io.TeeReader(r.Body, &copied))
	asked, err := api.DecodeForeign[struct {
		Stream bool `json:"stream"`
	}](&first)
	r.Body = io.NopCloser(bytes.NewReader(copied.Bytes()))
	return copied.Bytes(), asked.Stream || api.WantsStream(r), err
}

// digest is what makes a request the same one.
func digest(r *http.Request, body []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n", r.Method, r.URL.Path)
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}
