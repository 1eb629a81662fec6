package certs_test

import (
	"crypto/x509"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
)

// trusting is a store that believes these CAs, with these lists.
func trusting(t *testing.T, bundle []byte, crls ...[]byte) *certs.Store {
	t.Helper()
	server := certstest.NewCA(t, "server").Server(t, "a.example")
	content := with(certstest.Secret(server, nil), "ca.crt", bundle)
	if len(crls) > 0 {
		content["crl.pem"] = certstest.Join(crls...)
	}
	store, _ := newStore(t, certstest.NewVolume(t, content))
	return store
}

// verdict is the reason for which a client is refused, "" for none.
func verdict(t *testing.T, s *certs.Store, sent ...*x509.Certificate) string {
	t.Helper()
	_, err := s.VerifyPeer(sent, x509.ExtKeyUsageClientAuth)
	return reason(t, err)
}

// What stands above an intermediate counts, whether the bundle holds the
// intermediate, the client sends it, or both.
func TestIntermediateInTheBundle(t *testing.T) {
	due := time.Now().Add(time.Hour)
	root, other := certstest.NewCA(t, "root"), certstest.NewCA(t, "other root")
	mid := root.Intermediate(t, "mid")
	crossed := other.Cross(t, mid)
	low := mid.Intermediate(t, "low")
	leaf, lowLeaf := mid.Client(t, "leaf").Leaf, low.Client(t, "low leaf").Leaf
	revoking := root.CRL(t, due, mid.Cert)

	old := certstest.NewCA(t, "old root", dates(-2*time.Hour, -time.Hour))
	oldMid := old.Intermediate(t, "old mid")
	narrow := root.Intermediate(t, "narrow", func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"a.example"}, true
	})
	belowNarrow := narrow.Intermediate(t, "below narrow")
	outside := belowNarrow.Issue(t, "x", func(c *x509.Certificate) { c.DNSNames = []string{"b.example"} }).Leaf
	last := root.Intermediate(t, "last", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	tooDeep := last.Intermediate(t, "too deep")
	mutual := certstest.NewCA(t, "mutual")
	mutualA := mid.Cross(t, mutual) // mid signs mutual,
	mutualB := mutual.Cross(t, mid) // and mutual signs mid
	overdue := mid.CRL(t, time.Now().Add(-time.Minute))

	pem := func(cas ...*certstest.CA) (all []byte) {
		for _, ca := range cas {
			all = append(all, ca.PEM()...)
		}
		return all
	}
	sent := func(c ...*x509.Certificate) []*x509.Certificate { return c }
	cases := []struct {
		name   string
		bundle []byte
		crls   [][]byte
		sent   []*x509.Certificate
		want   string
	}{
		{"good, in the bundle", pem(root, mid), nil, sent(leaf), ""},
		{"good, alone in the bundle", pem(mid), nil, sent(leaf), ""},
		{"good, three levels in the bundle", pem(low, mid, root), nil, sent(lowLeaf), ""},
		{"TLS-28 revoked, sent", pem(root), [][]byte{revoking}, sent(leaf, mid.Cert), "peer_revoked"},
		{"TLS-28 revoked, in the bundle", pem(root, mid), [][]byte{revoking}, sent(leaf), "peer_revoked"},
		{"TLS-28 revoked, before its root", pem(mid, root), [][]byte{revoking}, sent(leaf), "peer_revoked"},
		{"TLS-28 revoked, in the bundle and sent", pem(root, mid), [][]byte{revoking}, sent(leaf, mid.Cert), "peer_revoked"},
		{"TLS-28 revoked above an intermediate of the bundle", pem(root, mid, low), [][]byte{revoking}, sent(lowLeaf), "peer_revoked"},
		{"TLS-28 revoked above one that is sent", pem(root, mid), [][]byte{revoking}, sent(lowLeaf, low.Cert), "peer_revoked"},
		{"trusted by itself, since its issuer is not in the bundle", pem(root, low), [][]byte{revoking}, sent(lowLeaf, low.Cert, mid.Cert), ""},
		{"TLS-28 revoked, its root not in the bundle", pem(mid), [][]byte{revoking}, sent(leaf), "peer_revoked"},
		{"TLS-28 not revoked by a namesake of its root", pem(mid), [][]byte{certstest.NewCA(t, "root").CRL(t, due, mid.Cert)}, sent(leaf), ""},
		{"TLS-28 list of the root overdue", pem(root, mid), [][]byte{root.CRL(t, time.Now().Add(-time.Minute))}, sent(leaf), "crl_expired"},
		{"TLS-28 revoked, and the list below it overdue", pem(root, mid), [][]byte{revoking, overdue}, sent(leaf), "peer_revoked"},
		{"TLS-28 root in its own list", pem(root), [][]byte{root.CRL(t, due, root.Cert)}, sent(leaf, mid.Cert), "peer_revoked"},
		{"cross-signed by another root, in the bundle", pem(root, other, mid, crossed), [][]byte{revoking}, sent(leaf), ""},
		{"cross-signed by another root, sent", pem(root, other, mid), [][]byte{revoking}, sent(leaf, crossed.Cert), ""},
		{"TLS-28 cross-signed by a stranger", pem(root, mid), [][]byte{revoking}, sent(leaf, crossed.Cert), "peer_revoked"},
		{"TLS-28 both cross-signatures revoked", pem(root, other, mid, crossed), [][]byte{revoking, other.CRL(t, due, crossed.Cert)}, sent(leaf), "peer_revoked"},
		{"one cross-signature revoked, the other's list overdue", pem(root, other, mid, crossed), [][]byte{revoking, other.CRL(t, time.Now().Add(-time.Minute))}, sent(leaf), "crl_expired"},
		{"signed by each other", pem(mutualA, mutualB), nil, sent(leaf), ""},
		{"TLS-28 revoked by the one that it signed", pem(mutualA, mutualB), [][]byte{mutual.CRL(t, due, mutualB.Cert), mid.CRL(t, due, mutualA.Cert)}, sent(leaf), "peer_revoked"},
		{"TLS-10 root ended", pem(old, oldMid), nil, sent(oldMid.Client(t, "x").Leaf), "peer_expired"},
		{"TLS-11 constrained above an intermediate of the bundle", pem(root, narrow, belowNarrow), nil, sent(outside), "peer_untrusted"},
		{"TLS-11 too many below one of the bundle", pem(root, last, tooDeep), nil, sent(tooDeep.Client(t, "x").Leaf), "peer_untrusted"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(t, trusting(t, c.bundle, c.crls...), c.sent...); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("warned of a CA that can't sign", func(t *testing.T) {
		plain := certstest.NewCA(t, "plain", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false })
		other := certstest.NewCA(t, "other usage", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
		if w := trusting(t, pem(root, plain, other)).Status().Warnings; len(w) != 2 {
			t.Errorf("warnings %q, want 2", w)
		}
	})
	t.Run("TLS-28 status", func(t *testing.T) {
		s := trusting(t, pem(root, mid), revoking)
		if w := s.Status().Warnings; len(w) != 1 {
			t.Errorf("warnings %q, want one that names the revoked CA", w)
		}
	})
}
