package policy_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"sidegate/policy"
)

// Kinds of GeneralName, RFC 5280, 4.2.1.6.
const (
	otherName = 0
	rfc822    = 1
	dnsName   = 2
	uri       = 6
)

func san(kind int, value string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: kind, IsCompound: kind == otherName, Bytes: []byte(value)}
}

// parsePeer makes a certificate of exactly these names, reads it as a
// handshake does and says who it proves. err is crypto/x509's.
func parsePeer(t testing.TB, subject pkix.RDNSequence, names ...asn1.RawValue) (*policy.Peer, error) {
	t.Helper()
	rawSubject, err := asn1.Marshal(subject)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(0xab), RawSubject: rawSubject}
	if len(names) > 0 {
		value, err := asn1.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return policy.NewPeer(leaf), nil
}

func mustPeer(t testing.TB, subject pkix.RDNSequence, names ...asn1.RawValue) *policy.Peer {
	t.Helper()
	p, err := parsePeer(t, subject, names...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// dn is a subject of attributes in the order in which they are signed.
func dn(attributes ...string) (name pkix.RDNSequence) {
	kinds := map[string]int{"CN": 3, "C": 6, "L": 7, "ST": 8, "O": 10, "OU": 11}
	for _, a := range attributes {
		kind, value, _ := strings.Cut(a, "=")
		name = append(name, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, kinds[kind]}, Value: value}})
	}
	return name
}

func peer(t testing.TB, cn string, dns []string, uris ...string) *policy.Peer {
	t.Helper()
	var names []asn1.RawValue
	for _, s := range dns {
		names = append(names, san(dnsName, s))
	}
	for _, s := range uris {
		names = append(names, san(uri, s))
	}
	return mustPeer(t, dn("O=system:masters", "CN="+cn), names...)
}

func TestPeerID(t *testing.T) {
	const good = "spiffe://td.example/ns/a"
	cases := []struct {
		name string
		uris []string
		want string
	}{
		{"one ID", []string{good}, good},
		{"SPI-01 none", nil, ""},
		{"SPI-01 two", []string{good, "https://x.example"}, ""},
		{"SPI-01 the same twice", []string{good, good}, ""},
		{"SPI-02 no path", []string{"spiffe://td.example"}, ""},
		{"SPI-02 a slash only", []string{"spiffe://td.example/"}, ""},
		{"SPI-02 trailing slash", []string{good + "/"}, ""},
		{"SPI-02 empty segment", []string{"spiffe://td.example//a"}, ""},
		{"SPI-02 dot", []string{"spiffe://td.example/./a"}, ""},
		{"SPI-02 dot dot", []string{"spiffe://td.example/../a"}, ""},
		{"SPI-02 query", []string{good + "?q"}, ""},
		{"SPI-02 empty query", []string{good + "?"}, ""},
		{"SPI-02 fragment", []string{good + "#f"}, ""},
		{"SPI-02 empty fragment, which net/url drops", []string{good + "#"}, ""},
		{"SPI-02 userinfo", []string{"spiffe://user@td.example/a"}, ""},
		{"SPI-02 empty userinfo", []string{"spiffe://@td.example/a"}, ""},
		{"SPI-02 port", []string{"spiffe://td.example:80/a"}, ""},
		{"SPI-02 empty port", []string{"spiffe://td.example:/a"}, ""},
		{"SPI-02 upper-case trust domain", []string{"spiffe://TD.example/a"}, ""},
		{"SPI-02 upper-case scheme, which net/url lowers", []string{"SPIFFE://td.example/a"}, ""},
		{"SPI-02 percent-escape", []string{"spiffe://td.example/%61"}, ""},
		{"SPI-02 escaped slash", []string{"spiffe://td.example/a%2fb"}, ""},
		{"another scheme", []string{"https://td.example/a"}, ""},
		{"no trust domain", []string{"spiffe:///a"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var names []asn1.RawValue
			for _, s := range c.uris {
				names = append(names, san(uri, s))
			}
			p, err := parsePeer(t, dn("CN=x"), names...)
			if err != nil { // crypto/x509 refuses the certificate whole, which is as good
				if c.want != "" {
					t.Fatal(err)
				}
				return
			}
			if got := p.ID.String(); got != c.want {
				t.Errorf("%q: got the ID %q, want %q", c.uris, got, c.want)
			}
			if !slices.Equal(p.URIs, c.uris) {
				t.Errorf("got the URIs %q, want %q", p.URIs, c.uris)
			}
		})
	}
}

// Facts of a certificate arrive as they were signed.
func TestNewPeer(t *testing.T) {
	p := mustPeer(t, dn("C=CH", "ST=Bern", "L=Thun", "O=A, B", "OU=web", "CN=x"), san(dnsName, "A.Example."), san(rfc822, "a@b.example"))
	// As printed by openssl x509 -noout -subject -nameopt RFC2253.
	if got, want := p.Subject, `CN=x,OU=web,O=A\, B,L=Thun,ST=Bern,C=CH`; got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
	if p.Issuer != p.Subject { // self-signed
		t.Errorf("issuer %q, want %q", p.Issuer, p.Subject)
	}
	if p.Serial != "ab" || p.CommonName != "" || !slices.Equal(p.DNSNames, []string{"a.example"}) || !slices.Equal(p.Emails, []string{"a@b.example"}) {
		t.Errorf("got %+v", p)
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

// federated is a peer of another trust domain than the gate's.
func federated(p *policy.Peer) *policy.Peer {
	p.Federated = true
	return p
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
		{"dns wildcard covers no parent", "dns:*.example", peer(t, "", []string{"example"}), false},
		{"dns wildcard of another parent", "dns:*.example", peer(t, "", []string{"a.other"}), false},
		{"a wildcard SAN is nobody", "dns:*.example", peer(t, "", []string{"*.example"}), false},
		{"dns suffix", "dns:a.example", peer(t, "", []string{"xa.example"}), false},
		{"TLS-12 dns and a CN", "dns:a.example", peer(t, "a.example", nil), false},
		{"TLS-12 cn without SAN", "cn:a.example", peer(t, "a.example", nil), true},
		{"TLS-12 cn with a SAN", "cn:a.example", peer(t, "a.example", []string{"b.example"}), false},
		{"TLS-12 cn with a URI", "cn:x", peer(t, "x", nil, "spiffe://td.example/a"), false},
		{"TLS-12 cn with a SAN that Go passes over", "cn:x", mustPeer(t, dn("CN=x"), san(otherName, "\x06\x03\x2a\x03\x04\xa0\x03\x0c\x01y")), false},
		{"TLS-12 another cn", "cn:b.example", peer(t, "a.example", nil), false},
		{"TLS-13 O is no group", "group:system:masters", peer(t, "x", nil), false},
		{"TLS-13 nor a user's", "user:x", peer(t, "x", nil), false},
		{"subject", "subject:CN=x,O=system:masters", peer(t, "x", nil), true},
		{"subject in part", "subject:CN=x", peer(t, "x", nil), false},
		{"subject with one CN more", "subject:CN=x", mustPeer(t, dn("CN=y", "CN=x")), false},
		{"subject in its order", "subject:CN=x,OU=b,O=a", mustPeer(t, dn("O=a", "OU=b", "CN=x")), true},
		{"uri of another", "uri:https://x.example/a", peer(t, "", nil, "https://x.example/b"), false},
		{"uri", "uri:https://x.example/a", peer(t, "", nil, "https://x.example/a"), true},
		{"any-peer", "any-peer", peer(t, "x", nil), true},
		{"any-peer and none", "any-peer", nil, false},
		{"SPI-08 any-peer and another domain's", "any-peer", federated(peer(t, "", nil, "spiffe://td.example/a")), false},
		{"SPI-08 another domain's that is named", "spiffe://td.example/a", federated(peer(t, "", nil, "spiffe://td.example/a")), true},
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

// OIDC-13, OIDC-14 for the addresses; the rest is whose name a name is.
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
		{"email:*@company.com", mail("a@company.com\n"), false},
		{"email:*@company.com", mail("a\t@company.com"), false},
		{"email:*@company.com", mail("a(x)@company.com"), false},
		{"email:*@company.com", mail("@company.com"), false},
		{"email:*@company.com", mail("company.com"), false},
		{"email:*@company.com", mail("a@evilcompany.com"), false},
		{"email:*@COMPANY.com", mail("a@company.com"), true},
		{"email:a@company.com", mail("A@company.com"), false}, // RFC 5321: only the domain's case is nothing
		{"email:a@company.com", mail("b@company.com"), false},
		{"email:a@company.com", mail(""), false},   // OIDC-14
		{"email:*@company.com", mail(""), false},   // OIDC-14
		{"issuer:https://idp", local("x"), false},  // a user without an issuer
		{"user:local/alice", local("alice"), true}, // the long form of the same
		{"group:corp//ops", &policy.User{Method: "corp", Groups: []string{"/ops"}}, true},
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
		"spiffe://*/a":             "trust domain can't be a pattern",
		"spiffe://*.example/a":     "trust domain can't be a pattern",
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
		"serviceaccount:a:b/c":     "NAMESPACE/NAME",
		"serviceaccount:ns/a/b":    "NAMESPACE/NAME",
		"serviceaccount:ns/*":      "NAMESPACE/NAME",
		"user:ldap/*":              "can't be a pattern",
		"group:op*":                "can't be a pattern",
		"user:/alice":              "lacks a method",
		"user:ldap/":               "lacks a method",
		"dns:a.*":                  "not a DNS name",
		"dns:a*.example":           "not a DNS name",
		"dns:*.":                   "not a DNS name",
		"dns:.":                    "not a DNS name",
		"dns:a..b":                 "not a DNS name",
		"dns:bücher.example":       "not a DNS name",
		"email:*@company.com.":     "not an address",
		"email:*@bücher.example":   "xn--",
		"email:*@*.company.com":    "not an address",
		"email:a@b@company.com":    "not an address",
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

func TestNewAllowReportsAllProblems(t *testing.T) {
	p, err := policy.NewAllow([]string{"usr:a", "user:alice", "spiffe://*/a"}, nil)
	if p != nil || err == nil || !strings.Contains(err.Error(), "usr:a") || !strings.Contains(err.Error(), "spiffe://*/a") {
		t.Errorf("got %v, %v, want no policy and both problems", p, err)
	}
	if p, err := policy.NewAllow(nil, nil); p != nil || err == nil {
		t.Errorf("nobody at all: %v, %v", p, err)
	}
	p, err = policy.NewDefault([]policy.GateKind{{Name: "a"}, {Name: "b", CertAsked: true}}, nil)
	if p != nil || err == nil || !strings.Contains(err.Error(), "gate a") || !strings.Contains(err.Error(), "gate b") {
		t.Errorf("got %v, %v, want no policy and both gates", p, err)
	}
}

func TestString(t *testing.T) {
	p, err := policy.NewAllow([]string{"user:alice", "any-peer"}, []string{"local"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.String(), "user:alice or peer any"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p, err = policy.NewDefault([]policy.GateKind{{Name: "main"}, {Name: "api", CertAsked: true, CertRequired: true}}, []string{"local"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.String(), "gate main: authenticated; gate api: peer any and authenticated"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWarnings(t *testing.T) {
	cases := []struct {
		name       string
		principals []string
		methods    []string
		want       []string // a part of each
	}{
		{"none", []string{"user:alice", "any-peer"}, []string{"local"}, nil},
		{"anyone alone is on purpose", []string{"anyone"}, nil, nil},
		{"anyone beside others", []string{"user:alice", "anyone"}, []string{"local"}, []string{"anyone"}},
		{"a method that is not there", []string{"user:ldap/x", "group:ldap/y", "user:alice"}, []string{"local"}, []string{"user:ldap/x", "group:ldap/y"}},
		{"no method at all", []string{"authenticated", "any-peer"}, nil, []string{"authenticated"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := policy.NewAllow(c.principals, c.methods)
			if err != nil {
				t.Fatal(err)
			}
			got := p.Warnings()
			if !slices.EqualFunc(got, c.want, strings.Contains) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
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

func ExampleParse() {
	p, err := policy.Parse("policy.yaml", []byte(design), policy.Surroundings{
		Gates:   []policy.GateKind{{Name: "main", CertAsked: true}},
		Methods: []string{policy.LocalMethod, "ldap"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	alice := policy.Identity{User: &policy.User{Method: policy.LocalMethod, Name: "alice"}}
	for _, path := range []string{"/metrics", "/admin/users", "/index.html"} {
		d := p.Decide(context.Background(), &policy.Request{Gate: "main", Method: "GET", Path: path}, alice)
		fmt.Printf("%s: %s, %t\n", path, d.Rule, d.Allow)
	}
	// Output:
	// /metrics: scrape, true
	// /admin/users: admin, false
	// /index.html: all others, true
}
