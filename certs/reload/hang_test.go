package reload

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// OPS-17: a load that hangs does not keep Run, and there is one of it.
func TestEndWhileLoadHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		release := make(chan struct{})
		defer close(release)
		l := &Loop{What: "users", Log: slog.New(slog.DiscardHandler), Load: func(context.Context) (Result, error) {
			loads.Add(1)
			<-release
			return Result{}, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		changed, done := make(chan struct{}, 1), make(chan error, 1)
		go func() { done <- l.Run(ctx, changed) }()
		for range 5 {
			changed <- struct{}{}
			time.Sleep(time.Minute)
			select {
			case <-changed:
			default:
			}
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads at a time", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
