package tlsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"sidegate/policy"
	"sidegate/tlsproxy"
)

func clientField(f tlsproxy.ClientField) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) { g.ClientField = f }
}

// rulesOf is a change of a gate: a policy file.
func rulesOf(t *testing.T, text string) func(*tlsproxy.Gate) {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(text), policy.Surroundings{Gates: []policy.GateKind{{Name: "main"}}, Methods: []string{policy.LocalMethod}})
	must(t, err)
	return func(g *tlsproxy.Gate) { g.Decider = p }
}

// HDR-16: a rule for the inside network holds for whom the proxy names, and an
// unknown client is outside of every network and under each deny.
func TestNetworksBehindProxy(t *testing.T) {
	app := newRecorder(t)
	rules := `version: 1
rules:
- {name: denied, deny: true, paths: [/denied], networks: [192.0.2.0/24]}
- {name: inside, networks: [127.0.0.0/8, "::ffff:10.0.0.0/104"], user: [anyone]}
- {name: rest, user: [authenticated]}
`
	w := newWorld(t, upstream(app.url), trusting("127.0.0.0/8"), rulesOf(t, rules))
	for i, c := range []struct{ path, fields, want, client string }{
		{"/", "", "200", ""}, // of the proxy itself
		{"/", "X-Forwarded-For: 10.1.2.3\r\n", "200", "10.1.2.3"},
		{"/", "X-Forwarded-For: ::ffff:10.1.2.3\r\n", "200", "10.1.2.3"},
		{"/", "X-Forwarded-For: 10.1.2.3, 203.0.113.9\r\n", "401", "203.0.113.9"}, // the left-most is the client's own word
		{"/", "X-Forwarded-For: 203.0.113.9:1234\r\n", "401", "203.0.113.9"},
		{"/", "X-Forwarded-For: 203.0.113.9,\r\n", "401", "203.0.113.9"},
		{"/", "X-Forwarded-For: \"[2001:db8::1]:4711\"\r\n", "401", "2001:db8::1"},
		{"/", "X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-For: unknown\r\n", "401", "unknown"},
		{"/", "Forwarded: for=203.0.113.9\r\n", "401", "203.0.113.9"},
		{"/", "Forwarded: for=10.1.2.3\r\n", "200", "10.1.2.3"},
		{"/", "Forwarded: for=10.1.2.3\r\nX-Forwarded-For: 203.0.113.9\r\n", "401", "unknown"},
		{"/", "X-Forwarded-For:\r\n", "401", "unknown"},
		{"/denied", "X-Forwarded-For: 10.1.2.3\r\n", "200", "10.1.2.3"},
		{"/denied", "X-Forwarded-For: _hidden\r\n", "403", "unknown"},
		{"/denied", "X-Forwarded-For: 192.0.2.7:80\r\n", "403", "192.0.2.7"},
	} {
		id := fmt.Sprint("request-", i)
		got := w.raw("GET " + c.path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: " + id + "\r\n" + c.fields + "\r\n")
		if status(got) != c.want {
			t.Errorf("%s with %q: status %s, want %s", c.path, c.fields, status(got), c.want)
		}
		w.log.Wait(t, `"request_id":"`+id+`"`)
		if line := lineWith(w.log.String(), `"request_id":"`+id+`"`); !strings.Contains(line, `"client":"`+c.client+`"`) && (c.client != "" || strings.Contains(line, `"client"`)) {
			t.Errorf("%q: want client %q in %s", c.fields, c.client, line)
		}
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// HDR-05, HDR-16, HDR-17: the application hears of the client that rules and log know.
func TestApplicationSeesTheSameClient(t *testing.T) {
	app := newRecorder(t)
	for _, c := range []struct {
		name, fields string
		field        tlsproxy.ClientField
		want         map[string]string
	}{
		{"unknown", "X-Forwarded-For: 203.0.113.9, unknown\r\nX-Real-IP: 10.1.1.1\r\nTrue-Client-IP: 10.1.1.1\r\n", "",
			map[string]string{"X-Forwarded-For": "203.0.113.9, unknown, 127.0.0.1", "X-Real-Ip": "", "True-Client-Ip": ""}},
		{"the last address that no trusted proxy is", "X-Forwarded-For: 10.1.1.1\r\nX-Forwarded-For: 127.0.0.1, 203.0.113.9,127.0.0.9\r\n", "",
			map[string]string{"X-Forwarded-For": "10.1.1.1, 127.0.0.1, 203.0.113.9,127.0.0.9, 127.0.0.1", "X-Real-Ip": "203.0.113.9"}},
		{"proxies all the way", "X-Forwarded-For: 127.0.0.8, 127.0.0.9\r\n", "", map[string]string{"X-Real-Ip": "127.0.0.8"}},
		{"Forwarded alone", "Forwarded: for=203.0.113.9;proto=http;host=\"web.example:8080\"\r\n", "",
			map[string]string{"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Real-Ip": "203.0.113.9", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "web.example:8080",
				"X-Forwarded-Port": "8080", "Forwarded": "for=203.0.113.9;proto=http;host=\"web.example:8080\", for=127.0.0.1;proto=https"}},
		{"Forwarded alone, unknown", "Forwarded: for=_x\r\n", "", map[string]string{"X-Forwarded-For": "unknown, 127.0.0.1", "X-Real-Ip": ""}},
		{"both, and they differ", "Forwarded: for=10.1.1.1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 10.1.1.1\r\n", "",
			map[string]string{"X-Forwarded-For": "unknown, 127.0.0.1", "X-Real-Ip": "", "Forwarded": ""}},
		{"Forwarded is the client's", "Forwarded: for=10.1.1.1;host=evil.example;proto=http\r\nX-Forwarded-For: 203.0.113.9\r\n", tlsproxy.XForwardedFor,
			map[string]string{"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Real-Ip": "203.0.113.9", "Forwarded": "", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"}},
		{"X-Forwarded-For is the client's", "Forwarded: for=203.0.113.9\r\nX-Forwarded-For: 10.1.1.1\r\n", tlsproxy.Forwarded,
			map[string]string{"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "Forwarded": "for=203.0.113.9, for=127.0.0.1;proto=https"}},
		{"other fields that name the client", "X-Forwarded-For: 203.0.113.9\r\nCF-Connecting-IP: 203.0.113.9\r\nX-Azure-ClientIP: 203.0.113.9:99\r\nTrue-Client-IP: 10.1.1.1\r\nFastly-Client-IP: 10.1.1.1\r\n", "",
			map[string]string{"Cf-Connecting-Ip": "203.0.113.9", "X-Azure-Clientip": "203.0.113.9:99", "True-Client-Ip": "", "Fastly-Client-Ip": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, upstream(app.url), allow("anyone"), trusting("127.0.0.0/8"), clientField(c.field))
			h := w.seen(app, c.fields)
			for field, want := range c.want {
				if got := strings.Join(h[field], "|"); got != want {
					t.Errorf("%s: got %q, want %q", field, got, want)
				}
			}
		})
	}
}

// HDR-17: port and scheme are what the client used: a trusted proxy's word, else
// Host's port, else the default of the scheme; never the port of the gate.
func TestForwardedPortAndProto(t *testing.T) {
	app := newRecorder(t)
	gates := map[string]*world{
		"stranger":  newWorld(t, upstream(app.url), allow("anyone")),
		"proxy":     newWorld(t, upstream(app.url), allow("anyone"), trusting("127.0.0.0/8")),
		"plaintext": newWorld(t, upstream(app.url), allow("anyone"), plaintext),
		"edge":      newWorld(t, upstream(app.url), allow("anyone"), plaintext, trusting("127.0.0.0/8")),
	}
	for _, c := range []struct{ gate, host, fields, proto, port string }{
		{"stranger", "web.example", "", "https", "443"},
		{"stranger", "web.example:8443", "", "https", "8443"},
		{"stranger", "web.example:443", "", "https", "443"},
		{"stranger", "web.example:", "", "https", "443"},
		{"stranger", "web.example:08443", "", "https", "8443"},
		{"stranger", "web.example:0", "", "https", "443"},
		{"stranger", "[2001:db8::1]", "", "https", "443"},
		{"stranger", "[2001:db8::1]:8443", "", "https", "8443"},
		{"stranger", "web.example", "X-Forwarded-Port: 1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:2\r\nForwarded: for=10.0.0.1;proto=http;host=\"a:3\"\r\n", "https", "443"},
		{"plaintext", "web.example", "", "http", "80"},
		{"plaintext", "web.example:8081", "", "http", "8081"},
		{"plaintext", "web.example", "X-Forwarded-Proto: https\r\n", "http", "80"},
		{"proxy", "web.example", "X-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\n", "http", "8080"},
		{"proxy", "inner:8443", "X-Forwarded-Port: 443\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Proto: http\r\n", "http", "80"},
		{"proxy", "web.example:8080", "X-Forwarded-Proto: http\r\n", "http", "8080"},
		{"proxy", "inner:8443", "X-Forwarded-Host: web.example:444\r\n", "https", "444"},
		{"proxy", "inner:8443", "X-Forwarded-Host: web.example\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Proto: gopher\r\nX-Forwarded-Port: http\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Port: 0\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Port: 65536\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Port: +80\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Port: 80\r\nX-Forwarded-Port: 81\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Proto: https, http\r\n", "https", "443"},
		{"proxy", "web.example", "X-Forwarded-Proto: http, http\r\n", "http", "80"},
		{"proxy", "web.example", "X-Forwarded-Proto:\r\nX-Forwarded-Port:\r\n", "https", "443"},
		{"proxy", "web.example", "Connection: X-Forwarded-Port, X-Forwarded-Proto\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\n", "http", "8080"},
		{"edge", "web.example", "X-Forwarded-Proto: https\r\n", "https", "443"},
		{"edge", "web.example", "X-Forwarded-Proto: WSS\r\n", "wss", "443"},
		{"edge", "web.example", "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9;proto=https;host=web.example\r\n", "https", "443"},
		{"edge", "web.example", "Forwarded: for=203.0.113.9;proto=https;host=\"web.example:8443\"\r\n", "https", "8443"},
		{"edge", "web.example", "Forwarded: for=203.0.113.9;proto=javascript;host=\"a b\"\r\n", "http", "80"},
	} {
		h := gates[c.gate].told(app, c.host, c.fields)
		if got := strings.Join(h["X-Forwarded-Proto"], "|") + " " + strings.Join(h["X-Forwarded-Port"], "|"); got != c.proto+" "+c.port {
			t.Errorf("%s, Host %s, %q: got %s, want %s %s", c.gate, c.host, c.fields, got, c.proto, c.port)
		}
	}
}

// told is what the application hears of a request for a host.
func (w *world) told(app *recorder, host, fields string) http.Header {
	w.t.Helper()
	request := "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + fields + "\r\n"
	if w.gate.Plaintext {
		if res := w.plain(request); res.StatusCode != http.StatusOK {
			w.t.Fatalf("%q: %s", request, res.Status)
		}
	} else if got := w.raw(request); status(got) != "200" {
		w.t.Fatalf("%q: %s", request, got)
	}
	return app.head(w.t)
}

// HDR-16: guesses of unknown clients count for the proxy by which they came.
func TestGuessesOfUnknownClients(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), plaintext, trusting("127.0.0.0/8"))
	guess := func(proxy string) int {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(proxy)}}
		c, err := d.DialContext(t.Context(), "tcp", w.addr)
		must(t, err)
		defer c.Close()
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: unknown\r\nAuthorization: Basic YWRtaW46bm8=\r\nConnection: close\r\n\r\n")
		must(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		defer res.Body.Close()
		return res.StatusCode
	}
	for got := 0; got != http.StatusTooManyRequests; {
		if got = guess("127.0.0.1"); got != http.StatusUnauthorized && got != http.StatusTooManyRequests {
			t.Fatalf("status %d", got)
		}
	}
	if got := guess("127.0.0.2"); got != http.StatusUnauthorized {
		t.Errorf("by another proxy: status %d, want 401", got)
	}
}
