package tlsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
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
	hello     atomic.Bool                  // its client has said hello
	shed      atomic.Bool                  // it gave way to another handshake
	writeIdle time.Duration                // how long a write may wait for the client
	writeEnd  atomic.Int64                 // nanoseconds after started: the write deadline that is set
	limit     writeLimit                   // of every write deadline
	writing   atomic.Int32                 // writes under way
	wrote     atomic.Uint64                // writes that have ended
	parsing   atomic.Bool                  // HTTP/1.1: no exchange is open, the next request is read
	upgraded  atomic.Bool                  // it is being handed over to another protocol
	stream    atomic.Pointer[upgradedConn] // nil: not handed over yet
	active    atomic.Int64                 // requests in flight
	caller    upstream.Caller              // as the application's client knows it
	client    *presence                    // of HTTP/1.1; nil: net/http alone sees to it
	waits     atomic.Bool                  // net/http has sent its answers, and waits for the next request
	ended     atomic.Pointer[policy.Reason]
	onClose   func()
	account

	life    sync.Mutex
	closed  bool
	expiry  func() bool // stops the alarm that verifies the peer again when a certificate of its chain ends; nil: none is set
	parting *time.Timer // closes the socket of a connection that was hung up

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
	under := &conn{Conn: c, remote: remote, remoteText: remoteText, onClose: onClose}
	under.begins()
	return under
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
	if grown := c.grows(len(p)); grown != nil {
		return 0, grown
	}
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	if paid := c.came(n); paid != nil {
		return 0, paid
	}
	return n, err
}

// CloseWrite lets crypto/tls and the upgrade path half-close.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// learn takes from a finished handshake what requests will need. It returns how
// the peer is verified now, with a chain if it is believed.
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
	}
	return p
}

// live is the table of a gate's live connections: registered after the
// handshake and before the first decision, removed when closed.
type live struct {
	mu    sync.Mutex
	conns map[*conn]struct{}
	gone  chan struct{} // closed when the next connection goes; nil: nobody waits for it
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
	if l.gone != nil {
		close(l.gone)
		l.gone = nil
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
	return l.kindLocked(func(c *conn) bool { return len(c.chain) > 0 })
}

// until waits until no connection of that kind is left, or ctx ends. It
// returns those that are.
func (l *live) until(ctx context.Context, kind func(*conn) bool) []*conn {
	for {
		left, gone := l.left(kind)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return left
		}
	}
}

// left returns the connections of a kind, and a channel that is closed when one
// of any kind goes.
func (l *live) left(kind func(*conn) bool) ([]*conn, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone == nil {
		l.gone = make(chan struct{})
	}
	return l.kindLocked(kind), l.gone
}

func isUpgraded(c *conn) bool { return c.upgraded.Load() }

func isAny(*conn) bool { return true }

func (l *live) kindLocked(kind func(*conn) bool) []*conn {
	var list []*conn
	for c := range l.conns {
		if kind(c) {
			list = append(list, c)
		}
	}
	return list
}
