// Package watch says when mounted files may have changed.
//
//	w := watch.New(watch.Options{Paths: paths, Log: log})
//	changed := w.Subscribe()
//	go w.Run(ctx)
//	for range changed { … } // read the files, compare, decide
//
// Events are only hints, and a poll comes without any: a mount that sends no
// events (NFS, subPath), an exhausted inotify and a lost event cost at most
// one poll interval. Whoever is told reads the files and compares contents.
package watch

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options configure a [Watcher]. Paths and Log are required.
type Options struct {
	// Paths are the files and folders to watch. They need not exist yet.
	Paths []string
	// Poll is how often to signal without an event; 0 means 30 s.
	Poll time.Duration
	// Debounce is how long to wait for more events after the first; 0 means 20 ms.
	Debounce time.Duration
	Log      *slog.Logger
}

// Watcher signals its subscribers. It uses one inotify instance for all paths,
// of which a user has 128.
type Watcher struct {
	opts   Options
	open   func() (*fsnotify.Watcher, error)
	kick   chan struct{}
	mu     sync.Mutex
	subs   []chan struct{}
	events *fsnotify.Watcher // nil while polling only
	warned bool
}

// New returns a watcher that does nothing until Run.
func New(o Options) *Watcher {
	if o.Poll == 0 {
		o.Poll = 30 * time.Second
	}
	if o.Debounce == 0 {
		o.Debounce = 20 * time.Millisecond
	}
	return &Watcher{opts: o, open: fsnotify.NewWatcher, kick: make(chan struct{}, 1)}
}

// Subscribe returns a channel that holds a signal while something may have
// changed since the last receive. Signals coalesce; a slow reader blocks nobody.
func (w *Watcher) Subscribe() <-chan struct{} {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs = append(w.subs, ch)
	return ch
}

// Kick signals everyone as if something had changed (SIGHUP).
func (w *Watcher) Kick() { offer(w.kick) }

func offer(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (w *Watcher) signal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.subs {
		offer(ch)
	}
}

// Run watches until ctx ends. It returns nil.
func (w *Watcher) Run(ctx context.Context) error {
	poll := time.NewTicker(w.opts.Poll)
	defer poll.Stop()
	settle := time.NewTimer(0)
	settle.Stop()
	defer settle.Stop()
	defer w.closeEvents()
	waiting := false
	w.arm()
	for {
		events, failures := w.channels()
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-events:
			w.lost(ok)
			if !waiting { // counted from the first event, so that a storm can't postpone it
				waiting = true
				settle.Reset(w.opts.Debounce)
			}
		case err, ok := <-failures:
			w.lost(ok)
			if ok && !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.opts.Log.Debug("file watch", "err", err)
			}
			w.signal() // an overflow means that events are missing
		case <-settle.C:
			waiting = false
			w.arm()
			w.signal()
		case <-w.kick:
			w.signal()
		case <-poll.C:
			w.arm()
			w.signal()
		}
	}
}

// channels are nil, and so never ready, while there is no inotify.
func (w *Watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.events == nil {
		return nil, nil
	}
	return w.events.Events, w.events.Errors
}

// lost forgets a watcher whose channels were closed; arm makes another.
func (w *Watcher) lost(ok bool) {
	if !ok {
		w.closeEvents()
	}
}

func (w *Watcher) closeEvents() {
	if w.events != nil {
		_ = w.events.Close() // nothing is left to lose
		w.events = nil
	}
}

// arm puts a watch on every directory in which a change could matter. Doing
// so again is how folders that were removed and made anew are followed.
func (w *Watcher) arm() {
	if w.events == nil {
		events, err := w.open()
		if err != nil {
			w.pollOnly(err)
			return
		}
		w.events = events
	}
	for dir := range w.directories() {
		if err := w.events.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			w.pollOnly(err)
			return
		}
	}
	w.warned = false
}

// pollOnly says once that events can't be had.
func (w *Watcher) pollOnly(err error) {
	if !w.warned {
		w.opts.Log.Warn("no file events, polling instead (limits: fs.inotify.max_user_instances, fs.inotify.max_user_watches)",
			"err", err, "every", w.opts.Poll.String())
	}
	w.warned = true
}

// directories are the folders themselves, their parents (a folder may be
// removed and made again), and wherever a link on the way is kept.
func (w *Watcher) directories() map[string]bool {
	dirs := map[string]bool{}
	for _, p := range w.opts.Paths {
		if abs, err := filepath.Abs(p); err == nil {
			p = abs
		}
		addPath(dirs, p, 0)
		if entries, err := os.ReadDir(p); err == nil {
			dirs[p] = true
			for _, e := range entries {
				if e.Type()&fs.ModeSymlink != 0 {
					addPath(dirs, filepath.Join(p, e.Name()), 0)
				}
			}
		}
	}
	return dirs
}

// maxLinks ends a walk through links that point at each other.
const maxLinks = 16

// addPath adds the parent of path and of every link on the way to its end.
func addPath(dirs map[string]bool, path string, depth int) {
	if depth > maxLinks {
		return
	}
	for p := path; ; p = filepath.Dir(p) {
		parent := filepath.Dir(p)
		if parent == p {
			return
		}
		target, err := os.Readlink(p)
		if p == path || err == nil {
			dirs[parent] = true
		}
		if err == nil {
			if !filepath.IsAbs(target) {
				target = filepath.Join(parent, target)
			}
			addPath(dirs, filepath.Join(target, path[len(p):]), depth+1)
		}
	}
}
