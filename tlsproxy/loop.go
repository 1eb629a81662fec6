package tlsproxy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sidegate/tlsproxy/upstream"
)

// LeadsTo reports whether a connection to the upstream would arrive at the
// listener, as far as that can be told before the listener is open. That the
// address of a Service leads here, for one, only the connection tells.
func (u Upstream) LeadsTo(ctx context.Context, listen Address) bool {
	if u.RedirectPort > 0 || u.Address.Network != listen.Network {
		return false
	}
	if listen.Network == "unix" {
		ctx, cancel := context.WithTimeout(ctx, mountPatience)
		defer cancel()
		same, _ := upstream.Touch(ctx, listen.Address, func() (bool, error) { return sameSocket(u.Address.Address, listen.Address), nil })
		return same // of a mount that hangs, whoever connects or listens there says so
	}
	host, port, err := net.SplitHostPort(u.Address.Address)
	on, taken, listenErr := net.SplitHostPort(listen.Address)
	if err != nil || listenErr != nil || port != taken || port == "0" {
		return false
	}
	if on == "" {
		on = "::" // of both families, as package net has it
	}
	tos := addressesOf(ctx, host)
	return slices.ContainsFunc(addressesOf(ctx, on), func(at netip.Addr) bool {
		return slices.ContainsFunc(tos, func(to netip.Addr) bool { return takes(at, to) })
	})
}

// addressesOf are those of a name or literal; none if it does not resolve.
func addressesOf(ctx context.Context, host string) []netip.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	list, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range list {
		list[i] = list[i].Unmap()
	}
	return list
}

// takes reports whether a listener at an address takes what is sent to another.
func takes(at, to netip.Addr) bool {
	switch {
	case to == netip.IPv4Unspecified(): // which the kernel takes for this host
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case to == netip.IPv6Unspecified():
		to = netip.IPv6Loopback()
	}
	if !at.IsUnspecified() {
		return at == to
	}
	return (at.Is6() || to.Is4()) && isLocal(to)
}

// isLocal reports whether an address is one of this host.
func isLocal(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	all, _ := net.InterfaceAddrs() // without them only loopback is known
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		network, err := netip.ParsePrefix(a.String())
		return err == nil && network.Addr().Unmap() == ip.WithZone("")
	})
}

// sameSocket reports whether two paths lead to one socket. It need not be there.
func sameSocket(a, b string) bool {
	if resolved(a) == resolved(b) {
		return true
	}
	first, err := os.Stat(a)
	second, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(first, second)
}

// resolved is a path without links, as far as there is something to resolve:
// the link may be there before the socket.
func resolved(path string) string {
	const deepest = 40 // links, as in Linux
	for range deepest {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return real
		}
		if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			path = filepath.Join(dir, filepath.Base(path))
		}
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return path
}
