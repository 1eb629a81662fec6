// Package wallclock has timers that follow the wall clock.
//
//	t := wallclock.AfterFunc(time.Now, cert.NotAfter, func() { … })
//	defer t.Stop()
//
// A timer of package time counts the time that has passed. When the clock is
// set, or the machine has slept, it fires at the wrong time of day: what a
// certificate's date should end lives on. These look at the clock again every
// [Step].
package wallclock

import (
	"sync"
	"time"
)

// Step is how late a timer notices that the clock was set.
const Step = 30 * time.Second

// Timer is what [AfterFunc] returns.
type Timer struct {
	now func() time.Time
	at  time.Time
	f   func()

	mu    sync.Mutex
	timer *time.Timer
	over  bool // it has fired, or was stopped
}

// AfterFunc calls f on a goroutine of its own when the clock says at, once.
func AfterFunc(now func() time.Time, at time.Time, f func()) *Timer {
	t := &Timer{now: now, at: at, f: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(Until(now, at), t.look)
	return t
}

// Stop keeps the timer from firing. It reports whether it does: false if it
// has fired or was stopped before.
func (t *Timer) Stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	stopped := !t.over
	t.over = true
	t.timer.Stop()
	return stopped
}

func (t *Timer) look() {
	if t.due() {
		t.f()
	}
}

// due reports whether it is time, and else sets the timer for the next look.
func (t *Timer) due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	if left := Until(t.now, t.at); left > 0 {
		t.timer.Reset(left)
		return false
	}
	t.over = true
	return true
}

// Until is how long to wait before looking at the clock again for at, Step at
// most; zero or less: it is time.
func Until(now func() time.Time, at time.Time) time.Duration {
	// Without their monotonic readings, by which Sub would measure what has
	// passed instead of what the clocks say.
	return min(Step, at.Round(0).Sub(now().Round(0)))
}
