package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Dialer connects to one address and nothing else: no proxy of the environment
// is asked, and what is not loopback is refused unless that is allowed.
type Dialer struct {
	Network string // "tcp" or "unix"
	Address string // host:port or a path
	// AnyAddress allows addresses that are not loopback.
	AnyAddress bool
	Timeout    time.Duration
}

// Dial connects.
func (d *Dialer) Dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	var nd net.Dialer
	dial := func() (net.Conn, error) { return nd.DialContext(ctx, d.Network, d.Address) }
	switch {
	case d.Network == "unix":
		return Touch(ctx, d.Address, dial)
	case d.AnyAddress:
		return dial()
	}
	return DialLoopback(ctx, d.Address)
}

// DialLoopback connects to a host and port if all addresses of the host are
// loopback.
func DialLoopback(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := ResolveLoopback(ctx, host)
	if err != nil {
		return nil, err
	}
	var nd net.Dialer
	for _, ip := range ips {
		var c net.Conn
		if c, err = nd.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), port)); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// ResolveLoopback returns the addresses of host if all of them are loopback.
// It is asked at every dial, since names change.
func ResolveLoopback(ctx context.Context, host string) ([]net.IP, error) {
	if ip := net.ParseIP(host); ip != nil {
		if !ip.IsLoopback() {
			return nil, notLoopback(host, ip)
		}
		return []net.IP{ip}, nil
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	ips := make([]net.IP, 0, len(addrs))
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			return nil, notLoopback(host, a.IP)
		}
		ips = append(ips, a.IP)
	}
	return ips, nil
}

func notLoopback(host string, ip net.IP) error {
	return fmt.Errorf("upstream %s is %s, which is %w: plaintext would leave the pod", host, ip, ErrNotLoopback)
}

// ErrNotLoopback is why an upstream beyond the pod is refused.
var ErrNotLoopback = errors.New("not loopback")
