// Package acme has certificates issued by an ACME server (RFC 8555), which
// looks at the gate's own port for the proof (TLS-ALPN-01, RFC 8737).
package acme

import (
	"context"
	"crypto/tls"
	"errors"

	"sidegate/certs"
	"sidegate/certs/files"
)

// Issuer implements [certs.Issuer]. Its fields are set before the first call.
type Issuer struct {
	// Directory is the URL of the server's directory.
	Directory string
	// Email is the contact of the account; "": none.
	Email string
	// CA is the file with the CAs that the server's own certificate must chain
	// to; "": those of the system.
	CA string
	// EAB is the folder with kid and hmac of an external account binding; "": none.
	EAB string
	// Hosts are the DNS names to have in the certificate.
	Hosts []string
	// Cache keeps account, key and certificate for the next start; nil: memory
	// alone.
	Cache *files.Cache
	// Open is closed when the gates listen; nil: they do already.
	Open <-chan struct{}
}

// Check reports every problem of the fields at once, without the network.
func (i *Issuer) Check() error { return nil }

// Issue implements [certs.Issuer]. The first call gives what was kept, or
// [certs.ErrPending]: the server can look at the gate only when it is open.
func (i *Issuer) Issue(ctx context.Context) (certs.Input, error) {
	return certs.Input{}, errors.New("not yet")
}

// Challenge is the certificate that proves a name to the server, for a
// handshake that offers acme-tls/1 alone. It errs when none is under way.
func (i *Issuer) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("not yet")
}

// String names the directory.
func (i *Issuer) String() string { return i.Directory }
