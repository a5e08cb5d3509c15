package api_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/limit"
	"postern/shared/route"
)

// told keeps what an api.Usage is told.
type told struct{ lines []string }

func (u *told) Administered(_ context.Context, caller string) {
	u.lines = append(u.lines, "administered "+caller)
}
func (u *told) Refused(_ context.Context, caller string) {
	u.lines = append(u.lines, "refused "+caller)
}

// Contract §4: what a scope or a limit refuses is usage, of the verified caller;
// what is refused before that is nobody's. An administrative request is counted
// apart from the limit.
func TestUsageIsTold(t *testing.T) {
	t.Parallel()
	reader := auth.Caller{ID: "reader", Scopes: []route.Scope{route.AgentsRead}}
	for _, row := range []struct {
		name, request string
		door          guard
		spent         bool
		want          []string
	}{
		{"a success", "GET /agents", guard{caller: reader}, false, nil},
		{"a missing scope", "POST /chat", guard{caller: reader}, false, []string{"refused reader"}},
		{"a spent limit", "GET /agents", guard{caller: reader}, true, []string{"refused reader"}},
		{"both at once", "POST /chat", guard{caller: reader}, true, []string{"refused reader"}},
		{"an administrative request", "GET /keys", guard{caller: auth.RootCaller()}, false, []string{"administered root"}},
		{"one without the scope", "GET /keys", guard{caller: reader}, false, []string{"refused reader"}},
		{"no credential", "GET /keys", guard{err: auth.NoCredential}, false, nil},
		{"an address", "GET /agents", guard{caller: reader, err: auth.ErrAddress}, false, nil},
		{"a public route", "GET /health", guard{}, false, nil},
		{"an unknown path", "GET /nowhere", guard{caller: reader}, false, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			u := &told{}
			s := newSite(t, behind(&row.door), func(cfg *api.Config) {
				cfg.Usage = u
				cfg.Limiter = limiterFunc(func(context.Context, string, int) (limit.Decision, error) {
					return limit.Decision{Admitted: !row.spent, Limit: 9}, nil
				})
			})
			method, target, _ := strings.Cut(row.request, " ")
			s.ask(method, target)
			if !slices.Equal(u.lines, row.want) {
				t.Errorf("told %q, want %q", u.lines, row.want)
			}
		})
	}
}

// What a handler has to add stands in the request's one line.
func TestAnnotate(t *testing.T) {
	t.Parallel()
	s := newSite(t, handling("keys.list", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
		api.Annotate(w, slog.Int("audit_seq", 7), slog.String("audit_hash", api.ClientAddress(w).String()))
		return nil
	}))
	s.ask("GET", "/keys")
	if line := s.log.only(t); line["audit_seq"] != 7.0 || line["audit_hash"] != "192.0.2.7" || line["route"] != "keys.list" {
		t.Errorf("the line is %v", line)
	}
}

// The caller's own address rule holds beside the rule for all.
func TestCallersOwnAddresses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, all, own string
		status         int // for 203.0.113.9
	}{
		{"no rule", "", "", 200},
		{"inside both", "203.0.113.0/24", "203.0.113.8/30", 200},
		{"inside its own", "", "203.0.113.9", 200},
		{"outside its own", "", "203.0.113.10", 403},
		{"outside its own, inside all's", "203.0.113.0/24", "198.51.100.0/24", 403},
		{"inside its own, outside all's", "198.51.100.0/24", "203.0.113.0/24", 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			all, err1 := auth.ParseAddresses(row.all)
			own, err2 := auth.ParseAddresses(row.own)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			source := known{"right", auth.Caller{ID: "key", Scopes: []route.Scope{route.AgentsRead}, Addresses: own}}
			s := newSite(t, behind(&api.LocalDoor{Verifier: auth.NewVerifier(source), Addresses: all, Flood: &limit.Flood{}}))
			if got := s.from("203.0.113.9:1234", request("GET", "/agents", "X-Api-Key: right")); got.Status != row.status {
				t.Errorf("status %d, want %d", got.Status, row.status)
			}
			if got := s.from("203.0.113.9:1234", request("GET", "/agents", "X-Api-Key: wrong")); got.Status != 401 {
				t.Errorf("a wrong token is %d", got.Status)
			}
		})
	}
}

// known is a source of one token.
type known struct {
	token  string
	caller auth.Caller
}

func (k known) Owns(string) bool { return true }
func (k known) Verify(_ context.Context, token string) (auth.Caller, error) {
	if token != k.token {
		return auth.Caller{}, auth.Unknown
	}
	return k.caller, nil
}

// Contract §4: what a budget refuses is usage too, in whatever way the handler
// has told of it; no other failure of a handler's is.
func TestARefusedBudgetIsUsage(t *testing.T) {
	t.Parallel()
	spent := &api.Error{Code: api.BudgetExceeded, RetryAfter: time.Hour}
	for _, row := range []struct {
		name    string
		handler api.Handler
		status  int
		want    []string
	}{
		{"a budget", func(http.ResponseWriter, *http.Request, auth.Caller) error { return spent }, 429, []string{"refused reader"}},
		{"told in another shape", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			w.WriteHeader(429)
			return api.Told(fmt.Errorf("step 2: %w", spent))
		}, 429, []string{"refused reader"}},
		{"in the middle of a stream", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			w.Write([]byte("data: {}\n\n"))
			return api.Told(spent)
		}, 200, []string{"refused reader"}},
		{"a failure", func(http.ResponseWriter, *http.Request, auth.Caller) error { return api.Fail(api.ModelFailed, "") }, 502, nil},
		{"an unknown one", func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New("x") }, 500, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			u := &told{}
			s := newSite(t, behind(&guard{caller: auth.Caller{ID: "reader", Scopes: []route.Scope{route.AgentsRead}}}),
				handling("agents.list", row.handler), func(cfg *api.Config) { cfg.Usage = u })
			got := s.ask("GET", "/agents")
			if got.Status != row.status || !slices.Equal(u.lines, row.want) {
				t.Errorf("status %d, told %q; want %d, %q", got.Status, u.lines, row.status, row.want)
			}
			line := s.log.only(t)
			if denied := line["decision"] == "deny" && line["reason"] == "budget" && line["level"] == "WARN"; denied != (row.want != nil) {
				t.Errorf("the log line is %v", line)
			}
		})
	}
}
