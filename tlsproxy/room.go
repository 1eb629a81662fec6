package tlsproxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// room is what clients may make the process hold: connections, and memory for
// them and for their requests. All gates share it. Who finds it full waits for
// those that leave, and meanwhile connections are ended that nobody would miss,
// see victims. Its methods may be called concurrently.
type room struct {
	patience time.Duration                // of a connection that waits to be let in
	shed     func(bytes int64, conns int) // ends connections that hold as much, if there are; nil: none

	mu       sync.Mutex
	maxConns int
	max      int64 // bytes; 0: any number
	conns    int
	used     int64           // bytes
	requests int64           // weight of requests
	arrived  int64           // of that, for their having come
	uploads  int64           // of that, of those with a body
	by       map[party]int64 // of that, by whose they are
	large    int64           // of used, by large buffers
	heads    int64           // of used, by heads that are not complete
	waiting  []*waiter       // in the order in which they came
}

// party is who counts as one where requests compete for room: a user, a user at
// an address, or an address of nobody who is known.
type party struct {
	user string
	addr netip.Addr
}

// whole is the user, wherever he is.
func (p party) whole() party {
	if p.user == "" {
		return p
	}
	return party{user: p.user}
}

// claim is what somebody wants room for.
type claim struct {
	kind   claimKind
	bytes  int64
	weight int64 // of a request: bytes, and its connection, which can't make room meanwhile
	party  party // of a request
	upload bool  // it has a body
}

type claimKind uint8

const (
	claimNothing  claimKind = iota
	claimConn               // a connection
	claimHead               // more for a connection, by which a head comes that is not complete
	claimMore               // more for a connection, for whatever else
	claimArrival            // a request that has come
	claimExchange           // more for one that goes on to the application
	claimBuffers            // large buffers, without which it is slower
)

// waiter is a claim that waits.
type waiter struct {
	claim
	granted chan struct{} // closed when it has what it wants
}

const (
	// exchangePatience is how long a request waits until it may go on.
	exchangePatience = 5 * time.Second
	// lookAgain is how soon who waits looks again for connections to end: some
	// have become idle since.
	lookAgain = 50 * time.Millisecond
)

func newRoom(l Limits) *room {
	return &room{patience: l.Patience, maxConns: l.Connections, max: l.Memory, by: map[party]int64{}}
}

// take books a claim, and waits for room if there is none. It returns false if
// there still is none after the time that such a claim may take, or when ctx ends.
func (r *room) take(ctx context.Context, c claim) bool {
	r.mu.Lock()
	if len(r.waiting) == 0 && r.fits(c) {
		r.book(c)
		r.mu.Unlock()
		return true
	}
	w := &waiter{c, make(chan struct{})}
	r.waiting = append(r.waiting, w)
	r.grant() // it may fit though others wait, for something else
	r.mu.Unlock()
	return r.await(ctx, w)
}

// try books a claim if there is room for it.
func (r *room) try(c claim) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ok := r.fits(c)
	if ok {
		r.book(c)
	}
	return ok
}

// give takes back what was booked.
func (r *room) give(c claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(c, -1)
	r.grant()
}

// resize sets how much memory there is, and ends connections that are too many.
func (r *room) resize(max int64) {
	r.mu.Lock()
	r.max = max
	r.grant()
	r.mu.Unlock()
	r.makeRoom(claim{kind: claimMore})
}

func (r *room) await(ctx context.Context, w *waiter) bool {
	patience := r.patience
	if w.kind == claimExchange {
		patience = exchangePatience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-w.granted:
			return true
		default:
			r.makeRoom(w.claim)
		}
		select {
		case <-w.granted:
			return true
		case <-again.C:
		case <-ctx.Done():
			return r.withdraw(w)
		}
	}
}

// withdraw ends the wait. It reports whether the claim was booked after all.
func (r *room) withdraw(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.waiting, w)
	if i < 0 {
		return true
	}
	r.waiting = slices.Delete(r.waiting, i, i+1)
	return false
}

// makeRoom ends connections where the claim does not fit for want of room that
// they hold. Where requests have too much of it, that would not help.
func (r *room) makeRoom(c claim) {
	r.mu.Lock()
	bytes, conns := r.missing(c)
	r.mu.Unlock()
	if r.shed != nil && (bytes > 0 || conns > 0) {
		r.shed(bytes, conns)
	}
}

// missing is what would have to go before the claim fits. mu is held.
func (r *room) missing(c claim) (bytes int64, conns int) {
	if r.max > 0 {
		bytes = r.used + c.bytes - r.share(c.kind)
	}
	if c.kind == claimHead && r.max > 0 {
		bytes = max(bytes, r.heads+c.bytes-r.max/8)
	}
	if c.kind == claimConn {
		conns = r.conns + 1 - r.maxConns
	}
	return bytes, conns
}

// share is how much of the memory may be used once a claim of that kind is
// booked. Connections leave some to the requests of those who are there. mu is
// held.
func (r *room) share(k claimKind) int64 {
	if k == claimConn {
		return connShare(r.max)
	}
	return r.max
}

func connShare(memory int64) int64 { return memory / 8 * 7 }

// requestShare is how much of the memory is for requests and their connections.
func requestShare(memory int64) int64 { return memory / 8 * 5 }

// fits reports whether there is room. mu is held.
//
// Requests that have come may have three quarters of the requests' share, so that
// some can go on, and those with a body half of it: an application that reads no
// body does not keep other requests from it. A user may have seven times of
// what is left, and three times by one address, so that something is left in
// whatever number they are.
func (r *room) fits(c claim) bool {
	if bytes, conns := r.missing(c); bytes > 0 || conns > 0 {
		return false
	}
	all := requestShare(r.max)
	switch {
	case r.max == 0 || c.kind == claimConn || c.kind == claimHead || c.kind == claimMore:
		return true
	case c.kind == claimBuffers:
		return r.large+c.bytes <= r.max/8
	case r.requests == 0:
		return true
	case c.kind == claimArrival && r.arrived+c.weight > all/4*3 || c.upload && r.uploads+c.weight > all/2:
		return false
	}
	left := all - r.requests
	return c.weight <= left && r.by[c.party]+c.weight <= 3*left && r.by[c.party.whole()]+c.weight <= 7*left
}

// grant books what waits and fits, in the order in which it came. mu is held.
func (r *room) grant() {
	if len(r.waiting) == 0 {
		return
	}
	r.waiting = slices.DeleteFunc(r.waiting, func(w *waiter) bool {
		if !r.fits(w.claim) {
			return false
		}
		r.book(w.claim)
		close(w.granted)
		return true
	})
}

// book takes what is claimed. mu is held.
func (r *room) book(c claim) { r.add(c, 1) }

// add adds a claim so many times. mu is held.
func (r *room) add(c claim, times int64) {
	bytes := times * c.bytes
	r.used += bytes
	switch c.kind {
	case claimConn:
		r.conns += int(times)
	case claimBuffers:
		r.large += bytes
	case claimHead:
		r.heads += bytes
	case claimArrival, claimExchange:
		weight := times * c.weight
		r.requests += weight
		if c.kind == claimArrival {
			r.arrived += weight
		}
		if c.upload {
			r.uploads += weight
		}
		r.count(c.party, weight)
		if whole := c.party.whole(); whole != c.party {
			r.count(whole, weight)
		}
	}
}

// count notes what a party has. mu is held.
func (r *room) count(p party, weight int64) {
	if r.by[p] += weight; r.by[p] == 0 {
		delete(r.by, p)
	}
}

// held is how many bytes are booked, and of how many.
func (r *room) held() (used, max int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used, r.max
}

// full names the limit that a connection did not pass.
func (r *room) full() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns >= r.maxConns {
		return "connections"
	}
	return "memory"
}
