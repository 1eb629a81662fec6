package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"sidegate/policy"
)

// HDR-16: a client whom nobody names is in no network, and under every deny.
func TestUnknownClient(t *testing.T) {
	p := parse(t, rules(
		`- {name: not from there, deny: true, networks: [192.0.2.0/24], paths: [/denied/**]}`,
		`- {name: not mallory from there, deny: true, networks: [192.0.2.0/24], user: [user:mallory]}`,
		`- {name: inside, networks: [10.0.0.0/8, "::/0", 0.0.0.0/0], user: [anyone]}`,
		`- {name: rest, user: [user:alice, user:mallory]}`,
	))
	known := netip.MustParseAddr("203.0.113.9")
	for _, c := range []struct {
		path, user string
		client     netip.Addr
		rule       string
		allow      bool
	}{
		{"/denied/x", "alice", netip.Addr{}, "not from there", false},
		{"/denied/x", "alice", known, "inside", true},
		{"/", "mallory", netip.Addr{}, "not mallory from there", false},
		{"/", "alice", netip.Addr{}, "rest", true},
		{"/", "bob", netip.Addr{}, "rest", false},
		{"/", "bob", known, "inside", true},
	} {
		r := request(t, "GET "+c.path)
		r.Client = c.client
		e := p.Explain(t.Context(), r, policy.Identity{User: local(c.user)})
		if e.Rule != c.rule || e.Allow != c.allow {
			t.Errorf("%s as %s from %v: got %s %t, want %s %t", c.path, c.user, c.client, e.Rule, e.Allow, c.rule, c.allow)
		}
	}
}

// HDR-16: failures are held against the proxy while it doesn't say for whom.
func TestSource(t *testing.T) {
	client, proxy := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct{ client, want netip.Addr }{{client, client}, {netip.Addr{}, proxy}} {
		if got := (&policy.Request{Client: c.client, Remote: proxy}).Source(); got != c.want {
			t.Errorf("client %v: got %v, want %v", c.client, got, c.want)
		}
	}
}

// HDR-16: networks are compared in one form.
func TestParseNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:a00:0/104": "10.0.0.0/8", "::ffff:0:0/96": "0.0.0.0/0",
		"::ffff:10.1.2.3": "10.1.2.3/32", "::FFFF:10.1.2.3/128": "10.1.2.3/32", "2001:db8::/32": "2001:db8::/32", "::/0": "::/0",
		"10.0.0.1/8": "do you mean 10.0.0.0/8?", "fe80::1%eth0": "has a zone", "fe80::%eth0/64": "has a zone", "::ffff:10.0.0.1/104": "has bits set",
	} {
		n, err := policy.ParseNetwork(text)
		got := n.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) && !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	p := parse(t, rules(`- {name: inside, networks: ["::ffff:10.0.0.0/104"], user: [anyone]}`))
	r := request(t, "GET /")
	r.Client = netip.MustParseAddr("10.1.2.3")
	if !p.Decide(t.Context(), r, policy.Identity{}).Allow {
		t.Error("10.1.2.3 is not in ::ffff:10.0.0.0/104")
	}
}
