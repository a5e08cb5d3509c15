package bedrockfake

import (
	"io"
	"net/http"
)

// Fault is a way in which calls go wrong before an answer begins. It concerns
// every call until Heal, unless Times narrows it. A Fault is injected once.
type Fault struct {
	times int  // calls that it is still due for; 0: all
	act   Step // in the answer's place
}

// Times limits f to the next n calls.
func (f *Fault) Times(n int) *Fault {
	f.times = n
	return f
}

// Fail answers with an error: a status and the code in X-Amzn-ErrorType, such as
// 429 ThrottlingException, 403 AccessDeniedException.
func Fail(status int, code, message string) *Fault {
	return Handle(func(w http.ResponseWriter, _ *http.Request) { fail(w, status, code, message) })
}

// Reply answers with any status and body, as something between the client and
// Bedrock may.
func Reply(status int, contentType string, body io.Reader) *Fault {
	return Handle(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.Copy(w, body)
	})
}

// Handle answers by a handler of the test's own.
func Handle(h http.HandlerFunc) *Fault {
	return &Fault{act: func(a *answer) bool {
		h(a.w, a.r)
		return false
	}}
}

// Stall keeps calls waiting for the header of a response till their client
// leaves.
func Stall() *Fault { return &Fault{act: Hang()} }

// Drop breaks the connection off without an answer.
func Drop() *Fault { return &Fault{act: Cut()} }

// Inject adds a fault. If several concern a call, the oldest gets it.
func (s *Server) Inject(f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Heal removes every fault. Calls that wait go on waiting.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}
