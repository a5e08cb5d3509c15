package api

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// exchange is one request on its way: the response writer that handlers see,
// which notes whether and how they answered, and the event to be logged.
type exchange struct {
	http.ResponseWriter
	status int       // 0: nothing written yet
	body   *incoming // nil: the request has none
	event  event
}

// incoming is a request's body that knows whether it was read to its end.
type incoming struct {
	io.ReadCloser
	ended bool
}

func (b *incoming) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// boundBody is r with a body that may have MaxBody bytes and bodyTimeout to come
// in. net/http keeps its own request, in which it looks for what "Expect:
// 100-continue" still owes.
func (x *exchange) boundBody(r *http.Request) *http.Request {
	http.NewResponseController(x.ResponseWriter).SetReadDeadline(x.event.start.Add(bodyTimeout))
	x.body = &incoming{ReadCloser: http.MaxBytesReader(x, r.Body, MaxBody)}
	bounded := r.WithContext(r.Context())
	bounded.Body = x.body
	return bounded
}

// leaveBody gives a sender that was answered lingerTimeout to send what nobody
// will read; then it loses its connection.
func (x *exchange) leaveBody() {
	http.NewResponseController(x.ResponseWriter).SetReadDeadline(time.Now().Add(lingerTimeout))
}

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= 200 {
		x.status = status
		if x.body != nil && !x.body.ended {
			// What follows on the connection is the rest of a body, for which net/http
			// would make the answer wait if there was to be another request.
			x.Header().Set("Connection", "close")
		}
		http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Now().Add(sendTimeout))
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(b []byte) (int, error) {
	x.begin()
	n, err := x.ResponseWriter.Write(b)
	return n, asUnsent(err)
}

// FlushError sends the headers if they wait, so it begins the response.
func (x *exchange) FlushError() error {
	x.begin()
	return asUnsent(http.NewResponseController(x.ResponseWriter).Flush())
}

func (x *exchange) begin() {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
}

// Unwrap lets http.ResponseController find the deadlines.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// fail answers with err, if an answer is still possible and wanted.
func (x *exchange) fail(r *http.Request, err error) {
	x.event.err = err
	switch {
	case errors.As(err, new(told)):
	case x.status != 0:
		x.event.broken = true
	case gone(r, err): // or has closed its half alone, and would read an empty answer as a success
		x.status, x.event.broken = clientClosed, true
	default:
		writeError(x, err, x.event.requestID)
	}
}

// RequestID is the id of the request that w answers, for bodies that carry it.
func RequestID(w http.ResponseWriter) string {
	return w.Header().Get("X-Request-Id")
}

// ClientAddress is where the request that w answers comes from; the zero Addr if
// that isn't known.
func ClientAddress(w http.ResponseWriter) netip.Addr {
	if x := exchangeOf(w); x != nil {
		return x.event.from
	}
	return netip.Addr{}
}

// Annotate adds to the one line that the request which w answers leaves in the
// log.
func Annotate(w http.ResponseWriter, attrs ...slog.Attr) {
	if x := exchangeOf(w); x != nil {
		x.event.more = append(x.event.more, attrs...)
	}
}

// exchangeOf finds the exchange below w, which a handler may have wrapped; nil if
// there is none.
func exchangeOf(w http.ResponseWriter) *exchange {
	for {
		switch v := w.(type) {
		case *exchange:
			return v
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return nil
		}
	}
}
