// Package authn judges passwords against a mounted file of users.
//
//	users, err := authn.NewUsers(authn.Options{Realm: "sidegate", Read: read})
//	generation, err := users.Load(ctx)
//	login, err := users.Authenticate(ctx, request)
//
// A file that holds a line it can't understand is refused as a whole; the
// users before it stay. A wrong password costs the same time whether the user
// exists or not. A right one is hashed once and then known by an HMAC until
// the file changes.
package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"sidegate/policy"
)

// Options configure [Users]. Read and Log are required.
type Options struct {
	// Realm is what browsers show at the prompt; ASCII.
	Realm string
	// Read returns the content of the mounted files by name.
	Read func() (map[string][]byte, error)
	Log  *slog.Logger
	// AllowPlain lets entries in whose hash is {PLAIN} and the password itself.
	AllowPlain bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Users is the user file as an authenticator. It may be used concurrently,
// but for Load, which is one caller's at a time.
type Users struct {
	opts      Options
	challenge []string
	key       [32]byte  // of every HMAC, new with each process
	keyed     sync.Pool // of *keyedHash
	current   atomic.Pointer[generation]
	notice    policy.Notice
	limiter   *limiter
	flights   singleflight.Group
	hashing   chan struct{} // as many as may hash at a time
	waiting   atomic.Int64  // for a place in hashing
	hashes    atomic.Int64  // made since the start
}

// generation is one content of the file and what was proven against it.
type generation struct {
	id string
	*entries
	mu       sync.RWMutex
	verified map[[sha256.Size]byte]*policy.Login
}

const (
	// maxWaiting requests may wait for a hash to be made; more are refused.
	maxWaiting = 64
	// maxVerified logins are remembered of one generation.
	maxVerified = 4096
)

// NewUsers returns an authenticator that knows nobody until Load.
func NewUsers(o Options) (*Users, error) {
	for i := 0; i < len(o.Realm); i++ {
		if o.Realm[i] < 0x20 || o.Realm[i] > 0x7e {
			return nil, fmt.Errorf("realm %q: only printable ASCII can be sent", o.Realm)
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	realm := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(o.Realm)
	u := &Users{
		opts:      o,
		challenge: []string{`Basic realm="` + realm + `", charset="UTF-8"`},
		limiter:   newLimiter(o.Now),
		hashing:   make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	_, err := rand.Read(u.key[:])
	return u, err
}

// Load reads the file and puts it in service. It returns the id of what is in
// service. After an error that is what was before, with one exception: a
// file that was emptied on purpose or by accident lets nobody in.
func (u *Users) Load(context.Context) (string, error) {
	content, err := u.opts.Read()
	if err != nil {
		return "", err
	}
	e, err := parseUsers(content, u.opts.AllowPlain)
	if err != nil {
		return "", err
	}
	g := &generation{id: u.id(content), entries: e, verified: map[[sha256.Size]byte]*policy.Login{}}
	old := u.current.Load()
	if old == nil && len(e.users) == 0 {
		return "", errNoUsers
	}
	if old == nil || old.id != g.id {
		u.current.Store(g)
		u.notice.Tell()
		u.opts.Log.Info("users in service", "generation", g.id, "users", len(e.users))
		for _, w := range e.warnings {
			u.opts.Log.Warn("weak password entry", "source", w)
		}
	}
	if len(e.users) == 0 {
		return "", errNoUsers
	}
	return g.id, nil
}

var errNoUsers = errors.New("the users file holds no user, so nobody can log in")

// id is keyed, so that it tells nobody whether a guess of the file is right.
func (u *Users) id(content map[string][]byte) string {
	var fields [][]byte
	for _, name := range slices.Sorted(maps.Keys(content)) {
		fields = append(fields, []byte(name), content[name])
	}
	return hex.EncodeToString(u.mac(fields...)[:6])
}

// parseUsers picks the file that counts: htpasswd, auth (the key in Secrets
// made for Traefik and ingress-nginx), a username with its password
// (kubernetes.io/basic-auth), or the only file there is.
func parseUsers(content map[string][]byte, allowPlain bool) (*entries, error) {
	for _, name := range []string{"htpasswd", "auth"} {
		if data, ok := content[name]; ok {
			return parseHtpasswd(name, data, allowPlain)
		}
	}
	name, hasName := content["username"]
	password, hasPassword := content["password"]
	names := strings.Join(slices.Sorted(maps.Keys(content)), ", ")
	switch {
	case hasName && hasPassword:
		return basicAuthSecret(name, password)
	case len(content) == 1 && !hasName && !hasPassword:
		return parseHtpasswd(names, content[names], allowPlain)
	case names == "":
		names = "nothing"
	}
	return nil, fmt.Errorf("no users: looked for htpasswd, auth, or username and password; found %s", names)
}

// basicAuthSecret is a Secret of type kubernetes.io/basic-auth, whose
// password is plaintext by definition. One final newline is an editor's.
func basicAuthSecret(name, password []byte) (*entries, error) {
	user := trimNewline(string(name))
	if err := CheckName(user); err != nil {
		return nil, fmt.Errorf("username: %w", err)
	}
	h, err := plainSecret(trimNewline(string(password)))
	if err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	e := &entries{users: map[string]secret{}}
	e.add(user, h)
	return e, nil
}

func trimNewline(s string) string {
	return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
}

// Names returns the users in service in alphabetical order, nil before the
// first Load.
func (u *Users) Names() []string {
	g := u.current.Load()
	if g == nil {
		return nil
	}
	return slices.Sorted(slices.Values(g.names))
}

// Challenge returns the value of WWW-Authenticate.
func (u *Users) Challenge(*policy.Request, error) []string { return u.challenge }

// Authenticate judges a Basic credential. nil, nil: the request has none. Its
// errors are a [*policy.Refusal].
func (u *Users) Authenticate(ctx context.Context, r *policy.Request) (*policy.Login, error) {
	if r.Header == nil {
		return nil, nil
	}
	field := r.Header.Get("Authorization")
	if field == "" {
		return nil, nil
	}
	c, ok, err := parseBasic(field)
	if !ok {
		return nil, nil
	}
	if err != nil {
		return nil, &policy.Refusal{Reason: policy.BadCredentials, Err: err}
	}
	g := u.current.Load()
	if g == nil {
		return nil, &policy.Refusal{Reason: policy.DependencyDown, Err: errNoUsers}
	}
	key := u.verifiedKey(c, g.users[string(c.name)].stored)
	if login := g.remembered(key); login != nil {
		return login, nil
	}
	return u.verify(ctx, &attempt{g, c, key, keyOf(string(c.name), r.Source())})
}

// attempt is a credential that must be hashed against the users of its time.
type attempt struct {
	*generation
	credential
	key   [sha256.Size]byte // under which a success is remembered
	limit limitKey
}

// verifiedKey names a login: user, stored hash and password, each with its
// length, under a key that never leaves the process.
func (u *Users) verifiedKey(c credential, stored string) [sha256.Size]byte {
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
	return [sha256.Size]byte(k.buf)
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

func (g *generation) remembered(key [sha256.Size]byte) *policy.Login {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.verified[key]
}

func (g *generation) remember(key [sha256.Size]byte, login *policy.Login) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.verified) >= maxVerified {
		for k := range g.verified { // any one: it costs its owner one hash
			delete(g.verified, k)
			break
		}
	}
	g.verified[key] = login
}

// verify is the slow path: limiter, queue and hash. Requests that carry the
// same credential share one hash. Who stops waiting for it leaves it running:
// the guess still counts, and the queue is bounded all the same.
func (u *Users) verify(ctx context.Context, a *attempt) (*policy.Login, error) {
	if wait := u.limiter.wait(a.limit); wait > 0 {
		return nil, &policy.Refusal{Reason: policy.RateLimited, RetryAfter: wait}
	}
	flight := u.flights.DoChan(a.id+string(a.key[:])+a.limit.network.String(), func() (any, error) { return u.hash(a) })
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

// hash waits for a place and checks the password.
func (u *Users) hash(a *attempt) (*policy.Login, error) {
	if login := a.remembered(a.key); login != nil {
		return login, nil // by a flight that landed before this one took off
	}
	if u.waiting.Add(1) > maxWaiting {
		u.waiting.Add(-1)
		return nil, &policy.Refusal{Reason: policy.Overloaded, RetryAfter: time.Second}
	}
	u.hashing <- struct{}{}
	u.waiting.Add(-1)
	defer func() { <-u.hashing }()
	if wait := u.limiter.take(a.limit); wait > 0 {
		return nil, &policy.Refusal{Reason: policy.RateLimited, RetryAfter: wait}
	}
	if !u.check(a) {
		return nil, &policy.Refusal{Reason: policy.BadCredentials}
	}
	u.limiter.succeeded(a.limit)
	name := string(a.name)
	login := &policy.Login{
		User:            &policy.User{Method: policy.LocalMethod, Name: name, Stamp: u.stamp(name, a.users[name].stored)},
		ConsumedHeaders: []string{"Authorization"},
	}
	a.remember(a.key, login)
	return login, nil
}

// check makes every failure cost one verification at the file's highest cost,
// after an entry that is cheaper had its own. A name that nobody has fails as
// one of the entries does, always the same one: else the time of the two
// would tell that a cheap entry exists.
func (u *Users) check(a *attempt) bool {
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

// stamp binds a user to the stored hash without holding it.
func (u *Users) stamp(name, stored string) string {
	return hex.EncodeToString(u.mac([]byte("stamp"), []byte(name), []byte(stored))[:16])
}

// Changed is closed when another file is in service.
func (u *Users) Changed() <-chan struct{} { return u.notice.Changed() }

// Recheck returns a [policy.Refusal] when the user is gone by now, and
// [policy.ErrProveAgain] when there is another hash.
func (u *Users) Recheck(_ context.Context, user *policy.User) error {
	g := u.current.Load()
	if g == nil {
		return &policy.Refusal{Reason: policy.DependencyDown, Err: errNoUsers}
	}
	h, ok := g.users[user.Name]
	switch {
	case !ok:
		return &policy.Refusal{Reason: policy.BadCredentials}
	case subtle.ConstantTimeCompare([]byte(u.stamp(user.Name, h.stored)), []byte(user.Stamp)) != 1:
		return policy.ErrProveAgain
	}
	return nil
}
