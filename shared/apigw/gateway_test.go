package apigw_test

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	gocmp "github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/table/memory"
	"postern/shared/usage"
	recorded "postern/tests/logbook"
)

var update = flag.Bool("update", false, "rewrite the goldens under testdata")

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // package core tells it of every event that is no request
	os.Exit(m.Run())
}

// logbook is a log's sink.
type logbook struct{ recorded.Book }

func (l *logbook) logger() *slog.Logger { return api.NewLogger(l, slog.LevelDebug) }

// functionWith is the frame of every route behind API Gateway, whose handlers
// are all h, or answer with their route's name.
func functionWith(t testing.TB, h api.Handler, book *logbook) http.Handler {
	t.Helper()
	cfg := api.Config{
		Routes:   route.Table(),
		Handlers: map[string]api.Handler{},
		Door:     apigw.Door{},
		Log:      book.logger(),
		Limiter:  usage.New(&memory.Table{}, slog.New(slog.DiscardHandler), nil),
		TLS:      true,
	}
	for _, row := range cfg.Routes {
		cfg.Handlers[row.Name] = h
		if h == nil {
			cfg.Handlers[row.Name] = func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
				return api.WriteJSON(w, http.StatusOK, row.Name)
			}
		}
	}
	frame, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// proxied is the event of a request that came without an authorizer.
func proxied(method, resource string, parameters ...string) events.APIGatewayProxyRequest {
	event := events.APIGatewayProxyRequest{
		Resource: resource, Path: resource, HTTPMethod: method,
		MultiValueHeaders: map[string][]string{"Content-Type": {"application/json"}},
		RequestContext: events.APIGatewayProxyRequestContext{
			RequestID: "gateway-id", Stage: "prod", DomainName: "abc.execute-api.us-east-1.amazonaws.com",
			Identity: events.APIGatewayRequestIdentity{SourceIP: "203.0.113.9"},
		},
	}
	for i := 0; i < len(parameters); i += 2 {
		if event.PathParameters == nil {
			event.PathParameters = map[string]string{}
		}
		event.PathParameters[parameters[i]] = parameters[i+1]
	}
	return event
}

// as puts an authorizer's context into event.
func as(event events.APIGatewayProxyRequest, context map[string]any) events.APIGatewayProxyRequest {
	event.RequestContext.Authorizer = maps.Clone(context)
	return event
}

// root is the context of the root caller.
func root() map[string]any {
	return map[string]any{"principalId": "root", "kind": "root", "scopes": `["agents:read","chat","admin"]`, "integrationLatency": 7.0}
}

// reply is a response read to its end, however it came.
type reply struct {
	Status int
	Header http.Header
	Body   string
}

// error is the stable text of a problem.
func (r reply) error() string {
	var p api.Problem
	json.Unmarshal([]byte(r.Body), &p)
	return p.Error
}

// both sends event to h buffered and streamed, which must not differ.
func both(t testing.TB, h http.Handler, event events.APIGatewayProxyRequest) reply {
	t.Helper()
	b, err := buffered(h, event)
	if err != nil {
		t.Fatalf("buffered: %v", err)
	}
	s, err := streamed(h, event)
	if err != nil {
		t.Fatalf("streamed: %v", err)
	}
	b.Header, s.Header = steady(b.Header), steady(s.Header)
	if diff := gocmp.Diff(b, s); diff != "" {
		t.Errorf("%s %s: the replies differ (-buffered +streamed):\n%s", event.HTTPMethod, event.Resource, diff)
	}
	return b
}

// steady is h without what another request changes.
func steady(h http.Header) http.Header {
	h = h.Clone()
	h.Del("RateLimit")
	return h
}

func buffered(h http.Handler, event events.APIGatewayProxyRequest) (reply, error) {
	got, err := apigw.Buffered(h)(context.Background(), event)
	return reply{got.StatusCode, got.MultiValueHeaders, got.Body}, err
}

func streamed(h http.Handler, event events.APIGatewayProxyRequest) (reply, error) {
	got, err := apigw.Streamed(h)(context.Background(), event)
	if err != nil {
		return reply{}, err
	}
	body, err := io.ReadAll(got.Body)
	return reply{got.StatusCode, got.MultiValueHeaders, string(body)}, err
}

// readJSON reads a file of testdata into v.
func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// golden compares got with testdata/name, or rewrites that with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := cmp.Or(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run with -update:\n%s", path, diff)
	}
}

// indented is v as JSON for people.
func indented(t testing.TB, v any) string {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A handler's time ends before Lambda's, so that what hangs is answered.
func TestTimeIsLeftForTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := functionWith(t, func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
			<-r.Context().Done()
			return api.Because(api.Unavailable, r.Context().Err())
		}, &logbook{})
		event := proxied("GET", "/whoami")
		event.RequestContext.Authorizer = map[string]any{"principalId": "root"}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		got, err := apigw.Buffered(h)(ctx, event)
		if err != nil || got.StatusCode != 503 || time.Since(began) >= 10*time.Second {
			t.Errorf("%d after %s, %v", got.StatusCode, time.Since(began), err)
		}
	})
}

// A Location is for the caller, who sees the stage, or the base path of a custom
// domain, before our paths.
func TestLocation(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ resource, whole, sent, want string }{
		{"/keys", "/prod/keys", "/keys/a1", "/prod/keys/a1"},
		{"/keys", "/keys", "/keys/a1", "/keys/a1"},
		{"/keys", "/v1/keys", "/keys/a1", "/v1/keys/a1"},
		{"/keys", "/a/b/keys", "/keys/a1", "/a/b/keys/a1"},
		{"/keys/{id}/rotate", "/prod/keys/a%2Fb/rotate", "/keys", "/prod/keys"},
		{"/keys", "/prod/keys", "https://elsewhere.example/x", "https://elsewhere.example/x"},
		{"/keys", "", "/keys/a1", "/keys/a1"},
	} {
		event := proxied("POST", row.resource, "id", "a/b")
		event.RequestContext.Path = row.whole
		event.RequestContext.Authorizer = map[string]any{"principalId": "root", "scopes": `["admin"]`}
		h := functionWith(t, func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
			w.Header().Set("Location", row.sent)
			w.WriteHeader(http.StatusCreated)
			return nil
		}, &logbook{})
		got, err := apigw.Buffered(h)(t.Context(), event)
		if location := http.Header(got.MultiValueHeaders).Get("Location"); err != nil || got.StatusCode != 201 || location != row.want {
			t.Errorf("%s as %q: %d, Location %q, want %q, %v", row.resource, row.whole, got.StatusCode, location, row.want, err)
		}
	}
}
