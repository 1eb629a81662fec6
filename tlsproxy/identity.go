package tlsproxy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"sidegate/policy"
)

// IdentityHeaders says which fields tell the application who is calling. The
// zero value sends none. Whatever is sent, the names of every preset are
// removed from what clients send.
type IdentityHeaders struct {
	Fields []IdentityField
	// GroupsSeparator stands between groups; "" means ",". A group that
	// contains it arrives percent-encoded.
	GroupsSeparator string
	// PeerHeaders are the fields that describe the client certificate.
	PeerHeaders []PeerHeader
}

// IdentityField sends one attribute of the identity as one header field.
type IdentityField struct {
	Header    string // canonical field name
	Attribute string // one of Attributes
	// Repeat sends each group as a field line of its own instead of a list.
	Repeat bool
}

// PeerHeader is a way to tell the application about the client certificate.
type PeerHeader string

// The forms that applications and frameworks read.
const (
	XFCC            PeerHeader = "xfcc"              // X-Forwarded-Client-Cert
	ClientCertField PeerHeader = "client-cert"       // Client-Cert, RFC 9440
	ClientCertChain PeerHeader = "client-cert-chain" // Client-Cert-Chain, RFC 9440
)

// peerFieldNames are the fields of these forms.
var peerFieldNames = []string{"X-Forwarded-Client-Cert", "Client-Cert", "Client-Cert-Chain"}

// Attributes of an identity that an [IdentityField] may name.
var attributes = map[string]func(policy.Identity) string{
	"user":   userName,
	"name":   userName,
	"email":  userEmail,
	"issuer": issuerOf,
	"peer":   peerName,
	"groups": nil, // a list, see set
}

// Attributes returns the names that an [IdentityField] may have.
func Attributes() []string { return slices.Sorted(maps.Keys(attributes)) }

func userName(id policy.Identity) string {
	if id.User == nil {
		return ""
	}
	return id.User.Name
}

func userEmail(id policy.Identity) string {
	if id.User == nil {
		return ""
	}
	return id.User.Email
}

func issuerOf(id policy.Identity) string {
	switch {
	case id.User != nil && id.User.Issuer != "":
		return id.User.Issuer
	case id.Peer != nil:
		return id.Peer.Issuer
	}
	return ""
}

func peerName(id policy.Identity) string { return id.Peer.Name() }

// presets are the field sets that applications already know how to read.
var presets = map[string][]IdentityField{
	"default": {
		{Header: "X-Forwarded-User", Attribute: "user"},
		{Header: "X-Forwarded-Email", Attribute: "email"},
		{Header: "X-Forwarded-Groups", Attribute: "groups"},
		{Header: "X-Forwarded-Preferred-Username", Attribute: "name"},
		{Header: "X-Auth-Request-User", Attribute: "user"},
		{Header: "X-Auth-Request-Email", Attribute: "email"},
		{Header: "X-Auth-Request-Groups", Attribute: "groups"},
		{Header: "X-Auth-Request-Preferred-Username", Attribute: "name"},
	},
	"remote-user": {
		{Header: "Remote-User", Attribute: "user"},
		{Header: "Remote-Groups", Attribute: "groups"},
		{Header: "Remote-Name", Attribute: "name"},
		{Header: "Remote-Email", Attribute: "email"},
	},
	"x-remote": {
		{Header: "X-Remote-User", Attribute: "user"},
		{Header: "X-Remote-Group", Attribute: "groups", Repeat: true},
	},
	"webauth": {
		{Header: "X-Webauth-User", Attribute: "user"},
		{Header: "X-Webauth-Email", Attribute: "email"},
		{Header: "X-Webauth-Groups", Attribute: "groups"},
	},
	"none": {},
}

// HeaderPresets returns the names that [HeaderPreset] knows.
func HeaderPresets() []string { return slices.Sorted(maps.Keys(presets)) }

// HeaderPreset returns the fields of a preset.
func HeaderPreset(name string) ([]IdentityField, bool) {
	fields, ok := presets[name]
	return slices.Clone(fields), ok
}

// errBadIdentity refuses an identity that no header field can carry.
var errBadIdentity = errors.New("the identity has a control byte or surrounding space")

// set writes the identity's fields. A field whose attribute is empty is not sent.
func (ih *IdentityHeaders) set(h http.Header, id policy.Identity) {
	if id.User == nil && id.Peer == nil {
		return
	}
	values := make([]string, len(ih.Fields)) // one allocation for all fields
	for i := range ih.Fields {
		f := &ih.Fields[i]
		if f.Attribute == "groups" {
			ih.setGroups(h, f, id.User)
		} else if v := attributes[f.Attribute](id); v != "" {
			values[i] = v
			h[f.Header] = values[i : i+1 : i+1]
		}
	}
}

func (ih *IdentityHeaders) setGroups(h http.Header, f *IdentityField, u *policy.User) {
	if u == nil || len(u.Groups) == 0 {
		return
	}
	if f.Repeat {
		h[f.Header] = slices.Clone(u.Groups)
		return
	}
	sep := ih.separator()
	list := make([]string, len(u.Groups))
	for i, g := range u.Groups {
		list[i] = encodeGroup(g, sep)
	}
	h[f.Header] = []string{strings.Join(list, sep)}
}

func (ih *IdentityHeaders) separator() string {
	if ih.GroupsSeparator == "" {
		return ","
	}
	return ih.GroupsSeparator
}

// encodeGroup percent-encodes what would make a list of groups read as other
// groups: the separator's bytes, %, and all that is not printable ASCII.
func encodeGroup(group, sep string) string {
	plain := func(c byte) bool {
		return c > 0x20 && c < 0x7f && c != '%' && strings.IndexByte(sep, c) < 0
	}
	var b strings.Builder
	for i := 0; i < len(group); i++ {
		if c := group[i]; plain(c) || c == ' ' && !strings.Contains(sep, " ") && i > 0 && i < len(group)-1 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// checkIdentity refuses what a header field would change on the way: control
// bytes, and surrounding space, which receivers trim (" root" is not "root").
func checkIdentity(id policy.Identity) error {
	if u := id.User; u != nil {
		if !carriable(u.Name) || !carriable(u.Email) || !carriable(u.Issuer) {
			return errBadIdentity
		}
		for _, g := range u.Groups {
			if !carriable(g) {
				return errBadIdentity
			}
		}
	}
	if id.Peer != nil && (!carriable(id.Peer.Name()) || !carriable(id.Peer.Issuer)) {
		return errBadIdentity
	}
	return nil
}

func carriable(s string) bool {
	return s == strings.TrimSpace(s) && !policy.HasControl(s)
}

// peerFields prepares the fields that describe the client certificate, once a
// connection. chain is verified, leaf first.
func peerFields(peer *policy.Peer, chain []*x509.Certificate, want []PeerHeader) map[string]string {
	if len(chain) == 0 || len(want) == 0 {
		return nil
	}
	fields := make(map[string]string, len(want))
	for _, form := range want {
		switch form {
		case XFCC:
			fields["X-Forwarded-Client-Cert"] = xfccElement(peer, chain[0])
		case ClientCertField:
			fields["Client-Cert"] = byteSequence(chain[0])
		case ClientCertChain:
			if len(chain) > 2 { // RFC 9440 2.3: without the leaf; the trust anchor may be left out
				fields["Client-Cert-Chain"] = byteSequences(chain[1 : len(chain)-1])
			}
		}
	}
	return fields
}

// byteSequence is a certificate as RFC 9440 2.1 wants it: DER in base64
// between colons, a Structured Field (RFC 9651 3.3.5).
func byteSequence(c *x509.Certificate) string {
	return ":" + base64.StdEncoding.EncodeToString(c.Raw) + ":"
}

func byteSequences(chain []*x509.Certificate) string {
	list := make([]string, len(chain))
	for i, c := range chain {
		list[i] = byteSequence(c)
	}
	return strings.Join(list, ", ")
}

// xfccElement is one element of X-Forwarded-Client-Cert in the form that
// Envoy made common. Every value that a certificate's owner could choose is
// quoted, so that the element parses back to itself.
func xfccElement(peer *policy.Peer, leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	var b strings.Builder
	b.WriteString("Hash=" + hex.EncodeToString(sum[:]))
	b.WriteString(";Subject=" + quoteXFCC(peer.Subject))
	for _, uri := range peer.URIs {
		b.WriteString(";URI=" + quoteXFCC(uri))
	}
	for _, name := range leaf.DNSNames {
		b.WriteString(";DNS=" + quoteXFCC(name))
	}
	return b.String()
}

// quoteXFCC quotes unless the value is made of bytes that mean nothing there.
// Control bytes become spaces: the value is chosen by whoever asked for the
// certificate, and a field line must stay one line.
func quoteXFCC(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if s != "" && !strings.ContainsAny(s, `",;=\ `) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
