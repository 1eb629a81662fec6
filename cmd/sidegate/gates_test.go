package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sidegate/certs/certstest"
)

// Several gates of one process: IPv4, IPv6 and unix sockets on both sides,
// each with its own demands and its own certificate.
func TestSeveralGates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	appSocket, gateSocket := filepath.Join(dir, "app.sock"), filepath.Join(dir, "gate.sock")
	l, err := net.Listen("unix", appSocket)
	try(t, err)
	app := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "unix ", r.Proto)
	})}}
	app.Config.Protocols = new(http.Protocols)
	app.Config.Protocols.SetHTTP1(true)
	app.Config.Protocols.SetUnencryptedHTTP2(true)
	app.Start()
	t.Cleanup(app.Close)
	ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), ca))
	v2 := certstest.NewVolume(t, certstest.Secret(other.Server(t, "localhost"), other))
	six, err := net.Listen("tcp", "[::1]:0")
	try(t, err)
	sixAddr := six.Addr().String()
	try(t, six.Close())
	third := freeAddr(t)
	p := start(t, hello(t), nil,
		"SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ALLOW=authenticated,any-peer",
		"SIDEGATE_INGRESS_SIX="+sixAddr+"=h2c+unix://"+appSocket,
		"SIDEGATE_INGRESS_SOCKET=unix:"+gateSocket+"=http+unix://"+appSocket,
		"SIDEGATE_INGRESS_CERTS="+third+"="+hello(t)+"?client_cert=require&tls="+v2.Dir)
	get := func(network, addr string, c *tls.Config) string {
		tr := &http.Transport{TLSClientConfig: c, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}}
		defer tr.CloseIdleConnections()
		r, err := http.NewRequest("GET", "https://localhost/", nil)
		try(t, err)
		if len(c.Certificates) == 0 {
			r.Header.Set("Authorization", adminBasic)
		}
		res, err := tr.RoundTrip(r)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		try(t, err)
		return fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(string(b)))
	}
	withCert := clientConfig(other)
	withCert.Certificates = []tls.Certificate{other.Client(t, "x").TLS}
	for name, c := range map[string]struct{ got, want string }{
		"main":                 {get("tcp", p.gate, clientConfig(ca)), "200 hello admin"},
		"IPv6, h2c to unix":    {get("tcp", sixAddr, clientConfig(ca)), "200 unix HTTP/2.0"},
		"unix to unix":         {get("unix", gateSocket, clientConfig(ca)), "200 unix HTTP/1.1"},
		"own certificate":      {get("tcp", third, withCert), "200 hello"},
		"own certificate only": {get("tcp", third, clientConfig(ca)), "unknown authority"},
		"own demand":           {get("tcp", third, clientConfig(other)), "certificate required"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("%s: got %q, want %q\n%s", name, c.got, c.want, p.log)
		}
	}
}

// Every listener is bound before any serves: one port in use and nothing opens.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	path, err := binary()
	try(t, err)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	try(t, err)
	defer taken.Close()
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), nil))
	cmd := exec.Command(path, "serve")
	cmd.Env = []string{"SIDEGATE_TLS=" + v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=none",
		"SIDEGATE_INGRESS=" + freeAddr(t) + "=http://127.0.0.1:1", "SIDEGATE_INGRESS_B=" + taken.Addr().String() + "=http://127.0.0.1:1"}
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("ended with %v", err)
	}
	if text := string(out); strings.Contains(text, "gate open") || !strings.Contains(text, "gate b: listen on "+taken.Addr().String()) {
		t.Errorf("output:\n%s", text)
	}
}

// A place for certificates that is configured in vain is told.
func TestUnusedSources(t *testing.T) {
	for _, c := range []struct {
		environ []string
		want    string // "": none
	}{
		{[]string{"SIDEGATE_CFSSL_PROFILE=x"}, "SIDEGATE_CFSSL_PROFILE is set, and no gate has its certificate from cfssl"},
		{[]string{"SIDEGATE_CFSSL_PROFILE=x", "SIDEGATE_CERTS=cfssl"}, ""},
		{[]string{"SIDEGATE_CFSSL_PROFILE=x", "SIDEGATE_INGRESS=:1=http://127.0.0.1:2?certs=cfssl"}, ""},
		{[]string{"SIDEGATE_ACME_EMAIL=a@b.example", "SIDEGATE_CERTS=spiffe"}, "SIDEGATE_ACME_EMAIL is set, and no gate"},
		{[]string{"SIDEGATE_SPIFFE_SVID=x", "SIDEGATE_CERTS=acme"}, "SIDEGATE_SPIFFE_SVID is set, and no gate"},
		{[]string{"SIDEGATE_CERT_HOSTS=a.example"}, "SIDEGATE_CERT_HOSTS is set, and no gate"},
		{[]string{"SIDEGATE_CERT_CACHE=/x", "SIDEGATE_CERTS=spiffe"}, "SIDEGATE_CERT_CACHE is set, and no gate"},
		{[]string{"SIDEGATE_TLS=/x", "SIDEGATE_CERTS=spiffe"}, "SIDEGATE_TLS is set, and no gate"},
		{[]string{"SIDEGATE_TLS=/x", "SIDEGATE_CERTS=spiffe", "SIDEGATE_INGRESS=:1=http://127.0.0.1:2?certs=files"}, ""},
		{[]string{"SIDEGATE_INGRESS=:1=http://127.0.0.1:2?certs=spiffe&tls=/x"}, "option tls: folders are read with certs=files, and this gate has spiffe"},
		{[]string{"SIDEGATE_INGRESS=:1=http://127.0.0.1:2?certs=spiffe&tls=off"}, "option certs: this gate has tls=off"},
		{[]string{"SIDEGATE_CERTS=file"}, "(did you mean files?)"},
	} {
		err := checkEnviron(c.environ)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: got %v", c.environ, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q: got %v, want %s", c.environ, err, c.want)
		}
	}
}
