package policy

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// HTTP-27: one form for each host, and none for what has several readings. Whole
// requests with such hosts are in tlsproxy.
func TestParseHost(t *testing.T) {
	for authority, want := range map[string]string{
		"": "", "a": "a", "A.b-C_d": "a.b-c_d", "a.": "a", "a:": "a", "a.:80": "a", "-": "-", "a:00080": "a", "a:0": "a",
		"1.2.3.4": "1.2.3.4", "1.2.3.4.": "1.2.3.4", "1.2.3.4:5": "1.2.3.4", "1.2.3.4.example": "1.2.3.4.example", "0x": "error", "0xg": "0xg", "1a": "1a", "a-1": "a-1",
		"[::]": "::", "[2001:DB8::0:1]": "2001:db8::1", "[::ffff:1.2.3.4]": "::ffff:1.2.3.4", "[::ffff:102:304]": "::ffff:1.2.3.4", "[::1]:": "::1",
		"a:b": "error", "a:65535": "a", "a:65536": "error", "a::1": "error", "a:1:": "error", ":": "error", "[]": "error", "[::1%lo]": "error", "[1.2.3.4]": "error", "1": "error", "1.2.3": "error", "01.2.3.4": "error",
		strings.Repeat("a.", 126) + "a": strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "ab": "error", strings.Repeat("a", 64): "error",
	} {
		got, err := ParseHost(authority)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %q (%v), want %q", authority, got, err, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = ParseHost("www.example.org:8443") }); n != 0 {
		t.Errorf("%v allocations for a plain host", n)
	}
}

func TestHostPattern(t *testing.T) {
	for text, want := range map[string]string{
		"a.example": "a.example", "A.example.": "a.example", "*.a.example": "*.a.example", "*.A.example.": "*.a.example", "*.localhost": "*.localhost",
		"::1": "::1", "[::1]": "::1", "0::1": "::1", "10.0.0.1": "10.0.0.1",
		"": "error", "*": "error", "*.": "error", "*.*.a": "error", "a.*": "error", "a:80": "error", "a:": "error", "[::1]:80": "error", "*.10.0.0.1": "error", "*.::1": "error", "fe80::1%lo": "error", "a/b": "error", ".a": "error", "127.1": "error", "b\u00fccher": "error",
	} {
		got, err := HostPattern(text)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %q (%v), want %q", text, got, err, want)
		}
	}
}

// FuzzParseHost holds that a host that is let through is one, whatever way it is
// read: by net/url, by netip, and again by us (HTTP-27).
func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"a.example:80", "[::1]:", "A.:1", "127.1", "[::ffff:1.2.3.4]", "a,b", "a@b", "xn--a.b", "[::1%25x]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		host, err := ParseHost(authority)
		if err != nil || authority == "" {
			return
		}
		u, err := url.Parse("http://" + authority + "/")
		if err != nil || u.Host != authority || u.User != nil || u.Path != "/" {
			t.Fatalf("%q is %q, and net/url reads %+v (%v)", authority, host, u, err)
		}
		name := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && addr.Is6() {
			name = addr.String()
		}
		if host != name {
			t.Errorf("%q is %q, and net/url reads %q", authority, host, name)
		}
		again := host
		if strings.Contains(host, ":") {
			again = "[" + host + "]"
		}
		if h, err := ParseHost(again); err != nil || h != host {
			t.Errorf("%q is %q, and that %q (%v)", authority, host, h, err)
		}
		if p, err := HostPattern(host); err != nil || p != host {
			t.Errorf("%q can't be named by a rule: %q, %v", host, p, err)
		}
	})
}
