package audit

import (
	"errors"
	"math"
	"net/http"
	"strconv"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/table"
)

// page is a piece of the chain.
type page struct {
	Events []Event `json:"events"`
	Next   *string `json:"next"` // where the next page begins, for ?after=; null at the end
}

// List serves GET /audit?limit&after: the events behind number after, by number.
func (l *Log) List(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
	q := api.Query(r, "limit", "after")
	limit := q.Int("limit", 100, 1, table.MaxList)
	after := int64(q.Int("after", 0, 0, math.MaxInt))
	if err := q.Err(); err != nil {
		return err
	}
	events, err := l.list(r.Context(), table.Query{After: keyOf(after).Sort, Limit: limit})
	if err != nil {
		return err
	}
	p := page{Events: events}
	if len(events) == limit {
		last := events[limit-1].Seq
		_, err := l.Table.Get(r.Context(), keyOf(last+1))
		switch {
		case err == nil:
			next := strconv.FormatInt(last, 10)
			p.Next = &next
		case !errors.Is(err, table.ErrNotFound):
			return api.Because(api.Unavailable, err)
		}
	}
	return api.WriteJSON(w, http.StatusOK, p)
}
