package authn

import (
	"fmt"
	"net/netip"
	"testing"
)

// HDR-16: a client that its proxy doesn't name is limited with all others of
// that proxy, and not with those of another one.
func TestLimiterOfUnknownClients(t *testing.T) {
	w := newWorld(t, "u:"+bcryptOf(t, "x", 4))
	w.load(t)
	guess := func(client, proxy netip.Addr, password string) string {
		r := basic("u", password)
		r.Client, r.Remote = client, proxy
		return w.verdict(t, r)
	}
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range burst {
		if got := guess(netip.Addr{}, one, fmt.Sprint(i)); got != "bad_credentials" {
			t.Fatalf("failure %d: %s", i, got)
		}
	}
	if got := guess(netip.Addr{}, one, "no"); got != "rate_limited" {
		t.Errorf("one more by the same proxy: %s", got)
	}
	if got := guess(netip.Addr{}, other, "no"); got != "bad_credentials" {
		t.Errorf("by another proxy: %s", got)
	}
	if got := guess(netip.MustParseAddr("203.0.113.9"), one, "no"); got != "bad_credentials" {
		t.Errorf("a known client of the first proxy: %s", got)
	}
}
