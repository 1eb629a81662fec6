package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// Servers that begin in plaintext: PostgreSQL, OpenLDAP and an SMTP server, all
// with one certificate.
func TestInspectStartTLS(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	pair := ca.Server(t, "localhost")
	dir := folder(t, map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": ca.PEM()})
	for protocol, begin := range map[string]func(t *testing.T, dir, port string){"postgres": startPostgres, "ldap": startSlapd, "smtp": startSMTPServer} {
		t.Run(protocol, func(t *testing.T) {
			_, port, _ := strings.Cut(freeAddr(t), ":")
			begin(t, dir, port)
			var out bytes.Buffer
			certstest.Until(t, "the server answers", func() bool {
				out.Reset()
				return run(t.Context(), []string{"inspect", "localhost:" + port, "--starttls", protocol, "--ca", filepath.Join(dir, "ca.crt")}, nil, nil, &out, &out) == exitDone
			})
			for _, want := range []string{"TLS 1.3", "trusted: yes, as localhost", "subject   CN=localhost"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("lacks %q:\n%s", want, out.String())
				}
			}
		})
	}
}

// background runs a program until the test ends.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out certstest.Log
	cmd.Stdout, cmd.Stderr = &out, &out
	try(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, out.String())
		}
	})
}

// startPostgres runs PostgreSQL, which refuses to be root.
func startPostgres(t *testing.T, dir, port string) {
	peer(t, "pg_ctlcluster")
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	try(t, err)
	data, err := os.MkdirTemp("", "sidegate-postgres-")
	try(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	bin := programs[len(programs)-1]
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		const nobody = 65534
		try(t, os.Chown(data, nobody, nobody))
		as.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(data, "db"), "-A", "trust", "-U", "test", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = as, data
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	for _, name := range []string{"tls.crt", "tls.key"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		try(t, err)
		file := filepath.Join(data, "db", name)
		try(t, os.WriteFile(file, text, 0o600))
		if as.Credential != nil {
			try(t, os.Chown(file, int(as.Credential.Uid), int(as.Credential.Gid)))
		}
	}
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(data, "db"), "-p", port, "-k", data,
		"-c", "ssl=on", "-c", "ssl_cert_file=tls.crt", "-c", "ssl_key_file=tls.key", "-c", "listen_addresses=localhost")
	server.SysProcAttr, server.Dir = as, data
	background(t, server)
}

func startSlapd(t *testing.T, dir, port string) {
	if _, err := os.Stat("/usr/sbin/slapd"); err != nil {
		peer(t, "slapd")
	}
	conf := filepath.Join(folder(t, map[string][]byte{"slapd.conf": fmt.Appendf(nil,
		"include /etc/ldap/schema/core.schema\nTLSCertificateFile %[1]s/tls.crt\nTLSCertificateKeyFile %[1]s/tls.key\nTLSCACertificateFile %[1]s/ca.crt\nTLSVerifyClient never\n", dir)}), "slapd.conf")
	background(t, exec.Command("/usr/sbin/slapd", "-d", "0", "-f", conf, "-h", "ldap://localhost:"+port))
}

func startSMTPServer(t *testing.T, dir, port string) {
	peer(t, "aiosmtpd")
	background(t, exec.Command("aiosmtpd", "-n", "-l", "localhost:"+port, "--tlscert", filepath.Join(dir, "tls.crt"), "--tlskey", filepath.Join(dir, "tls.key")))
}
