package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"sidegate/certs/certstest"
)

// What a stranger's certificate or log says never steers a terminal: no ESC, no
// line of its own, no C1, no turned writing. The server's names reach inspect,
// check, check --here, status and, of a log, explain.
func TestStrangersDontSteerTheTerminal(t *testing.T) {
	const hostile = "evil\x1b[2J\r\nbroken forged\u009b31m\u202e\u2066"
	ca := certstest.NewCA(t, "ca")
	pair := ca.Issue(t, hostile, serves("localhost"))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair.TLS}})
	try(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = c.(*tls.Conn).Handshake(); _ = c.Close() }()
		}
	}()
	greeter, err := net.Listen("tcp", "127.0.0.1:0")
	try(t, err)
	defer greeter.Close()
	go func() {
		for {
			c, err := greeter.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("-ERR evil\x1b[2J\u202e\u009b\r\n"))
			_ = c.Close()
		}
	}()
	ended := certstest.NewCA(t, hostile, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }) // check and status warn of it
	own := certstest.Join(ca.PEM(), ended.PEM())
	dir := folder(t, map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": own})
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_CLIENT_CERT=optional")
	log := `{"msg":"request","gate":"main","method":"GET","path":"/\u001b[2J\u202e\u009b\nforged","user":"evil\u001b\u202e","via":"local","rule":"x\u001b","reason":"no_rule"}` + "\n"
	environ := []string{"SIDEGATE_TLS=" + dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_CLIENT_CERT=optional", "SIDEGATE_ADMIN=" + p.admin, "SIDEGATE_INGRESS=" + freeAddr(t) + "=" + hello(t)}
	for _, args := range [][]string{
		{"inspect", dir}, {"inspect", "--json", dir}, {"inspect", l.Addr().String()}, {"inspect", "--json", l.Addr().String()},
		{"inspect", "--ca", dir + "/tls.crt", l.Addr().String()}, {"inspect", "--starttls", "pop3", greeter.Addr().String()},
		{"check"}, {"status"}, {"check", "--here"}, {"check", "--here", "--json"}, {"explain", "--log", "-"}, {"explain", "--json", "GET", "/\x1b\u202e"}, {"explain", "GET", "/\u202e\u009b", "--user", "x\u202e"},
		{"inspect", "none\x1b\u202e"}, {"explain", "--gate", "\x1b\u202e", "GET", "/"},
	} {
		var out, complaints bytes.Buffer
		_ = run(t.Context(), args, environ, strings.NewReader(log), &out, &complaints)
		text := out.String() + complaints.String()
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%q prints %q", args, text)
		}
		if strings.Contains(text, "\nbroken forged") || strings.Contains(text, "\nforged") {
			t.Errorf("%q prints a line of the stranger's:\n%s", args, text)
		}
		met := len(args) > 1 || strings.Count(text, "evil") > 1 // check and status name the certificate, and warn of the CA
		if text == "" || !met {
			t.Errorf("%q prints %q", args, text)
		}
	}
}

// serves is a change of a certificate: it is a server's with that name.
func serves(host string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{host}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}
