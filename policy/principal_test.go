package policy

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// email: means the peer's SAN where a principal can only be a peer's, and a
// user's verified address in a list of both.
func TestPeerEmail(t *testing.T) {
	match := func(principal, address string) bool {
		t.Helper()
		p, err := parsePeer(principal)
		if err != nil {
			t.Fatal(err)
		}
		return p.match(&Peer{Emails: []string{"other@elsewhere.example", address}})
	}
	cases := []struct {
		principal, address string
		want               bool
	}{
		{"email:a@b.example", "a@b.example", true},
		{"email:a@b.example", "a@B.example", true},
		{"email:a@b.example", "A@b.example", false},
		{"email:a@b.example", "a@b.example.", false},
		{"email:*@b.example", "x@b.example", true},
		{"email:*@b.example", "x@c@b.example", false},
	}
	for _, c := range cases {
		if got := match(c.principal, c.address); got != c.want {
			t.Errorf("%s for %q: got %t, want %t", c.principal, c.address, got, c.want)
		}
	}
	if _, err := parsePeer("email:b.example"); err == nil {
		t.Error("a domain alone was taken for an address")
	}
	flat, err := parseAllowed("email:a@b.example")
	if err != nil || len(flat.users) != 1 || len(flat.peers) != 0 {
		t.Errorf("in a list of both: %+v, %v", flat, err)
	}
}

// SPI-09: a SPIFFE ID is not asked for as just any URI: a certificate of another
// CA may hold two.
func TestSPIFFEIDAsURI(t *testing.T) {
	for _, s := range []string{"uri:spiffe://td.example/a", "uri:SPIFFE://td.example/a", "uri:spiffe:td.example/a", "uri: spiffe://td.example/a", "uri:spiffe://td.example/*"} {
		if _, err := parsePeer(s); err == nil || !strings.Contains(err.Error(), "written without uri:, as spiffe://") {
			t.Errorf("%q: got %v, want it refused with a hint", s, err)
		}
		if _, err := NewAllow([]string{s}, nil); err == nil {
			t.Errorf("SIDEGATE_ALLOW=%q was taken", s)
		}
	}
	_, err := Parse("policy.yaml", []byte("version: 1\nrules:\n  - name: x\n    peer: [uri:spiffe://td.example/a]\n"), Surroundings{})
	if err == nil || !strings.Contains(err.Error(), "policy.yaml:4") || !strings.Contains(err.Error(), "as spiffe://") {
		t.Errorf("in a file: got %v", err)
	}
	for _, s := range []string{"uri:https://a.example/spiffe:x", "uri:spiffes://a.example/x", "uri:urn:spiffe:x"} {
		if _, err := parsePeer(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	for _, s := range []string{"any", "spiffe://td.example/a/*", "spiffe://td.example/**", "dns:*.a", "email:a@b.c", "cn:x", "subject:CN=x", "uri:x:y"} {
		f.Add(s)
	}
	stranger := &Peer{
		ID:         spiffeid.RequireFromString("spiffe://stranger.invalid/of/all"),
		CommonName: "stranger of all", Subject: "CN=stranger of all",
		DNSNames: []string{"stranger.invalid"}, Emails: []string{"of@stranger.invalid"}, URIs: []string{"spiffe://stranger.invalid/of/all"},
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePeer(s)
		if err != nil || s == "any" {
			return
		}
		if p.match(&Peer{}) {
			t.Errorf("%q matches a peer without names", s)
		}
		if !strings.Contains(strings.ToLower(s), "stranger") && !strings.HasPrefix(s, "dns:*.invalid") && p.match(stranger) {
			t.Errorf("%q matches a stranger", s)
		}
	})
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"authenticated", "anyone", "user:a", "user:ldap/a", "group:ops", "email:*@b.c", "serviceaccount:ns/a", "issuer:x"} {
		f.Add(s)
	}
	stranger := &User{Method: "stranger", Issuer: "stranger", Name: "stranger", Email: "of@stranger.invalid", Groups: []string{"stranger"}}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseUser(s)
		if err != nil || s == "authenticated" || s == "anyone" {
			return
		}
		if p.anyone {
			t.Errorf("%q makes no demand", s)
		}
		if p.match(&User{}) {
			t.Errorf("%q matches a user without names", s)
		}
		if !strings.Contains(strings.ToLower(s), "stranger") && p.match(stranger) {
			t.Errorf("%q matches a stranger", s)
		}
	})
}
