package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// LocalMethod is the name of the method whose users need no method in front:
// user:alice is the user file's alice.
const LocalMethod = "local"

// peerPrincipal is one form of naming peers.
type peerPrincipal struct {
	text  string
	match func(*Peer) bool
}

// trustDomain is that of a SPIFFE principal, "" of any other.
func (p *peerPrincipal) trustDomain() string {
	rest, ok := strings.CutPrefix(p.text, "spiffe://")
	if !ok {
		return ""
	}
	domain, _, _ := strings.Cut(rest, "/")
	return domain
}

// userPrincipal is one form of naming users. method is the one that could
// prove such a user, "" for any.
type userPrincipal struct {
	text   string
	method string
	match  func(*User) bool
	anyone bool // no demand on the user
}

var (
	peerForms = []string{"spiffe://", "dns:", "uri:", "email:", "subject:", "cn:", "any"}
	userForms = []string{"user:", "group:", "email:", "serviceaccount:", "issuer:", "authenticated", "anyone"}
)

// parsePeer reads a peer principal.
func parsePeer(s string) (peerPrincipal, error) {
	if s == "any" {
		return peerPrincipal{s, func(p *Peer) bool { return !p.Federated }}, nil
	}
	if strings.HasPrefix(s, "spiffe:") {
		match, err := parseSPIFFE(s)
		return peerPrincipal{s, match}, err
	}
	form, value, ok := strings.Cut(s, ":")
	if !ok {
		return peerPrincipal{}, unknownForm(s, peerForms)
	}
	if value == "" || value == "*" {
		return peerPrincipal{}, fmt.Errorf("%q names nobody in particular; say any for every verified peer (any-peer in SIDEGATE_ALLOW)", s)
	}
	var match func(*Peer) bool
	var err error
	switch form {
	case "dns":
		match, err = peerDNS(value)
	case "uri":
		match, err = peerURI(value)
	case "email":
		match, err = peerEmail(value)
	case "subject":
		match = func(p *Peer) bool { return p.Subject == value }
	case "cn":
		match = func(p *Peer) bool { return p.CommonName != "" && p.CommonName == value }
	default:
		return peerPrincipal{}, unknownForm(s, peerForms)
	}
	return peerPrincipal{s, match}, err
}

// peerDNS matches a dNSName SAN; "*.example.org" covers exactly one label. A
// SAN that is a wildcard itself is the name of no peer in particular.
func peerDNS(value string) (func(*Peer) bool, error) {
	name := strings.ToLower(strings.TrimSuffix(value, "."))
	parent, wildcard := strings.CutPrefix(name, "*.")
	if !isHostName(parent) {
		return nil, fmt.Errorf("%q is not a DNS name, or one whose whole first label is *", "dns:"+value)
	}
	return func(p *Peer) bool {
		for _, san := range p.DNSNames {
			label, rest, _ := strings.Cut(san, ".")
			if san == name && !wildcard || wildcard && rest == parent && label != "*" {
				return true
			}
		}
		return false
	}, nil
}

// isHostName says whether s is labels of ASCII letters, digits, - and _ with
// a dot between them.
func isHostName(s string) bool {
	label := 0 // length of the one that is being read
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		default:
			return false
		}
	}
	return label > 0
}

// peerURI matches a URI SAN byte for byte. Certificates of any CA may hold any
// URI, also several: a SPIFFE ID is one only by the rules that spiffe:// asks for.
func peerURI(value string) (func(*Peer) bool, error) {
	if scheme, _, _ := strings.Cut(strings.TrimSpace(value), ":"); strings.EqualFold(scheme, "spiffe") {
		return nil, fmt.Errorf("%q: a SPIFFE ID is written without uri:, as spiffe://TRUST-DOMAIN/PATH; its certificate must hold no other URI", "uri:"+value)
	}
	return func(p *Peer) bool { return slices.Contains(p.URIs, value) }, nil
}

// peerEmail matches an rfc822Name SAN.
func peerEmail(value string) (func(*Peer) bool, error) {
	match, err := address(value)
	return func(p *Peer) bool { return slices.ContainsFunc(p.Emails, match) }, err
}

// parseSPIFFE reads a SPIFFE ID or a pattern of one: * is one whole segment,
// ** as the last is all the rest, at least one segment. Every other byte is
// itself, and the trust domain is always spelled out.
func parseSPIFFE(s string) (func(*Peer) bool, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return nil, fmt.Errorf("%q: a SPIFFE ID begins with spiffe://", s)
	}
	domain, path, _ := strings.Cut(rest, "/")
	if strings.Contains(domain, "*") {
		return nil, fmt.Errorf("%q: the trust domain can't be a pattern", s)
	}
	pattern := strings.Split(path, "/")
	plain := slices.Clone(pattern)
	for i, segment := range plain {
		switch {
		case segment == "*" || segment == "**" && i == len(plain)-1:
			plain[i] = "x"
		case strings.Contains(segment, "*"):
			return nil, fmt.Errorf("%q: * stands for one whole segment, ** for all the rest at the end", s)
		}
	}
	if _, err := spiffeid.FromString("spiffe://" + domain + "/" + strings.Join(plain, "/")); err != nil {
		return nil, fmt.Errorf("%q is not a SPIFFE ID: %w", s, err)
	}
	before, _, wild := strings.Cut(s, "*")
	if !wild {
		return func(p *Peer) bool { return p.ID.String() == s }, nil
	}
	after := s[strings.LastIndexByte(s, '*')+1:]
	return func(p *Peer) bool {
		id := p.ID.String() // "" if there is none; most fail by the ends of the pattern
		return strings.HasPrefix(id, before) && strings.HasSuffix(id, after) && matchSegments(pattern, p.ID.Path()[1:])
	}, nil
}

// matchSegments compares segment by segment without allocating.
func matchSegments(pattern []string, path string) bool {
	for i, want := range pattern {
		if want == "**" {
			return true
		}
		segment, rest, more := strings.Cut(path, "/")
		if want != "*" && want != segment {
			return false
		}
		if i == len(pattern)-1 {
			return !more
		}
		if !more {
			return false
		}
		path = rest
	}
	return false
}

// parseUser reads a user principal.
func parseUser(s string) (userPrincipal, error) {
	switch s {
	case "anyone":
		return userPrincipal{text: s, anyone: true, match: func(*User) bool { return true }}, nil
	case "authenticated":
		return userPrincipal{text: s, match: func(*User) bool { return true }}, nil
	}
	form, value, ok := strings.Cut(s, ":")
	if !ok {
		return userPrincipal{}, unknownForm(s, userForms)
	}
	if value == "" || value == "*" {
		return userPrincipal{}, fmt.Errorf("%q names nobody in particular; say authenticated for every user", s)
	}
	p := userPrincipal{text: s}
	switch form {
	case "user", "group":
		method, name, err := ofMethod(s, value)
		if err != nil {
			return p, err
		}
		p.method = method
		p.match = func(u *User) bool { return u.Method == method && u.Name == name }
		if form == "group" {
			p.match = func(u *User) bool { return u.Method == method && slices.Contains(u.Groups, name) }
		}
	case "email":
		match, err := address(value)
		if err != nil {
			return p, err
		}
		p.match = func(u *User) bool { return match(u.Email) }
	case "serviceaccount":
		namespace, name, _ := strings.Cut(value, "/")
		if !isHostName(namespace) || !isHostName(name) {
			return p, fmt.Errorf("%q is not serviceaccount:NAMESPACE/NAME", s)
		}
		p.method = "kubernetes"
		account := "system:serviceaccount:" + namespace + ":" + name
		p.match = func(u *User) bool { return u.Method == "kubernetes" && u.Name == account }
	case "issuer":
		p.match = func(u *User) bool { return u.Issuer == value }
	default:
		return p, unknownForm(s, userForms)
	}
	return p, nil
}

// ofMethod splits METHOD/NAME; a name alone belongs to the user file.
func ofMethod(s, value string) (method, name string, err error) {
	method, name, found := strings.Cut(value, "/")
	if !found {
		method, name = LocalMethod, value
	}
	switch {
	case method == "" || name == "":
		err = fmt.Errorf("%q lacks a method or a name around the slash", s)
	case strings.Contains(value, "*"):
		err = fmt.Errorf("%q: a name of a user or group can't be a pattern", s)
	}
	return method, name, err
}

// address matches an e-mail address, or with *@ every address of exactly that
// domain. The domain's case does not count, that of the local part does
// (RFC 5321, 2.4).
func address(value string) (func(string) bool, error) {
	local, domain, ok := splitAddress(value)
	if !ok || local != "*" && strings.Contains(local, "*") {
		return nil, fmt.Errorf("%q is not an address or *@DOMAIN (a domain of other letters is written as xn--…)", "email:"+value)
	}
	return func(address string) bool {
		l, d, ok := splitAddress(address)
		return ok && strings.EqualFold(d, domain) && (local == "*" || l == local)
	}, nil
}

// splitAddress splits an address that reads in one way only: one @, nothing
// quoted or commented, and an ASCII domain without a final dot.
func splitAddress(s string) (local, domain string, ok bool) {
	local, domain, _ = strings.Cut(s, "@")
	for i := 0; i < len(local); i++ {
		if c := local[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`"(),:;<>[\]`, c) >= 0 {
			return "", "", false
		}
	}
	return local, domain, local != "" && isHostName(domain)
}

func unknownForm(s string, forms []string) error {
	if s == "" {
		return errors.New("an empty principal")
	}
	word, _, _ := strings.Cut(s, ":")
	bare := make([]string, len(forms))
	for i, f := range forms {
		bare[i] = strings.TrimRight(f, ":/")
	}
	hint := ""
	if near := Nearest(word, bare); near != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", forms[slices.Index(bare, near)])
	}
	return fmt.Errorf("%q is none of %s%s", s, strings.Join(forms, ", "), hint)
}
