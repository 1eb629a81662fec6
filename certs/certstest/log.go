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

// Wait waits until text is logged and fails the test if it is not in time.
func (l *Log) Wait(tb testing.TB, text string, within time.Duration) {
	tb.Helper()
	for deadline := time.Now().Add(within); l.Count(text) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("no %q in the log within %s:\n%s", text, within, l)
		}
	}
}
