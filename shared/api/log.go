package api

import (
	"io"
	"log/slog"
)

// NewLogger writes to w one line of JSON an entry.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
