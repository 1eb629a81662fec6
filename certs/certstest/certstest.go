// Package certstest makes certificates and mounted Secrets for tests. All of
// it is real; nothing expires in a repository.
package certstest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"sidegate/certs/files"
)

// CA signs certificates.
type CA struct {
	Cert  *x509.Certificate
	Key   crypto.Signer
	above []*x509.Certificate // intermediates up to the root, sent by leaves
}

var serials atomic.Int64

// NewCA makes a root, valid for a day around now.
func NewCA(tb testing.TB, name string, change ...func(*x509.Certificate)) *CA {
	tb.Helper()
	t, key := caTemplate(name, change), newKey(tb)
	return &CA{Cert: sign(tb, t, t, key.Public(), key), Key: key}
}

// Intermediate makes a CA below this one.
func (ca *CA) Intermediate(tb testing.TB, name string, change ...func(*x509.Certificate)) *CA {
	tb.Helper()
	t, key := caTemplate(name, change), newKey(tb)
	cert := sign(tb, t, ca.Cert, key.Public(), ca.Key)
	return &CA{Cert: cert, Key: key, above: append([]*x509.Certificate{cert}, ca.above...)}
}

// Cross signs another CA's name and key, so that either may stand above it.
func (ca *CA) Cross(tb testing.TB, other *CA, change ...func(*x509.Certificate)) *CA {
	tb.Helper()
	t := caTemplate(other.Cert.Subject.CommonName, change)
	cert := sign(tb, t, ca.Cert, other.Key.Public(), ca.Key)
	return &CA{Cert: cert, Key: other.Key, above: append([]*x509.Certificate{cert}, ca.above...)}
}

// Pair is a signed certificate with its key.
type Pair struct {
	Cert, Key []byte // PEM; Cert holds the intermediates too
	Leaf      *x509.Certificate
	TLS       tls.Certificate
}

// Chain is the leaf with what a client would send after it.
func (p Pair) Chain(tb testing.TB) []*x509.Certificate {
	tb.Helper()
	var chain []*x509.Certificate
	for _, der := range p.TLS.Certificate {
		c, err := x509.ParseCertificate(der)
		must(tb, err)
		chain = append(chain, c)
	}
	return chain
}

// Server signs a server's certificate for the hosts.
func (ca *CA) Server(tb testing.TB, hosts ...string) Pair {
	tb.Helper()
	return ca.Issue(tb, hosts[0], func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, h)
			}
		}
	})
}

// Client signs a client's certificate with these URI SANs.
func (ca *CA) Client(tb testing.TB, name string, uris ...string) Pair {
	tb.Helper()
	return ca.Issue(tb, name, func(c *x509.Certificate) {
		for _, s := range uris {
			u, err := url.Parse(s)
			must(tb, err)
			c.URIs = append(c.URIs, u)
		}
	})
}

// Issue signs a client's certificate as changed.
func (ca *CA) Issue(tb testing.TB, name string, change ...func(*x509.Certificate)) Pair {
	tb.Helper()
	t := template(name)
	for _, c := range change {
		c(t)
	}
	key := newKey(tb)
	leaf := sign(tb, t, ca.Cert, key.Public(), ca.Key)
	p := Pair{Leaf: leaf, TLS: tls.Certificate{PrivateKey: key, Leaf: leaf}}
	for _, c := range append([]*x509.Certificate{leaf}, ca.above...) {
		p.TLS.Certificate = append(p.TLS.Certificate, c.Raw)
		p.Cert = append(p.Cert, PEM("CERTIFICATE", c.Raw)...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(tb, err)
	p.Key = PEM("PRIVATE KEY", der)
	return p
}

// CRL signs a list of revoked certificates, due at next.
func (ca *CA) CRL(tb testing.TB, next time.Time, revoked ...*x509.Certificate) []byte {
	tb.Helper()
	list := &x509.RevocationList{ThisUpdate: next.Add(-24 * time.Hour), NextUpdate: next}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	return ca.SignCRL(tb, list)
}

// SignCRL signs any list. It gets a number.
func (ca *CA) SignCRL(tb testing.TB, list *x509.RevocationList) []byte {
	tb.Helper()
	list.Number = big.NewInt(serials.Add(1))
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Cert, ca.Key)
	must(tb, err)
	return PEM("X509 CRL", der)
}

// PEM is the CA's certificate.
func (ca *CA) PEM() []byte { return PEM("CERTIFICATE", ca.Cert.Raw) }

// Pool holds the CA alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return pool
}

// PEM encodes one block.
func PEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Join concatenates PEM files.
func Join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// Volume is a folder laid out and updated as the kubelet does with a Secret.
type Volume struct{ Dir string }

// NewVolume mounts the files in a new folder.
func NewVolume(tb testing.TB, content map[string][]byte) *Volume {
	tb.Helper()
	v := &Volume{Dir: tb.TempDir()}
	v.Update(tb, content)
	return v
}

// Update replaces the files as the kubelet does.
func (v *Volume) Update(tb testing.TB, content map[string][]byte) {
	tb.Helper()
	must(tb, files.WriteSecret(v.Dir, content))
}

// Secret is the content of a TLS Secret.
func Secret(p Pair, ca *CA) map[string][]byte {
	m := map[string][]byte{"tls.crt": p.Cert, "tls.key": p.Key}
	if ca != nil {
		m["ca.crt"] = ca.PEM()
	}
	return m
}

func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano() + serials.Add(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func caTemplate(name string, change []func(*x509.Certificate)) *x509.Certificate {
	t := template(name)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	t.ExtKeyUsage = nil
	for _, c := range change {
		c(t)
	}
	return t
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	return key
}

func sign(tb testing.TB, t, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, key)
	must(tb, err)
	c, err := x509.ParseCertificate(der)
	must(tb, err)
	return c
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
