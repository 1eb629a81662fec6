package tlsproxy

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Limits bound what clients can hold. A zero field has the default it names.
type Limits struct {
	Memory          int64         // bytes that connections and requests may hold, all gates together; 0: any number
	Connections     int           // open at a time, all gates together; 10,000
	Upstreams       int           // connections to applications at a time, all gates together; 0: any number
	Handshakes      int           // in progress at a time, all gates together; 1,000
	Handshake       time.Duration // for a whole handshake; 10 s
	Patience        time.Duration // for a handshake while others wait for its place; 1 s
	Header          time.Duration // for a request's head; 10 s
	Idle            time.Duration // between two requests; 120 s
	BodyIdle        time.Duration // for a body, either way, that moves no byte; 60 s
	HeaderBytes     int           // of a request's head; 64 KiB
	StreamsPerConn  int           // concurrent, of one HTTP/2 connection; 250
	UpstreamHeader  time.Duration // until the head of the answer, gRPC excepted; 60 s
	UpstreamConnect time.Duration // until the upstream accepts; 5 s
	UpstreamIdle    time.Duration // of a connection to it that waits for the next request; 1.5 s
}

// mostWindow is how much of bodies an HTTP/2 connection buffers where memory is
// not limited, and leastWindow what RFC 9113 6.9.2 begins with.
const (
	mostWindow  = 1 << 20
	leastWindow = 64 << 10
)

// window is how much of bodies an HTTP/2 connection may buffer.
func (l Limits) window() int {
	const part = 512 // of the memory
	if l.Memory == 0 {
		return mostWindow
	}
	return int(min(max(l.Memory/part, leastWindow), mostWindow))
}

func (l Limits) withDefaults() Limits {
	setZero(&l.Connections, 10_000)
	setZero(&l.Handshakes, 1_000)
	if l.Memory > 0 { // a quarter of it for those who shake hands
		l.Handshakes = int(min(int64(l.Handshakes), max(l.Memory/4/priceConn, 1)))
	}
	setZero(&l.Handshake, 10*time.Second)
	setZero(&l.Patience, time.Second)
	setZero(&l.Header, 10*time.Second)
	setZero(&l.Idle, 120*time.Second)
	setZero(&l.BodyIdle, 60*time.Second)
	setZero(&l.HeaderBytes, 64<<10)
	setZero(&l.StreamsPerConn, 250)
	setZero(&l.UpstreamHeader, 60*time.Second)
	setZero(&l.UpstreamConnect, 5*time.Second)
	// Many applications close an idle connection after 2 s (gunicorn) or
	// 5 s (Node). We let go first, so that no request meets a closed one.
	setZero(&l.UpstreamIdle, 1500*time.Millisecond)
	return l
}

func setZero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// budget is what connections of all gates share.
type budget struct {
	Limits
	room       *room
	victims    *victims
	handshakes *queue
	upstreams  places
	hops       hops
}

func newBudget(l Limits) *budget {
	b := &budget{Limits: l, room: newRoom(l), victims: &victims{patience: l.Patience}, handshakes: newQueue(l.Handshakes, l.Patience)}
	b.room.shed = b.victims.shed
	if l.Upstreams > 0 {
		b.upstreams = make(places, l.Upstreams)
	}
	return b
}

// places are what one waits for; nil has room for everybody.
type places chan struct{}

// errNoPlace is why there is no connection to an application: as many are open
// as may be.
var errNoPlace = errors.New("as many connections to applications are open as may be")

func (p places) take(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errNoPlace
	}
}

func (p places) give() {
	if p != nil {
		<-p
	}
}

// queue holds the handshakes in progress. While it is full, new ones wait:
// honest clients who come all at once are served one after the other. One that
// has had the patience of the others gives way: an honest client needs
// milliseconds, a half-open handshake only waits, and so a flood of those pushes
// itself out.
type queue struct {
	max      int
	patience time.Duration

	mu    sync.Mutex
	order list.List     // of greeting, the oldest first
	freed chan struct{} // holds one when a place may be free
}

// greeting is a handshake in progress.
type greeting struct {
	conn  *conn
	began time.Time
}

// left is how long others still wait for the handshake: a quarter of their
// patience until its client has said hello, which costs a stranger nothing.
func (q *queue) left(g greeting, now time.Time) time.Duration {
	if g.conn.hello.Load() {
		return q.patience - now.Sub(g.began)
	}
	return q.patience/4 - now.Sub(g.began)
}

func newQueue(max int, patience time.Duration) *queue {
	return &queue{max: max, patience: patience, freed: make(chan struct{}, 1)}
}

// enter adds a handshake. It waits for a place, patience at most, and returns
// false when ctx ends before.
func (q *queue) enter(ctx context.Context, c *conn) (place *list.Element, ok bool) {
	for {
		place, wait := q.try(c, time.Now())
		if place != nil {
			return place, true
		}
		t := time.NewTimer(wait)
		select {
		case <-q.freed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, false
		}
		t.Stop()
	}
}

// try adds a handshake if there is a place, or if another must give way. It
// returns nil, and when to try again, if neither is so.
func (q *queue) try(c *conn, now time.Time) (place *list.Element, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.order.Len() >= q.max {
		next := q.next(now)
		shed := next.Value.(greeting)
		if wait = q.left(shed, now); wait > 0 {
			return nil, wait
		}
		q.order.Remove(next)
		shed.conn.shed.Store(true)
		_ = shed.conn.Close() // whoever shakes hands notices, and gives up
	}
	place = q.order.PushBack(greeting{c, now})
	q.tell()
	return place, 0
}

// next is the handshake whose time is over first. mu is held.
func (q *queue) next(now time.Time) *list.Element {
	next := q.order.Front()
	for e := next; e != nil; e = e.Next() {
		if q.left(e.Value.(greeting), now) < q.left(next.Value.(greeting), now) {
			next = e
		}
	}
	return next
}

// leave gives the place back. One that was taken away has none any more.
func (q *queue) leave(place *list.Element) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order.Remove(place)
	q.tell()
}

// tell wakes one of those that wait, if there is a place. mu is held.
func (q *queue) tell() {
	if q.order.Len() >= q.max {
		return
	}
	select {
	case q.freed <- struct{}{}:
	default:
	}
}
