package admin

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// crowd is the listener of the admin port with a limit of its own, so that who
// can reach it takes nothing from the gates. When it is full the connection
// that has waited longest gives way: a probe needs milliseconds, and a flood
// that asks nothing pushes itself out.
type crowd struct {
	net.Listener
	max int

	mu      sync.Mutex
	waiting list.List                  // of net.Conn that ask nothing now, the longest first
	open    map[net.Conn]*list.Element // nil: it is answered
}

func newCrowd(l net.Listener, limit int) *crowd {
	return &crowd{Listener: l, max: limit, open: map[net.Conn]*list.Element{}}
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.enter(conn) {
			return conn, nil
		}
		_ = conn.Close() // everybody is answered just now
	}
}

func (c *crowd) enter(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= c.max {
		oldest := c.waiting.Front()
		if oldest == nil {
			return false
		}
		c.leave(oldest.Value.(net.Conn))
		_ = oldest.Value.(net.Conn).Close() // whether that works or not, it is ours no more
	}
	c.open[conn] = c.waiting.PushBack(conn)
	return true
}

func (c *crowd) leave(conn net.Conn) {
	if place := c.open[conn]; place != nil {
		c.waiting.Remove(place)
	}
	delete(c.open, conn)
}

// state is told by http.Server what a connection does.
func (c *crowd) state(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place, known := c.open[conn]
	switch {
	case !known:
	case s == http.StateClosed || s == http.StateHijacked:
		c.leave(conn)
	case s == http.StateActive && place != nil:
		c.waiting.Remove(place)
		c.open[conn] = nil
	case s == http.StateIdle && place == nil:
		c.open[conn] = c.waiting.PushBack(conn)
	}
}
