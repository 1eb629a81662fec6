package certs

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
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
	any     *bundle // nil: only the domains below
	own     string  // the trust domain that is ours, where that can be told
	domains map[string]*bundle
	hint    *x509.CertPool      // the CAs by whose names clients may choose a certificate
	cas     []*x509.Certificate // of all bundles, each once
	crls    []*crl

	hintSize int               // in a handshake
	onTop    map[string][]*crl // lists that tell of a CA where a chain ends there, by its DER
}

func newTrust(in Input) (*trust, error) {
	t := &trust{hint: x509.NewCertPool(), onTop: map[string][]*crl{}}
	if err := t.addBundles(in); err != nil {
		return nil, err
	}
	for _, f := range in.CRLs {
		if err := t.addCRLs(f); err != nil {
			return nil, err
		}
	}
	t.replaceOld()
	for _, ca := range t.cas {
		t.onTop[string(ca.Raw)] = t.listsOnTop(ca)
	}
	return t, nil
}

func (t *trust) addBundles(in Input) error {
	known := map[string]bool{}
	if len(in.Bundle) > 0 {
		var all []*x509.Certificate
		for _, f := range in.Bundle {
			list, err := t.readCAs(f, known)
			if err != nil {
				return err
			}
			all = append(all, list...)
		}
		t.any = newBundle(all)
	}
	for _, domain := range slices.Sorted(maps.Keys(in.Domains)) { // in order, so that the same fault is the same error
		f := in.Domains[domain]
		td, err := spiffeid.TrustDomainFromString(domain)
		if err != nil {
			return fmt.Errorf("%s: %q is not a SPIFFE trust domain: %w", f.Name, domain, err)
		}
		list, err := t.readCAs(f, known)
		if err != nil {
			return err
		}
		if t.domains == nil {
			t.domains = map[string]*bundle{}
		}
		t.domains[td.Name()] = newBundle(list)
	}
	return nil
}

// readCAs reads the CAs of a file. known are those of all bundles by their DER,
// and their names.
func (t *trust) readCAs(f File, known map[string]bool) ([]*x509.Certificate, error) {
	list, err := ParseCertificates(f.Name, f.Data)
	if err != nil {
		return nil, err
	}
	for i, c := range list {
		if c.BasicConstraintsValid && !c.IsCA {
			return nil, fmt.Errorf("%s: certificate %d (%s) is not a CA", f.Name, i+1, c.Subject)
		}
		if !known[string(c.Raw)] {
			known[string(c.Raw)] = true
			t.cas = append(t.cas, c)
			if name := "name " + string(c.RawSubject); !known[name] {
				known[name] = true
				t.hint.AddCert(c)
				t.hintSize += len(c.RawSubject) + 2 // the length before it (RFC 8446 4.2.4)
			}
		}
	}
	return list, nil
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
	b, err := t.bundleFor(leaf)
	if err != nil {
		return nil, err
	}
	verified, err := leaf.Verify(x509.VerifyOptions{
		Roots:         b.anchors,
		Intermediates: b.intermediates(chain[1:]),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{use},
	})
	if err != nil {
		return nil, verifyError(err)
	}
	if verified, err = subjectAllowed(verified); err != nil {
		return nil, err
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
	case !allowsKey(leaf, use):
		return refuse(peerUntrusted, "key usage lacks digitalSignature, so the key may not prove who a peer is")
	}
	return nil
}

// allowsKey judges the key usage as OpenSSL does for a client (sslclient) or a
// server (sslserver). A certificate without the extension may do anything.
func allowsKey(leaf *x509.Certificate, use x509.ExtKeyUsage) bool {
	allowed := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement
	if use == x509.ExtKeyUsageServerAuth {
		allowed |= x509.KeyUsageKeyEncipherment
	}
	return leaf.KeyUsage&allowed != 0 || !hasExtension(leaf, oidKeyUsage)
}

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}

func hasExtension(c *x509.Certificate, id asn1.ObjectIdentifier) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
}

func usageName(use x509.ExtKeyUsage) string {
	if use == x509.ExtKeyUsageServerAuth {
		return "serverAuth"
	}
	return "clientAuth"
}

// bundleFor looks the CAs up by the leaf's trust domain where bundles of
// domains are there, so that no domain can vouch for another.
func (t *trust) bundleFor(leaf *x509.Certificate) (*bundle, error) {
	id, ok := spiffeIDOf(leaf)
	if b := t.domains[id.TrustDomain().Name()]; ok && b != nil {
		return b, nil
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
		if why := cannotSign(ca); why != "" {
			list = append(list, remark{slog.LevelWarn, "CA can't sign",
				fmt.Sprintf("CA %s vouches for nobody: %s", ca.Subject, why)})
		}
		if l := t.revoking(ca); l != nil {
			list = append(list, remark{slog.LevelWarn, "CA revoked",
				fmt.Sprintf("CA %s is revoked by %s and vouches for nobody", ca.Subject, l.file)})
		}
	}
	for _, l := range t.crls {
		list = append(list, l.remarks(now)...)
	}
	return list
}

// cannotSign is why x509 takes no signature of a CA, "" if it does.
func cannotSign(ca *x509.Certificate) string {
	switch {
	case ca.Version == 3 && !ca.BasicConstraintsValid:
		return "its certificate lacks basicConstraints with CA:TRUE"
	case ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return "its key usage lacks keyCertSign"
	}
	return ""
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

// allExpired reports whether no CA can vouch for anyone any more.
func (t *trust) allExpired(now time.Time) bool {
	return !slices.ContainsFunc(t.cas, func(ca *x509.Certificate) bool { return !now.After(ca.NotAfter) })
}
