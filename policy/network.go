package policy

import (
	"errors"
	"fmt"
	"net/netip"
)

// v4InV6 is how many bits stand before an IPv4 address that is written as an
// IPv6 address (RFC 4291 2.5.5.2).
const v4InV6 = 96

// ParseNetwork reads a network such as 10.0.0.0/8, or an address, which is a
// network of its own. One of IPv4-mapped addresses (::ffff:10.0.0.0/104) is the
// IPv4 network: clients are never compared in the mapped form.
func ParseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, errors.New("has a zone, which means something on one machine only; leave it out")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(text)
	if err != nil {
		return n, errors.New("is neither an address nor a network such as 10.0.0.0/8")
	}
	if n != n.Masked() {
		return n, fmt.Errorf("has bits set beyond its length; do you mean %s?", n.Masked())
	}
	if n.Addr().Is4In6() {
		n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-v4InV6)
	}
	return n, nil
}
