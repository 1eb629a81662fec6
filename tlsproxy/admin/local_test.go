package admin_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"sidegate/tlsproxy/admin"
)

// pod serves the admin port on every address of this host and counts drains.
type pod struct {
	port   string
	drains chan struct{}
}

func newPod(t *testing.T, network string) *pod {
	t.Helper()
	l, err := net.Listen(network, ":0")
	if err != nil {
		t.Skip(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p := &pod{port: port, drains: make(chan struct{}, 100)}
	ok := func() error { return nil }
	s := &admin.Server{Started: ok, Ready: ok, Metrics: admin.NewMetrics("test").Registry, Log: slog.New(slog.DiscardHandler),
		Status: func() any { return "in service" }, Drain: func(context.Context) { p.drains <- struct{}{} }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// send sends a request as it is, from one address to another, and returns the
// status of its answer.
func (p *pod) send(t *testing.T, from, to, request string) int {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", net.JoinHostPort(to, p.port))
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK && strings.Contains(string(body), "in service") {
		t.Errorf("%q told the status all the same", request)
	}
	return res.StatusCode
}

// both asks for the status and for a drain, wants one answer of both, and a
// drain only where it is 200.
func (p *pod) both(t *testing.T, from, to, version, fields string, want int) {
	t.Helper()
	for _, line := range []string{"GET /status", "POST /drain"} {
		if got := p.send(t, from, to, fmt.Sprintf("%s HTTP/%s\r\n%s\r\n", line, version, fields)); got != want {
			t.Errorf("%s from %s to %s with %q: %d, want %d", line, from, to, fields, got, want)
		}
	}
	select {
	case <-p.drains:
		if want != http.StatusOK {
			t.Errorf("from %s to %s with %q: drained", from, to, fields)
		}
	default:
		if want == http.StatusOK {
			t.Errorf("from %s to %s with %q: not drained", from, to, fields)
		}
	}
}

// OPS-18: both ends are exactly 127.0.0.1 or ::1.
func TestOnlyThePodAsksForStatusAndDrain(t *testing.T) {
	for _, network := range []string{"tcp", "tcp4"} { // a socket of both families sees mapped addresses
		t.Run(network, func(t *testing.T) {
			p := newPod(t, network)
			const host = "Host: localhost\r\n"
			p.both(t, "127.0.0.1", "127.0.0.1", "1.1", host, 200)
			p.both(t, "127.0.0.6", "127.0.0.1", "1.1", host, 403) // how Istio delivers
			p.both(t, "127.0.0.1", "127.0.0.6", "1.1", host, 403)
			p.both(t, "127.0.0.6", "127.0.0.6", "1.1", host, 403)
			p.both(t, "127.1.1.1", "127.0.0.1", "1.1", host, 403)
			for _, own := range addresses() {
				p.both(t, own, own, "1.1", host, 403)
				p.both(t, "127.0.0.1", own, "1.1", host, 403)
			}
		})
	}
	t.Run("IPv6", func(t *testing.T) {
		newPod(t, "tcp").both(t, "::1", "::1", "1.1", "Host: [::1]\r\n", 200)
	})
}

// addresses are those of this host by which others reach it.
func addresses() []string {
	var list []string
	all, _ := net.InterfaceAddrs() // none: there is nothing to try
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			list = append(list, ip.IP.String())
		}
	}
	return list
}

// OPS-18: pages in browsers, by DNS rebinding or a port-forward, and proxies.
func TestFieldsOfStatusAndDrain(t *testing.T) {
	p := newPod(t, "tcp4")
	for fields, want := range map[string]int{
		"Host: localhost:9901\r\n":                                         200,
		"Host: LocalHost:\r\n":                                             200,
		"Host: 127.0.0.1:1\r\n":                                            200,
		"Host: 127.0.0.9\r\n":                                              200, // no page has a name that is an address
		"Host: [::1]:9901\r\n":                                             200,
		"Host: evil.example\r\n":                                           403,
		"Host: localhost.evil.example\r\n":                                 403,
		"Host: 127.0.0.1.nip.io\r\n":                                       403,
		"Host: localhost:80:80\r\n":                                        403,
		"Host: localhost:evil\r\n":                                         403,
		"Host: evil@localhost\r\n":                                         400,
		"Host: [localhost]\r\n":                                            403,
		"Host: ::1\r\n":                                                    403,
		"Host: [::1%25lo]\r\n":                                             403,
		"Host: 0.0.0.0\r\n":                                                403,
		"Host: 127.1\r\n":                                                  403,
		"Host: 2130706433\r\n":                                             403,
		"Host: 10.0.0.1:9901\r\n":                                          403,
		"Host: \r\n":                                                       403,
		"Host: a\r\nHost: localhost\r\n":                                   400,
		"Host: localhost\r\nOrigin: null\r\n":                              403,
		"Host: localhost\r\nOrigin: http://localhost:9901\r\n":             403,
		"Host: localhost\r\nOrigin:\r\n":                                   403,
		"Host: localhost\r\nSec-Fetch-Site: none\r\n":                      200,
		"Host: localhost\r\nSec-Fetch-Site: same-origin\r\n":               200,
		"Host: localhost\r\nSec-Fetch-Site: same-site\r\n":                 403,
		"Host: localhost\r\nSec-Fetch-Site: cross-site\r\n":                403,
		"Host: localhost\r\nSec-Fetch-Site: None\r\n":                      403,
		"Host: localhost\r\nSec-Fetch-Site:\r\n":                           403,
		"Host: localhost\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: x\r\n": 403,
		"Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n":                403,
		"Host: localhost\r\nForwarded: for=192.0.2.1\r\n":                  403,
		"Host: localhost\r\nVia: 1.1 proxy\r\n":                            403,
		"Host: localhost\r\nX-Forwarded-Host: x\r\n":                       403,
		"Host: localhost\r\nX-Real-IP: 192.0.2.1\r\n":                      403,
	} {
		p.both(t, "127.0.0.1", "127.0.0.1", "1.1", fields, want)
	}
	p.both(t, "127.0.0.1", "127.0.0.1", "1.0", "", 403) // it names no Host at all
	for line, want := range map[string]int{
		"GET http://localhost/status": 403, // as a proxy is asked
		"GET /drain":                  405,
		"PUT /drain":                  405,
		"POST /status":                405,
	} {
		if got := p.send(t, "127.0.0.1", "127.0.0.1", line+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); got != want {
			t.Errorf("%s: %d, want %d", line, got, want)
		}
		if got := p.send(t, "127.0.0.6", "127.0.0.1", line+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); got != 403 {
			t.Errorf("%s of a stranger: %d, want 403", line, got)
		}
	}
	if len(p.drains) > 0 {
		t.Error("drained")
	}
}
