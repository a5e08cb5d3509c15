package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"postern/shared/agents"
	"postern/shared/api"
	"postern/shared/secret"
	"postern/shared/settings"
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
	h, err := handler(settings.Settings{Root: &digest, RateLimit: 1 << 30}, file, nil, api.NewLogger(sink, slog.LevelInfo))
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

type discard struct {
	header http.Header
	status int
}

func (d *discard) SetWriteDeadline(time.Time) error { return nil }
func (d *discard) Header() http.Header              { return d.header }
func (d *discard) Write(p []byte) (int, error)      { return len(p), nil }
func (d *discard) WriteHeader(status int)           { d.status = status }
