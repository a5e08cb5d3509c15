// Package logbook is a log's sink for tests: what was written can be read while
// it is written to.
package logbook

import (
	"bytes"
	"sync"
)

// Book keeps what is written to it. Its zero value is ready.
type Book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *Book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String is everything written so far.
func (b *Book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Reset forgets what was written.
func (b *Book) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Reset()
}
