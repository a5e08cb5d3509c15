package api

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"postern/shared/auth"
)

// event is the one line that each request leaves in the log, filled on the way.
type event struct {
	requestID string
	start     time.Time
	from      netip.Addr
	caller    string
	route     string
	more      []slog.Attr // what the handler has to add
	err       error
	broken    bool // no response, or half of one, was sent: it must not end as if whole
}

// write logs e for a response of that status. What went wrong counts for more
// than the status, which may have been sent before.
//
// A refused credential is a line of its own wording, which ElizaOS' operators
// search for. What the flood guard refuses is logged at debug only: a line for
// each would cost us more than the request costs its sender.
func (e *event) write(log *slog.Logger, r *http.Request, status int) {
	var fault problem
	switch {
	case e.err == nil || gone(r, e.err):
	case e.broken:
		fault = problems[Internal]
	default:
		fault = problems[public(e.err).Code]
	}
	level, message, decision := slog.LevelInfo, "request", "allow"
	if fault.reason != "" {
		level, message, decision = slog.LevelWarn, "request refused", "deny"
	}
	if fault.status >= 500 {
		level, message = slog.LevelError, "request failed"
	}
	reason := fault.reason
	var refused auth.Reason
	if errors.As(e.err, &refused) {
		reason = string(refused)
		if fault.status == http.StatusTooManyRequests {
			level = slog.LevelDebug
		} else {
			message = RefusalMessage(e.from)
		}
	}

	ctx := r.Context()
	if !log.Enabled(ctx, level) {
		return
	}
	now := time.Now()
	line := slog.NewRecord(now, level, message, 0) // without the program counter, which costs a walk of the stack
	line.AddAttrs(
		slog.String("request_id", e.requestID),
		slog.String("caller", e.caller),
		slog.String("route", e.route),
		slog.Int("status", status),
		slog.String("decision", decision),
		slog.String("ip", AddressText(e.from)),
		slog.Float64("ms", float64(now.Sub(e.start).Microseconds())/1000),
	)
	line.AddAttrs(e.more...)
	if reason != "" {
		line.AddAttrs(slog.String("reason", reason))
	}
	if refused != "" && log.Enabled(ctx, slog.LevelDebug) {
		line.AddAttrs(slog.Any("credential_headers", CredentialHeaders(r.Header)))
	}
	if fault.status >= 500 {
		line.AddAttrs(slog.String("error", e.err.Error()))
	}
	log.Handler().Handle(ctx, line)
}

// RefusalMessage is the log's text for a refused credential.
func RefusalMessage(from netip.Addr) string {
	return "Unauthorized access attempt: Missing or invalid X-API-KEY from " + AddressText(from)
}

// CredentialHeaders lists which headers that carry credentials are there, by
// name alone.
func CredentialHeaders(h http.Header) []string {
	names := []string{}
	for _, name := range []string{"Authorization", "X-Api-Key", "Cookie", "Proxy-Authorization"} {
		if _, there := h[name]; there {
			names = append(names, name)
		}
	}
	return names
}

// AddressText is an address as log lines have it.
func AddressText(a netip.Addr) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}
