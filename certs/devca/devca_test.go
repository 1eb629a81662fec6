package devca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sidegate/certs/devca"
)

func newCA(t *testing.T) (*devca.CA, *x509.CertPool) {
	t.Helper()
	ca, err := devca.New("test CA")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.Bundle()) {
		t.Fatal("the bundle holds no certificate")
	}
	return ca, roots
}

// keyPair fails the test unless the key fits the certificate.
func keyPair(t *testing.T, cert, key []byte, err error) tls.Certificate {
	t.Helper()
	pair, fits := tls.X509KeyPair(cert, key)
	if err := errors.Join(err, fits); err != nil {
		t.Fatal(err)
	}
	return pair
}

func issue(t *testing.T, ca *devca.CA, leaf devca.Leaf) tls.Certificate {
	t.Helper()
	pair, err := ca.Issue(leaf)
	return keyPair(t, pair.Cert, pair.Key, err)
}

// A client and a server with certificates of the same CA talk to each other.
func TestHandshake(t *testing.T) {
	ca, roots := newCA(t)
	cert, key, err := ca.Server([]string{"localhost", "127.0.0.1"}, time.Hour)
	server := keyPair(t, cert, key, err)
	cert, key, err = ca.Client("alice", time.Hour)
	client := keyPair(t, cert, key, err)
	a, b := net.Pipe()
	go func() {
		s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
		if s.Handshake() == nil {
			_, _ = io.WriteString(s, "hello "+s.ConnectionState().PeerCertificates[0].Subject.CommonName)
		}
		_ = s.Close()
	}()
	c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: roots, ServerName: "localhost"})
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello alice" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUsages(t *testing.T) {
	ca, roots := newCA(t)
	for _, c := range []struct {
		name           string
		server, client bool
		want           []x509.ExtKeyUsage
	}{
		{"neither", false, false, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		{"server", true, false, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		{"client", false, true, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		{"both", true, true, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
	} {
		leaf := issue(t, ca, devca.Leaf{Name: "a", Hosts: []string{"a.example"}, Lifetime: time.Hour, Server: c.server, Client: c.client}).Leaf
		if !slices.Equal(leaf.ExtKeyUsage, c.want) || leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA {
			t.Errorf("%s: got usages %v, key usage %b, CA %t; want %v", c.name, leaf.ExtKeyUsage, leaf.KeyUsage, leaf.IsCA, c.want)
		}
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: key is %T, want ECDSA P-256", c.name, leaf.PublicKey)
		}
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
			if want := slices.Contains(c.want, usage); (err == nil) != want {
				t.Errorf("%s: verified for usage %v: %v, want good %t", c.name, usage, err, want)
			}
		}
	}
}

func TestNames(t *testing.T) {
	ca, _ := newCA(t)
	leaf := issue(t, ca, devca.Leaf{
		Name:     "web",
		Hosts:    []string{"a.example", "*.b.example", "127.0.0.1", "::1", "ops@a.example", "spiffe://td.example/ns/web/sa/web"},
		Lifetime: time.Hour, Client: true,
	}).Leaf
	if leaf.Subject.String() != "CN=web" {
		t.Errorf("subject is %s", leaf.Subject)
	}
	if !slices.Equal(leaf.DNSNames, []string{"a.example", "*.b.example"}) || !slices.Equal(leaf.EmailAddresses, []string{"ops@a.example"}) {
		t.Errorf("DNS names are %q, e-mail addresses %q", leaf.DNSNames, leaf.EmailAddresses)
	}
	if len(leaf.IPAddresses) != 2 || !leaf.IPAddresses[0].Equal(net.IPv4(127, 0, 0, 1)) || !leaf.IPAddresses[1].Equal(net.IPv6loopback) {
		t.Errorf("IP addresses are %v", leaf.IPAddresses)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://td.example/ns/web/sa/web" {
		t.Errorf("URIs are %v", leaf.URIs)
	}
	if _, _, err := ca.Server(nil, time.Hour); err == nil {
		t.Error("a server's certificate without a host was signed")
	}
}

// cfssl rounds and dates back; what is asked for counts from now to the second.
func TestLifetime(t *testing.T) {
	ca, _ := newCA(t)
	for _, lifetime := range []time.Duration{time.Second, 30 * time.Second, time.Hour, 29 * 24 * time.Hour} {
		before := time.Now()
		leaf := issue(t, ca, devca.Leaf{Name: "a", Lifetime: lifetime}).Leaf
		after := time.Now()
		if first, last := before.Add(lifetime).Truncate(time.Second), after.Add(lifetime); leaf.NotAfter.Before(first) || leaf.NotAfter.After(last) {
			t.Errorf("%s: ends %s, want from %s to %s", lifetime, leaf.NotAfter, first, last)
		}
		if first, last := before.Add(-time.Minute).Truncate(time.Second), after.Add(-time.Minute); leaf.NotBefore.Before(first) || leaf.NotBefore.After(last) {
			t.Errorf("%s: begins %s, want a minute before %s", lifetime, leaf.NotBefore, before)
		}
	}
	for _, lifetime := range []time.Duration{-time.Hour, 0, 999 * time.Millisecond, 31 * 24 * time.Hour} {
		if _, err := ca.Issue(devca.Leaf{Name: "a", Lifetime: lifetime}); err == nil || !strings.Contains(err.Error(), lifetime.String()) {
			t.Errorf("lifetime %s: got %v, want a refusal that names it", lifetime, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	ca, _ := newCA(t)
	block, rest := pem.Decode(ca.Bundle())
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(rest) != 0 {
		t.Fatalf("the bundle is not one certificate: %v, then %q", err, rest)
	}
	if !cert.IsCA || !cert.MaxPathLenZero || cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || cert.Subject.CommonName != "test CA" {
		t.Errorf("got CA %t, path length %d, key usage %b, subject %s", cert.IsCA, cert.MaxPathLen, cert.KeyUsage, cert.Subject)
	}
	if len(cert.PermittedDNSDomains)+len(cert.ExcludedDNSDomains)+len(cert.PermittedURIDomains)+len(cert.PermittedIPRanges)+len(cert.PermittedEmailAddresses) != 0 {
		t.Error("the CA has name constraints")
	}
	_, others := newCA(t)
	leaf := issue(t, ca, devca.Leaf{Name: "a", Lifetime: time.Hour}).Leaf
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: others}); err == nil {
		t.Error("a certificate verifies with another CA of the same name")
	}
}

// cfssl writes to the standard logger of the process, which is Sidegate's output.
// Making CAs and certificates at once also shows the race detector its level.
func TestSilent(t *testing.T) {
	var out bytes.Buffer
	old := log.Writer()
	log.SetOutput(&out)
	defer log.SetOutput(old)
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			ca, err := devca.New("test CA")
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := ca.Client("a", time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if out.Len() != 0 {
		t.Errorf("logged: %s", out.String())
	}
}
