package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"sidegate/certs/certstest"
)

// A server is shown with what it presents, wants, and says to the client.
func TestInspectServer(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	dir := folder(t, certstest.Secret(ca.Server(t, "localhost"), ca))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+dir, "SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer")
	_, port, _ := strings.Cut(p.gate, ":")
	client := folder(t, certstest.Secret(ca.Client(t, "me"), nil))
	stranger := folder(t, certstest.Secret(certstest.NewCA(t, "other").Client(t, "me"), nil))
	other := folder(t, map[string][]byte{"ca.crt": certstest.NewCA(t, "other").PEM()})
	for name, c := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"trusted and accepted": {[]string{"--ca", filepath.Join(dir, "ca.crt"), "--client-cert", client}, exitDone,
			[]string{"TLS 1.3", "ALPN h2", "asks for a client certificate, of CN=ca", "trusted: yes, as localhost", "server    will do"}},
		"no certificate":     {nil, exitFailed, []string{"the server refused the client: remote error: tls: certificate required"}},
		"of another CA":      {[]string{"--client-cert", stranger}, exitFailed, []string{"the server refused the client: remote error: tls: "}},
		"not trusted":        {[]string{"--ca", filepath.Join(other, "ca.crt"), "--client-cert", client}, exitFailed, []string{"trusted: no: x509: certificate signed by unknown authority"}},
		"another name":       {[]string{"--ca", filepath.Join(dir, "ca.crt"), "--server-name", "web", "--client-cert", client}, exitFailed, []string{"trusted: no: x509: certificate is valid for localhost, not web"}},
		"no pair to present": {[]string{"--client-cert", other}, exitFailed, []string{"--client-cert:", "tls.crt"}},
		"as JSON":            {[]string{"--json", "--client-cert", client}, exitDone, []string{`"asks_for_client_certificate": true`, `"version": "TLS 1.3"`}},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"inspect", "localhost:" + port}, c.args...), nil, nil, &out, &out)
		if code != c.code {
			t.Errorf("%s: code %d, want %d", name, code, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: lacks %q:\n%s", name, want, out.String())
			}
		}
	}
}
