package wallclock

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// jumping is a clock that can be set.
type jumping struct {
	Clock
	off, asked atomic.Int64
}

func newJumping() *jumping {
	j := &jumping{}
	j.Source = func() time.Time {
		j.asked.Add(1)
		return time.Now().Add(time.Duration(j.off.Load()))
	}
	return j
}

func (j *jumping) jump(by time.Duration)        { j.off.Add(int64(by)) }
func (j *jumping) in(d time.Duration) time.Time { return j.Now().Add(d) }

// An alarm rings at its time of day, however the clock is set meanwhile.
func TestClockIsSet(t *testing.T) {
	for name, c := range map[string]struct {
		jump        time.Duration // after ten seconds
		least, most time.Duration // that pass until it rings
	}{
		"not at all":            {0, time.Hour, time.Hour},
		"forward, past it":      {2 * time.Hour, 10 * time.Second, 10*time.Second + Step},
		"forward, just past it": {time.Hour - 10*time.Second, 10 * time.Second, 10*time.Second + Step},
		"forward, before it":    {30 * time.Minute, 30 * time.Minute, 30 * time.Minute},
		"back":                  {-time.Hour, 2 * time.Hour, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := newJumping()
				began, rang := time.Now(), make(chan time.Duration, 2)
				stop := clock.At(clock.in(time.Hour), func() { rang <- time.Since(began) })
				time.Sleep(10 * time.Second)
				clock.jump(c.jump)
				time.Sleep(5 * time.Hour)
				if took := <-rang; took < c.least || took > c.most || len(rang) > 0 {
					t.Errorf("rang after %s, want %s to %s", took, c.least, c.most)
				}
				if stop() {
					t.Error("stopped after it rang")
				}
			})
		})
	}
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock Clock
		stop := clock.At(time.Now().Add(time.Hour), func() { t.Error("rang") })
		time.Sleep(time.Minute)
		if !stop() || stop() {
			t.Error("stop does not tell whether it stopped")
		}
		time.Sleep(2 * time.Hour)
		rang := false
		clock.At(time.Now().Add(-time.Hour), func() { rang = true })
		synctest.Wait()
		if !rang {
			t.Error("a time that is over did not ring at once")
		}
	})
}

// An alarm for now rings now, with all that is due by then, also when the clock
// was set and nobody has noticed yet.
func TestNowAfterClockWasSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := newJumping()
		var rang atomic.Int64
		ring := func() { rang.Add(1) }
		clock.At(clock.in(time.Hour), ring)
		clock.jump(2 * time.Hour)
		clock.At(clock.in(time.Second), ring)
		synctest.Wait()
		if rang.Load() != 0 {
			t.Error("rang before somebody looked")
		}
		clock.At(clock.Now(), ring)
		synctest.Wait()
		if rang.Load() != 2 {
			t.Errorf("%d rang, want 2", rang.Load())
		}
	})
}

// Of many alarms each rings at its own time, in whatever order they were set
// and others stopped. While they wait they cost one look at the clock each Step.
func TestManyAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 20_000
		clock := newJumping()
		var rang atomic.Int64
		for _, i := range rand.Perm(many) {
			at := clock.in(time.Hour + time.Duration(i)*time.Second)
			stop := clock.At(at, func() {
				rang.Add(1)
				if late := clock.Now().Sub(at); late != 0 {
					t.Errorf("alarm %d rang %s late", i, late)
				}
			})
			if i%4 == 0 && !stop() {
				t.Error("an alarm that waits was not stopped")
			}
		}
		time.Sleep(10 * time.Minute)
		clock.asked.Store(0)
		time.Sleep(10 * time.Minute)
		if asked := clock.asked.Load(); asked > 2*20+2 { // due, and how long to wait
			t.Errorf("the clock was looked at %d times in 10 minutes", asked)
		}
		time.Sleep(24 * time.Hour)
		if rang.Load() != many-many/4 {
			t.Errorf("%d rang, want %d", rang.Load(), many-many/4)
		}
		if len(clock.alarms) > 0 {
			t.Errorf("%d alarms are left", len(clock.alarms))
		}
	})
}
