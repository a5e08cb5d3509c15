package main

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/model"
	"postern/shared/secret"
	"postern/shared/settings"
	"postern/shared/table/sqlite"
)

// BenchmarkGetAgents is the whole chain of an authenticated GET /agents, event
// line and limit on, without the network.
func BenchmarkGetAgents(b *testing.B) {
	file, err := agents.Load("../../agents.yaml", "offline/eliza")
	if err != nil {
		b.Fatal(err)
	}
	sink, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	digest := secret.DigestOf("token")
	h, _, err := join(settings.Settings{Root: &digest, RateLimit: 1 << 30}, file, nil, store(b), nil, nil, api.NewLogger(sink, slog.LevelInfo))
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/agents", nil)
	r.Header.Set("Authorization", "Bearer token")
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		h.ServeHTTP(w, r)
	}
	if w.status != http.StatusOK {
		b.Fatalf("status %d", w.status)
	}
}

// instant is a model that takes no time, so what a chat takes is ours.
type instant struct{}

func (instant) Stream(context.Context, model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		_ = yield(model.Event{Text: "yes"}, nil) && yield(model.Event{Stop: model.EndTurn}, nil)
	}
}

// BenchmarkChat is what the frame and the run add to a chat beyond its model's
// time; the target is 0.3 ms.
func BenchmarkChat(b *testing.B) {
	file, err := agents.Load("../../agents.yaml", "test/instant")
	if err != nil {
		b.Fatal(err)
	}
	digest := secret.DigestOf("token")
	h, _, err := join(settings.Settings{Root: &digest, RateLimit: 1 << 30, ChatTimeout: time.Minute}, file,
		agents.Models{"test": instant{}}, store(b), nil, nil, api.NewLogger(io.Discard, slog.LevelInfo))
	if err != nil {
		b.Fatal(err)
	}
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		r := httptest.NewRequest(http.MethodPost, "/chat", strings.NewReader(`{"message":"hello"}`))
		r.Header.Set("Authorization", "Bearer token")
		r.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
	}
	if w.status != http.StatusOK {
		b.Fatalf("status %d", w.status)
	}
}

// store is the table of a data folder of its own.
func store(b *testing.B) *sqlite.Table {
	t, err := sqlite.Open(sqlite.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { t.Close() })
	return t
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) SetWriteDeadline(time.Time) error { return nil }
func (d *discard) Header() http.Header              { return d.header }
func (d *discard) Write(p []byte) (int, error)      { return len(p), nil }
func (d *discard) WriteHeader(status int)           { d.status = status }
