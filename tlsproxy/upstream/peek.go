package upstream

import (
	"bytes"
	"net"
	"syscall"
)

// sight is what a look at a waiting connection finds.
type sight uint8

const (
	silent  sight = iota
	ended         // the application has closed it, or it is broken
	surplus       // it has said what nobody asked for
)

// eye looks at what has come by a connection without taking it and without
// waiting. It is made once a connection, so that a look allocates nothing.
type eye struct {
	raw  syscall.RawConn // nil: there is no way to look
	peek func(fd uintptr)
	n    int
	err  error
	head [12]byte // of what is there
}

func newEye(c net.Conn) *eye {
	e := &eye{}
	if sys, ok := c.(syscall.Conn); ok {
		e.raw, _ = sys.SyscallConn() // an error leaves no way to look
	}
	e.peek = func(fd uintptr) {
		for e.err = syscall.EINTR; e.err == syscall.EINTR; {
			e.n, _, e.err = syscall.Recvfrom(int(fd), e.head[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		}
	}
	return e
}

// look must not be called by two at a time.
func (e *eye) look() sight {
	if e.raw == nil || e.raw.Control(e.peek) != nil {
		return ended
	}
	switch {
	case e.err == syscall.EAGAIN:
		return silent
	case e.err != nil || e.n == 0 || isTimeoutNotice(e.head[:e.n]):
		return ended
	}
	return surplus
}

// isTimeoutNotice reports whether the bytes begin an answer 408, which some
// servers send before they close a connection that nobody uses.
func isTimeoutNotice(b []byte) bool {
	return bytes.Equal(b, []byte("HTTP/1.1 408")) || bytes.Equal(b, []byte("HTTP/1.0 408"))
}
