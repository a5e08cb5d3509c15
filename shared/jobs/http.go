package jobs

import (
	"context"
	"log/slog"
	"net/http"

	"postern/shared/api"
	"postern/shared/auth"
)

const (
	defaultList = 20
	maxList     = 100 // of jobs in one page
)

var (
	errNoJob     = api.Fail(api.NotFound, "There is no such job of this credential's; jobs are kept for 7 days.")
	errAnonymous = api.Fail(api.InvalidRequest, "An asynchronous run needs a credential: without one every caller is the same, and would read the results of all. Send the request without Prefer: respond-async.")
)

// Handlers is the handlers of the package's routes, by their names.
func (s *Store) Handlers() map[string]api.Handler {
	return map[string]api.Handler{
		"jobs.list":   s.serveList,
		"jobs.get":    one(s.Get),
		"jobs.cancel": one(s.Cancel),
		"jobs.delete": s.serveDelete,
	}
}

// Accepted answers 202 for a job that Submit has taken.
func Accepted(w http.ResponseWriter, job Job) error {
	api.Annotate(w, slog.String("job", job.ID))
	w.Header().Set("Location", "/jobs/"+job.ID)
	return api.WriteJSON(w, http.StatusAccepted, job)
}

// serveList serves GET /jobs?limit&after.
func (s *Store) serveList(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	q := api.Query(r, "limit", "after")
	limit, after := q.Int("limit", defaultList, 1, maxList), q.Text("after")
	if err := q.Err(); err != nil {
		return err
	}
	if after != "" && len(after) != placeLength {
		return api.Fail(api.InvalidRequest, `The query parameter "after" takes the "next" of the page before.`)
	}
	list, next, err := s.List(r.Context(), caller, after, limit)
	if err != nil {
		return err
	}
	page := struct {
		Jobs []Job   `json:"jobs"`
		Next *string `json:"next"` // where the next page begins, for ?after=; null at the end
	}{Jobs: list}
	if next != "" {
		page.Next = &next
	}
	return api.WriteJSON(w, http.StatusOK, page)
}

// one serves GET /jobs/{id}, and POST /jobs/{id}/cancel, which takes no body.
func one(ask func(context.Context, auth.Caller, string) (Job, error)) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		job, err := ask(r.Context(), caller, r.PathValue("id"))
		if err != nil {
			return err
		}
		return api.WriteJSON(w, http.StatusOK, job)
	}
}

// serveDelete serves DELETE /jobs/{id}.
func (s *Store) serveDelete(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	if err := s.Delete(r.Context(), caller, r.PathValue("id"), false); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
