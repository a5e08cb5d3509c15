package sessions

import (
	"errors"
	"net/http"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/table"
)

// Handlers is the handlers of the package's routes, by their names.
func (s *Store) Handlers() map[string]api.Handler {
	return map[string]api.Handler{"sessions.get": s.Get, "sessions.delete": s.Delete}
}

// transcript is a conversation as its caller reads it.
type transcript struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Messages  []message `json:"messages"`
}

// message is half a turn, by the names that OpenAI's clients have for its parts:
// a transcript's messages can be sent to /v1/chat/completions as they are.
type message struct {
	Role    string    `json:"role"`
	Content string    `json:"content"`
	Agent   string    `json:"agent,omitempty"` // who answered
	Time    time.Time `json:"time"`            // when the turn was complete
}

// Get serves GET /sessions/{id}.
func (s *Store) Get(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	id := r.PathValue("id")
	if permit(caller, id) != nil {
		return errNoSession
	}
	c, turns, err := s.transcript(r.Context(), caller, id)
	if err != nil {
		return public(err)
	}
	t := transcript{ID: id, CreatedAt: c.CreatedAt, Messages: []message{}}
	for _, turn := range turns {
		t.UpdatedAt = turn.Time
		t.Messages = append(t.Messages,
			message{Role: "user", Content: turn.Message, Time: turn.Time},
			message{Role: "assistant", Content: turn.Answer, Agent: turn.Agent, Time: turn.Time})
	}
	return api.WriteJSON(w, http.StatusOK, t)
}

// Delete serves DELETE /sessions/{id}. A chat that is being answered meanwhile
// begins the conversation anew with its own turn.
func (s *Store) Delete(w http.ResponseWriter, r *http.Request, caller auth.Caller) error {
	id := r.PathValue("id")
	if permit(caller, id) != nil {
		return errNoSession
	}
	if err := s.remove(r.Context(), caller, id); err != nil {
		return public(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

var errNoSession = api.Fail(api.NotFound, "There is no such conversation of this credential's.")

func public(err error) error {
	if errors.Is(err, table.ErrNotFound) {
		return errNoSession
	}
	return api.Because(api.Unavailable, err)
}
