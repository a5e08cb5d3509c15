package sessions_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/usage"
)

type transcript struct {
	ID       string
	Messages []struct{ Role, Content, Agent, Time string }
}

// reply is a response read to its end.
type reply struct {
	Status int
	Header http.Header
	Body   string
}

// door lets everybody in as one caller.
type door struct{ caller auth.Caller }

func (d door) Arrival(*http.Request) (string, netip.Addr) { return "ID", netip.Addr{} }
func (d door) Admit(context.Context, *http.Request, netip.Addr) (auth.Caller, error) {
	return d.caller, nil
}

// send sends a request to the package's routes.
func (s *site) send(caller auth.Caller, method, id string) reply {
	s.Helper()
	handlers := s.Handlers()
	frame, err := api.New(api.Config{
		Routes:   slices.DeleteFunc(route.Table(), func(r route.Route) bool { return handlers[r.Name] == nil }),
		Handlers: handlers,
		Door:     door{caller},
		Log:      api.NewLogger(io.Discard, slog.LevelDebug),
		Limiter:  usage.New(&memory.Table{}, slog.New(slog.DiscardHandler), nil),
	})
	if err != nil {
		s.Fatal(err)
	}
	w := httptest.NewRecorder()
	frame.ServeHTTP(w, httptest.NewRequest(method, "/sessions/"+id, nil))
	return reply{w.Code, w.Result().Header, w.Body.String()}
}

func (s *site) get(caller auth.Caller, id string) reply    { return s.send(caller, "GET", id) }
func (s *site) delete(caller auth.Caller, id string) reply { return s.send(caller, "DELETE", id) }

// The transcript, byte by byte.
func TestTranscript(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.say("one <&>", "1")
	s.now = s.now.Add(90*time.Minute + 1234567*time.Nanosecond)
	if err := s.Append(t.Context(), alice, "s", "clerk", "two", "2"); err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"s","created_at":"2026-03-04T12:00:00Z","updated_at":"2026-03-04T13:30:00.001Z","messages":[` +
		`{"role":"user","content":"one <&>","time":"2026-03-04T12:00:00Z"},` +
		`{"role":"assistant","content":"1","agent":"judge","time":"2026-03-04T12:00:00Z"},` +
		`{"role":"user","content":"two","time":"2026-03-04T13:30:00.001Z"},` +
		`{"role":"assistant","content":"2","agent":"clerk","time":"2026-03-04T13:30:00.001Z"}]}` + "\n"
	if got := s.get(alice, "s"); got.Status != 200 || got.Body != want || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %v\n%s, want\n%s", got.Status, got.Header, got.Body, want)
	}
}

// A conversation that is deleted is gone, and its id begins another.
func TestDelete(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.say("one", "1")
	if got := s.delete(alice, "s"); got.Status != 204 || got.Body != "" {
		t.Errorf("%d %s", got.Status, got.Body)
	}
	if a, b := s.delete(alice, "s"), s.get(alice, "s"); a.Status != 404 || b.Status != 404 || s.read() != nil {
		t.Errorf("afterwards: %d, %d, %v", a.Status, b.Status, s.read())
	}
	s.say("two", "2")
	if got := s.kept(); len(got) != 2 || got[0] != "two" {
		t.Errorf("anew: %q", got)
	}
}

// A turn that comes between a deletion's reading and its writing goes too.
func TestDeleteRacesATurn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.say("one", "1")
	s.before = func(op string) error {
		if op == "delete" {
			s.before = nil
			s.say("two", "2")
		}
		return nil
	}
	if got := s.delete(alice, "s"); got.Status != 204 || s.read() != nil {
		t.Errorf("%d, and there is %v", got.Status, s.read())
	}
}

// P13: foreign, unknown and malformed ids are alike.
func TestP13AnothersConversationIsNone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.say("alice's", "1")
	if err := s.Append(t.Context(), bob, "own", "judge", "bob's", "1"); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "HEAD", "DELETE"} {
		unknown := s.send(bob, method, "unknown")
		if method != "HEAD" && (unknown.Status != 404 || !strings.Contains(unknown.Body, `"error":"Not found"`) || !strings.Contains(unknown.Body, "no such conversation")) {
			t.Errorf("%s: %d %s", method, unknown.Status, unknown.Body)
		}
		for _, id := range []string{"s", "%73", "..%2Falice%2Fs", "a%23b", "%C3%A4", "%00", strings.Repeat("x", 129)} {
			if got := s.send(bob, method, id); got.Status != 404 || got.Body != unknown.Body {
				t.Errorf("%s %s: %d %s", method, id, got.Status, got.Body)
			}
		}
	}
	if len(s.kept()) != 2 || s.get(bob, "own").Status != 200 || s.get(bob, "%6Fwn").Status != 200 {
		t.Errorf("alice has %q", s.kept())
	}
	nobody := auth.Caller{ID: "bob", Kind: auth.IssuedKey, Scopes: []route.Scope{route.AgentsRead}}
	if got := s.get(nobody, "own"); got.Status != 403 {
		t.Errorf("without the scope: %d %s", got.Status, got.Body)
	}
}

// The item is what package table's comment on prefixes and template.yaml's roles
// say, and expires by the clock of conversations.
func TestTheItem(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.say("one", "1")
	item := s.item()
	if want := s.now.Add(30 * day); !item.Expires.Equal(want) || item.Version != 1 {
		t.Errorf("it expires at %s in version %d, want %s", item.Expires, item.Version, want)
	}
	if items, err := s.memory.List(t.Context(), "session#alice", table.Query{Limit: 10}); err != nil || len(items) != 1 {
		t.Errorf("%v %v", items, err)
	}
}
