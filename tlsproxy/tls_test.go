package tlsproxy_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// roundTrip makes a connection and one request on it, and returns the state
// after the answer, since a TLS 1.3 client learns a refusal at its first read.
func (w *world) roundTrip(c *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", w.addr, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(certstest.HangGuard))
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nConnection: close\r\n\r\n", authorized); err != nil {
		return tls.ConnectionState{}, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return conn.ConnectionState(), fmt.Errorf("status %d", res.StatusCode)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return conn.ConnectionState(), err
}

func TestClientCertificates(t *testing.T) {
	app := newRecorder(t)
	cases := []struct {
		name  string
		mode  tlsproxy.ClientCert
		allow string
		pair  func(w *world) *certstest.Pair
		want  bool
	}{
		{"TLS-04 optional and none", tlsproxy.ClientCertOptional, "authenticated", nil, true},
		{"optional and good", tlsproxy.ClientCertOptional, "spiffe://td.example/a", good, true},
		{"TLS-05 optional and bad", tlsproxy.ClientCertOptional, "anyone", bad, false},
		{"required and good", tlsproxy.ClientCertRequire, "any-peer", good, true},
		{"required and none", tlsproxy.ClientCertRequire, "anyone", nil, false},
		{"TLS-17 required and bad", tlsproxy.ClientCertRequire, "anyone", bad, false},
		{"none asked, one offered", tlsproxy.ClientCertNone, "authenticated", bad, true},
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range cases {
			t.Run(tls.VersionName(version)+" "+c.name, func(t *testing.T) {
				w := newWorld(t, upstream(app.url), clientCert(c.mode), allow(c.allow))
				var pair *certstest.Pair
				if c.pair != nil {
					pair = c.pair(w)
				}
				conf := w.config(pair)
				if pair != nil { // offer it whatever the server asks for
					conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.TLS, nil }
				}
				conf.MaxVersion = version
				before := app.connections()
				_, err := w.roundTrip(conf)
				if (err == nil) != c.want {
					t.Errorf("got %v, want success %t", err, c.want)
				}
				if !c.want {
					if app.connections() != before { // TLS-17
						t.Error("the application saw a connection")
					}
					w.log.Wait(t, `"msg":"handshake refused"`)
				}
			})
		}
	}
}

func good(w *world) *certstest.Pair {
	p := w.ca.Client(w.t, "a", "spiffe://td.example/a")
	return &p
}

func bad(w *world) *certstest.Pair {
	p := certstest.NewCA(w.t, "stranger").Client(w.t, "a", "spiffe://td.example/a")
	return &p
}

// session is a client that has a session which it resumes.
func (w *world) session(version uint16, pair *certstest.Pair) *tls.Config {
	w.t.Helper()
	c := w.config(pair)
	c.MaxVersion = version
	if pair != nil { // whatever CAs the server names
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.TLS, nil }
	}
	c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for i, want := range []bool{false, true} {
		state, err := w.roundTrip(c)
		if err != nil || state.DidResume != want {
			w.t.Fatalf("connection %d: resumed %t (%v), want %t", i, state.DidResume, err, want)
		}
	}
	return c
}

// TLS-01, TLS-02, TLS-19, LIB-21: a ticket outlives nothing.
func TestResumption(t *testing.T) {
	app := newRecorder(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		name := tls.VersionName(version)
		session := func(w *world, pair *certstest.Pair) *tls.Config { return w.session(version, pair) }
		t.Run(name+" TLS-02 CA removed", func(t *testing.T) {
			w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
			c := session(w, good(w))
			next := certstest.NewCA(t, "next")
			w.update(certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), next))
			if _, err := w.roundTrip(c); err == nil {
				t.Error("a client of the removed CA resumed its session")
			}
			w.log.Wait(t, `"reason":"peer_untrusted"`)
		})
		t.Run(name+" TLS-02 revoked", func(t *testing.T) {
			w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
			pair := good(w)
			c := session(w, pair)
			content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
			content["crl.pem"] = w.ca.CRL(t, time.Now().Add(time.Hour), pair.Leaf)
			w.update(content)
			if _, err := w.roundTrip(c); err == nil {
				t.Error("a revoked client resumed its session")
			}
			w.log.Wait(t, `"reason":"peer_revoked"`)
		})
		t.Run(name+" TLS-03 another generation means a full handshake", func(t *testing.T) {
			w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
			c := session(w, good(w))
			content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
			content["ca.crt"] = certstest.Join(w.ca.PEM(), certstest.NewCA(t, "one more").PEM())
			w.update(content)
			if state, err := w.roundTrip(c); err != nil || state.DidResume {
				t.Errorf("resumed %t, %v; want a full handshake", state.DidResume, err)
			}
		})
		t.Run(name+" TLS-34 a new certificate of our own changes nothing", func(t *testing.T) {
			trust := &counting{}
			w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), trust.count)
			c, idle := session(w, good(w)), w.holdIdle(good(w), "h2")
			certstest.Until(t, "it is live", func() bool { return w.proxy.Status()[0].Connections == 1 && trust.verified.Load() == 6 })
			before := trust.verified.Load()
			w.update(certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca))
			if state, err := w.roundTrip(c); err != nil || !state.DidResume {
				t.Errorf("resumed %t, %v", state.DidResume, err)
			}
			if got := trust.verified.Load() - before; got > 2 {
				t.Errorf("%d verifications, want those of the one handshake", got)
			}
			mustGoOn(t, idle)
		})
		t.Run(name+" TLS-03 another gate means a full handshake", func(t *testing.T) {
			w := newWorld(t, upstream(app.url), allow("anyone"))
			c := session(w, nil)
			other := newWorld(t, upstream(app.url), allow("anyone"))
			c.RootCAs = other.ca.Pool()
			if state, err := other.roundTrip(c); err != nil || state.DidResume {
				t.Errorf("resumed %t, %v; want a full handshake", state.DidResume, err)
			}
		})
	}
}

// ROT-12: the next handshake has the new certificate, over both protocols.
func TestRotation(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url))
	for range 3 {
		next := w.ca.Server(t, "localhost", "127.0.0.1")
		w.update(certstest.Secret(next, w.ca))
		for _, proto := range []string{"h2", "http/1.1"} {
			c := w.config(nil)
			c.NextProtos = []string{proto}
			state := w.dial(c).ConnectionState()
			if state.NegotiatedProtocol != proto { // LIB-21: HTTP/2 is there
				t.Errorf("negotiated %q, want %q", state.NegotiatedProtocol, proto)
			}
			if got := state.PeerCertificates[0].SerialNumber; got.Cmp(next.Leaf.SerialNumber) != 0 {
				t.Errorf("%s presents %x, want %x", proto, got, next.Leaf.SerialNumber)
			}
		}
	}
}

// TLS-16: a ClientHello in one-byte pieces is the same ClientHello.
func TestFragmentedHello(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url), allow("anyone"))
	c, err := net.Dial("tcp", w.addr)
	must(t, err)
	conn := tls.Client(slowWriter{c}, w.config(nil))
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		t.Error(err)
	}
}

// slowWriter sends each byte by itself.
type slowWriter struct{ net.Conn }

func (s slowWriter) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := s.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TLS-25: a huge key or a long chain ends the handshake.
func TestHugeChain(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertOptional), allow("anyone"))
	pair := good(w)
	for range 60 {
		pair.TLS.Certificate = append(pair.TLS.Certificate, pair.Leaf.Raw)
	}
	c := w.config(nil)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.TLS, nil }
	if _, err := w.roundTrip(c); err == nil {
		t.Error("a chain of 61 certificates was accepted")
	}
}

// TLS-18: early data is not accepted.
func TestEarlyData(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("TEST_PEERS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"))
	dir := t.TempDir()
	session, early := filepath.Join(dir, "session"), filepath.Join(dir, "early")
	const request = "GET /early HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	must(t, os.WriteFile(early, []byte(request), 0o600))
	client := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"s_client", "-connect", w.addr, "-tls1_3", "-ign_eof"}, args...)...)
		cmd.Stdin = strings.NewReader(strings.Replace(request, "early", "late", 1))
		out, _ := cmd.CombinedOutput() // its exit code tells how the other end closed
		return string(out)
	}
	if out := client("-sess_out", session); !strings.Contains(out, "200 OK") {
		t.Fatalf("no session:\n%s", out)
	}
	out := client("-sess_in", session, "-early_data", early)
	if strings.Contains(out, "Early data was accepted") || strings.Contains(app.last(), "/early") {
		t.Errorf("early data was taken:\n%s", out)
	}
}

// Handshakes that fail are counted by cause; a bare TCP probe leaves no line (OPS-11).
func TestHandshakeReasons(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{Handshake: 3 * time.Second}, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	probe := func(text string) {
		c, err := net.Dial("tcp", w.addr)
		must(t, err)
		_, err = io.WriteString(c, text)
		must(t, err)
		must(t, c.(*net.TCPConn).CloseWrite())
		_, _ = io.Copy(io.Discard, c)
		must(t, c.Close())
	}
	probe("")
	probe("GET / HTTP/1.1\r\n\r\n")
	_, _ = w.roundTrip(w.config(nil))
	distrust := w.config(nil)
	distrust.RootCAs = x509.NewCertPool()
	_, _ = w.roundTrip(distrust)
	slow, err := net.Dial("tcp", w.addr) // a half hello
	must(t, err)
	defer slow.Close()
	_, err = slow.Write([]byte{22, 3, 1})
	must(t, err)
	for _, reason := range []string{"end_before_hello", "not_tls", "peer_missing", "client_alert", "timeout"} {
		w.counted(`sidegate_handshakes_total{gate="main",reason="` + reason + `",result="failed"} 1`)
	}
	if strings.Contains(w.log.String(), "end_before_hello") || strings.Count(w.log.String(), "handshake refused") != 4 {
		t.Errorf("log:\n%s", w.log)
	}
}

// OPS-03: without HTTP/2, ALPN gives http/1.1 alone and a preface is refused.
func TestOnlyHTTP1(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"), func(g *tlsproxy.Gate) { g.OnlyHTTP1 = true })
	c := w.config(nil)
	c.NextProtos = []string{"h2", "http/1.1"}
	if got := w.dial(c).ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("negotiated %q", got)
	}
	c.NextProtos = []string{"h2"}
	if conn, err := tls.Dial("tcp", w.addr, c); err == nil {
		t.Errorf("h2 alone was accepted as %q", conn.ConnectionState().NegotiatedProtocol)
		_ = conn.Close()
	}
	c.NextProtos = nil
	conn := w.dial(c)
	_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	must(t, err)
	if answer, _ := io.ReadAll(conn); strings.HasPrefix(string(answer), "\x00\x00") || app.connections() != 0 {
		t.Errorf("a preface was answered %q", answer)
	}
}

func TestMinVersion(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url), allow("anyone"), func(g *tlsproxy.Gate) { g.MinVersion = tls.VersionTLS13 })
	c := w.config(nil)
	c.MaxVersion = tls.VersionTLS12
	if _, err := tls.Dial("tcp", w.addr, c); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	w = newWorld(t, upstream(newRecorder(t).url), allow("anyone"))
	c = w.config(nil)
	c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := tls.Dial("tcp", w.addr, c); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	// Key exchange that a quantum computer doesn't open, by default.
	if got := w.dial(w.config(nil)).ConnectionState().CurveID; got != tls.X25519MLKEM768 {
		t.Errorf("key exchange by %s", got)
	}
}

// TLS 1.2 is spoken with good ciphers alone, unless the gate says otherwise;
// then a client that has no other still gets HTTP/1.1.
func TestCiphers(t *testing.T) {
	legacy := uint16(tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA)
	old := func(w *world, ciphers ...uint16) *tls.Config {
		c := w.config(nil)
		c.MaxVersion, c.CipherSuites, c.NextProtos = tls.VersionTLS12, ciphers, []string{"h2", "http/1.1"}
		return c
	}
	w := newWorld(t, upstream(echo(t).URL), allow("anyone"))
	if _, err := tls.Dial("tcp", w.addr, old(w, legacy)); err == nil {
		t.Error("CBC was accepted")
	}
	for _, id := range tlsproxy.DefaultCiphers {
		if !strings.Contains(tls.CipherSuiteName(id), "ECDSA") {
			continue // the server's key is one for ECDSA
		}
		state := w.dial(old(w, id)).ConnectionState()
		if state.CipherSuite != id || state.NegotiatedProtocol != "h2" {
			t.Errorf("%s, %s", tls.CipherSuiteName(state.CipherSuite), state.NegotiatedProtocol)
		}
	}
	w = newWorld(t, upstream(echo(t).URL), allow("anyone"), func(g *tlsproxy.Gate) { g.Ciphers = []uint16{legacy} })
	if res, err := w.client(old(w, legacy), "h2").Get("https://" + w.addr); err != nil || res.ProtoMajor != 1 {
		t.Errorf("CBC where it is wanted: %v %v", res, err)
	}
	if _, err := tls.Dial("tcp", w.addr, old(w, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)); err == nil {
		t.Error("a cipher that is not in the list was accepted")
	}
}

// Every answer over TLS carries the gate's field, refusals too, and not the
// application's. A gate without TLS has none.
func TestStrictTransport(t *testing.T) {
	const field = "max-age=31536000; includeSubDomains"
	app := newRecorder(t)
	app.fields = "Strict-Transport-Security: max-age=1\r\n"
	strict := func(g *tlsproxy.Gate) { g.StrictTransport = field }
	w := newWorld(t, upstream(app.url), strict)
	for _, proto := range []string{"http/1.1", "h2"} {
		client, refused := w.client(w.config(nil), proto), w.request("GET", "/", nil)
		refused.Header.Del("Authorization")
		for _, r := range []*http.Request{w.request("GET", "/", nil), refused} {
			if res := w.do(client, r); strings.Join(res.Header["Strict-Transport-Security"], "|") != field {
				t.Errorf("%s, status %d: %q", proto, res.StatusCode, res.Header["Strict-Transport-Security"])
			}
		}
	}
	w = newWorld(t, upstream(newRecorder(t).url), strict, plaintext)
	if res := w.plain("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); res.Header.Get("Strict-Transport-Security") != "" {
		t.Error("sent in plaintext")
	}
}

// OPS-05: half-open handshakes fill their own budget and push each other out;
// established connections and new clients go on.
func TestHalfOpenHandshakes(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{Handshakes: 5, Handshake: time.Hour}, upstream(echo(t).URL), allow("anyone"))
	client := w.client(w.config(nil), "http/1.1")
	text(t, w.do(client, w.request("GET", "/", nil))) // read to its end, so that the connection is kept
	for range 20 {
		c, err := net.Dial("tcp", w.addr)
		must(t, err)
		defer c.Close()
	}
	w.counted(`reason="shed_handshakes",result="failed"} 15`)
	if res := w.do(client, w.request("GET", "/", nil)); res.StatusCode != 200 {
		t.Errorf("an established connection got %d", res.StatusCode)
	}
	if res := w.get("/"); res.StatusCode != 200 {
		t.Errorf("a new client got %d", res.StatusCode)
	}
}

// OPS-04, OPS-05: idle connections, half hellos and header drips, more than may
// shake hands at a time, are reaped by their deadlines, and a normal client is
// served meanwhile. The program has a test with a thousand of each.
func TestSlowClients(t *testing.T) {
	const each = 100
	w := newWorldIn(t, tlsproxy.Limits{Handshakes: 50, Handshake: 3 * time.Second, Header: 3 * time.Second}, upstream(echo(t).URL), allow("anyone"))
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for i := range 3 * each {
		c, err := net.Dial("tcp", w.addr)
		must(t, err)
		conns = append(conns, c)
		switch i % 3 {
		case 1:
			_, _ = c.Write([]byte{22, 3, 1, 2, 0, 1}) // it may have been shed by now
		case 2:
			conf := w.config(nil)
			conf.NextProtos = []string{"http/1.1"}
			s := tls.Client(c, conf)
			if s.Handshake() == nil {
				_, _ = io.WriteString(s, "GET / HTTP/1.1\r\nHost: local")
			}
		}
		if i%50 == 0 {
			if res := w.get("/"); res.StatusCode != 200 {
				t.Fatalf("after %d: %d", i, res.StatusCode)
			}
		}
	}
	if res := w.get("/"); res.StatusCode != 200 {
		t.Errorf("a normal client got %d", res.StatusCode)
	}
	for i, c := range conns { // all are let go
		must(t, c.SetReadDeadline(time.Now().Add(certstest.HangGuard)))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d (kind %d) is still there", i, i%3)
		}
	}
}

// Connections beyond the limit are closed at once and counted.
func TestConnectionLimit(t *testing.T) {
	release := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(app.Close)
	t.Cleanup(func() { close(release) })
	w := newWorldIn(t, tlsproxy.Limits{Connections: 2}, upstream(app.URL), allow("anyone"))
	for range 2 {
		fmt.Fprint(w.dial(w.config(nil)), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	for w.proxy.Status()[0].Requests < 2 {
		time.Sleep(time.Millisecond)
	}
	if _, err := tls.Dial("tcp", w.addr, w.config(nil)); err == nil {
		t.Error("a third connection was accepted")
	}
	w.counted(`reason="shed_connections",result="failed"} 1`)
}
