package main

import (
	"bufio"
	"io"
	"sync"
	"time"
)

// lineDelay is how long a log line may wait for others.
const lineDelay = 20 * time.Millisecond

// lines writes log lines together: a system call for each would be a third of
// what a small request costs, and a flood of refused ones would pay it too. A
// line is at most lineDelay late; a process that is killed loses as much.
type lines struct {
	mu      sync.Mutex
	buffer  *bufio.Writer
	waiting bool
}

func newLines(w io.Writer) *lines { return &lines{buffer: bufio.NewWriterSize(w, 64<<10)} }

// Write takes one or more whole lines.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.waiting {
		l.waiting = true
		time.AfterFunc(lineDelay, l.flush)
	}
	return l.buffer.Write(p)
}

// flush writes what waits. An error stays with the buffer: there is nowhere to
// report that the log can't be written.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	l.buffer.Flush()
}
