package tlsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// ways are those by which a request may come: each returns the status, "reset",
// or "" if the connection ended without an answer.
func ways(t *testing.T, app string, change ...func(*tlsproxy.Gate)) (map[string]func(method, target, host string, fields ...string) string, []*world) {
	t.Helper()
	secure := newWorld(t, append([]func(*tlsproxy.Gate){upstream(app)}, change...)...)
	plain := newWorld(t, append([]func(*tlsproxy.Gate){upstream(app), plaintext}, change...)...)
	tls := func() net.Conn {
		c := secure.config(nil)
		c.NextProtos = []string{"http/1.1"}
		return secure.dial(c)
	}
	h2 := func() net.Conn {
		c := secure.config(nil)
		c.NextProtos = []string{"h2"}
		return secure.dial(c)
	}
	tcp := func() net.Conn {
		c, err := net.Dial("tcp", plain.addr)
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		must(t, c.SetDeadline(time.Now().Add(15*time.Second)))
		return c
	}
	return map[string]func(method, target, host string, fields ...string) string{
		"HTTP/1.1":               overHTTP1(t, tls, "1.1"),
		"HTTP/1.0":               overHTTP1(t, tls, "1.0"),
		"HTTP/2":                 overHTTP2(t, h2, "https"),
		"HTTP/1.1 in plaintext":  overHTTP1(t, tcp, "1.1"),
		"HTTP/2 by h2c, no TLS":  overHTTP2(t, tcp, "http"),
		"upgrade over HTTP/1.1":  overHTTP1(t, tls, "1.1", "Connection", "Upgrade", "Upgrade", "websocket"),
		"HTTP/1.0 in plaintext ": overHTTP1(t, tcp, "1.0"),
	}, []*world{secure, plain}
}

func overHTTP1(t *testing.T, dial func() net.Conn, version string, always ...string) func(method, target, host string, fields ...string) string {
	return func(method, target, host string, fields ...string) string {
		t.Helper()
		var head strings.Builder
		fmt.Fprintf(&head, "%s %s HTTP/%s\r\nHost: %s\r\nAuthorization: %s\r\n", method, target, version, host, authorized)
		fields = append(fields, always...)
		for i := 0; i < len(fields); i += 2 {
			fmt.Fprintf(&head, "%s: %s\r\n", fields[i], fields[i+1])
		}
		conn := dial()
		defer conn.Close()
		_, _ = io.WriteString(conn, head.String()+"\r\n") // it may be refused before all is sent
		res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
		if err != nil {
			return ""
		}
		return fmt.Sprint(res.StatusCode)
	}
}

func overHTTP2(t *testing.T, dial func() net.Conn, scheme string) func(method, target, host string, fields ...string) string {
	return func(method, target, host string, fields ...string) string {
		t.Helper()
		list := [][2]string{{":method", method}, {":scheme", scheme}, {":authority", host}, {":path", target}, {"authorization", authorized}}
		for i := 0; i < len(fields); i += 2 {
			list = append(list, [2]string{strings.ToLower(fields[i]), fields[i+1]})
		}
		conn := dial()
		defer conn.Close()
		return h2Status(t, conn, list)
	}
}

// withRules is a change of a gate: a policy file of these rules.
func withRules(lines ...string) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) {
		p, err := policy.Parse("p", []byte("version: 1\nrules:\n"+strings.Join(lines, "\n")+"\n"),
			policy.Surroundings{Gates: []policy.GateKind{{Name: "main"}}, Methods: []string{policy.LocalMethod}})
		if err != nil {
			panic(err)
		}
		g.Decider = p
	}
}

// guarded is a policy that guards some paths, methods and hosts, as most do.
func guarded(g *tlsproxy.Gate) {
	withRules("- {name: admin, paths: [/admin/**, /Internal*], user: [user:root]}",
		"- {name: writes, paths: [/metrics], methods: [POST], user: [user:root]}",
		"- {name: inside, hosts: [admin.example, '*.in.example', '::2'], user: [user:root]}",
		"- {name: preflight, paths: [/cors], preflight: true, user: [anyone]}",
		"- {name: others, user: [authenticated]}")(g)
}

type honest struct{ who, method, target, host string }

func honestRequests(t *testing.T) (list []honest) {
	t.Helper()
	text, err := os.ReadFile("testdata/honest.txt")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 4 {
			t.Fatalf("%q has %d columns", line, len(f))
		}
		list = append(list, honest{f[0], f[1], f[2], f[3]})
	}
	return list
}

// HTTP-04, HTTP-26, HTTP-27: what honest clients send passes, whatever they speak,
// and arrives byte for byte.
func TestHonestTraffic(t *testing.T) {
	app := newRecorder(t)
	by, _ := ways(t, app.url, guarded)
	delete(by, "upgrade over HTTP/1.1") // the recorder speaks no other protocol
	all := honestRequests(t)
	for way, ask := range by {
		for _, h := range all {
			status := ask(h.method, h.target, h.host)
			head := app.last()
			line, _, _ := strings.Cut(head, "\r\n")
			if want := h.method + " " + h.target + " HTTP/1.1"; status != "200" || line != want {
				t.Errorf("%s, %s: got %s, the application saw %q, want %q", way, h.who, status, line, want)
			}
			if strings.Count(head, "\r\nHost: "+h.host+"\r\n") != 1 || strings.Count(head, "\r\nX-Forwarded-Host: "+h.host+"\r\n") != 1 {
				t.Errorf("%s, %s: host %q arrived as\n%s", way, h.who, h.host, head)
			}
		}
	}
	t.Logf("%d requests in %d ways", len(all), len(by))
}

// h2cRecorder is an application that speaks HTTP/2 without TLS and remembers
// :method, :path and :authority of every request.
func h2cRecorder(t *testing.T) (url string, seen chan [3]string) {
	t.Helper()
	seen = make(chan [3]string, 1000)
	return "http://" + certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(c, c)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = framer.WriteSettings() // a client that has gone is seen by the next read
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			switch f := frame.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = framer.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				seen <- [3]string{f.PseudoValue("method"), f.PseudoValue("path"), f.PseudoValue("authority")}
				_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
			}
		}
	}), seen
}

// HTTP-04, HTTP-27: the same to an application that speaks HTTP/2.
func TestHonestTrafficToH2C(t *testing.T) {
	app, seen := h2cRecorder(t)
	w := newWorld(t, upstream(app), func(g *tlsproxy.Gate) { g.Upstream.H2C = true })
	for _, h := range honestRequests(t) {
		got := status(w.raw(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nConnection: close\r\n\r\n", h.method, h.target, h.host, authorized)))
		if got != "200" {
			t.Errorf("%v: %s", h, got)
			continue
		}
		if s, want := <-seen, ([3]string{h.method, h.target, h.host}); s != want {
			t.Errorf("the application saw %q, want %q", s, want)
		}
	}
	if got := status(w.raw("GET / HTTP/1.0\r\nAuthorization: " + authorized + "\r\n\r\n")); got != "400" || len(seen) != 0 { // no host can be sent
		t.Errorf("no host: %s", got)
	}
}

// HTTP-26: a target that applications read differently is refused, whatever the
// client speaks, and no byte of it arrives.
func TestBadTargets(t *testing.T) {
	app := newRecorder(t)
	by, worlds := ways(t, app.url)
	var over []string
	for _, b := range []byte{' ', '\t', 0x0b, 0x0c, 0x00, 0x01, 0x1f, 0x7f, 0x80, 0x85, 0xa0, 0xe9, 0xff, '#'} {
		over = append(over, "/admin"+string([]byte{b}), "/admin"+string([]byte{b})+"x", "/x?a"+string([]byte{b}), "/x?a"+string([]byte{b})+"b")
	}
	over = append(over, " /admin", "/admin  ", "/\u00a0admin", "/b\u00fccher", "/a?\u2028", `/a\b`, `\admin`, "/a%", "/a%4", "/a%zz", "/a%4g?b", "/%%30", "/%u0041",
		"a", "?a", "//\\x", "http://localhost/admin", "https://localhost/admin", "localhost/admin", "*", "*/admin", "/a?b#", "/#", "#/a")
	for way, ask := range by {
		for _, target := range over {
			if got := ask("GET", target, "localhost"); got != "400" && got != "reset" {
				t.Errorf("%s: %q: got %q", way, target, got)
			}
		}
	}
	if n := app.connections(); n != 0 {
		t.Errorf("the application saw %d connections, last\n%s", n, app.last())
	}
	for _, w := range worlds { // what is wrong is said, to whom it concerns
		w.log.Wait(t, `percent-encode it as %A0`)
		w.log.Wait(t, `percent-encode it as %20`)
	}
}

// HTTP-13, HTTP-26: a method is a token, so that no application sees a target in
// it.
func TestBadMethods(t *testing.T) {
	app := newRecorder(t)
	by, _ := ways(t, app.url)
	for way, ask := range by {
		for _, method := range []string{"GET /admin", "GET ", " GET", "GE\u017fT", "G(T", "GET\u00a0", "get", "trace", "TRACE"} {
			if got := ask(method, "/", "localhost"); got != "400" && got != "405" && got != "reset" && got != "" {
				t.Errorf("%s: %q: got %q", way, method, got)
			}
		}
	}
	if n := app.connections(); n != 0 {
		t.Errorf("the application saw %d connections, last\n%s", n, app.last())
	}
}

// HTTP-27: an authority that has more than one reading is refused.
func TestBadHosts(t *testing.T) {
	app := newRecorder(t)
	by, worlds := ways(t, app.url)
	for way, ask := range by {
		for _, host := range badHosts {
			if got := ask("GET", "/", host); got != "400" && got != "reset" {
				t.Errorf("%s: %q: got %q", way, host, got)
			}
		}
	}
	if n := app.connections(); n != 0 {
		t.Errorf("the application saw %d connections, last\n%s", n, app.last())
	}
	for _, w := range worlds {
		w.log.Wait(t, "the host is no name of letters")
		w.log.Wait(t, "what follows the host is no colon and port")
	}
}

var badHosts = []string{
	"admin.example:80:80", "admin.example,x", "admin.example, x", "[::1%x]", "[::1%25x]", "[fe80::1%eth0]:80", "b\u00fccher.example", "/", "a/b", "a b", "a\tb", `a"b`, "a#b", "a?b", `a\b`,
	"a:http", "a:80x", "a:-1", "a:+1", "a: 80", "a:65536", "a:99999999999999999999", ":80", ":", "user@a", "user:pw@a", "@a", "a%2eb", "a%20", "%61",
	".a", "a..b", "a..", ".", "..", "*.a", "*", "a*", "[", "]", "[]", "[::1", "::1]", "::1", "[::1]x", "[::1]:x", "x[::1]", "[[::1]]", "[v1.a]", "[1.2.3.4]", "[::1]]", "[::1]:80:80", "[:::1]", "[g::1]",
	"127.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "127.0.0.01", "256.0.0.1", "1.2.3.4.5", "a.1", "a.0x1", "a.0x", "a!b", "a$b", "a&b", "a'b", "(a)", "a+b", "a;b", "a=b", "a~b", "a`b", "a|b", "a^b", "{a}", "<a>",
	"a\u3002b", "a\uff0eb", "\u212aa", "a\xa0", "a\x85", "a\x7f", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "ab",
}

// HTTP-11, HTTP-27: rules and log see one form of a host, the application what
// the client said.
func TestHosts(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), withRules(
		"- {name: named, hosts: [a-b_c.example, '::1', '127.0.0.1', 'xn--bcher-kva.example', '*.in.example', '::ffff:127.0.0.1'], user: [user:admin]}",
		"- {name: others, user: [user:root]}"))
	for host, canonical := range map[string]string{
		"a-b_c.example": "a-b_c.example", "A-B_C.Example": "a-b_c.example", "a-b_c.example.": "a-b_c.example", "a-b_c.example:": "a-b_c.example", "a-b_c.example:443": "a-b_c.example",
		"A-B_C.EXAMPLE.:8443": "a-b_c.example", "a-b_c.example:0443": "a-b_c.example", "a-b_c.example:65535": "a-b_c.example",
		"[::1]": "::1", "[::1]:": "::1", "[::1]:443": "::1", "[0:0:0:0:0:0:0:1]": "::1", "[0000::0001]:1": "::1",
		"127.0.0.1": "127.0.0.1", "127.0.0.1.": "127.0.0.1", "127.0.0.1:80": "127.0.0.1", "[::ffff:127.0.0.1]": "::ffff:127.0.0.1", "[::FFFF:7F00:1]": "::ffff:127.0.0.1",
		"XN--bcher-KVA.example": "xn--bcher-kva.example", "x.in.example": "x.in.example", "X.IN.example.:1": "x.in.example",
		strings.Repeat("a", 63) + ".in.example": strings.Repeat("a", 63) + ".in.example",
	} {
		got := status(w.raw("GET /" + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\nAuthorization: " + authorized + "\r\n\r\n"))
		if head := app.last(); got != "200" || !strings.Contains(head, "\r\nHost: "+host+"\r\n") || !strings.Contains(head, "\r\nX-Forwarded-Host: "+host+"\r\n") {
			t.Errorf("%s: %s, the application saw\n%s", host, got, head)
		}
		w.log.Wait(t, fmt.Sprintf(`"host":%q`, canonical))
	}
	for _, host := range []string{"b.example", "a.a-b_c.example", "in.example", "x.y.in.example", "[::2]", "127.0.0.2"} {
		if got := status(w.raw("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\nAuthorization: " + authorized + "\r\n\r\n")); got != "403" {
			t.Errorf("%s: got %s", host, got)
		}
	}
}

// HTTP-27: where the client names no host, the application hears of none.
func TestNoHost(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), guarded)
	auth := "Authorization: " + authorized + "\r\n"
	h2 := func(list ...[2]string) string {
		return w.h2Request(t, append([][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"authorization", authorized}}, list...))
	}
	for name, got := range map[string]func() string{
		"HTTP/1.0 without": func() string { return status(w.raw("GET / HTTP/1.0\r\n" + auth + "\r\n")) },
		"HTTP/1.0 empty":   func() string { return status(w.raw("GET / HTTP/1.0\r\nHost:\r\n" + auth + "\r\n")) },
		"HTTP/1.1 empty": func() string {
			return status(w.raw("GET / HTTP/1.1\r\nHost: \r\nConnection: close\r\n" + auth + "\r\n"))
		},
		"HTTP/2 without":      func() string { return h2() },
		"HTTP/2 empty host":   func() string { return h2([2]string{"host", ""}) },
		"HTTP/1.0 X-F-Host":   func() string { return status(w.raw("GET / HTTP/1.0\r\nX-Forwarded-Host: evil\r\n" + auth + "\r\n")) },
		"HTTP/1.0 connection": func() string { return status(w.raw("GET / HTTP/1.0\r\nConnection: host\r\n" + auth + "\r\n")) },
	} {
		if s := got(); s != "200" {
			t.Errorf("%s: %s", name, s)
		}
		if head := app.last(); strings.Count(head, "Host") != 1 || !strings.Contains(head, "\r\nHost: \r\n") {
			t.Errorf("%s: the application saw\n%s", name, head)
		}
	}
	seen := app.connections()
	for request, want := range map[string]string{
		"GET / HTTP/1.1\r\n" + auth + "\r\n":                               "400", // RFC 9112 3.2
		"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n" + auth + "\r\n":         "400",
		"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n" + auth + "\r\n":         "400",
		"GET http://a/ HTTP/1.0\r\n" + auth + "\r\n":                       "400",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\n" + auth + "\r\n":            "400",
		"GET / HTTP/1.0\r\nHost: admin.example\r\n" + auth + "\r\n":        "403",
		"GET / HTTP/1.1\r\nHost: admin.example.:80\r\n" + auth + "\r\n":    "403",
		"GET / HTTP/1.1\r\nHost: X.IN.EXAMPLE:\r\n" + auth + "\r\n":        "403",
		"GET / HTTP/1.1\r\nHost: [0:0:0:0:0:0:0:2]:1\r\n" + auth + "\r\n":  "403",
		"GET / HTTP/1.1\r\nHost: [0::0.0.0.2]\r\n" + auth + "\r\n":         "403",
		"GET /x HTTP/1.1\r\nHost : admin.example\r\n" + auth + "\r\n":      "400",
		"GET /x HTTP/1.1\r\nHost: a\r\n admin.example\r\n" + auth + "\r\n": "400",
	} {
		if got := status(w.raw(request)); got != want {
			t.Errorf("%q: got %s, want %s", request, got, want)
		}
	}
	for _, list := range [][][2]string{{{":authority", "a"}, {"host", "b"}}, {{"host", "a"}, {"host", "b"}}, {{":authority", "a"}, {"host", "a"}, {"host", "b"}}, {{":authority", "a"}, {"host", ""}}, {{":authority", ""}}} { // HTTP-17
		if got := h2(list...); got != "400" && got != "reset" {
			t.Errorf("%v: got %s", list, got)
		}
	}
	if n := app.connections() - seen; n != 0 {
		t.Errorf("the application saw %d connections, last\n%s", n, app.last())
	}
}

// HTTP-27: no Location is built from a host that has several readings.
func TestRedirectHosts(t *testing.T) {
	w := newWorld(t, func(g *tlsproxy.Gate) {
		plaintext(g)
		g.Upstream = tlsproxy.Upstream{RedirectPort: 443}
	})
	ask := func(line, host string) *http.Response {
		return w.plain(line + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n")
	}
	for _, host := range append(badHosts, "") {
		if res := ask("GET /", host); res.StatusCode != 400 || res.Header.Get("Location") != "" {
			t.Errorf("%q: %d %v", host, res.StatusCode, res.Header)
		}
	}
	for line, want := range map[string]string{
		"GET /a%2Fb?c={d}": "https://a.example/a%2Fb?c={d}",
		"OPTIONS *":        "https://a.example",
		"GET /a\xa0b":      "",
		"GET /a?\xe9":      "",
	} {
		if got := ask(line, "A.example.:80").Header.Get("Location"); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

// HTTP-28: another case of a guarded path gets past no rule, whatever the client
// speaks, and one that nobody guards passes.
func TestCaseOfPaths(t *testing.T) {
	app := newRecorder(t)
	by, _ := ways(t, app.url, guarded)
	delete(by, "upgrade over HTTP/1.1")
	for way, ask := range by {
		for target, want := range map[string]string{
			"/admin": "403", "/ADMIN": "400", "/Admin/x": "400", "/%41dmin": "400", "/adm%49n": "400", "/x": "200", "/X": "200", "/Administration": "200",
			"/Internal": "403", "/internals": "400", "/INTERNAL": "400", "/int": "200", "/x/ADMIN": "200",
		} {
			if got := ask("GET", target, "localhost"); got != want {
				t.Errorf("%s: %s: got %s, want %s", way, target, got, want)
			}
		}
	}
}

// HTTP-29: where rules name methods, an override is judged too, however it is
// written; elsewhere it passes as it came.
func TestMethodOverride(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), withRules(
		"- {name: deletions, paths: [/things/**], methods: [DELETE, PURGE], user: [user:root]}",
		"- {name: others, user: [authenticated]}"))
	ask := func(line, fields string) string {
		return status(w.raw(line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\nAuthorization: " + authorized + "\r\n" + fields + "\r\n"))
	}
	for _, name := range []string{"X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "X_HTTP_METHOD_OVERRIDE", "X.Http.Method", "X~Method!Override", "X-HTTP_Method-Override", "X-Tunneled-Method", "HTTP-Method-Override", "_method"} {
		for _, value := range []string{"DELETE", "delete", " Delete ", "PUT, DELETE", "PUT\r\n" + name + ": DELETE", "PURGE", "DELETE HTTP/1.1", "D\u00c9LETE", "\"DELETE\"", "GET,HEAD,PUT,PATCH,OPTIONS", strings.Repeat("A", 33)} {
			if got := ask("POST /things/1", name+": "+value+"\r\n"); got != "400" {
				t.Errorf("%s: %q: got %s", name, value, got)
			}
		}
		for _, value := range []string{"PUT", "POST", "", "patch"} { // the same rule decides
			if got := ask("POST /things/1", name+": "+value+"\r\n"); got != "200" || !strings.Contains(app.last(), ": "+value+"\r\n") {
				t.Errorf("%s: %q: got %s\n%s", name, value, got, app.last())
			}
		}
		if got := ask("POST /other", name+": DELETE\r\n"); got != "200" {
			t.Errorf("%s at another path: got %s", name, got)
		}
	}
	for _, query := range []string{"_method=DELETE", "a&_method=delete", "_METHOD=Delete", "%5fmethod=DELETE", "%5Fm%65thod=%44ELETE", "_method=PUT&_method=DELETE", "a=b;_method=DELETE", "_method=+DELETE",
		"_method[]=DELETE", "_method%5B0%5D=DELETE", ".method=DELETE", "%20_method=DELETE", "+_method=DELETE", "_method%00x=DELETE", "-method=DELETE", "x-http-method-override=DELETE", "X-Tunneled-Method=DELETE",
		"_method=DEL%45TE", "_method=DELE%zzTE", "_method=PUT,DELETE", "?_method=DELETE&_method=DELETE", "_method=a&_method=b&_method=c&_method=d", "_method=%C3%9F", "&&;;_method=DELETE"} {
		if got := ask("POST /things/1?"+query, ""); got != "400" {
			t.Errorf("%s: got %s", query, got)
		}
		if got := ask("POST /other?"+query, ""); got != "200" && !strings.Contains(query, "a&_method=b") && !strings.Contains(query, "%zz") && !strings.Contains(query, "%C3") {
			t.Errorf("%s at another path: got %s", query, got)
		}
	}
	for _, query := range []string{"_method=PUT", "_method", "_method=", "method=DELETE", "a_method=DELETE", "_methods=DELETE", "x=_method=DELETE", "_method=POST&_method=post"} {
		if got := ask("POST /things/1?"+query, ""); got != "200" {
			t.Errorf("%s: got %s", query, got)
		}
	}
	if got := ask("purge /things/1", ""); got != "400" { // some applications write all methods in capitals
		t.Errorf("purge: got %s", got)
	}
	unnamed := newWorld(t, upstream(app.url), withRules("- {name: things, paths: [/things/**], user: [authenticated]}"))
	if got := status(unnamed.raw("POST /things/1?_method=DELETE HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Method-Override: PURGE\r\nContent-Length: 0\r\nAuthorization: " + authorized + "\r\n\r\n")); got != "200" {
		t.Errorf("no rule names methods: got %s", got)
	}
}

// HTTP-15, HTTP-29: a preflight that is no preflight to the application does not
// pass as one.
func TestPreflightOverride(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), withRules("- {name: preflight, preflight: true, user: [anyone]}", "- {name: others, user: [authenticated]}"))
	ask := func(line, fields string) string {
		return status(w.raw(line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: https://o.example\r\nAccess-Control-Request-Method: PUT\r\n" + fields + "\r\n"))
	}
	for line, want := range map[string]string{"OPTIONS /x": "200", "GET /x": "401", "OPTIONS /x?_method=DELETE": "400", "OPTIONS /x?_method=options": "200"} {
		if got := ask(line, ""); got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
	if got := ask("OPTIONS /x", "X-HTTP-Method-Override: DELETE\r\n"); got != "400" {
		t.Errorf("by a field: got %s", got)
	}
}

// HTTP-29, HTTP-28: what is decided again after a change is decided with all that
// was asked, also on a connection that only waits.
func TestReadingsAreDecidedAgain(t *testing.T) {
	for line, fields := range map[string]string{
		"POST /things?_method=DELETE": "",
		"POST /things/":               "X-HTTP-Method-Override: DELETE\r\n",
		"GET /Admin":                  "",
		"GET /x;/..admin//y":          "",
		"GET /x%2Fadmin":              "",
	} {
		text := "version: 1\nrules: [{name: others, user: [authenticated]}]\n"
		store := &policy.Store{File: "p", Read: func() ([]byte, error) { return []byte(text), nil }, Log: slog.New(slog.DiscardHandler),
			Surroundings: policy.Surroundings{Gates: []policy.GateKind{{Name: "main"}}, Methods: []string{policy.LocalMethod}}}
		_, err := store.Load(t.Context())
		must(t, err)
		w := newWorld(t, upstream(echo(t).URL), func(g *tlsproxy.Gate) { g.Decider = store })
		c := w.config(nil)
		c.NextProtos = []string{"http/1.1"}
		conn := w.dial(c)
		_, err = io.WriteString(conn, line+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nAuthorization: "+authorized+"\r\n"+fields+"\r\n")
		must(t, err)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		must(t, err)
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d, %v", line, res.StatusCode, err)
		}
		text = "version: 1\nrules:\n- {name: things, paths: [/things/**], methods: [DELETE], user: [user:root]}\n" +
			"- {name: admin, paths: [/admin, /x/admin, '/x/..admin/**'], user: [user:root]}\n- {name: others, user: [authenticated]}\n"
		_, err = store.Load(t.Context())
		must(t, err)
		if _, err := in.ReadByte(); err == nil {
			t.Errorf("%s: data after the change", line)
		}
		w.log.Wait(t, `"reason":"ambiguous_target"`)
	}
}
