package tlsproxy

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sidegate/policy"
)

// madeRoom is why a connection was ended by which nothing was under way: a new
// one had no room.
const madeRoom policy.Reason = "made_room"

// victims finds the connections that make room for others.
type victims struct {
	gates    []*gate
	patience time.Duration // with handshakes and heads

	looking    sync.Mutex
	going      atomic.Int64 // bytes that those hold who were asked to go
	goingConns atomic.Int64
}

// spare is how much more is made room for than is asked for, as a part of what
// there is: looking for victims costs more than ending them.
const spare = 64

// shed ends connections that hold so many bytes, and so many connections, if
// there are as many.
func (v *victims) shed(bytes int64, conns int) {
	if !v.looking.TryLock() {
		return // somebody looks already
	}
	defer v.looking.Unlock()
	bytes -= v.going.Load()
	conns -= int(v.goingConns.Load())
	if bytes <= 0 && conns <= 0 {
		return
	}
	list := v.candidates(time.Now())
	if conns > 0 {
		conns += len(list) / spare
	}
	if bytes > 0 {
		bytes += int64(len(list)) / spare * priceConn
	}
	for _, c := range list {
		if bytes <= 0 && conns <= 0 {
			return
		}
		if held := v.end(c); held > 0 {
			bytes -= held
			conns--
		}
	}
}

// candidate is a connection that may go.
type candidate struct {
	gate  *gate
	conn  *conn
	rank  rank
	since int64
}

// rank is how soon a connection has to go.
type rank uint8

const (
	unfinished rank = iota // its handshake or head takes long
	unknown                // it is idle, and never had a credential
	known                  // it is idle
	busy                   // it stays
)

// candidates are the connections that may go, those first that go first.
func (v *victims) candidates(now time.Time) []candidate {
	var list []candidate
	for _, g := range v.gates {
		for _, c := range slices.Concat(g.greeting.all(), g.live.all()) {
			if rank := v.rankOf(c, now); rank != busy {
				list = append(list, candidate{g, c, rank, c.since.Load()})
			}
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.since, b.since))
	})
	return list
}

func (v *victims) rankOf(c *conn, now time.Time) rank {
	took := now.Sub(started) - time.Duration(c.since.Load())
	switch {
	case c.active.Load() > 0 || c.upgraded.Load() || took < v.patience/4:
		return busy
	case c.greeted.Load() && took < v.patience/2:
		return busy // it may be about to ask something
	case c.waits.Load() && c.known.Load():
		return known
	case c.waits.Load():
		return unknown
	case c.hello.Load() && !c.greeted.Load() && took < v.patience:
		return busy // its handshake goes on
	}
	return unfinished
}

// end ends a connection and returns how much it holds; 0: it ends already.
func (v *victims) end(c candidate) int64 {
	held := c.conn.asked()
	if held == 0 {
		return 0
	}
	v.going.Add(held)
	v.goingConns.Add(1)
	if !c.conn.greeted.Load() {
		c.conn.shed.Store(true)
		_ = c.conn.Close() // whoever shakes hands notices, and gives up
		return held
	}
	c.gate.metrics.Ended(madeRoom)
	if c.gate.noise.allow(time.Now()) {
		c.gate.log.Warn("connection ended", "reason", madeRoom, "remote", c.conn.remoteText)
	}
	c.conn.hangUp(lastWords)
	return held
}

// went notes that one has closed that was asked to go.
func (v *victims) went(held int64) {
	v.going.Add(-held)
	v.goingConns.Add(-1)
}
