package tlsproxy

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// HDR-16: nodes as proxies write them. "" stands for unknown.
var nodes = map[string]string{
	"203.0.113.9": "203.0.113.9", " 203.0.113.9\t": "203.0.113.9", "203.0.113.9:1234": "203.0.113.9", `"203.0.113.9"`: "203.0.113.9",
	`"203.0.113.9:1234"`: "203.0.113.9", "203.0.113.9:_port": "203.0.113.9", "::ffff:203.0.113.9": "203.0.113.9", "[::ffff:203.0.113.9]:1": "203.0.113.9",
	"2001:db8::1": "2001:db8::1", "[2001:db8::1]": "2001:db8::1", "[2001:db8::1]:4711": "2001:db8::1", `"[2001:db8::1]:4711"`: "2001:db8::1",
	`"[2001:\db8::1]"`: "2001:db8::1", "2001:DB8::1": "2001:db8::1", `"\2\0\3.0.113.9"`: "203.0.113.9",
	"unknown": "", `"unknown"`: "", "_hidden": "", `"_hidden:80"`: "", "": "", "[]": "", "[]:80": "", ":80": "", "[": "", `"`: "", `""`: "", `"203.0.113.9`: "",
	"[203.0.113.9]": "", "203.0.113.9:": "", "203.0.113.9:x": "", "203.0.113.9:123456": "", "203.0.113.9:80:80": "", "203.0.113.9 203.0.113.8": "",
	"203.0.113": "", "010.0.0.1": "", "203.0.113.9/32": "", "fe80::1%eth0": "", "[fe80::1%eth0]:80": "", "::ffff:1.2.3.4%x": "", "[2001:db8::1]x": "",
	"[2001:db8::1]:": "", "2001:db8::1]": "", "[2001:db8::1": "", "for=203.0.113.9": "", "proxy.example": "", "proxy.example:80": "", `"203.0.113.9"x`: "",
	"203.0.113.9\x00": "", "203.0.113.9\u00a0": "", "203.0.113.9;": "", "0xcb007109": "", "3405803785": "", `203.0.113.9\`: "",
}

func TestParseNode(t *testing.T) {
	for text, want := range nodes {
		got := ""
		if a := parseNode(text); a.IsValid() {
			got = a.String()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// HDR-16: the other end of a connection has one form too. A network never
// contains an address with a zone, so that a rule that denies fe80::/10 did not
// see one.
func TestAddrOf(t *testing.T) {
	for ip, want := range map[string]string{"fe80::1": "fe80::1", "::ffff:192.0.2.1": "192.0.2.1", "192.0.2.1": "192.0.2.1"} {
		if got := addrOf(&net.TCPAddr{IP: net.ParseIP(ip), Zone: "eth0"}); got != netip.MustParseAddr(want) {
			t.Errorf("%s: got %v", ip, got)
		}
	}
}

// behind is a gate behind proxies of 10.0.0.0/8.
func behind(field ClientField) *Gate {
	return &Gate{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ClientField: field}
}

var proxyAddr = netip.MustParseAddr("10.0.0.1")

// HDR-16: who the client is, for fields as they come by a trusted proxy.
func TestSenderOf(t *testing.T) {
	for _, c := range []struct {
		name      string
		list, fwd []string
		field     ClientField
		want      string // "": unknown
	}{
		{"the proxy's own request", nil, nil, "", "10.0.0.1"},
		{"one", []string{"203.0.113.9"}, nil, "", "203.0.113.9"},
		{"the right-most that is no proxy", []string{"198.51.100.7, 203.0.113.9, 10.9.9.9"}, nil, "", "203.0.113.9"},
		{"never what the client wrote before it", []string{"10.1.1.1, 203.0.113.9"}, nil, "", "203.0.113.9"},
		{"over several lines", []string{"198.51.100.7", "203.0.113.9", "10.9.9.9"}, nil, "", "203.0.113.9"},
		{"all are proxies", []string{"10.3.3.3, 10.2.2.2"}, nil, "", "10.3.3.3"},
		{"with a port", []string{"198.51.100.7, 203.0.113.9:1234"}, nil, "", "203.0.113.9"},
		{"empty elements", []string{",203.0.113.9, ,\t,", "", " "}, nil, "", "203.0.113.9"},
		{"nothing but empty elements", []string{", ,"}, nil, "", ""},
		{"an empty field", []string{""}, nil, "", ""},
		{"unreadable", []string{"203.0.113.9, unknown"}, nil, "", ""},
		{"unreadable behind a proxy", []string{"203.0.113.9, nobody, 10.9.9.9"}, nil, "", ""},
		{"unreadable before the client", []string{"nobody, 203.0.113.9"}, nil, "", "203.0.113.9"},
		{"zone", []string{"fe80::1%eth0"}, nil, "", ""},
		{"Forwarded alone", nil, []string{`for=198.51.100.7, For="[2001:db8::1]:4711";proto=https`}, "", "2001:db8::1"},
		{"Forwarded in several lines", nil, []string{"for=198.51.100.7", `for=203.0.113.9;by=10.0.0.1`, "for=10.9.9.9"}, "", "203.0.113.9"},
		{"Forwarded without for", nil, []string{"for=203.0.113.9, proto=https"}, "", ""},
		{"Forwarded hidden", nil, []string{"for=_x"}, "", ""},
		{"Forwarded unknown", nil, []string{"for=203.0.113.9, for=unknown"}, "", ""},
		{"Forwarded with blanks", nil, []string{" for=198.51.100.7 , for=203.0.113.9 ; proto=http ;, "}, "", "203.0.113.9"},
		{"Forwarded twice for", nil, []string{"for=203.0.113.9;for=10.0.0.1"}, "", ""},
		{"Forwarded without brackets and with a port", nil, []string{"for=203.0.113.9:80"}, "", "203.0.113.9"},
		{"Forwarded no list of pairs", nil, []string{"203.0.113.9"}, "", ""},
		{"Forwarded blank around =", nil, []string{"for= 203.0.113.9"}, "", ""},
		{"Forwarded with a comma in quotes", nil, []string{`for=203.0.113.9;by="a, for=10.1.1.1"`}, "", ""},
		{"a quote that swallows the proxy's element", nil, []string{`for=198.51.100.7;x=", for=203.0.113.9`}, "", ""},
		{"a quote that would end in the proxy's element", nil, []string{`for=198.51.100.7;x=", for="[2001:db8::9]"`}, "", ""},
		{"a broken line before the proxy's", nil, []string{`for=198.51.100.7;x="`, "for=203.0.113.9"}, "", "203.0.113.9"},
		{"both agree", []string{"203.0.113.9:80"}, []string{`for="203.0.113.9"`}, "", "203.0.113.9"},
		{"both agree by other proxies", []string{"203.0.113.9, 10.9.9.9"}, []string{`for=203.0.113.9`}, "", "203.0.113.9"},
		{"both, and they differ", []string{"203.0.113.9"}, []string{`for=198.51.100.7`}, "", ""},
		{"both, and one can't be read", []string{"203.0.113.9"}, []string{`proto=https`}, "", ""},
		{"both, and one is empty", []string{"203.0.113.9"}, []string{""}, "", ""},
		{"the other is ignored", []string{"203.0.113.9"}, []string{`for=198.51.100.7`}, XForwardedFor, "203.0.113.9"},
		{"Forwarded is the one", []string{"198.51.100.7"}, []string{`for=203.0.113.9`}, Forwarded, "203.0.113.9"},
		{"only the other came", []string{"198.51.100.7"}, nil, Forwarded, ""},
		{"only the other came either", nil, []string{"for=198.51.100.7"}, XForwardedFor, ""},
		{"none came", nil, nil, Forwarded, "10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{}
			if c.list != nil {
				h["X-Forwarded-For"] = c.list
			}
			if c.fwd != nil {
				h["Forwarded"] = c.fwd
			}
			got := ""
			if a := behind(c.field).senderOf(proxyAddr, h).addr; a.IsValid() {
				got = a.String()
			}
			if got != c.want {
				t.Errorf("X-Forwarded-For %q, Forwarded %q: got %q, want %q", c.list, c.fwd, got, c.want)
			}
			stranger := netip.MustParseAddr("192.0.2.1")
			if a := behind(c.field).senderOf(stranger, h).addr; a != stranger {
				t.Errorf("from a stranger: got %v", a)
			}
			if a := behind(c.field).senderOf(netip.Addr{}, h).addr; a.IsValid() { // by a unix socket
				t.Errorf("from nowhere: got %v", a)
			}
		})
	}
}

// HDR-17: what Forwarded says about scheme and host, of the client's element.
func TestForwardedOrigin(t *testing.T) {
	for line, want := range map[string][2]string{
		`for=203.0.113.9;proto=https;host="web.example:8443", for=10.9.9.9;proto=http;host=inner`: {"https", "web.example:8443"},
		`for=198.51.100.7;proto=ftp;host=evil, for=203.0.113.9;PROTO=HTTP`:                        {"HTTP", ""},
		`for=203.0.113.9;proto=ftp;host="a b"`:                                                    {"", ""},
		`for=unknown;proto=https`:                                                                 {"https", ""},
	} {
		h := behind("").senderOf(proxyAddr, http.Header{"Forwarded": {line}})
		if got := [2]string{h.proto, h.host}; got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

// HDR-16: whatever a client writes, it is not taken for somebody else once its
// proxy has added who it is.
func FuzzClientAddress(f *testing.F) {
	for text := range nodes {
		f.Add(text, text)
	}
	f.Add("10.0.0.5", `for=10.0.0.5;x="`)
	f.Add("10.0.0.5,", `for=10.0.0.5;x=`)
	f.Add("", `for="10.0.0.5\`)
	f.Add(",,", `,;,for=10.0.0.5;`)
	added := netip.MustParseAddr("2001:db8::9")
	f.Fuzz(func(t *testing.T, list, forwarded string) {
		g := behind("")
		check := func(h http.Header, mayBeUnknown bool) {
			t.Helper()
			a := g.senderOf(proxyAddr, h).addr
			if a != added && (a.IsValid() || !mayBeUnknown) {
				t.Errorf("%q: got %v, want %v", h, a, added)
			}
		}
		const plain, quoted = "2001:db8::9", `for="[2001:db8::9]:4711";proto=https;host="web.example"`
		check(http.Header{"X-Forwarded-For": {list + ", " + plain}}, false)
		check(http.Header{"X-Forwarded-For": {list, plain}}, false)
		check(http.Header{"Forwarded": {forwarded, quoted}}, false)
		check(http.Header{"Forwarded": {forwarded + ", " + quoted}}, true)
		check(http.Header{"X-Forwarded-For": {list, plain}, "Forwarded": {forwarded}}, true)
		for _, h := range []http.Header{{"X-Forwarded-For": {list}}, {"Forwarded": {forwarded}}, {"X-Forwarded-For": {list}, "Forwarded": {forwarded}}} {
			if a := g.senderOf(proxyAddr, h).addr; a.IsValid() && (a.Is4In6() || a.Zone() != "") {
				t.Errorf("%q: %v can't be compared", h, a)
			}
		}
		if a := parseNode(list); a.IsValid() && strings.ContainsAny(list, "%;=") {
			t.Errorf("%q was read as %v", list, a)
		}
	})
}
