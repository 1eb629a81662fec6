package reload

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What was to be loaded again at a time of day is, within 30 s, when the clock
// is set past it: a renewal, a staged certificate, a warning that one ends.
func TestClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
		renew := now().Add(24 * time.Hour)
		loads := make(chan time.Time, 10)
		l := &Loop{What: "certificates", Log: slog.New(slog.DiscardHandler), Now: now, Load: func(context.Context) (Result, error) {
			loads <- time.Now()
			if now().Before(renew) {
				return Result{Generation: "a", Again: renew}, nil
			}
			return Result{Generation: "b"}, nil
		}}
		go func() { _ = l.Run(t.Context(), nil) }()
		<-loads // the one that Run begins with
		time.Sleep(time.Hour)
		if len(loads) > 0 {
			t.Error("loaded before its time")
		}
		off.Store(int64(48 * time.Hour))
		jumped := time.Now()
		if took := (<-loads).Sub(jumped); took > 30*time.Second {
			t.Errorf("loaded %s after the clock was set", took)
		}
		time.Sleep(time.Hour)
		if len(loads) > 0 || l.Status().Generation != "b" {
			t.Errorf("%d more loads, generation %s", len(loads), l.Status().Generation)
		}
	})
}

// The same while loads fail, however long the pause before the next attempt is:
// what is in service ends at its time.
func TestClockIsSetWhileLoadsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
		ends := now().Add(24 * time.Hour)
		loads := make(chan time.Time, 10)
		l := &Loop{What: "certificates", Log: slog.New(slog.DiscardHandler), Now: now, Retry: Retry{First: 100 * time.Hour, Last: 100 * time.Hour},
			Load: func(context.Context) (Result, error) {
				loads <- time.Now()
				if now().Before(ends) {
					return Result{Again: ends}, errors.New("the server is down")
				}
				return Result{}, errors.New("the server is down")
			}}
		go func() { _ = l.Run(t.Context(), nil) }()
		<-loads
		time.Sleep(time.Hour)
		if len(loads) > 0 {
			t.Error("loaded before its time")
		}
		off.Store(int64(48 * time.Hour))
		jumped := time.Now()
		if took := (<-loads).Sub(jumped); took > 30*time.Second {
			t.Errorf("loaded %s after the clock was set", took)
		}
		if took := (<-loads).Sub(jumped); took < 99*time.Hour {
			t.Errorf("tried again %s after that", took)
		}
	})
}
