package reload_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/certs/reload"
)

// thing is loaded by the loop under test, on a fake clock.
type thing struct {
	mu    sync.Mutex
	loads []time.Duration // when, since the start
	err   error
	again time.Duration // after the first load that is not the first
	start time.Time
	log   strings.Builder
}

func (x *thing) load(context.Context) (reload.Result, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.loads = append(x.loads, time.Since(x.start))
	r := reload.Result{Generation: "g"}
	if x.again > 0 {
		r.Again = time.Now().Add(x.again)
		x.again = 0
	}
	return r, x.err
}

// set changes what the next load finds.
func (x *thing) set(err error, again time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.err, x.again = err, again
}

func (x *thing) run(t *testing.T, changed <-chan struct{}) *reload.Loop {
	x.start = time.Now()
	l := &reload.Loop{What: "things", Load: x.load, Log: slog.New(slog.NewTextHandler(&x.log, nil))}
	if err := l.First(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx, changed) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return l
}

// ROT-10: a storm of changes is at most one load each 100 ms.
func TestLoopThrottles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, changed := &thing{}, make(chan struct{}, 1)
		x.run(t, changed)
		for range 1000 {
			select {
			case changed <- struct{}{}:
			default:
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(x.loads); n < 5 || n > 13 {
			t.Errorf("%d loads in a second of changes, want about 10", n)
		}
	})
}

// ROT-03, ROT-04: a failure is retried with growing pauses up to 30 s, said
// once, and forgotten by a success.
func TestLoopRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, changed := &thing{}, make(chan struct{}, 1)
		l := x.run(t, changed)
		synctest.Wait()
		good, since := l.Status().LastSuccess, l.Status().Since
		x.set(errors.New("torn"), 0)
		changed <- struct{}{}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		n := len(x.loads)
		if n < 15 || n > 25 {
			t.Errorf("%d loads in 5 minutes of failure, want about 19", n)
		}
		if gap := x.loads[n-1] - x.loads[n-2]; gap > 31*time.Second || gap < 29*time.Second {
			t.Errorf("the last pause is %s, want 30 s", gap)
		}
		if st := l.Status(); st.OK || st.Err != "torn" || !st.LastSuccess.Equal(good) || st.Generation != "g" {
			t.Errorf("status %+v", st)
		}
		x.set(nil, 0)
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if st := l.Status(); !st.OK || st.Err != "" || !st.LastSuccess.After(good) || !st.Since.Equal(since) {
			t.Errorf("status after recovery %+v", st)
		}
		if log := x.log.String(); strings.Count(log, "torn") != 1 || strings.Count(log, "works again") != 1 {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestLoopWakesForWhatIsStaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &thing{again: time.Hour}
		x.run(t, nil)
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		// First staged nothing here: its result is asked again by Run's own
		// first load, which no longer stages.
		if len(x.loads) != 2 {
			t.Errorf("loads at %v, want two", x.loads)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		x := &thing{}
		changed := make(chan struct{}, 1)
		x.run(t, changed)
		time.Sleep(time.Second)
		synctest.Wait()
		x.set(nil, time.Hour)
		changed <- struct{}{}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := len(x.loads); n != 4 || x.loads[3]-x.loads[2] != time.Hour {
			t.Errorf("loads at %v, want one an hour after the third", x.loads)
		}
	})
}

// ROT-10: two failures in turn, as torn files make them, are two lines.
func TestLoopSaysEachFailureOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, changed := &thing{}, make(chan struct{})
		x.run(t, changed)
		for i := range 10 {
			x.set(errors.New([]string{"torn", "garbage"}[i%2]), 0)
			changed <- struct{}{}
			synctest.Wait()
		}
		if log := x.log.String(); strings.Count(log, "torn") != 1 || strings.Count(log, "garbage") != 1 {
			t.Errorf("log:\n%s", log)
		}
		x.set(nil, 0)
		changed <- struct{}{}
		synctest.Wait() // else the next line may be what is loaded
		x.set(errors.New("torn"), 0)
		changed <- struct{}{}
		synctest.Wait()
		if log := x.log.String(); strings.Count(log, "torn") != 2 {
			t.Errorf("a failure after a success was not said:\n%s", log)
		}
	})
}

// Another failure is another content: its second half may land soon. The same
// one at each poll is not.
func TestLoopRetriesAnotherFailureSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, changed := &thing{}, make(chan struct{})
		x.run(t, changed)
		x.set(errors.New("torn"), 0)
		time.Sleep(time.Second)
		changed <- struct{}{}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := len(x.loads)
		changed <- struct{}{}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := len(x.loads) - before; n > 2 {
			t.Errorf("%d loads in 20 s of the same failure", n)
		}
		x.set(errors.New("garbage"), 0)
		changed <- struct{}{}
		time.Sleep(time.Second)
		synctest.Wait()
		n := len(x.loads)
		if gap := x.loads[n-1] - x.loads[n-2]; gap > time.Second {
			t.Errorf("the last pause is %s after another failure", gap)
		}
	})
}

// A closed channel is no storm of changes; failures are still retried.
func TestLoopSurvivesClosedChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, changed := &thing{}, make(chan struct{})
		close(changed)
		l := x.run(t, changed)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(x.loads); n != 2 {
			t.Errorf("%d loads, want the first and Run's own", n)
		}
		if st := l.Status(); st.Since.After(x.start) || !st.LastSuccess.Equal(st.Since) {
			t.Errorf("status %+v", st)
		}
	})
}

// The clock of the loop decides when something staged is due.
func TestLoopUsesItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := 100 * time.Hour
		x := &thing{start: time.Now()}
		l := &reload.Loop{What: "things", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(ahead) }}
		l.Load = func(ctx context.Context) (reload.Result, error) {
			r, err := x.load(ctx)
			if len(x.loads) == 1 {
				r.Again = x.start.Add(ahead + time.Hour)
			}
			return r, err
		}
		ctx, stop := context.WithTimeout(t.Context(), 90*time.Minute)
		defer stop()
		if err := l.Run(ctx, nil); err != nil || len(x.loads) != 2 || x.loads[1] != time.Hour {
			t.Errorf("loads at %v, %v; want the second after an hour", x.loads, err)
		}
		if got := l.Status().LastSuccess; !got.Equal(x.start.Add(ahead + time.Hour)) {
			t.Errorf("last success %s", got)
		}
	})
}

// ROT-15: the pauses of Retry grow up to its cap, also while each failure reads
// differently.
func TestLoopRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &thing{start: time.Now()}
		n := 0
		l := &reload.Loop{What: "things", Log: slog.New(slog.DiscardHandler), Retry: reload.Retry{First: 10 * time.Second, Last: time.Minute}}
		l.Load = func(ctx context.Context) (reload.Result, error) {
			n++
			r, _ := x.load(ctx)
			return r, fmt.Errorf("failure %d", n)
		}
		ctx, stop := context.WithTimeout(t.Context(), 4*time.Minute)
		defer stop()
		if err := l.Run(ctx, nil); err != nil {
			t.Fatal(err)
		}
		want := []time.Duration{0, 10 * time.Second, 30 * time.Second, 70 * time.Second, 130 * time.Second, 190 * time.Second}
		if !slices.Equal(x.loads, want) {
			t.Errorf("loads at %v, want %v", x.loads, want)
		}
	})
}

// A success begins the pauses anew.
func TestLoopRetryBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &thing{start: time.Now(), err: errors.New("away")}
		l := &reload.Loop{What: "things", Load: x.load, Log: slog.New(slog.DiscardHandler), Retry: reload.Retry{First: 10 * time.Second, Last: time.Minute}}
		ctx, stop := context.WithCancel(t.Context())
		changed, done := make(chan struct{}), make(chan error)
		go func() { done <- l.Run(ctx, changed) }()
		time.Sleep(100 * time.Second)
		x.set(nil, 0)
		changed <- struct{}{}
		time.Sleep(time.Second)
		x.set(errors.New("away"), 0)
		changed <- struct{}{}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if n := len(x.loads); x.loads[n-1]-x.loads[n-2] != 10*time.Second {
			t.Errorf("loads at %v, want the last two 10 s apart", x.loads)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// The memory of what was said is bounded, whatever a source puts into its
// errors.
func TestLoopForgetsWhatItSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, changed := &thing{}, make(chan struct{})
		x.run(t, changed)
		say := func(text string) {
			x.set(errors.New(text), 0)
			changed <- struct{}{}
			synctest.Wait()
			time.Sleep(200 * time.Millisecond)
		}
		say("first")
		for i := range 99 {
			say(fmt.Sprintf("failure %d.", i))
		}
		say("first")
		if n := strings.Count(x.log.String(), "first"); n != 1 {
			t.Errorf("said %d times among 100", n)
		}
		say("one more")
		say("first")
		if n := strings.Count(x.log.String(), "first"); n != 2 {
			t.Errorf("said %d times in all, want again after 100 others", n)
		}
	})
}

// A failure before anything was in service is another line than one after.
func TestLoopSaysWhatIsInService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &thing{err: errors.New("away")}
		l := &reload.Loop{What: "things", Load: x.load, Log: slog.New(slog.NewTextHandler(&x.log, nil))}
		if l.First(t.Context()) == nil {
			t.Fatal("no error")
		}
		if x.log.String() != "" {
			t.Errorf("First logs what it returns: %s", x.log.String())
		}
		ctx, stop := context.WithCancel(t.Context())
		changed, done := make(chan struct{}), make(chan error)
		go func() { done <- l.Run(ctx, changed) }()
		synctest.Wait()
		const none, old = "load failed, nothing is in service", "reload refused, last good stays in service"
		if log := x.log.String(); strings.Count(log, none) != 1 || strings.Contains(log, old) {
			t.Errorf("log:\n%s", log)
		}
		time.Sleep(time.Second)
		x.set(nil, 0)
		changed <- struct{}{}
		time.Sleep(time.Second)
		x.set(errors.New("away"), 0)
		changed <- struct{}{}
		synctest.Wait()
		if log := x.log.String(); strings.Count(log, none) != 1 || strings.Count(log, old) != 1 || !strings.Contains(log, "generation=g") {
			t.Errorf("log:\n%s", log)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// ROT-21: what is in service although it must be mended is not called the last
// good one, and neither is it when the next load fails in another way.
func TestLoopSaysWhatIsFlawed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var next reload.Result
		var err error
		l := &reload.Loop{What: "things", Log: slog.New(slog.NewTextHandler(&log, nil)),
			Load: func(context.Context) (reload.Result, error) { return next, err }}
		changed := make(chan struct{})
		step := func(generation, problem, wantLog, wantState, wantGeneration string) {
			t.Helper()
			next, err = reload.Result{Generation: generation}, nil
			if problem != "" {
				err = errors.New(problem)
			}
			log.Reset()
			changed <- struct{}{}
			synctest.Wait()
			time.Sleep(time.Second) // it is tried again and again
			s := l.Status()
			if s.Generation != wantGeneration || s.OK != (problem == "") || s.Err != problem || s.State() != wantState {
				t.Errorf("%s %s: status %+v, %q", generation, problem, s, s.State())
			}
			if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, wantLog) || !strings.Contains(got, "generation="+wantGeneration) {
				t.Errorf("%s %s: log %q, want %q once", generation, problem, got, wantLog)
			}
		}
		next = reload.Result{Generation: "g1"}
		if err := l.First(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx, changed) }()
		time.Sleep(time.Second)
		good := l.Status().LastSuccess
		step("g2", "emptied", "reload in service, and must be mended", "in service, and must be mended: emptied", "g2")
		if s := l.Status(); s.LastSuccess != good || !s.Since.After(good) || !s.Flawed {
			t.Errorf("status %+v, want the time of the last success and that of the change", s)
		}
		step("", "garbled", "reload refused, what is in service must be mended", "in service, and must be mended: garbled", "g2")
		step("g3", "", "reload works again", "ok", "g3")
		step("", "garbled", "reload refused, last good stays in service", "last good stays: garbled", "g3")
		stop()
		<-done
	})
}
