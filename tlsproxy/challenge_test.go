package tlsproxy_test

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// proves is a change of a gate: a proof of web.example is under way.
func proves(t *testing.T) func(*tlsproxy.Gate) {
	proof := certstest.NewCA(t, "proof").Server(t, "web.example")
	return func(g *tlsproxy.Gate) {
		g.Challenge = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "web.example" {
				return nil, errors.New("none is under way")
			}
			return &proof.TLS, nil
		}
	}
}

// server is how an ACME server looks at a gate (RFC 8737 3).
func server(version uint16, protocols ...string) *tls.Config {
	return &tls.Config{ServerName: "web.example", NextProtos: protocols, InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
}

// A proof is shown before there is any certificate and where client
// certificates are required. Nobody is asked, nothing is forwarded or left for
// a resumption, and the connection ends.
func TestChallenge(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			app := newRecorder(t)
			w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), proves(t),
				func(g *tlsproxy.Gate) { g.Certificates = &certs.Store{} })
			config, asked := server(version, "acme-tls/1"), false
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			}
			cache := tls.NewLRUClientSessionCache(1)
			config.ClientSessionCache = cache
			c, err := tls.Dial("tcp", w.addr, config)
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(certstest.HangGuard)))
			_, _ = io.WriteString(c, "GET /proof HTTP/1.1\r\nHost: web.example\r\n\r\n")
			got, err := io.ReadAll(c) // it may end with a reset
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open")
			}
			state := c.ConnectionState()
			if len(got) > 0 || asked || state.NegotiatedProtocol != "acme-tls/1" || state.PeerCertificates[0].DNSNames[0] != "web.example" {
				t.Errorf("got %q, asked %t, protocol %q, certificate of %v", got, asked, state.NegotiatedProtocol, state.PeerCertificates[0].DNSNames)
			}
			if _, ok := cache.Get("web.example"); ok {
				t.Error("a ticket")
			}
			w.counted(`sidegate_handshakes_total{gate="main",reason="acme_challenge",result="ok"} 1`)
			w.counted(`sidegate_connections{gate="main"} 0`)
			w.log.Wait(t, `"msg":"challenge answered","gate":"main","remote":"127.0.0.1","host":"web.example"`)

			// Whoever is no ACME server gets no certificate, as there is none.
			if c, err := tls.Dial("tcp", w.addr, server(version, "h2")); err == nil {
				_ = c.Close()
				t.Error("a handshake without a certificate")
			}
			w.counted(`sidegate_handshakes_total{gate="main",reason="certificate_missing",result="failed"} 1`)
			if w.log.Count(`"msg":"request"`) > 0 || app.last() != "" {
				t.Errorf("the application saw %q\n%s", app.last(), w.log)
			}
		})
	}
}

// What only looks like a proof is an ordinary handshake, or none.
func TestNoChallenge(t *testing.T) {
	none := func(*tlsproxy.Gate) {}
	for _, row := range []struct {
		name      string
		prove     func(*tlsproxy.Gate)
		host      string
		protocols []string
		want      string // negotiated; "": refused
	}{
		{"another protocol beside", proves(t), "web.example", []string{"acme-tls/1", "h2"}, "h2"},
		{"twice", proves(t), "web.example", []string{"acme-tls/1", "acme-tls/1"}, ""},
		{"another name", proves(t), "other.example", []string{"acme-tls/1"}, ""},
		{"no name", proves(t), "", []string{"acme-tls/1"}, ""},
		{"no ACME server", none, "web.example", []string{"acme-tls/1"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, upstream(newRecorder(t).url), allow("anyone"), row.prove)
			config := server(tls.VersionTLS13, row.protocols...)
			config.ServerName = row.host
			c, err := tls.Dial("tcp", w.addr, config)
			if err != nil {
				if row.want != "" {
					t.Error(err)
				}
				return
			}
			defer c.Close()
			state := c.ConnectionState()
			if state.NegotiatedProtocol != row.want || state.PeerCertificates[0].DNSNames[0] != "localhost" {
				t.Errorf("negotiated %q with the certificate of %v", state.NegotiatedProtocol, state.PeerCertificates[0].DNSNames)
			}
		})
	}
}

// openssl goes on talking after its handshake, and hears nothing.
func TestChallengeOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("TEST_PEERS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"), proves(t))
	const request = "GET /openssl HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	client := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"s_client", "-connect", w.addr, "-servername", "web.example", "-quiet", "-ign_eof"}, args...)...)
		cmd.Stdin = strings.NewReader(request)
		out, _ := cmd.Output() // its exit code tells how the other end closed
		return string(out)
	}
	if out := client("-alpn", "http/1.1"); !strings.Contains(out, "200 OK") {
		t.Fatalf("an ordinary request got %q", out)
	}
	if out := client("-alpn", "acme-tls/1"); out != "" {
		t.Errorf("application bytes: %q", out)
	}
	w.counted(`sidegate_handshakes_total{gate="main",reason="acme_challenge",result="ok"} 1`)
	if w.log.Count(`"msg":"request"`) != 1 {
		t.Errorf("log:\n%s", w.log)
	}
}
