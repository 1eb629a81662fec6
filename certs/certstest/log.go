package certstest

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// Log collects what is logged, for tests that read it while it grows. The
// zero value is ready.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Count is how often text was logged.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }

// Wait waits until text is logged.
func (l *Log) Wait(tb testing.TB, text string) {
	tb.Helper()
	l.WaitFor(tb, 1, text)
}

// WaitFor waits until text was logged that often.
func (l *Log) WaitFor(tb testing.TB, count int, text string) {
	tb.Helper()
	for guard := time.Now().Add(HangGuard); l.Count(text) < count; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(guard) {
			tb.Fatalf("%q was logged %d times, want %d:\n%s", text, l.Count(text), count, l)
		}
	}
}
