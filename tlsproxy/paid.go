package tlsproxy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"sidegate/policy"
)

// memoryLimit is why a request or a connection is refused for which there is no
// memory.
const memoryLimit policy.Reason = "memory_limit"

// errMemory is why a connection ends that holds more than there is room for.
var errMemory = errors.New("no memory is left for what the client has sent")

// account is what a connection has booked beyond its own price, and what it is
// judged by when others want room. One of no gate books nothing.
type account struct {
	gate *gate

	since   atomic.Int64 // nanoseconds after the process started: when it began to do what it does
	greeted atomic.Bool  // its handshake is done
	known   atomic.Bool  // by it came a credential that proved a user
	http2   atomic.Bool  // its protocol
	buffer  atomic.Int64 // the largest by which it was read, beyond a small one; 0: none was
	fresh   atomic.Int64 // bytes that have come since the gate last said something, or a request began
	exempt  atomic.Bool  // what comes belongs to a request of HTTP/1.1, which pays itself

	// Changed while conn.life is held.
	paidFresh atomic.Int64 // booked for fresh
	lasting   atomic.Int64 // booked until the end
	victim    int64        // what it held when it was asked to go; 0: it was not
}

func (c *conn) price() int64 { return priceConn + c.paidFresh.Load() + c.lasting.Load() }

// begins notes that the connection begins to do something else.
func (c *conn) begins() { c.since.Store(int64(time.Since(started))) }

// came pays for bytes that the client has sent, as far as they are no part of a
// request. It waits for room. An error: there is none.
func (c *conn) came(n int) error {
	if c.gate == nil || c.exempt.Load() {
		return nil
	}
	before := c.fresh.Add(int64(n)) - int64(n)
	for owed := steps(before+int64(n)) - steps(before); owed > 0; owed-- {
		if !c.book(claim{kind: claimHead, bytes: priceHead * stepHead}, &c.paidFresh) {
			return c.tooMuch()
		}
	}
	return nil
}

// grows pays for the buffer by which TLS reads, which stays, and for that of
// HTTP/2 frames, which is as large as they are. One at a time reads.
func (c *conn) grows(buffer int) error {
	more := priceBuffer * (int64(buffer) - max(c.buffer.Load(), smallBuffer))
	if more <= 0 || c.gate == nil {
		return nil
	}
	if c.buffer.Swap(int64(buffer)) == 0 && c.http2.Load() {
		more += priceBuffer * maxFrame
	}
	if !c.book(claim{kind: claimMore, bytes: more}, &c.lasting) {
		return c.tooMuch()
	}
	return nil
}

// tooMuch counts a connection that ends because it holds too much.
func (c *conn) tooMuch() error {
	if c.greeted.Load() { // else its handshake is what failed
		c.gate.metrics.Ended(memoryLimit)
	}
	return errMemory
}

// steps is how many steps of a head are paid beyond what is free.
func steps(head int64) int64 {
	return (min(max(head-freeHead, 0), mostHead) + stepHead - 1) / stepHead
}

// book books more for the connection, which part of its account notes.
func (c *conn) book(more claim, part *atomic.Int64) bool {
	if !c.gate.budget.room.take(context.Background(), more) {
		return false
	}
	c.life.Lock()
	closed := c.closed
	if !closed {
		part.Add(more.bytes)
	}
	c.life.Unlock()
	if closed {
		c.gate.budget.room.give(more)
	}
	return !closed
}

// expects notes that so many bytes are paid as the part of a body.
func (c *conn) expects(bytes int64) {
	if bytes > 0 {
		c.fresh.Add(-bytes)
	}
}

// settle gives back what was booked for what has become a request, or was
// answered. It returns how many bytes that were.
func (c *conn) settle() int64 {
	fresh := c.fresh.Load()
	if fresh <= 0 || !c.fresh.CompareAndSwap(fresh, 0) {
		return 0
	}
	if fresh > freeHead {
		c.refund()
	}
	return fresh
}

// rests notes that no request is under way any more, and no part of a body is
// expected.
func (c *conn) rests() {
	c.fresh.Store(0)
	c.refund()
}

// refund gives back what was booked for fresh bytes.
func (c *conn) refund() {
	if c.gate == nil || c.paidFresh.Load() == 0 {
		return
	}
	c.life.Lock()
	paid := int64(0)
	if !c.closed { // else it was given back
		paid = c.paidFresh.Swap(0)
	}
	c.life.Unlock()
	c.gate.budget.room.give(claim{kind: claimHead, bytes: paid})
}

// asked notes that the connection is to make room, and returns what it holds;
// 0: it has ended, or was asked before.
func (c *conn) asked() int64 {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed || c.victim > 0 {
		return 0
	}
	c.victim = c.price()
	return c.victim
}

// leave gives back what a connection holds that is closed.
func (c *conn) leave() {
	b := c.gate.budget
	b.room.give(claim{kind: claimConn, bytes: priceConn})
	b.room.give(claim{kind: claimHead, bytes: c.paidFresh.Load()})
	b.room.give(claim{kind: claimMore, bytes: c.lasting.Load()})
	if c.victim > 0 {
		b.victims.went(c.victim)
	}
}
