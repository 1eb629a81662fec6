package tlsproxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"sidegate/policy"
)

// errPeerMissing refuses a handshake without the certificate that the gate requires.
var errPeerMissing = &policy.Refusal{Reason: policy.PeerMissing}

// tlsConfigs prepares one immutable tls.Config for each generation of trust.
type tlsConfigs struct {
	gate *Gate
	// base is never used for a handshake. It holds the ticket keys, which
	// crypto/tls rotates by itself as long as the config is the same value.
	base    *tls.Config
	current atomic.Pointer[generationConfig]
	// challenge answers the proofs of an ACME server; nil: there is none.
	challenge *tls.Config
}

type generationConfig struct {
	generation string
	config     *tls.Config
}

func newTLSConfigs(g *Gate) *tlsConfigs {
	return &tlsConfigs{gate: g, base: &tls.Config{MinVersion: tls.VersionTLS12}, challenge: g.challengeConfig()}
}

// challengeConfig is for handshakes that are a proof and nothing else (RFC 8737
// 3): they show the challenge's certificate, ask for none, and can be neither
// the end nor the beginning of a session. nil: nothing is proven here.
func (g *Gate) challengeConfig() *tls.Config {
	if g.Challenge == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:             g.minVersion(),
		CipherSuites:           g.ciphers(),
		NextProtos:             []string{protocolChallenge},
		GetCertificate:         g.Challenge,
		SessionTicketsDisabled: true,
	}
}

// outer is the config with which each handshake begins.
func (t *tlsConfigs) outer() *tls.Config {
	return &tls.Config{
		MinVersion:     t.gate.minVersion(),
		GetCertificate: t.gate.Certificates.GetCertificate,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if c, ok := hello.Conn.(*conn); ok { // else it is no client's
				c.hello.Store(true)
			}
			if t.challenge != nil && slices.Equal(hello.SupportedProtos, []string{protocolChallenge}) {
				return t.challenge, nil
			}
			c := t.forGeneration(t.gate.generation())
			if !canHTTP2(hello) {
				c = c.Clone()
				c.NextProtos = []string{protocolHTTP1}
			}
			return c, nil
		},
	}
}

// generation names the trust that a handshake now would be judged by.
func (g *Gate) generation() string {
	if g.ClientCert == ClientCertNone {
		return ""
	}
	return g.Trust.TrustGeneration()
}

// forGeneration returns the config of the generation, making it at its first
// handshake. Two handshakes may both make it; either value will do.
func (t *tlsConfigs) forGeneration(generation string) *tls.Config {
	if c := t.current.Load(); c != nil && c.generation == generation {
		return c.config
	}
	c := &generationConfig{generation, t.build(generation)}
	t.current.Store(c)
	return c.config
}

func (t *tlsConfigs) build(generation string) *tls.Config {
	c := &tls.Config{
		MinVersion:     t.gate.minVersion(),
		CipherSuites:   t.gate.ciphers(),
		NextProtos:     t.gate.protocols(),
		GetCertificate: t.gate.Certificates.GetCertificate,
	}
	t.bindTickets(c, generation)
	if t.gate.ClientCert == ClientCertNone {
		return c
	}
	// Never VerifyClientCertIfGiven or RequireAndVerifyClientCert: crypto/tls
	// would verify by rules of its own, and only on full handshakes. See verify.
	c.ClientAuth = tls.RequestClientCert
	if t.gate.ClientCert == ClientCertRequire {
		c.ClientAuth = tls.RequireAnyClientCert // for its alert, certificate_required
	}
	c.ClientCAs = t.gate.Trust.ClientCAs()
	c.VerifyConnection = t.verify
	return c
}

// canHTTP2 reports whether the client has a cipher that HTTP/2 allows: with
// others net/http would end its connection (RFC 9113 9.2.2).
func canHTTP2(hello *tls.ClientHelloInfo) bool {
	return slices.Contains(hello.SupportedVersions, tls.VersionTLS13) ||
		slices.ContainsFunc(hello.CipherSuites, func(id uint16) bool { return slices.Contains(DefaultCiphers, id) })
}

// bindTickets makes tickets that are good at this gate and for this
// generation of trust only. Any other leads to a full handshake.
func (t *tlsConfigs) bindTickets(c *tls.Config, generation string) {
	binding := []byte("sidegate\x00" + t.gate.Name + "\x00" + generation)
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ss.Extra = append(ss.Extra, binding)
		return t.base.EncryptTicket(cs, ss)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := t.base.DecryptTicket(identity, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		if !slices.ContainsFunc(ss.Extra, func(e []byte) bool { return string(e) == string(binding) }) {
			return nil, nil
		}
		return ss, nil
	}
}

// verify judges the client's certificate. It runs as VerifyConnection because
// that, unlike VerifyPeerCertificate, is called on resumed sessions too.
func (t *tlsConfigs) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		if t.gate.ClientCert == ClientCertRequire {
			return errPeerMissing
		}
		return nil
	}
	_, err := t.gate.Trust.VerifyPeer(cs.PeerCertificates, x509.ExtKeyUsageClientAuth)
	return err
}

// Reasons for a failed handshake beside those of the peer.
const (
	reasonEndBeforeHello = "end_before_hello" // bare TCP probes end so
	reasonTimeout        = "timeout"
	reasonNotTLS         = "not_tls"
	reasonAlert          = "client_alert" // the client refused us
	reasonEnd            = "end_in_handshake"
	reasonProtocol       = "protocol"
)

// handshakeReason names the cause of a failed handshake.
func handshakeReason(err error, received int64) string {
	var refusal *policy.Refusal
	var peer interface{ Reason() string }
	var header tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case errors.As(err, &refusal):
		return string(refusal.Reason)
	case errors.As(err, &peer):
		return peer.Reason()
	case strings.Contains(err.Error(), "client didn't provide a certificate"): // crypto/tls has no type for it
		return string(policy.PeerMissing)
	case received == 0:
		return reasonEndBeforeHello
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reasonTimeout
	case errors.As(err, &header):
		return reasonNotTLS
	case errors.As(err, &alert) && alert.Op == "remote error":
		return reasonAlert
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), strings.Contains(err.Error(), "connection reset"):
		return reasonEnd
	}
	return reasonProtocol
}
