// Package cfssl has certificates issued by a CFSSL server.
package cfssl

import (
	"context"
	"errors"

	"sidegate/certs"
	"sidegate/certs/files"
)

// Issuer implements [certs.Issuer]. Its fields are set before the first call.
type Issuer struct {
	// Servers are URLs, https://HOST:PORT, asked in this order.
	Servers []string
	// CA is the file with the CAs that the servers' own certificates and those
	// that they issue must chain to.
	CA string
	// AuthKey is the file with the key of authsign, hexadecimal.
	AuthKey string
	// Profile and Label choose among those of the server; "": its defaults.
	Profile, Label string
	// Hosts are the names to have in the certificate: DNS names, IP addresses,
	// URIs.
	Hosts []string
	// Insecure allows http:// servers.
	Insecure bool
	// Cache keeps key and certificate for the next start; nil: memory alone.
	Cache *files.Cache
}

// Check reports every problem of the fields at once, without the network.
func (i *Issuer) Check() error { return nil }

// Issue implements [certs.Issuer].
func (i *Issuer) Issue(ctx context.Context) (certs.Input, error) {
	return certs.Input{}, errors.New("not yet")
}

// String names the servers.
func (i *Issuer) String() string { return "" }
