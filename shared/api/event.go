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
	err       error
	broken    bool // err came when the response had begun: its status tells nothing
}

// write logs e for a response of that status. A refused credential is a line of
// its own wording, which ElizaOS' operators search for. What the flood guard
// refuses is logged at debug only: a line for each would cost us more than the
// request costs its sender.
func (e *event) write(log *slog.Logger, r *http.Request, status int) {
	level, message, decision := slog.LevelInfo, "request", "allow"
	var reason auth.Reason
	refused := errors.As(e.err, &reason)
	outcome := status
	if errors.As(e.err, new(told)) { // a stream broke off: its status was sent before
		outcome = problems[public(e.err).Code].status
	}
	if e.broken && !gone(r, e.err) {
		outcome = http.StatusInternalServerError
	}
	switch {
	case refused && outcome == http.StatusTooManyRequests:
		level, message, decision = slog.LevelDebug, "request refused", "deny"
	case refused:
		level, decision = slog.LevelWarn, "deny"
		message = RefusalMessage(e.from)
	case outcome == http.StatusForbidden || outcome == http.StatusTooManyRequests:
		level, message, decision = slog.LevelWarn, "request refused", "deny"
	case outcome >= 500:
		level, message = slog.LevelError, "request failed"
		if public(e.err).Code == AuthUnavailable {
			decision = "deny" // closed, through no fault of the caller's
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
		slog.String("ip", addressText(e.from)),
		slog.Float64("ms", float64(now.Sub(e.start).Microseconds())/1000),
	)
	switch {
	case refused:
		line.AddAttrs(slog.String("reason", string(reason)))
		if log.Enabled(ctx, slog.LevelDebug) {
			line.AddAttrs(slog.Any("credential_headers", CredentialHeaders(r.Header)))
		}
	case decision == "deny":
		line.AddAttrs(slog.String("reason", problems[public(e.err).Code].title))
	}
	if e.err != nil && outcome >= 500 {
		line.AddAttrs(slog.String("error", e.err.Error()))
	}
	log.Handler().Handle(ctx, line)
}

// RefusalMessage is the log's text for a refused credential.
func RefusalMessage(from netip.Addr) string {
	return "Unauthorized access attempt: Missing or invalid X-API-KEY from " + addressText(from)
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

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}
