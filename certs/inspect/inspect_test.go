package inspect

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// Each finding, provoked.
func TestFindings(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	serverAuth := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cases := []struct {
		name               string
		change             func(*x509.Certificate)
		odd, server, asked string // a part of what is said; "": nothing
	}{
		{"a good server", func(c *x509.Certificate) { c.DNSNames, c.ExtKeyUsage = []string{"a.example"}, serverAuth }, "", "", "lacks clientAuth"},
		{"a client", func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} }, "", "lacks serverAuth", ""},
		{"for both", func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{"a.example"}, append(serverAuth, x509.ExtKeyUsageClientAuth)
		}, "", "", ""},
		{"for anything", func(c *x509.Certificate) { c.DNSNames, c.ExtKeyUsage = []string{"a.example"}, nil }, "", "", ""},
		{"no name", func(c *x509.Certificate) { c.ExtKeyUsage = nil }, "", "a common name is not looked at", ""},
		{"over", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "it ended 2", "lacks", ""},
		{"not yet", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, "it is not valid before 2", "lacks", ""},
		{"signs and is no CA", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "may sign certificates and is no CA", "lacks", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := Describe(ca.Issue(t, "x", c.change).Leaf, time.Now())
			for _, f := range []struct {
				kind, want string
				got        []string
			}{{"odd", c.odd, d.Odd}, {"server", c.server, d.AsServer}, {"client", c.asked, d.AsClient}} {
				if all := strings.Join(f.got, "; "); (f.want == "") != (all == "") || !strings.Contains(all, f.want) {
					t.Errorf("%s: got %q, want %q", f.kind, all, f.want)
				}
			}
		})
	}
	if d := Describe(ca.Cert, time.Now()); !d.CA || d.AsServer != nil || !strings.Contains(d.Table(time.Now()), "is        a CA\n") {
		t.Errorf("a CA: got %+v", d)
	}
}

func TestKeys(t *testing.T) {
	for bits, want := range map[int]string{1024: "too short", 2048: ""} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Skipf("this build makes no such key: %v", err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(Describe(c, time.Now()).Odd, "; "); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%d bits: got %q, want %q", bits, got, want)
		}
	}
}

// A chain in another order, or with a stranger in it, is told.
func TestChain(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	middle := ca.Intermediate(t, "middle")
	leaf := middle.Client(t, "x", "spiffe://td.example/a").Leaf
	good := Chain([]*x509.Certificate{leaf, middle.Cert}, time.Now())
	if len(good) != 2 || good[0].Odd != nil || good[1].Odd != nil || good[0].SPIFFEID != "spiffe://td.example/a" {
		t.Errorf("got %+v", good)
	}
	wrong := Chain([]*x509.Certificate{leaf, ca.Cert}, time.Now())
	if !slices.ContainsFunc(wrong[1].Odd, func(s string) bool { return strings.Contains(s, "did not sign the certificate above it") }) {
		t.Errorf("got %+v", wrong[1])
	}
	if two := Chain([]*x509.Certificate{ca.Cert, certstest.NewCA(t, "b").Cert}, time.Now()); two[1].Odd != nil {
		t.Errorf("a bundle is no chain: %q", two[1].Odd)
	}
}

func TestTable(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := certstest.NewCA(t, "ca")
	c := ca.Issue(t, "x", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-30*24*time.Hour), now.Add(30*24*time.Hour)
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "td.example", Path: "/a"}}
	}).Leaf
	d := Describe(c, now)
	for _, want := range []string{
		"  subject   CN=x\n", "  SPIFFE ID spiffe://td.example/a\n", "  issuer    CN=ca\n",
		"2025-12-02 00:00 UTC to 2026-01-31 00:00 UTC\n            [##########----------] 30 days left\n", "client    will do\n", "server    is refused: it has no DNS name",
	} {
		if got := d.Table(now); !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	for left, want := range map[time.Duration]string{-1: "over", 3 * time.Hour: "3 hours left", time.Hour: "60 minutes left", 72 * time.Hour: "3 days left", time.Minute: "60 seconds left"} {
		if got := remaining(left); got != want {
			t.Errorf("%v: got %q, want %q", left, got, want)
		}
	}
}
