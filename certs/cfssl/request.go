package cfssl

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// request is what to have signed.
type request struct {
	x509.CertificateRequest // the names that are asked for
	key                     *ecdsa.PrivateKey
	keyPEM                  []byte
	csrPEM                  []byte
}

// maxCommonName is the upper bound of X.520 (RFC 5280 A.1).
const maxCommonName = 64

// request reads the hosts, and returns what is wrong with them. It has no key
// yet.
func (i *Issuer) request() (*request, []error) {
	r := &request{}
	var errs []error
	for _, h := range i.Hosts {
		if err := r.addHost(h); err != nil {
			errs = append(errs, err)
		}
	}
	if len(r.DNSNames) > 0 && len(r.DNSNames[0]) <= maxCommonName {
		r.Subject = pkix.Name{CommonName: r.DNSNames[0]}
	}
	return r, errs
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// isDNSName takes a wildcard too. A name that ends in a number would be an IP
// address that is not one.
func isDNSName(h string) bool {
	h = strings.TrimPrefix(strings.ToLower(h), "*.")
	for label := range strings.SplitSeq(h, ".") {
		if !dnsLabel.MatchString(label) {
			return false
		}
	}
	last := h[strings.LastIndex(h, ".")+1:]
	return len(h) <= 253 && strings.Trim(last, "0123456789") != ""
}

// addHost finds out what kind of name h is, as CFSSL does, and refuses what is
// none: it would be taken for a DNS name that nobody can ask for.
func (r *request) addHost(h string) error {
	ip, ipErr := netip.ParseAddr(h)
	switch {
	case ipErr == nil && ip.Zone() == "":
		r.IPAddresses = append(r.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	case strings.Contains(h, "://"):
		return r.addURI(h)
	case strings.Contains(h, "@"):
		a, err := mail.ParseAddress(h)
		if err != nil || a.Address != h {
			return fmt.Errorf("host %q is not an e-mail address such as ops@app.example", h)
		}
		r.EmailAddresses = append(r.EmailAddresses, h)
	case isDNSName(h):
		r.DNSNames = append(r.DNSNames, strings.ToLower(h))
	default:
		return fmt.Errorf("host %q is neither a DNS name nor an IP address, an e-mail address or a URI", h)
	}
	return nil
}

func (r *request) addURI(h string) error {
	if strings.HasPrefix(strings.ToLower(h), "spiffe:") {
		if _, err := spiffeid.FromString(h); err != nil {
			return fmt.Errorf("host %q: %w", h, err)
		}
	}
	u, err := url.Parse(h)
	if err != nil || u.Host == "" || u.User != nil {
		return fmt.Errorf("host %q is not a URI such as spiffe://prod.example/app", h)
	}
	r.URIs = append(r.URIs, u)
	return nil
}

// newRequest has a new key.
func (i *Issuer) newRequest() (*request, error) {
	r, errs := i.request()
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var err error
	if r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return nil, err
	}
	r.keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	csr, err := x509.CreateCertificateRequest(rand.Reader, &r.CertificateRequest, r.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate request: %w", err)
	}
	r.csrPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	return r, nil
}

// lacks returns the names that were asked for and that the certificate has not.
func (r *request) lacks(leaf *x509.Certificate) []string {
	var missing []string
	for _, n := range r.DNSNames {
		if !slices.ContainsFunc(leaf.DNSNames, func(has string) bool { return strings.EqualFold(has, n) }) {
			missing = append(missing, n)
		}
	}
	for _, ip := range r.IPAddresses {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			missing = append(missing, ip.String())
		}
	}
	for _, e := range r.EmailAddresses {
		if !slices.Contains(leaf.EmailAddresses, e) {
			missing = append(missing, e)
		}
	}
	for _, u := range r.URIs {
		if !slices.ContainsFunc(leaf.URIs, func(has *url.URL) bool { return has.String() == u.String() }) {
			missing = append(missing, u.String())
		}
	}
	return missing
}
