// Package reload keeps one thing fresh: it loads when told that something may
// have changed, keeps what is in service when loading fails, tries again with
// growing pauses, and says each problem once.
//
//	loop := &reload.Loop{What: "users", Load: users.Load, Log: log}
//	if err := loop.First(ctx); err != nil { … } // refuse to start
//	err := loop.Run(ctx, changed)
//
// It knows nothing of what is loaded. Load does the checking and the swap.
package reload

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"sidegate/certs/wallclock"
)

// Result is what a load tells the loop.
type Result struct {
	Generation string // id of what is in service now
	// Again asks for another load at that time without any change: something
	// was staged. Zero: none. With an error it counts where it is before the
	// next attempt would be.
	Again time.Time
}

// Loop reloads one thing. The exported fields are set before First.
type Loop struct {
	// What names the thing in logs and metrics.
	What string
	// Load loads a candidate, checks it and puts it in service. An error
	// means that what was in service still is, unless another generation comes
	// with it: that is in service then, and must be mended. The same text is the same
	// failure, which is said once: so it holds nothing that changes by itself,
	// such as the time. Load is not called twice at a time.
	Load func(context.Context) (Result, error)
	Log  *slog.Logger
	// Retry are the pauses after failures; zero: those of files.
	Retry Retry
	// Now is the clock of Result.Again and of the status; nil means time.Now.
	Now func() time.Time

	said map[string]bool // failures logged since the last success; Run's own

	mu     sync.Mutex
	status Status
}

// Retry is how long to wait after a failed load: First, and each time twice as
// long up to Last. Where it is set a failure that reads differently from the
// one before is no reason to begin anew: what fails is not a file that somebody
// is about to write, and may charge for each attempt.
type Retry struct{ First, Last time.Duration }

// Status is the state of a loop.
type Status struct {
	What        string    `json:"what"`
	Generation  string    `json:"generation"`       // in service; "" before the first success
	OK          bool      `json:"ok"`               // the last attempt succeeded
	Err         string    `json:"err,omitempty"`    // why the last attempt failed; "" if it did not
	Flawed      bool      `json:"flawed,omitempty"` // Generation is not the last good one, and must be mended
	LastSuccess time.Time `json:"last_success"`     // zero before the first
	Since       time.Time `json:"since,omitzero"`   // when Generation came into service; zero before
}

// Pauses of a loop.
const (
	minInterval = 100 * time.Millisecond // between two loads, however many changes are reported
	maxSaid     = 100                    // failures that are remembered as said
)

// ofFiles are the pauses for files: a torn pair is whole again soon.
var ofFiles = Retry{First: 100 * time.Millisecond, Last: 30 * time.Second}

// Status returns the state of the loop. It may be called at any time.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.What = l.What
	return s
}

// First loads for the first time and returns why that failed. Run does not
// call it.
func (l *Loop) First(ctx context.Context) error {
	r, err := l.Load(ctx)
	l.note(r, err)
	return err
}

// Run loads again whenever changed says so, until ctx ends. It returns nil. A
// closed channel says nothing more; a nil one never did.
func (l *Loop) Run(ctx context.Context, changed <-chan struct{}) error {
	// What First saw may have changed before Run was listening, or asked to be
	// loaded again: begin with a load.
	wake := time.NewTimer(0)
	defer wake.Stop()
	l.said = map[string]bool{}
	pauses := cmp.Or(l.Retry, ofFiles)
	retry := pauses.First
	var due plan
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-changed:
			if !open {
				changed = nil
				continue
			}
		case <-wake.C:
			if left := due.left(l.now); left > 0 {
				wake.Reset(left)
				continue
			}
		}
		before := l.Status()
		again, err := l.once(ctx, before)
		if err == nil || pauses == ofFiles && err.Error() != before.Err {
			retry = pauses.First // other content: what it lacks may land soon
		}
		due = plan{day: again}
		if err != nil {
			due.retry = time.Now().Add(retry)
			retry = min(2*retry, pauses.Last)
		}
		if due == (plan{}) {
			wake.Stop()
		} else {
			wake.Reset(due.left(l.now))
		}
		if !pause(ctx, minInterval) {
			return nil
		}
	}
}

// plan is when to load without a change: behind a pause or at a time of day,
// where either is set and whichever is first. Zero: now.
type plan struct{ retry, day time.Time }

// left is how long to wait before it is looked at again.
func (p plan) left(now func() time.Time) time.Duration {
	switch {
	case p.day.IsZero():
		return time.Until(p.retry)
	case p.retry.IsZero():
		return wallclock.Until(now, p.day)
	}
	return min(time.Until(p.retry), wallclock.Until(now, p.day))
}

// pause waits and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// once loads and says what has changed since before.
func (l *Loop) once(ctx context.Context, before Status) (again time.Time, err error) {
	r, err := l.load(ctx)
	if ctx.Err() != nil {
		return time.Time{}, nil // a load that was cut short says nothing
	}
	l.note(r, err)
	if err != nil {
		l.say(err, r.Generation)
		return r.Again, err
	}
	if !before.OK && before.Generation != "" {
		l.Log.Info("reload works again", "source", l.What, "generation", r.Generation)
	}
	clear(l.said)
	return r.Again, nil
}

// load leaves a Load behind that does not end with ctx, such as one that reads
// from a mount that hangs: the end of the process doesn't wait for that.
func (l *Loop) load(ctx context.Context) (r Result, err error) {
	done := make(chan struct{})
	var loaded Result
	var failure error
	go func() {
		defer close(done)
		loaded, failure = l.Load(ctx)
	}()
	select {
	case <-done:
		return loaded, failure
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// say logs a failure that was not said since the last success: torn files may
// alternate between two. loaded is the generation that came with it.
func (l *Loop) say(err error, loaded string) {
	if l.said[err.Error()] {
		return
	}
	if len(l.said) >= maxSaid {
		clear(l.said)
	}
	l.said[err.Error()] = true
	s := l.Status()
	switch {
	case s.Generation == "":
		l.Log.Error("load failed, nothing is in service", "source", l.What, "err", err)
	case !s.Flawed:
		l.Log.Error("reload refused, last good stays in service", "source", l.What, "err", err, "generation", s.Generation)
	case loaded == s.Generation:
		l.Log.Error("reload in service, and must be mended", "source", l.What, "err", err, "generation", s.Generation)
	default:
		l.Log.Error("reload refused, what is in service must be mended", "source", l.What, "err", err, "generation", s.Generation)
	}
}

func (l *Loop) note(r Result, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, in := l.now(), l.status.Generation
	if r.Generation != in && (err == nil || in != "" && r.Generation != "") {
		l.status.Generation, l.status.Since, l.status.Flawed = r.Generation, now, err != nil
	}
	if err != nil {
		l.status.OK, l.status.Err = false, err.Error()
		return
	}
	l.status.OK, l.status.Err, l.status.Flawed, l.status.LastSuccess = true, "", false, now
}

// State says in words what Err means for what is in service.
func (s Status) State() string {
	switch {
	case s.OK:
		return "ok"
	case s.Flawed:
		return "in service, and must be mended: " + s.Err
	}
	return "last good stays: " + s.Err
}

func (l *Loop) now() time.Time {
	if l.Now == nil {
		return time.Now()
	}
	return l.Now()
}
