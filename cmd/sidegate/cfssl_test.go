package main

import (
	"bytes"
	"crypto"
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
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

var cfsslPrograms = built("github.com/cloudflare/cfssl/cmd/cfssl")

func cfsslBinary() (string, error) {
	dir, err := cfsslPrograms()
	return filepath.Join(dir, "cfssl"), err
}

const cfsslKey = "b7f0c5e1a2d34f5689abcdef01234567"

// cfsslCA is a CA of the real cfssl and the server that signs with it.
type cfsslCA struct {
	*certstest.CA
	t    *testing.T
	dir  string
	addr string
	log  *certstest.Log
	stop func() // the server; nil: it does not run
}

// newCFSSL makes a CA. Its server is not started yet.
func newCFSSL(t *testing.T) *cfsslCA {
	t.Helper()
	c := &cfsslCA{t: t, dir: t.TempDir(), addr: freeAddr(t), log: &certstest.Log{}}
	c.write("ca.json", `{"CN":"company CA","key":{"algo":"ecdsa","size":256}}`)
	made := c.cfssl("genkey", "-initca", "ca.json")
	c.write("ca.crt", made["cert"])
	c.write("ca.key", made["key"])
	c.write("auth-key", cfsslKey+"\n")
	pair, err := tls.X509KeyPair([]byte(made["cert"]), []byte(made["key"]))
	try(t, err)
	c.CA = &certstest.CA{Cert: pair.Leaf, Key: pair.PrivateKey.(crypto.Signer)}
	c.lifetime("1h", "")
	c.write("own.json", `{"CN":"ca","hosts":["127.0.0.1"],"key":{"algo":"ecdsa","size":256}}`)
	own := c.sign("own.json")
	c.write("tls.crt", own["cert"])
	c.write("tls.key", own["key"])
	t.Cleanup(func() { c.down() })
	return c
}

func (c *cfsslCA) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cfsslCA) write(name, text string) {
	c.t.Helper()
	try(c.t, os.WriteFile(c.path(name), []byte(text), 0o600))
}

// cfssl runs a command that answers in JSON.
func (c *cfsslCA) cfssl(args ...string) map[string]string {
	c.t.Helper()
	path, err := cfsslBinary()
	try(c.t, err)
	cmd := exec.Command(path, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = c.dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("cfssl %q: %v: %s", args, err, stderr.String())
	}
	var made map[string]string
	try(c.t, json.Unmarshal(out, &made))
	return made
}

// sign signs a new key by the profile without authentication.
func (c *cfsslCA) sign(request string) map[string]string {
	c.t.Helper()
	return c.cfssl("gencert", "-ca", "ca.crt", "-ca-key", "ca.key", "-config", "config.json", request)
}

// lifetime is that of the profile web: an expiry, or dates.
func (c *cfsslCA) lifetime(expiry, dates string) {
	c.t.Helper()
	c.write("config.json", fmt.Sprintf(`{"signing":{
		"default":{"usages":["digital signature","server auth","client auth"],"expiry":"1h"},
		"profiles":{"web":{"usages":["digital signature","server auth","client auth"],"expiry":%q,"auth_key":"k"%s}}},
		"auth_keys":{"k":{"type":"standard","key":%q}}}`, expiry, dates, cfsslKey))
}

// ends makes all that is signed end at the same time: cfssl itself dates back
// by five minutes and rounds to whole ones.
func (c *cfsslCA) ends(at time.Time) {
	c.t.Helper()
	c.lifetime("1h", fmt.Sprintf(`,"not_before":%q,"not_after":%q`, at.Add(-10*time.Minute).UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339)))
}

// up starts the server and waits until it listens.
func (c *cfsslCA) up() {
	c.t.Helper()
	path, err := cfsslBinary()
	try(c.t, err)
	_, port, err := net.SplitHostPort(c.addr)
	try(c.t, err)
	cmd := exec.Command(path, "serve", "-port", port, "-ca", "ca.crt", "-ca-key", "ca.key", "-config", "config.json", "-tls-cert", "tls.crt", "-tls-key", "tls.key")
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, c.log, c.log
	try(c.t, cmd.Start())
	c.stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	certstest.Until(c.t, "cfssl listens", func() bool { return listens(c.addr) })
}

func (c *cfsslCA) down() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
}

// environ configures a gate that has its certificates from here.
func (c *cfsslCA) environ(more ...string) []string {
	return append([]string{
		"SIDEGATE_CERTS=cfssl", "SIDEGATE_CFSSL_URL=https://" + c.addr, "SIDEGATE_CFSSL_CA=" + c.path("ca.crt"), "SIDEGATE_CFSSL_AUTH_KEY_FILE=" + c.path("auth-key"),
		"SIDEGATE_CFSSL_PROFILE=web", "SIDEGATE_CERT_HOSTS=localhost,127.0.0.1",
	}, more...)
}

// ROT-15, ROT-18: certificates of the real server, by its own clock, replace
// one another under load.
func TestCFSSLRotation(t *testing.T) {
	t.Parallel()
	ca := newCFSSL(t)
	ca.lifetime("5m40s", "") // of which cfssl leaves 10 s to 70 s
	ca.up()
	p := start(t, hello(t), nil, ca.environ("SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off")...)
	l := startLoad(p, ca.CA)
	p.log.WaitFor(t, 3, "certificate in service")
	l.end(t)
	serials := map[string]bool{}
	for _, m := range regexp.MustCompile(`"serial":"([0-9a-f]+)"`).FindAllStringSubmatch(p.log.String(), -1) {
		serials[m[1]] = true
	}
	if len(serials) < 3 || !serials[fmt.Sprintf("%x", leafOf(t, p, ca.CA).SerialNumber)] {
		t.Errorf("serials %v\n%s", serials, p.log)
	}
	if strings.Contains(p.log.String()+ca.log.String(), cfsslKey) { // OPS-08
		t.Error("the key is in a log")
	}
}

func leafOf(t *testing.T, p *instance, ca *certstest.CA) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", p.gate, clientConfig(ca))
	try(t, err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// ROT-15, ROT-04: the server is away for longer than a renewal is early, and
// then until the certificate has ended.
func TestCFSSLOutage(t *testing.T) {
	t.Parallel()
	ca := newCFSSL(t)
	end := time.Now().Add(45 * time.Second)
	ca.ends(end)
	ca.up()
	p := start(t, hello(t), nil, ca.environ("SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off")...)
	l := startLoad(p, ca.CA)
	ca.down()
	p.log.Wait(t, "reload refused, last good stays in service")
	if !strings.Contains(p.log.String(), "connect: connection refused") {
		t.Errorf("log:\n%s", p.log)
	}
	if code, text := p.readyz(); code != http.StatusOK {
		t.Errorf("not ready while the certificate is good: %s", text)
	}
	ca.up()
	p.log.Wait(t, "reload works again")
	p.log.WaitFor(t, 2, "certificate in service")
	l.end(t)

	ca.down()
	p.log.Wait(t, "certificate expired")
	if code, text := p.readyz(); code != http.StatusServiceUnavailable || !strings.Contains(text, "certificate cfssl ended ") {
		t.Errorf("ready: %d %s", code, text)
	}
	if c, err := tls.Dial("tcp", p.gate, &tls.Config{InsecureSkipVerify: true}); err == nil {
		_ = c.Close()
		t.Error("a handshake with a certificate that has ended")
	}
	p.log.Wait(t, `"msg":"handshake refused"`)
	p.log.Wait(t, `our own certificate cfssl ended `)

	ca.lifetime("1h", "")
	ca.up()
	p.log.WaitFor(t, 2, "reload works again")
	if code, text := p.readyz(); code != http.StatusOK {
		t.Errorf("not ready after recovery: %s", text)
	}
	leafOf(t, p, ca.CA)
}

// What is wrong is said with the variable that is to be set, and nothing waits
// for it to become right.
func TestCFSSLProblems(t *testing.T) {
	t.Parallel()
	ca := newCFSSL(t)
	ca.up()
	dir := folder(t, map[string][]byte{"other.crt": certstest.NewCA(t, "other").PEM(), "other-key": []byte("00ff"), "bad-key": []byte("s3cret")})
	for _, c := range []struct {
		name string
		set  []string
		want []string
	}{
		{"good", nil, nil},
		{"wrong pin", []string{"SIDEGATE_CFSSL_CA=" + dir + "/other.crt"}, []string{"SIDEGATE_CFSSL_CA: https://" + ca.addr + ": its own certificate is not good: CN=ca is signed by CN=company CA, for whom " + dir + "/other.crt does not vouch"}},
		{"wrong key", []string{"SIDEGATE_CFSSL_AUTH_KEY_FILE=" + dir + "/other-key"}, []string{`SIDEGATE_CFSSL_AUTH_KEY_FILE: https://` + ca.addr + `: authsign was refused: "invalid token"; the key in ` + dir + `/other-key is not that of its profile "web"`}},
		{"bad key", []string{"SIDEGATE_CFSSL_AUTH_KEY_FILE=" + dir + "/bad-key"}, []string{"SIDEGATE_CFSSL_AUTH_KEY_FILE: " + dir + "/bad-key is not a key of a CFSSL profile"}},
		{"unknown profile", []string{"SIDEGATE_CFSSL_PROFILE=wbe"}, []string{`SIDEGATE_CFSSL_PROFILE: https://` + ca.addr + `: authsign was refused: "no authentication provider"; it has no profile "wbe" with an auth_key`}},
		{"LIB-04", []string{"SIDEGATE_CFSSL_URL=" + ca.addr + ",http://" + ca.addr}, []string{"2 problems", "SIDEGATE_CFSSL_URL: server 1 of the list is not https://HOST:PORT", "SIDEGATE_CFSSL_INSECURE=true lets it in"}},
		{"bad name", []string{"SIDEGATE_CERT_HOSTS=a:1"}, []string{`SIDEGATE_CERT_HOSTS: host "a:1" is neither`}},
		{"no cache", []string{"SIDEGATE_CERT_CACHE=" + ca.path("nowhere")}, []string{"SIDEGATE_CERT_CACHE: keep " + ca.path("nowhere")}},
		{"the second of two", []string{"SIDEGATE_CFSSL_URL=https://" + freeAddr(t) + ",https://" + ca.addr}, nil},
		{"nothing set", []string{"SIDEGATE_CFSSL_URL", "SIDEGATE_CERT_HOSTS"}, []string{"  - SIDEGATE_CFSSL_URL is not set\n", "  - SIDEGATE_CERT_HOSTS is not set\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			environ := ca.environ("SIDEGATE_ALLOW=anyone", "SIDEGATE_START_TIMEOUT=1h") // whoever waited would hang
			for _, set := range c.set {                                                 // without = it is unset
				name, _, given := strings.Cut(set, "=")
				environ = slices.DeleteFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
				if given {
					environ = append(environ, set)
				}
			}
			code := run(t.Context(), []string{"check"}, environ, nil, &out, &stderr)
			if (code == exitDone) != (c.want == nil) {
				t.Errorf("exit code %d: %s%s", code, &out, &stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("got %s\nwant %s", &stderr, want)
				}
			}
			if strings.Contains(stderr.String(), "s3cret") {
				t.Errorf("the key is told: %s", &stderr)
			}
			if c.name == "the second of two" && !strings.Contains(out.String(), "connect: connection refused; the next server was asked") {
				t.Errorf("no warning:\n%s", &out)
			}
		})
	}
}

// A server that comes a moment later is waited for, and one that never does is
// named.
func TestCFSSLIsLate(t *testing.T) {
	t.Parallel()
	ca := newCFSSL(t)
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"check"}, ca.environ("SIDEGATE_ALLOW=anyone", "SIDEGATE_START_TIMEOUT=1500ms"), nil, io.Discard, &stderr); code != exitUsage ||
		!strings.Contains(stderr.String(), "SIDEGATE_CFSSL_URL: https://"+ca.addr+": connect: connection refused") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"check"}, ca.environ("SIDEGATE_ALLOW=anyone", "SIDEGATE_START_TIMEOUT=1h"), nil, io.Discard, io.Discard)
	}()
	select {
	case code := <-done:
		t.Fatalf("it did not wait: exit code %d", code)
	case <-time.After(1200 * time.Millisecond): // the situation: one attempt has failed
	}
	ca.up()
	if code := <-done; code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// Clients are believed by the CA that the server signs with, and not by the
// rest of the pinned file; what was kept starts the next process without it.
func TestCFSSLClientCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newCFSSL(t), certstest.NewCA(t, "other")
	ca.write("ca.crt.pinned", string(certstest.Join(ca.PEM(), other.PEM())))
	ca.write("client.json", `{"CN":"client","hosts":["spiffe://prod.example/client"],"key":{"algo":"ecdsa","size":256}}`)
	made := ca.sign("client.json")
	ours, err := tls.X509KeyPair([]byte(made["cert"]), []byte(made["key"]))
	try(t, err)
	ca.up()
	cache := t.TempDir()
	environ := ca.environ("SIDEGATE_CFSSL_CA="+ca.path("ca.crt.pinned"), "SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=spiffe://prod.example/client",
		"SIDEGATE_CERT_CACHE="+cache)
	for _, when := range []string{"with the server", "with what was kept"} {
		p := start(t, hello(t), nil, environ...)
		ask := func(pair tls.Certificate) error {
			config := clientConfig(ca.CA)
			config.Certificates = []tls.Certificate{pair}
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
			res, err := client.Get("https://" + p.gate + "/")
			if err == nil {
				_ = res.Body.Close()
				if res.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %d", res.StatusCode)
				}
			}
			return err
		}
		if err := ask(ours); err != nil {
			t.Errorf("%s: %v\n%s", when, err, p.log)
		}
		if err := ask(other.Client(t, "client", "spiffe://prod.example/client").TLS); err == nil {
			t.Errorf("%s: a client of another CA of the pinned file is believed", when)
		}
		p.stop()
		ca.down()
	}
	kept, err := os.ReadFile(filepath.Join(cache, "cfssl.json"))
	if err != nil || !bytes.Contains(kept, []byte("PRIVATE KEY")) {
		t.Errorf("kept %d bytes, %v", len(kept), err)
	}
}

// A CA without questions is none that somebody may trust.
func TestCAServeRefusesOtherCAs(t *testing.T) {
	t.Parallel()
	ca := newCFSSL(t)
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"ca", "serve", ca.dir}, nil, nil, io.Discard, &stderr)
	if code != exitUsage || !strings.Contains(stderr.String(), `holds "company CA", and only a CA of sidegate ca init is served`) {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}

// sidegate ca serve is such a server for a laptop.
func TestCAServe(t *testing.T) {
	t.Parallel()
	path, err := binary()
	try(t, err)
	dir := filepath.Join(t.TempDir(), "it's a CA")
	if code := run(t.Context(), []string{"ca", "init", dir}, nil, nil, io.Discard, io.Discard); code != exitDone {
		t.Fatalf("ca init ended with %d", code)
	}
	out := &certstest.Log{}
	cmd := exec.Command(path, "ca", "serve", dir, "--listen", "127.0.0.1:0", "--lifetime", "20s")
	cmd.Stdout, cmd.Stderr = out, out
	try(t, cmd.Start())
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	out.Wait(t, "SIDEGATE_CERT_HOSTS=localhost\n")
	out.Wait(t, "warning: Sidegate development CA (not for production) signs any name")
	variables := filepath.Join(t.TempDir(), "variables")
	text := regexp.MustCompile(`(?m)^export .*\n`).FindAllString(out.String(), -1)
	try(t, os.WriteFile(variables, []byte(strings.Join(text, "")), 0o600))
	environ, err := exec.Command("env", "-i", "sh", "-c", `. "$0"; env | grep ^SIDEGATE_`, variables).Output() // as a person pastes it
	try(t, err)
	if info, err := os.Stat(filepath.Join(dir, "auth-key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	p := start(t, hello(t), nil, append(strings.Split(strings.TrimSpace(string(environ)), "\n"), "SIDEGATE_ALLOW=anyone", "SIDEGATE_ACCESS_LOG=off")...)
	bundle, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	try(t, err)
	block, _ := pem.Decode(bundle)
	root, err := x509.ParseCertificate(block.Bytes)
	try(t, err)
	ca := &certstest.CA{Cert: root}
	l := startLoad(p, ca)
	p.log.WaitFor(t, 2, "certificate in service")
	l.end(t)
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/api/v1/cfssl/sign", "{}", http.StatusNotFound}, // which asks for no key
		{"POST", "/", "", http.StatusNotFound},
		{"GET", "/api/v1/cfssl/info", "", http.StatusMethodNotAllowed},
		{"POST", "/api/v1/cfssl/authsign", `{"token":"","request":"e30="}`, http.StatusBadRequest},
		{"POST", "/api/v1/cfssl/authsign", strings.Repeat(" ", 65<<10), http.StatusInternalServerError},
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca)}}
		url := regexp.MustCompile(`https://\S+`).FindString(out.String())
		r, err := http.NewRequest(c.method, url+c.path, strings.NewReader(c.body))
		try(t, err)
		res, err := client.Do(r)
		try(t, err)
		_ = res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s of %d bytes: status %d, want %d", c.method, c.path, len(c.body), res.StatusCode, c.want)
		}
	}
	try(t, cmd.Process.Signal(syscall.SIGTERM))
	err, ended = cmd.Wait(), true
	if err != nil {
		t.Errorf("ended with %v\n%s", err, out)
	}
	key, err := os.ReadFile(filepath.Join(dir, "auth-key"))
	try(t, err)
	if strings.Contains(out.String()+p.log.String(), strings.TrimSpace(string(key))) { // OPS-08
		t.Error("the key is in a log")
	}
}
