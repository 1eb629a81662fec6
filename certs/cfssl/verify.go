package cfssl

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sidegate/certs"
)

// pins are the CAs of the file that says whom to believe.
type pins struct {
	file string
	text []byte
	cas  []*x509.Certificate
	pool *x509.CertPool
}

// answer is what a server gave, or the cache.
type answer struct {
	chain       []*x509.Certificate // the leaf, and what came with it
	authorities []*x509.Certificate // of info
}

// given is an answer that was checked.
type given struct{ chain, roots []*x509.Certificate }

// accept checks an answer to a request (ROT-16).
func (p *pins) accept(a answer, ask *request, now time.Time) (*given, error) {
	roots, err := p.vouchedFor(a.authorities, now)
	if err != nil {
		return nil, err
	}
	leaf := a.chain[0]
	switch missing := ask.lacks(leaf); {
	case !ask.key.PublicKey.Equal(leaf.PublicKey):
		return nil, errors.New("it signed another key than ours")
	case len(missing) > 0:
		return nil, fmt.Errorf("the certificate that it signed lacks %s", strings.Join(missing, ", "))
	case leaf.IsCA:
		return nil, errors.New("it made us a CA; the profile should not")
	case !leaf.NotAfter.After(now):
		return nil, fmt.Errorf("the certificate that it signed ended %s", utc(leaf.NotAfter))
	}
	chain, err := p.complete(leaf, slices.Concat(a.chain[1:], a.authorities), now)
	if err != nil {
		return nil, fmt.Errorf("the certificate that it signed is not good: %s", p.explain(err))
	}
	return &given{chain, roots}, nil
}

// complete is the chain to present: the leaf and all above it but the root,
// which who believes it has.
func (p *pins) complete(leaf *x509.Certificate, others []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore // the store waits for it
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:         p.pool,
		Intermediates: certs.Pool(others),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, err
	}
	chain := slices.MinFunc(chains, func(a, b []*x509.Certificate) int { return len(a) - len(b) })
	if root := chain[len(chain)-1]; bytes.Equal(root.RawSubject, root.RawIssuer) {
		chain = chain[:len(chain)-1]
	}
	return chain, nil
}

// vouchedFor are the CAs to believe clients by: those of the server, each of
// which is in the file or chains to one that is.
func (p *pins) vouchedFor(authorities []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for _, c := range authorities {
		if !c.BasicConstraintsValid || !c.IsCA {
			return nil, fmt.Errorf("%s, of which info says that it signs, is not a CA", subject(c))
		}
		if mine := p.like(c); mine != nil {
			list = append(list, mine)
			continue
		}
		_, err := c.Verify(x509.VerifyOptions{
			Roots:         p.pool,
			Intermediates: certs.Pool(authorities),
			CurrentTime:   now,
			KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			return nil, fmt.Errorf("the CA that it signs with is not good: %s", p.explain(err))
		}
		list = append(list, c)
	}
	return list, nil
}

// like is the certificate of the file with that name and key, or nil. It is
// believed in place of the server's, which may be the same key with other dates
// and other limits.
func (p *pins) like(c *x509.Certificate) *x509.Certificate {
	for _, mine := range p.cas {
		if bytes.Equal(mine.RawSubject, c.RawSubject) && bytes.Equal(mine.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) {
			return mine
		}
	}
	return nil
}

// explain says what x509 says, without the time of the day, and names the file
// where that does not vouch for somebody.
func (p *pins) explain(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown) && unknown.Cert != nil:
		return fmt.Sprintf("%s is signed by %s, for whom %s does not vouch", subject(unknown.Cert), short(unknown.Cert.Issuer.String()), p.file)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("%s is valid from %s to %s", subject(invalid.Cert), utc(invalid.Cert.NotBefore), utc(invalid.Cert.NotAfter))
	}
	return short(err.Error())
}

// subject is how a person knows the certificate.
func subject(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return short(s)
	}
	return "a certificate without a subject"
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// input is what the store gets; from names the place.
func (g *given) input(from string, keyPEM []byte) certs.Input {
	return certs.Input{
		Pairs: []certs.PairInput{{
			Name: pairName,
			Cert: certs.File{Name: from, Data: encode(g.chain)},
			Key:  certs.File{Name: "the key for " + from, Data: keyPEM},
		}},
		Bundle: []certs.File{{Name: "the CAs of " + from, Data: encode(g.roots)}},
	}
}

func encode(list []*x509.Certificate) []byte {
	var text []byte
	for _, c := range list {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}
