package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// client calls a pod or Service by its address, and as the name in the
// certificate.
type client struct {
	http.Client
	tls    *tls.Config
	scheme string
}

// client trusts the namespace's CA; address is HOST:PORT. It keeps connections.
func (s *space) client(address string, certificate ...certstest.Pair) *client {
	c := &client{tls: &tls.Config{RootCAs: s.ca.Pool(), ServerName: s.host}, scheme: "https"}
	if s.shown != nil && len(certificate) == 0 {
		certificate = append(certificate, *s.shown)
	}
	for _, p := range certificate {
		c.tls.Certificates = append(c.tls.Certificates, p.TLS)
	}
	c.Transport = &http.Transport{
		TLSClientConfig:   c.tls,
		ForceAttemptHTTP2: false,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		// Without this the transport opens more connections than are asked for.
		MaxIdleConnsPerHost: 1000,
	}
	c.Timeout = time.Minute
	return c
}

// answer is the status and body of a request; user may be empty.
func (c *client) answer(t *testing.T, method, path, user string) (int, string) {
	t.Helper()
	status, body, err := c.ask(method, path, user, nil)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func (c *client) ask(method, path, user string, body io.Reader) (int, string, error) {
	req, err := http.NewRequest(method, c.scheme+"://web"+path, body)
	if err != nil {
		return 0, "", err
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// guarded fails the test unless strangers get 401 and admin is known to the
// application.
func (c *client) guarded(t *testing.T) {
	t.Helper()
	if status, body := c.answer(t, "GET", "/", ""); status != http.StatusUnauthorized || strings.Contains(body, "hello") {
		t.Errorf("a stranger: got %d %q, want 401", status, body)
	}
	if status, body := c.answer(t, "GET", "/", "admin"); status != http.StatusOK || body != "hello admin\n" {
		t.Errorf("admin: got %d %q, want 200", status, body)
	}
}

// serial is the number of the certificate that a new handshake shows.
func (c *client) serial(address string) (string, error) {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: c.tls}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}
