package usage

import (
	"net/http"
	"strings"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/table"
)

// Bounds of one report.
const (
	defaultSpan = 24 * time.Hour
	maxSpan     = 31 * 24 * time.Hour
)

type page struct {
	Usage []Row   `json:"usage"`
	Next  *string `json:"next"` // for ?after=; null at the end
}

// List serves GET /usage?from&to&key&limit&after: what each caller, or the one
// with the id key, did in the hours from `from` to `to`. Without them it is the
// last 24 hours, the one that runs included; 31 days at most. limit counts callers' hours.
func (l *Ledger) List(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
	p := api.Query(r, "from", "to", "key", "limit", "after")
	q := Query{
		From:   p.Time("from").Truncate(limit.Window),
		To:     p.Time("to"),
		Caller: p.Text("key"),
		After:  p.Text("after"),
		Limit:  p.Int("limit", 1000, 1, table.MaxList),
	}
	if err := p.Err(); err != nil {
		return err
	}
	if q.To.IsZero() {
		q.To = l.now().Add(1) // the hour of now, from its first moment
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-defaultSpan).Truncate(limit.Window)
	}
	q.To = q.To.Add(limit.Window - 1).Truncate(limit.Window) // an hour that has begun is reported whole
	switch hour, _, found := strings.Cut(q.After, separator); {
	case q.To.Sub(q.From) > maxSpan+limit.Window:
		return api.Fail(api.InvalidRequest, "The query parameters from and to, which is now if it isn't given, may be 31 days apart: ask for less at a time.")
	case q.To.Before(q.From):
		return api.Fail(api.InvalidRequest, "The query parameter to is before from.")
	case len(q.Caller) > maxCaller:
		return api.Fail(api.InvalidRequest, "The query parameter key takes a caller's id, such as a key's.")
	case q.After != "" && (!found || len(q.After) > maxCaller || !isHour(hour)):
		return api.Fail(api.InvalidRequest, "The query parameter after takes what a page gave as next.")
	}
	rows, next, err := l.Report(r.Context(), q)
	if err != nil {
		return api.Because(api.Unavailable, err)
	}
	body := page{Usage: rows}
	if next != "" {
		body.Next = &next
	}
	return api.WriteJSON(w, http.StatusOK, body)
}

// maxCaller bounds a caller's id where it is asked for, in bytes.
const maxCaller = 512

func isHour(s string) bool {
	_, err := time.Parse(hourFormat, s)
	return err == nil
}
