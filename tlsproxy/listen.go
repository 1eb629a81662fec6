package tlsproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"sidegate/tlsproxy/upstream"
)

const (
	// mountPatience is how long the mount of a unix socket may take to answer
	// before a gate can't listen there.
	mountPatience = 30 * time.Second
	// unlinkPatience is the same when a gate closes. What hangs then leaves a
	// stale socket, over which the next start takes.
	unlinkPatience = 250 * time.Millisecond
)

// listen binds, taking over a unix socket that a killed process left behind.
func listen(a Address) (net.Listener, error) {
	if a.Network != "unix" {
		return net.Listen(a.Network, a.Address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), mountPatience)
	defer cancel()
	return upstream.Touch(ctx, a.Address, func() (net.Listener, error) { return listenUnix(a.Address) })
}

func listenUnix(path string) (net.Listener, error) {
	if err := removeStaleSocket(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would wait for a mount that hangs
	return &socket{UnixListener: l, path: path}, nil
}

func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return fmt.Errorf("%s is in use by another process", path)
	}
	return os.Remove(path)
}

// socket is a unix listener whose end does not wait for its mount.
type socket struct {
	*net.UnixListener
	path   string
	unlink sync.Once
}

// Close implements net.Listener. The path goes before the listener does: behind
// it another process may have taken the path over.
func (s *socket) Close() error {
	s.unlink.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), unlinkPatience)
		defer cancel()
		_, _ = upstream.Touch(ctx, s.path, func() (struct{}, error) { return struct{}{}, os.Remove(s.path) }) // it may be gone
	})
	return s.UnixListener.Close()
}
