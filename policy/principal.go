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
		return peerPrincipal{s, func(*Peer) bool { return true }}, nil
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
		return peerPrincipal{}, fmt.Errorf("%q names nobody in particular; say any for every verified peer", s)
	}
	var match func(*Peer) bool
	switch form {
	case "dns":
		match = peerDNS(value)
	case "uri":
		match = func(p *Peer) bool { return slices.Contains(p.URIs, value) }
	case "email":
		match = func(p *Peer) bool { return slices.Contains(p.Emails, value) }
	case "subject":
		match = func(p *Peer) bool { return p.Subject == value }
	case "cn":
		match = func(p *Peer) bool { return p.CommonName != "" && p.CommonName == value }
	default:
		return peerPrincipal{}, unknownForm(s, peerForms)
	}
	return peerPrincipal{s, match}, nil
}

// peerDNS matches a dNSName SAN; "*.example.org" covers exactly one label.
func peerDNS(value string) func(*Peer) bool {
	value = strings.ToLower(strings.TrimSuffix(value, "."))
	parent, wildcard := strings.CutPrefix(value, "*.")
	return func(p *Peer) bool {
		for _, name := range p.DNSNames {
			if name == value && !strings.HasPrefix(name, "*") {
				return true
			}
			if _, rest, ok := strings.Cut(name, "."); wildcard && ok && rest == parent {
				return true
			}
		}
		return false
	}
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
	id, err := spiffeid.FromString("spiffe://" + domain + "/" + strings.Join(plain, "/"))
	if err != nil {
		return nil, fmt.Errorf("%q is not a SPIFFE ID: %w", s, err)
	}
	td := id.TrustDomain()
	return func(p *Peer) bool {
		return !p.ID.IsZero() && p.ID.TrustDomain() == td && matchSegments(pattern, p.ID.Path()[1:])
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
	case "user":
		method, name := ofMethod(value)
		p.method = method
		p.match = func(u *User) bool { return u.Method == method && u.Name == name }
	case "group":
		method, group := ofMethod(value)
		p.method = method
		p.match = func(u *User) bool { return u.Method == method && slices.Contains(u.Groups, group) }
	case "email":
		match, err := userEmail(value)
		if err != nil {
			return p, err
		}
		p.match = match
	case "serviceaccount":
		namespace, name, ok := strings.Cut(value, "/")
		if !ok || namespace == "" || name == "" {
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
func ofMethod(value string) (method, name string) {
	if method, name, ok := strings.Cut(value, "/"); ok {
		return method, name
	}
	return LocalMethod, value
}

// userEmail matches a verified address, or with *@ every address of exactly
// that domain. An address with a second @ has no domain to compare.
func userEmail(value string) (func(*User) bool, error) {
	local, domain, ok := strings.Cut(value, "@")
	if !ok || local == "" || domain == "" || strings.ContainsAny(domain, "@* ") || local != "*" && strings.Contains(local, "*") {
		return nil, fmt.Errorf("%q is not an address or *@DOMAIN", "email:"+value)
	}
	return func(u *User) bool {
		l, d, ok := strings.Cut(u.Email, "@")
		return ok && l != "" && !strings.ContainsAny(l, `" `) && strings.EqualFold(d, domain) && isASCII(d) && (local == "*" || l == local)
	}, nil
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
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
