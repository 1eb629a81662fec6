package authn

import (
	"container/list"
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

type limitKey struct {
	account string
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
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	network, _ := client.Prefix(bits) // an address of a unix socket is none, and so is its network
	return limitKey{account, network}
}

// wait returns how long the account must wait before the next attempt from
// that network; 0: none.
func (l *limiter) wait(k limitKey) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[k]
	if e == nil {
		return 0
	}
	f := e.Value.(*failures)
	f.settle(l.now())
	if f.debt <= burst-1 {
		return 0
	}
	return time.Duration((f.debt - (burst - 1)) * float64(refill))
}

func (f *failures) settle(now time.Time) {
	f.debt = max(0, f.debt-float64(now.Sub(f.at))/float64(refill))
	f.at = now
}

func (l *limiter) failed(k limitKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.by[k]; e != nil {
		f := e.Value.(*failures)
		f.settle(l.now())
		f.debt++
		l.order.MoveToFront(e)
		return
	}
	l.by[k] = l.order.PushFront(&failures{key: k, debt: 1, at: l.now()})
	if l.order.Len() > maxAccounts {
		oldest := l.order.Back()
		l.order.Remove(oldest)
		delete(l.by, oldest.Value.(*failures).key)
	}
}

func (l *limiter) succeeded(k limitKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.by[k]; e != nil {
		l.order.Remove(e)
		delete(l.by, k)
	}
}
