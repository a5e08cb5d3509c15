// Package issued puts issued keys into a table for benchmarks, in the way that
// `postern keys create` does: through the handler of POST /keys.
package issued

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"

	"postern/shared/audit"
	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/table"
)

// Key makes a key that may list and run every agent, as often as it likes to
// within a billion requests an hour, and returns its token.
func Key(ctx context.Context, t table.Table) (string, error) {
	admin := keys.Admin{Table: t, Audit: &audit.Log{Table: t}}
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/keys",
		strings.NewReader(`{"name":"bench","scopes":["agents:read","chat"],"rate_limit":1000000000}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	w.Header().Set("X-Request-Id", "bench")
	if err := admin.Create(w, r, auth.RootCaller()); err != nil {
		return "", err
	}
	var reply struct{ Key string }
	err := json.Unmarshal(w.Body.Bytes(), &reply)
	return reply.Key, err
}
