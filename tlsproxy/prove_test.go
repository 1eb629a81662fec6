package tlsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"sidegate/policy"
	"sidegate/policy/authn"
)

// endings are the reasons for which requests ended.
type endings struct {
	GateMetrics
	reasons chan policy.Reason
}

func (e *endings) RequestEnded(r policy.Reason) { e.reasons <- r }

// gateFor is a gate with rules whose changes a test tells of.
func gateFor(t *testing.T, rules string) (*gate, *endings) {
	t.Helper()
	p, err := policy.Parse("p", []byte("version: 1\nrules: ["+rules+"]\n"), policy.Surroundings{
		Gates: []policy.GateKind{{Name: "main"}}, Methods: []string{policy.LocalMethod}})
	if err != nil {
		t.Fatal(err)
	}
	e := &endings{reasons: make(chan policy.Reason, 10)}
	return &gate{Gate: &Gate{Name: "main", Decider: p}, log: slog.New(slog.DiscardHandler), metrics: e}, e
}

// underWay puts a request with that login into the gate, and returns a channel
// that tells when its connection was closed.
func underWay(t *testing.T, g *gate, by Authenticator, r policy.Request, login *policy.Login) (ended chan time.Time) {
	t.Helper()
	x, ended := newExchange(t, g, by, r, login)
	x.conn.active.Store(1)
	return ended
}

// waiting is underWay of a request that has been answered.
func waiting(t *testing.T, g *gate, by Authenticator, r policy.Request, login *policy.Login) (ended chan time.Time) {
	t.Helper()
	x, ended := newExchange(t, g, by, r, login)
	x.leave()
	return ended
}

func newExchange(t *testing.T, g *gate, by Authenticator, r policy.Request, login *policy.Login) (*exchange, chan time.Time) {
	t.Helper()
	client, server := net.Pipe()
	c := &conn{Conn: server, onClose: func() {}}
	x := &exchange{gate: g, conn: c, in: &http.Request{ProtoMajor: 1}}
	x.req, x.id.User, x.by = r, login.User, by
	g.live.add(c)
	x.enter()
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = io.Copy(io.Discard, client) // until it is closed
		ended <- time.Now()
	}()
	t.Cleanup(func() { _ = c.Close() })
	return x, ended
}

func withPassword(name, password, from string) policy.Request {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth(name, password)
	return policy.Request{Gate: "main", Method: "GET", Path: "/", Client: netip.MustParseAddr(from), Header: r.Header}
}

// PWD-18, ROT-13: what an old password and a removed user began ends within a
// second; of whoever has the same password, hashed anew, nothing does. That
// attackers have used up all limits of their common address changes neither.
func TestRequestsAfterUsersChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const router = "192.0.2.1"
		entry := func(name, password string) string {
			hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
			if err != nil {
				t.Fatal(err)
			}
			return name + ":" + string(hash) + "\n"
		}
		same := entry("same", "x")
		file := same + entry("rehashed", "x") + entry("changed", "x") + entry("removed", "x")
		users, err := authn.NewUsers(authn.Options{Realm: "x", Log: slog.New(slog.DiscardHandler), Read: func() (map[string][]byte, error) {
			return map[string][]byte{"htpasswd": []byte(file)}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := users.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		g, e := gateFor(t, "{name: all, user: [authenticated]}")
		requests := map[string]chan time.Time{}
		for _, name := range users.Names() {
			r := withPassword(name, "x", router)
			login, err := users.Authenticate(t.Context(), &r)
			if err != nil {
				t.Fatal(err)
			}
			requests[name] = underWay(t, g, users, r, login)
		}
		for i := range 200 {
			for _, name := range append(users.Names(), fmt.Sprint("junk", i)) {
				r := withPassword(name, "guess", router)
				_, _ = users.Authenticate(t.Context(), &r)
			}
		}

		idle := map[string]chan time.Time{}
		for _, name := range users.Names() {
			r := withPassword(name, "x", router)
			login, err := users.Authenticate(t.Context(), &r)
			if err != nil {
				t.Fatal(err)
			}
			idle[name] = waiting(t, g, users, r, login)
		}

		file = same + entry("rehashed", "x") + entry("changed", "y")
		if _, err := users.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		g.redecide()
		if took := (<-idle["removed"]).Sub(began); took > time.Second || <-e.reasons != policy.BadCredentials {
			t.Errorf("the idle connection of who was removed ended after %s", took)
		}
		for _, name := range []string{"changed", "removed"} {
			if took := (<-requests[name]).Sub(began); took > time.Second {
				t.Errorf("%s: ended after %s", name, took)
			}
			if reason := <-e.reasons; reason != policy.BadCredentials {
				t.Errorf("ended for %s", reason)
			}
		}
		for range 3 { // and later looks don't either
			time.Sleep(time.Minute)
			g.redecide()
		}
		for _, name := range []string{"same", "rehashed"} {
			if len(requests[name])+len(idle[name]) > 0 {
				t.Errorf("%s was ended", name)
			}
			r := withPassword(name, "x", router)
			if _, err := users.Authenticate(t.Context(), &r); err != nil {
				t.Errorf("the next login of %s: %v", name, err)
			}
		}
		if len(e.reasons) > 0 {
			t.Errorf("a request ended for %s", <-e.reasons)
		}
	})
}

// token is a method whose answers a test sets, as that of a directory is set by
// others. Each call of Authenticate takes the next answer; the last one stays.
type token struct {
	policy.Notice
	recheck error
	answers []func() (*policy.Login, error)
	asked   int
}

func (m *token) Authenticate(context.Context, *policy.Request) (*policy.Login, error) {
	answer := m.answers[min(m.asked, len(m.answers)-1)]
	m.asked++
	return answer()
}

func (*token) Challenge(*policy.Request, error) []string     { return nil }
func (m *token) Recheck(context.Context, *policy.User) error { return m.recheck }

func proves(u policy.User) func() (*policy.Login, error) {
	return func() (*policy.Login, error) { return &policy.Login{User: &u}, nil }
}

func refuses(err error) func() (*policy.Login, error) {
	return func() (*policy.Login, error) { return nil, err }
}

// PWD-18, PWD-14: a credential that is judged again goes on proving its own
// user and no other; an answer that says nothing about it is neither a proof nor
// an end, but has its bound too.
func TestCredentialsJudgedAgain(t *testing.T) {
	user := policy.User{Method: policy.LocalMethod, Issuer: "here", Name: "alice", Groups: []string{"devs"}, Stamp: "1"}
	as := func(change func(*policy.User)) func() (*policy.Login, error) {
		u := user
		u.Stamp = "2"
		change(&u)
		return proves(u)
	}
	same := as(func(*policy.User) {})
	busy := func(r policy.Reason) func() (*policy.Login, error) { return refuses(&policy.Refusal{Reason: r}) }
	type answers = []func() (*policy.Login, error)
	for _, c := range []struct {
		name    string
		recheck error
		answers answers
		want    policy.Reason // "": it goes on
	}{
		{"the same user", nil, answers{same}, ""},
		{"another name", nil, answers{as(func(u *policy.User) { u.Name = "bob" })}, policy.BadCredentials},
		{"the name in other letters", nil, answers{as(func(u *policy.User) { u.Name = "Alice" })}, policy.BadCredentials},
		{"the name of another issuer", nil, answers{as(func(u *policy.User) { u.Issuer = "there" })}, policy.BadCredentials},
		{"the name of another method", nil, answers{as(func(u *policy.User) { u.Method = "cert" })}, policy.BadCredentials},
		{"out of the group", nil, answers{as(func(u *policy.User) { u.Groups = nil })}, policy.RuleDenied},
		{"nobody", nil, answers{refuses(nil)}, policy.BadCredentials},
		{"no user", nil, answers{func() (*policy.Login, error) { return &policy.Login{}, nil }}, policy.BadCredentials},
		{"wrong", nil, answers{busy(policy.BadCredentials)}, policy.BadCredentials},
		{"limited, then the same user", nil, answers{busy(policy.RateLimited), busy(policy.RateLimited), same}, ""},
		{"overloaded, then the same user", nil, answers{busy(policy.Overloaded), same}, ""},
		{"no answer, then the same user", nil, answers{refuses(errors.New("away")), busy(policy.DependencyDown), same}, ""},
		{"limited, then wrong", nil, answers{busy(policy.RateLimited), busy(policy.BadCredentials)}, policy.BadCredentials},
		{"limited for ever", nil, answers{busy(policy.RateLimited)}, policy.RateLimited},
		{"no answer for ever", nil, answers{refuses(errors.New("away"))}, policy.DependencyDown},
		{"removed", &policy.Refusal{Reason: policy.BadCredentials}, nil, policy.BadCredentials},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, e := gateFor(t, "{name: devs, user: [group:devs]}")
				m := &token{recheck: c.recheck, answers: c.answers}
				if m.recheck == nil {
					m.recheck = policy.ErrProveAgain
				}
				began := time.Now()
				ended := underWay(t, g, m, policy.Request{Gate: "main", Method: "GET", Path: "/"}, &policy.Login{User: &user})
				g.redecide()
				time.Sleep(time.Hour)
				var reason policy.Reason
				if len(e.reasons) > 0 {
					reason = <-e.reasons
				}
				if reason != c.want || len(e.reasons) > 0 {
					t.Errorf("ended for %q, want %q, once", reason, c.want)
				}
				if c.want == "" {
					if len(ended) > 0 {
						t.Error("it was ended")
					}
					return
				}
				if took := (<-ended).Sub(began); took > time.Second {
					t.Errorf("ended after %s", took)
				}
				if strings.HasPrefix(c.name, "removed") && m.asked > 0 {
					t.Error("the credential of a removed user was judged")
				}
			})
		})
	}
}
