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
//
// # Design
//
// The watches are on folders, never on files: the kubelet replaces files by
// moving a link, and a watch on a file dies with the first such move. Which
// folders matter is worked out anew before each signal, so that whoever reads
// after a signal is told of what changes from then on. The mount of a path may
// hang: such a path is polled alone, and delays the others by seconds, once.
package watch

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options configure a [Watcher]. Paths and Log are required.
type Options struct {
	// Paths are the files and folders to watch. They need not exist yet.
	// Of a folder, the entries count, not what is in folders below it.
	Paths []string
	// Poll is how often to signal without an event; 0 means 30 s.
	Poll time.Duration
	// Debounce is how long it must be quiet after an event before the signal;
	// 0 means 50 ms. Where it never is, the signal comes twice that time after
	// the first event.
	Debounce time.Duration
	Log      *slog.Logger
}

// Watcher signals its subscribers. It uses one inotify instance for all paths,
// of which a user has 128. Subscribe and Kick may be called at any time and
// concurrently; Run is called once.
type Watcher struct {
	opts Options
	open func() (*fsnotify.Watcher, error)
	add  func(*fsnotify.Watcher, string) error
	kick chan struct{}

	mu   sync.Mutex
	subs []chan struct{}

	// Run's own.
	events  *fsnotify.Watcher // nil while there is none: polling only
	scope   scope             // what events matches the watches of events
	polling bool              // and said so
	failure error             // of the last arming
	hanging map[string]bool   // paths that were left behind
	back    chan string       // a path has answered after all
}

// New returns a watcher that does nothing until Run.
func New(o Options) *Watcher {
	o.Poll = cmp.Or(o.Poll, 30*time.Second)
	o.Debounce = cmp.Or(o.Debounce, 50*time.Millisecond)
	return &Watcher{opts: o, open: fsnotify.NewWatcher, add: (*fsnotify.Watcher).Add, kick: make(chan struct{}, 1),
		hanging: map[string]bool{}, back: make(chan string)}
}

// Subscribe returns a channel that holds a signal while something may have
// changed since the last receive. Signals coalesce; a slow reader blocks
// nobody. Who subscribes before Run gets a first signal as soon as changes are
// noticed, for what changed between its own first reading and then. The
// channel is never closed.
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
	quiet := newDebounce(w.opts.Debounce)
	defer quiet.timer.Stop()
	defer w.closeEvents()
	w.refresh(ctx)
	for {
		events, failures := w.channels()
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				w.closeEvents()
			}
			if !ok || w.scope.matters(e.Name) {
				quiet.event()
			}
		case err := <-failures:
			w.failed(err)
			quiet.event()
		case <-quiet.timer.C:
			quiet.over()
			w.refresh(ctx)
		case path := <-w.back:
			delete(w.hanging, path)
			w.refresh(ctx)
		case <-w.kick:
			w.refresh(ctx)
		case <-poll.C:
			w.refresh(ctx)
		}
	}
}

// refresh puts the watches first and signals then: what changes while a
// subscriber reads is an event again.
func (w *Watcher) refresh(ctx context.Context) {
	w.arm(ctx)
	w.signal()
}

// channels are nil, and so never ready, while there is no inotify.
func (w *Watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.events == nil {
		return nil, nil
	}
	return w.events.Events, w.events.Errors
}

// failed is told what the events' own channel can't say. After an overflow
// events are missing and the rest goes on. Whatever else (nil: the channel was
// closed) may come again without end, so that watcher is given up; arm opens another.
func (w *Watcher) failed(err error) {
	if errors.Is(err, fsnotify.ErrEventOverflow) {
		return
	}
	w.opts.Log.Debug("file events ended", "err", err)
	w.closeEvents()
}

func (w *Watcher) closeEvents() {
	if w.events != nil {
		_ = w.events.Close() // nothing is left to lose
		w.events = nil
	}
}

// armed is told how arming went, and says what has changed about that.
func (w *Watcher) armed(err error) {
	w.failure = err
	if err != nil {
		if !w.polling {
			w.opts.Log.Warn("no file events, polling instead (limits: fs.inotify.max_user_instances, fs.inotify.max_user_watches)",
				"err", err, "every", w.opts.Poll.String())
		}
		w.polling = true
		return
	}
	if w.polling {
		w.opts.Log.Info("file events work again")
	}
	w.polling = false
}

// debounce makes one tick of many events.
type debounce struct {
	timer *time.Timer
	quiet time.Duration
	first time.Time // when the first event of this batch came; zero: none yet
}

func newDebounce(quiet time.Duration) *debounce {
	timer := time.NewTimer(0)
	timer.Stop()
	return &debounce{timer: timer, quiet: quiet}
}

// event postpones the tick, though not for ever: a storm can't hold it up.
func (d *debounce) event() {
	if d.first.IsZero() {
		d.first = time.Now()
	}
	d.timer.Reset(min(d.quiet, time.Until(d.first.Add(2*d.quiet))))
}

// over begins the next batch.
func (d *debounce) over() { d.first = time.Time{} }
