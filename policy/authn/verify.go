package authn

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"time"

	"sidegate/policy"
)

// attempt is a credential and the users of its time.
type attempt struct {
	*generation
	credential
	key digest // under which a success is remembered
}

// trial is an attempt that takes a hash.
type trial struct {
	attempt
	guess
	proof digest // of [verified]
	right bool   // it was right until the stored hash changed: once, no limit stands in its way
	again bool   // it is that of a request under way: no guess at all
}

// Authenticate judges a Basic credential. nil, nil: the request has none. Its
// errors are a [*policy.Refusal].
func (u *Users) Authenticate(ctx context.Context, r *policy.Request) (*policy.Login, error) {
	a, ok, err := u.attempt(r)
	if !ok || err != nil {
		return nil, err
	}
	if v := u.logins.get(a.key); v != nil {
		v.places.note(networkOf(r.Source()))
		return v.login, nil
	}
	t := u.trial(a, r)
	t.right = u.logins.wasRight(t.proof)
	t.known = t.known || t.right
	if wait := u.limiter.wait(t.guess); wait > 0 && !t.right {
		return nil, &policy.Refusal{Reason: policy.RateLimited, RetryAfter: wait}
	}
	return u.share(ctx, t)
}

// Prove judges the credential of a request under way again, which proved was
// before the stored hash changed. It is no guess: the limits don't count it, and
// it waits for no guess but those that are being hashed.
func (u *Users) Prove(ctx context.Context, r *policy.Request, was *policy.User) (*policy.Login, error) {
	a, ok, err := u.attempt(r)
	if err != nil {
		return nil, err
	}
	if !ok || string(a.name) != was.Name || a.users[was.Name].stored == "" {
		return nil, &policy.Refusal{Reason: policy.BadCredentials}
	}
	if v := u.logins.get(a.key); v != nil {
		return v.login, nil
	}
	t := u.trial(a, r)
	t.again = true
	return u.share(ctx, t)
}

// attempt reads the credential of a request; false: it has none.
func (u *Users) attempt(r *policy.Request) (a attempt, ok bool, err error) {
	if r.Header == nil {
		return a, false, nil
	}
	field := r.Header.Get("Authorization")
	if field == "" {
		return a, false, nil
	}
	c, ok, err := parseBasic(field)
	if !ok {
		return a, false, nil
	}
	if err != nil {
		return a, true, &policy.Refusal{Reason: policy.BadCredentials, Err: err}
	}
	g := u.current.Load()
	if g == nil {
		return a, true, &policy.Refusal{Reason: policy.DependencyDown, Err: errNoUsers}
	}
	return attempt{g, c, u.verifiedKey(c, g.users[string(c.name)].stored)}, true, nil
}

func (u *Users) trial(a attempt, r *policy.Request) *trial {
	t := &trial{attempt: a, guess: newGuess(string(a.name), r.Source())}
	t.known = u.logins.cameFrom(string(a.name), t.account.network)
	t.proof = digest(u.mac([]byte("proof"), a.name, a.password))
	return t
}

// share has requests from one network that carry the same credential share one
// hash. Other networks don't: each has a limit of its own, and none may be told
// another's answer. Who stops waiting leaves the hash running: the guess still
// counts, and the queue is bounded all the same.
func (u *Users) share(ctx context.Context, t *trial) (*policy.Login, error) {
	flight := u.flights.DoChan(t.flight(), func() (any, error) { return u.hash(t) })
	select {
	case landed := <-flight:
		if landed.Err != nil {
			return nil, landed.Err
		}
		return landed.Val.(*policy.Login), nil
	case <-ctx.Done():
		return nil, &policy.Refusal{Reason: policy.Overloaded, Err: ctx.Err()}
	}
}

// flight names what trials share.
func (t *trial) flight() string {
	if t.again {
		return "again " + t.id + string(t.key[:])
	}
	return t.account.network.String() + " " + t.id + string(t.key[:])
}

// hash waits for a place and checks the password.
func (u *Users) hash(t *trial) (*policy.Login, error) {
	if v := u.logins.get(t.key); v != nil {
		return v.login, nil // by a flight that landed before this one took off
	}
	if !u.queue.enter(t.site.network, t.right || t.again) {
		return nil, &policy.Refusal{Reason: policy.Overloaded, RetryAfter: time.Second}
	}
	defer u.queue.leave()
	if v := u.logins.get(t.key); v != nil {
		return v.login, nil // by one from another network, while this one waited
	}
	if t.again {
		return u.judge(t, u.matches(t.users[string(t.name)], t.password))
	}
	return u.hashGuess(t)
}

// hashGuess is hash for what the limits count.
func (u *Users) hashGuess(t *trial) (*policy.Login, error) {
	if t.right && !u.logins.wasRight(t.proof) {
		// It was found to be wrong meanwhile, and jumped the queue.
		return nil, &policy.Refusal{Reason: policy.Overloaded, RetryAfter: time.Second}
	}
	if wait := u.limiter.take(t.guess); wait > 0 && !t.right {
		return nil, &policy.Refusal{Reason: policy.RateLimited, RetryAfter: wait}
	}
	right := u.check(t)
	if right {
		u.limiter.succeeded(t.guess)
	}
	return u.judge(t, right)
}

// judge remembers a success, and that a credential which was right is no more.
func (u *Users) judge(t *trial, right bool) (*policy.Login, error) {
	if !right {
		u.logins.wasWrong(t.proof)
		return nil, &policy.Refusal{Reason: policy.BadCredentials}
	}
	name, stored := string(t.name), t.users[string(t.name)].stored
	login := &policy.Login{
		User:            &policy.User{Method: policy.LocalMethod, Name: name, Stamp: u.stamp(name, stored)},
		ConsumedHeaders: []string{"Authorization"},
	}
	u.logins.remember(t.key, &verified{login: login, stored: stored, proof: t.proof}, t.account.network)
	return login, nil
}

// verifiedKey names a login: user, stored hash and password, each with its
// length, under a key that never leaves the process.
func (u *Users) verifiedKey(c credential, stored string) digest {
	k, _ := u.keyed.Get().(*keyedHash)
	if k == nil {
		k = &keyedHash{mac: hmac.New(sha256.New, u.key[:])}
	}
	defer u.keyed.Put(k)
	k.mac.Reset()
	k.buf = appendField(k.buf[:0], c.name)
	k.buf = appendField(k.buf, stored)
	k.buf = appendField(k.buf, c.password)
	_, _ = k.mac.Write(k.buf) // a hash takes everything
	clear(k.buf)              // it held a password
	k.buf = k.mac.Sum(k.buf[:0])
	return digest(k.buf)
}

// keyedHash is an HMAC and what it reads, lent to one request at a time: this
// is on the path of each request of a known user.
type keyedHash struct {
	mac hash.Hash
	buf []byte
}

// appendField appends a field with its length before it, so that no two lists
// of fields look the same.
func appendField[T string | []byte](b []byte, field T) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(field))), field...)
}

// mac is the HMAC of the fields.
func (u *Users) mac(fields ...[]byte) []byte {
	h := hmac.New(sha256.New, u.key[:])
	for _, f := range fields {
		_, _ = h.Write(appendField(nil, f)) // a hash takes everything
	}
	return h.Sum(nil)
}

// check makes every failure cost one verification at the file's highest cost,
// after an entry that is cheaper had its own. A name that nobody has fails as
// one of the entries does, always the same one: else the time of the two
// would tell that a cheap entry exists.
func (u *Users) check(a *trial) bool {
	if len(a.names) == 0 {
		return false
	}
	h, known := a.users[string(a.name)]
	if !known {
		h = a.users[u.decoy(a.names, a.name)]
	}
	if u.matches(h, a.password) && known {
		return true
	}
	if h.work < a.dearest.work {
		u.matches(a.dearest, a.password)
	}
	return false
}

func (u *Users) matches(h secret, password []byte) bool {
	u.hashes.Add(1)
	return h.matches(password)
}

// decoy picks the entry that stands in for a name that nobody has.
func (u *Users) decoy(names []string, name []byte) string {
	n := binary.BigEndian.Uint64(u.mac([]byte("decoy"), name))
	return names[n%uint64(len(names))]
}
