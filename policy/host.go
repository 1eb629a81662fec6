package policy

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

var (
	errHost = errors.New("the host is no name of letters, digits, - and _ with a dot between its labels, no IPv4 address and no [IPv6 address] without a zone")
	errPort = errors.New("what follows the host is no colon and port")
)

// ParseHost returns the canonical form of an authority that has one reading: in
// lower case, without port and trailing dot; an IPv6 address without brackets and
// as RFC 5952 writes it. Every other authority is an error, since applications
// differ about the host that it names. An empty one names none.
func ParseHost(authority string) (string, error) {
	if authority == "" {
		return "", nil
	}
	host, rest := authority, ""
	if end := strings.IndexByte(authority, ']'); end >= 0 {
		host, rest = authority[:end+1], authority[end+1:]
	} else if colon := strings.IndexByte(authority, ':'); colon >= 0 {
		host, rest = authority[:colon], authority[colon:]
	}
	if !isPortPart(rest) {
		return "", errPort
	}
	if literal, found := strings.CutPrefix(host, "["); found {
		return parseIPv6(strings.TrimSuffix(literal, "]"))
	}
	host = strings.TrimSuffix(host, ".")
	if !isDNSName(host) {
		return "", errHost
	}
	return strings.ToLower(host), nil
}

// isPortPart reports whether s is what may follow a host: nothing, or a colon and
// a port, which may be empty (RFC 3986, 3.2.3).
func isPortPart(s string) bool {
	digits, found := strings.CutPrefix(s, ":")
	if !found || digits == "" {
		return s == "" || found
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' {
			return false
		}
	}
	_, err := strconv.ParseUint(digits, 10, 16)
	return err == nil
}

func parseIPv6(text string) (string, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", errHost
	}
	return addr.String(), nil
}

// isDNSName reports whether s is a name within the limits of RFC 1035, 2.3.4, or
// an IPv4 address. A name whose last label is a number is an address, which
// browsers and Node read in several bases and lengths (127.1, 0x7f.1): only the
// usual form has one reading.
func isDNSName(s string) bool {
	if len(s) > 253 || !isHostName(s) {
		return false
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	if isNumber(last) {
		addr, err := netip.ParseAddr(s)
		return err == nil && addr.Is4()
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > 63 {
			return false
		}
	}
	return true
}

// isNumber is the ends-in-a-number test of the URL standard (3.5).
func isNumber(label string) bool {
	hex := len(label) >= 2 && label[0] == '0' && label[1]|0x20 == 'x'
	if hex {
		label = label[2:]
	}
	for i := 0; i < len(label); i++ {
		if _, isHex := unhex(label[i]); !isHex || !hex && label[i] > '9' {
			return false
		}
	}
	return true
}

// HostPattern is the canonical form of a host as configuration names it: without a
// port, an IPv6 address with or without brackets, or *. and a name, which stands
// for every name of one label more.
func HostPattern(text string) (string, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if addr, err := netip.ParseAddr(bare); err == nil && addr.Is6() {
		return parseIPv6(bare)
	}
	name, wildcard := strings.CutPrefix(text, "*.")
	if name == "" || strings.Contains(name, ":") {
		return "", errHost
	}
	host, err := ParseHost(name)
	if !wildcard || err != nil {
		return host, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", errHost
	}
	return "*." + host, nil
}
