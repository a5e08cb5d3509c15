package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
)

// One line a request, with these fields in this order; the golden has them all.
func TestEventLines(t *testing.T) {
	t.Parallel()
	reader := auth.Caller{ID: "reader", Scopes: []route.Scope{route.AgentsRead}}
	var lines strings.Builder
	for _, row := range []struct {
		name    string
		request string
		door    guard
		limit   int
	}{
		{"a success", "GET /agents", guard{caller: reader}, 9},
		{"a public route", "GET /health", guard{}, 9},
		{"an unknown path", "GET /nowhere", guard{}, 9},
		{"an unclean path", "GET //agents", guard{}, 9},
		{"a preflight", "OPTIONS /chat", guard{}, 9},
		{"a wrong method", "PUT /agents", guard{caller: reader}, 9},
		{"no credential", "GET /agents", guard{err: auth.NoCredential}, 9},
		{"another scheme", "GET /agents", guard{err: auth.BadScheme}, 9},
		{"two credentials", "GET /agents", guard{err: auth.Conflict}, 9},
		{"a malformed credential", "GET /agents", guard{err: auth.Malformed}, 9},
		{"an unknown credential", "GET /agents", guard{err: auth.Unknown}, 9},
		{"an expired credential", "GET /agents", guard{err: auth.Expired}, 9},
		{"a disabled credential", "GET /agents", guard{err: auth.Disabled}, 9},
		{"a revoked credential", "GET /agents", guard{err: auth.Revoked}, 9},
		{"a credential refused by the flood guard", "GET /agents", guard{err: api.Because(api.RateLimited, auth.Unknown)}, 9},
		{"an address", "GET /agents", guard{err: auth.ErrAddress}, 9},
		{"a host", "GET /agents", guard{err: &api.Error{Code: api.HostDenied}}, 9},
		{"a store that is down", "GET /agents", guard{err: auth.ErrUnavailable}, 9},
		{"a missing scope", "POST /chat", guard{caller: reader}, 9},
		{"a spent limit", "GET /agents", guard{caller: reader}, 1},
		{"a bad body", "POST /chat", guard{caller: auth.RootCaller()}, 9},
		{"a failure", "GET /whoami", guard{caller: reader}, 9},
	} {
		s := newSite(t, behind(&row.door), func(cfg *api.Config) { cfg.RateLimit = row.limit },
			handling("chat", func(http.ResponseWriter, *http.Request, auth.Caller) error { return api.Fail(api.MessageRequired, "") }),
			handling("whoami", func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New("on fire") }))
		method, target, _ := strings.Cut(row.request, " ")
		if row.limit == 1 {
			s.ask(method, target)
			s.log.Reset()
		}
		s.ask(method, target, "Authorization: Basic x", "X-Api-Key: y", "Cookie: z=1", "X-Other: w")
		s.log.only(t)
		lines.WriteString("# " + row.name + "\n" + s.log.String())
	}
	got := regexp.MustCompile(`"time":"[^"]+"`).ReplaceAllString(lines.String(), `"time":"…"`)
	got = regexp.MustCompile(`"ms":[0-9.e-]+`).ReplaceAllString(got, `"ms":0`)
	golden(t, "event_lines.golden", got)
}

// Contract §3: the sentence that operators search for, at WARN; at debug the
// names of the headers with credentials, and nothing else of them.
func TestRefusedCredentialIsLogged(t *testing.T) {
	t.Parallel()
	for level, names := range map[slog.Level]any{
		slog.LevelDebug: []any{"Authorization", "X-Api-Key", "Cookie"},
		slog.LevelInfo:  nil,
		slog.LevelWarn:  nil,
	} {
		var book *logbook
		s := newSite(t, behind(&guard{err: auth.Unknown}), func(cfg *api.Config) {
			book = &logbook{}
			cfg.Log = api.NewLogger(book, level)
		})
		s.ask("GET", "/agents", "Cookie: a=1", "X-Api-Key: b", "Authorization: Bearer c", "X-Auth-Token: d")
		line := book.only(t)
		if line["level"] != "WARN" || line["msg"] != "Unauthorized access attempt: Missing or invalid X-API-KEY from 192.0.2.7" {
			t.Errorf("at %v: %v", level, line)
		}
		if line["reason"] != "unknown" || line["decision"] != "deny" {
			t.Errorf("at %v: decision %v for reason %v", level, line["decision"], line["reason"])
		}
		if diff := cmp.Diff(names, line["credential_headers"]); diff != "" {
			t.Errorf("at %v: credential_headers (-want +got):\n%s", level, diff)
		}
	}
	if got := api.RefusalMessage(netip.Addr{}); !strings.HasSuffix(got, " from unknown") {
		t.Errorf("without an address: %s", got)
	}
}

// What the flood guard refuses costs no line but at debug.
func TestFloodIsQuiet(t *testing.T) {
	t.Parallel()
	var book logbook
	s := newSite(t, behind(&guard{err: api.Because(api.RateLimited, auth.Unknown)}), func(cfg *api.Config) {
		cfg.Log = api.NewLogger(&book, slog.LevelInfo)
	})
	if got := s.ask("GET", "/agents"); got.Status != 429 || book.String() != "" {
		t.Errorf("status %d, log %q", got.Status, book.String())
	}
}

// A caller writes no lines of its own into the log, whichever handler writes it.
func TestNothingSentBreaksALine(t *testing.T) {
	t.Parallel()
	const evil = "x\r\nlevel=ERROR msg=forged\u2028\x00\x1b[31m"
	for name, handler := range map[string]func(*logbook) slog.Handler{
		"JSON": func(b *logbook) slog.Handler {
			return slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
		"text": func(b *logbook) slog.Handler {
			return slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})
		},
	} {
		for what, change := range map[string]func(*api.Config){
			"a success":         func(*api.Config) {},
			"a refusal":         behind(&guard{err: auth.Malformed}),
			"a failure":         handling("agents.get", func(http.ResponseWriter, *http.Request, auth.Caller) error { return errors.New(evil) }),
			"a refused request": handling("agents.get", func(http.ResponseWriter, *http.Request, auth.Caller) error { return api.Fail(api.ScopeMissing, evil) }),
			"a panic":           handling("agents.get", func(http.ResponseWriter, *http.Request, auth.Caller) error { panic(evil) }),
		} {
			book := &logbook{}
			s := newSite(t, change, func(cfg *api.Config) { cfg.Log = slog.New(handler(book)) })
			r := request("GET", "/agents/x%0D%0Alevel=ERROR%20msg=forged")
			r.Method = "GET"
			for _, header := range []string{"Authorization", "X-Api-Key", "X-Request-Id", "X-Forwarded-For", "User-Agent", "Origin", "Host"} {
				r.Header[header] = []string{evil}
			}
			s.send(r)
			if text := book.String(); strings.Count(text, "\n") != 1 || strings.ContainsAny(text, "\r\x00\x1b") || strings.Contains(text, "\nlevel=ERROR") {
				t.Errorf("%s handler, %s: the log is %q", name, what, text)
			}
		}
	}
}

// P4, I20: neither a token nor its digest comes out again anywhere, on any route,
// for any failure, at debug.
func TestCanary(t *testing.T) {
	t.Parallel()
	const rightful, wrong = "CANARY-rightful-token-7c1f9a", "CANARY-wrong-token-09be44"
	var sinks strings.Builder
	for _, change := range []func(*api.Config){
		func(*api.Config) {},
		func(cfg *api.Config) { cfg.RateLimit = 1 },
		func(cfg *api.Config) { cfg.Door.(*api.LocalDoor).Addresses, _ = auth.ParseAddresses("10.0.0.1") },
		func(cfg *api.Config) { cfg.Door.(*api.LocalDoor).Open = true },
		func(cfg *api.Config) { cfg.CORSOrigins = []string{"*"} },
		func(cfg *api.Config) {
			cfg.Door.(*api.LocalDoor).Verifier = auth.NewVerifier(downSource{})
		},
		func(cfg *api.Config) {
			for name := range cfg.Handlers {
				cfg.Handlers[name] = func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
					if _, err := api.Decode[struct{}](r); err != nil {
						return err
					}
					panic("oops")
				}
			}
		},
	} {
		s := newSite(t, behind(localDoor(rightful)), change)
		for _, row := range route.Table() {
			target := strings.NewReplacer("{name}", "eliza", "{id}", "7").Replace(row.Path)
			for _, method := range []string{row.Method, "PUT", "OPTIONS"} {
				for _, token := range []string{rightful, wrong} {
					for _, headers := range [][]string{
						{"Authorization: Bearer " + token},
						{"X-Api-Key: " + token},
						{"Authorization: Bearer " + token, "X-Api-Key: " + token},
						{"Authorization: Bearer " + token, "X-Api-Key: " + token + "x"},
						{"Authorization: Bearer" + token},
						{"Authorization: Basic " + token},
						{"Authorization: Bearer  " + token + " "},
						{"X-Api-Key: " + token + "\r\n"},
						{"Authorization: Bearer " + hexDigest(token)},
						{"Cookie: token=" + token, "X-Request-Id: " + token, "Origin: https://" + token},
					} {
						r := posting(target, "{}", headers...)
						r.Method = method
						sinks.WriteString(s.send(r).everything())
					}
				}
			}
		}
		sinks.WriteString(s.log.String())
	}
	for _, token := range []string{rightful, wrong} {
		for _, form := range forms(token) {
			if i := strings.Index(sinks.String(), form); i >= 0 {
				t.Errorf("%s came out: …%s…", form, sinks.String()[max(0, i-200):i+80])
			}
		}
	}
	if !strings.Contains(sinks.String(), `"caller":"root"`) || !strings.Contains(sinks.String(), "Unauthorized access attempt") {
		t.Error("nobody was admitted, or nobody refused: this test proves nothing")
	}
}

// forms are the shapes in which a token could come out.
func forms(token string) []string {
	sum := sha256.Sum256([]byte(token))
	return []string{
		token[:len("CANARY-")+6],
		hex.EncodeToString(sum[:])[:16],
		strings.ToUpper(hex.EncodeToString(sum[:]))[:16],
		base64.StdEncoding.EncodeToString(sum[:])[:16],
		base64.URLEncoding.EncodeToString(sum[:])[:16],
		base64.StdEncoding.EncodeToString([]byte(token))[:16],
		strings.Trim(strings.ReplaceAll(fmt.Sprint(sum[:6]), " ", " "), "[]"),
	}
}

func hexDigest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// downSource is a credential store that can't be asked.
type downSource struct{}

func (downSource) Owns(string) bool { return true }

func (downSource) Verify(context.Context, string) (auth.Caller, error) {
	return auth.Caller{}, fmt.Errorf("%w: connection refused", auth.ErrUnavailable)
}
