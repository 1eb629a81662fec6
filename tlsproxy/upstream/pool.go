package upstream

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// The rule by which connections are used again; see the package's comment.
const (
	quiet     = 50 * time.Millisecond  // how long a connection is watched before it is trusted to be silent
	probation = 1000                   // how many connections must have been silent for that long
	fresh     = 500 * time.Millisecond // a request that can't be repeated goes by no connection that waited longer
	fewest    = 8                      // connections that may always wait
	most      = 512                    // connections that may wait
)

// Owner is on whose behalf a connection is used. Nobody else ever uses it again.
type Owner struct {
	Caller    *Caller // nil: the connection is not used again
	Via, User string  // method and name; empty: nobody known
	Client    netip.Addr
}

// Caller is a client's connection, as long as it lives. The zero value is ready.
type Caller struct {
	waiting *conn // the newest of those that it may use again; guarded by pool.mu
	gone    bool  // likewise
}

// conn is a connection to the application.
type conn struct {
	net.Conn
	*eye
	sever    func()    // closes it; made once, and not for each exchange
	deadline time.Time // of reading, as it was set last
	used     bool      // it has brought an answer
	kind     kind      // of that answer

	// Of pool, and guarded by its mutex while the connection waits.
	owner        Owner
	since        time.Time // it waits since then
	atOnce       bool      // its owner may use it before it was watched
	watched      bool      // it was seen silent after quiet
	older, newer *conn     // among all that wait
	left, right  *conn     // among those of its caller
}

func newConn(c net.Conn, o Owner) *conn {
	return &conn{Conn: c, eye: newEye(c), owner: o, sever: func() { _ = c.Close() }} // nothing is lost with it
}

// kind is of what kind an answer was. Applications that send more than their
// answer do so with one or the other.
type kind uint8

const (
	withLength kind = iota
	withChunks
	toHead
	noContent
	notModified
	kinds // how many there are
)

var faults = [kinds]string{
	withLength:  "bytes beyond Content-Length",
	withChunks:  "bytes behind the last chunk",
	toHead:      "a body in the answer to HEAD",
	noContent:   "a body with status 204",
	notModified: "a body with status 304",
}

// pool keeps connections for their owners.
type pool struct {
	mu             sync.Mutex
	oldest, newest *conn
	waiting        int
	inUse, busiest int         // now, and at a time during the last moments
	silent         int         // connections that were seen silent, up to probation
	faulty         [kinds]bool // answers of this kind end their connection
	closed         bool
	watching       bool // the timer is set
	timer          *time.Timer

	idle time.Duration // how long a connection may wait
	warn func(fault string)
	now  func() time.Time
	// after calls watch once, so much later.
	after func(time.Duration)
}

func (p *pool) init(idle time.Duration, warn func(fault string)) {
	p.idle, p.warn, p.now = idle, warn, time.Now
	p.after = func(d time.Duration) {
		if p.timer == nil {
			p.timer = time.AfterFunc(d, p.watch)
		} else {
			p.timer.Reset(d)
		}
	}
}

// take finds a connection that the owner may use again. nil: there is none, and
// one that is dialled instead is counted by began.
func (p *pool) take(o Owner, repeatable bool, now time.Time) *conn {
	for {
		c := p.pick(o, repeatable, now)
		if c == nil {
			return nil
		}
		s := c.look()
		if s == silent && c.watched {
			return c
		}
		p.mu.Lock()
		fault := p.concludeLocked(c, s, now)
		p.mu.Unlock()
		p.tell(fault)
		if s == silent {
			return c
		}
		p.drop(c)
	}
}

// pick takes the owner's newest connection that will do out of those that wait.
func (p *pool) pick(o Owner, repeatable bool, now time.Time) *conn {
	if o.Caller == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := o.Caller.waiting; c != nil; c = c.right {
		waited := now.Sub(c.since)
		early := waited < quiet && !(c.atOnce && p.silent >= probation)
		if c.owner == o && !early && !p.faulty[c.kind] && (repeatable || waited < fresh) {
			p.removeLocked(c)
			p.useLocked()
			return c
		}
	}
	return nil
}

// concludeLocked is what a look at a connection says about the application. It
// returns the fault that nobody knew of before, or "".
func (p *pool) concludeLocked(c *conn, s sight, now time.Time) (fault string) {
	switch {
	case s == surplus:
		return p.faultLocked(c.kind)
	case s == silent && !c.watched && now.Sub(c.since) >= quiet:
		c.watched = true
		p.silent = min(p.silent+1, probation)
	}
	return ""
}

// faultLocked ends the trust in answers of this kind, and puts the application
// on probation again for the others.
func (p *pool) faultLocked(k kind) (fault string) {
	known := p.faulty[k]
	p.faulty[k], p.silent = true, 0
	if known {
		return ""
	}
	return faults[k]
}

// fault is faultLocked for an answer whose connection does not wait.
func (p *pool) fault(k kind) {
	p.mu.Lock()
	fault := p.faultLocked(k)
	p.mu.Unlock()
	p.tell(fault)
}

func (p *pool) tell(fault string) {
	if fault != "" {
		p.warn(fault)
	}
}

// began counts a connection that was dialled.
func (p *pool) began() {
	p.mu.Lock()
	p.useLocked()
	p.mu.Unlock()
}

func (p *pool) useLocked() {
	p.inUse++
	p.busiest = max(p.busiest, p.inUse)
}

// drop closes a connection that was in use.
func (p *pool) drop(c *conn) {
	p.released()
	_ = c.Close() // nothing is lost with it
}

// released counts that a connection is in use no longer.
func (p *pool) released() {
	p.mu.Lock()
	p.inUse--
	p.mu.Unlock()
}

// put makes a connection wait for its owner, or closes it.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	p.inUse--
	gone := c
	if !p.closed && c.owner.Caller != nil && !c.owner.Caller.gone && !p.faulty[c.kind] {
		gone = p.makeRoomLocked(c)
	}
	if gone != c {
		c.since, c.watched = p.now(), false
		p.addLocked(c)
		if !p.watching {
			p.watching = true
			p.after(quiet)
		}
	}
	p.mu.Unlock()
	if gone != nil {
		_ = gone.Close()
	}
}

// makeRoomLocked returns which connection must be closed for c to wait, c itself
// if none of the others may; nil: none must.
func (p *pool) makeRoomLocked(c *conn) *conn {
	bound := most
	if !c.atOnce || p.silent < probation {
		bound = p.boundLocked()
	}
	switch {
	case p.waiting < bound:
		return nil
	case p.waiting < most && !p.oldest.watched:
		return c
	}
	oldest := p.oldest
	p.removeLocked(oldest)
	return oldest
}

// boundLocked is how many connections may wait for longer than a moment: an
// application may have a thread for each, and few threads.
func (p *pool) boundLocked() int { return min(max(fewest, p.busiest), most) }

// addLocked makes c the newest of all and of its caller.
func (p *pool) addLocked(c *conn) {
	p.waiting++
	c.older, c.newer = p.newest, nil
	if p.newest != nil {
		p.newest.newer = c
	} else {
		p.oldest = c
	}
	p.newest = c
	caller := c.owner.Caller
	c.left, c.right = nil, caller.waiting
	if caller.waiting != nil {
		caller.waiting.left = c
	}
	caller.waiting = c
}

func (p *pool) removeLocked(c *conn) {
	p.waiting--
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		p.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		p.newest = c.older
	}
	if c.left != nil {
		c.left.right = c.right
	} else {
		c.owner.Caller.waiting = c.right
	}
	if c.right != nil {
		c.right.left = c.left
	}
	c.older, c.newer, c.left, c.right = nil, nil, nil, nil
}
