package spiffe

import (
	"net/netip"
	"strings"
	"testing"
)

// LIB-08: an address is a path or an IP with a port, and nothing is left of it
// that was not looked at.
func FuzzSocket(f *testing.F) {
	for _, s := range []string{"unix:///a/b", "unix:///a%2fb", "unix:///a?b", "unix://a/b", "tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "tcp://127.0.0.1:0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseSocket(s)
		if err != nil {
			return
		}
		switch a.network {
		case "unix":
			if !strings.HasPrefix(a.address, "/") || strings.HasSuffix(a.address, "/") {
				t.Errorf("%q is the path %q", s, a.address)
			}
		case "tcp":
			if ap, err := netip.ParseAddrPort(a.address); err != nil || ap.Port() == 0 {
				t.Errorf("%q is the address %q: %v", s, a.address, err)
			}
		default:
			t.Errorf("%q is of network %q", s, a.network)
		}
	})
}
