package files_test

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/certs/files"
)

// A mount that hangs is an error with the path, at once for whoever asks next,
// and no further thread waits for it; when it answers, all is as before.
func TestHangingMount(t *testing.T) {
	m := certstest.NewMount(t, map[string][]byte{"tls.crt": []byte("text")})
	file := filepath.Join(m.Dir, "tls.crt")
	if content, err := files.Read(m.Dir); err != nil || string(content["tls.crt"]) != "text" {
		t.Fatalf("got %q, %v", content, err)
	}
	m.Hang()
	files.Probe(t.Context(), 200*time.Millisecond, []string{m.Dir, t.TempDir()})
	before := runtime.NumGoroutine()
	cache := &files.Cache{Dir: m.Dir}
	for name, ask := range map[string]func() error{
		"Read":     func() error { _, err := files.Read(m.Dir); return err },
		"ReadOne":  func() error { _, err := files.ReadOne(file); return err },
		"Roots":    func() error { _, err := files.Roots(file); return err },
		"Stat":     func() error { _, err := files.Stat(file); return err },
		"Load":     func() error { _, err := (&files.Source{TLS: []string{m.Dir}}).Load(t.Context()); return err },
		"ClientCA": func() error { _, err := (&files.Source{ClientCA: file, WantTrust: true}).Load(t.Context()); return err },
		"Get":      func() error { _, err := cache.Get("a"); return err },
		"Put":      func() error { return cache.Put("a", nil) },
		"Check":    cache.Check,
	} {
		for range 10 {
			if err := ask(); !errors.Is(err, files.ErrHangs) || !strings.Contains(err.Error(), m.Dir) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines wait, want %d", n, before)
	}
	if !files.Hangs(file) || files.Hangs(m.Dir+"x") {
		t.Error("Hangs does not tell what hangs")
	}
	m.Resume()
	for files.Hangs(m.Dir) {
		runtime.Gosched()
	}
	if got, err := files.ReadOne(file); err != nil || string(got) != "text" {
		t.Errorf("afterwards: got %q, %v", got, err)
	}
}
