package policy_test

import (
	"strings"
	"testing"

	"sidegate/policy"
)

// TLS-12, TLS-13: a certificate is the user of exactly one of its names.
func TestCertUser(t *testing.T) {
	withEmails := func(emails ...string) *policy.Peer {
		p := *peer(t, "", nil)
		p.Emails = emails
		return &p
	}
	for _, c := range []struct {
		name string
		kind policy.CertUser
		peer *policy.Peer
		want string
	}{
		{"none", policy.CertUserNone, peer(t, "alice", nil), "none"},
		{"no certificate", policy.CertUserCN, nil, "none"},
		{"cn", policy.CertUserCN, peer(t, "alice", nil), "user:cert/alice"},
		{"cn beside a SAN", policy.CertUserCN, peer(t, "alice", []string{"a.example"}), "none"},
		{"dns", policy.CertUserDNS, peer(t, "x", []string{"A.example"}), "user:cert/a.example"},
		{"two names", policy.CertUserDNS, peer(t, "x", []string{"a.example", "b.example"}), "none"},
		{"wildcard", policy.CertUserDNS, peer(t, "x", []string{"*.example"}), "none"},
		{"spiffe", policy.CertUserSPIFFE, peer(t, "", nil, "spiffe://td.example/a"), "user:cert/spiffe://td.example/a"},
		{"not quite spiffe", policy.CertUserSPIFFE, peer(t, "", nil, "spiffe://td.example/a", "spiffe://td.example/b"), "none"},
		{"email", policy.CertUserEmail, withEmails("a@b.example"), "user:cert/a@b.example"},
		{"two addresses", policy.CertUserEmail, withEmails("a@b.example", "c@b.example"), "none"},
	} {
		if got := c.kind.Of(c.peer).String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		if u := c.kind.Of(c.peer); u != nil && len(u.Groups) > 0 {
			t.Errorf("%s: groups %q", c.name, u.Groups)
		}
	}
	_, err := policy.NewDefault([]policy.GateKind{{Name: "m", CertAsked: true}}, []string{"local", policy.CertMethod})
	if err == nil || !strings.Contains(err.Error(), "SIDEGATE_CERT_USER makes users of all") {
		t.Errorf("got %v", err)
	}
}
