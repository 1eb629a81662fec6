package authn

import (
	"container/heap"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// Limits of failed attempts.
const (
	burst      = 10              // failures in a row for one account from one network
	refill     = 6 * time.Second // for each further one
	tenfold    = 10              // as many for one site, whatever the accounts
	maxBuckets = 10_000          // of each kind that are kept in memory
)

// limiter counts failures twice: by account and network, and by site alone, so
// that endless account names are no way around the first. Behind a router all
// clients share one network. That is why it is only asked about passwords that
// are not known to be right, and why a site slows no name that has logged in
// from there.
type limiter struct {
	now func() time.Time

	mu       sync.Mutex
	accounts buckets
	sites    buckets
}

// guess is an attempt as the limiter sees it.
type guess struct {
	account limitKey
	site    limitKey
	known   bool // the account has logged in from the network: its site does not count
}

// limitKey holds no name, which a client may make as long as a header is.
type limitKey struct {
	account [sha256.Size]byte // zero: any
	network netip.Prefix
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{
		now:      now,
		accounts: newBuckets(burst, refill),
		sites:    newBuckets(burst*tenfold, refill/tenfold),
	}
}

func newGuess(account string, client netip.Addr) guess {
	return guess{
		account: limitKey{sha256.Sum256([]byte(account)), networkOf(client)},
		site:    limitKey{network: siteOf(client)},
	}
}

// networkOf is the whole IPv4 address, or of IPv6 the part that one link has.
func networkOf(client netip.Addr) netip.Prefix { return prefixOf(client, 64) }

// siteOf is the whole IPv4 address, or of IPv6 the largest part that one
// customer usually has, with 65,536 networks in it.
func siteOf(client netip.Addr) netip.Prefix { return prefixOf(client, 48) }

func prefixOf(client netip.Addr, bits int) netip.Prefix {
	client = client.Unmap() // else all of IPv4 is one network
	if !client.Is6() {
		bits = client.BitLen()
	}
	prefix, _ := client.Prefix(bits) // an address of a unix socket is none, and so is its network
	return prefix
}

// wait returns how long to wait before the attempt may be made; 0: not at all.
func (l *limiter) wait(g guess) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waitAt(g, l.now())
}

// waitAt is wait. The caller holds mu.
func (l *limiter) waitAt(g guess, now time.Time) time.Duration {
	wait := l.accounts.wait(g.account, now)
	if !g.known {
		wait = max(wait, l.sites.wait(g.site, now))
	}
	return wait
}

// take counts an attempt as a failure until [limiter.succeeded] says that it
// was none. It returns how long to wait and counts nothing where the attempt
// must wait. Counting beforehand keeps guesses that are made all at once from
// each passing for one of the first.
func (l *limiter) take(g guess) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if wait := l.waitAt(g, now); wait > 0 {
		return wait
	}
	l.accounts.add(g.account, now)
	if !g.known {
		l.sites.add(g.site, now)
	}
	return 0
}

// succeeded forgets the failures of the account. Its site gets back what take
// counted and no more: who has an account clears nobody else's failures.
func (l *limiter) succeeded(g guess) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts.remove(g.account)
	if !g.known {
		l.sites.refund(g.site)
	}
}

// buckets are token buckets of one size in bounded memory. Debt grows by one
// with each failure and shrinks by one each refill, so of two buckets the one
// that is paid off later always has the larger debt: its time is all that is
// kept. When there are too many, the least debt is forgotten: to have a large
// one forgotten takes as many failures for each of all the others.
type buckets struct {
	burst  int
	refill time.Duration
	by     map[limitKey]*bucket
	debts  debts
}

type bucket struct {
	key   limitKey
	paid  time.Time // when there is no debt left
	index int       // in debts
}

func newBuckets(burst int, refill time.Duration) buckets {
	return buckets{burst: burst, refill: refill, by: map[limitKey]*bucket{}}
}

// wait is how long it takes until one more failure fits in.
func (s *buckets) wait(k limitKey, now time.Time) time.Duration {
	b := s.by[k]
	if b == nil {
		return 0
	}
	return max(0, b.paid.Sub(now)-time.Duration(s.burst-1)*s.refill)
}

func (s *buckets) add(k limitKey, now time.Time) {
	s.forgetPaid(now)
	if b := s.by[k]; b != nil {
		b.paid = b.paid.Add(s.refill)
		heap.Fix(&s.debts, b.index)
		return
	}
	if len(s.debts) >= maxBuckets {
		s.drop(s.debts[0])
	}
	b := &bucket{key: k, paid: now.Add(s.refill)}
	s.by[k] = b
	heap.Push(&s.debts, b)
}

// refund takes one failure back.
func (s *buckets) refund(k limitKey) {
	if b := s.by[k]; b != nil {
		b.paid = b.paid.Add(-s.refill)
		heap.Fix(&s.debts, b.index)
	}
}

func (s *buckets) remove(k limitKey) {
	if b := s.by[k]; b != nil {
		s.drop(b)
	}
}

// forgetPaid forgets what has no debt left.
func (s *buckets) forgetPaid(now time.Time) {
	for len(s.debts) > 0 && !s.debts[0].paid.After(now) {
		s.drop(s.debts[0])
	}
}

func (s *buckets) drop(b *bucket) {
	heap.Remove(&s.debts, b.index)
	delete(s.by, b.key)
}

// debts is a heap, the least first.
type debts []*bucket

func (d debts) Len() int           { return len(d) }
func (d debts) Less(i, j int) bool { return d[i].paid.Before(d[j].paid) }
func (d debts) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push implements heap.Interface.
func (d *debts) Push(x any) {
	b := x.(*bucket)
	b.index = len(*d)
	*d = append(*d, b)
}

// Pop implements heap.Interface.
func (d *debts) Pop() any {
	last := len(*d) - 1
	b := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return b
}
