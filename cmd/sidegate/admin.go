package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// adminAddress is where the admin port listens, or none.
type adminAddress string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *adminAddress) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	_, ipErr := netip.ParseAddr(host)
	if string(text) != none && (err != nil || !validPort(port, 0) || host != "" && host != "localhost" && ipErr != nil) {
		return errors.New("it is neither [HOST]:PORT, such as :9901, nor none")
	}
	*a = adminAddress(text)
	return nil
}

// own are the addresses at which the pod's own processes reach the port: /status
// and /drain answer at 127.0.0.1 and ::1 alone.
func (a adminAddress) own() []string {
	host, port, err := net.SplitHostPort(string(a))
	if err != nil {
		return nil // it is none
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		return []string{string(a)}
	}
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}

// warning says why nobody can ask for the status or a drain; "": they can.
func (a adminAddress) warning() string {
	host, _, err := net.SplitHostPort(string(a))
	ip, ipErr := netip.ParseAddr(host)
	if err != nil || ipErr != nil || ip.IsUnspecified() || ip == netip.IPv6Loopback() || ip.Unmap().String() == "127.0.0.1" {
		return ""
	}
	return fmt.Sprintf("SIDEGATE_ADMIN listens at %s alone, and sidegate status and sidegate drain are answered at 127.0.0.1 and ::1 only: leave the host out, as in :9901", ip)
}

// askAdmin asks the admin port of the process that has the same configuration.
func askAdmin(ctx context.Context, p *program, method, path string) ([]byte, error) {
	c, err := parseConfig(p.environ)
	if err != nil {
		return nil, usageError{listed("configuration", err)}
	}
	if c.Admin == none {
		return nil, usagef("SIDEGATE_ADMIN is none, so nobody can be asked")
	}
	return c.Admin.ask(ctx, method, path)
}

// ask asks whoever has the port on this host.
func (a adminAddress) ask(ctx context.Context, method, path string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true, DialContext: a.dial}}
	res, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("no sidegate answers at %s: %w", a, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(string(body)))
	}
	return body, nil
}

// dial connects to the first of our own addresses where somebody listens. The
// name localhost is not resolved: an image without /etc/hosts would ask DNS.
func (a adminAddress) dial(ctx context.Context, _, _ string) (c net.Conn, err error) {
	var d net.Dialer
	for _, address := range a.own() {
		if c, err = d.DialContext(ctx, "tcp", address); err == nil {
			return c, nil
		}
	}
	return nil, err
}
