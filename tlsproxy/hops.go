package tlsproxy

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

// hops knows both ends of the connections that are open to upstreams. A
// connection that a gate accepts from the near end of one of them carries
// requests of our own that have come back, each of which would make another
// connection, without end.
//
// # Design
//
// A field such as Via would be written by clients too, and is dropped by some
// servers in between. The ends of a connection are the kernel's to tell.
type hops struct {
	mu   sync.Mutex
	open map[way]int
	unix atomic.Int64 // open ones to unix sockets, whose near ends have no name
}

// way is a connection by its ends. far is zero where it may be rewritten on the
// way, as kube-proxy does with the address of a Service.
type way struct{ near, far netip.AddrPort }

// out notes a connection to an upstream until it is closed. It is called
// before the first byte is sent, so that whoever reads one finds it noted.
// closed is called once the connection is.
func (h *hops) out(c net.Conn, closed func()) net.Conn {
	if c.RemoteAddr().Network() == "unix" {
		h.unix.Add(1)
		return &outgoing{Conn: c, gone: sync.OnceFunc(func() { h.unix.Add(-1) }), closed: sync.OnceFunc(closed)}
	}
	to := way{endOf(c.LocalAddr()), endOf(c.RemoteAddr())}
	if !to.far.Addr().IsLoopback() {
		to.far = netip.AddrPort{}
	}
	h.count(to, +1)
	return &outgoing{Conn: c, gone: sync.OnceFunc(func() { h.count(to, -1) }), closed: sync.OnceFunc(closed)}
}

func (h *hops) count(w way, delta int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		h.open = map[way]int{}
	}
	if h.open[w] += delta; h.open[w] == 0 {
		delete(h.open, w)
	}
}

// cameBack reports whether an accepted connection is one of our own. It is
// asked when a request has been read: before, the other side may not have
// noted it yet.
func (h *hops) cameBack(c net.Conn) bool {
	if c.RemoteAddr().Network() == "unix" {
		return h.unix.Load() > 0 && isOwnProcess(c)
	}
	near := endOf(c.RemoteAddr())
	h.mu.Lock()
	defer h.mu.Unlock()
	// The near end alone is not enough on loopback: the kernel gives the same
	// port to connections of other processes that lead elsewhere.
	return h.open[way{near, endOf(c.LocalAddr())}] > 0 || h.open[way{near: near}] > 0
}

// endOf is one end of a TCP connection; zero: it is none.
func endOf(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	end := tcp.AddrPort()
	return netip.AddrPortFrom(end.Addr().Unmap(), end.Port())
}

// outgoing is a connection to an upstream.
type outgoing struct {
	net.Conn
	gone, closed func()
}

// SyscallConn lets the upstream's client look whether something has come.
func (o *outgoing) SyscallConn() (syscall.RawConn, error) {
	if sys, ok := o.Conn.(syscall.Conn); ok {
		return sys.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite lets the upgrade path half-close.
func (o *outgoing) CloseWrite() error {
	if half, ok := o.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// Close closes the connection, after which its near end may be anybody's.
func (o *outgoing) Close() error {
	o.gone()
	err := o.Conn.Close()
	o.closed()
	return err
}
