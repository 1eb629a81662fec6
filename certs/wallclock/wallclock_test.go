package wallclock

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// jumping is a clock that can be set.
type jumping struct{ off atomic.Int64 }

func (j *jumping) now() time.Time               { return time.Now().Add(time.Duration(j.off.Load())) }
func (j *jumping) jump(by time.Duration)        { j.off.Add(int64(by)) }
func (j *jumping) in(d time.Duration) time.Time { return j.now().Add(d) }

// A timer fires at its time of day, however the clock is set meanwhile.
func TestClockIsSet(t *testing.T) {
	for name, c := range map[string]struct {
		jump        time.Duration // after ten seconds
		least, most time.Duration // that pass until it fires
	}{
		"not at all":            {0, time.Hour, time.Hour},
		"forward, past it":      {2 * time.Hour, 10 * time.Second, 10*time.Second + Step},
		"forward, just past it": {time.Hour - 10*time.Second, 10 * time.Second, 10*time.Second + Step},
		"forward, before it":    {30 * time.Minute, 30 * time.Minute, 30 * time.Minute},
		"back":                  {-time.Hour, 2 * time.Hour, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var clock jumping
				began, fired := time.Now(), make(chan time.Duration, 2)
				timer := AfterFunc(clock.now, clock.in(time.Hour), func() { fired <- time.Since(began) })
				time.Sleep(10 * time.Second)
				clock.jump(c.jump)
				time.Sleep(5 * time.Hour)
				if took := <-fired; took < c.least || took > c.most || len(fired) > 0 {
					t.Errorf("fired after %s, want %s to %s", took, c.least, c.most)
				}
				if timer.Stop() {
					t.Error("stopped after it fired")
				}
			})
		})
	}
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer := AfterFunc(time.Now, time.Now().Add(time.Hour), func() { t.Error("fired") })
		time.Sleep(time.Minute)
		if !timer.Stop() || timer.Stop() {
			t.Error("Stop does not tell whether it stopped")
		}
		time.Sleep(2 * time.Hour)
		AfterFunc(time.Now, time.Now().Add(-time.Hour), func() { timer = nil })
		synctest.Wait()
		if timer != nil {
			t.Error("a time that is over did not fire at once")
		}
	})
}
