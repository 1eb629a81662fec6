package tlsproxy

import (
	"math"
	"net"
	"net/http"
	"sync"
	"time"
)

// parting is how long a connection whose last words are said may still take
// to end as TLS does.
const parting = 250 * time.Millisecond

// writeLimit is the write deadline of a connection. crypto/tls and net/http
// set theirs through it, and can't make it later than the end that the gate has set.
type writeLimit struct {
	mu  sync.Mutex
	end time.Time // zero: the connection may stay
}

// set is net.Conn's SetWriteDeadline, with the end in mind.
func (l *writeLimit) set(c net.Conn, t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.end.IsZero() && (t.IsZero() || t.After(l.end)) {
		t = l.end
	}
	return c.SetWriteDeadline(t)
}

// bound sets the end. An earlier one that was set before stays. An error means
// that the connection has gone.
func (l *writeLimit) bound(c net.Conn, end time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end.IsZero() || end.Before(l.end) {
		l.end = end
		_ = c.SetWriteDeadline(end)
	}
}

// started is what deadlines are counted from. By the time of day, a clock that
// is set back would keep one from being renewed, and end who reads well.
var started = time.Now()

// Write lets a client that takes nothing hold the connection for writeIdle at
// most. The deadline rolls in coarse steps: setting it costs more than the
// write of a small answer.
func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	if end := now.Add(c.writeIdle); c.writeEnd.Load() < int64(end.Sub(started)-c.writeIdle/4) {
		if err := c.limit.set(c.Conn, end); err != nil {
			return 0, err
		}
		c.writeEnd.Store(int64(end.Sub(started)))
	}
	c.settle()
	c.writing.Add(1)
	n, err := c.Conn.Write(p)
	c.writing.Add(-1)
	c.wrote.Add(1)
	return n, err
}

// SetDeadline and SetWriteDeadline are what net/http and crypto/tls use. A
// deadline that they set is not replaced by Write's.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.writeEnd.Store(0)
	} else {
		c.writeEnd.Store(math.MaxInt64)
	}
	return c.limit.set(c.Conn, t)
}

// hangUp ends the connection and does not wait for the client: its writes end
// within that time, and then its socket is closed. close_notify goes out where
// no write is in the way. tls.Conn.Close waits for a write that is under way,
// and that may be the answer to a KeyUpdate of a client that reads nothing.
func (c *conn) hangUp(within time.Duration) {
	if c.tls == nil {
		_ = c.Close() // it may be closed already
		return
	}
	c.limit.bound(c.Conn, time.Now().Add(within))
	c.closeIn(within)
	go func() { _ = c.tls.Close() }() // likewise
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

// register makes the connection one of the gate's live ones, unless it was
// closed meanwhile, as a handshake that gave way to another. Then it holds
// nothing that nobody would give back.
func (c *conn) register(g *gate, p peerVerdict) bool {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed {
		return false
	}
	if p.err == nil && len(p.chain) > 0 {
		c.root = g.roots.enter(p.chain[len(p.chain)-1])
	}
	g.live.add(c)
	c.greeted.Store(true)
	c.begins()
	return true
}

// Close closes the socket and gives back, once, what the connection holds.
func (c *conn) Close() error {
	err := c.Conn.Close()
	if c.end() {
		c.onClose()
		c.abandon()
	}
	return err
}

// end notes that the connection is closed, behind which it gets nothing that
// would have to be given back. It reports whether this is the first time.
func (c *conn) end() bool {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed {
		return false
	}
	c.closed = true
	if c.expiry != nil {
		c.expiry()
	}
	if c.parting != nil {
		c.parting.Stop() // it would keep all that the connection holds
	}
	return true
}

// abandon cancels at the application what came by the connection. An upload
// that the application does not read would not notice.
func (c *conn) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for x := c.allowed; x != nil; x = x.next {
		x.abort()
	}
}

// closeIn closes the socket after that time, unless it is closed by then.
func (c *conn) closeIn(d time.Duration) {
	c.life.Lock()
	defer c.life.Unlock()
	if !c.closed && c.parting == nil {
		c.parting = time.AfterFunc(d, func() { _ = c.Close() }) // it may be closed meanwhile
	}
}

// wakeAt calls do right after that time of day, unless the connection is closed
// by then, instead of what was to be done at another time. Zero: never.
func (c *conn) wakeAt(clock Clock, at time.Time, do func()) {
	c.life.Lock()
	defer c.life.Unlock()
	if c.expiry != nil {
		c.expiry()
		c.expiry = nil
	}
	if !at.IsZero() && !c.closed {
		const after = time.Millisecond // a certificate is good at its very end
		c.expiry = clock.At(at.Add(after), do)
	}
}

// noteState learns from net/http whether a request is under way or the
// connection waits for the next. When it does, the answer is on the way.
func noteState(c net.Conn, state http.ConnState) {
	under := below(c)
	under.begins()
	under.waits.Store(state == http.StateIdle)
	if state == http.StateIdle {
		under.parsing.Store(true)
		under.exempt.Store(false)
	}
}
