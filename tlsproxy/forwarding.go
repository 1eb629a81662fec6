package tlsproxy

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// restoreForwarding brings back what goes with the fields that are hop by hop,
// by ReverseProxy or because a client names it in Connection: strip, which knows
// whom to believe, decides about these fields.
func restoreForwarding(h, in http.Header) {
	for _, name := range [...]string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix"} {
		if v, ok := in[name]; ok {
			h[name] = v
		}
	}
}

// setForwarding adds our view of the way of the request to what a trusted
// proxy said; strip has removed what anyone else said.
func setForwarding(h http.Header, x *exchange) {
	dropOthersWord(h, x)
	f := fieldSetter{h, make([]string, 0, 8)}
	if x.conn.remote.IsValid() { // a unix socket has no address to tell
		setHops(&f, x)
	}
	setOrigin(&f, x)
	f.set("X-Request-Id", x.requestID)
}

// fieldSetter sets fields of one value each, which share their memory.
type fieldSetter struct {
	http.Header
	values []string
}

func (f *fieldSetter) set(name, value string) {
	f.values = append(f.values, value)
	n := len(f.values)
	f.Header[name] = f.values[n-1 : n : n]
}

// dropOthersWord leaves out the list that clients may have written: that which
// is not the proxies', or both if nobody knows which one that is.
func dropOthersWord(h http.Header, x *exchange) {
	field := x.gate.ClientField
	torn := field == "" && !x.sender.addr.IsValid() && len(h["Forwarded"]) > 0 && len(h["X-Forwarded-For"]) > 0
	if field == XForwardedFor || torn {
		delete(h, "Forwarded")
	}
	if field == Forwarded || torn {
		delete(h, "X-Forwarded-For")
	}
}

// setHops adds the other end of the connection to the lists, and names the
// client alone where it is known.
func setHops(f *fieldSetter, x *exchange) {
	if len(f.Header["X-Forwarded-For"]) == 0 && x.sender.addr != x.conn.remote {
		// The application must not take the proxy for the client.
		f.set("X-Forwarded-For", x.clientText())
	}
	addHop(f, "X-Forwarded-For", x.conn.remoteText)
	if len(f.Header["Forwarded"]) > 0 {
		addHop(f, "Forwarded", forwardedElement(x.conn.remote, x.gate.scheme()))
	}
	if x.sender.addr.IsValid() { // else strip has left none
		f.set("X-Real-Ip", x.clientText())
	}
}

// setOrigin says which host, scheme and port the client used: what a trusted
// proxy said, else what the request says, else the default of the scheme. The
// port of the gate is nobody's business: a Service or router has another.
func setOrigin(f *fieldSetter, x *exchange) {
	h := f.Header
	if len(h["X-Forwarded-Host"]) == 0 {
		setField(f, "X-Forwarded-Host", firstOf(x.sender.host, x.in.Host))
	}
	proto := strings.ToLower(firstOf(only(h["X-Forwarded-Proto"], validProto), x.sender.proto, x.gate.scheme()))
	port := firstOf(only(h["X-Forwarded-Port"], validPort), portOf(only(h["X-Forwarded-Host"], isHost)), defaultPort(proto))
	setField(f, "X-Forwarded-Proto", proto)
	setField(f, "X-Forwarded-Port", port)
}

func setField(f *fieldSetter, name, value string) {
	if value != "" {
		f.set(name, value)
	}
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// only is the value of a field if it is a valid one, said once or by every
// proxy alike; else "".
func only(lines []string, valid func(string) bool) string {
	value := ""
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = trimBlank(element)
			if !valid(element) || value != "" && element != value {
				return ""
			}
			value = element
		}
	}
	return value
}

// validProto knows the schemes that proxies write, WebSocket's among them.
func validProto(s string) bool {
	switch strings.ToLower(s) {
	case "http", "https", "ws", "wss":
		return true
	}
	return false
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && s[0] != '0'
}

func defaultPort(proto string) string {
	if proto == "https" || proto == "wss" {
		return "443"
	}
	return "80"
}

// portOf is the port of an authority, or "" if it has none.
func portOf(authority string) string {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.IndexByte(authority[i:], ']') >= 0 {
		return ""
	}
	if port := strings.TrimLeft(authority[i+1:], "0"); port != "" && validPort(port) {
		return port
	}
	return ""
}

// isHost reports whether s is made of what a host and a port are made of.
func isHost(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isAlphanumeric(c) && strings.IndexByte("-._:[]", c) < 0 {
			return false
		}
	}
	return s != ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// addHop appends a hop to a list field.
func addHop(f *fieldSetter, name, hop string) {
	if prior := strings.Join(f.Header[name], ", "); prior != "" {
		hop = prior + ", " + hop
	}
	f.set(name, hop)
}

// forwardedElement is our element of Forwarded (RFC 7239 4).
func forwardedElement(remote netip.Addr, proto string) string {
	node := remote.String()
	if remote.Is6() {
		node = `"[` + node + `]"`
	}
	return "for=" + node + ";proto=" + proto
}
