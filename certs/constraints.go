package certs

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
)

// subjectAllowed leaves the chains whose name constraints allow what the
// subject of the leaf says. [x509.Certificate.Verify] compares subject
// alternative names alone, and rules may name a subject or common name too.
func subjectAllowed(chains [][]*x509.Certificate) ([][]*x509.Certificate, error) {
	var refused error
	var allowed [][]*x509.Certificate
	for _, chain := range chains {
		if err := checkSubject(chain); err != nil {
			refused = err
			continue
		}
		allowed = append(allowed, chain)
	}
	if len(allowed) == 0 {
		return nil, &PeerError{peerUntrusted, refused}
	}
	return allowed, nil
}

// checkSubject applies DNS constraints to common names that look like a host,
// where no dNSName says the host, as OpenSSL does, and mail constraints to
// mail addresses (RFC 5280 4.2.1.10).
func checkSubject(chain []*x509.Certificate) error {
	leaf := chain[0]
	for _, name := range leaf.Subject.Names {
		text, _ := name.Value.(string)
		for _, ca := range chain[1:] {
			switch {
			case name.Type.Equal(oidCommonName) && len(leaf.DNSNames) == 0 && looksLikeHost(text):
				if !permits(text, ca.PermittedDNSDomains, ca.ExcludedDNSDomains, hostWithin) {
					return fmt.Errorf("the common name %q is outside the name constraints of %s", text, ca.Subject)
				}
			case name.Type.Equal(oidEmailAddress) && strings.Contains(text, "@"):
				if !permits(text, ca.PermittedEmailAddresses, ca.ExcludedEmailAddresses, mailWithin) {
					return fmt.Errorf("the mail address %q of the subject is outside the name constraints of %s", text, ca.Subject)
				}
			}
		}
	}
	return nil
}

var (
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
)

// looksLikeHost reports whether a common name can be taken for the name of a
// host: two or more labels, perhaps with a wildcard or a final dot. One word,
// such as the name of a user, is none.
func looksLikeHost(name string) bool {
	name = strings.TrimPrefix(strings.TrimSuffix(name, "."), "*.")
	for i := range len(name) {
		if c := name[i]; c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return strings.Contains(name, ".")
}

// permits applies one kind of constraints of one CA.
func permits(name string, permitted, excluded []string, within func(name, constraint string) bool) bool {
	is := func(constraint string) bool { return within(name, constraint) }
	return (len(permitted) == 0 || slices.ContainsFunc(permitted, is)) && !slices.ContainsFunc(excluded, is)
}

// hostWithin reports whether a host is the constraint's domain or below it. A
// leading dot, which is no part of RFC 5280 but common, means below it alone.
func hostWithin(name, constraint string) bool {
	name = strings.ToLower(strings.TrimPrefix(strings.TrimSuffix(name, "."), "*."))
	constraint = strings.ToLower(strings.TrimSuffix(constraint, "."))
	bare := strings.TrimPrefix(constraint, ".")
	return bare == "" || name == constraint || strings.HasSuffix(name, "."+bare)
}

// mailWithin reports whether an address is the constraint's mailbox, of its
// host, or with a leading dot of a host below its domain.
func mailWithin(address, constraint string) bool {
	if strings.Contains(constraint, "@") {
		local, host, _ := cutLast(address)
		wantLocal, wantHost, _ := cutLast(constraint)
		return local == wantLocal && strings.EqualFold(host, wantHost)
	}
	_, host, _ := cutLast(address)
	if strings.HasPrefix(constraint, ".") {
		return strings.HasSuffix(strings.ToLower(host), strings.ToLower(constraint))
	}
	return constraint == "" || strings.EqualFold(host, constraint)
}

// cutLast splits an address at its last @.
func cutLast(address string) (local, host string, ok bool) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return "", address, false
	}
	return address[:i], address[i+1:], true
}
