// Package inspect says what a certificate is, in words for people, and who
// would refuse it.
package inspect

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cloudflare/cfssl/certinfo"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Certificate is what there is to know about one. As JSON it is what cfssl's
// certinfo tells, and more.
type Certificate struct {
	*certinfo.Certificate
	Name     string   `json:"name"`                // subject, RFC 4514
	IssuedBy string   `json:"issued_by"`           // issuer, RFC 4514
	Serial   string   `json:"serial"`              // lower-case hexadecimal
	SPIFFEID string   `json:"spiffe_id,omitempty"` // "" if it is none
	CA       bool     `json:"ca"`
	Key      string   `json:"key"`
	Usages   []string `json:"usages"`
	// Left is the part of its lifetime that is left, 0 to 1.
	Left float64 `json:"left"`
	// AsServer and AsClient say why it would be refused in that part; nil: it
	// would not.
	AsServer []string `json:"refused_as_server,omitempty"`
	AsClient []string `json:"refused_as_client,omitempty"`
	// Odd is what is wrong with it wherever it is used.
	Odd []string `json:"odd,omitempty"`
}

// Chain describes certificates in the order in which a peer sends them, or in
// which they stand in a file.
func Chain(list []*x509.Certificate, now time.Time) []Certificate {
	all := make([]Certificate, 0, len(list))
	for i, c := range list {
		d := Describe(c, now)
		if i > 0 && !list[0].IsCA {
			if err := list[i-1].CheckSignatureFrom(c); err != nil {
				d.Odd = append(d.Odd, fmt.Sprintf("it did not sign the certificate above it: %v", err))
			}
		}
		all = append(all, d)
	}
	return all
}

// Describe describes a certificate by itself.
func Describe(c *x509.Certificate, now time.Time) Certificate {
	d := Certificate{
		Certificate: certinfo.ParseCertificate(c),
		Name:        c.Subject.String(), IssuedBy: c.Issuer.String(), Serial: fmt.Sprintf("%x", c.SerialNumber),
		CA: c.IsCA, Key: key(c), Usages: usages(c), Left: left(c, now), Odd: odd(c, now),
	}
	if len(c.URIs) == 1 {
		if id, err := spiffeid.FromURI(c.URIs[0]); err == nil && id.Path() != "" {
			d.SPIFFEID = id.String()
		}
	}
	if !c.IsCA {
		d.AsServer, d.AsClient = asServer(c), asClient(c)
	}
	return d
}

func left(c *x509.Certificate, now time.Time) float64 {
	whole := c.NotAfter.Sub(c.NotBefore)
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, float64(c.NotAfter.Sub(now))/float64(whole)))
}

func key(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

const (
	minRSA = 2048
	maxRSA = 8192 // the most that Go verifies
)

// odd is what any peer may refuse.
func odd(c *x509.Certificate, now time.Time) []string {
	var list []string
	add := func(is bool, format string, args ...any) {
		if is {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(now.Before(c.NotBefore), "it is not valid before %s", date(c.NotBefore))
	add(now.After(c.NotAfter), "it ended %s", date(c.NotAfter))
	list = append(list, Weak(c)...)
	add(!c.IsCA && c.KeyUsage&x509.KeyUsageCertSign != 0, "it may sign certificates and is no CA")
	return list
}

// Weak says what of a certificate's key and of its signature peers refuse; nil:
// nothing.
func Weak(c *x509.Certificate) []string {
	var list []string
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok {
		switch bits := k.N.BitLen(); {
		case bits < minRSA:
			list = append(list, fmt.Sprintf("an RSA key of %d bits is too short; %d are the least", bits, minRSA))
		case bits > maxRSA:
			list = append(list, fmt.Sprintf("an RSA key of %d bits is longer than is verified, %d", bits, maxRSA))
		}
	}
	weak := []x509.SignatureAlgorithm{x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1}
	if slices.Contains(weak, c.SignatureAlgorithm) {
		list = append(list, fmt.Sprintf("it is signed by %s, which is broken", c.SignatureAlgorithm))
	}
	return list
}

func asServer(c *x509.Certificate) []string {
	var list []string
	if len(c.DNSNames) == 0 && len(c.IPAddresses) == 0 {
		list = append(list, "it has no DNS name and no IP address (subjectAltName); a common name is not looked at")
	}
	return append(list, lacks(c, x509.ExtKeyUsageServerAuth, "serverAuth")...)
}

func asClient(c *x509.Certificate) []string {
	return lacks(c, x509.ExtKeyUsageClientAuth, "clientAuth")
}

// lacks tells a missing extended key usage (RFC 5280, 4.2.1.12).
func lacks(c *x509.Certificate, use x509.ExtKeyUsage, name string) []string {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, use) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil
	}
	return []string{"its extended key usage lacks " + name}
}

// usages are by the names of RFC 5280.
func usages(c *x509.Certificate) []string {
	var list []string
	for i, name := range []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign"} {
		if c.KeyUsage&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageServerAuth:
			list = append(list, "serverAuth")
		case x509.ExtKeyUsageClientAuth:
			list = append(list, "clientAuth")
		case x509.ExtKeyUsageAny:
			list = append(list, "anyExtendedKeyUsage")
		default:
			list = append(list, fmt.Sprintf("extended usage %d", u))
		}
	}
	return list
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Table is the description in lines for a terminal.
func (d *Certificate) Table(now time.Time) string {
	var b strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-9s %s\n", name, Plain(value))
		}
	}
	row("subject", d.Name)
	row("names", strings.Join(d.SANs, " "))
	row("SPIFFE ID", d.SPIFFEID)
	row("issuer", d.IssuedBy)
	row("serial", d.Serial)
	row("valid", fmt.Sprintf("%s to %s", date(d.NotBefore), date(d.NotAfter)))
	row("", bar(d.Left)+" "+remaining(d.NotAfter.Sub(now)))
	row("key", d.Key+", signed by "+d.SignatureAlgorithm)
	row("usages", strings.Join(d.Usages, " "))
	for _, o := range d.Odd {
		row("WRONG", o)
	}
	if d.CA {
		row("is", "a CA")
		return b.String()
	}
	row("server", verdict(d.AsServer))
	row("client", verdict(d.AsClient))
	return b.String()
}

// verdict says of a part whether the certificate will do.
func verdict(refused []string) string {
	if len(refused) == 0 {
		return "will do"
	}
	return "is refused: " + strings.Join(refused, "; ")
}

// bar shows how much of the lifetime is left.
func bar(left float64) string {
	const width = 20
	n := int(left*width + 0.5)
	return "[" + strings.Repeat("#", n) + strings.Repeat("-", width-n) + "]"
}

func remaining(d time.Duration) string {
	if d <= 0 {
		return "over"
	}
	return Roughly(d) + " left"
}

// Roughly is a duration as people say it: an SVID may last for an hour, a CA for
// years.
func Roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return fmt.Sprintf("%d seconds", int(d.Seconds()))
}
