package reload

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// OPS-17: a load that hangs does not keep Run, and there is one of it.
func TestEndWhileLoadHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, loads := make(chan struct{}), 0
		defer close(release)
		l := &Loop{What: "users", Log: slog.New(slog.DiscardHandler), Load: func(context.Context) (Result, error) {
			loads++
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
		if loads != 1 {
			t.Errorf("%d loads at a time", loads)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
