package policy_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"sidegate/policy"
)

func peer(t testing.TB, cn string, dns []string, uris ...string) *policy.Peer {
	t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: cn, Organization: []string{"system:masters"}}, DNSNames: dns}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	return policy.NewPeer(c)
}

// SPI-01, SPI-02: what is no SPIFFE ID gives none.
func TestPeerID(t *testing.T) {
	const good = "spiffe://td.example/ns/a"
	if id := peer(t, "", nil, good).ID.String(); id != good {
		t.Errorf("got %q, want %q", id, good)
	}
	if p := peer(t, "", nil, good, "https://x.example"); !p.ID.IsZero() {
		t.Errorf("two URI SANs give %s", p.ID)
	}
	for _, s := range []string{
		"spiffe://td.example", "spiffe://td.example/", "spiffe://td.example/a/", "spiffe://td.example//a",
		"spiffe://td.example/./a", "spiffe://td.example/../a", "spiffe://td.example/a?q", "spiffe://td.example/a?",
		"spiffe://td.example/a#f", "spiffe://user@td.example/a", "spiffe://td.example:80/a", "spiffe://TD.example/a",
		"spiffe://td.example/%61", "https://td.example/a", "spiffe:///a",
	} {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		if p := policy.NewPeer(&x509.Certificate{URIs: []*url.URL{u}}); !p.ID.IsZero() {
			t.Errorf("%s gives the ID %s", s, p.ID)
		}
	}
}

func decide(t testing.TB, principal string, id policy.Identity) bool {
	t.Helper()
	p, err := policy.NewAllow([]string{principal}, []string{policy.LocalMethod})
	if err != nil {
		t.Fatalf("%s: %v", principal, err)
	}
	return p.Decide(t.Context(), &policy.Request{Gate: "main"}, id).Allow
}

func TestPeerPrincipals(t *testing.T) {
	spiffe := func(path string) *policy.Peer { return peer(t, "", nil, "spiffe://td.example"+path) }
	cases := []struct {
		name, principal string
		peer            *policy.Peer
		want            bool
	}{
		{"exact", "spiffe://td.example/ns/a", spiffe("/ns/a"), true},
		{"other path", "spiffe://td.example/ns/a", spiffe("/ns/b"), false},
		{"case counts", "spiffe://td.example/ns/a", spiffe("/ns/A"), false},
		{"SPI-04 one segment", "spiffe://td.example/ns/*", spiffe("/ns/b"), true},
		{"SPI-04 none", "spiffe://td.example/ns/a/*", spiffe("/ns/a"), false},
		{"SPI-04 two", "spiffe://td.example/ns/a/*", spiffe("/ns/a/b/c"), false},
		{"SPI-04 in the middle", "spiffe://td.example/ns/*/sa/web", spiffe("/ns/x/sa/web"), true},
		{"SPI-04 in the middle, other end", "spiffe://td.example/ns/*/sa/web", spiffe("/ns/x/sa/db"), false},
		{"SPI-05 below", "spiffe://td.example/ns/a/**", spiffe("/ns/a/b/c"), true},
		{"SPI-05 sibling", "spiffe://td.example/ns/a/**", spiffe("/ns/ab"), false},
		{"SPI-05 below a sibling", "spiffe://td.example/ns/a/**", spiffe("/ns/ab/c"), false},
		{"longer segment", "spiffe://td.example/ns/a", spiffe("/ns/ab"), false},
		{"SPI-05 itself", "spiffe://td.example/ns/a/**", spiffe("/ns/a"), false},
		{"SPI-05 another trust domain", "spiffe://td.example/ns/a/**", peer(t, "", nil, "spiffe://other.example/ns/a/b"), false},
		{"SPI-07 literal dot", "spiffe://td.example/a.c", spiffe("/abc"), false},
		{"dns", "dns:a.example", peer(t, "", []string{"A.example"}), true},
		{"dns wildcard", "dns:*.example", peer(t, "", []string{"a.example"}), true},
		{"dns wildcard covers one label", "dns:*.example", peer(t, "", []string{"a.b.example"}), false},
		{"dns suffix", "dns:a.example", peer(t, "", []string{"xa.example"}), false},
		{"TLS-12 dns and a CN", "dns:a.example", peer(t, "a.example", nil), false},
		{"TLS-12 cn without SAN", "cn:a.example", peer(t, "a.example", nil), true},
		{"TLS-12 cn with a SAN", "cn:a.example", peer(t, "a.example", []string{"b.example"}), false},
		{"TLS-13 O is no group", "group:system:masters", peer(t, "x", nil), false},
		{"TLS-13 nor a user's", "user:x", peer(t, "x", nil), false},
		{"subject", "subject:CN=x,O=system:masters", peer(t, "x", nil), true},
		{"subject in part", "subject:CN=x", peer(t, "x", nil), false},
		{"uri", "uri:https://x.example/a", peer(t, "", nil, "https://x.example/a"), true},
		{"any-peer", "any-peer", peer(t, "x", nil), true},
		{"any-peer and none", "any-peer", nil, false},
		{"authenticated is a user", "authenticated", peer(t, "x", nil), false},
		{"anyone", "anyone", nil, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := decide(t, c.principal, policy.Identity{Peer: c.peer}); got != c.want {
				t.Errorf("%s for %+v: got %t, want %t", c.principal, c.peer, got, c.want)
			}
		})
	}
}

func TestUserPrincipals(t *testing.T) {
	local := func(name string) *policy.User { return &policy.User{Method: "local", Name: name} }
	mail := func(s string) *policy.User { return &policy.User{Method: "oidc", Name: "x", Email: s} }
	cases := []struct {
		principal string
		user      *policy.User
		want      bool
	}{
		{"user:alice", local("alice"), true},
		{"user:alice", local("Alice"), false},
		{"user:alice", &policy.User{Method: "ldap", Name: "alice"}, false}, // another method's alice
		{"user:ldap/alice", &policy.User{Method: "ldap", Name: "alice"}, true},
		{"group:ldap/ops", &policy.User{Method: "ldap", Name: "x", Groups: []string{"dev", "ops"}}, true},
		{"group:ldap/ops", &policy.User{Method: "github", Name: "x", Groups: []string{"ops"}}, false},
		{"group:ops", &policy.User{Method: "ldap", Name: "x", Groups: []string{"ops"}}, false},
		{"authenticated", local("x"), true},
		{"authenticated", nil, false},
		{"issuer:https://idp", &policy.User{Method: "oidc", Issuer: "https://idp"}, true},
		{"serviceaccount:ns/sa", &policy.User{Method: "kubernetes", Name: "system:serviceaccount:ns:sa"}, true},
		{"serviceaccount:ns/sa", local("system:serviceaccount:ns:sa"), false},
		{"email:a@company.com", mail("a@Company.com"), true},
		{"email:*@company.com", mail("a@company.com"), true},
		{"email:*@company.com", mail("a@evil.com@company.com"), false},
		{"email:*@company.com", mail(`"a@b"@company.com`), false},
		{"email:*@company.com", mail("a@company.com "), false},
		{"email:*@company.com", mail("a@company.com."), false},
		{"email:*@company.com", mail("a@sub.company.com"), false},
		{"email:*@company.com", mail("a@ⅽompany.com"), false}, // a Roman numeral
		{"email:*@company.com", mail(""), false},
	}
	for _, c := range cases {
		if got := decide(t, c.principal, policy.Identity{User: c.user}); got != c.want {
			t.Errorf("%s for %+v: got %t, want %t", c.principal, c.user, got, c.want)
		}
	}
}

func TestBadPrincipals(t *testing.T) {
	for principal, want := range map[string]string{
		"":                         "empty",
		"any":                      "none of",
		"usr:alice":                "did you mean user:?",
		"authentcated":             "did you mean authenticated?",
		"spiffe://":                "not a SPIFFE ID", // SPI-06
		"spiffe://*/a":             "trust domain",
		"spiffe://td.example/a*":   "whole segment",
		"spiffe://td.example/**/a": "whole segment",
		"spiffe://td.example/a/":   "not a SPIFFE ID", // SPI-02
		"spiffe://td.example":      "not a SPIFFE ID",
		"spiffe://td.example/../a": "not a SPIFFE ID",
		"spiffe://TD.example/a":    "not a SPIFFE ID",
		"spiffe://td.example/a?b":  "not a SPIFFE ID",
		"spiffe:td.example/a":      "begins with spiffe://",
		"*":                        "none of",
		"user:":                    "names nobody",
		"user:*":                   "say authenticated",
		"dns:*":                    "say any",
		"email:company.com":        "not an address",
		"email:a*@company.com":     "not an address",
		"serviceaccount:ns":        "NAMESPACE/NAME",
	} {
		_, err := policy.NewAllow([]string{principal}, []string{"local"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", principal, err, want)
		}
	}
}

func TestDecide(t *testing.T) {
	user := &policy.User{Method: "local", Name: "alice"}
	someone := peer(t, "x", nil)
	both, err := policy.NewDefault([]policy.GateKind{
		{Name: "open"}, {Name: "both", CertAsked: true, CertRequired: true}, {Name: "optional", CertAsked: true},
	}, []string{"local"})
	if err != nil {
		t.Fatal(err)
	}
	allow, err := policy.NewAllow([]string{"user:alice", "any-peer"}, []string{"local"})
	if err != nil {
		t.Fatal(err)
	}
	unprovable, err := policy.NewAllow([]string{"user:ldap/alice"}, []string{"local"})
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		policy *policy.Policy
		gate   string
		id     policy.Identity
		want   policy.Decision
	}{
		{"a user passes", both, "open", policy.Identity{User: user}, policy.Decision{Allow: true, Rule: "default"}},
		{"nobody is challenged", both, "open", policy.Identity{}, policy.Decision{Rule: "default", Reason: policy.NoCredentials, Challenge: true}},
		{"a certificate alone is challenged", both, "both", policy.Identity{Peer: someone}, policy.Decision{Rule: "default", Reason: policy.NoCredentials, Challenge: true}},
		{"a user alone is refused where both are needed", both, "both", policy.Identity{User: user}, policy.Decision{Rule: "default", Reason: policy.RuleDenied}},
		{"both pass", both, "both", policy.Identity{Peer: someone, User: user}, policy.Decision{Allow: true, Rule: "default"}},
		{"optional wants a user", both, "optional", policy.Identity{Peer: someone}, policy.Decision{Rule: "default", Reason: policy.NoCredentials, Challenge: true}},
		{"HTTP-10 no rule for this gate", both, "other", policy.Identity{User: user}, policy.Decision{Reason: policy.NoRule}},
		{"either: the peer", allow, "x", policy.Identity{Peer: someone}, policy.Decision{Allow: true, Rule: "allow"}},
		{"either: the user", allow, "x", policy.Identity{User: user}, policy.Decision{Allow: true, Rule: "allow"}},
		{"either: another user", allow, "x", policy.Identity{User: &policy.User{Method: "local", Name: "bob"}}, policy.Decision{Rule: "allow", Reason: policy.RuleDenied}},
		{"no challenge that can't be met", unprovable, "x", policy.Identity{}, policy.Decision{Rule: "allow", Reason: policy.RuleDenied}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := c.policy.Decide(t.Context(), &policy.Request{Gate: c.gate}, c.id); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
	if len(unprovable.Warnings()) != 1 {
		t.Errorf("warnings %q, want one", unprovable.Warnings())
	}
	if _, err := policy.NewDefault([]policy.GateKind{{Name: "m", CertAsked: true}}, nil); err == nil || !strings.Contains(err.Error(), "any-peer") {
		t.Errorf("certificates without users: %v", err)
	}
	if _, err := policy.NewDefault([]policy.GateKind{{Name: "m"}}, nil); err == nil {
		t.Error("nothing that authenticates was accepted")
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	p, id := manyPrincipals(t)
	r := &policy.Request{Gate: "main"}
	if n := testing.AllocsPerRun(100, func() { p.Decide(t.Context(), r, id) }); n != 0 {
		t.Errorf("%v allocations a decision", n)
	}
}

func manyPrincipals(tb testing.TB) (*policy.Policy, policy.Identity) {
	var list []string
	for i := range 100 {
		list = append(list, fmt.Sprintf("spiffe://td.example/ns/*/sa/s%d", i))
	}
	p, err := policy.NewAllow(list, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return p, policy.Identity{Peer: peer(tb, "", nil, "spiffe://td.example/ns/x/sa/s99")}
}

func BenchmarkDecide(b *testing.B) {
	p, id := manyPrincipals(b)
	r := &policy.Request{Gate: "main"}
	for b.Loop() {
		p.Decide(b.Context(), r, id)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"serve", "check", "passwd", "demo"}
	for word, want := range map[string]string{"sevre": "serve", "chek": "check", "password": "passwd", "xyzzy": "", "Demo": "demo"} {
		if got := policy.Nearest(word, words); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func FuzzNewAllow(f *testing.F) {
	for _, s := range []string{"spiffe://td/a/*", "user:ldap/x", "email:*@a.b", "dns:*.a", "any-peer"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := policy.NewAllow([]string{s}, nil)
		if err != nil {
			return
		}
		d := p.Decide(t.Context(), &policy.Request{}, policy.Identity{})
		if d.Allow && s != "anyone" {
			t.Errorf("%q allows nobody in particular", s)
		}
	})
}

func Example() {
	p, err := policy.NewAllow([]string{"user:alice", "spiffe://prod.example/ns/web/sa/*"}, []string{policy.LocalMethod})
	if err != nil {
		fmt.Println(err)
		return
	}
	request := &policy.Request{Gate: "main", Method: "GET", Path: "/"}
	alice := policy.Identity{User: &policy.User{Method: policy.LocalMethod, Name: "alice"}}
	fmt.Println(p.Decide(context.Background(), request, alice).Allow)
	fmt.Println(p.Decide(context.Background(), request, policy.Identity{}).Reason)
	// Output:
	// true
	// no_credentials
}
