package tlsproxy

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/policy"
)

// TLS-32: whatever deadline crypto/tls and net/http set, no write goes on
// behind the end that the gate has set.
func TestWritesEndInTime(t *testing.T) {
	later := map[string]func(*conn) error{
		"nothing":     func(*conn) error { return nil },
		"no deadline": func(c *conn) error { return c.SetWriteDeadline(time.Time{}) },
		"closeNotify": func(c *conn) error { return c.SetWriteDeadline(time.Now().Add(5 * time.Second)) },
		"both":        func(c *conn) error { return c.SetDeadline(time.Now().Add(time.Hour)) },
	}
	for name, set := range later {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer client.Close()
				c := &conn{Conn: server, writeIdle: time.Minute, onClose: func() {}}
				began := time.Now()
				c.limit.bound(c.Conn, began.Add(lastWords))
				if err := set(c); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if _, err := c.Write([]byte("x")); err == nil {
						t.Error("written")
					}
				}
				if took := time.Since(began); took != lastWords {
					t.Errorf("took %s, want %s", took, lastWords)
				}
				if err := c.SetWriteDeadline(began.Add(time.Millisecond)); err != nil {
					t.Errorf("it can't be made shorter: %v", err)
				}
			})
		})
	}
}

// TLS-33: a connection that is closed gets nothing that nobody would give back.
func TestClosedConnectionHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		g, gone := &gate{}, 0
		c := newConn(server, func() { gone++ })
		_ = c.Close()
		_ = c.Close()
		if gone != 1 {
			t.Errorf("its places were given back %d times", gone)
		}
		if c.register(g, peerVerdict{}) || len(g.live.all()) > 0 {
			t.Error("it is in the table")
		}
		c.wakeAt(passing{}, time.Now().Add(time.Minute), func() { t.Error("a timer goes off") })
		time.Sleep(time.Hour)
	})
}

// OPS-05: new handshakes wait for a place, and take that of the oldest when it
// has had its patience.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = time.Second
		q := newQueue(2, patience)
		pipe := func() *conn {
			client, server := net.Pipe()
			t.Cleanup(func() { _ = client.Close() })
			c := newConn(server, func() {})
			c.hello.Store(true)
			return c
		}
		enter := func(c *conn) (took time.Duration) {
			began := time.Now()
			if _, ok := q.enter(t.Context(), c); !ok {
				t.Error("not let in")
			}
			return time.Since(began)
		}
		first, second, third := pipe(), pipe(), pipe()
		place, _ := q.enter(t.Context(), first)
		if took := enter(second); took != 0 {
			t.Errorf("a free place took %s", took)
		}
		time.AfterFunc(patience/2, func() { q.leave(place) })
		if took := enter(third); took != patience/2 || first.shed.Load() {
			t.Errorf("the place of one who is done took %s", took)
		}
		if took := enter(pipe()); took != patience/2 || !second.shed.Load() || third.shed.Load() {
			t.Errorf("the place of one who waits took %s", took)
		}
		quiet := pipe()
		quiet.hello.Store(false)
		if took := enter(quiet); took > patience || !third.shed.Load() {
			t.Errorf("the next place took %s", took)
		}
		if took := enter(pipe()); took != patience/4 || !quiet.shed.Load() {
			t.Errorf("the place of one who says nothing took %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, ok := q.enter(ctx, pipe()); ok {
			t.Error("let in behind the end")
		}
		both := make(chan time.Duration, 2)
		for range 2 {
			go func() { both <- enter(pipe()) }()
		}
		synctest.Wait()
		q.mu.Lock()
		q.order.Init() // both places at once wake both
		q.tell()
		q.mu.Unlock()
		for range 2 {
			if took := <-both; took > time.Millisecond {
				t.Errorf("a free place was not noticed for %s", took)
			}
		}
	})
}

// TLS-32: a client that takes nothing loses its connection, a trusted proxy's
// stays, and so does that of a client that goes on.
func TestUnstick(t *testing.T) {
	for _, c := range []struct {
		name             string
		trusted          bool
		writing, written uint64
		ends             bool
	}{
		{name: "takes nothing", writing: 1, ends: true},
		{name: "takes nothing, a trusted proxy's", writing: 1, trusted: true},
		{name: "has taken something", writing: 1, written: 1},
		{name: "has taken all", written: 1},
		{name: "was sent nothing"},
	} {
		g, e := gateFor(t, "{name: all, user: [anyone]}")
		g.metrics = &endedConnections{GateMetrics: e}
		client, server := net.Pipe()
		under := &conn{Conn: server, onClose: func() {}, remote: netip.MustParseAddr("192.0.2.1")}
		if c.trusted {
			g.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		under.writing.Store(int32(c.writing))
		under.wrote.Store(c.written)
		g.unstick(under, 0, policy.BadCredentials)
		if got := under.ended.Load() != nil; got != c.ends {
			t.Errorf("%s: ended %t", c.name, got)
		}
		_ = client.Close()
	}
}

// endedConnections takes what is said of connections.
type endedConnections struct{ GateMetrics }

func (*endedConnections) Ended(policy.Reason) {}
