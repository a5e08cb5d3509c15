package lambdahost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// environment is one process of the function and the Runtime API that it alone
// talks to. Own ports keep a dying process from answering for the next one.
type environment struct {
	cfg     Config
	cmd     *exec.Cmd
	server  *http.Server
	started time.Time
	events  chan *invocation // handed to whoever polls
	exited  chan struct{}    // closed when the process is gone and reaped

	mu        sync.Mutex
	polled    bool
	served    int
	current   *invocation // handed out, not answered
	timed     *invocation // whose timer runs: until the process polls again
	timer     *time.Timer // of the start, then of the invocation
	init      time.Duration
	extension bool
	reason    *FunctionError // why the process was or is being ended; its id is blank
	exit      error          // what waiting for it returned
}

// invocation is one event on its way.
type invocation struct {
	id       string
	payload  []byte
	result   chan *Result // buffered for the one result
	finished func()       // frees the environment; called once, by who knows that the answer is whole
	handed   time.Time
	init     time.Duration
}

// answer frees the environment and delivers the whole answer, in this order, so
// that whoever got it finds a warm environment.
func (i *invocation) answer(r *Result) {
	i.finished()
	i.deliver(r)
}

// deliver hands out an answer of which more may follow.
func (i *invocation) deliver(r *Result) {
	r.RequestID, r.Init = i.id, i.init
	if !i.handed.IsZero() {
		r.Duration = time.Since(i.handed)
	}
	i.result <- r
}

func startEnvironment(cfg Config, out io.Writer) (*environment, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the Runtime API: %w", err)
	}
	e := &environment{
		cfg:    cfg,
		cmd:    exec.Command(cfg.Bootstrap),
		events: make(chan *invocation),
		exited: make(chan struct{}),
	}
	e.server = &http.Server{Handler: e.runtimeAPI()}
	e.cmd.Dir = cfg.Dir
	e.cmd.Env = append(lambdaEnv(cfg, listener.Addr().String()), cfg.Env...)
	e.cmd.Stdout, e.cmd.Stderr = out, out
	e.cmd.WaitDelay = time.Second // should a child of the process keep its output open
	e.started = time.Now()
	if err := e.cmd.Start(); err != nil {
		listener.Close()
		return nil, fmt.Errorf("starting the bootstrap: %w", err)
	}
	e.timer = time.AfterFunc(cfg.InitTimeout, e.initExpired)
	go e.server.Serve(listener)
	go e.wait()
	return e, nil
}

// lambdaEnv is what Lambda sets for a function on provided.al2023
// (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html).
func lambdaEnv(cfg Config, api string) []string {
	return []string{
		"AWS_LAMBDA_RUNTIME_API=" + api,
		"AWS_LAMBDA_FUNCTION_NAME=" + cfg.FunctionName,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(cfg.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + cfg.FunctionName,
		"AWS_LAMBDA_LOG_STREAM_NAME=2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
		"AWS_REGION=us-east-1",
		"AWS_DEFAULT_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=ASIAEXAMPLEEXAMPLE",
		"AWS_SECRET_ACCESS_KEY=example-secret-access-key",
		"AWS_SESSION_TOKEN=example-session-token",
		"_HANDLER=bootstrap",
		"LAMBDA_TASK_ROOT=" + cfg.Dir,
		"LAMBDA_RUNTIME_DIR=/var/runtime",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
		"PATH=/usr/local/bin:/usr/bin/:/bin:/opt/bin",
	}
}

// wait reaps the process and answers what it left unanswered.
func (e *environment) wait() {
	err := e.cmd.Wait()
	e.server.Close() // ends polls and half-sent answers
	e.mu.Lock()
	e.exit = err
	e.timer.Stop()
	left := e.current
	e.current = nil
	close(e.exited)
	e.mu.Unlock()
	if left != nil {
		left.answer(&Result{Err: e.failure(left.id)})
	}
}

// failure says, in Lambda's words, why a process that exited did.
func (e *environment) failure(requestID string) *FunctionError {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := FunctionError{Type: "Runtime.ExitError"}
	switch {
	case e.reason != nil:
		f = *e.reason
	case e.exit != nil:
		f.Message = "Runtime exited with error: " + e.exit.Error()
	default:
		f.Message = "Runtime exited without providing a reason"
	}
	f.Message = "RequestId: " + requestID + " Error: " + f.Message
	return &f
}

func (e *environment) wasReady() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.polled
}

func (e *environment) initExpired() {
	if !e.wasReady() {
		e.stop(timedOut(e.cfg.InitTimeout))
	}
}

func timedOut(after time.Duration) *FunctionError {
	return &FunctionError{
		Type:    "Sandbox.Timedout",
		Message: fmt.Sprintf("Task timed out after %.2f seconds", after.Seconds()),
	}
}

// stop ends the process and waits until it is gone. The first reason counts,
// and none does for a process that ended by itself.
func (e *environment) stop(reason *FunctionError) {
	e.mu.Lock()
	select {
	case <-e.exited:
		e.mu.Unlock()
		return
	default:
	}
	if e.reason == nil {
		e.reason = reason
	}
	gently := e.extension
	e.mu.Unlock()
	if gently {
		e.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-e.exited:
			return
		case <-time.After(e.cfg.TerminationGrace):
		}
	}
	e.cmd.Process.Kill()
	<-e.exited
}

// accept makes inv the one that is being answered. It reports false if the
// process is gone.
func (e *environment) accept(inv *invocation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.exited:
		return false
	default:
	}
	if e.served == 0 {
		inv.init = e.init
	}
	e.served++
	inv.handed = time.Now()
	e.current, e.timed = inv, inv
	e.timer = time.AfterFunc(e.cfg.Timeout, func() { e.invocationExpired(inv) })
	return true
}

// invocationExpired ends a process that ran past its invocation's deadline, be
// it before its answer, in the middle of a stream, or after both: Lambda counts
// an invocation as running until the next poll.
func (e *environment) invocationExpired(inv *invocation) {
	e.mu.Lock()
	late := e.timed == inv
	e.mu.Unlock()
	if late {
		e.stop(timedOut(e.cfg.Timeout))
	}
}

// poll notes that the process asks for work.
func (e *environment) poll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.timer.Stop()
	e.timed = nil
	if !e.polled {
		e.polled, e.init = true, time.Since(e.started)
	}
}

// claim returns the invocation with this id if it still waits for an answer;
// the caller has to give one.
func (e *environment) claim(id string) (*invocation, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current == nil || e.current.id != id {
		return nil, false
	}
	inv := e.current
	e.current = nil
	return inv, true
}

// broken is the answer of a process that stopped in the middle of one. It makes
// sure that the process is gone, so that the reason is known.
func (e *environment) broken(inv *invocation) *FunctionError {
	e.stop(nil)
	return e.failure(inv.id)
}

// output collects what processes write.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	also io.Writer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if o.also != nil {
		if _, err := o.also.Write(p); err != nil {
			return 0, errors.Join(errors.New("copying the function's output"), err)
		}
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
