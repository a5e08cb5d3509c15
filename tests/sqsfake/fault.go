package sqsfake

import (
	"net/http"
	"sync"
)

// Fault is a way in which calls go wrong. It concerns every call, unless Times
// narrows it. A Fault is injected once.
type Fault struct {
	times int // calls that it is still due for; 0: all
	act   func(*exchange)
}

// Times limits f to the next n calls.
func (f *Fault) Times(n int) *Fault {
	f.times = n
	return f
}

// Fail answers with an error and does nothing: a status and the code in __type,
// such as 500 InternalFailure, 403 AccessDeniedException, 400 RequestThrottled.
func Fail(status int, code string) *Fault {
	return &Fault{act: func(x *exchange) { x.answer(failure(status, code, "injected by a test")) }}
}

// Garbage answers with any status and body, and does nothing.
func Garbage(status int, body string) *Fault {
	return &Fault{act: func(x *exchange) { x.answer(reply{status, []byte(body)}) }}
}

// Drop breaks the connection off and does nothing, as a server that is down.
func Drop() *Fault {
	return &Fault{act: func(*exchange) { panic(http.ErrAbortHandler) }}
}

// Lose does what was asked, and breaks the connection off without an answer.
func Lose() *Fault {
	return &Fault{act: func(x *exchange) {
		x.serve()
		panic(http.ErrAbortHandler)
	}}
}

// Damage does what was asked, and says another thing of it.
func Damage(change func(body []byte) []byte) *Fault {
	return &Fault{act: func(x *exchange) {
		a := x.serve()
		x.answer(reply{a.status, change(a.body)})
	}}
}

// Hang keeps calls waiting until release is called; then they are done and
// answered as usual. A client that leaves, or Close, ends the wait too, and
// nothing is done.
func Hang() (f *Fault, release func()) {
	open := make(chan struct{})
	return &Fault{act: func(x *exchange) {
		select {
		case <-open:
			x.answer(x.serve())
		case <-x.r.Context().Done():
		case <-x.closed:
		}
	}}, sync.OnceFunc(func() { close(open) })
}

// Inject adds a fault. Of several, the oldest gets a call.
func (s *Server) Inject(f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}
