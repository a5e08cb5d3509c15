package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Lines come together, in each writer's order, none twice and none lost, and in
// time.
func TestLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var mu sync.Mutex
		writes := 0
		l := newLines(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if len(p) > 0 {
				writes++
			}
			return out.Write(p)
		}))
		var group sync.WaitGroup
		for i := range 10 {
			group.Go(func() {
				for n := range 100 {
					fmt.Fprintf(l, "%d %d\n", i, n)
				}
			})
		}
		group.Wait()
		time.Sleep(lineDelay)
		synctest.Wait()
		if writes != 1 {
			t.Errorf("%d writes, want one", writes)
		}
		next := make([]int, 10)
		for line := range strings.Lines(out.String()) {
			var i, n int
			if _, err := fmt.Sscanf(line, "%d %d\n", &i, &n); err != nil || n != next[i] {
				t.Fatalf("line %q, want %d of writer %d", line, next[i], i)
			}
			next[i]++
		}
		for i, n := range next {
			if n != 100 {
				t.Errorf("%d lines of writer %d, want 100", n, i)
			}
		}
		fmt.Fprintln(l, "last")
		l.flush()
		if !strings.HasSuffix(out.String(), "last\n") {
			t.Error("flush left a line behind")
		}
	})
}

// What waits is bounded: a log that isn't taken holds up whoever writes.
func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		l := newLines(writerFunc(func(p []byte) (int, error) { <-gate; return len(p), nil }))
		done := false
		go func() {
			line := bytes.Repeat([]byte("x"), 1<<10)
			for range 10 << 10 {
				l.Write(line)
			}
			done = true
		}()
		synctest.Wait()
		l.mu.Lock()
		waiting := len(l.waiting)
		l.mu.Unlock()
		if done || waiting > 2*maxWaiting {
			t.Errorf("%d bytes wait, and the writer went on: %v", waiting, done)
		}
		close(gate)
		synctest.Wait()
		time.Sleep(lineDelay)
		if !done {
			t.Error("the writer is still held up")
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var _ io.Writer = writerFunc(nil)
