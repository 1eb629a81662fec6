package files

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// The patience is 30 s, less for who leaves, and a call within it is no hang.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d disk
		release := make(chan struct{})
		ask := func() (int, error) { <-release; return 1, nil }
		began := time.Now()
		if _, err := answer(t.Context(), &d, Patience, "/mnt/a/../a", ask); !errors.Is(err, ErrHangs) || time.Since(began) != 30*time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
		if _, err := answer(t.Context(), &d, Patience, "/mnt/a/file", ask); !errors.Is(err, ErrHangs) || time.Since(began) != 30*time.Second {
			t.Errorf("a second call: got %v after %s", err, time.Since(began))
		}
		slow := func() (int, error) { time.Sleep(29 * time.Second); return 2, os.ErrNotExist }
		if v, err := answer(t.Context(), &d, Patience, "/mnt/b", slow); v != 2 || err != os.ErrNotExist {
			t.Errorf("a slow call: %d, %v", v, err)
		}
		left, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := answer(left, &d, Patience, "/mnt/c", ask); !errors.Is(err, ErrHangs) {
			t.Errorf("who leaves: %v", err)
		}
		close(release)
		synctest.Wait()
		if v, err := answer(t.Context(), &d, Patience, "/mnt/a", ask); v != 1 || err != nil || len(d.hanging) > 0 {
			t.Errorf("afterwards: %d, %v, %v", v, err, d.hanging)
		}
	})
}
