package api_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
)

// I14: what a browser is told, the same on errors as on 200.
func TestCORS(t *testing.T) {
	t.Parallel()
	const (
		a, b, evil = "https://a.example", "https://b.example", "https://evil.example"
		exposed    = "RateLimit, RateLimit-Policy, Retry-After, Location, ETag, X-Request-Id"
	)
	for _, row := range []struct {
		name    string
		origins []string
		origin  string
		allowed string
		vary    string
	}{
		{"off", nil, a, "", ""},
		{"off, and the origin is null", nil, "null", "", ""},
		{"one origin, its own page", []string{a}, a, a, "Origin"},
		{"one origin, another page: the browser compares", []string{a}, evil, a, "Origin"},
		{"one origin, no page", []string{a}, "", a, "Origin"},
		{"a list, its first", []string{a, b}, a, a, "Origin"},
		{"a list, its second", []string{a, b}, b, b, "Origin"},
		{"a list, another page", []string{a, b}, evil, "", "Origin"},
		{"a list, one that begins like one of it", []string{a, b}, a + ".evil.example", "", "Origin"},
		{"a list, and the origin is null", []string{a, b}, "null", "", "Origin"},
		{"a list, no page", []string{a, b}, "", "", "Origin"},
		{"every origin", []string{"*"}, evil, "*", ""},
		{"every origin, no page", []string{"*"}, "", "*", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, func(cfg *api.Config) { cfg.CORSOrigins = row.origins },
				handling("agents.get", func(http.ResponseWriter, *http.Request, auth.Caller) error { panic("x") }),
				handling("whoami", func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New("x") }))
			want := http.Header{}
			set := func(name, value string) {
				if value != "" {
					want.Set(name, value)
				}
			}
			set("Access-Control-Allow-Origin", row.allowed)
			set("Vary", row.vary)
			if row.allowed != "" {
				set("Access-Control-Expose-Headers", exposed)
			}
			var headers []string
			if row.origin != "" {
				headers = []string{"Origin: " + row.origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"}
			}
			for _, request := range []string{"GET /health", "GET /agents", "GET /agents/x", "GET /whoami", "PUT /chat", "GET /nowhere", "GET //x", "OPTIONS /chat"} {
				method, target, _ := strings.Cut(request, " ")
				got := s.ask(method, target, headers...)
				if method == "OPTIONS" {
					if got.Status != 204 || got.Body != "" {
						t.Errorf("preflight: %d %q", got.Status, got.Body)
					}
					if row.allowed != "" {
						set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
						set("Access-Control-Allow-Headers", "*, Authorization")
						set("Access-Control-Max-Age", "600")
					}
				}
				if diff := cmp.Diff(want, crossOrigin(got.Header)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", request, diff)
				}
			}
		})
	}
}

// crossOrigin is the part of h that CORS is about. Access-Control-Allow-Credentials
// is never in it.
func crossOrigin(h http.Header) http.Header {
	part := http.Header{}
	for name, values := range h {
		if name == "Vary" || strings.HasPrefix(name, "Access-Control-") {
			part[name] = values
		}
	}
	return part
}
