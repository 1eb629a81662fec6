package tlsproxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"sidegate/policy"
	"sidegate/policy/authn"
)

// tenThousand is a gate with as many live connections, each with a request of
// one of a hundred users in flight, under a policy of a hundred rules.
func tenThousand(tb testing.TB) *gate {
	tb.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		tb.Fatal(err)
	}
	var file, rules strings.Builder
	rules.WriteString("version: 1\nrules:\n")
	for i := range 100 {
		fmt.Fprintf(&file, "user%d:%s\n", i, hash)
		fmt.Fprintf(&rules, "- {name: r%d, paths: [/team%d/**], user: [user:user%d]}\n", i, i, i)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	users, err := authn.NewUsers(authn.Options{Realm: "x", Log: log, Read: func() (map[string][]byte, error) {
		return map[string][]byte{"htpasswd": []byte(file.String())}, nil
	}})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := users.Load(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	p, err := policy.Parse("p", []byte(rules.String()), policy.Surroundings{Gates: []policy.GateKind{{Name: "main"}}, Methods: []string{policy.LocalMethod}})
	if err != nil {
		tb.Fatal(err)
	}
	g := &gate{Gate: &Gate{Name: "main", Decider: p, Authenticators: []Authenticator{users}}, log: log}
	var logins []*policy.Login
	for i := range 100 {
		h := http.Header{}
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth(fmt.Sprintf("user%d", i), "x")
		h["Authorization"] = r.Header["Authorization"]
		login, err := users.Authenticate(context.Background(), &policy.Request{Header: h})
		if err != nil {
			tb.Fatal(err)
		}
		logins = append(logins, login)
	}
	for i := range 10000 {
		c := &conn{}
		x := &exchange{gate: g, conn: c, in: &http.Request{ProtoMajor: 2}}
		x.req = policy.Request{Gate: "main", Method: "GET", Path: fmt.Sprintf("/team%d/x", i%100)}
		x.id.User, x.by = logins[i%100].User, users
		x.enter()
		g.live.add(c)
	}
	return g
}

func BenchmarkRedecideTenThousand(b *testing.B) {
	g := tenThousand(b)
	for b.Loop() {
		g.redecide()
	}
	for _, c := range g.live.all() {
		if c.allowed.ended != "" {
			b.Fatal("ended")
		}
	}
}

// Requests enter and leave in any order, and the table stays what it is.
func TestAllowedRequestsOfAConnection(t *testing.T) {
	c := &conn{}
	var all []*exchange
	for range 4 {
		x := &exchange{conn: c, in: &http.Request{ProtoMajor: 2}}
		x.enter()
		all = append(all, x)
	}
	count := func() (n int) {
		for x := c.allowed; x != nil; x = x.next {
			n++
		}
		return n
	}
	for i, x := range []*exchange{all[1], all[3], all[0], all[2]} {
		x.leave()
		if got, want := count(), 3-i; got != want {
			t.Fatalf("%d left, want %d", got, want)
		}
	}
	never := &exchange{conn: c, in: &http.Request{ProtoMajor: 1}}
	never.leave() // it was refused
	if c.allowed != nil || c.last.req.Path != "" {
		t.Errorf("got %v %v", c.allowed, c.last)
	}
}
