package authn

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"sidegate/policy"
)

const (
	// maxVerified logins are remembered.
	maxVerified = 4096
	// maxPlaces networks are remembered of one name.
	maxPlaces = 16
)

// digest is an HMAC under a key that never leaves the process.
type digest = [sha256.Size]byte

// logins is the memory of those who have logged in. It outlives the user file:
// the key of a login holds the stored hash, so that it is found only as long as
// the file has the same one.
type logins struct {
	mu       sync.RWMutex
	verified map[digest]*verified
	former   map[digest]string  // proofs that were right before the stored hash changed, and whose
	places   map[string]*places // by name
}

// verified is a credential that is known to be right.
type verified struct {
	login  *policy.Login
	stored string // the hash that it was checked against
	proof  digest // names user and password, and no stored hash
	places *places
}

func newLogins() *logins {
	return &logins{verified: map[digest]*verified{}, former: map[digest]string{}, places: map[string]*places{}}
}

func (l *logins) get(key digest) *verified {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.verified[key]
}

// remember keeps a success and where it came from.
func (l *logins) remember(key digest, v *verified, from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := v.login.User.Name
	if v.places = l.places[name]; v.places == nil {
		v.places = newPlaces()
		l.places[name] = v.places
	}
	v.places.add(from)
	put(l.verified, key, v)
	delete(l.former, v.proof)
}

// put keeps a map of logins bounded. It drops any one: that costs its owner
// one hash.
func put[V any](m map[digest]V, key digest, v V) {
	if len(m) >= maxVerified {
		for k := range m {
			delete(m, k)
			break
		}
	}
	m[key] = v
}

// cameFrom reports whether the name has logged in from that network.
func (l *logins) cameFrom(name string, network netip.Prefix) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	p := l.places[name]
	return p != nil && p.has(network)
}

// wasRight reports whether the credential was right until the stored hash
// changed, and has not been tried since.
func (l *logins) wasRight(proof digest) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, ok := l.former[proof]
	return ok
}

// wasWrong makes a credential a guess like any other from now on.
func (l *logins) wasWrong(proof digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.former, proof)
}

// reloaded forgets the users that are gone, and has those whose stored hash
// changed proven anew.
func (l *logins) reloaded(users map[string]secret) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, v := range l.verified {
		name := v.login.User.Name
		now, ok := users[name]
		if ok && now.stored == v.stored {
			continue
		}
		delete(l.verified, key)
		if ok {
			put(l.former, v.proof, name)
		}
	}
	for proof, name := range l.former {
		if _, ok := users[name]; !ok {
			delete(l.former, proof)
		}
	}
	for name := range l.places {
		if _, ok := users[name]; !ok {
			delete(l.places, name)
		}
	}
}

// places are the networks that a name has logged in from, the oldest first.
// They are read by each request of a known user, without a lock.
type places struct {
	mu   sync.Mutex // of those who add
	list atomic.Pointer[[]netip.Prefix]
}

func newPlaces() *places {
	p := &places{}
	p.list.Store(&[]netip.Prefix{})
	return p
}

func (p *places) has(network netip.Prefix) bool {
	return slices.Contains(*p.list.Load(), network)
}

// note adds a network while there is room. A name that is everywhere at once
// would else change the list with each request.
func (p *places) note(network netip.Prefix) {
	if list := p.list.Load(); len(*list) < maxPlaces && !slices.Contains(*list, network) {
		p.add(network)
	}
}

// add adds a network. Where there are too many the oldest gives way.
func (p *places) add(network netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.list.Load()
	if slices.Contains(old, network) {
		return
	}
	list := append(slices.Clone(old[max(0, len(old)-maxPlaces+1):]), network)
	p.list.Store(&list)
}
