package api

import (
	"net/http"
	"time"

	"postern/shared/auth"
	"postern/shared/route"
)

// Version is Postern's own.
const Version = "0.1.0"

// WhoAmI serves GET /whoami: what the verifier knows of the caller. defaultLimit
// is the hourly limit of callers without their own; 0 is none.
func WhoAmI(defaultLimit int) Handler {
	return func(w http.ResponseWriter, _ *http.Request, c auth.Caller) error {
		var expires *time.Time
		if !c.ExpiresAt.IsZero() {
			expires = &c.ExpiresAt
		}
		return WriteJSON(w, http.StatusOK, struct {
			ID        string        `json:"id"`
			Name      string        `json:"name"`
			Kind      auth.Kind     `json:"kind"`
			Scopes    []route.Scope `json:"scopes"`
			Agents    []string      `json:"agents"`     // null: all
			RateLimit int           `json:"rate_limit"` // requests an hour; 0: none
			ExpiresAt *time.Time    `json:"expires_at"` // null: never
			Version   string        `json:"version"`
		}{c.ID, c.Name, c.Kind, c.Scopes, c.Agents, c.HourlyLimit(defaultLimit), expires, Version})
	}
}

// Health serves GET /health. It needs nothing, so it says that the process
// answers and no more.
func Health(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
	return WriteEncoded(w, []byte(`{"status":"ok","service":"postern"}`+"\n"))
}
