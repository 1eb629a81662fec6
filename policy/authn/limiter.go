package authn

import (
	"container/list"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// Limits of failed attempts for one account from one network.
const (
	burst       = 10              // failures in a row
	refill      = 6 * time.Second // for each further one
	maxAccounts = 10_000          // kept in memory; the least recent is forgotten
)

// limiter counts failures by account and network, in bounded memory. Behind
// a router all clients share one network, which is why it is only asked about
// passwords that are not known to be right.
type limiter struct {
	now func() time.Time

	mu    sync.Mutex
	order list.List // of *failures, most recent first
	by    map[limitKey]*list.Element
}

// limitKey holds no name, which a client may make as long as a header is.
type limitKey struct {
	account [sha256.Size]byte
	network netip.Prefix
}

// failures is a token bucket: debt grows by one with each failure and
// shrinks by one each refill.
type failures struct {
	key  limitKey
	debt float64
	at   time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, by: map[limitKey]*list.Element{}}
}

// keyOf takes the whole IPv4 address, or of IPv6 the part that one customer has.
func keyOf(account string, client netip.Addr) limitKey {
	client = client.Unmap() // else all of IPv4 is one /64
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	network, _ := client.Prefix(bits) // an address of a unix socket is none, and so is its network
	return limitKey{sha256.Sum256([]byte(account)), network}
}

// wait returns how long the account must wait before the next attempt from
// that network; 0: none.
func (l *limiter) wait(k limitKey) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.by[k]; e != nil {
		return e.Value.(*failures).wait(l.now())
	}
	return 0
}

// take counts an attempt as a failure until [limiter.succeeded] says that it
// was none. It returns how long to wait and counts nothing where the account
// must wait. Counting beforehand keeps guesses that are made all at once from
// each passing for one of the first.
func (l *limiter) take(k limitKey) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[k]
	if e == nil {
		l.add(&failures{key: k, debt: 1, at: l.now()})
		return 0
	}
	f := e.Value.(*failures)
	if wait := f.wait(l.now()); wait > 0 {
		return wait
	}
	f.debt++
	l.order.MoveToFront(e)
	return 0
}

// add keeps f as the most recent. The caller holds mu.
func (l *limiter) add(f *failures) {
	l.by[f.key] = l.order.PushFront(f)
	if l.order.Len() > maxAccounts {
		oldest := l.order.Back()
		l.order.Remove(oldest)
		delete(l.by, oldest.Value.(*failures).key)
	}
}

// wait settles what was paid off by now, and returns how long it takes until
// one more failure fits in.
func (f *failures) wait(now time.Time) time.Duration {
	f.debt = max(0, f.debt-float64(now.Sub(f.at))/float64(refill))
	f.at = now
	return time.Duration(max(0, f.debt-(burst-1)) * float64(refill))
}

func (l *limiter) succeeded(k limitKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.by[k]; e != nil {
		l.order.Remove(e)
		delete(l.by, k)
	}
}
