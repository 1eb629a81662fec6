package certs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
)

// reason is that of a refusal; "" for nil. Every refusal has one.
func reason(t *testing.T, err error) string {
	t.Helper()
	var refused *certs.PeerError
	if err != nil && !errors.As(err, &refused) {
		t.Fatalf("%v is no PeerError", err)
	}
	if refused == nil {
		return ""
	}
	return refused.Reason()
}

// largeRSA is a client's certificate for a key that costs too much to use.
// Nobody has the key.
func largeRSA(t *testing.T, ca *certstest.CA) certstest.Pair {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), 16383)
	template := ca.Client(t, "large").Leaf
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	var p certstest.Pair
	p.TLS.Certificate = [][]byte{der}
	return p
}

func TestVerifyPeer(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	now := time.Now()
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
	good, revoked := ca.Client(t, "good"), ca.Client(t, "revoked")
	other := certstest.NewCA(t, "other")
	sameSerial := other.Issue(t, "other", func(c *x509.Certificate) { c.SerialNumber = revoked.Leaf.SerialNumber })
	overdue := certstest.NewCA(t, "overdue")
	ended := certstest.NewCA(t, "ended", dates(-2*time.Hour, -time.Hour))
	constrained := ca.Intermediate(t, "constrained", func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"a.example"}, []string{"a.example"}, true
	})
	domainA := certstest.NewCA(t, "domain a")
	// Same name as ca, other key: a CRL belongs to a key.
	twin := certstest.NewCA(t, "ca")
	serversOnly := ca.Intermediate(t, "servers", usage(x509.ExtKeyUsageServerAuth))
	revokedMid := ca.Intermediate(t, "revoked mid")
	long := good
	long.TLS.Certificate = slices.Repeat(good.TLS.Certificate, 100)
	server := ca.Server(t, "server")
	v := certstest.NewVolume(t, map[string][]byte{
		"tls.crt": server.Cert, "tls.key": server.Key,
		"ca.crt":               certstest.Join(ca.PEM(), other.PEM(), overdue.PEM(), ended.PEM(), twin.PEM()),
		"crl.pem":              certstest.Join(ca.CRL(t, now.Add(time.Hour), revoked.Leaf, revokedMid.Cert), overdue.CRL(t, now.Add(-time.Minute))),
		"bundle.a.example.pem": domainA.PEM(),
	})
	store, _ := newStore(t, v)
	cases := []struct {
		name   string
		peer   certstest.Pair
		reason string // "" for accepted
		text   string
	}{
		{"good", good, "", ""},
		{"through an intermediate", ca.Intermediate(t, "mid").Client(t, "x"), "", ""},
		{"stranger", certstest.NewCA(t, "stranger").Client(t, "x"), "peer_untrusted", ""},
		{"ended", ca.Issue(t, "x", dates(-2*time.Hour, -time.Minute)), "peer_expired", "ended"},
		{"ROT-14 not yet, by a minute", ca.Issue(t, "x", dates(time.Minute, time.Hour)), "peer_expired", "not valid before"},
		{"TLS-08 CA", ca.Issue(t, "x", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "peer_untrusted", "CA's certificate"},
		{"TLS-08 certSign", ca.Issue(t, "x", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "peer_untrusted", "CA's certificate"},
		{"TLS-08 crlSign", ca.Issue(t, "x", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), "peer_untrusted", "CA's certificate"},
		{"TLS-09 serverAuth only", ca.Issue(t, "x", usage(x509.ExtKeyUsageServerAuth)), "peer_untrusted", "lacks clientAuth"},
		{"TLS-09 issuer for servers only", serversOnly.Client(t, "x"), "peer_untrusted", "usage"},
		{"TLS-09 without the extension", ca.Issue(t, "x", usage()), "", ""},
		{"TLS-10 expired CA", ended.Client(t, "x"), "peer_expired", ""},
		{"TLS-11 DNS outside the constraint", constrained.Issue(t, "x", func(c *x509.Certificate) { c.DNSNames = []string{"b.example"} }), "peer_untrusted", ""},
		{"TLS-11 SPIFFE ID outside the constraint", constrained.Client(t, "x", "spiffe://b.example/x"), "peer_untrusted", ""},
		{"TLS-11 inside", constrained.Client(t, "x", "spiffe://sub.a.example/x"), "", ""},
		{"TLS-19 revoked", revoked, "peer_revoked", "revoked"},
		{"TLS-23 same serial from another CA", sameSerial, "", ""},
		{"TLS-23 same serial from a CA of the same name", twin.Issue(t, "x", func(c *x509.Certificate) { c.SerialNumber = revoked.Leaf.SerialNumber }), "", ""},
		{"TLS-20 CRL overdue", overdue.Client(t, "x"), "crl_expired", "was due"},
		{"SPI-03 own domain", domainA.Client(t, "x", "spiffe://a.example/x"), "", ""},
		{"SPI-03 another domain's root", domainA.Client(t, "x", "spiffe://b.example/x"), "peer_untrusted", ""},
		{"SPI-03 any root for a domain with a bundle", ca.Client(t, "x", "spiffe://a.example/x"), "peer_untrusted", ""},
		{"SPI-03 any root for a domain without a bundle", ca.Client(t, "x", "spiffe://c.example/x"), "", ""},
		{"TLS-25 100 certificates", long, "peer_untrusted", "sent 100 certificates"},
		{"TLS-25 RSA key of 16384 bits", largeRSA(t, ca), "peer_untrusted", "RSA key of 16384 bits"},
		{"revoked intermediate", revokedMid.Client(t, "x"), "peer_revoked", "revoked"},
		{"no SPIFFE ID from a domain's root", domainA.Issue(t, "x", uri("https://a.example/x")), "peer_untrusted", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := store.VerifyPeer(c.peer.Chain(t), x509.ExtKeyUsageClientAuth)
			got := reason(t, err)
			if got != c.reason || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %q (%v), want %q with %q", got, err, c.reason, c.text)
			}
		})
	}
	if w := store.Status().Warnings; len(w) != 2 { // the ended CA (TLS-10) and the overdue CRL
		t.Errorf("warnings %q, want 2", w)
	}
	if _, err := store.VerifyPeer(nil, x509.ExtKeyUsageClientAuth); reason(t, err) != "peer_missing" {
		t.Errorf("no certificate: got %v", err)
	}
}

// A list that tells only of a part is refused: its silence about the rest is
// not "not revoked" (RFC 5280 5.2).
func TestCRLMustBeWhole(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	revoked := ca.Client(t, "revoked")
	due := time.Now().Add(time.Hour)
	list := func(critical bool, oid asn1.ObjectIdentifier, value ...byte) []byte {
		return ca.SignCRL(t, &x509.RevocationList{ThisUpdate: time.Now(), NextUpdate: due,
			ExtraExtensions:           []pkix.Extension{{Id: oid, Critical: critical, Value: value}},
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.Leaf.SerialNumber, RevocationTime: time.Now()}}})
	}
	entry := func(oid asn1.ObjectIdentifier) []byte {
		return ca.SignCRL(t, &x509.RevocationList{ThisUpdate: time.Now(), NextUpdate: due,
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.Leaf.SerialNumber, RevocationTime: time.Now(),
				ExtraExtensions: []pkix.Extension{{Id: oid, Critical: true, Value: []byte{0x30, 0}}}}}})
	}
	point, delta, unknown := asn1.ObjectIdentifier{2, 5, 29, 28}, asn1.ObjectIdentifier{2, 5, 29, 27}, asn1.ObjectIdentifier{1, 2, 3}
	cases := []struct {
		name string
		crl  []byte
		want string // in the error; "" for a list that counts
	}{
		{"TLS-22 delta", list(true, delta, 2, 1, 1), "delta CRL"},
		{"TLS-22 delta not marked critical", list(false, delta, 2, 1, 1), "delta CRL"},
		{"TLS-22 unknown critical extension", list(true, unknown, 5, 0), "critical extension 1.2.3"},
		{"unknown extension", list(false, unknown, 5, 0), ""},
		{"point of the whole list", list(true, point, 0x30, 0), ""},
		{"point with a place", list(true, point, 0x30, 6, 0xa0, 4, 0xa0, 2, 0x86, 0), ""},
		{"point for users", list(true, point, 0x30, 3, 0x81, 1, 0xff), ""},
		{"TLS-22 point for CAs", list(true, point, 0x30, 3, 0x82, 1, 0xff), "partial or indirect"},
		{"TLS-22 point for some reasons", list(true, point, 0x30, 4, 0x83, 2, 6, 0x40), "partial or indirect"},
		{"TLS-22 indirect", list(true, point, 0x30, 3, 0x84, 1, 0xff), "partial or indirect"},
		{"TLS-22 unreadable point", list(true, point, 0x30, 3, 0x81), "can't be read"},
		{"TLS-22 entry of another issuer", entry(asn1.ObjectIdentifier{2, 5, 29, 29}), "critical extension 2.5.29.29 of serial"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, _ := unloaded(certstest.NewVolume(t, with(certstest.Secret(ca.Server(t, "a"), ca), "crl.pem", c.crl)))
			err := s.Load(t.Context())
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.VerifyPeer(revoked.Chain(t), x509.ExtKeyUsageClientAuth); reason(t, err) != "peer_revoked" {
				t.Errorf("got %v, want it revoked", err)
			}
		})
	}
}

// TLS-24: URLs in a client's certificate lead to no connection.
func TestVerifyConnectsNowhere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := "http://" + l.Addr().String() + "/"
	ca := certstest.NewCA(t, "ca")
	client := ca.Issue(t, "client", func(c *x509.Certificate) {
		c.OCSPServer, c.IssuingCertificateURL, c.CRLDistributionPoints = []string{address}, []string{address}, []string{address}
	})
	store, _ := newStore(t, certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), ca)))
	if _, err := store.VerifyPeer(client.Chain(t), x509.ExtKeyUsageClientAuth); err != nil {
		t.Fatal(err)
	}
	// The first connection that the listener hands out must be ours.
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != ours.LocalAddr().String() {
		t.Error("verifying made a connection")
	}
}
