package tlsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

func plaintext(g *tlsproxy.Gate) { g.Plaintext, g.Certificates, g.Trust = true, nil, nil }

// plain makes one request without TLS.
func (w *world) plain(request string) *http.Response {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	must(w.t, c.SetDeadline(time.Now().Add(certstest.HangGuard)))
	_, err = io.WriteString(c, request)
	must(w.t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(w.t, err)
	return res
}

// A gate without TLS decides and strips like any other, and says what it is.
func TestPlaintextGate(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), plaintext)
	if res := w.plain("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); res.StatusCode != http.StatusUnauthorized || app.connections() != 0 {
		t.Errorf("without credentials: %d", res.StatusCode)
	}
	res := w.plain("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-User: root\r\nX-Forwarded-Proto: https\r\nAuthorization: " + authorized + "\r\n\r\n")
	if head := app.last(); res.StatusCode != http.StatusOK || !strings.Contains(head, "X-Forwarded-User: admin\r\n") || !strings.Contains(head, "X-Forwarded-Proto: http\r\n") {
		t.Errorf("%d\n%s", res.StatusCode, head)
	}
	w.log.Wait(t, "gate without TLS")
	w.counted(`sidegate_connections{gate="main"}`)
}

func TestRedirectGate(t *testing.T) {
	redirect := func(port int) func(*tlsproxy.Gate) {
		return func(g *tlsproxy.Gate) {
			plaintext(g)
			g.Upstream = tlsproxy.Upstream{RedirectPort: port}
			g.Hosts = []string{"a.example", "::1"}
		}
	}
	for _, c := range []struct {
		port                     int
		method, host, path, want string
	}{
		{443, "GET", "a.example", "/x?y=z", "https://a.example/x?y=z"},
		{443, "POST", "a.example:8080", "/", "https://a.example/"},
		{8443, "GET", "a.example", "/", "https://a.example:8443/"},
		{443, "GET", "[::1]:80", "/", "https://[::1]/"},
		{443, "GET", "a.example", "//evil.example/", "https://a.example//evil.example/"},
		{443, "GET", "other.example", "/", "421"},
		{443, "GET", "a.example", "/../x", "400"},
	} {
		w := newWorld(t, redirect(c.port))
		res := w.plain(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", c.method, c.path, c.host))
		got := res.Header.Get("Location")
		if got == "" {
			got = fmt.Sprint(res.StatusCode)
		} else if res.StatusCode != http.StatusPermanentRedirect {
			t.Errorf("%v: status %d", c, res.StatusCode)
		}
		if got != c.want {
			t.Errorf("%v: got %s", c, got)
		}
	}
}
