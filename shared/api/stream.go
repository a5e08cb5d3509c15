package api

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// heartbeat is how long a stream may be silent. API Gateway drops one that is
// idle for 5 minutes (30 s if edge-optimised), other proxies sooner.
const heartbeat = 15 * time.Second

// WantsStream reports whether r's Accept header asks for server-sent events. A
// weight of 0 asks for something else (RFC 9110 §12.4.2).
func WantsStream(r *http.Request) bool {
	for _, header := range r.Header["Accept"] {
		for part := range strings.SplitSeq(header, ",") {
			mediaType, parameters, err := mime.ParseMediaType(part)
			if err != nil || mediaType != "text/event-stream" {
				continue
			}
			if weight, err := strconv.ParseFloat(parameters["q"], 64); err != nil || weight > 0 {
				return true
			}
		}
	}
	return false
}

// Stream is a response of server-sent events (WHATWG HTML, "Server-sent
// events"). Each frame is a line of JSON, in which no newline can stand, so no
// text can break the framing; before it may stand a name. Silence is filled with
// comments.
//
// The response begins with the first event, so that what fails before it can be
// an ordinary error; or with the first comment, if no event comes before that.
type Stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	frame bytes.Buffer // Send's, who fills it anew for each word of a model

	mu    sync.Mutex  // Send and the heartbeat write in turn
	timer *time.Timer // nil: closed
	begun bool
}

// OpenStream makes w's response a stream. Until Close, which must follow, the
// stream has w to itself, its headers too.
func OpenStream(w http.ResponseWriter) *Stream {
	s := &Stream{w: w, rc: http.NewResponseController(w)}
	s.mu.Lock() // the first beat may be the first to look
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(heartbeat, s.beat)
	return s
}

// Withdraw closes a stream that has not begun, and reports whether it could: then
// the response may be another one.
func (s *Stream) Withdraw() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return false
	}
	s.close()
	return true
}

// Send writes one event and flushes it; "": one without a name. One goroutine
// calls it.
func (s *Stream) Send(event string, v any) error {
	frame := &s.frame
	frame.Reset()
	if event != "" {
		frame.WriteString("event: " + event + "\n")
	}
	frame.WriteString("data: ")
	enc := json.NewEncoder(frame)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // ends in a newline
		return err
	}
	frame.WriteByte('\n')
	return s.write(frame.Bytes())
}

// Done writes the end that OpenAI's clients wait for, the one frame that isn't
// JSON.
func (s *Stream) Done() error { return s.write([]byte("data: [DONE]\n\n")) }

func (s *Stream) write(frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		return http.ErrHandlerTimeout // closed
	}
	s.timer.Stop() // while this is on its way, nothing is silent
	defer s.timer.Reset(heartbeat)
	if !s.begun {
		s.begun = true
		s.w.Header()["Content-Type"] = []string{"text/event-stream"}
		s.w.Header()["X-Accel-Buffering"] = []string{"no"} // nginx would collect it
		s.w.WriteHeader(http.StatusOK)
	}
	s.rc.SetWriteDeadline(time.Now().Add(sendTimeout))
	if _, err := s.w.Write(frame); err != nil {
		return err
	}
	return s.rc.Flush()
}

func (s *Stream) beat() { s.write([]byte(":\n\n")) }

// Close ends the heartbeat; nothing is written afterwards.
func (s *Stream) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close()
}

func (s *Stream) close() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// Told marks an error that the response, once begun, has told its caller of: it
// is logged, and the response ends as it should.
func Told(err error) error { return told{err} }

type told struct{ error }

func (t told) Unwrap() error { return t.error }
