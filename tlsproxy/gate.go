package tlsproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strings"
	"time"

	"sidegate/policy"
)

// Certificates is what a gate presents. Its methods are asked in every
// handshake, concurrently, and answer from memory.
type Certificates interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Trust is whom a gate believes.
type Trust interface {
	// VerifyPeer returns the verified chain, leaf first. It is also asked on
	// resumed sessions. Its errors may have a method Reason() string with a
	// value of the closed list of [policy.Reason].
	VerifyPeer(chain []*x509.Certificate, use x509.ExtKeyUsage) ([]*x509.Certificate, error)
	// Federated reports whether a verified peer is of another trust domain than
	// ours: rules that name no one in particular do not mean it.
	Federated(leaf *x509.Certificate) bool
	// ClientCAs is the hint for clients which certificate would do. It is
	// never what a certificate is verified against. nil: no hint.
	ClientCAs() *x509.CertPool
	// TrustGeneration names whom is trusted now. Tickets of another generation
	// are not resumed. A new certificate of our own changes nothing about it.
	TrustGeneration() string
	// Changed is closed when something else is in service, which may be the
	// same trust.
	Changed() <-chan struct{}
}

// Authenticator judges one kind of credential.
type Authenticator interface {
	// Authenticate judges the credential of its own kind. nil, nil: the
	// request has none. An error refuses; the next one is not asked. A
	// [policy.Refusal] says how.
	Authenticate(context.Context, *policy.Request) (*policy.Login, error)
	// Challenge returns WWW-Authenticate values.
	Challenge(*policy.Request, error) []string
	// Recheck says whether this user, once proven, is still good.
	// [policy.ErrProveAgain]: that depends on the credential, which is then
	// judged again, see [Prover].
	Recheck(context.Context, *policy.User) error
	// Changed is closed when Recheck may say something else; nil: never.
	Changed() <-chan struct{}
}

// Prover is an [Authenticator] that limits guesses. The credential of a request
// under way that proved a user before is none: Prove judges it out of turn and
// whatever the limits. Of an authenticator that is no Prover, Authenticate is
// asked.
type Prover interface {
	Prove(ctx context.Context, r *policy.Request, was *policy.User) (*policy.Login, error)
}

// Decider decides whether a request may pass.
type Decider interface {
	Decide(context.Context, *policy.Request, policy.Identity) policy.Decision
	// Changed is closed when other decisions may be made; nil: never.
	Changed() <-chan struct{}
}

// ClientCert says what a gate wants of client certificates.
type ClientCert int

// The zero value asks for none.
const (
	ClientCertNone ClientCert = iota
	ClientCertOptional
	ClientCertRequire
)

// Address is where to listen or connect.
type Address struct {
	Network string // "tcp" or "unix"
	Address string // host:port or a path
}

func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Address
	}
	return a.Address
}

// Upstream is the application behind a gate.
type Upstream struct {
	Address Address
	// H2C sends every request as HTTP/2 in plaintext with prior knowledge.
	// false: HTTP/1.1, but application/grpc goes h2c all the same.
	H2C bool
	// RedirectPort, if above 0, makes a gate that forwards nothing: it answers
	// every request with 308 to https on that port.
	RedirectPort int
	// InsecureUpstream allows an address that is not loopback, to which
	// plaintext then travels. false: refused at every dial.
	InsecureUpstream bool
}

// Gate is one listener and where it forwards to. The exported fields are set
// before [Proxy.Run] and not changed afterwards.
type Gate struct {
	Name     string
	Listen   Address
	Upstream Upstream

	// Plaintext makes a gate without TLS, for a router that has ended it. It
	// needs no Certificates and can ask for no client certificate.
	Plaintext bool
	// OnlyHTTP1 offers no HTTP/2 to clients: the switch for the day on which
	// HTTP/2 has a hole.
	OnlyHTTP1 bool
	// MinVersion of TLS; 0 means tls.VersionTLS12.
	MinVersion uint16
	// Ciphers of TLS 1.2; empty means those of [DefaultCiphers]. TLS 1.3 has
	// no list: all of its ciphers are good.
	Ciphers      []uint16
	Certificates Certificates
	// Challenge is the certificate that proves a name of ours to an ACME server,
	// for a handshake that offers acme-tls/1 alone (RFC 8737); it errs when no
	// proof is under way. Such a connection is closed after the handshake: nothing
	// is asked of its client and nothing forwarded. nil: there is no such server.
	Challenge  func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCert ClientCert
	Trust      Trust // required unless ClientCert is ClientCertNone

	// CertUser is which name of a client certificate counts as a user, if the
	// request has no credential. Zero: none does.
	CertUser       policy.CertUser
	Authenticators []Authenticator // may be empty
	Decider        Decider         // required

	// Hosts are the authorities that this gate answers for, without port;
	// "*.example.org" covers one more label. Anything else is 421. Empty: any.
	Hosts []string
	// MaxBody is how many bytes a request's body may have; more is 413. 0: any.
	MaxBody int64
	// StreamIdle ends a request by which no byte has moved for so long, either
	// way, after its answer began; of gRPC and of upgraded connections, since it
	// was forwarded. 0: such a stream may be silent for ever.
	StreamIdle time.Duration
	// Headers are the fields that tell the application who is calling.
	Headers IdentityHeaders
	// PassAuthorization forwards an Authorization field that proved the user.
	PassAuthorization bool
	// TrustedProxies are the networks whose forwarding headers are believed, as
	// [policy.ParseNetwork] reads them.
	TrustedProxies []netip.Prefix
	// ClientField is the one field in which the trusted proxies name the client:
	// the other is not believed, nor forwarded. "": where both come they must agree.
	ClientField ClientField
	// StrictTransport is the Strict-Transport-Security field of every answer
	// (RFC 6797 6.1). Empty: none of ours, the application's passes. A
	// plaintext gate never sends it, as RFC 6797 7.2 demands.
	StrictTransport string
	// AccessLog says which requests leave a line.
	AccessLog AccessLog
}

// ClientField is a field in which proxies name the client.
type ClientField string

// The fields that are read.
const (
	XForwardedFor ClientField = "X-Forwarded-For"
	Forwarded     ClientField = "Forwarded" // RFC 7239
)

// AccessLog says which requests and connections leave an access-log line.
type AccessLog int

// The zero value logs all.
const (
	AccessLogAll AccessLog = iota
	AccessLogDenied
	AccessLogOff
)

// servesHost reports whether the canonical host is one of the gate's.
func (g *Gate) servesHost(host string) bool {
	if len(g.Hosts) == 0 {
		return true
	}
	_, parent, _ := strings.Cut(host, ".")
	for _, h := range g.Hosts {
		if h == host || (parent != "" && strings.HasPrefix(h, "*.") && h[2:] == parent) {
			return true
		}
	}
	return false
}

// minVersion is the oldest version of TLS that the gate speaks.
func (g *Gate) minVersion() uint16 {
	return max(g.MinVersion, tls.VersionTLS12)
}

// protocols are what the gate offers by ALPN, the preferred one first.
func (g *Gate) protocols() []string {
	if g.OnlyHTTP1 {
		return []string{protocolHTTP1}
	}
	return []string{protocolHTTP2, protocolHTTP1}
}

// Protocols by ALPN.
const (
	protocolHTTP1     = "http/1.1"   // RFC 7301 6
	protocolHTTP2     = "h2"         // RFC 9113 3.2
	protocolChallenge = "acme-tls/1" // RFC 8737 6.2
)

// DefaultCiphers are the ciphers of TLS 1.2 that a gate speaks unless it says
// otherwise: those with forward secrecy and authenticated encryption, which
// are also those of HTTP/2 (RFC 9113 9.2.2).
var DefaultCiphers = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

func (g *Gate) ciphers() []uint16 {
	if len(g.Ciphers) == 0 {
		return DefaultCiphers
	}
	return g.Ciphers
}

// scheme is how clients speak to the gate.
func (g *Gate) scheme() string {
	if g.Plaintext {
		return "http"
	}
	return "https"
}

// trusts reports whether addr is a proxy whose forwarding headers count.
func (g *Gate) trusts(addr netip.Addr) bool {
	for _, p := range g.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
