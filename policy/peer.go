package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// NewPeer takes from a verified leaf what rules can ask for. Names are taken
// from the bytes that were signed: net/url drops a bare "#" from a URI, and
// [pkix.Name.String] sorts a subject and keeps the last of its common names,
// so two certificates would look alike. O and OU make no groups: whoever asks
// for a certificate may choose them.
func NewPeer(leaf *x509.Certificate) *Peer {
	p := &Peer{
		Subject:  distinguishedName(leaf.RawSubject),
		DNSNames: lower(leaf.DNSNames),
		Emails:   leaf.EmailAddresses,
		Issuer:   distinguishedName(leaf.RawIssuer),
		Serial:   fmt.Sprintf("%x", leaf.SerialNumber),
		NotAfter: leaf.NotAfter,
	}
	names, found := subjectAltName(leaf)
	if !found { // RFC 9525: a certificate with any SAN is never read by its CN
		p.CommonName = leaf.Subject.CommonName
	}
	p.URIs = uris(names)
	if len(p.URIs) == 1 { // X.509-SVID 2: exactly one
		p.ID = spiffeID(p.URIs[0])
	}
	return p
}

// distinguishedName writes a name as RFC 4514 does, all of it in the order in
// which it was signed, as openssl prints it with -nameopt RFC2253, but for
// kinds of attribute that Go has no word for, such as emailAddress: those are
// OID=#DER. It is "" for a name that can't be read, which no principal matches.
func distinguishedName(raw []byte) string {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 {
		return ""
	}
	return name.String()
}

// subjectAltName returns the value of the extension, which may hold nothing
// but kinds of names that crypto/x509 passes over.
func subjectAltName(leaf *x509.Certificate) (value []byte, found bool) {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			return e.Value, true
		}
	}
	return nil, false
}

// uris returns the uniformResourceIdentifiers among GeneralNames (RFC 5280,
// 4.2.1.6), byte for byte.
func uris(generalNames []byte) []string {
	var names []asn1.RawValue
	if _, err := asn1.Unmarshal(generalNames, &names); err != nil {
		return nil // none, or not what crypto/x509 would have let through
	}
	var list []string
	for _, n := range names {
		if n.Class == asn1.ClassContextSpecific && n.Tag == 6 {
			list = append(list, string(n.Bytes))
		}
	}
	return list
}

// Name is the one by which logs and headers call a peer: its SPIFFE ID, else its
// first SAN, else its subject. "" for nil.
func (p *Peer) Name() string {
	if p == nil {
		return ""
	}
	_, name := p.name()
	return name
}

// name is the same with the form that a principal of it has.
func (p *Peer) name() (form, name string) {
	switch {
	case !p.ID.IsZero():
		return "", p.ID.String()
	case len(p.DNSNames) > 0:
		return "dns:", p.DNSNames[0]
	case len(p.URIs) > 0:
		return "uri:", p.URIs[0]
	case len(p.Emails) > 0:
		return "email:", p.Emails[0]
	}
	return "subject:", p.Subject
}

// CertMethod is the name of the method by which a verified certificate proves
// a user: user:cert/alice.
const CertMethod = "cert"

// CertUser says which name of a certificate is also a user's name.
type CertUser string

// The names that may be a user's. CertUserNone is the zero value: none is.
const (
	CertUserNone   CertUser = ""
	CertUserCN     CertUser = "cn"     // the common name, of a certificate without SANs
	CertUserEmail  CertUser = "email"  // the only rfc822Name
	CertUserDNS    CertUser = "dns"    // the only dNSName
	CertUserSPIFFE CertUser = "spiffe" // the SPIFFE ID
)

// Of is the user that the peer is, or nil: a certificate with several such
// names, or a wildcard, is no one in particular.
func (kind CertUser) Of(p *Peer) *User {
	if p == nil {
		return nil
	}
	u := &User{Method: CertMethod}
	switch kind {
	case CertUserCN:
		u.Name = p.CommonName
	case CertUserEmail:
		u.Name = only(p.Emails)
		u.Email = u.Name
	case CertUserDNS:
		u.Name = only(p.DNSNames)
	case CertUserSPIFFE:
		u.Name = p.ID.String()
	}
	if u.Name == "" || strings.Contains(u.Name, "*") {
		return nil
	}
	return u
}

// only is the one name of a list, "" if there are none or several.
func only(names []string) string {
	if len(names) != 1 {
		return ""
	}
	return names[0]
}

func lower(names []string) []string {
	var list []string
	for _, n := range names {
		list = append(list, strings.ToLower(strings.TrimSuffix(n, ".")))
	}
	return list
}

// spiffeID is the workload's ID, or zero for anything that is not exactly one
// by the standard (SPIFFE-ID 2), a trust domain without a path included.
func spiffeID(uri string) spiffeid.ID {
	id, err := spiffeid.FromString(uri)
	if err != nil || id.Path() == "" {
		return spiffeid.ID{}
	}
	return id
}
