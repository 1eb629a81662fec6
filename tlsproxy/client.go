package tlsproxy

import (
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// hop is what one proxy says about whoever it got the request from.
type hop struct {
	addr        netip.Addr // zero: unknown
	proto, host string     // of Forwarded; "": it doesn't say
}

// UnknownClient is how the log and X-Forwarded-For call a client whom trusted
// proxies don't name, or not all alike. RFC 7239 6.2 has the word too.
const UnknownClient = "unknown"

// senderOf is who sent the request: the other end of the connection, or, if
// that is a trusted proxy, whom X-Forwarded-For or Forwarded names. Clients can
// write into the field that their proxy doesn't, so if both come and don't
// agree, nobody is believed.
func (g *Gate) senderOf(remote netip.Addr, h http.Header) hop {
	list, forwarded := h["X-Forwarded-For"], h["Forwarded"]
	if !g.trusts(remote) || len(list) == 0 && len(forwarded) == 0 {
		return hop{addr: remote}
	}
	switch {
	case g.ClientField == XForwardedFor || g.ClientField == "" && len(forwarded) == 0:
		return g.client(addressHops(list))
	case g.ClientField == Forwarded || len(list) == 0:
		return g.client(forwardedHops(forwarded))
	}
	sender := g.client(forwardedHops(forwarded))
	if sender.addr != g.client(addressHops(list)).addr {
		return hop{}
	}
	return sender
}

// client is the nearest hop that is no trusted proxy, or the farthest one. A
// hop that can't be read ends the search: who is beyond it, nobody knows.
func (g *Gate) client(nearestFirst iter.Seq[hop]) hop {
	var last hop
	for last = range nearestFirst {
		if !g.trusts(last.addr) { // nor an unknown one
			break
		}
	}
	return last
}

// addressHops are the elements of X-Forwarded-For, the last one first, without
// those that are empty (RFC 9110 5.6.1).
func addressHops(lines []string) iter.Seq[hop] {
	return func(yield func(hop) bool) {
		for _, line := range slices.Backward(lines) {
			for rest, more := line, true; more; {
				var element string
				rest, element, more = cutLast(rest, ',')
				if element = trimBlank(element); element == "" {
					continue
				}
				if !yield(hop{addr: parseNode(element)}) {
					return
				}
			}
		}
	}
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}

func trimBlank(s string) string { return strings.Trim(s, " \t") }

// forwardedHops are the elements of Forwarded, the last one first. A line that
// can't be read is one hop that is unknown.
func forwardedHops(lines []string) iter.Seq[hop] {
	return func(yield func(hop) bool) {
		for _, line := range slices.Backward(lines) {
			hops, ok := parseForwarded(line)
			if !ok {
				hops = []hop{{}}
			}
			for _, h := range slices.Backward(hops) {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// parseForwarded reads one field line (RFC 7239 4).
func parseForwarded(line string) (hops []hop, ok bool) {
	for rest := line; ; {
		var h hop
		var empty bool
		if h, empty, rest, ok = parseElement(rest); !ok {
			return nil, false
		}
		if !empty {
			hops = append(hops, h)
		}
		if rest == "" {
			return hops, true
		}
		rest = rest[1:] // the comma
	}
}

// parseElement reads one element, up to its comma or the end.
func parseElement(s string) (h hop, empty bool, rest string, ok bool) {
	empty = true
	for seen := parameter(0); ; s = s[1:] {
		s = trimLeftBlank(s)
		if s != "" && s[0] != ',' && s[0] != ';' {
			var name, value string
			if name, value, s, ok = parsePair(s); !ok || seen&parameterOf(name) != 0 {
				return hop{}, false, "", false
			}
			empty = false
			seen |= parameterOf(name)
			h.set(name, value)
			s = trimLeftBlank(s)
		}
		switch {
		case s == "" || s[0] == ',':
			return h, empty, s, true
		case s[0] != ';':
			return hop{}, false, "", false
		}
	}
}

// parameter is a set of those that may be there once.
type parameter uint8

const (
	paramFor parameter = 1 << iota
	paramProto
	paramHost
)

func parameterOf(name string) parameter {
	switch name {
	case "for":
		return paramFor
	case "proto":
		return paramProto
	case "host":
		return paramHost
	}
	return 0 // by, and those of other people, tell nothing
}

func trimLeftBlank(s string) string { return strings.TrimLeft(s, " \t") }

// set takes over a parameter.
func (h *hop) set(name, value string) {
	switch parameterOf(name) {
	case paramFor:
		h.addr = parseNode(value)
	case paramProto:
		if validProto(value) {
			h.proto = value
		}
	case paramHost:
		if isHost(value) {
			h.host = value
		}
	}
}

// parsePair reads name=value. The name is returned in lower case.
func parsePair(s string) (name, value, rest string, ok bool) {
	i := strings.IndexByte(s, '=')
	if i <= 0 || strings.ContainsFunc(s[:i], func(r rune) bool { return r > 0x7f || !isAlphanumeric(byte(r)) && r != '-' && r != '_' }) {
		return "", "", "", false
	}
	name, s = strings.ToLower(s[:i]), s[i+1:]
	if strings.HasPrefix(s, `"`) {
		value, rest, ok = parseQuoted(s)
		return name, value, rest, ok
	}
	end := strings.IndexAny(s, ";, \t")
	if end < 0 {
		end = len(s)
	}
	value, rest = s[:end], s[end:]
	return name, value, rest, value != "" && !strings.ContainsAny(value, `"\=`)
}

// parseQuoted reads a quoted string and takes its escapes away. No address, host
// or scheme has a comma, a semicolon or an equals sign. One that has begins in
// the client's part of the line, and would swallow what the proxy added.
func parseQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], true
		case ',', ';', '=':
			return "", "", false
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// parseNode reads a node of RFC 7239 6, or what else proxies write: an address
// with or without a port, quoted or not. The zero address stands for anything
// else, such as unknown, a hidden name, or an address with a zone, which means
// something on that machine only.
func parseNode(s string) netip.Addr {
	s = trimBlank(s)
	if strings.HasPrefix(s, `"`) {
		value, rest, ok := parseQuoted(s)
		if !ok || rest != "" {
			return netip.Addr{}
		}
		s = value
	}
	a, err := netip.ParseAddr(withoutPort(s))
	if err != nil || a.Zone() != "" || a.Is4() && s[0] == '[' {
		return netip.Addr{}
	}
	return a.Unmap()
}

// withoutPort is the address of ip:port, [ip] and [ip]:port, or s itself. What
// it makes of other text is no address.
func withoutPort(s string) string {
	if strings.HasPrefix(s, "[") {
		host, port, ok := strings.Cut(s[1:], "]")
		if !ok || port != "" && (port[0] != ':' || !isNodePort(port[1:])) {
			return ""
		}
		return host
	}
	host, port, ok := strings.Cut(s, ":")
	if ok && strings.IndexByte(host, '.') >= 0 && isNodePort(port) {
		return host
	}
	return s
}

// isNodePort reports whether s is a port or the hidden name of one (RFC 7239 6).
func isNodePort(s string) bool {
	hidden := strings.HasPrefix(s, "_")
	for i := 0; i < len(s); i++ {
		if c := s[i]; !('0' <= c && c <= '9') && !(hidden && (isAlphanumeric(c) || strings.IndexByte("._-", c) >= 0)) {
			return false
		}
	}
	return s != "" && (hidden || len(s) <= len("65535"))
}
