package openai

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"postern/shared/model"
	"postern/shared/secret"
)

// failure is a failure of the upstream, in words for the log.
type failure struct {
	kind     error // model.ErrFailed, model.ErrUnavailable or model.ErrTimeout
	text     string
	mayRetry bool
	wait     time.Duration // before the other try
}

func (f *failure) Error() string { return f.kind.Error() + ": " + f.text }
func (f *failure) Unwrap() error { return f.kind }

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

// progress is how far a try came.
type progress struct{ connected, answered atomic.Bool }

func watch(ctx context.Context) (context.Context, *progress) {
	seen := new(progress)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { seen.connected.Store(true) },
		GotFirstResponseByte: func() { seen.answered.Store(true) },
	}), seen
}

// notAnswered is a try without an HTTP response: nobody was there, or somebody
// who was too slow or spoke something else.
func notAnswered(err error, seen *progress, key secret.String) *failure {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without the URL, which is in the settings
	}
	f := &failure{kind: model.ErrUnavailable, text: excerpt(err.Error(), key), wait: pause}
	switch {
	case isTimeout(err) && seen.connected.Load():
		f.kind = model.ErrTimeout
	case isTimeout(err): // to dial again would take as long again
	case seen.answered.Load():
		f.kind = model.ErrFailed
	default:
		f.mayRetry = true
	}
	return f
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// An error's body is read up to maxRefusal, for refusalTime.
const (
	maxRefusal  = 4 << 10
	refusalTime = time.Second
)

// refused is a response with another status than 200.
func refused(response *http.Response, body *reply) *failure {
	defer time.AfterFunc(refusalTime, body.cancel).Stop()
	text, _ := io.ReadAll(io.LimitReader(body, maxRefusal)) // as much as came
	status := response.StatusCode
	f := &failure{kind: kindOf(status), text: strings.TrimSpace(fmt.Sprintf("status %d %s", status, http.StatusText(status)))}
	if shown := excerpt(string(text), body.key); shown != "" {
		f.text += ": " + shown
	}
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f.wait, f.mayRetry = pauseOf(response.Header)
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
	default:
		return model.ErrFailed
	}
}

// pauseOf is how long a refusal asks to wait, in Retry-After (RFC 9110 §10.2.3)
// or by x-should-retry, OpenAI's word to its clients. ok is false where that is
// longer than we would, or a date, which no model's server sends.
func pauseOf(h http.Header) (wait time.Duration, ok bool) {
	if h.Get("X-Should-Retry") == "false" {
		return 0, false
	}
	after := strings.TrimSpace(h.Get("Retry-After"))
	if after == "" {
		return pause, true
	}
	seconds, err := strconv.Atoi(after)
	if err != nil || seconds < 0 || seconds > int(maxPause/time.Second) {
		return 0, false
	}
	return max(pause, time.Duration(seconds)*time.Second), true
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
	if len(text) <= maxExcerpt {
		return text
	}
	cut := maxExcerpt
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
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
