package tlsproxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	"sidegate/policy"
)

// rehearsalTimeout is for a machine that has no time for us. A handshake takes
// milliseconds.
const rehearsalTimeout = 30 * time.Second

// Rehearse shakes hands with the gate in memory as it would be with these
// certificates and this trust, which no client has met yet: without a client
// certificate, and with one of a stranger, who must be refused as such. err is
// why nobody could come by TLS 1.3, alarm why nobody could by TLS 1.2.
func (g *Gate) Rehearse(certificates Certificates, trust Trust) (alarm, err error) {
	if g.Plaintext {
		return nil, nil
	}
	if _, err := certificates.GetCertificate(&tls.ClientHelloInfo{}); err != nil {
		return nil, nil // there is nothing to present yet, which is told elsewhere
	}
	stranger, err := newStranger()
	if err != nil {
		return nil, err
	}
	tried := *g
	tried.Certificates, tried.Trust = certificates, trust
	try := func(version uint16) error {
		if err := tried.rehearse(version, stranger); err != nil {
			return fmt.Errorf("gate %s can't complete a handshake of %s: %w", g.Name, tls.VersionName(version), err)
		}
		return nil
	}
	if err := try(tls.VersionTLS13); err != nil {
		return nil, err
	}
	if g.minVersion() <= tls.VersionTLS12 {
		alarm = try(tls.VersionTLS12)
	}
	return alarm, nil
}

// rehearse shakes hands by one version of TLS.
func (g *Gate) rehearse(version uint16, stranger *tls.Certificate) error {
	server := newTLSConfigs(g).outer()
	want := ""
	if g.ClientCert == ClientCertRequire {
		want = string(policy.PeerMissing)
	}
	if err := meet(server, version, &tls.Certificate{}, want); err != nil || g.ClientCert == ClientCertNone {
		return err
	}
	if err := meet(server, version, stranger, string(policy.PeerUntrusted)); err != nil {
		return fmt.Errorf("with a certificate of a stranger: %w", err)
	}
	return nil
}

// meet lets a client with that certificate shake hands. want is the reason for
// which it must be refused, "" for none.
func meet(server *tls.Config, version uint16, certificate *tls.Certificate, want string) error {
	err := shakeHands(server, &tls.Config{
		MinVersion: version, MaxVersion: version,
		InsecureSkipVerify:   true, // it meets nobody but this process, and its verdict is not asked for
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil },
	})
	switch {
	case err == nil && want != "":
		return fmt.Errorf("it was not refused as %s", want)
	case err != nil && handshakeReason(err, 1) != want:
		return err
	}
	return nil
}

// shakeHands returns the server's error, or the client's if it has none.
func shakeHands(server, client *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), rehearsalTimeout)
	defer cancel()
	serverEnd, clientEnd := newMemoryConns()
	defer serverEnd.Close()
	defer clientEnd.Close()
	met := make(chan error, 1)
	go func() {
		err := tls.Client(clientEnd, client).HandshakeContext(ctx)
		if err != nil {
			_ = clientEnd.Close() // so that the server need not wait
		}
		met <- err
	}()
	err := tls.Server(serverEnd, server).HandshakeContext(ctx)
	_ = serverEnd.Close()
	if met := <-met; err == nil {
		err = met
	}
	return err
}

// newStranger is a certificate that nobody vouches for.
func newStranger() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a stranger, made to be refused"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// memoryConn is one end of a connection within the process. Unlike net.Pipe it
// takes what nobody reads yet: in a handshake both ends may write at once. It
// has no deadlines; closing it ends whoever waits.
type memoryConn struct {
	in, out *memoryPipe
}

func newMemoryConns() (a, b *memoryConn) {
	there, back := newMemoryPipe(), newMemoryPipe()
	return &memoryConn{there, back}, &memoryConn{back, there}
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *memoryConn) Close() error {
	c.in.close()
	c.out.close()
	return nil
}

func (*memoryConn) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "unix"} }
func (*memoryConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "unix"} }
func (*memoryConn) SetDeadline(time.Time) error      { return nil }
func (*memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (*memoryConn) SetWriteDeadline(time.Time) error { return nil }

// memoryPipe is one direction.
type memoryPipe struct {
	mu      sync.Mutex
	changed sync.Cond
	data    bytes.Buffer
	closed  bool
}

func newMemoryPipe() *memoryPipe {
	p := &memoryPipe{}
	p.changed.L = &p.mu
	return p
}

func (p *memoryPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.data.Len() == 0 && !p.closed {
		p.changed.Wait()
	}
	return p.data.Read(b) // io.EOF when it is closed and empty
}

func (p *memoryPipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.changed.Broadcast()
	return p.data.Write(b)
}

func (p *memoryPipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
}
