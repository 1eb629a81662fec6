package tlsproxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
)

// identityNames are the fields that only a proxy may set because applications
// take them for the truth: those of every preset, and what other proxies call
// the same things. They are compared in folded form.
var identityNames = []string{
	"x-forwarded-client-cert", "client-cert", "client-cert-chain",
	"x-forwarded-access-token", "x-auth-request-access-token", "x-auth-request-redirect",
	"x-webauth-name", "x-webauth-role", "x-authenticated-user", "x-authenticated-groups",
	"x-ssl-client-cert", "x-ssl-client-verify", "x-ssl-client-dn", "x-ssl-client-s-dn", "x-ssl-client-cn",
	"ssl-client-cert", "ssl-client-verify", "ssl-client-subject-dn", "ssl-client-issuer-dn",
}

// identityPrefixes are families of such fields (Kubernetes' X-Remote-Extra-*
// and the impersonation of its API).
var identityPrefixes = []string{"x-remote-extra-", "impersonate-"}

// routingNames would make some applications serve another path than the one
// that was decided about.
var routingNames = []string{
	"x-original-url", "x-original-uri", "x-rewrite-url", "x-forwarded-uri", "x-forwarded-path",
	"x-original-method", "x-forwarded-method", "x-original-host",
}

// forwardingNames describe the way of a request. From a trusted proxy they
// are believed and added to, from anyone else dropped.
var forwardingNames = []string{
	"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
	"x-forwarded-prefix", "x-forwarded-server", "x-forwarded-scheme", "x-forwarded-ssl",
	"x-real-ip", "x-client-ip", "true-client-ip", "x-request-id",
}

// stripper removes what clients may not set. It is made once, for all gates,
// and only read afterwards.
type stripper struct {
	identity   map[string]bool // folded names, removed always
	forwarding map[string]bool // folded names, removed unless a trusted proxy sent them
}

// newStripper collects the names of every preset and those that any gate is
// configured to send.
func newStripper(gates []*Gate) *stripper {
	s := &stripper{identity: map[string]bool{}, forwarding: map[string]bool{}}
	for _, names := range [][]string{identityNames, routingNames} {
		for _, n := range names {
			s.identity[n] = true
		}
	}
	for _, n := range forwardingNames {
		s.forwarding[n] = true
	}
	for _, g := range gates {
		s.addFields(g.Headers.Fields)
	}
	for _, fields := range presets {
		s.addFields(fields)
	}
	return s
}

func (s *stripper) addFields(fields []IdentityField) {
	for _, f := range fields {
		s.identity[strings.ToLower(fold(f.Header))] = true
	}
}

// fold is the form in which CGI, WSGI and their like cannot tell names apart.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(name))
}

// maxFieldName is the longest name looked up without an allocation.
const maxFieldName = 64

// kind says what the name is. It allocates nothing for names of ordinary length.
func (s *stripper) kind(name string) (identity, forwarding bool) {
	var buf [maxFieldName]byte
	if len(name) > maxFieldName {
		folded := fold(name)
		return s.identity[folded] || hasIdentityPrefix(folded), false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_' || c == '.':
			c = '-'
		}
		buf[i] = c
	}
	folded := buf[:len(name)]
	return s.identity[string(folded)] || hasIdentityPrefix(string(folded)), s.forwarding[string(folded)]
}

func hasIdentityPrefix(folded string) bool {
	for _, p := range identityPrefixes {
		if strings.HasPrefix(folded, p) {
			return true
		}
	}
	return false
}

// strip removes from h every field that its sender may not set.
func (s *stripper) strip(h http.Header, trusted bool) {
	for name := range h {
		identity, forwarding := s.kind(name)
		// A trusted proxy's fields are believed in their one proper spelling.
		if identity || forwarding && (!trusted || strings.ContainsAny(name, "_.")) {
			delete(h, name)
		}
	}
}

// stripAnswer removes identity fields from what the application answers and
// reports whether there were any.
func (s *stripper) stripAnswer(h http.Header) bool {
	found := false
	for name := range h {
		if identity, _ := s.kind(name); identity {
			delete(h, name)
			found = true
		}
	}
	return found
}

// setForwarding adds our view of the way of the request to what a trusted
// proxy said; strip has removed what anyone else said.
func setForwarding(h http.Header, x *exchange) {
	if x.conn.remote.IsValid() { // a unix socket has no address to tell
		addHop(h, "X-Forwarded-For", x.conn.remoteText)
		if len(h["Forwarded"]) > 0 {
			addHop(h, "Forwarded", forwardedElement(x.conn.remote, x.gate.scheme()))
		}
		h["X-Real-Ip"] = []string{x.clientText()}
	}
	setDefault(h, "X-Forwarded-Host", x.in.Host)
	setDefault(h, "X-Forwarded-Proto", x.gate.scheme())
	setDefault(h, "X-Forwarded-Port", x.conn.localPort)
	h["X-Request-Id"] = []string{x.requestID}
}

func setDefault(h http.Header, name, value string) {
	if len(h[name]) == 0 && value != "" {
		h[name] = []string{value}
	}
}

// addHop appends a hop to a list field.
func addHop(h http.Header, name, hop string) {
	if prior := strings.Join(h[name], ", "); prior != "" {
		hop = prior + ", " + hop
	}
	h[name] = []string{hop}
}

// forwardedElement is our element of Forwarded (RFC 7239 4).
func forwardedElement(remote netip.Addr, proto string) string {
	node := remote.String()
	if remote.Is6() {
		node = `"[` + node + `]"`
	}
	return "for=" + node + ";proto=" + proto
}

// clientAddr is who sent the request: the other end of the connection, or, if
// that is a trusted proxy, the right-most address in X-Forwarded-For that is
// not one. Text that is no address ends the search: beyond it nothing is known.
func (g *Gate) clientAddr(remote netip.Addr, h http.Header) netip.Addr {
	client := remote
	if !g.trusts(remote) {
		return client
	}
	hops := strings.Split(strings.Join(h["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return client
		}
		client = addr.Unmap()
		if !g.trusts(client) {
			return client
		}
	}
	return client
}

// requestID is what a trusted proxy called the request, or a new name.
func requestID(h http.Header, trusted bool) string {
	if id := h["X-Request-Id"]; trusted && len(id) == 1 && validRequestID(id[0]) {
		return id[0]
	}
	return newRequestID()
}

// newRequestID is 128 random bits. They need not be secret, only different.
func newRequestID() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], rand.Uint64())
	binary.BigEndian.PutUint64(raw[8:], rand.Uint64())
	return hex.EncodeToString(raw[:])
}

func validRequestID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// traceID takes the trace id out of a traceparent field (W3C Trace Context
// 3.2: version-traceid-parentid-flags), or returns "".
func traceID(h http.Header) string {
	v := h["Traceparent"]
	if len(v) != 1 || len(v[0]) < 55 || v[0][2] != '-' || v[0][35] != '-' {
		return ""
	}
	id := v[0][3:35]
	if strings.Trim(id, "0123456789abcdefABCDEF") != "" {
		return ""
	}
	return id
}
