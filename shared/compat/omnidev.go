package compat

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/jobs"
)

// askType is the type of jobs that come from /api/ask.
const askType = "ask"

const (
	maxWorkspace = 200  // of a workspace's id, in bytes
	maxOmniDev   = 500  // of jobs in one list, as OmniDev has it
	maxLooked    = 1000 // of jobs that are looked through for one list
)

// omniDevAsk serves POST /api/ask as OmniDev does (its docs/API_OPERATIONS.md):
// the question is always queued. The default agent answers it, after the context;
// the workspace is the job's label.
func omniDevAsk(chat *agents.Chat) api.Handler {
	type request struct {
		WorkspaceID string              `json:"workspaceId"`
		Question    string              `json:"question"`
		Context     string              `json:"context"`
		Callback    *jobs.CallbackWords `json:"callback"`
	}
	type workspace struct {
		ID string `json:"id"`
	}
	type reply struct {
		Success   bool      `json:"success"`
		Queued    bool      `json:"queued"`
		JobID     string    `json:"jobId"`
		Message   string    `json:"message"`
		Workspace workspace `json:"workspace"`
	}
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		req, err := api.DecodeForeign[request](r)
		if err != nil {
			return err
		}
		message := req.Question
		if strings.TrimSpace(req.Context) != "" {
			message = req.Context + "\n\n" + req.Question
		}
		switch {
		case req.WorkspaceID == "" || len(req.WorkspaceID) > maxWorkspace:
			return api.Fail(api.InvalidRequest, `The field "workspaceId" takes a text of 1 to %d bytes; here it is a label on the job, and names nothing.`, maxWorkspace)
		case strings.TrimSpace(req.Question) == "":
			return &api.Error{Code: api.MessageRequired, Detail: `Send {"workspaceId": "<any>", "question": "<text>"}: a question that is not blank.`}
		case len(message) > agents.MaxMessage:
			return &api.Error{Code: api.TooLarge, Detail: "A question may have 256 KiB, its context included."}
		case caller.Kind == auth.Anonymous:
			return api.Fail(api.InvalidRequest, "A question that is queued needs a credential: without one every caller is the same, and would read the answers of all. Use POST /chat.")
		case chat.Jobs == nil:
			return api.Fail(api.Unavailable, "There is no queue here to ask later: use POST /chat.")
		}
		callback, err := jobs.NewCallback(req.Callback)
		if err != nil {
			return err
		}
		order := jobs.Order{Type: askType, Label: req.WorkspaceID, RequestID: api.RequestID(w), Callback: callback}
		job, err := chat.Later(r.Context(), caller, agents.Errand{Message: message}, order)
		if err != nil {
			return err
		}
		api.Annotate(w, slog.String("job", job.ID))
		return api.WriteJSON(w, http.StatusOK, reply{true, true, job.ID, "Job queued - poll /api/jobs/:jobId for results", workspace{req.WorkspaceID}})
	}
}

// omniDevJob is a job in OmniDev's shape.
type omniDevJob struct {
	ID          string         `json:"id"`
	Type        string         `json:"type"`
	Status      string         `json:"status"`
	CreatedAt   string         `json:"createdAt"`
	StartedAt   string         `json:"startedAt,omitempty"`
	CompletedAt string         `json:"completedAt,omitempty"`
	Result      *omniDevResult `json:"result,omitempty"`
	Error       string         `json:"error,omitempty"`
}

type omniDevResult struct {
	Output          string `json:"output"`
	ExecutionTimeMS int64  `json:"executionTimeMs"`
}

// omniDevStatuses is what OmniDev calls ours. It can't cancel.
var omniDevStatuses = map[jobs.Status]string{
	jobs.Queued: "pending", jobs.Running: "processing",
	jobs.Succeeded: "completed", jobs.Failed: "failed", jobs.Cancelled: "failed",
}

func toOmniDev(job jobs.Job) omniDevJob {
	j := omniDevJob{
		ID: job.ID, Type: "chat", Status: omniDevStatuses[job.Status],
		CreatedAt: isoTime(&job.CreatedAt), StartedAt: isoTime(job.StartedAt), CompletedAt: isoTime(job.FinishedAt),
	}
	if job.Type != "" {
		j.Type = job.Type
	}
	switch {
	case job.Error != nil:
		j.Error = job.Error.Title + ": " + job.Error.Detail
	case job.Status == jobs.Cancelled:
		j.Error = "Cancelled"
	case job.Result != nil:
		var said struct {
			Response string `json:"response"`
		}
		json.Unmarshal(job.Result, &said) // as agents.Chat has written it
		j.Result = &omniDevResult{said.Response, job.FinishedAt.Sub(*job.StartedAt).Milliseconds()}
	}
	return j
}

// isoTime is a time as JavaScript writes it, with all three digits; "" of none.
func isoTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// omniDevGet serves GET /api/jobs/{id}.
func omniDevGet(store *jobs.Store) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		job, err := store.Get(r.Context(), caller, r.PathValue("id"))
		if err != nil {
			return err
		}
		return api.WriteJSON(w, http.StatusOK, toOmniDev(job))
	}
}

// omniDevList serves GET /api/jobs?status&limit: the newest jobs first, without
// their results. status stands once with commas, or several times; what is no
// status, or no limit, is passed over, as OmniDev does.
func omniDevList(store *jobs.Store) api.Handler {
	type meta struct {
		Total        int      `json:"total"`
		Returned     int      `json:"returned"`
		StatusFilter []string `json:"statusFilter"`
		Limit        *int     `json:"limit"`
	}
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		query := r.URL.Query()
		wanted := omniDevFilter(query["status"])
		m, most := meta{StatusFilter: wanted}, maxOmniDev
		if n, err := strconv.Atoi(query.Get("limit")); err == nil && n > 0 {
			most = min(n, maxOmniDev)
			m.Limit = &most
		}
		list := []omniDevJob{}
		for after, looked := "", 0; looked < maxLooked; looked += pageOfJobs {
			page, next, err := store.List(r.Context(), caller, after, pageOfJobs)
			if err != nil {
				return err
			}
			for _, job := range page {
				j := toOmniDev(job)
				if wanted != nil && !slices.Contains(wanted, j.Status) {
					continue
				}
				m.Total++
				if len(list) < most {
					list = append(list, j)
				}
			}
			if after = next; next == "" {
				break
			}
		}
		m.Returned = len(list)
		return api.WriteJSON(w, http.StatusOK, struct {
			Jobs []omniDevJob `json:"jobs"`
			Meta meta         `json:"meta"`
		}{list, m})
	}
}

const pageOfJobs = 100

// omniDevFilter is the statuses in values; nil: every one.
func omniDevFilter(values []string) []string {
	var wanted []string
	for _, value := range values {
		for word := range strings.SplitSeq(value, ",") {
			word = strings.TrimSpace(word)
			for _, status := range omniDevStatuses {
				if word == status && !slices.Contains(wanted, word) {
					wanted = append(wanted, word)
				}
			}
		}
	}
	return wanted
}

// omniDevDelete serves DELETE /api/jobs/{id}, of jobs that have ended.
func omniDevDelete(store *jobs.Store) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
		if err := store.Delete(r.Context(), caller, r.PathValue("id"), true); err != nil {
			return err
		}
		return api.WriteJSON(w, http.StatusOK, map[string]bool{"success": true})
	}
}

// omniDevNotice is what the callback of a job from /api/ask is told.
func omniDevNotice(job jobs.Job) jobs.Notice {
	j := toOmniDev(job)
	return jobs.Notice{
		Header: http.Header{
			"X-Workflow-Job-Id":     {j.ID},
			"X-Workflow-Job-Type":   {j.Type},
			"X-Workflow-Job-Status": {j.Status},
		},
		Body: struct {
			JobID     string         `json:"jobId"`
			Type      string         `json:"type"`
			Status    string         `json:"status"`
			Timestamp string         `json:"timestamp"`
			Result    *omniDevResult `json:"result,omitempty"`
			Error     string         `json:"error,omitempty"`
		}{j.ID, j.Type, j.Status, j.CompletedAt, j.Result, j.Error},
	}
}
