package watch

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"sidegate/certs/certstest"
)

// started is a watcher at work whose poll is far away, so that what it
// signals comes from events.
type started struct {
	*Watcher
	changed <-chan struct{}
	log     *certstest.Log
}

func start(t *testing.T, poll time.Duration, open func() (*fsnotify.Watcher, error), paths ...string) *started {
	t.Helper()
	s := &started{log: &certstest.Log{}}
	s.Watcher = New(Options{Paths: paths, Poll: poll, Log: slog.New(slog.NewTextHandler(s.log, nil))})
	armed := make(chan struct{}, 100)
	if open == nil {
		open = fsnotify.NewWatcher
	}
	s.open = func() (*fsnotify.Watcher, error) {
		defer func() { armed <- struct{}{} }()
		return open()
	}
	s.changed = s.Subscribe()
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-armed
	// The watches are added right after; a kick is answered when they are.
	s.Kick()
	s.wait(t, "kick")
	return s
}

func (s *started) wait(t *testing.T, what string) {
	t.Helper()
	select {
	case <-s.changed:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: no signal", what)
	}
}

// settle takes signals until none comes for a moment, and counts them.
func (s *started) settle() int {
	n := 0
	for {
		select {
		case <-s.changed:
			n++
		case <-time.After(300 * time.Millisecond):
			return n
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func try(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func secret(text string) map[string][]byte { return map[string][]byte{"tls.crt": []byte(text)} }

// LIB-01: each of several swaps is seen.
func TestKubeletSwaps(t *testing.T) {
	v := certstest.NewVolume(t, secret("0"))
	for name, path := range map[string]string{"folder": v.Dir, "file": filepath.Join(v.Dir, "tls.crt")} {
		t.Run(name, func(t *testing.T) {
			s := start(t, time.Hour, nil, path)
			for _, text := range []string{"1", "2", "3", "4", "5"} {
				began := time.Now()
				v.Update(t, secret(name+text))
				s.wait(t, "swap "+text)
				if took := time.Since(began); took > time.Second {
					t.Errorf("swap %s was told after %s", text, took)
				}
				s.settle()
			}
		})
	}
}

func TestPlainFiles(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "tls")
	try(t, os.Mkdir(dir, 0o700))
	file := filepath.Join(dir, "tls.crt")
	write(t, file, "0")
	s := start(t, time.Hour, nil, dir)
	steps := []struct {
		name string
		do   func()
	}{
		{"in-place write", func() { write(t, file, "1") }},
		{"rename over", func() { write(t, file+".new", "2"); try(t, os.Rename(file+".new", file)) }},
		{"folder removed", func() { try(t, os.RemoveAll(dir)) }},
		{"folder made again", func() { try(t, os.Mkdir(dir, 0o700)); write(t, file, "3") }},
		{"write in the new folder", func() { write(t, file, "4") }},
	}
	for _, step := range steps {
		s.settle()
		step.do()
		s.wait(t, step.name)
	}
}

// LIB-01: a link anywhere on the way to the files.
func TestLinkOnTheWay(t *testing.T) {
	base := t.TempDir()
	for _, d := range []string{"v1/tls", "v2/tls", "links"} {
		try(t, os.MkdirAll(filepath.Join(base, d), 0o700))
	}
	link := filepath.Join(base, "links", "current")
	try(t, os.Symlink("../v1", link))
	s := start(t, time.Hour, nil, filepath.Join(link, "tls"))
	s.settle()
	try(t, os.Symlink("../v2", link+".new"), os.Rename(link+".new", link))
	s.wait(t, "link moved")
	s.settle()
	write(t, filepath.Join(base, "v2", "tls", "tls.crt"), "x")
	s.wait(t, "write behind the moved link")
}

func TestPathThatAppearsLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "users")
	s := start(t, time.Hour, nil, dir)
	try(t, os.Mkdir(dir, 0o700))
	s.wait(t, "folder made")
}

// ROT-10: a storm of events is few signals, and a reader that is slow loses
// none that matters (LIB-02).
func TestStorm(t *testing.T) {
	dir := t.TempDir()
	s := start(t, time.Hour, nil, dir)
	counted := make(chan int)
	go func() { counted <- s.settle() }()
	for range 1000 {
		write(t, filepath.Join(dir, "f"), "x")
	}
	if n := <-counted; n == 0 || n > 60 {
		t.Errorf("%d signals for 1000 writes", n)
	}
	write(t, filepath.Join(dir, "f"), "y") // nobody reads for a while
	write(t, filepath.Join(dir, "g"), "y")
	s.wait(t, "after a slow reader")
}

// ROT-11: without inotify the poll serves, one warning is logged, and events
// come back when they can be had.
func TestExhausted(t *testing.T) {
	var mu sync.Mutex
	fail := true
	open := func() (*fsnotify.Watcher, error) {
		mu.Lock()
		defer mu.Unlock()
		if fail {
			return nil, errors.New("too many open files")
		}
		return fsnotify.NewWatcher()
	}
	s := start(t, 20*time.Millisecond, open, t.TempDir())
	s.wait(t, "poll")
	s.wait(t, "next poll")
	if n := strings.Count(s.log.String(), "polling instead"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, s.log)
	}
	mu.Lock()
	fail = false
	mu.Unlock()
	s.wait(t, "poll after recovery")
}

// LIB-02: a watcher whose channels close is replaced, without a busy loop.
func TestClosedChannels(t *testing.T) {
	var mu sync.Mutex
	var opened []*fsnotify.Watcher
	open := func() (*fsnotify.Watcher, error) {
		w, err := fsnotify.NewWatcher()
		mu.Lock()
		defer mu.Unlock()
		opened = append(opened, w)
		return w, err
	}
	dir := t.TempDir()
	s := start(t, 50*time.Millisecond, open, dir)
	mu.Lock()
	try(t, opened[0].Close())
	mu.Unlock()
	for n := 1; n < 2; {
		s.wait(t, "poll")
		mu.Lock()
		n = len(opened)
		mu.Unlock()
	}
	write(t, filepath.Join(dir, "f"), "x")
	s.wait(t, "event of the new watcher")
}
