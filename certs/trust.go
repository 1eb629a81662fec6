package certs

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// PeerError is why a peer's certificate is refused. Reason is for metrics and
// the closed list of the log, the rest for a person.
type PeerError struct {
	reason string
	err    error
}

// Reasons of a [PeerError].
const (
	peerMissing   = "peer_missing"
	peerUntrusted = "peer_untrusted"
	peerExpired   = "peer_expired"
	peerRevoked   = "peer_revoked"
	crlExpired    = "crl_expired"
)

// Reason is one word of a closed list.
func (e *PeerError) Reason() string { return e.reason }

func (e *PeerError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *PeerError) Unwrap() error { return e.err }

func refuse(reason, format string, args ...any) error {
	return &PeerError{reason, fmt.Errorf(format, args...)}
}

// maxPeerChain is how many certificates a client may send. Real chains have
// two to four; each more costs signature checks.
const maxPeerChain = 10

// trust is whom clients must chain to.
type trust struct {
	any     *x509.CertPool // nil: only the domains below
	domains map[string]*x509.CertPool
	hint    *x509.CertPool
	cas     []*x509.Certificate
	crls    []*crl
}

// crl is a revocation list and the CA that signed it. A list belongs to a
// key, not just to a name: two CAs may have the same name and serials.
type crl struct {
	issuer  *x509.Certificate
	list    *x509.RevocationList
	revoked map[string]bool // serials
}

func newTrust(in Input) (*trust, error) {
	t := &trust{hint: x509.NewCertPool()}
	for _, f := range in.Bundle {
		if t.any == nil {
			t.any = x509.NewCertPool()
		}
		if err := t.addCAs(t.any, f); err != nil {
			return nil, err
		}
	}
	for domain, f := range in.Domains {
		td, err := spiffeid.TrustDomainFromString(domain)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not a SPIFFE trust domain: %w", f.Name, domain, err)
		}
		if t.domains == nil {
			t.domains = map[string]*x509.CertPool{}
		}
		pool := x509.NewCertPool()
		t.domains[td.Name()] = pool
		if err := t.addCAs(pool, f); err != nil {
			return nil, err
		}
	}
	for _, f := range in.CRLs {
		if err := t.addCRLs(f); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *trust) addCAs(pool *x509.CertPool, f File) error {
	list, err := ParseCertificates(f.Name, f.Data)
	if err != nil {
		return err
	}
	for i, c := range list {
		if c.BasicConstraintsValid && !c.IsCA {
			return fmt.Errorf("%s: certificate %d (%s) is not a CA", f.Name, i+1, c.Subject)
		}
		pool.AddCert(c)
		t.hint.AddCert(c)
		t.cas = append(t.cas, c)
	}
	return nil
}

func (t *trust) addCRLs(f File) error {
	lists, err := parseCRLs(f.Name, f.Data)
	if err != nil {
		return err
	}
	for i, list := range lists {
		issuer := t.signerOf(list)
		if issuer == nil {
			return fmt.Errorf("%s: CRL %d (%s) is not signed by a CA of the bundle", f.Name, i+1, list.Issuer)
		}
		c := &crl{issuer: issuer, list: list, revoked: make(map[string]bool, len(list.RevokedCertificateEntries))}
		for _, e := range list.RevokedCertificateEntries {
			const removeFromCRL = 8 // RFC 5280 5.3.1
			if e.ReasonCode != removeFromCRL {
				c.revoked[string(e.SerialNumber.Bytes())] = true
			}
		}
		t.crls = append(t.crls, c)
	}
	return nil
}

func (t *trust) signerOf(list *x509.RevocationList) *x509.Certificate {
	for _, ca := range t.cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// verify returns the verified chain of a peer, leaf first.
func (t *trust) verify(chain []*x509.Certificate, use x509.ExtKeyUsage, now time.Time) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, refuse(peerMissing, "no client certificate")
	}
	if len(chain) > maxPeerChain {
		return nil, refuse(peerUntrusted, "the client sent %d certificates, more than %d", len(chain), maxPeerChain)
	}
	leaf := chain[0]
	if err := checkLeaf(leaf, use, now); err != nil {
		return nil, err
	}
	roots, err := t.rootsFor(leaf)
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	verified, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{use},
	})
	if err != nil {
		return nil, verifyError(err)
	}
	return t.unrevoked(verified, now)
}

// checkLeaf refuses what x509.Verify lets pass, and says plainly what it
// would say in general words.
func checkLeaf(leaf *x509.Certificate, use x509.ExtKeyUsage, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return refuse(peerExpired, "certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return refuse(peerExpired, "certificate ended %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return refuse(peerUntrusted, "a CA's certificate does not identify a peer")
	case !allowsUsage(leaf, use):
		return refuse(peerUntrusted, "extended key usage lacks %s", usageName(use))
	}
	return nil
}

func usageName(use x509.ExtKeyUsage) string {
	if use == x509.ExtKeyUsageServerAuth {
		return "serverAuth"
	}
	return "clientAuth"
}

// rootsFor looks the roots up by the leaf's trust domain where bundles of
// domains are there, so that no domain can vouch for another.
func (t *trust) rootsFor(leaf *x509.Certificate) (*x509.CertPool, error) {
	if len(leaf.URIs) == 1 && len(t.domains) > 0 {
		if id, err := spiffeid.FromURI(leaf.URIs[0]); err == nil {
			if pool := t.domains[id.TrustDomain().Name()]; pool != nil {
				return pool, nil
			}
		}
	}
	if t.any == nil {
		return nil, refuse(peerUntrusted, "no bundle for this trust domain")
	}
	return t.any, nil
}

func verifyError(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return &PeerError{peerExpired, err}
	}
	return &PeerError{peerUntrusted, err}
}

// unrevoked returns the first chain in which nothing is revoked.
func (t *trust) unrevoked(chains [][]*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	var refused error
	for _, chain := range chains {
		if err := t.checkRevocation(chain, now); err != nil {
			refused = err
			continue
		}
		return chain, nil
	}
	return nil, refused
}

func (t *trust) checkRevocation(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:len(chain)-1] {
		issuer := chain[i+1]
		for _, l := range t.crls {
			if !sameKey(l.issuer, issuer) {
				continue
			}
			if l.revoked[string(c.SerialNumber.Bytes())] {
				return refuse(peerRevoked, "certificate %x of %s is revoked", c.SerialNumber, issuer.Subject)
			}
			if !l.list.NextUpdate.IsZero() && now.After(l.list.NextUpdate) {
				return refuse(crlExpired, "the CRL of %s was due %s", issuer.Subject, l.list.NextUpdate.UTC().Format(time.RFC3339))
			}
		}
	}
	return nil
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// warnings are what an operator should know of a trust that works.
func (t *trust) warnings(now time.Time) []string {
	var list []string
	for _, ca := range t.cas {
		if now.After(ca.NotAfter) {
			list = append(list, fmt.Sprintf("CA %s ended %s and vouches for nobody", ca.Subject, ca.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	for _, l := range t.crls {
		if !l.list.NextUpdate.IsZero() && now.After(l.list.NextUpdate) {
			list = append(list, fmt.Sprintf("the CRL of %s was due %s: its certificates are refused", l.issuer.Subject, l.list.NextUpdate.UTC().Format(time.RFC3339)))
		}
	}
	return list
}

// allExpired reports whether no CA can vouch for anyone any more.
func (t *trust) allExpired(now time.Time) bool {
	return !slices.ContainsFunc(t.cas, func(ca *x509.Certificate) bool { return !now.After(ca.NotAfter) })
}
