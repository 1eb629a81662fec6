package certstest

import (
	"sync/atomic"
	"testing"
	"time"
)

// HangGuard is how long a test waits for what must come. It promises nothing:
// it ends a test that would hang, on a machine however busy.
const HangGuard = 3 * time.Minute

// Until waits until true says so.
func Until(tb testing.TB, what string, true func() bool) {
	tb.Helper()
	for guard := time.Now().Add(HangGuard); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(guard) {
			tb.Fatalf("it never came: %s", what)
		}
	}
}

// Stopwatch tells how long something took without what a busy machine added.
// It counts the ticks of a goroutine that sleeps and computes a little, which
// is what a program does that serves few clients. A tick that came late,
// because others had the processor, counts as much as a punctual one.
type Stopwatch struct{ ticks atomic.Int64 }

const tick = 10 * time.Millisecond

// StartStopwatch starts one, which runs as long as the test.
func StartStopwatch(tb testing.TB) *Stopwatch {
	s, ended := &Stopwatch{}, make(chan struct{})
	tb.Cleanup(func() { close(ended) })
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(tick):
				compute()
				s.ticks.Add(1)
			}
		}
	}()
	return s
}

// Elapsed is the time since the start. On an idle machine it is a few percent
// less than a clock says.
func (s *Stopwatch) Elapsed() time.Duration { return time.Duration(s.ticks.Load()) * tick }

// compute takes about a tenth of a tick.
func compute() {
	sum := 0
	for i := range 1 << 20 {
		sum += i * i
	}
	sink.Store(int64(sum))
}

var sink atomic.Int64 // keeps the compiler from leaving the work out
