package devca_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"
	"time"

	"sidegate/certs/devca"
)

// A client and a server with certificates of the same CA talk to each other.
func TestIssue(t *testing.T) {
	ca, err := devca.New("test CA")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.Bundle()) {
		t.Fatal("the bundle holds no certificate")
	}
	issue := func(leaf devca.Leaf) tls.Certificate {
		pair, err := ca.Issue(leaf)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	server := issue(devca.Leaf{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}, Lifetime: time.Hour})
	client := issue(devca.Leaf{Name: "client", Hosts: []string{"spiffe://demo.example/client"}, Lifetime: time.Hour, Client: true})
	if left := time.Until(server.Leaf.NotAfter); left > time.Hour || left < 57*time.Minute {
		t.Errorf("the lifetime left is %s, want an hour", left)
	}
	a, b := net.Pipe()
	go func() {
		s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
		_, _ = io.WriteString(s, "hello")
		_ = s.Close()
	}()
	c := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: roots, ServerName: "localhost"})
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}
