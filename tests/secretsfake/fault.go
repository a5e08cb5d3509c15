package secretsfake

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// Fault is a way in which calls go wrong. It concerns every call until Heal,
// unless On or Times narrow it. A Fault is injected once.
type Fault struct {
	stage string
	times int // calls that it is still due for; 0: all
	// act does it. It reports true if it has answered, or made sure that nobody
	// does; false lets the call go on as if nothing had been.
	act func(w http.ResponseWriter, r *http.Request, closed <-chan struct{}) bool
}

// On limits f to calls for one label.
func (f *Fault) On(stage string) *Fault {
	f.stage = stage
	return f
}

// Times limits f to the next n calls that it concerns.
func (f *Fault) Times(n int) *Fault {
	f.times = n
	return f
}

// Fail answers with an error: a status and the code in __type, such as
// 500 InternalServiceError, 400 ThrottlingException, 400 AccessDeniedException.
func Fail(status int, code string) *Fault {
	return &Fault{act: func(w http.ResponseWriter, _ *http.Request, _ <-chan struct{}) bool {
		fail(w, status, code, "injected by a test")
		return true
	}}
}

// Hang keeps calls waiting until release is called; then they are answered as
// usual. A client that leaves, or Close, ends the wait too.
func Hang() (f *Fault, release func()) {
	open := make(chan struct{})
	f = &Fault{act: func(_ http.ResponseWriter, r *http.Request, closed <-chan struct{}) bool {
		return !wait(r, open, closed)
	}}
	return f, sync.OnceFunc(func() { close(open) })
}

// Delay answers as usual, after d of real time.
func Delay(d time.Duration) *Fault {
	return &Fault{act: func(_ http.ResponseWriter, r *http.Request, closed <-chan struct{}) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		return !wait(r, timer.C, closed)
	}}
}

// wait reports whether the call may go on.
func wait[T any](r *http.Request, open <-chan T, closed <-chan struct{}) bool {
	select {
	case <-open:
		return true
	case <-r.Context().Done():
	case <-closed:
	}
	return false
}

// Garbage answers 200 with a body of the test's choice.
func Garbage(body string) *Fault {
	return &Fault{act: func(w http.ResponseWriter, _ *http.Request, _ <-chan struct{}) bool {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		io.WriteString(w, body)
		return true
	}}
}

// Drop breaks the connection off without an answer.
func Drop() *Fault {
	return &Fault{act: func(http.ResponseWriter, *http.Request, <-chan struct{}) bool {
		panic(http.ErrAbortHandler)
	}}
}

// Inject adds a fault. If several concern a call, the oldest gets it.
func (s *Server) Inject(f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Heal removes every fault. Calls that hang go on hanging.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}
