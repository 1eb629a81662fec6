package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ErrHangs is why a unix socket could not be used whose mount does not answer.
var ErrHangs = errors.New("it does not answer; does its mount (NFS, FUSE) hang?")

// maxTouching is how many calls may wait for one path. Each that hangs keeps a
// thread, which nobody can end, and a process with too many of them dies.
const maxTouching = 8

// touching has a channel for each path, which holds a value for each call. It
// is one variable of the package since what hangs is the kernel's to say.
var touching sync.Map

// Touch returns what do does, which may wait for the mount of that path, such
// as to connect to a unix socket. When ctx ends before, do is left behind, and
// what it returns is closed.
func Touch[T any](ctx context.Context, path string, do func() (T, error)) (v T, err error) {
	type answered struct {
		value T
		err   error
	}
	entry, _ := touching.LoadOrStore(path, make(chan struct{}, maxTouching))
	place, _ := entry.(chan struct{})
	select {
	case place <- struct{}{}:
	case <-ctx.Done():
		return v, hangs(ctx, path)
	}
	done := make(chan answered, 1)
	go func() {
		defer func() { <-place }()
		v, err := do()
		done <- answered{v, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
	}
	go func() {
		if c, ok := any((<-done).value).(io.Closer); ok {
			_ = c.Close() // nobody has it
		}
	}()
	return v, hangs(ctx, path)
}

// hangs is why nobody waits any longer.
func hangs(ctx context.Context, path string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w", path, ErrHangs)
}
