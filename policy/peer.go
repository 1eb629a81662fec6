package policy

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// NewPeer takes from a verified leaf what rules can ask for. O and OU make no
// groups: whoever asks for a certificate may choose them.
func NewPeer(leaf *x509.Certificate) *Peer {
	p := &Peer{
		Subject:  leaf.Subject.String(),
		DNSNames: lower(leaf.DNSNames),
		Emails:   leaf.EmailAddresses,
		Issuer:   leaf.Issuer.String(),
		Serial:   fmt.Sprintf("%x", leaf.SerialNumber),
		NotAfter: leaf.NotAfter,
	}
	if !hasSAN(leaf) { // RFC 9525: a certificate with any SAN is never read by its CN
		p.CommonName = leaf.Subject.CommonName
	}
	for _, u := range leaf.URIs {
		p.URIs = append(p.URIs, u.String())
	}
	if len(leaf.URIs) == 1 { // X.509-SVID 2: exactly one
		p.ID = spiffeID(leaf.URIs[0])
	}
	return p
}

func hasSAN(leaf *x509.Certificate) bool {
	return len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses)+len(leaf.URIs) > 0
}

func lower(names []string) []string {
	var list []string
	for _, n := range names {
		list = append(list, strings.ToLower(strings.TrimSuffix(n, ".")))
	}
	return list
}

// spiffeID is the workload's ID, or zero for anything that is not exactly one
// by the standard: url.Parse accepts more than SPIFFE-ID 2 does, but its
// String gives back what was signed, and spiffeid reads that strictly.
func spiffeID(u *url.URL) spiffeid.ID {
	id, err := spiffeid.FromString(u.String())
	if err != nil || id.Path() == "" {
		return spiffeid.ID{}
	}
	return id
}
