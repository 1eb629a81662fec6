// Package authn judges passwords against a mounted file of users.
//
//	users, err := authn.NewUsers(authn.Options{Realm: "sidegate", Read: read})
//	generation, err := users.Load(ctx)
//	login, err := users.Authenticate(ctx, request)
//
// A file that holds a line it can't understand is refused as a whole; the
// users before it stay. A wrong password costs the same time whether the user
// exists or not. A right one is hashed once and then known by an HMAC as long as
// the file has the same hash for its user.
package authn

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
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
	logins    *logins
	limiter   *limiter
	flights   singleflight.Group
	queue     *queue       // for the places in which hashes are made
	hashes    atomic.Int64 // made since the start
}

// generation is one content of the file.
type generation struct {
	id string
	*entries
}

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
		logins:    newLogins(),
		limiter:   newLimiter(o.Now),
		queue:     newQueue(runtime.GOMAXPROCS(0)),
	}
	_, err := rand.Read(u.key[:])
	return u, err
}

// Load reads the file and puts it in service. It returns the id of what it put
// there. After an error without an id that is what was before. A file that was
// emptied, on purpose or by accident, lets nobody in: it is in service, and
// Load returns its id and an error.
func (u *Users) Load(context.Context) (string, error) {
	content, err := u.opts.Read()
	if err != nil {
		return "", err
	}
	in, id := u.current.Load(), u.id(content)
	if in == nil || in.id != id {
		e, err := parseUsers(content, u.opts.AllowPlain)
		switch {
		case err != nil:
			return "", err
		case in == nil && len(e.users) == 0:
			return "", errNoUsers
		}
		in = &generation{id, e}
		u.serve(in)
	}
	if len(in.users) == 0 {
		return id, errNoUsers
	}
	return id, nil
}

// serve puts a generation in service.
func (u *Users) serve(g *generation) {
	u.current.Store(g)
	u.logins.reloaded(g.users)
	u.notice.Tell()
	u.opts.Log.Info("users in service", "generation", g.id, "users", len(g.users))
	for _, w := range g.warnings {
		u.opts.Log.Warn("weak password entry", "source", w)
	}
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
