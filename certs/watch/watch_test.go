package watch

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
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

// start watches the paths, changed as the test wants it, and returns when the
// watches are in place.
func start(t *testing.T, change func(*Watcher), paths ...string) *started {
	t.Helper()
	s := &started{log: &certstest.Log{}}
	s.Watcher = New(Options{Paths: paths, Poll: time.Hour, Debounce: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(s.log, nil))})
	if change != nil {
		change(s.Watcher)
	}
	s.changed = s.Subscribe()
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.wait(t, "start")
	return s
}

func (s *started) wait(t *testing.T, what string) {
	t.Helper()
	select {
	case <-s.changed:
	case <-time.After(certstest.HangGuard):
		t.Fatalf("%s: no signal", what)
	}
}

// settle takes signals until none comes for several debounces, so that the
// next one belongs to the next step, and counts them.
func (s *started) settle() int {
	n := 0
	for {
		select {
		case <-s.changed:
			n++
		case <-time.After(10 * s.opts.Debounce):
			return n
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	try(t, os.WriteFile(path, []byte(text), 0o600))
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
	t.Parallel()
	for _, file := range []string{"", "tls.crt"} {
		t.Run("path ends in "+file, func(t *testing.T) {
			t.Parallel()
			v := certstest.NewVolume(t, secret("0"))
			s := start(t, nil, filepath.Join(v.Dir, file))
			fastest := time.Hour // the others may have waited for a busy machine
			for _, text := range []string{"1", "2", "3", "4", "5"} {
				s.settle()
				v.Update(t, secret(text))
				began := certstest.StartStopwatch(t)
				s.wait(t, "swap "+text)
				fastest = min(fastest, began.Elapsed())
			}
			if fastest > 200*time.Millisecond {
				t.Errorf("the fastest swap was told after %s", fastest)
			}
		})
	}
}

// step is a change that must be signalled.
type step struct {
	name string
	do   func()
}

func (s *started) follow(t *testing.T, steps []step) {
	t.Helper()
	for _, step := range steps {
		s.settle()
		step.do()
		s.wait(t, step.name)
	}
}

func TestPlainFiles(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"", "tls.crt"} {
		t.Run("path ends in "+file, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "tls")
			crt := filepath.Join(dir, "tls.crt")
			try(t, os.Mkdir(dir, 0o700))
			write(t, crt, "0")
			start(t, nil, filepath.Join(dir, file)).follow(t, []step{
				{"in-place write", func() { write(t, crt, "1") }},
				{"rename over", func() { write(t, crt+".new", "2"); try(t, os.Rename(crt+".new", crt)) }},
				{"ROT-11 folder removed", func() { try(t, os.RemoveAll(dir)) }},
				{"ROT-11 folder made again", func() { try(t, os.Mkdir(dir, 0o700)); write(t, crt, "3") }},
				{"write in the new folder", func() { write(t, crt, "4") }},
				{"another folder in its place", func() {
					try(t, os.Mkdir(dir+".new", 0o700))
					write(t, filepath.Join(dir+".new", "tls.crt"), "5")
					try(t, os.Rename(dir, dir+".old"), os.Rename(dir+".new", dir))
				}},
				{"write in the other folder", func() { write(t, crt, "6") }},
				{"file removed", func() { try(t, os.Remove(crt)) }},
				{"file made again", func() { write(t, crt, "7") }},
			})
		})
	}
}

// A path need not be there at first, nor any folder above it.
func TestPathThatAppearsLater(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"", "htpasswd"} {
		t.Run("path ends in "+last, func(t *testing.T) {
			t.Parallel()
			above := filepath.Join(t.TempDir(), "etc")
			dir := filepath.Join(above, "users")
			file := filepath.Join(dir, "htpasswd")
			start(t, nil, filepath.Join(dir, last)).follow(t, []step{
				{"above made", func() { try(t, os.Mkdir(above, 0o700)) }},
				{"folder made", func() { try(t, os.Mkdir(dir, 0o700)) }},
				{"file made", func() { write(t, file, "0") }},
				{"file changed", func() { write(t, file, "1") }},
				{"all removed", func() { try(t, os.RemoveAll(above)) }},
				{"all made at once", func() { try(t, os.MkdirAll(dir, 0o700)); write(t, file, "2") }},
				{"file changed again", func() { write(t, file, "3") }},
			})
		})
	}
}

// LIB-01: a link anywhere on the way to the files, and links to links.
func TestLinkOnTheWay(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	at := func(p ...string) string { return filepath.Join(append([]string{base}, p...)...) }
	for _, d := range []string{"v1/tls", "v2/tls", "v3/tls", "links"} {
		try(t, os.MkdirAll(at(d), 0o700))
	}
	point := func(link, target string) {
		try(t, os.Symlink(target, link+".new"), os.Rename(link+".new", link))
	}
	point(at("links", "current"), "../v1")
	point(at("entry"), at("links", "current"))
	var opened atomic.Pointer[fsnotify.Watcher]
	s := start(t, func(w *Watcher) { w.open = keep(&opened) }, at("entry", "tls"))
	s.follow(t, []step{
		{"inner link moved", func() { point(at("links", "current"), "../v2") }},
		{"write behind it", func() { write(t, at("v2", "tls", "tls.crt"), "x") }},
		{"outer link moved", func() { point(at("entry"), "v3") }},
		{"write behind that", func() { write(t, at("v3", "tls", "tls.crt"), "x") }},
	})
	s.settle()
	write(t, at("v1", "tls", "tls.crt"), "x")
	point(at("links", "current"), "../v1")
	if n := s.settle(); n != 0 {
		t.Errorf("%d signals from where no link leads any more", n)
	}
	for _, dir := range opened.Load().WatchList() {
		if dir == at("v1", "tls") || dir == at("v2", "tls") || dir == at("links") {
			t.Errorf("%s is still watched", dir)
		}
	}
}

// keep opens real watchers and shows the newest to the test.
func keep(newest *atomic.Pointer[fsnotify.Watcher]) func() (*fsnotify.Watcher, error) {
	return func() (*fsnotify.Watcher, error) {
		events, err := fsnotify.NewWatcher()
		newest.Store(events)
		return events, err
	}
}

// LIB-01: a folder's entries may be links to files kept elsewhere.
func TestLinkedEntry(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir, store := filepath.Join(base, "tls"), filepath.Join(base, "store")
	try(t, os.Mkdir(dir, 0o700), os.Mkdir(store, 0o700))
	write(t, filepath.Join(store, "crt"), "0")
	try(t, os.Symlink("../store/crt", filepath.Join(dir, "tls.crt")))
	start(t, nil, dir).follow(t, []step{
		{"write", func() { write(t, filepath.Join(store, "crt"), "1") }},
		{"rename over", func() {
			write(t, filepath.Join(store, "new"), "2")
			try(t, os.Rename(filepath.Join(store, "new"), filepath.Join(store, "crt")))
		}},
		{"write again", func() { write(t, filepath.Join(store, "crt"), "3") }},
	})
}

// ROT-11: the parent is watched too: whoever mounts a volume anew removes and
// makes the folder, and the events of a mount that ended tell nothing.
func TestScope(t *testing.T) {
	v := certstest.NewVolume(t, secret("0"))
	version, err := os.Readlink(filepath.Join(v.Dir, "..data"))
	try(t, err)
	real, err := filepath.EvalSymlinks(v.Dir)
	try(t, err)
	parent := filepath.Dir(real)
	plain := filepath.Join(real, "plain")
	write(t, plain, "0")
	for _, c := range []struct {
		path    string
		folders []string
		matters []string
	}{
		{v.Dir, []string{parent, real, filepath.Join(real, version)},
			[]string{real, filepath.Join(real, "any name"), filepath.Join(real, version, "tls.crt")}},
		{filepath.Join(v.Dir, "..data"), []string{real, filepath.Join(real, version)},
			[]string{filepath.Join(real, "..data"), filepath.Join(real, version, "any name")}},
		{filepath.Join(v.Dir, "tls.crt"), []string{real, filepath.Join(real, version)},
			[]string{filepath.Join(real, "..data"), filepath.Join(real, "tls.crt"), filepath.Join(real, version), filepath.Join(real, version, "tls.crt")}},
		{plain, []string{parent, real}, []string{plain, real}},
	} {
		got := newScope([]string{c.path})
		if folders := slices.Sorted(maps.Keys(got)); !slices.Equal(folders, c.folders) {
			t.Errorf("%s: watches %q, want %q", c.path, folders, c.folders)
		}
		for _, path := range c.matters {
			if !got.matters(path) {
				t.Errorf("%s: %s does not matter", c.path, path)
			}
		}
		if beside := filepath.Join(parent, "beside"); got.matters(beside) {
			t.Errorf("%s: %s matters", c.path, beside)
		}
	}
}

// Links in a circle, a file where a folder should be and a watch in vain are
// no lack of inotify.
func TestOddPaths(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	loop, file := filepath.Join(base, "loop"), filepath.Join(base, "file")
	try(t, os.Symlink("loop", loop))
	write(t, file, "0")
	s := start(t, nil, loop, filepath.Join(file, "below"), filepath.Join(base, "none", "below"))
	try(t, os.Remove(loop), os.Mkdir(loop, 0o700))
	s.wait(t, "circle replaced")
	if s.log.String() != "" {
		t.Errorf("logged: %s", s.log)
	}
}

// A folder that went away before it could be watched, or is not ours to read,
// is no lack of inotify either.
func TestFolderThatCannotBeWatched(t *testing.T) {
	t.Parallel()
	for _, err := range []error{syscall.ENOENT, syscall.EACCES, fsnotify.ErrClosed} {
		s := start(t, func(w *Watcher) {
			w.add = func(*fsnotify.Watcher, string) error { return err }
		}, t.TempDir())
		if s.log.String() != "" {
			t.Errorf("%v: logged: %s", err, s.log)
		}
	}
}

// A busy neighbour in the parent folder is nobody's change.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "tls")
	try(t, os.Mkdir(dir, 0o700))
	s := start(t, nil, dir)
	s.settle()
	write(t, filepath.Join(parent, "neighbour"), "0")
	if n := s.settle(); n != 0 {
		t.Errorf("%d signals for a file beside the folder", n)
	}
}

// ROT-10: a signal waits for quiet, but not for ever.
func TestDebounce(t *testing.T) {
	for name, c := range map[string]struct{ pace, want time.Duration }{
		"one event":             {time.Hour, 50 * time.Millisecond},
		"events without end":    {10 * time.Millisecond, 100 * time.Millisecond},
		"events just too close": {49 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDebounce(New(Options{}).opts.Debounce)
				pace := time.NewTicker(c.pace)
				defer pace.Stop()
				for batch := range 2 {
					began := time.Now()
					d.event()
					for ticked := false; !ticked; {
						select {
						case <-pace.C:
							d.event()
						case <-d.timer.C:
							ticked = true
						}
					}
					if took := time.Since(began); took != c.want {
						t.Errorf("batch %d: signal after %s, want %s", batch, took, c.want)
					}
					d.over()
					pace.Reset(c.pace)
				}
			})
		})
	}
}

// ROT-10: a storm of events is few signals.
func TestStorm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, nil, dir)
	began := time.Now()
	written := make(chan error, 1)
	go func() { written <- storm(filepath.Join(dir, "f")) }()
	n := 0
	for ended := false; !ended; {
		select {
		case <-s.changed:
			n++
		case err := <-written:
			try(t, err)
			ended = true
		}
	}
	n += s.settle()
	// A tick is at least one debounce after the one before it.
	if most := int(time.Since(began)/s.opts.Debounce) + 1; n < 3 || n > most {
		t.Errorf("%d signals for 1000 writes in %s, want 3 to %d", n, time.Since(began), most)
	}
}

// storm writes a file a thousand times in a second or more.
func storm(file string) error {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for range 1000 {
		<-pace.C
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// LIB-02: who reads late misses nothing and holds up nobody.
func TestSlowSubscriber(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var slow <-chan struct{}
	s := start(t, func(w *Watcher) { slow = w.Subscribe() }, dir)
	for range 3 {
		s.settle()
		write(t, filepath.Join(dir, "f"), "x")
		s.wait(t, "while another subscriber does not read")
	}
	if len(slow) != 1 {
		t.Error("no signal waits for the slow subscriber")
	}
}

func TestKick(t *testing.T) {
	s := start(t, nil, t.TempDir())
	s.Kick()
	s.wait(t, "kick")
}

// ROT-11: without inotify the poll serves, with one warning.
func TestPollFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, func(w *Watcher) {
			w.opts.Poll = New(Options{}).opts.Poll // the default
			w.open = func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }
		}, "tls")
		for range 3 {
			began := time.Now()
			<-s.changed
			if took := time.Since(began); took != 30*time.Second {
				t.Errorf("signal after %s, want 30s", took)
			}
		}
		if n := s.log.Count("fs.inotify.max_user_instances"); n != 1 || s.log.Count("every=30s") != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, s.log)
		}
	})
}

// ROT-11: the next poll (here a kick) tries again, for either limit.
func TestEventsComeBack(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Watcher, *atomic.Bool){
		"max_user_instances": func(w *Watcher, full *atomic.Bool) {
			open := w.open
			w.open = func() (*fsnotify.Watcher, error) {
				if full.Load() {
					return nil, syscall.EMFILE
				}
				return open()
			}
		},
		"max_user_watches": func(w *Watcher, full *atomic.Bool) {
			add := w.add
			w.add = func(events *fsnotify.Watcher, dir string) error {
				if full.Load() {
					return syscall.ENOSPC
				}
				return add(events, dir)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var full atomic.Bool
			full.Store(true)
			s := start(t, func(w *Watcher) { change(w, &full) }, dir)
			s.Kick()
			s.wait(t, "second try")
			if n := s.log.Count("polling instead"); n != 1 {
				t.Errorf("%d warnings, want 1:\n%s", n, s.log)
			}
			full.Store(false)
			s.Kick()
			s.wait(t, "third try")
			s.log.Wait(t, "file events work again")
			s.settle()
			write(t, filepath.Join(dir, "f"), "x")
			s.wait(t, "event after recovery")
		})
	}
}

// ROT-11, LIB-02: events that were lost are a signal, and a watcher that ends
// is replaced without waiting for the poll.
func TestLostEvents(t *testing.T) {
	t.Parallel()
	overflow := func(w *fsnotify.Watcher) error { w.Errors <- fsnotify.ErrEventOverflow; return nil }
	readError := func(w *fsnotify.Watcher) error { w.Errors <- syscall.EIO; return nil }
	for name, c := range map[string]struct {
		lose     func(*fsnotify.Watcher) error
		replaced bool
	}{
		"overflow":        {overflow, false},
		"read error":      {readError, true},
		"closed channels": {(*fsnotify.Watcher).Close, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var opened atomic.Pointer[fsnotify.Watcher]
			s := start(t, func(w *Watcher) { w.open = keep(&opened) }, dir)
			first := opened.Load()
			s.settle()
			try(t, c.lose(first))
			s.wait(t, name)
			if replaced := opened.Load() != first; replaced != c.replaced {
				t.Errorf("the watcher was replaced: %t, want %t", replaced, c.replaced)
			}
			s.settle()
			write(t, filepath.Join(dir, "f"), "x")
			s.wait(t, "event afterwards")
		})
	}
}

// LIB-02: watchers that end at once, again and again, are no busy loop.
func TestClosedForEver(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	began := time.Now()
	s := start(t, func(w *Watcher) {
		w.open = func() (*fsnotify.Watcher, error) {
			events, err := fsnotify.NewWatcher()
			opened.Add(1)
			return events, errors.Join(err, events.Close())
		}
	}, t.TempDir())
	for range 5 {
		s.wait(t, "next try")
	}
	n := opened.Load()
	if most := int64(time.Since(began)/s.opts.Debounce) + 1; n > most {
		t.Errorf("opened %d times in %s, want at most %d", n, time.Since(began), most)
	}
}
