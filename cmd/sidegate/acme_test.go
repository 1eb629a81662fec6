package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

var pebbles = built("github.com/letsencrypt/pebble/v2/cmd/pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv")

// pebble is the ACME server of Let's Encrypt for tests, and the DNS server it
// asks, where every name is this machine.
type pebble struct {
	t      *testing.T
	ca     *certstest.CA // of its own certificate
	dir    string
	log    *certstest.Log
	addr   string
	manage string // where it shows its root
	dns    string
	cmd    *exec.Cmd // nil: it is down
}

// newPebble prepares a server that looks for proofs at the gate's port.
func newPebble(t *testing.T, gate string, settings map[string]any) *pebble {
	t.Helper()
	s := &pebble{t: t, ca: certstest.NewCA(t, "api"), dir: t.TempDir(), log: &certstest.Log{}, addr: freeAddr(t), manage: freeAddr(t), dns: freeAddr(t)}
	pair := s.ca.Server(t, "127.0.0.1")
	_, port, _ := strings.Cut(gate, ":")
	tlsPort, err := strconv.Atoi(port)
	try(t, err)
	settings["listenAddress"], settings["managementListenAddress"] = s.addr, s.manage
	settings["certificate"], settings["privateKey"] = filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key")
	settings["httpPort"], settings["tlsPort"] = 1, tlsPort
	settings["keyAlgorithm"], settings["retryAfter"] = "ecdsa", map[string]int{"authz": 1, "order": 1}
	config, err := json.Marshal(map[string]any{"pebble": settings})
	try(t, err)
	for name, data := range map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": s.ca.PEM(), "config.json": config} {
		try(t, os.WriteFile(filepath.Join(s.dir, name), data, 0o600))
	}
	bin, err := pebbles()
	try(t, err)
	dns := exec.Command(filepath.Join(bin, "pebble-challtestsrv"), "-dnsserver", s.dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-management", freeAddr(t), "-http01", "", "-https01", "", "-doh", "", "-tlsalpn01", "")
	dns.Stdout, dns.Stderr = s.log, s.log
	try(t, dns.Start())
	t.Cleanup(func() { _ = dns.Process.Kill(); _ = dns.Wait() })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ACME and DNS servers:\n%s", s.log)
		}
	})
	certstest.Until(t, "the DNS server answers", func() bool { return listens(s.dns) })
	t.Cleanup(s.stop)
	return s
}

// run starts the server. Its memory is empty each time: it knows no account,
// and its CA, which it returns, is a new one.
func (s *pebble) run() *certstest.CA {
	s.t.Helper()
	bin, err := pebbles()
	try(s.t, err)
	s.cmd = exec.Command(filepath.Join(bin, "pebble"), "-config", filepath.Join(s.dir, "config.json"), "-dnsserver", s.dns)
	s.cmd.Env = []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	try(s.t, s.cmd.Start())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.Pool()}}}
	for guard := time.Now().Add(certstest.HangGuard); ; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(guard) {
			s.t.Fatalf("pebble does not answer: %v\n%s", err, s.log)
		}
		var res *http.Response
		if res, err = client.Get("https://" + s.manage + "/roots/0"); err != nil {
			continue
		}
		root, err := io.ReadAll(res.Body)
		try(s.t, err)
		_ = res.Body.Close()
		block, _ := pem.Decode(root)
		cert, err := x509.ParseCertificate(block.Bytes)
		try(s.t, err)
		return &certstest.CA{Cert: cert}
	}
}

func (s *pebble) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// environ is what sidegate needs to have certificates from here.
func (s *pebble) environ(cache string) []string {
	return []string{"SIDEGATE_CERTS=acme", "SIDEGATE_ACME_URL=https://" + s.addr + "/dir", "SIDEGATE_ACME_CA=" + filepath.Join(s.dir, "ca.crt"),
		"SIDEGATE_CERT_HOSTS=localhost,web.example", "SIDEGATE_CERT_CACHE=" + cache}
}

// refused wants no handshake and the reason in log and metric.
func (p *instance) refused(reason string) {
	p.t.Helper()
	if c, err := tls.Dial("tcp", p.gate, &tls.Config{InsecureSkipVerify: true}); err == nil {
		_ = c.Close()
		p.t.Errorf("a handshake while it should be refused for %s", reason)
	}
	p.log.Wait(p.t, `"reason":"`+reason+`"`)
	if want := `sidegate_handshakes_total{gate="main",reason="` + reason + `",result="failed"}`; !strings.Contains(p.metrics(), want) {
		p.t.Errorf("no %s in the metrics", want)
	}
}

// kept are the files of the cache.
func kept(t *testing.T, cache string) (pairs, accounts []string) {
	t.Helper()
	entries, err := os.ReadDir(cache)
	try(t, err)
	for _, e := range entries {
		info, err := e.Info()
		try(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %s", e.Name(), info.Mode())
		}
		if strings.HasPrefix(e.Name(), "acme-account-") {
			accounts = append(accounts, filepath.Join(cache, e.Name()))
		} else {
			pairs = append(pairs, filepath.Join(cache, e.Name()))
		}
	}
	return pairs, accounts
}

// A life with an ACME server: nothing yet, the first certificate, rotations
// under load, the server away, for too long, and back; then a restart without it.
// ROT-15, ROT-17, ROT-18, OPS-10.
func TestACME(t *testing.T) {
	t.Parallel()
	gate, proofs, cache := freeAddr(t), freeAddr(t), t.TempDir()
	server := newPebble(t, proofs, map[string]any{"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": 20}}})
	upstream := hello(t)
	environ := append(server.environ(cache), "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off", "SIDEGATE_ACME_EMAIL=ops@web.example",
		"SIDEGATE_INGRESS_PUBLIC="+proofs+"="+upstream) // the gate that the server finds, of two with the same certificate
	p := launch(t, gate, upstream, nil, environ...)

	p.log.Wait(t, "connection refused")
	if code, text := p.readyz(); code != http.StatusServiceUnavailable || !strings.Contains(text, "connection refused") || !strings.Contains(text, server.addr) {
		t.Errorf("without a certificate: readyz %d %s", code, text)
	}
	p.refused("certificate_missing")

	root := server.run()
	try(t, p.cmd.Process.Signal(syscall.SIGHUP)) // not to wait for the next attempt
	p.log.Wait(t, "certificate in service")
	p.untilReady()
	if p.log.Count("certificate in service") != 1 || p.log.Count("account registered") != 1 {
		t.Errorf("log:\n%s", p.log)
	}

	l := startLoad(p, root)
	served := map[string]bool{}
	certstest.Until(t, "two rotations", func() bool {
		served[presented(t, gate, root)] = true
		return len(served) > 2
	})
	l.end(t)
	if !strings.Contains(p.metrics(), `sidegate_handshakes_total{gate="public",reason="acme_challenge",result="ok"}`) {
		t.Error("no metric of proofs")
	}
	certstest.Until(t, "both gates present the same", func() bool { return presented(t, gate, root) == presented(t, proofs, root) })

	server.stop()
	p.log.Wait(t, "reload refused, last good stays in service")
	if code, text := p.readyz(); code != http.StatusOK {
		t.Errorf("with a good certificate and no server: readyz %d %s", code, text)
	}
	certstest.Until(t, "the end of the certificate", func() bool { code, _ := p.readyz(); return code != http.StatusOK })
	if _, text := p.readyz(); !strings.Contains(text, "certificate localhost ended") {
		t.Errorf("readyz says %s", text)
	}
	p.refused("certificate_expired")

	root = server.run()
	p.untilReady()
	last := presented(t, gate, root)
	if p.log.Count("reload works again") != 1 || p.log.Count("account registered") != 2 {
		t.Errorf("log:\n%s", p.log)
	}

	server.stop()
	_ = p.cmd.Process.Kill()
	<-p.ended
	p.ended <- nil
	pairs, accounts := kept(t, cache)
	if len(pairs) != 1 || len(accounts) != 1 {
		t.Errorf("kept %v and %v", pairs, accounts)
	}
	again := launch(t, gate, upstream, nil, environ...)
	again.untilReady()
	if got := presented(t, gate, root); got != last {
		t.Errorf("after a restart %s is served, not %s", got, last)
	}
	for _, path := range append(pairs, accounts...) {
		secret, err := os.ReadFile(path)
		try(t, err)
		block, _ := pem.Decode(secret)
		if line := strings.Split(string(pem.EncodeToMemory(block)), "\n")[1]; strings.Contains(p.log.String()+again.log.String(), line) {
			t.Errorf("the key of %s is in the log", path)
		}
	}
}

// An account that is bound to one at the CA, at a gate that requires client
// certificates: the proof is asked for none (RFC 8737), everybody else is.
// OPS-08: a wrong key of the binding is told without it.
func TestACMEBinding(t *testing.T) {
	t.Parallel()
	const right, wrong = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W", "b10lLJs8l1GPIzsLP0s6pMt8O0XVGnfTaCeROxQM0BIt2XrJMDHJZBM5NuQmQJQH"
	gate := freeAddr(t)
	server := newPebble(t, gate, map[string]any{"externalAccountBindingRequired": true, "externalAccountMACKeys": map[string]string{"kid-1": right}})
	root := server.run()
	clients := certstest.NewCA(t, "clients")
	binding := certstest.NewVolume(t, map[string][]byte{"kid": []byte("kid-1\n"), "hmac": []byte(wrong + "\n")})
	trust := folder(t, map[string][]byte{"ca.crt": clients.PEM()})
	p := launch(t, gate, hello(t), nil, append(server.environ("none"), "SIDEGATE_ACME_EAB_FILE="+binding.Dir,
		"SIDEGATE_CLIENT_CERT=require", "SIDEGATE_CLIENT_CA="+trust, "SIDEGATE_ALLOW=any-peer")...)

	p.log.Wait(t, "register an account: unauthorized: ")
	if code, text := p.readyz(); code != http.StatusServiceUnavailable || !strings.Contains(text, "register an account: unauthorized: ") {
		t.Errorf("readyz %d %s", code, text)
	}
	binding.Update(t, map[string][]byte{"kid": []byte("kid-1"), "hmac": []byte(right + "==\n")})
	p.untilReady()

	ask := func(pair *certstest.Pair) error {
		config := clientConfig(root)
		if pair != nil {
			config.Certificates = []tls.Certificate{pair.TLS}
		}
		tr := &http.Transport{TLSClientConfig: config}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get("https://" + gate + "/")
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	}
	known, stranger := clients.Client(t, "c"), certstest.NewCA(t, "other").Client(t, "c")
	if err := ask(&known); err != nil {
		t.Errorf("a client of ours: %v", err)
	}
	for name, pair := range map[string]*certstest.Pair{"nobody": nil, "a stranger": &stranger} {
		if ask(pair) == nil {
			t.Errorf("%s passed", name)
		}
	}
	// A proof that is not under way, of a name of ours and of another's.
	for _, name := range []string{"web.example", "other.example"} {
		c, err := tls.Dial("tcp", gate, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"acme-tls/1"}})
		if err == nil {
			_ = c.Close()
			t.Errorf("a proof of %s", name)
		}
	}
	p.log.Wait(t, `none of \"other.example\" is under way`)
	for _, secret := range []string{right, wrong} {
		if strings.Contains(p.log.String(), secret) {
			t.Error("the key of the binding is in the log")
		}
	}
	if n := p.log.Count("challenge answered"); n < 2 || p.log.Count(`"msg":"request"`) != 1 {
		t.Errorf("%d challenges answered; log:\n%s", n, p.log)
	}
}

// What sidegate check says of a configuration, with no server anywhere.
func TestACMECheck(t *testing.T) {
	t.Parallel()
	good := []string{"SIDEGATE_CERTS=acme", "SIDEGATE_ACME_URL=https://127.0.0.1:1/dir", "SIDEGATE_CERT_HOSTS=web.example", "SIDEGATE_CERT_CACHE=none", "SIDEGATE_ALLOW=anyone"}
	for _, row := range []struct{ name, set, want string }{
		{"good", "", ""},
		{"two gates, one certificate", "SIDEGATE_INGRESS_API=:8444=http://127.0.0.1:8080", ""},
		{"no names", "SIDEGATE_CERT_HOSTS=", "SIDEGATE_CERT_HOSTS"},
		{"wildcard", "SIDEGATE_CERT_HOSTS=web.example,*.web.example", "SIDEGATE_CERT_HOSTS: *.web.example is a wildcard, which the gate's port can't prove"},
		{"address", "SIDEGATE_CERT_HOSTS=10.0.0.1", "SIDEGATE_CERT_HOSTS: 10.0.0.1 is an IP address"},
		{"cache unsaid", "SIDEGATE_CERT_CACHE=", "SIDEGATE_CERT_CACHE"},
		{"cache not there", "SIDEGATE_CERT_CACHE=/proc/nowhere", "SIDEGATE_CERT_CACHE: keep /proc/nowhere/"},
		{"plaintext", "SIDEGATE_ACME_URL=http://ca.example/dir", "SIDEGATE_ACME_URL: the directory is not an https:// URL"},
		{"e-mail", "SIDEGATE_ACME_EMAIL=ops", "SIDEGATE_ACME_EMAIL: it is not an e-mail address"},
		{"CA not there", "SIDEGATE_ACME_CA=/proc/nowhere", "SIDEGATE_ACME_CA: read /proc/nowhere"},
		{"binding not there", "SIDEGATE_ACME_EAB_FILE=/proc/nowhere", "SIDEGATE_ACME_EAB_FILE: read /proc/nowhere"},
		{"clients of nobody", "SIDEGATE_CLIENT_CERT=require", "set SIDEGATE_CLIENT_CA"},
	} {
		t.Run(row.name, func(t *testing.T) {
			environ := good
			if row.set != "" {
				name, _, _ := strings.Cut(row.set, "=")
				environ = slices.DeleteFunc(slices.Clone(good), func(v string) bool { return strings.HasPrefix(v, name+"=") })
				environ = append(environ, row.set)
			}
			err := checkEnviron(environ)
			if err == nil {
				c, parseErr := readConfig(environ)
				try(t, parseErr)
				_, err = assemble(t.Context(), c, slog.New(slog.DiscardHandler))
			}
			switch {
			case row.want == "" && err != nil:
				t.Error(err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
