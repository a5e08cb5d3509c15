package openai

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"postern/shared/model"
	"postern/shared/secret"
)

// failure is a failure of the upstream, in words for the log.
type failure struct {
	kind     error // one of package model's
	text     string
	mayRetry bool
	wait     time.Duration // before the other try
	fresh    bool          // that one needs a new connection

	overloaded bool          // it was refused for what was asked before
	after      time.Duration // and wants to be asked again then; 0: it doesn't say
}

func (f *failure) Error() string { return f.kind.Error() + ": " + f.text }
func (f *failure) Unwrap() error { return f.kind }

// Overloaded is for those who tell a caller of the failure: yes says that the
// upstream is there and takes no more now, or that its quota is used up; after,
// when to ask again, 0 if nobody knows.
func (f *failure) Overloaded() (after time.Duration, yes bool) { return f.after, f.overloaded }

// Before another try we wait pause, or as long as the upstream wants, where
// that is not longer than maxPause: a caller is waiting too.
const (
	pause    = 200 * time.Millisecond
	maxPause = 2 * time.Second
)

// orEnded returns ctx's error once that has ended, which is then why err came.
func orEnded(ctx context.Context, err error) error {
	ended := ctx.Err()
	if deadline, there := ctx.Deadline(); ended == nil && there && time.Until(deadline) <= 0 {
		ended = context.DeadlineExceeded // a dial ends by the clock, a moment before ctx does
	}
	switch ended {
	case nil:
		return err
	case context.DeadlineExceeded:
		return fmt.Errorf("%w: %w", model.ErrTimeout, ended)
	default:
		return ended
	}
}

// progress is how far a try came, on the last of the connections it got: net/http
// takes another where it has written nothing.
type progress struct{ connected, reused, sent, answered atomic.Bool }

func watch(ctx context.Context) (context.Context, *progress) {
	seen := new(progress)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			seen.connected.Store(true)
			seen.reused.Store(info.Reused)
			seen.sent.Store(false)
		},
		WroteRequest:         func(info httptrace.WroteRequestInfo) { seen.sent.Store(info.Err == nil) },
		GotFirstResponseByte: func() { seen.answered.Store(true) },
	}), seen
}

// notAnswered is a try without an HTTP response: nobody was there, or somebody
// who was too slow or spoke something else. A request that was sent whole may be
// at work and on the bill, so it is not sent again, unless it went into a
// connection of earlier that had died meanwhile.
func notAnswered(err error, seen *progress, key secret.String) *failure {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without the URL, which is in the settings
	}
	f := &failure{kind: model.ErrUnavailable, text: excerpt(err.Error(), key), wait: pause, fresh: true}
	switch {
	case isTimeout(err) && seen.connected.Load():
		f.kind = model.ErrTimeout
	case isTimeout(err): // to dial again would take as long again
	case seen.answered.Load():
		f.kind = model.ErrFailed
	default:
		if seen.sent.Load() {
			f.kind = model.ErrFailed // it may be at work, and on the bill
		}
		_, reset := errors.AsType[streamReset](err)
		f.mayRetry = !seen.sent.Load() || seen.reused.Load() && !reset
	}
	return f
}

// streamReset is net/http's error of an HTTP/2 stream that was ended, on a
// connection that lives. It has this shape for errors.As.
type streamReset struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamReset) Error() string { return "stream reset" }

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// An error's body is read up to maxRefusal, for refusalTime.
const (
	maxRefusal  = 4 << 10
	refusalTime = time.Second
)

// refused is a response with another status than 200.
func refused(response *http.Response, body *reply) *failure {
	status := response.StatusCode
	f := &failure{kind: kindOf(status), text: strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))}
	if status < 200 { // what follows 101 is the connection itself, which no context ends
		return f
	}
	body.endIn(refusalTime)
	text, _ := io.ReadAll(io.LimitReader(body, maxRefusal)) // as much as came
	if shown := excerpt(string(text), body.key); shown != "" {
		f.text += ": " + shown
	}
	if f.kind == model.ErrRefused {
		f.kind = model.Refusal(string(text))
	}
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f.wait, f.mayRetry = pauseOf(response.Header)
	}
	if status == http.StatusTooManyRequests {
		f.overloaded = true
		if after, ok := retryAfter(response.Header); ok && after <= time.Hour {
			f.after = after
		}
	}
	return f
}

// kindOf maps a status. Unavailable is what no request can pass until somebody
// puts it right, here or there: a key that is missing, wrong or out of credit, a
// model or a path that doesn't exist, an address that has moved; and overload.
func kindOf(status int) error {
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		return model.ErrTimeout
	case status >= 300 && status < 400,
		status == http.StatusUnauthorized, status == http.StatusPaymentRequired,
		status == http.StatusForbidden, status == http.StatusNotFound,
		status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return model.ErrUnavailable
	case status == http.StatusRequestEntityTooLarge:
		return model.ErrTooLong
	case status == http.StatusBadRequest, status == http.StatusUnprocessableEntity:
		return model.ErrRefused
	default:
		return model.ErrFailed
	}
}

// pauseOf is how long a refusal asks to wait, by Retry-After or x-should-retry,
// OpenAI's word to its clients. ok is false where that is longer than we would.
func pauseOf(h http.Header) (wait time.Duration, ok bool) {
	if h.Get("X-Should-Retry") == "false" {
		return 0, false
	}
	if h.Get("Retry-After") == "" {
		return pause, true
	}
	wait, ok = retryAfter(h)
	return max(pause, wait), ok && wait <= maxPause
}

// retryAfter reads Retry-After, which is a number of seconds or a date (RFC 9110
// §10.2.3).
func retryAfter(h http.Header) (time.Duration, bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if date, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(date)), true
	}
	seconds, err := strconv.ParseUint(text, 10, 32)
	return time.Duration(seconds) * time.Second, err == nil
}

const maxExcerpt = 300

// excerpt makes an upstream's text fit for a log: one line of at most
// maxExcerpt bytes of printable UTF-8 without the key.
func excerpt(text string, key secret.String) string {
	text = text[:min(len(text), maxRefusal)]
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = scrub(strings.Join(strings.Fields(text), " "), key.Reveal())
	return strings.ToValidUTF8(text[:min(len(text), maxExcerpt)], "")
}

// piece is how much of a key in a row is already too much to show. Servers
// echo keys whole, cut, or with the middle starred out.
const piece = 8

// scrub replaces each stretch of text that is made of pieces of key.
func scrub(text, key string) string {
	size := min(piece, len(key))
	if size == 0 {
		return text
	}
	var out strings.Builder
	done := 0 // text[:done] is in out
	for i := 0; i+size <= len(text); i++ {
		if !strings.Contains(key, text[i:i+size]) {
			continue
		}
		if i > done || i == 0 {
			out.WriteString(text[done:i])
			out.WriteString("[redacted]")
		}
		done = i + size
	}
	out.WriteString(text[done:])
	return out.String()
}
