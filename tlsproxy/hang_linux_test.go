package tlsproxy

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy/upstream"
)

// A unix socket whose mount hangs: a gate that is to listen there says so after
// its patience, a connection to it fails in its time, and to close a listener
// does not wait for it.
func TestSocketOnHangingMount(t *testing.T) {
	m := certstest.NewMount(t, map[string][]byte{"socket": nil})
	path := filepath.Join(m.Dir, "socket")
	l, err := listen(Address{Network: "unix", Address: filepath.Join(t.TempDir(), "socket")})
	if err != nil {
		t.Fatal(err)
	}
	m.Hang()
	mine, _ := l.(*socket)
	mine.path = path // as if the mount had stopped since
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	up := Upstream{Address: Address{Network: "unix", Address: path}}
	if up.LeadsTo(ctx, Address{Network: "unix", Address: filepath.Join(m.Dir, "other")}) {
		t.Error("it leads there")
	}
	dialer := &upstream.Dialer{Network: "unix", Address: path, Timeout: 100 * time.Millisecond}
	if _, err := dialer.Dial(t.Context()); !errors.Is(err, upstream.ErrHangs) {
		t.Errorf("dial: got %v", err)
	}
}

// How long that is.
func TestListenPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, began := make(chan struct{}), time.Now()
		for range 8 { // as many as may wait for one path
			go func() {
				_, _ = upstream.Touch(t.Context(), "/mnt/patience", func() (int, error) { <-release; return 0, nil })
			}()
		}
		synctest.Wait()
		if _, err := listen(Address{Network: "unix", Address: "/mnt/patience"}); !errors.Is(err, upstream.ErrHangs) || time.Since(began) != mountPatience {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
		close(release)
	})
}
