package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// tools are those of go.mod, built.
var tools = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sidegate-tools-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"github.com/letsencrypt/pebble/v2/cmd/pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return dir, err
})

// pebble is the ACME server of Let's Encrypt for tests, and the DNS server it
// asks, where every name is this machine.
type pebble struct {
	t        *testing.T
	ca       *certstest.CA // of its own certificate
	dir      string
	log      *certstest.Log
	addr     string
	manage   string
	settings map[string]any
	dns      string
	cmd      *exec.Cmd
}

// newPebble prepares a server that looks for proofs at the gate's port.
func newPebble(t *testing.T, gate string, settings map[string]any) *pebble {
	t.Helper()
	s := &pebble{t: t, ca: certstest.NewCA(t, "api"), dir: t.TempDir(), log: &certstest.Log{}, addr: freeAddr(t), manage: freeAddr(t), dns: freeUDP(t)}
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
	bin, err := tools()
	try(t, err)
	dns := exec.Command(filepath.Join(bin, "pebble-challtestsrv"), "-dnsserver", s.dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-management", freeAddr(t), "-http01", "", "-https01", "", "-doh", "", "-tlsalpn01", "")
	dns.Stdout, dns.Stderr = s.log, s.log
	try(t, dns.Start())
	t.Cleanup(func() { _ = dns.Process.Kill(); _ = dns.Wait() })
	t.Cleanup(s.stop)
	return s
}

func freeUDP(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	try(t, err)
	defer c.Close()
	return c.LocalAddr().String()
}

// run starts the server. Its memory is empty each time: it knows no account,
// and its CA, which it returns, is a new one.
func (s *pebble) run() *certstest.CA {
	s.t.Helper()
	bin, err := tools()
	try(s.t, err)
	s.cmd = exec.Command(filepath.Join(bin, "pebble"), "-config", filepath.Join(s.dir, "config.json"), "-dnsserver", s.dns)
	s.cmd.Env = []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	try(s.t, s.cmd.Start())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.ca.Pool()}}}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
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

// readyz is the answer and its text.
func (p *instance) readyz() (int, string) {
	p.t.Helper()
	res, err := http.Get("http://" + p.admin + "/readyz")
	try(p.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	try(p.t, err)
	return res.StatusCode, string(b)
}

// until waits for something that has no line in the log.
func until(t *testing.T, what string, within time.Duration, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !true(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// refused wants no handshake and the reason in log and metric.
func (p *instance) refused(reason string) {
	p.t.Helper()
	if c, err := tls.Dial("tcp", p.gate, &tls.Config{InsecureSkipVerify: true}); err == nil {
		_ = c.Close()
		p.t.Errorf("a handshake while it should be refused for %s", reason)
	}
	p.log.Wait(p.t, `"reason":"`+reason+`"`, 5*time.Second)
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
	gate, cache := freeAddr(t), t.TempDir()
	server := newPebble(t, gate, map[string]any{"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": 11}}})
	environ := append(server.environ(cache), "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off", "SIDEGATE_ACME_EMAIL=ops@web.example")
	upstream := hello(t)
	p := launch(t, gate, upstream, nil, environ...)

	p.log.Wait(t, "connection refused", 10*time.Second)
	if code, text := p.readyz(); code != http.StatusServiceUnavailable || !strings.Contains(text, "connection refused") || !strings.Contains(text, server.addr) {
		t.Errorf("without a certificate: readyz %d %s", code, text)
	}
	p.refused("certificate_missing")

	root := server.run()
	try(t, p.cmd.Process.Signal(syscall.SIGHUP)) // not to wait for the next attempt
	p.log.Wait(t, "certificate in service", 20*time.Second)
	p.untilReady()
	if p.log.Count("certificate in service") != 1 || p.log.Count("account registered") != 1 {
		t.Errorf("log:\n%s", p.log)
	}

	l := startLoad(p, root)
	served := map[string]bool{}
	until(t, "three rotations", 40*time.Second, func() bool {
		served[presented(t, gate, root)] = true
		return len(served) > 3
	})
	l.end(t)
	if n := strings.Count(p.metrics(), `reason="acme_challenge",result="ok"`); n != 1 {
		t.Errorf("%d metrics of challenges", n)
	}

	server.stop()
	p.log.Wait(t, "reload refused, last good stays in service", 15*time.Second)
	if code, text := p.readyz(); code != http.StatusOK {
		t.Errorf("with a good certificate and no server: readyz %d %s", code, text)
	}
	until(t, "the end of the certificate", 15*time.Second, func() bool { code, _ := p.readyz(); return code != http.StatusOK })
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
