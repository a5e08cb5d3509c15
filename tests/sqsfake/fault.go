package sqsfake

import (
	"net/http"
	"sync"
	"time"
)

// Fault is a way in which calls go wrong. It concerns every call until Heal,
// unless On or Times narrow it. A Fault is injected once.
type Fault struct {
	operation string
	times     int // calls that it is still due for; 0: all
	act       func(*exchange)
}

// On limits f to one operation, such as "SendMessage".
func (f *Fault) On(operation string) *Fault {
	f.operation = operation
	return f
}

// Times limits f to the next n calls that it concerns.
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
	return &Fault{act: func(x *exchange) { await(x, open) }}, sync.OnceFunc(func() { close(open) })
}

// Delay answers as usual, after d of real time.
func Delay(d time.Duration) *Fault {
	return &Fault{act: func(x *exchange) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		await(x, timer.C)
	}}
}

func await[T any](x *exchange, open <-chan T) {
	select {
	case <-open:
		x.answer(x.serve())
	case <-x.r.Context().Done():
	case <-x.closed:
	}
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
