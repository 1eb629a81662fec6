// Package wallclock has alarms that follow the wall clock.
//
//	var clock wallclock.Clock
//	stop := clock.At(cert.NotAfter, func() { … })
//	defer stop()
//
// A timer of package time counts the time that has passed. When the clock is
// set, or the machine has slept, it fires at the wrong time of day: what a
// certificate's date should end lives on. These look at the clock again every
// [Step].
package wallclock

import (
	"container/heap"
	"sync"
	"time"
)

// Step is how late an alarm notices that the clock was set.
const Step = 30 * time.Second

// Clock is a clock with any number of alarms, which share one timer: tens of
// thousands that wait cost nothing until the first of them is due. The zero
// value is the clock of the machine.
type Clock struct {
	// Source tells the time; nil means time.Now.
	Source func() time.Time

	mu     sync.Mutex
	alarms alarms
	timer  *time.Timer // nil before the first alarm
}

// Now is the time.
func (c *Clock) Now() time.Time {
	if c.Source == nil {
		return time.Now()
	}
	return c.Source()
}

// At calls f on a goroutine of its own when the clock says at, once. stop keeps
// it from that. It reports whether it does: false if f was called, or stop was.
func (c *Clock) At(at time.Time, f func()) (stop func() bool) {
	// Without the monotonic reading, by which times would be compared instead
	// of by what the clock says.
	a := &alarm{at: at.Round(0), f: f}
	c.mu.Lock()
	defer c.mu.Unlock()
	heap.Push(&c.alarms, a)
	if a.index == 0 || Until(c.Now, a.at) <= 0 { // the clock may have been set past the first one
		c.arm()
	}
	return func() bool { return c.stop(a) }
}

func (c *Clock) stop(a *alarm) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.index == over {
		return false
	}
	heap.Remove(&c.alarms, a.index)
	return true
}

// look calls what is due.
func (c *Clock) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.alarms) > 0 && Until(c.Now, c.alarms[0].at) <= 0 {
		a, _ := heap.Pop(&c.alarms).(*alarm)
		go a.f()
	}
	c.arm()
}

// arm sets the timer for the next look. The caller holds mu.
func (c *Clock) arm() {
	switch {
	case len(c.alarms) == 0:
	case c.timer == nil:
		c.timer = time.AfterFunc(Until(c.Now, c.alarms[0].at), c.look)
	default:
		c.timer.Reset(Until(c.Now, c.alarms[0].at))
	}
}

// Until is how long to wait before looking at the clock again for at, Step at
// most; zero or less: it is time.
func Until(now func() time.Time, at time.Time) time.Duration {
	// Without their monotonic readings, by which Sub would measure what has
	// passed instead of what the clocks say.
	return min(Step, at.Round(0).Sub(now().Round(0)))
}

type alarm struct {
	at    time.Time
	f     func()
	index int // in alarms, or over
}

// over is the index of an alarm that waits no more.
const over = -1

// alarms are those that wait, a heap with the first one at the top.
type alarms []*alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push implements heap.Interface.
func (a *alarms) Push(x any) {
	one, _ := x.(*alarm)
	one.index = len(*a)
	*a = append(*a, one)
}

// Pop implements heap.Interface.
func (a *alarms) Pop() any {
	last := len(*a) - 1
	one := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	one.index = over
	return one
}
