package watch

import (
	"path/filepath"
	"testing"

	"github.com/fsnotify/fsnotify"

	"sidegate/certs/certstest"
)

// A mount that hangs keeps nobody else's events: not when its way is looked
// at, not when its folder is watched. When it answers it is watched again.
func TestHangingMount(t *testing.T) {
	m := certstest.NewMount(t, map[string][]byte{"tls.crt": []byte("text")})
	dir := t.TempDir()
	s := start(t, nil, m.Dir, dir)
	s.settle()
	m.Hang()
	for range 3 {
		s.Kick()
		s.wait(t, "kick")
		s.settle()
		write(t, filepath.Join(dir, "f"), "x")
		s.wait(t, "another path while one hangs")
	}
	m.Resume()
	s.wait(t, "the path has answered")
}

// The same for inotify itself, which fsnotify asks under its lock.
func TestWatchThatHangs(t *testing.T) {
	dir, stuck, release := t.TempDir(), t.TempDir(), make(chan struct{})
	s := start(t, func(w *Watcher) {
		add := w.add
		w.add = func(events *fsnotify.Watcher, path string) error {
			if path == stuck {
				<-release
			}
			return add(events, path)
		}
	}, stuck, dir)
	for range 3 {
		s.settle()
		write(t, filepath.Join(dir, "f"), "x")
		s.wait(t, "another path")
	}
	close(release)
	s.wait(t, "the path has answered")
	s.settle()
	write(t, filepath.Join(stuck, "f"), "x")
	s.wait(t, "the path that hung")
}
