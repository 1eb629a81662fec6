package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Patience is how long a mount may take to answer. What takes longer hangs: it
// is an error that names the path, and is asked for again once it has answered.
const Patience = 30 * time.Second

// ErrHangs is why a path could not be read whose mount does not answer.
var ErrHangs = errors.New("it does not answer; does its mount (NFS, FUSE) hang?")

// mounts are those of the process. They are one variable of the package since
// what hangs is the kernel's to say, whoever asks: no call by whatever way may
// add another thread that waits for the same mount.
var mounts disk

// disk knows which paths hang. A call that hangs can't be ended, so it is left
// behind, and until it ends every other one to the path fails at once.
type disk struct {
	mu      sync.Mutex
	hanging map[string]int // calls left behind
}

// hangs reports whether a call to the path, or to a folder above it, was left
// behind.
func (d *disk) hangs(path string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range d.hanging {
		if within(path, p) {
			return true
		}
	}
	return false
}

func (d *disk) count(path string, delta int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hanging == nil {
		d.hanging = map[string]int{}
	}
	if d.hanging[path] += delta; d.hanging[path] == 0 {
		delete(d.hanging, path)
	}
}

// answer is what ask returns, which touches the path, or ErrHangs after the
// patience or when ctx ends.
func answer[T any](ctx context.Context, d *disk, patience time.Duration, path string, ask func() (T, error)) (v T, err error) {
	type answered struct {
		value T
		err   error
	}
	path = filepath.Clean(path)
	if d.hangs(path) {
		return v, explain(path, ErrHangs)
	}
	done := make(chan answered, 1)
	go func() {
		v, err := ask()
		done <- answered{v, err}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case a := <-done:
		return a.value, a.err
	case <-late.C:
	case <-ctx.Done():
	}
	d.count(path, +1)
	go func() {
		if c, ok := any((<-done).value).(io.Closer); ok {
			_ = c.Close() // a connection that nobody has
		}
		d.count(path, -1)
	}()
	return v, explain(path, ErrHangs)
}

// bounded is answer for calls that nobody ends earlier.
func bounded[T any](path string, ask func() (T, error)) (T, error) {
	return answer(context.Background(), &mounts, Patience, path, ask)
}

// Probe reads all paths at once and gives them that time, so that those that
// hang are known: whatever reads them then fails at once.
func Probe(ctx context.Context, patience time.Duration, paths []string) {
	var all sync.WaitGroup
	for _, path := range paths {
		all.Go(func() {
			// Whoever needs it will say what else is wrong with it.
			_, _ = answer(ctx, &mounts, patience, path, func() (map[string][]byte, error) { return Limit{}.read(path) })
		})
	}
	all.Wait()
}

// Hangs reports whether something was left behind that waits for the path.
func Hangs(path string) bool { return mounts.hangs(filepath.Clean(path)) }

// Stat is os.Stat, with [ErrHangs] for a path that does not answer.
func Stat(path string) (fs.FileInfo, error) {
	return bounded(path, func() (fs.FileInfo, error) { return os.Stat(path) })
}

// StatUntil is Stat, for which the path has until ctx ends.
func StatUntil(ctx context.Context, path string) (fs.FileInfo, error) {
	return answer(ctx, &mounts, Patience, path, func() (fs.FileInfo, error) { return os.Stat(path) })
}

// Lstat is os.Lstat, with [ErrHangs] for a path that does not answer.
func Lstat(path string) (fs.FileInfo, error) {
	return bounded(path, func() (fs.FileInfo, error) { return os.Lstat(path) })
}

// ReadDir is os.ReadDir, with [ErrHangs] for a path that does not answer.
func ReadDir(path string) ([]fs.DirEntry, error) {
	return bounded(path, func() ([]fs.DirEntry, error) { return os.ReadDir(path) })
}

// Dial connects to a unix socket until ctx ends, with [ErrHangs] for a path
// that does not answer.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	return answer(ctx, &mounts, Patience, path, func() (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
}
