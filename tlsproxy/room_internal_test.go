package tlsproxy

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

const testMemory = 8 << 20

func testRoom() *room {
	return newRoom(Limits{Patience: time.Second, Connections: 1000, Memory: testMemory})
}

// fill takes claims until one does not fit, and returns how many there were.
func (r *room) fill(c claim) (n int) {
	for r.try(c) {
		n++
	}
	return n
}

func asks(user, addr string, bytes int64) claim {
	return claim{kind: claimArrival, bytes: bytes, weight: bytes, party: party{user, netip.MustParseAddr(addr)}}
}

// OPS-16: what is full is full, and what was given back can be taken again.
func TestRoomIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		claim claim
		most  int64 // bytes
	}{
		"connections":   {claim{kind: claimConn, bytes: 32 << 10}, testMemory / 8 * 7},
		"more for them": {claim{kind: claimMore, bytes: 16 << 10}, testMemory},
		"heads":         {claim{kind: claimHead, bytes: 16 << 10}, testMemory / 8},
		"large buffers": {claim{kind: claimBuffers, bytes: 64 << 10}, testMemory / 8},
		"requests":      {asks("ann", "192.0.2.1", 32<<10), testMemory / 8 * 5 / 4 * 3},
	} {
		r := testRoom()
		n := int64(r.fill(c.claim))
		if used := n * c.claim.bytes; used > c.most || used < c.most-2*c.claim.bytes || r.used != used {
			t.Errorf("%s: %d of %d bytes, %d held", name, used, c.most, r.used)
		}
		for range n {
			r.give(c.claim)
		}
		if r.used != 0 || len(r.by) != 0 || r.requests != 0 || r.large != 0 || r.heads != 0 || r.conns != 0 {
			t.Errorf("%s: something is left: %+v", name, r)
		}
	}
	r := newRoom(Limits{Connections: 3})
	if n := r.fill(claim{kind: claimConn, bytes: 1 << 40}); n != 3 {
		t.Errorf("without a limit of memory: %d connections", n)
	}
	if n := r.full(); n != "connections" {
		t.Errorf("full: %s", n)
	}
}

// A user leaves something to others, however many addresses are used, and so
// does an address of a user, and one of strangers; uploads leave something to
// requests without a body.
func TestRoomIsShared(t *testing.T) {
	const size = 8 << 10
	upload := asks("ann", "192.0.2.1", size)
	upload.upload = true
	for name, c := range map[string]struct {
		flood func(i int) claim
		other claim
	}{
		"an address": {func(int) claim { return asks("", "192.0.2.1", size) }, asks("", "192.0.2.2", size)},
		"a user": {func(i int) claim {
			return asks("ann", netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String(), size)
		}, asks("bob", "10.0.0.1", size)},
		"a user at one address": {func(int) claim { return asks("ann", "192.0.2.1", size) }, asks("ann", "192.0.2.2", size)},
		"uploads":               {func(int) claim { return upload }, asks("ann", "192.0.2.1", size)},
	} {
		r := testRoom()
		n := 0
		for ; ; n++ { // they come, and go on
			arrival := c.flood(n)
			exchange := arrival
			exchange.kind = claimExchange
			if !r.try(arrival) || !r.try(exchange) {
				break
			}
		}
		if n < 100 {
			t.Errorf("%s: only %d requests", name, n)
		}
		exchange := c.other
		exchange.kind = claimExchange
		for range 3 {
			if !r.try(c.other) || !r.try(exchange) {
				t.Errorf("%s: nothing is left behind %d requests", name, n)
			}
		}
	}
}

// Who finds no room waits for it, in turn, as long as that kind may.
func TestRoomIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testRoom()
		conn := claim{kind: claimConn, bytes: 64 << 10}
		n := r.fill(conn)
		began := time.Now()
		if r.take(t.Context(), conn) || time.Since(began) != r.patience {
			t.Errorf("refused after %s", time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), r.patience/2)
		defer cancel()
		began = time.Now()
		if r.take(ctx, conn) || time.Since(began) != r.patience/2 {
			t.Errorf("whoever has left waited %s", time.Since(began))
		}
		if len(r.waiting) > 0 {
			t.Fatal("some still wait")
		}
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				if r.take(t.Context(), conn) {
					order <- i
				}
			}()
			synctest.Wait()
		}
		for i := range 3 {
			r.give(conn)
			if got := <-order; got != i {
				t.Errorf("place %d went to %d", i, got)
			}
		}
		if r.used != int64(n)*conn.bytes {
			t.Errorf("%d bytes held by %d", r.used, n)
		}
		exchange := asks("ann", "192.0.2.1", 64<<10)
		exchange.kind = claimExchange
		for r.try(exchange) {
		}
		began = time.Now()
		if r.take(t.Context(), exchange) || time.Since(began) != exchangePatience {
			t.Errorf("a request was refused after %s", time.Since(began))
		}
	})
}

// OPS-16: a smaller limit makes room down to it, and a larger one lets those in
// who wait.
func TestRoomIsResized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testRoom()
		conn := claim{kind: claimConn, bytes: 64 << 10}
		n := r.fill(conn)
		var asked int64
		r.shed = func(bytes int64, _ int) {
			asked = bytes
			for range n / 2 {
				r.give(conn)
			}
		}
		r.resize(testMemory / 2)
		if want := int64(n)*conn.bytes - testMemory/2; asked != want {
			t.Errorf("asked for %d bytes, want %d", asked, want)
		}
		r.shed = nil
		r.fill(conn)
		in := make(chan bool)
		go func() { in <- r.take(t.Context(), conn) }()
		synctest.Wait()
		r.resize(testMemory)
		if !<-in {
			t.Error("nobody was let in")
		}
	})
}

// OPS-16: what a head costs is paid step by step, given back when it has become a
// request, and never twice.
func TestHeadIsPaid(t *testing.T) {
	b := newBudget(Limits{Memory: testMemory}.withDefaults())
	g := &gate{Gate: &Gate{}, metrics: noMetrics{}, budget: b}
	c := &conn{}
	c.gate = g
	for range 15 {
		if err := c.came(4 << 10); err != nil {
			t.Fatal(err)
		}
	}
	if paid := b.room.used; paid != priceHead*(56<<10) {
		t.Errorf("60 KiB of a head cost %d", paid)
	}
	for range 1000 {
		if err := c.came(4 << 10); err != nil {
			t.Fatal(err)
		}
	}
	if paid := b.room.used; paid != priceHead*mostHead {
		t.Errorf("what net/http would never hold costs %d", paid)
	}
	if c.settle() != 1015*4<<10 || b.room.used != 0 {
		t.Errorf("%d are left", b.room.used)
	}
	c.expects(64 << 10)
	for range 16 {
		_ = c.came(4 << 10)
	}
	if b.room.used != 0 {
		t.Errorf("a body that is paid costs %d", b.room.used)
	}
	_ = c.came(64 << 10)
	c.rests()
	if b.room.used != 0 || c.fresh.Load() != 0 {
		t.Errorf("at rest it holds %d", b.room.used)
	}
	_ = c.grows(smallBuffer)
	if b.room.used != 0 {
		t.Error("a small buffer costs something")
	}
	for _, size := range []int{17 << 10, 17 << 10, 50 << 10, 5 << 10} {
		_ = c.grows(size)
	}
	if b.room.used != priceBuffer*(46<<10) {
		t.Errorf("a buffer of 50 KiB costs %d", b.room.used)
	}
	c.closed = true
	before := b.room.used
	if c.came(64<<10) == nil || b.room.used != before {
		t.Error("a closed connection books something")
	}
}

// Those go first whose handshake or head takes long, then who never had a
// credential, then whoever waits longest; nobody goes who is busy, or new.
func TestVictims(t *testing.T) {
	now := time.Now()
	v := &victims{patience: time.Second}
	ago := func(d time.Duration) int64 { return int64(now.Add(-d).Sub(started)) }
	old, young := ago(time.Minute), ago(100*time.Millisecond)
	for name, c := range map[string]struct {
		set  func(*conn)
		want rank
	}{
		"half-open":             {func(c *conn) { c.since.Store(old) }, unfinished},
		"half-open, new":        {func(c *conn) { c.since.Store(young) }, busy},
		"said hello":            {func(c *conn) { c.hello.Store(true); c.since.Store(ago(700 * time.Millisecond)) }, busy},
		"said hello long ago":   {func(c *conn) { c.hello.Store(true); c.since.Store(old) }, unfinished},
		"nothing asked":         {func(c *conn) { c.hello.Store(true); c.greeted.Store(true); c.since.Store(old) }, unfinished},
		"nothing asked so far":  {func(c *conn) { c.hello.Store(true); c.greeted.Store(true); c.since.Store(young) }, busy},
		"idle":                  {func(c *conn) { c.greeted.Store(true); c.waits.Store(true); c.since.Store(old) }, unknown},
		"idle, with credential": {func(c *conn) { c.greeted.Store(true); c.waits.Store(true); c.known.Store(true); c.since.Store(old) }, known},
		"idle a moment":         {func(c *conn) { c.greeted.Store(true); c.waits.Store(true); c.since.Store(young) }, busy},
		"asks":                  {func(c *conn) { c.greeted.Store(true); c.active.Store(1); c.since.Store(old) }, busy},
		"upgraded":              {func(c *conn) { c.greeted.Store(true); c.upgraded.Store(true); c.since.Store(old) }, busy},
	} {
		one := &conn{}
		c.set(one)
		if got := v.rankOf(one, now); got != c.want {
			t.Errorf("%s: rank %d, want %d", name, got, c.want)
		}
	}
}
