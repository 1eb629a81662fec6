package upstream

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// late is closed by whoever does not want it.
type late struct{ closed atomic.Bool }

func (l *late) Close() error {
	l.closed.Store(true)
	return nil
}

// A call that hangs is left behind in time, with few others to the same path,
// and what it returns at last is closed. Other paths go on.
func TestTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const path, calls = "/mnt/touch/hangs", 100
		release, made := make(chan struct{}), make(chan *late, calls)
		stuck := func() (*late, error) {
			l := &late{}
			made <- l
			<-release
			return l, nil
		}
		began, ends := time.Now(), make(chan error, calls)
		for range calls {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := Touch(ctx, path, stuck)
				ends <- err
			}()
		}
		for range calls {
			if err := <-ends; !errors.Is(err, ErrHangs) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
		if len(made) != maxTouching {
			t.Errorf("%d calls hang, want %d", len(made), maxTouching)
		}
		if v, err := Touch(t.Context(), "/mnt/touch/other", func() (int, error) { return 1, nil }); v != 1 || err != nil {
			t.Errorf("another path: %d, %v", v, err)
		}
		left, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Touch(left, path, stuck); !errors.Is(err, context.Canceled) {
			t.Errorf("who leaves: %v", err)
		}
		close(release)
		synctest.Wait()
		for range maxTouching {
			if !(<-made).closed.Load() {
				t.Error("what came too late is open")
			}
		}
		v, err := Touch(t.Context(), path, stuck)
		if err != nil || v.closed.Load() {
			t.Errorf("afterwards: %v", err)
		}
	})
}
