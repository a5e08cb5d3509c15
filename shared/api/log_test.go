package api_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"postern/shared/api"
)

// entry is a record of every kind of value.
func entry(at time.Time, message, key, text string, n int64, f float64) slog.Record {
	r := slog.NewRecord(at, slog.LevelWarn, message, 0)
	r.AddAttrs(slog.String(key, text), slog.Int64("n", n), slog.Float64("f", f), slog.String("last", "plain"))
	return r
}

// FuzzLogLines: the short way writes what slog's own handler writes, to the
// byte, whatever stands in an entry (P15).
func FuzzLogLines(f *testing.F) {
	f.Add("request", "route", "agents.list", int64(200), 0.022)
	f.Add("", "", "", int64(-1), 0.0)
	f.Add("a \"quote\"", "k\n", "\r\n{\"level\":\"INFO\"}", int64(math.MinInt64), -1.5)
	f.Add("<b>&amp;", "ключ", "\x00\x7f\u2028\xff", int64(math.MaxInt64), 1e21)
	f.Add("x", "y", "z", int64(1), 1e-7)
	f.Add("x", "y", "z", int64(1), 1e-6)
	f.Add("x", "y", "z", int64(1), math.Inf(1))
	f.Add("x", "y", "z", int64(1), math.Copysign(0, -1))
	f.Fuzz(func(t *testing.T, message, key, text string, n int64, float float64) {
		for _, at := range []time.Time{{}, time.Unix(n%1e10, n%1e9).UTC(), time.Unix(1, 0).In(time.FixedZone("", 3600))} {
			r := entry(at, message, key, text, n, float)
			var ours, theirs bytes.Buffer
			if err := api.NewLogger(&ours, slog.LevelInfo).Handler().Handle(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if err := slog.NewJSONHandler(&theirs, nil).Handle(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if ours.String() != theirs.String() {
				t.Fatalf("ours %q\nslog %q", ours.String(), theirs.String())
			}
			if strings.Count(ours.String(), "\n") != 1 {
				t.Fatalf("not one line: %q", ours.String())
			}
		}
	})
}

func BenchmarkLogLine(b *testing.B) {
	for name, handler := range map[string]slog.Handler{
		"ours": api.NewLogger(io.Discard, slog.LevelInfo).Handler(),
		"slog": slog.NewJSONHandler(io.Discard, nil),
	} {
		b.Run(name, func(b *testing.B) {
			r := entry(time.Now(), "request", "route", "agents.list", 200, 0.022)
			b.ReportAllocs()
			for b.Loop() {
				handler.Handle(context.Background(), r)
			}
		})
	}
}
