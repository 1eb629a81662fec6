package reload

import (
	"context"
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
