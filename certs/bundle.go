package certs

import (
	"bytes"
	"crypto/x509"
	"slices"
)

// bundle is one set of CAs.
type bundle struct {
	anchors *x509.CertPool      // where a chain ends
	below   []*x509.Certificate // those whose issuer stands in the bundle too
}

// newBundle tells the anchors of a set of CAs from the intermediates. One whose
// issuer is there is no anchor: a chain that ended there would pass over the
// dates, constraints and revocations of those above it. One whose issuer is not
// there is trusted by itself.
func newBundle(cas []*x509.Certificate) *bundle {
	parents := parentsOf(cas)
	b := &bundle{anchors: x509.NewCertPool()}
	var reached, left []*x509.Certificate
	for _, c := range cas {
		if len(parents[c]) == 0 {
			b.anchors.AddCert(c)
			reached = append(reached, c)
		} else {
			left = append(left, c)
		}
	}
	for len(left) > 0 {
		next := slices.DeleteFunc(slices.Clone(left), func(c *x509.Certificate) bool {
			return !slices.ContainsFunc(parents[c], func(p *x509.Certificate) bool { return slices.Contains(reached, p) })
		})
		if len(next) == 0 { // CAs that signed each other: any of them is as good an end as another
			next = left[:1]
			b.anchors.AddCert(left[0])
		} else {
			b.below = append(b.below, next...)
		}
		reached = append(reached, next...)
		left = slices.DeleteFunc(left, func(c *x509.Certificate) bool { return slices.Contains(next, c) })
	}
	return b
}

// parentsOf are the other CAs of the set that signed each one. A root has none.
func parentsOf(cas []*x509.Certificate) map[*x509.Certificate][]*x509.Certificate {
	named := map[string][]*x509.Certificate{}
	for _, c := range cas {
		named[string(c.RawSubject)] = append(named[string(c.RawSubject)], c)
	}
	parents := map[*x509.Certificate][]*x509.Certificate{}
	for _, c := range cas {
		if bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			continue // self-signed
		}
		for _, p := range named[string(c.RawIssuer)] {
			if !sameKey(p, c) && c.CheckSignatureFrom(p) == nil {
				parents[c] = append(parents[c], p)
			}
		}
	}
	return parents
}

// intermediates are those that the peer sent and those of the bundle.
func (b *bundle) intermediates(sent []*x509.Certificate) *x509.CertPool {
	return Pool(slices.Concat(sent, b.below))
}
