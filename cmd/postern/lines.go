package main

import (
	"io"
	"sync"
	"time"
)

const (
	// lineDelay is how long a log line may wait for others.
	lineDelay = 20 * time.Millisecond
	// maxWaiting is how much may wait, in bytes; then whoever logs waits too.
	maxWaiting = 1 << 20
)

// lines writes log lines together, and not on the way of a request: a system
// call for each would be a third of what a small request costs, and a flood of
// refused ones would pay it too. A line is at most lineDelay late; a process that
// is killed loses as much. An error of the writer is nobody's: there is nowhere
// to report that the log can't be written.
type lines struct {
	w       io.Writer
	writing sync.Mutex // one write at a time, in order; taken before mu

	mu      sync.Mutex
	waiting []byte
	spare   []byte // the batch before, to be filled next
	due     bool   // a flush will come
}

func newLines(w io.Writer) *lines { return &lines{w: w} }

// Write takes one or more whole lines.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.waiting = append(l.waiting, p...)
	full := len(l.waiting) >= maxWaiting
	if !l.due {
		l.due = true
		time.AfterFunc(lineDelay, l.flush)
	}
	l.mu.Unlock()
	if full {
		l.flush()
	}
	return len(p), nil
}

// flush writes what waits.
func (l *lines) flush() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	batch := l.waiting
	l.waiting, l.spare, l.due = l.spare[:0], batch, false
	l.mu.Unlock()
	l.w.Write(batch)
}
