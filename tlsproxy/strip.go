package tlsproxy

import (
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
)

// class is what a field name stands for.
type class uint8

const (
	ordinary   class = iota
	identity         // removed always
	forwarding       // removed unless a trusted proxy sent it
	address          // likewise, and unless it names the client that we see
	request          // needed for the request itself: no trailer, no name of an identity
)

// listed is a name on one of the lists.
type listed struct {
	class
	proper string // the one spelling in which a trusted proxy is believed
}

// stripper removes what clients may not set. It is made once, for all gates,
// and only read afterwards.
type stripper struct {
	names    map[string]listed // by folded name
	families ['z' + 1][]string // folded beginnings of identity names, by their first letter
	longest  int               // of all of these
}

// standard are the names that every gate looks for.
var standard = newStripper(nil)

// newStripper collects the names of every preset and those that any gate is
// configured to send.
func newStripper(gates []*Gate) *stripper {
	s := &stripper{names: map[string]listed{}}
	s.add(request, requestNames...)
	s.add(forwarding, forwardingNames...)
	s.add(address, addressNames...)
	s.add(identity, routingNames...)
	s.add(identity, identityNames...)
	for _, family := range identityFamilies {
		f := string(appendFolded(nil, family, len(family)))
		s.families[f[0]] = append(s.families[f[0]], f)
		s.longest = max(s.longest, len(f))
	}
	for _, g := range gates {
		s.addFields(g.Headers.Fields)
	}
	for _, name := range slices.Sorted(maps.Keys(presets)) {
		s.addFields(presets[name])
	}
	return s
}

func (s *stripper) add(c class, names ...string) {
	for _, name := range names {
		folded := string(appendFolded(nil, name, len(name)))
		s.names[folded] = listed{c, textproto.CanonicalMIMEHeaderKey(name)}
		s.longest = max(s.longest, len(folded))
	}
}

func (s *stripper) addFields(fields []IdentityField) {
	for _, f := range fields {
		s.add(identity, f.Header)
	}
}

// appendFolded appends the form in which names are compared, as far as it has
// no more than limit bytes: letters in lower case and digits, nothing else. CGI
// and WSGI make an underscore of a hyphen, PHP of a dot too, lighttpd of every
// byte that is no letter or digit; others leave such bytes out.
func appendFolded(dst []byte, name string, limit int) []byte {
	for i := 0; i < len(name) && len(dst) < limit; i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			dst = append(dst, c)
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c+('a'-'A'))
		}
	}
	return dst
}

// maxFolded is up to which length of listed names no lookup allocates.
const maxFolded = 64

// find says what a name stands for. A name longer than all listed ones is cut:
// then it can only be of a family.
func (s *stripper) find(name string) listed {
	var buf [maxFolded]byte
	folded := appendFolded(buf[:0], name, s.longest+1)
	if len(folded) == 0 {
		return listed{}
	}
	if l, ok := s.names[string(folded)]; ok {
		return l
	}
	for _, family := range s.families[folded[0]] {
		if len(folded) >= len(family) && string(folded[:len(family)]) == family {
			return listed{class: identity}
		}
	}
	return listed{}
}

// strip removes from the fields of a request what its sender may not set. What
// a trusted proxy says about the client is believed in one spelling alone.
func (s *stripper) strip(h http.Header, trusted bool, client netip.Addr) {
	for name, values := range h {
		l := s.find(name)
		believed := trusted && name == l.proper
		switch l.class {
		case identity:
			delete(h, name)
		case forwarding:
			if !believed {
				delete(h, name)
			}
		case address:
			if !believed || !namesOnly(values, client) {
				delete(h, name)
			}
		}
	}
}

// namesOnly reports whether a field that names one address names this one.
func namesOnly(values []string, client netip.Addr) bool {
	return len(values) == 1 && client.IsValid() && parseNode(values[0]) == client
}

// stripTrailer removes whatever would mean something else than a trailer.
func (s *stripper) stripTrailer(h http.Header) {
	for name := range h {
		if s.find(name).class != ordinary {
			delete(h, name)
		}
	}
}

// stripAnswer removes identity fields from what the application answers, its
// trailers among them, and reports whether there were any.
func (s *stripper) stripAnswer(h http.Header) bool {
	found := false
	for name := range h {
		if s.isIdentity(strings.TrimPrefix(name, http.TrailerPrefix)) {
			delete(h, name)
			found = true
		}
	}
	return found
}

// isIdentity reports whether a field of that name tells who is asking.
func (s *stripper) isIdentity(name string) bool { return s.find(name).class == identity }

// ReservedHeader reports whether a field can't carry an identity because the
// request itself, its way, or what Sidegate says about the certificate needs it.
func ReservedHeader(name string) bool {
	switch l := standard.find(name); l.class {
	case request, forwarding, address:
		return true
	case identity:
		return l.proper == "Proxy" || slices.Contains(routingNames, strings.ToLower(l.proper)) || slices.Contains(peerFieldNames, l.proper)
	}
	return false
}

// SameHeader reports whether applications might not tell two field names apart.
func SameHeader(a, b string) bool {
	return string(appendFolded(nil, a, len(a))) == string(appendFolded(nil, b, len(b)))
}
