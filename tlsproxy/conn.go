package tlsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sidegate/policy"
	"sidegate/tlsproxy/upstream"
)

// conn is one accepted connection, below TLS. It counts what goes over the
// wire and keeps what is known about its other end. After the handshake the
// fields above the counters are only read.
type conn struct {
	net.Conn
	remote     netip.Addr   // zero on a unix socket
	remoteText string       // for logs and headers; "unix" on a unix socket
	serverName string       // SNI, canonical
	peer       *policy.Peer // nil: no client certificate
	certUser   *policy.User // whom the client certificate proves; nil: nobody
	peerName   string       // peer as logs call it
	peerFields map[string]string
	chain      []*x509.Certificate // as the client sent it; empty: none
	root       *RootStatus         // by whom it is believed; nil: there is no peer
	tls        *tls.Conn           // above this one; nil at a plaintext gate
	cameBack   func() bool         // it is one of ours to an upstream; asked when a request has come

	received  atomic.Int64                 // bytes from the client, TLS included
	shed      atomic.Bool                  // it gave way to another handshake
	writeIdle time.Duration                // how long a write may wait for the client
	writeEnd  atomic.Int64                 // unix nanoseconds: the write deadline that is set
	parsing   atomic.Bool                  // HTTP/1.1: no exchange is open, the next request is read
	upgraded  atomic.Bool                  // it is being handed over to another protocol
	stream    atomic.Pointer[upgradedConn] // nil: not handed over yet
	active    atomic.Int64                 // requests in flight
	caller    upstream.Caller              // as the application's client knows it
	ended     atomic.Pointer[policy.Reason]
	expiry    atomic.Pointer[time.Timer] // verifies the peer again when a certificate of its chain ends
	closed    atomic.Bool
	closeOnce sync.Once
	onClose   func()

	mu      sync.Mutex
	allowed *exchange // the requests that were allowed and have not ended, a linked list
	last    question  // of an HTTP/1.1 connection: what it asked last; zero: unknown
}

func newConn(c net.Conn, onClose func()) *conn {
	remote := addrOf(c.RemoteAddr())
	remoteText := "unix"
	if remote.IsValid() {
		remoteText = remote.String()
	}
	return &conn{Conn: c, remote: remote, remoteText: remoteText, onClose: onClose}
}

// addrOf is the address in the one form in which it is compared. A network never
// contains an address with a zone.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// Write lets a client that takes nothing hold the connection for writeIdle at
// most. The deadline rolls in coarse steps: setting it costs more than the
// write of a small answer.
func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	if end := now.Add(c.writeIdle); c.writeEnd.Load() < end.Add(-c.writeIdle/4).UnixNano() {
		if err := c.Conn.SetWriteDeadline(end); err != nil {
			return 0, err
		}
		c.writeEnd.Store(end.UnixNano())
	}
	return c.Conn.Write(p)
}

// SetDeadline and SetWriteDeadline are what net/http and crypto/tls use. A
// deadline that they set is not replaced by Write's.
func (c *conn) SetDeadline(t time.Time) error {
	c.keepDeadline(t)
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.keepDeadline(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) keepDeadline(t time.Time) {
	if t.IsZero() {
		c.writeEnd.Store(0)
	} else {
		c.writeEnd.Store(math.MaxInt64)
	}
}

// CloseWrite lets crypto/tls and the upgrade path half-close.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// Close closes the connection and gives its places in the limits back, once.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closeOnce.Do(func() {
		c.closed.Store(true)
		if t := c.expiry.Load(); t != nil {
			t.Stop()
		}
		c.onClose()
	})
	return err
}

// wakeAt calls do right after that time, unless the connection is closed by
// then, instead of what was to be done at another time. Zero: never.
func (c *conn) wakeAt(at time.Time, do func()) {
	var next *time.Timer
	if !at.IsZero() {
		const after = time.Millisecond // a certificate is good at its very end
		next = time.AfterFunc(time.Until(at)+after, do)
	}
	if before := c.expiry.Swap(next); before != nil {
		before.Stop()
	}
	if c.closed.Load() && next != nil { // Close may have seen the one before
		next.Stop()
	}
}

// shut closes the connection as TLS does, with close_notify where no write is
// in the way.
func (c *conn) shut() {
	if c.tls == nil {
		_ = c.Close() // it may be closed already
		return
	}
	_ = c.tls.Close() // likewise
}

// cut closes the connection so that nothing more is said by it, close_notify
// neither: its client must not take what it has for all.
func (c *conn) cut() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it may be closed already
	}
	_ = c.Close() // likewise
}

// goodbye begins to end an upgraded connection, where its protocol knows how.
func (c *conn) goodbye(code uint16) {
	if s := c.stream.Load(); s != nil {
		go s.goodbye(code)
	}
}

// learn takes from a finished handshake what requests will need. It returns how
// the peer is verified now.
func (c *conn) learn(state *tls.ConnectionState, g *gate) (p peerVerdict) {
	c.serverName = strings.ToLower(strings.TrimSuffix(state.ServerName, "."))
	c.chain = state.PeerCertificates
	if len(state.PeerCertificates) == 0 {
		return p
	}
	c.peer = policy.NewPeer(state.PeerCertificates[0])
	c.peer.Federated = g.Trust.Federated(state.PeerCertificates[0])
	c.certUser = g.CertUser.Of(c.peer)
	c.peerName = c.peer.Name()
	p = g.verifyPeer(c)
	if p.err == nil { // else it will end: it was verified a moment ago
		c.peerFields = peerFields(c.peer, p.chain, g.Headers.PeerHeaders)
		c.root = g.roots.enter(p.chain[len(p.chain)-1])
	}
	return p
}

// live is the table of a gate's live connections: registered after the
// handshake and before the first decision, removed when closed.
type live struct {
	mu    sync.Mutex
	conns map[*conn]struct{}
	empty chan struct{} // closed when the last upgraded connection has gone, made by wait
}

func (l *live) add(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = make(map[*conn]struct{})
	}
	l.conns[c] = struct{}{}
}

func (l *live) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.empty != nil && len(l.upgradedLocked()) == 0 {
		close(l.empty)
		l.empty = nil
	}
}

// busy counts the connections by which a request is in flight.
func (l *live) busy() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for c := range l.conns {
		if c.active.Load() > 0 {
			n++
		}
	}
	return n
}

// all returns every connection.
func (l *live) all() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.conns))
}

// withPeer returns the connections whose other end showed a certificate.
func (l *live) withPeer() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*conn
	for c := range l.conns {
		if len(c.chain) > 0 {
			list = append(list, c)
		}
	}
	return list
}

func (l *live) upgradedLocked() []*conn {
	var list []*conn
	for c := range l.conns {
		if c.upgraded.Load() {
			list = append(list, c)
		}
	}
	return list
}

// waitUpgraded waits until no upgraded connection is left, which
// http.Server.Shutdown does not do, or ctx ends. It returns those that are.
func (l *live) waitUpgraded(ctx context.Context) []*conn {
	l.mu.Lock()
	left := l.upgradedLocked()
	if len(left) == 0 {
		l.mu.Unlock()
		return nil
	}
	gone := make(chan struct{})
	l.empty = gone
	l.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.empty = nil
	return l.upgradedLocked()
}
