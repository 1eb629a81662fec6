package tlsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

func TestRefusals(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), func(g *tlsproxy.Gate) { g.Hosts = []string{"localhost", "*.example.org"} })
	auth := "Authorization: " + authorized + "\r\n"
	cases := []struct{ name, request, want string }{
		{"no credentials", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "401"},
		{"bad credentials", "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\n\r\n", "401"},
		{"PWD-10 two Authorization", "GET / HTTP/1.1\r\nHost: localhost\r\n" + auth + auth + "\r\n", "400"},
		{"HTTP-01", "GET /a/../b HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "400"},
		{"HTTP-01 encoded", "GET /a/%2e%2e/b HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "400"},
		{"HTTP-03", "GET /a%00 HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "400"},
		{"HTTP-06", "GET /a#b HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "400"},
		{"HTTP-08 probe-like agent", "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: kube-probe/1.34\r\n\r\n", "401"},
		{"HTTP-13 TRACE", "TRACE / HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "405"},
		{"HTTP-13 a method in lower case", "trace / HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "405"},
		{"HTTP-13 CONNECT", "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "405"},
		{"HTTP-14 OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "401"},
		{"HTTP-16 absolute-form", "GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n" + auth + "\r\n", "400"},
		{"HTTP-19 two Content-Length", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + auth + "\r\nab", "400"},
		{"HTTP-19 two Host", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n" + auth + "\r\n", "400"},
		{"HTTP-19 unknown Transfer-Encoding", "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n" + auth + "\r\n", "501"},
		{"HTTP-19 space before the colon", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A : b\r\n" + auth + "\r\n", "400"},
		{"HTTP-19 no token", "GET / HTTP/1.1\r\nHost: localhost\r\nX(A): b\r\n" + auth + "\r\n", "400"},
		{"421", "GET / HTTP/1.1\r\nHost: other.example\r\n" + auth + "\r\n", "421"},
		{"421 two labels", "GET / HTTP/1.1\r\nHost: a.b.example.org\r\n" + auth + "\r\n", "421"},
		{"421 the parent", "GET / HTTP/1.1\r\nHost: example.org\r\n" + auth + "\r\n", "421"},
		{"OPS-06 a megabyte of headers", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", "431"},
		{"OPS-09 pprof", "GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "401"},
		{"OPS-09 metrics", "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", "401"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := w.raw(c.request); status(got) != c.want {
				t.Errorf("got %s\n%s", got, w.log)
			}
		})
	}
	if n := app.connections(); n != 0 { // HTTP-24
		t.Errorf("the application saw %d connections", n)
	}
	for _, host := range []string{"localhost", "LOCALHOST", "localhost.", "localhost:1234", "a.example.org"} { // HTTP-11
		if got := w.raw("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + auth + "\r\n"); status(got) != "200" {
			t.Errorf("host %s: %s", host, got)
		}
	}
}

// HTTP-24, HTTP-25, HDR-13: what a refusal looks like.
func TestDenialBody(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url))
	for _, proto := range []string{"http/1.1", "h2"} {
		r := w.request("POST", "/", strings.NewReader("body"))
		r.Header.Del("Authorization")
		res := w.do(w.client(w.config(nil), proto), r)
		body := text(t, res)
		id := res.Header.Get("X-Request-Id")
		if res.StatusCode != 401 || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Www-Authenticate") == "" ||
			body != "401 Unauthorized\nrequest id: "+id+"\n" {
			t.Errorf("%s: %d %v\n%s", proto, res.StatusCode, res.Header, body)
		}
		w.log.Wait(t, id)
	}
	r := w.request("GET", "/", nil)
	r.Header.Set("Authorization", "Basic x")
	r.Header.Set("Accept", "application/json")
	if res := w.do(w.client(w.config(nil), "h2"), r); res.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(text(t, res), `"status":401`) {
		t.Errorf("JSON: %v", res.Header)
	}
	if strings.Contains(w.log.String(), "Basic x") { // OPS-08
		t.Errorf("a credential is in the log:\n%s", w.log)
	}
}

// HTTP-07: fields and parameters that name another target or method change
// neither what is decided nor what is forwarded (where rules name methods, see
// TestMethodOverride).
func TestTargetIsTheRealOne(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url))
	const fields = "X-Forwarded-Uri: /open\r\nX-Original-URI: /open\r\nX-Original-URL: /open\r\nX-Rewrite-URL: /open\r\nX-Forwarded-Method: GET\r\n"
	if got := w.raw("POST /closed?_method=GET&allowed_groups=x HTTP/1.1\r\nHost: localhost\r\n" + fields + "Content-Length: 0\r\n\r\n"); status(got) != "401" {
		t.Errorf("without credentials: %s", got)
	}
	got := w.raw("POST /closed?_method=GET&allowed_groups=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + "Content-Length: 0\r\nAuthorization: " + authorized + "\r\n\r\n")
	if head := app.last(); status(got) != "200" || !strings.HasPrefix(head, "POST /closed?_method=GET&allowed_groups=x HTTP/1.1\r\n") || strings.Contains(head, "/open") {
		t.Errorf("%s\n%s", got, head)
	}
}

// HTTP-04, LIB-20: path and query arrive byte for byte.
func TestTargetsArriveByteForByte(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url))
	for _, target := range []string{
		`/a|b"c^{x}?a;b=1&z=%zz&c`, "/?x=1;y=2", "/a%2Fb", "/a%2fb%20c?d=%20+e", "/a//b/", "/a?", "/?", "/a?b?c", "/~a!$&'()*,:@=", "//a/b?c", "/%C3%A9", `//a|b"c`, "//", "//a:b@c/%2f", "///",
	} {
		got := w.raw("GET " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + authorized + "\r\n\r\n")
		line, _, _ := strings.Cut(app.last(), "\r\n")
		if status(got) != "200" || line != "GET "+target+" HTTP/1.1" {
			t.Errorf("%q arrived as %q (%s)", target, line, status(got))
		}
	}
	if strings.Contains(app.last(), "Accept-Encoding") || strings.Contains(app.last(), "User-Agent") {
		t.Errorf("fields were added:\n%s", app.last())
	}
	w.log.Wait(t, `"path":"/a|b\"c^{x}"`)
	if strings.Contains(w.log.String(), "zz") { // OPS-08: never the query
		t.Errorf("a query is in the log:\n%s", w.log)
	}
}

// HTTP-18, HTTP-20: what net/http lets in arrives in one unambiguous form.
func TestFraming(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url))
	w.raw("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nAuthorization: " + authorized + "\r\n\r\n1\r\na\r\n0\r\n\r\n")
	if head := app.last(); strings.Contains(head, "Content-Length") || strings.Count(head, "Transfer-Encoding: chunked") != 1 {
		t.Errorf("HTTP-18: the application saw\n%s", head)
	}
	w.raw("GET / HTTP/1.1\nHost: localhost\nX-Folded: a\r\n b\r\nConnection: close\r\nAuthorization: " + authorized + "\r\n\r\n")
	if head := app.last(); !strings.Contains(head, "X-Folded: a b\r\n") || strings.Count(head, "\n") != strings.Count(head, "\r\n") {
		t.Errorf("HTTP-20: the application saw\n%q", head)
	}
}

// HTTP-17: HTTP/2 with another host than :authority.
func TestAuthorityAndHost(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url))
	res := w.h2Request(t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}, {"host", "other.example"}, {"authorization", authorized}})
	if res != "400" {
		t.Errorf("got %s, want 400", res)
	}
	if app.connections() != 0 {
		t.Errorf("forwarded:\n%s", app.last())
	}
	if res := w.h2Request(t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}, {"host", "localhost"}, {"authorization", authorized}}); res != "200" {
		t.Errorf("the same host twice: %s", res)
	}
	// HTTP-13: extended CONNECT is not offered and not taken.
	if res := w.h2Request(t, [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}, {"authorization", authorized}}); res == "200" {
		t.Error("extended CONNECT was answered")
	}
}

// OPS-15: an answer that comes before the upload is read.
func TestEarlyAnswer(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "no thanks")
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, upstream(app.URL))
	for _, proto := range []string{"http/1.1", "h2"} {
		endless, stop := io.Pipe()
		go func() {
			for _, err := stop.Write(make([]byte, 1<<16)); err == nil; _, err = stop.Write(make([]byte, 1<<16)) {
			}
		}()
		res := w.do(w.client(w.config(nil), proto), w.request("POST", "/", endless))
		if res.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %d", proto, res.StatusCode)
		}
		_ = endless.Close()
	}
}

func TestStreaming(t *testing.T) {
	next := make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Trailer", "X-Sum")
		w.(http.Flusher).Flush()
		for range next {
			_, _ = io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
		w.Header().Set("X-Sum", "42")
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, upstream(app.URL))
	res := w.do(w.client(w.config(nil), "h2"), w.request("GET", "/", nil))
	buf := make([]byte, 9)
	for range 3 { // each event is here before the next is sent
		next <- true
		if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "data: x\n\n" {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	close(next)
	if rest := text(t, res); rest != "" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("rest %q, trailer %v", rest, res.Trailer)
	}
}

// Bodies of any size pass unchanged; 100-continue and 103 reach the client.
func TestBodies(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v %s", n, h.Sum(nil), err, r.Trailer.Get("X-Checksum"))
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, upstream(app.URL))
	body := make([]byte, 8<<20)
	_, _ = rand.Read(body)
	want := fmt.Sprintf("%d %x <nil> abc", len(body), sha256.Sum256(body))
	for _, proto := range []string{"http/1.1", "h2"} {
		r := w.request("POST", "/", io.MultiReader(bytes.NewReader(body)))
		r.Header.Set("Expect", "100-continue")
		r.Trailer = http.Header{"X-Checksum": {"abc"}, "X-Forwarded-User": {"root"}}
		var hints []int
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hints = append(hints, code); return nil },
		}))
		if got := text(t, w.do(w.client(w.config(nil), proto), r)); got != want {
			t.Errorf("%s: got %s, want %s", proto, got, want)
		}
		if !strings.Contains(fmt.Sprint(hints), "103") {
			t.Errorf("%s: 1xx answers %v, want 103 among them", proto, hints)
		}
	}
}

// A truncated answer never looks complete.
func TestTruncatedAnswer(t *testing.T) {
	app := certstest.Listen(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		_ = c.Close()
	})
	w := newWorld(t, upstream("http://"+app))
	for _, proto := range []string{"http/1.1", "h2"} {
		res, err := w.client(w.config(nil), proto).Do(w.request("GET", "/", nil))
		if err == nil {
			if _, err = io.ReadAll(res.Body); err == nil {
				t.Errorf("%s: a truncated answer looks complete", proto)
			}
			_ = res.Body.Close()
		}
	}
}

// The application is down, slow, back: 502 at once, 504, 200.
func TestUpstreamTroubles(t *testing.T) {
	addr := freeAddr(t)
	w := newWorldIn(t, tlsproxy.Limits{UpstreamHeader: 2 * time.Second}, upstream("http://"+addr))
	if res := w.get("/"); res.StatusCode != 502 {
		t.Errorf("down: %d", res.StatusCode)
	}
	w.log.Wait(t, `"reason":"upstream_down"`)
	l, err := net.Listen("tcp", addr)
	must(t, err)
	slow := make(chan bool)
	app := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-slow
		}
	})}
	go func() { _ = app.Serve(l) }()
	t.Cleanup(func() { _ = app.Close() })
	if res := w.get("/"); res.StatusCode != 200 {
		t.Errorf("back: %d", res.StatusCode)
	}
	if res := w.get("/slow"); res.StatusCode != 504 { // OPS-14
		t.Errorf("slow: %d", res.StatusCode)
	}
	close(slow)
}

// TCP-07: an upstream beyond loopback is refused at every dial.
func TestUpstreamBeyondLoopback(t *testing.T) {
	w := newWorld(t, upstream("http://192.0.2.1:80"))
	if res := w.get("/"); res.StatusCode != 502 {
		t.Errorf("got %d", res.StatusCode)
	}
	w.log.Wait(t, "not loopback")
	if err := tlsproxy.CheckUpstream(t.Context(), w.gate.Upstream); err == nil {
		t.Error("CheckUpstream has nothing against it")
	}
	w.gate.Upstream.InsecureUpstream = true
	if err := tlsproxy.CheckUpstream(t.Context(), w.gate.Upstream); err != nil {
		t.Errorf("allowed on purpose: %v", err)
	}
}

// TCP-08: proxies from the environment are not used.
func TestNoProxyFromEnvironment(t *testing.T) {
	proxy := newRecorder(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"} {
		t.Setenv(name, proxy.url)
	}
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url))
	if res := w.get("/"); res.StatusCode != 200 || proxy.connections() != 0 || !strings.HasPrefix(app.last(), "GET / HTTP/1.1\r\n") {
		t.Errorf("status %d, %d connections to the proxy, the application saw\n%s", res.StatusCode, proxy.connections(), app.last())
	}
}

// HTTP-21, HTTP-22: upgrades with any spelling, and never h2c.
func TestUpgrades(t *testing.T) {
	app := upgrader(t)
	w := newWorld(t, upstream(app))
	for _, fields := range []string{"Connection: Upgrade\r\nUpgrade: websocket", "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket", "connection: upgrade\r\nupgrade: custom/1"} {
		c := w.config(nil)
		c.NextProtos = []string{"http/1.1"}
		conn := w.dial(c)
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n%s\r\n\r\n", authorized, fields)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%s: %v %v", fields, res, err)
			continue
		}
		fmt.Fprint(conn, "ping\n")
		if line, err := in.ReadString('\n'); err != nil || line != "ping\n" {
			t.Errorf("%s: echo %q, %v", fields, line, err)
		}
	}
	got := w.raw("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nAuthorization: " + authorized + "\r\n\r\n")
	if status(got) != "200" || !strings.Contains(got, "plain") {
		t.Errorf("h2c: %s", got)
	}
}

// upgrader is an application that echoes what comes after an upgrade.
func upgrader(t *testing.T) string {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocol := r.Header.Get("Upgrade")
		if protocol == "" {
			_, _ = io.WriteString(w, "plain")
			return
		}
		c, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
		_, _ = io.Copy(c, buf)
	}))
	t.Cleanup(app.Close)
	return app.URL
}

// Drain: a request in flight ends, an upgraded connection is waited for.
func TestDrain(t *testing.T) {
	begun, finish := make(chan bool), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- true
		<-finish
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, upstream(app.URL))
	answer := make(chan string)
	go func() { answer <- text(t, w.get("/")) }()
	<-begun
	w.stop()
	for { // the listener is closed at once
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(finish)
	if got := <-answer; got != "done" {
		t.Errorf("the request in flight got %q", got)
	}
}

// While it leaves, the listener takes clients and sends them away after one
// answer; then it is closed.
func TestDrainDelay(t *testing.T) {
	w := newWorld(t, upstream(echo(t).URL))
	h2 := w.client(w.config(nil), "h2")
	text(t, w.do(h2, w.request("GET", "/", nil)))
	drained := make(chan bool)
	go func() { w.proxy.Drain(t.Context()); close(drained) }()
	for !w.proxy.Draining() {
		time.Sleep(time.Millisecond)
	}
	if res := w.get("/"); res.StatusCode != 200 || !res.Close {
		t.Errorf("HTTP/1.1 while leaving: %d, close %t", res.StatusCode, res.Close)
	}
	var reused bool
	for range 2 {
		r := w.request("GET", "/", nil)
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}))
		text(t, w.do(h2, r))
	}
	if reused {
		t.Error("HTTP/2 goes on by a connection that was told to go away")
	}
	w.proxy.Hurry()
	<-drained
	if c, err := net.Dial("tcp", w.addr); err == nil {
		_ = c.Close()
		t.Error("the listener is open after the drain")
	}
}

// OPS-07 in small: a WebSocket that nobody ends is cut at the deadline.
func TestDrainCutsUpgraded(t *testing.T) {
	w := newWorld(t, upstream(upgrader(t)))
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", authorized)
	in := bufio.NewReader(conn)
	_, err := http.ReadResponse(in, nil)
	must(t, err)
	w.stop()
	if _, err := in.ReadByte(); err == nil {
		t.Error("data after the drain")
	}
	w.log.Wait(t, `"upgraded":1`)
}

// A decider or method that fails refuses.
type broken struct{}

func (broken) Authenticate(context.Context, *policy.Request) (*policy.Login, error) {
	return nil, fmt.Errorf("directory is down")
}
func (broken) Challenge(*policy.Request, error) []string   { return nil }
func (broken) Recheck(context.Context, *policy.User) error { return nil }
func (broken) Changed() <-chan struct{}                    { return nil }

func TestDependencyDown(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"), func(g *tlsproxy.Gate) { g.Authenticators = []tlsproxy.Authenticator{broken{}} })
	if res := w.get("/"); res.StatusCode != 503 || app.connections() != 0 {
		t.Errorf("status %d, %d connections to the application", res.StatusCode, app.connections())
	}
}
