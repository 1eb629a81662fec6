package certs

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"time"
)

// crl is a revocation list. It belongs to a key, not just to a name: two CAs
// may have the same name and serials.
type crl struct {
	file    string
	list    *x509.RevocationList // without its entries
	revoked serials
	scope   string            // the issuing distribution point: lists of two scopes don't replace each other
	signer  *x509.Certificate // of the bundle; nil: the list is unproven
	proof   *proof            // of an unproven list
}

// addCRLs reads a file of CRLs.
func (t *trust) addCRLs(f File) error {
	lists, err := parseCRLs(f.Name, f.Data)
	if err != nil {
		return err
	}
	for i, list := range lists {
		c, err := t.newCRL(f.Name, list)
		if err != nil {
			return fmt.Errorf("%s: CRL %d (%s): %w", f.Name, i+1, list.Issuer, err)
		}
		t.crls = append(t.crls, c)
	}
	return nil
}

func (t *trust) newCRL(file string, list *revocationList) (*crl, error) {
	scope, err := wholeList(list.RevocationList)
	if err != nil {
		return nil, err
	}
	c := &crl{file: file, list: list.RevocationList, revoked: list.revoked, scope: scope}
	if c.signer, err = t.signerOf(c.list); err != nil {
		return nil, err
	}
	if c.signer == nil {
		c.proof = newProof()
	} else {
		c.list.RawTBSRevocationList = nil // it was needed for the signature alone
	}
	return c, nil
}

// signerOf is the CA of the bundle that signed a list, or nil if none bears the
// issuer's name. A list in the name of one that did not sign it is refused.
func (t *trust) signerOf(list *x509.RevocationList) (*x509.Certificate, error) {
	named := false
	for _, ca := range t.cas {
		sameName := bytes.Equal(ca.RawSubject, list.RawIssuer)
		sameID := len(ca.SubjectKeyId) > 0 && bytes.Equal(ca.SubjectKeyId, list.AuthorityKeyId)
		switch {
		case !sameName && !sameID:
		case list.CheckSignatureFrom(ca) != nil:
			named = named || sameName
		case !sameName:
			return nil, fmt.Errorf("it is signed by %s but bears another name, or writes it in another way", ca.Subject)
		default:
			return ca, nil
		}
	}
	if named {
		return nil, errors.New("it is not signed by a CA of the bundle")
	}
	return nil, nil
}

// Extensions of CRLs (RFC 5280 5.2).
var (
	oidCRLNumber    = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidDelta        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	understoodInCRL = []asn1.ObjectIdentifier{oidCRLNumber, oidAuthorityKey}
)

// wholeList refuses a list that does not tell of every certificate of its
// issuer: taken for a whole one it would pass over the rest as not revoked.
// A critical extension that is not understood is such a case too (RFC 5280
// 5.2). It returns the issuing distribution point, "" without.
func wholeList(list *x509.RevocationList) (scope string, err error) {
	for _, e := range list.Extensions {
		switch {
		case e.Id.Equal(oidDelta):
			return "", errors.New("it is a delta CRL, which tells only of changes; mount the complete one")
		case e.Id.Equal(oidIssuingPoint):
			if err := wholePoint(e.Value); err != nil {
				return "", err
			}
			scope = string(e.Value)
		case e.Critical && !slices.ContainsFunc(understoodInCRL, e.Id.Equal):
			return "", fmt.Errorf("its critical extension %s is not understood", e.Id)
		}
	}
	return scope, nil
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

// unrevoked returns the first chain in which nothing is revoked. Where another
// chain fails by an overdue CRL alone, that is the error: nothing is known
// against the peer then, and live connections stay.
func (t *trust) unrevoked(chains [][]*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	var refused error
	for _, chain := range chains {
		err := t.checkRevocation(chain, now)
		if err == nil {
			return chain, nil
		}
		if refused == nil || hasReason(err, crlExpired) {
			refused = err
		}
	}
	return nil, refused
}

func hasReason(err error, reason string) bool {
	var peer *PeerError
	return errors.As(err, &peer) && peer.reason == reason
}

// checkRevocation asks the lists about every certificate of a verified chain. A
// revocation anywhere weighs more than an overdue list.
func (t *trust) checkRevocation(chain []*x509.Certificate, now time.Time) error {
	var due error
	for i, c := range chain {
		lists, err := t.listsOn(chain, i)
		if err != nil {
			return err
		}
		for _, l := range lists {
			if l.revokes(c) {
				return refuse(peerRevoked, "certificate %x of %s is revoked", c.SerialNumber, c.Issuer)
			}
			if due == nil && l.overdue(now) {
				due = refuse(crlExpired, "the CRL of %s was due %s", c.Issuer, utc(l.list.NextUpdate))
			}
		}
	}
	return due
}

// listsOn are the lists that tell of certificate i of a verified chain.
func (t *trust) listsOn(chain []*x509.Certificate, i int) ([]*crl, error) {
	if i+1 < len(chain) {
		return t.listsOf(chain[i+1])
	}
	return t.onTop[string(chain[i].Raw)], nil
}

// listsOf are the newest lists of a CA in a verified chain. It is refused when
// a list in its name does not hold.
func (t *trust) listsOf(ca *x509.Certificate) ([]*crl, error) {
	var own []*crl
	var broken *crl
	for _, l := range t.crls {
		switch {
		case !bytes.Equal(l.list.RawIssuer, ca.RawSubject):
		case l.holdsFor(ca):
			own = append(own, l)
		case l.signer == nil && l.saysKey(ca.SubjectKeyId) == yes:
			return nil, l.fail(ca)
		case l.signer == nil && l.saysKey(ca.SubjectKeyId) == unknown:
			broken = l // unless another one holds, and this is a namesake's
		}
	}
	if len(own) == 0 && broken != nil {
		return nil, broken.fail(ca)
	}
	return newest(own), nil
}

// listsOnTop are the lists that tell of a CA of the bundle where a chain ends
// there. A root is asked about itself, as OpenSSL's crl_check_all does. Above
// another anchor there is nobody who could prove a list in its issuer's name:
// what is mounted as such is believed where it revokes.
func (t *trust) listsOnTop(ca *x509.Certificate) []*crl {
	var list []*crl
	for _, l := range t.crls {
		switch {
		case !bytes.Equal(l.list.RawIssuer, ca.RawIssuer):
		case l.signer != nil && signed(l.signer, ca), l.signer == nil && l.saysKey(ca.AuthorityKeyId) != no:
			list = append(list, l)
		}
	}
	return newest(list)
}

// signed reports whether ca signed c. A signature of a kind that is too weak to
// be checked (SHA-1) counts as one here, where it only adds a list.
func signed(ca, c *x509.Certificate) bool {
	err := ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	var weak x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &weak)
}

// answer is what a list says about the key that signed it.
type answer int

const (
	unknown answer = iota
	yes
	no
)

// saysKey compares the list's authority key identifier with that of a key. It
// is a hint alone, any CA may write any.
func (c *crl) saysKey(id []byte) answer {
	switch {
	case len(id) == 0 || len(c.list.AuthorityKeyId) == 0:
		return unknown
	case bytes.Equal(id, c.list.AuthorityKeyId):
		return yes
	}
	return no
}

// holdsFor reports whether the list is that of a CA in a verified chain.
func (c *crl) holdsFor(ca *x509.Certificate) bool {
	if c.signer != nil {
		return sameKey(c.signer, ca)
	}
	return c.proof.check(c.list, ca)
}

// newest leaves out each list that another one of the same scope replaces.
func newest(lists []*crl) []*crl {
	return slices.DeleteFunc(slices.Clone(lists), func(l *crl) bool {
		return slices.ContainsFunc(lists, func(other *crl) bool { return other.scope == l.scope && l.olderThan(other) })
	})
}

// olderThan compares as OpenSSL does, by date, and by number what has the same.
func (c *crl) olderThan(other *crl) bool {
	if order := c.list.ThisUpdate.Compare(other.list.ThisUpdate); order != 0 {
		return order < 0
	}
	number := func(l *crl) *big.Int { return cmp.Or(l.list.Number, new(big.Int)) }
	return number(c).Cmp(number(other)) < 0
}

// replaceOld leaves out the lists whose CA has a newer one. Unproven lists
// without a key identifier may be those of namesakes: they are compared when
// they are proven.
func (t *trust) replaceOld() {
	groups := map[string][]*crl{}
	for _, l := range t.crls {
		groups[l.owner()] = append(groups[l.owner()], l)
	}
	t.crls = slices.DeleteFunc(t.crls, func(l *crl) bool {
		return l.owner() != "" && !slices.Contains(newest(groups[l.owner()]), l)
	})
}

// owner is the same for two lists of one key, "" where that can't be told.
func (c *crl) owner() string {
	switch {
	case c.signer != nil:
		return "key" + string(c.list.RawIssuer) + string(c.signer.RawSubjectPublicKeyInfo)
	case len(c.list.AuthorityKeyId) > 0:
		return "id" + string(c.list.RawIssuer) + string(c.list.AuthorityKeyId)
	}
	return ""
}

func (c *crl) revokes(cert *x509.Certificate) bool {
	return c.revoked.has(cert.SerialNumber.Bytes())
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// overdue reports whether a newer list should be here by now (RFC 5280 6.3.3).
func (c *crl) overdue(now time.Time) bool {
	return !c.list.NextUpdate.IsZero() && now.After(c.list.NextUpdate)
}

// remarks are what an operator should know of the list.
func (c *crl) remarks(now time.Time) []remark {
	var list []remark
	if c.overdue(now) {
		list = append(list, remark{slog.LevelError, "CRL overdue",
			fmt.Sprintf("the CRL of %s was due %s: its certificates are refused", c.list.Issuer, utc(c.list.NextUpdate))})
	}
	state, failures := c.state()
	if state == crlUnproven {
		list = append(list, remark{slog.LevelInfo, "CRL unproven",
			fmt.Sprintf("%s: the CA of the CRL of %s is not in the bundle; the list is checked when a client sends that CA", c.file, c.list.Issuer)})
	}
	for _, f := range failures {
		list = append(list, remark{slog.LevelError, "CRL not signed by its CA", f})
	}
	return list
}

// revoking is the list by which a CA of the bundle is revoked, or nil.
func (t *trust) revoking(ca *x509.Certificate) *crl {
	for _, l := range t.onTop[string(ca.Raw)] {
		if l.revokes(ca) {
			return l
		}
	}
	return nil
}

// lostCRL returns a list of old whose CA is still trusted but has none any
// more, or nil. To go on would un-revoke its certificates.
func (t *trust) lostCRL(old *trust, now time.Time) *crl {
	for _, l := range old.crls {
		if l.signer != nil && !t.vouchesFor(l.signer) {
			continue
		}
		if t.scopesLike(l, func(*crl) bool { return true }) < old.scopesLike(l, func(o *crl) bool { return o == l || !o.overdue(now) }) {
			return l
		}
	}
	return nil
}

// scopesLike counts the scopes of the lists that are of the same CA as l.
func (t *trust) scopesLike(l *crl, counts func(*crl) bool) int {
	scopes := map[string]bool{}
	for _, o := range t.crls {
		same := bytes.Equal(o.list.RawIssuer, l.list.RawIssuer)
		if l.signer != nil && o.signer != nil {
			same = sameKey(o.signer, l.signer)
		}
		if same && counts(o) {
			scopes[o.scope] = true
		}
	}
	return len(scopes)
}

// vouchesFor reports whether a CA of the bundle before is still believed,
// whether it stands in this one or clients send it.
func (t *trust) vouchesFor(ca *x509.Certificate) bool {
	if slices.ContainsFunc(t.cas, func(c *x509.Certificate) bool { return sameKey(c, ca) }) {
		return true
	}
	for _, c := range t.cas {
		if bytes.Equal(c.RawSubject, ca.RawIssuer) && signed(c, ca) {
			return true
		}
	}
	return false
}
