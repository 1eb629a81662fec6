package certs

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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

// Bounds of what a peer may send, whatever called us has let through: each
// certificate costs signature checks, and those grow with the key
// (CVE-2023-29409). Real chains have two to four.
const (
	maxPeerChain = 10
	maxRSABits   = 8192
)

// trust is whom clients must chain to.
type trust struct {
	any     *x509.CertPool // nil: only the domains below
	own     string         // the trust domain that is ours, where that can be told
	domains map[string]*x509.CertPool
	hint    *x509.CertPool
	cas     []*x509.Certificate
	crls    []*crl
}

// crl is a revocation list and the CA that signed it. A list belongs to a
// key, not just to a name: two CAs may have the same name and serials.
type crl struct {
	file    string
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
	for _, domain := range slices.Sorted(maps.Keys(in.Domains)) { // in order, so that the same fault is the same error
		f := in.Domains[domain]
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
		if !slices.ContainsFunc(t.cas, c.Equal) {
			t.cas = append(t.cas, c)
		}
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
		if err := wholeList(list); err != nil {
			return fmt.Errorf("%s: CRL %d (%s): %w", f.Name, i+1, list.Issuer, err)
		}
		c := &crl{file: f.Name, issuer: issuer, list: list, revoked: make(map[string]bool, len(list.RevokedCertificateEntries))}
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

// Extensions of CRLs and their entries (RFC 5280 5.2, 5.3).
var (
	oidCRLNumber     = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason        = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidity    = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDelta         = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKey  = asn1.ObjectIdentifier{2, 5, 29, 35}
	understoodInCRL  = []asn1.ObjectIdentifier{oidCRLNumber, oidAuthorityKey}
	understoodInItem = []asn1.ObjectIdentifier{oidReason, oidInvalidity}
)

// wholeList refuses a list that does not tell of every certificate of its
// issuer: taken for a whole one it would pass over the rest as not revoked.
// A critical extension that is not understood is such a case too (RFC 5280
// 5.2, 5.3), and so is one revocation of an indirect list.
func wholeList(list *x509.RevocationList) error {
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidDelta):
			return errors.New("it is a delta CRL, which tells only of changes; mount the complete one")
		case e.Id.Equal(oidIssuingPoint):
			if err := wholePoint(e.Value); err != nil {
				return err
			}
		case e.Critical && !slices.ContainsFunc(understoodInCRL, e.Id.Equal):
			return fmt.Errorf("its critical extension %s is not understood", e.Id)
		}
	}
	for _, r := range list.RevokedCertificateEntries {
		for _, e := range r.Extensions {
			if e.Critical && !slices.ContainsFunc(understoodInItem, e.Id.Equal) {
				return fmt.Errorf("the critical extension %s of serial %x is not understood", e.Id, r.SerialNumber)
			}
		}
	}
	return nil
}

// wholePoint accepts an issuing distribution point (RFC 5280 5.2.5) that only
// says where the list comes from, as many CAs write it, or that it leaves out
// certificates of CAs.
func wholePoint(der []byte) error {
	const from, onlyUsers = 0, 1
	var fields []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &fields); err != nil || len(rest) > 0 {
		return errors.New("its issuing distribution point can't be read")
	}
	for _, f := range fields {
		if f.Class != asn1.ClassContextSpecific || f.Tag != from && f.Tag != onlyUsers {
			return errors.New("its issuing distribution point says that it is a partial or indirect list; mount the complete one")
		}
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
	for _, c := range chain {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return nil, refuse(peerUntrusted, "an RSA key of %d bits, more than %d", key.N.BitLen(), maxRSABits)
		}
	}
	leaf := chain[0]
	if err := checkLeaf(leaf, use, now); err != nil {
		return nil, err
	}
	roots, err := t.rootsFor(leaf)
	if err != nil {
		return nil, err
	}
	verified, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: Pool(chain[1:]),
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
		return refuse(peerExpired, "certificate is not valid before %s", utc(leaf.NotBefore))
	case now.After(leaf.NotAfter):
		return refuse(peerExpired, "certificate ended %s", utc(leaf.NotAfter))
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
	id, ok := spiffeIDOf(leaf)
	if pool := t.domains[id.TrustDomain().Name()]; ok && pool != nil {
		return pool, nil
	}
	switch {
	case t.any != nil:
		return t.any, nil
	case ok:
		return nil, refuse(peerUntrusted, "there is no bundle of the trust domain %.255s", id.TrustDomain().Name())
	}
	return nil, refuse(peerUntrusted, "not an X.509-SVID: it has %d URIs, and needs one that is a SPIFFE ID with a path", len(leaf.URIs))
}

// ownDomain is the trust domain of the workload itself: that of its own
// certificate, where it has one, or the only one that there is a bundle of.
func (t *trust) ownDomain(own *x509.Certificate) string {
	if own == nil {
		own = &x509.Certificate{}
	}
	if id, ok := spiffeIDOf(own); ok {
		return id.TrustDomain().Name()
	}
	if t.any == nil && len(t.domains) == 1 {
		for domain := range t.domains {
			return domain
		}
	}
	return ""
}

// federated reports whether a peer is of another trust domain than ours, which
// has a bundle of its own.
func (t *trust) federated(leaf *x509.Certificate) bool {
	id, ok := spiffeIDOf(leaf)
	if !ok {
		return false
	}
	domain := id.TrustDomain().Name()
	return t.domains[domain] != nil && domain != t.own
}

// spiffeIDOf is the ID of a certificate that has exactly one URI. That of a
// trust domain itself, without a path, is no workload's (X.509-SVID).
func spiffeIDOf(c *x509.Certificate) (spiffeid.ID, bool) {
	if len(c.URIs) != 1 {
		return spiffeid.ID{}, false
	}
	id, err := spiffeid.FromURI(c.URIs[0])
	return id, err == nil && id.Path() != ""
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
			if l.overdue(now) {
				return refuse(crlExpired, "the CRL of %s was due %s", issuer.Subject, utc(l.list.NextUpdate))
			}
		}
	}
	return nil
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// overdue reports whether a newer list should be here by now (RFC 5280 6.3.3).
func (c *crl) overdue(now time.Time) bool {
	return !c.list.NextUpdate.IsZero() && now.After(c.list.NextUpdate)
}

// remarks are what an operator should know of a trust that works.
func (t *trust) remarks(now time.Time) []remark {
	var list []remark
	if len(t.crls) == 0 {
		list = append(list, remark{slog.LevelInfo, "no CRL", "without a CRL no client certificate is revoked before it ends"})
	}
	for _, ca := range t.cas {
		if now.After(ca.NotAfter) {
			list = append(list, remark{slog.LevelWarn, "CA expired",
				fmt.Sprintf("CA %s ended %s and vouches for nobody", ca.Subject, utc(ca.NotAfter))})
		}
	}
	for _, l := range t.crls {
		if l.overdue(now) {
			list = append(list, remark{slog.LevelError, "CRL overdue",
				fmt.Sprintf("the CRL of %s was due %s: its certificates are refused", l.issuer.Subject, utc(l.list.NextUpdate))})
		}
	}
	return list
}

// describe lists the CAs by names that tell them apart: those of a SPIFFE trust
// domain may have none but its ID, and during the rotation of a CA two bear the
// same one.
func (t *trust) describe() []Certificate {
	var list []Certificate
	used := map[string]bool{}
	for _, ca := range t.cas {
		name := ca.Subject.CommonName
		if name == "" && len(ca.URIs) > 0 {
			name = ca.URIs[0].String()
		}
		name = cmp.Or(name, ca.Subject.String())
		if used[name] {
			name += " " + serial(ca)
		}
		used[name] = true
		list = append(list, describe("client_ca", name, ca))
	}
	return list
}

// dates are when remarks change.
func (t *trust) dates() []time.Time {
	var list []time.Time
	for _, ca := range t.cas {
		list = append(list, ca.NotAfter)
	}
	for _, l := range t.crls {
		if !l.list.NextUpdate.IsZero() {
			list = append(list, l.list.NextUpdate)
		}
	}
	return list
}

// lostCRL returns a list of old whose CA is still trusted but has none any
// more, or nil. To go on would un-revoke its certificates.
func (t *trust) lostCRL(old *trust) *crl {
	for _, l := range old.crls {
		ofIssuer := func(c *crl) bool { return sameKey(c.issuer, l.issuer) }
		trusted := func(ca *x509.Certificate) bool { return sameKey(ca, l.issuer) }
		if slices.ContainsFunc(t.cas, trusted) && !slices.ContainsFunc(t.crls, ofIssuer) {
			return l
		}
	}
	return nil
}

// allExpired reports whether no CA can vouch for anyone any more.
func (t *trust) allExpired(now time.Time) bool {
	return !slices.ContainsFunc(t.cas, func(ca *x509.Certificate) bool { return !now.After(ca.NotAfter) })
}
