// Package lambdahost runs a compiled Lambda bootstrap as AWS Lambda would, on
// this machine, for tests and benchmarks.
//
// A Host is one function. It serves the Runtime API on loopback to each process
// it starts (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html);
// a process and its port are one environment, which takes one invocation at a
// time. Invocations queue for a free environment; a used one is preferred to a
// new one, and there are never more than Config.Concurrency.
//
// What Lambda does to a function is done here: a fault of the function is an
// answer (Result.Err), not an error of Invoke; a panic, an exit or a timeout
// ends the environment, and the next invocation starts another; a caller who
// leaves doesn't stop what runs; a process sees Lambda's variables and those of
// Config.Env, and nothing of the test's own environment. SIGTERM comes before
// SIGKILL only to a process that registered an extension, as on Lambda.
//
// Not done here: freezing between invocations, the memory limit, and the ban on
// writing outside /tmp. Nothing polls or sleeps, so a round trip costs two
// loopback requests and Result.Duration is the function's own time.
package lambdahost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// MaxPayload is Lambda's limit of an event and of a buffered reply, in bytes:
// the documented 6 MB, with the margin that its error text shows.
const MaxPayload = 6291556

var (
	// ErrClosed is returned by Invoke once Close was called.
	ErrClosed = errors.New("lambda host is closed")
	// ErrPayloadTooLarge is returned by Invoke for an event above MaxPayload.
	ErrPayloadTooLarge = fmt.Errorf("event is larger than %d bytes", MaxPayload)
)

// Config says what to run. Only Bootstrap is required.
type Config struct {
	// Bootstrap is the path of the executable.
	Bootstrap string
	// Env holds the function's own variables as NAME=value. They win over
	// Lambda's, so AWS_REGION or the (fake) credentials can be replaced.
	Env []string
	// Dir is the working folder, LAMBDA_TASK_ROOT; empty: the bootstrap's.
	Dir string
	// FunctionName is the AWS_LAMBDA_FUNCTION_NAME; empty: "function".
	FunctionName string
	// FunctionARN is announced with each invocation; empty: one made of the name.
	FunctionARN string
	// MemoryMB is told to the function, not enforced; 0: Lambda's default, 128.
	MemoryMB int
	// Timeout is that of one invocation; 0: Lambda's default, 3 s.
	Timeout time.Duration
	// InitTimeout bounds the time from exec to the first poll; 0: 10 s.
	InitTimeout time.Duration
	// TerminationGrace is what a process that registered an extension has between
	// SIGTERM and SIGKILL; 0: Lambda's 500 ms.
	TerminationGrace time.Duration
	// Concurrency is how many environments may exist at once; 0: one.
	Concurrency int
	// Output, if set, also gets what processes write; see Logs.
	Output io.Writer
}

// Result is one answer of a function: exactly one of Payload, Stream and Err
// is meaningful.
type Result struct {
	// RequestID is Lambda's id of the invocation.
	RequestID string
	// Payload is a buffered reply.
	Payload []byte
	// Stream is a reply that may still be running; nil if there is none.
	Stream *Stream
	// Err is the function's failure, as Lambda reports it; nil if it succeeded.
	Err *FunctionError
	// Duration runs from handing the event out until the reply was there:
	// whole if buffered, its metadata if streamed.
	Duration time.Duration
	// Init is how long the environment took from exec to its first poll. It is
	// zero for all but an environment's first invocation.
	Init time.Duration
}

// Stream is a reply in the form of API Gateway's response streaming.
type Stream struct {
	// Metadata is the JSON before the eight NUL bytes: status, headers, cookies.
	Metadata []byte
	// Body yields the rest as it arrives. It ends with io.EOF, or with a
	// *FunctionError if the function failed on the way. The caller reads it to
	// its end or closes it; closing early doesn't stop the function.
	Body io.ReadCloser
}

// FunctionError is how Lambda reports a failed invocation. The types that come
// from the host itself are Lambda's: Runtime.ExitError, Sandbox.Timedout,
// Function.ResponseSizeTooLarge; and one of our own, Runtime.InvalidPrelude, for
// a streamed reply without metadata (on AWS that is API Gateway's finding).
type FunctionError struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

func (e *FunctionError) Error() string { return e.Type + ": " + e.Message }

// Host is one running function. Its methods may be called concurrently.
type Host struct {
	cfg     Config
	permits chan struct{} // one for each environment in use
	closed  chan struct{}
	logs    *output

	mu   sync.Mutex
	idle []*environment // the last one is the most recently used
	live map[*environment]struct{}
}

// Start begins to run cfg.Bootstrap and returns without waiting for it: a
// process that can't come up shows in the first Invoke, as on Lambda. The
// caller must Close the host.
func Start(cfg Config) (*Host, error) {
	path, err := filepath.Abs(cfg.Bootstrap)
	if err != nil {
		return nil, fmt.Errorf("finding the bootstrap: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("finding the bootstrap: %w", err)
	}
	cfg.Bootstrap = path
	cfg = withDefaults(cfg)
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("finding the working folder: %w", err)
	}
	h := &Host{
		cfg:     cfg,
		permits: make(chan struct{}, cfg.Concurrency),
		closed:  make(chan struct{}),
		logs:    &output{also: cfg.Output},
		live:    make(map[*environment]struct{}),
	}
	e, err := h.open()
	if err != nil {
		return nil, err
	}
	h.idle = append(h.idle, e)
	return h, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Dir == "" {
		cfg.Dir = filepath.Dir(cfg.Bootstrap)
	}
	if cfg.FunctionName == "" {
		cfg.FunctionName = "function"
	}
	if cfg.FunctionARN == "" {
		cfg.FunctionARN = "arn:aws:lambda:us-east-1:123456789012:function:" + cfg.FunctionName
	}
	if cfg.MemoryMB == 0 {
		cfg.MemoryMB = 128
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.InitTimeout == 0 {
		cfg.InitTimeout = 10 * time.Second
	}
	if cfg.TerminationGrace == 0 {
		cfg.TerminationGrace = 500 * time.Millisecond
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = 1
	}
	return cfg
}

// Invoke hands payload to the function and returns its answer. An error means
// that there is none: ctx ended (the function runs on), the event is too large,
// the host was closed before the event was handed out, or the bootstrap can't
// be executed.
func (h *Host) Invoke(ctx context.Context, payload []byte) (*Result, error) {
	if len(payload) > MaxPayload {
		return nil, ErrPayloadTooLarge
	}
	select {
	case h.permits <- struct{}{}:
	case <-h.closed:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	inv := &invocation{id: NewID(), payload: payload, result: make(chan *Result, 1)}
	if err := h.handOut(ctx, inv); err != nil {
		<-h.permits
		return nil, err
	}
	select {
	case r := <-inv.result:
		return r, nil
	case <-ctx.Done():
		go discard(inv.result)
		return nil, ctx.Err()
	}
}

// discard frees a function whose caller left before it answered.
func discard(result <-chan *Result) {
	if r := <-result; r.Stream != nil {
		r.Stream.Body.Close()
	}
}

// handOut finds an environment that takes inv. After it returned nil, inv gets
// a result for certain and gives its permit back itself.
func (h *Host) handOut(ctx context.Context, inv *invocation) error {
	for {
		e, err := h.take()
		if err != nil {
			return err
		}
		inv.finished = func() { h.giveBack(e) }
		select {
		case e.events <- inv:
			return nil
		case <-e.exited:
			if e.wasReady() {
				continue // it ended after its last answer; nobody is to blame now
			}
			inv.answer(&Result{Err: e.failure(inv.id)})
			return nil
		case <-ctx.Done():
			h.keep(e)
			return ctx.Err()
		}
	}
}

// take returns the environment that was used last, or a new one.
func (h *Host) take() (*environment, error) {
	h.mu.Lock()
	if n := len(h.idle); n > 0 {
		e := h.idle[n-1]
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		return e, nil
	}
	h.mu.Unlock()
	return h.open()
}

// open starts an environment, unless the host is closed.
func (h *Host) open() (*environment, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.closed:
		return nil, ErrClosed
	default:
	}
	e, err := startEnvironment(h.cfg, h.logs)
	if err != nil {
		return nil, err
	}
	h.live[e] = struct{}{}
	go func() {
		<-e.exited
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.live, e)
	}()
	return e, nil
}

func (h *Host) giveBack(e *environment) {
	h.keep(e)
	<-h.permits
}

// keep makes e available again, unless its process ended.
func (h *Host) keep(e *environment) {
	select {
	case <-e.exited:
		return
	default:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle = append(h.idle, e)
}

// Logs returns all that the function's processes have written to stdout and
// stderr so far, in the order it arrived.
func (h *Host) Logs() string { return h.logs.String() }

// Close ends every process and port of the host and waits for them. What still
// runs is answered as a crash. Closing twice is harmless.
func (h *Host) Close() error {
	h.mu.Lock()
	select {
	case <-h.closed:
	default:
		close(h.closed)
	}
	var live []*environment
	for e := range h.live {
		live = append(live, e)
	}
	h.mu.Unlock()

	var wg sync.WaitGroup
	for _, e := range live {
		wg.Go(func() { e.stop(nil) })
	}
	wg.Wait()
	return nil
}

// NewID returns a random UUID (RFC 9562, version 4), the form of request ids.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
