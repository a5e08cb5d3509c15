package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
)

// contractErrors is the contract's table (§3), as far as there are codes yet.
var contractErrors = []struct {
	code   api.Code
	status int
	title  string
}{
	{api.Internal, 500, "Internal error"},
	{api.Unauthenticated, 401, "Invalid API key"},
	{api.AddressDenied, 403, "Access denied from this IP address"},
	{api.HostDenied, 403, "Host not allowed"},
	{api.ScopeMissing, 403, "Insufficient scope"},
	{api.NotFound, 404, "Not found"},
	{api.MethodNotAllowed, 405, "Method not allowed"},
	{api.MessageRequired, 400, "Message required"},
	{api.InvalidRequest, 400, "Invalid request"},
	{api.UnsupportedMediaType, 415, "Unsupported media type"},
	{api.TooLarge, 413, "Request too large"},
	{api.Conflict, 409, "Conflict"},
	{api.RequestInProgress, 409, "Request in progress"},
	{api.KeyReused, 422, "Idempotency key reused"},
	{api.RateLimited, 429, "Rate limit exceeded"},
	{api.BudgetExceeded, 429, "Token budget exceeded"},
	{api.ModelFailed, 502, "Model backend failed"},
	{api.ModelRefused, 502, "Model backend failed"},
	{api.ModelUnavailable, 503, "Model backend unavailable"},
	{api.ModelTimeout, 504, "Model backend timed out"},
	{api.AuthUnavailable, 503, "Authentication unavailable"},
	{api.Unavailable, 503, "Service unavailable"},
}

// P14: every code's whole response, and none is left out.
func TestErrorTable(t *testing.T) {
	t.Parallel()
	for i, row := range contractErrors {
		if int(row.code) != i {
			t.Fatalf("row %d is code %d: list every code, in order", i, row.code)
		}
	}
	if !panics(func() { api.ProblemOf(api.Fail(api.Code(len(contractErrors)), ""), "") }) {
		t.Errorf("there is a code %d that this table doesn't know", len(contractErrors))
	}

	var all strings.Builder
	for _, row := range contractErrors {
		t.Run(row.title, func(t *testing.T) {
			got := failing(t, &api.Error{Code: row.code, Err: errors.New("CAUSE")}).ask("GET", "/health")
			p := got.problem(t)
			if got.Status != row.status || p.Status != row.status {
				t.Errorf("status %d, in the body %d, want %d", got.Status, p.Status, row.status)
			}
			if p.Title != row.title || p.Error != row.title {
				t.Errorf("title %q, error %q, want both %q", p.Title, p.Error, row.title)
			}
			if p.Detail == "" {
				t.Error("no detail: the caller isn't told what to do")
			}

			message, challenge, retry := "", "", ""
			switch {
			case row.code == api.Unauthenticated:
				message = `"message":"Unauthorized: Invalid or missing X-API-KEY",`
				challenge = `Bearer realm="postern"`
			case row.code == api.ScopeMissing:
				challenge = `Bearer error="insufficient_scope"`
			case row.status == 503:
				retry = "5"
			}
			want := fmt.Sprintf(`{"status":%d,"title":%q,"error":%q,"detail":%s,%s"request_id":"request-1"}`+"\n",
				row.status, row.title, row.title, quoted(p.Detail), message)
			if got.Body != want {
				t.Errorf("body\n%swant\n%s", got.Body, want)
			}
			for name, value := range map[string]string{
				"Content-Type": "application/problem+json", "WWW-Authenticate": challenge, "Retry-After": retry,
			} {
				if h := got.Header.Get(name); h != value {
					t.Errorf("%s: %q, want %q", name, h, value)
				}
			}
			if strings.Contains(got.everything(), "CAUSE") {
				t.Error("I15: the cause is in the response")
			}
			fmt.Fprintf(&all, "%d\n%s\n\n", got.Status, strings.TrimSpace(got.everything()))
		})
	}
	golden(t, "errors.golden", all.String())
}

func TestErrorsInEveryDisguise(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		err   error
		title string
	}{
		{"a coded error, wrapped twice", fmt.Errorf("a: %w", fmt.Errorf("b: %w", api.Fail(api.NotFound, "x"))), "Not found"},
		{"a coded error among others", errors.Join(errors.New("x"), api.Because(api.ModelFailed, errors.New("y"))), "Model backend failed"},
		{"a reason, bare", auth.Expired, "Invalid API key"},
		{"a reason, wrapped", fmt.Errorf("key 7: %w", auth.Revoked), "Invalid API key"},
		{"an address", fmt.Errorf("x: %w", auth.ErrAddress), "Access denied from this IP address"},
		{"a credential store", fmt.Errorf("%w: %w", auth.ErrUnavailable, errors.New("timeout")), "Authentication unavailable"},
		{"a coded error that a reason caused keeps its code", api.Because(api.RateLimited, auth.Unknown), "Rate limit exceeded"},
		{"a file's error", &fs.PathError{Op: "open", Path: "/etc/SECRETPATH", Err: fs.ErrNotExist}, "Internal error"},
		{"a deadline that nobody named", context.DeadlineExceeded, "Internal error"},
		{"a cancellation by somebody else than the caller", context.Canceled, "Internal error"},
		{"a zero Error", &api.Error{Err: errors.New("SECRETTEXT")}, "Internal error"},
		{"an unknown error (I15, P4)", errors.New("SECRETTEXT /srv/app.go:12"), "Internal error"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			got := failing(t, row.err).ask("GET", "/health")
			if p := got.problem(t); p.Error != row.title {
				t.Errorf("%q, want %q", p.Error, row.title)
			}
			if strings.Contains(got.everything(), "SECRET") {
				t.Errorf("the error's text is in the response:\n%s", got.everything())
			}
		})
	}
}

func TestErrorsCarryTheirOwnDetailAndRetryAfter(t *testing.T) {
	t.Parallel()
	got := failing(t, &api.Error{Code: api.RateLimited, Detail: "Do <this> & that.", RetryAfter: 90 * time.Second}).ask("GET", "/health")
	if p := got.problem(t); p.Detail != "Do <this> & that." {
		t.Errorf("detail %q", p.Detail)
	}
	if !strings.Contains(got.Body, "<this> &") {
		t.Errorf("the body is escaped for HTML, which it is not: %s", got.Body)
	}
	if h := got.Header.Get("Retry-After"); h != "90" {
		t.Errorf("Retry-After: %q, want 90", h)
	}
	if got := failing(t, &api.Error{Code: api.Unavailable, RetryAfter: 7 * time.Second}).ask("GET", "/health"); got.Header.Get("Retry-After") != "7" {
		t.Errorf("Retry-After: %q, want the error's own 7", got.Header.Get("Retry-After"))
	}
}

// The log has what the caller hasn't.
func TestErrorTextIsForTheLog(t *testing.T) {
	t.Parallel()
	s := failing(t, fmt.Errorf("reading: %w", api.Because(api.Unavailable, errors.New("table is on fire"))))
	s.ask("GET", "/health")
	if line := s.log.only(t); line["error"] != "reading: Service unavailable: table is on fire" || line["level"] != "ERROR" {
		t.Errorf("log line %v", line)
	}
	if e := api.Fail(api.NotFound, "x"); e.Error() != "Not found" || errors.Unwrap(e) != nil {
		t.Errorf("a bare Error is %q around %v", e, errors.Unwrap(e))
	}
}

func quoted(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s)
	return strings.TrimSpace(b.String())
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}
