package acme_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/acme"
	"sidegate/certs/certstest"
	"sidegate/certs/files"
)

// issue makes the call after the first, which only looks for what was kept.
func issue(t *testing.T, i *acme.Issuer) (certs.Input, error) {
	t.Helper()
	if _, err := i.Issue(t.Context()); !errors.Is(err, certs.ErrPending) {
		t.Fatalf("the first call: %v", err)
	}
	return i.Issue(t.Context())
}

func keyOf(t *testing.T, in certs.Input) string { return string(in.Pairs[0].Key.Data) }

// What is issued has a new key each time (ROT-17), is kept, and is there at the
// next start without the server, unless it is for other names.
func TestIssue(t *testing.T) {
	s := newServer(t)
	i, cache, opened := s.issuer("web.example", "API.web.example"), &files.Cache{Dir: t.TempDir()}, make(chan struct{})
	i.Cache, i.Open = cache, opened
	if _, err := i.Issue(t.Context()); !errors.Is(err, certs.ErrPending) {
		t.Fatalf("the first call: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := i.Issue(soon); !errors.Is(err, context.DeadlineExceeded) || len(s.seen("/")) > 0 {
		t.Fatalf("before the gate is open: %v, %q", err, s.seen("/"))
	}
	close(opened)

	first, err := i.Issue(t.Context())
	must(t, err)
	second, err := i.Issue(t.Context())
	must(t, err)
	if keyOf(t, first) == keyOf(t, second) {
		t.Error("the same key twice")
	}
	accounts := s.seen("/account")
	if len(accounts) != 3 || accounts[1] != `/account {"termsOfServiceAgreed":true,"contact":["mailto:ops@web.example"]}` || !strings.Contains(accounts[2], "onlyReturnExisting") {
		t.Errorf("asked for accounts %q", accounts)
	}
	if _, err := i.Challenge(&tls.ClientHelloInfo{ServerName: "web.example"}); err == nil {
		t.Error("the proof is still there")
	}

	asked := len(s.seen("/"))
	next := s.issuer("api.web.example", "web.example") // in another order and spelling
	next.Cache = cache
	got, err := next.Issue(t.Context())
	if err != nil || keyOf(t, got) != keyOf(t, second) || len(s.seen("/")) != asked {
		t.Errorf("kept: %v, the same %t, asked %q", err, err == nil && keyOf(t, got) == keyOf(t, second), s.seen("/")[asked:])
	}
	for _, hosts := range [][]string{{"web.example"}, {"web.example", "api.web.example", "new.example"}} {
		other := s.issuer(hosts...)
		other.Cache = cache
		if _, err := other.Issue(t.Context()); !errors.Is(err, certs.ErrPending) {
			t.Errorf("for %q what was kept serves: %v", hosts, err)
		}
	}
	for _, path := range glob(t, cache.Dir, "*") {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, pattern))
	must(t, err)
	return list
}

// What was kept and is no good is replaced by the next order.
func TestKeptAndOfNoUse(t *testing.T) {
	s := newServer(t)
	i := s.issuer("web.example")
	i.Cache = &files.Cache{Dir: t.TempDir()}
	_, err := issue(t, i)
	must(t, err)
	path := filter(glob(t, i.Cache.Dir, "acme-*"), "account")[0]
	good, err := os.ReadFile(path)
	must(t, err)
	old := s.ca.Issue(t, "old", func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage, c.NotAfter = []string{"web.example"}, nil, time.Now().Add(-time.Minute)
	})
	for name, data := range map[string][]byte{
		"empty": {}, "garbage": []byte("garbage"), "cut": good[:len(good)-30], "no key": good[strings.Index(string(good), "-----END PRIVATE KEY-----\n")+26:],
		"another key": certstest.Join(old.Key, good[strings.Index(string(good), "-----BEGIN CERT"):]), "ended": certstest.Join(old.Key, old.Cert),
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(path, data, 0o600))
			next := s.issuer("web.example")
			next.Cache = i.Cache
			_, err := next.Issue(t.Context())
			if !errors.Is(err, certs.ErrPending) || !strings.Contains(err.Error(), "is of no use") {
				t.Errorf("got %v", err)
			}
			_, err = next.Issue(t.Context())
			must(t, err)
			again := s.issuer("web.example")
			again.Cache = i.Cache
			_, err = again.Issue(t.Context())
			must(t, err)
		})
	}
}

// A folder that takes nothing costs a line in the log and no certificate.
func TestCacheTakesNothing(t *testing.T) {
	s := newServer(t)
	i := s.issuer("web.example")
	i.Cache = &files.Cache{Dir: filepath.Join(t.TempDir(), "gone")}
	_, err := issue(t, i)
	must(t, err)
	_, err = i.Issue(t.Context())
	must(t, err)
	if s.log.Count("issued but not kept") != 3 { // one account, and two certificates
		t.Errorf("log:\n%s", s.log)
	}
}

// ROT-16: what is not for our key, names and purpose is neither returned nor kept.
func TestMisissued(t *testing.T) {
	key := certstest.NewCA(t, "other").Key.(*ecdsa.PrivateKey)
	for _, row := range []struct {
		name   string
		change func(*x509.Certificate)
		chain  func([]byte) []byte
		want   string
	}{
		{"another key", func(c *x509.Certificate) { c.PublicKey = key.Public() }, nil, "the key does not belong"},
		{"a name is missing", func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] }, nil, "it lacks the name b.example"},
		{"another name", func(c *x509.Certificate) { c.DNSNames[0] = "evil.example" }, nil, "it lacks the name a.example"},
		{"over", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, nil, "it ended"},
		{"for clients", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, nil, "lacks serverAuth"},
		{"in no order", nil, func(b []byte) []byte { return certstest.Join(b, certstest.NewCA(t, "stray").PEM()) }, "did not sign"},
		{"without end", nil, func(b []byte) []byte { return []byte(strings.Repeat(string(b), 10)) }, "fetch the certificate: acme: certificate chain is too long"},
		{"nothing", nil, func([]byte) []byte { return []byte{} }, "fetch the certificate: acme: certificate chain is empty"},
		{"a key", nil, func([]byte) []byte { return certstest.PEM("PRIVATE KEY", nil) }, "fetch the certificate: acme: invalid PEM cert type"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServer(t)
			s.change, s.chain = row.change, row.chain
			i := s.issuer("a.example", "b.example")
			i.Cache = &files.Cache{Dir: t.TempDir()}
			if _, err := issue(t, i); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
			if kept := filter(glob(t, i.Cache.Dir, "acme-*"), "account"); len(kept) > 0 {
				t.Errorf("kept %q", kept)
			}
		})
	}
}

func filter(list []string, without string) (rest []string) {
	for _, s := range list {
		if !strings.Contains(s, without) {
			rest = append(rest, s)
		}
	}
	return rest
}

// A failure reads the same each time, whatever the server makes up, and says
// what was being done.
func TestErrors(t *testing.T) {
	page := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
	}
	n := 0
	number := func() string { n++; return fmt.Sprint(n) }
	for _, row := range []struct {
		name, path string
		answer     http.HandlerFunc
		want       string
	}{
		{"problem", "/order", problem(403, "rejectedIdentifier", "policy forbids\n\x1b[31m web.example"), "/dir: order a certificate: rejectedIdentifier: policy forbids [31m web.example"},
		{"stale nonces", "/order", func(w http.ResponseWriter, r *http.Request) {
			problem(400, "badNonce", "JWS has an invalid anti-replay nonce: "+number())(w, r)
		}, "/dir: order a certificate: badNonce: the server takes none of its own nonces"},
		{"a time", "/order", func(w http.ResponseWriter, r *http.Request) {
			problem(429, "rateLimited", "too many certificates already issued, retry after "+time.Now().Add(time.Duration(len(number()))*time.Hour).UTC().Format("2006-01-02 15:04:05 MST")+": see https://ca.example/limits")(w, r)
		}, "/dir: order a certificate: rateLimited: too many certificates already issued, retry after …: see https://ca.example/limits"},
		{"long", "/order", problem(500, "serverInternal", strings.Repeat("x", 10000)), "/dir: order a certificate: serverInternal: " + strings.Repeat("x", 284)},
		{"no problem document", "/order", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, "/dir: order a certificate: status 502: 502 Bad Gateway"},
		{"sub-problems", "/order", func(w http.ResponseWriter, _ *http.Request) {
			reply(w, 400, map[string]any{"type": "urn:ietf:params:acme:error:compound", "detail": "several", "subproblems": []any{
				map[string]any{"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids", "identifier": map[string]string{"type": "dns", "value": "web.example"}}}})
		}, "/dir: order a certificate: compound: several; web.example: CAA forbids"},
		{"an invalid order", "/status/1", page(`{"status": "invalid", "error": {"type": "urn:ietf:params:acme:error:unauthorized", "detail": "no"}}`), "/dir: wait for the order: unauthorized: no"},
		{"an invalid order without a reason", "/status/1", page(`{"status": "invalid"}`), `/dir: wait for the order: the order is "invalid"`},
		{"an account that is off", "/account", problem(403, "unauthorized", "the account is deactivated"), "/dir: register an account: unauthorized: the account is deactivated"},
		{"binding wanted", "/dir", page(`{"newOrder": "https://x/", "newAccount": "URL/account", "newNonce": "URL/nonce", "meta": {"externalAccountRequired": true}}`), "/dir: the server wants an external account binding: mount kid and hmac, and set SIDEGATE_ACME_EAB_FILE"},
		{"plaintext", "/dir", page(`{"newOrder": "https://x/", "newAccount": "http://ca.example/a", "newNonce": "URL/nonce"}`), "/dir: register an account: the server's directory leads to http://, not https://"},
		{"elsewhere", "/dir", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, `/dir: ask for the directory: status 302: <a href="/other">Found</a>.`},
		{"too much", "/dir", page(`{"newOrder": "` + strings.Repeat("x", 2<<20)), "/dir: ask for the directory: an answer has more than 1048576 bytes"},
		{"no ACME", "/dir", page("<html>"), "/dir: ask for the directory: invalid character '<' looking for beginning of value"},
		{"cut off", "/order", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, "/dir: order a certificate: EOF"},
		{"no proof of ours", "/authz/web.example", page(`{"status": "pending", "identifier": {"type": "dns", "value": "web.example"}, "challenges": [{"type": "http-01"}, {"type": "dns-01"}]}`),
			`/dir: the server takes no tls-alpn-01 for web.example, the only proof that goes through the gate's own port (it offers ["http-01" "dns-01"])`},
		{"a proof of another name", "/authz/web.example", page(`{"status": "pending", "identifier": {"type": "dns", "value": "evil.example"}, "challenges": [{"type": "tls-alpn-01", "token": "x"}]}`),
			`/dir: the server wants a proof of "evil.example", which was not ordered`},
		{"not proven", "/challenge/web.example", nil, "/dir: prove web.example: dns: no such host"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var texts []string
			for range 2 {
				s := newServer(t)
				i := s.issuer("web.example")
				s.answers[row.path] = func(w http.ResponseWriter, r *http.Request) {
					if row.answer == nil {
						s.answers["/authz/web.example"] = page(`{"status": "invalid", "identifier": {"type": "dns", "value": "web.example"}, "challenges": [{"type": "tls-alpn-01", "error": {"type": "urn:ietf:params:acme:error:dns", "detail": "no such host"}}]}`)
						_, _ = io.WriteString(w, `{}`)
						return
					}
					recorder := &replacing{w, s.url}
					row.answer(recorder, r)
				}
				_, err := issue(t, i)
				if err == nil {
					t.Fatal("no error")
				}
				texts = append(texts, strings.ReplaceAll(err.Error(), s.url, ""))
			}
			if texts[0] != row.want || texts[1] != row.want {
				t.Errorf("got\n%s\n%s, want\n%s", texts[0], texts[1], row.want)
			}
		})
	}
}

// replacing puts the server's own URL into what is written.
type replacing struct {
	http.ResponseWriter
	url string
}

func (r *replacing) Write(p []byte) (int, error) {
	_, err := io.WriteString(r.ResponseWriter, strings.ReplaceAll(string(p), "URL", r.url))
	return len(p), err
}

// A server that nobody vouches for, and none at all.
func TestUnreachable(t *testing.T) {
	s := newServer(t)
	i := s.issuer("web.example")
	i.CA = filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(i.CA, certstest.NewCA(t, "other").PEM(), 0o600))
	_, err := issue(t, i)
	if err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") || !strings.HasSuffix(err.Error(), "(SIDEGATE_ACME_CA names the CAs of the server)") {
		t.Errorf("got %v", err)
	}
	must(t, os.WriteFile(i.CA, s.api.PEM(), 0o600)) // read anew
	_, err = i.Issue(t.Context())
	must(t, err)
	i.Directory = "https://127.0.0.1:1/dir"
	if _, err = i.Issue(t.Context()); err == nil || err.Error() != "https://127.0.0.1:1/dir: ask for the directory: dial tcp 127.0.0.1:1: connect: connection refused" {
		t.Errorf("got %v", err)
	}
}

// RFC 8555 6.6: who is told to come back later does.
func TestRateLimit(t *testing.T) {
	s := newServer(t)
	i := s.issuer("web.example")
	s.answers["/order"] = problem(429, "rateLimited", "slow down", "Retry-After", "3600")
	_, first := issue(t, i)
	asked := len(s.seen("/"))
	_, second := i.Issue(t.Context())
	if first == nil || second == nil || first.Error() != second.Error() || len(s.seen("/")) != asked {
		t.Errorf("got %v and %v, asked %q", first, second, s.seen("/")[asked:])
	}
	now := newServer(t)
	i = now.issuer("web.example")
	now.answers["/order"] = problem(429, "rateLimited", "slow down")
	_, err := issue(t, i)
	if err == nil {
		t.Error("no error")
	}
	delete(now.answers, "/order")
	_, err = i.Issue(t.Context())
	must(t, err)
}

// A binding as CAs hand it out, and errors that don't quote it (OPS-08).
func TestBinding(t *testing.T) {
	key := []byte{0xfb, 0xef, 0xff, 1, 2, 3, 4}
	for _, text := range []string{base64.RawURLEncoding.EncodeToString(key), base64.URLEncoding.EncodeToString(key), base64.StdEncoding.EncodeToString(key) + "\r\n"} {
		s := newServer(t)
		i := s.issuer("web.example")
		i.EAB = certstest.NewVolume(t, map[string][]byte{"kid": []byte("kid-1\n"), "hmac": []byte(text)}).Dir
		must(t, i.Check())
		_, err := issue(t, i)
		must(t, err)
		if registered := s.seen("/account")[1]; !strings.Contains(registered, `"externalAccountBinding":{"protected":`) || strings.Contains(registered, text) {
			t.Errorf("registered with %s", registered)
		}
	}
	for name, content := range map[string]map[string][]byte{
		"no kid":   {"hmac": []byte("c2VjcmV0LXNlY3JldA")},
		"no hmac":  {"kid": []byte("kid-1")},
		"empty":    {"kid": []byte("kid-1"), "hmac": []byte(" ==\n")},
		"not that": {"kid": []byte("kid-1"), "hmac": []byte("c2VjcmV0LXNlY3JldA!")},
		"cut off":  {"kid": []byte("kid-1"), "hmac": []byte("c2VjcmV0LXNlY3Jld")},
	} {
		i := &acme.Issuer{Directory: "https://ca.example", EAB: certstest.NewVolume(t, content).Dir}
		if err := i.Check(); err == nil || !strings.Contains(err.Error(), i.EAB) || strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckHosts(t *testing.T) {
	many := make([]string, 101)
	for n := range many {
		many[n] = fmt.Sprintf("h%d.example", n)
	}
	for _, row := range []struct {
		hosts []string
		want  string
	}{
		{[]string{"web.example", "localhost", "XN--bcher-kva.example", "1.example"}, ""},
		{many[1:], ""},
		{many, "101 names are more than the 100"},
		{[]string{"*.web.example"}, "can't prove"},
		{[]string{"10.0.0.1"}, "is an IP address"},
		{[]string{"fd00::1"}, "is an IP address"},
		{[]string{"a.example", "A.example"}, "a.example is there twice"},
		{[]string{"web.example."}, "is not a DNS name"},
		{[]string{"w*b.example"}, "is not a DNS name"},
		{[]string{"bücher.example"}, "is not a DNS name"},
		{[]string{"a_b.example"}, "is not a DNS name"},
		{[]string{"-a.example"}, "is not a DNS name"},
		{[]string{"a..example"}, "is not a DNS name"},
		{[]string{""}, "is not a DNS name"},
		{[]string{"spiffe://td.example/x"}, "is not a DNS name"},
		{[]string{strings.Repeat("a", 64) + ".example"}, "is not a DNS name"},
		{[]string{strings.Repeat("a.", 127)}, "is not a DNS name"},
	} {
		err := (&acme.Issuer{Hosts: row.hosts}).CheckHosts()
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%.60q: got %v, want %q", row.hosts, err, row.want)
		}
	}
}

func TestCheckDirectory(t *testing.T) {
	for directory, want := range map[string]string{
		"https://ca.example/dir": "", "http://ca.example/dir": "is not an https:// URL", "ca.example": "is not an https:// URL", "https:///dir": "is not an https:// URL",
		"https://ops:s3cret@ca.example/dir": "user or password", "https://ops:s3cret@ca.example/%zz": "is not a URL",
	} {
		err := (&acme.Issuer{Directory: directory}).Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", directory, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the password is told: %v", err)
		}
	}
}

// ROT-17: killed at any moment, the pair that is kept fits. The other process
// is this test with a folder to keep pairs in.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("KEEP_PAIRS_IN"); dir != "" {
		keepPairs(t, dir)
		return
	}
	dir := t.TempDir()
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "KEEP_PAIRS_IN="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, len("kept")*(1+round%3)))
		must(t, err)
		time.Sleep(rand.N(20 * time.Millisecond)) // any moment of the next one
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		for _, path := range filter(glob(t, dir, "acme-*.pem"), "account") {
			data, err := os.ReadFile(path)
			must(t, err)
			if _, chain := pem.Decode(data); len(chain) == 0 {
				t.Fatalf("round %d: %q", round, data)
			} else if _, err := tls.X509KeyPair(chain, data); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	}
}

func keepPairs(t *testing.T, dir string) {
	s := newServer(t)
	i := s.issuer("web.example")
	i.Cache = &files.Cache{Dir: dir}
	_, _ = i.Issue(t.Context())
	for {
		if _, err := i.Issue(t.Context()); err != nil {
			t.Fatal(err)
		}
		fmt.Print("kept")
	}
}
