package watch

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// patience is how long a path may take to be looked at. One that takes longer
// has no events, and polling serves, until it has answered.
const patience = 2 * time.Second

// arming puts a watch on every folder in which a change could matter, on a
// goroutine of its own: the path of a mount that hangs is left behind with it,
// and with the inotify instance, whose lock it may hold.
type arming struct {
	add    func(*fsnotify.Watcher, string) error
	events *fsnotify.Watcher
	paths  []string
	scopes []scope // by path
	at     atomic.Int64
	ended  chan struct{}
	err    error // why there can be no events, or not all; read once ended
}

// arm looks at all paths that don't hang, again without each that does.
func (w *Watcher) arm(ctx context.Context) {
	for {
		a, err := w.newArming()
		if err != nil {
			w.armed(err)
			return
		}
		go a.run()
		late := time.NewTimer(patience)
		select {
		case <-a.ended:
			late.Stop()
			w.scope = a.scope()
			w.armed(a.err)
			return
		case <-late.C:
			w.leaveBehind(ctx, a)
		case <-ctx.Done():
			late.Stop()
			w.leaveBehind(ctx, a)
			return
		}
	}
}

func (w *Watcher) newArming() (*arming, error) {
	if w.events == nil {
		events, err := w.open()
		if err != nil {
			return nil, err
		}
		w.events = events
	}
	a := &arming{add: w.add, events: w.events, ended: make(chan struct{})}
	for _, path := range w.opts.Paths {
		if !w.hanging[path] {
			a.paths = append(a.paths, path)
		}
	}
	return a, nil
}

// leaveBehind gives up the path that a looks at, and tells when it has
// answered. Each path has one goroutine that waits for it, at most.
func (w *Watcher) leaveBehind(ctx context.Context, a *arming) {
	if len(a.paths) == 0 {
		return
	}
	path, events := a.paths[a.at.Load()], w.events
	w.events, w.hanging[path] = nil, true
	w.opts.Log.Debug("a path does not answer, polling it", "source", path)
	go func() {
		<-a.ended
		_ = events.Close() // nothing is left to lose
		select {
		case w.back <- path:
		case <-ctx.Done():
		}
	}()
}

// armRounds bounds how often an arming looks again for links that moved
// meanwhile. The next event or poll looks again anyway.
const armRounds = 4

func (a *arming) run() {
	defer close(a.ended)
	for range armRounds {
		a.look()
		before := a.dropOthers()
		added := false
		if added, a.err = a.addAll(before); a.err != nil || !added {
			return
		}
		// A link may have moved after it was read and before the folder that
		// holds it was watched: read once more.
	}
}

// look finds out where the paths lead now.
func (a *arming) look() {
	a.scopes = a.scopes[:0]
	for i, path := range a.paths {
		a.at.Store(int64(i))
		a.scopes = append(a.scopes, newScope([]string{path}))
	}
}

// scope is that of all paths together.
func (a *arming) scope() scope {
	all := scope{}
	for _, one := range a.scopes {
		all.join(one)
	}
	return all
}

// dropOthers ends the watches that no path needs any more and returns the rest.
func (a *arming) dropOthers() map[string]bool {
	kept, wanted := map[string]bool{}, a.scope()
	for _, dir := range a.events.WatchList() {
		if wanted[dir] == nil {
			_ = a.events.Remove(dir) // it may be gone already
			continue
		}
		kept[dir] = true
	}
	return kept
}

// addAll watches every folder of the scopes, also those that were watched
// before: another folder may bear the name now. added says that one was not.
func (a *arming) addAll(before map[string]bool) (added bool, err error) {
	for i, one := range a.scopes {
		a.at.Store(int64(i))
		for dir := range one {
			err := a.add(a.events, dir)
			switch {
			case err == nil:
				added = added || !before[dir]
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, fsnotify.ErrClosed):
				// Removed since it was found, not ours to read (the poll serves),
				// or closed, which the channels tell.
			default:
				return added, err
			}
		}
	}
	return added, nil
}
