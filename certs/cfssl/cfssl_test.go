package cfssl_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudflare/cfssl/auth"
	"github.com/cloudflare/cfssl/signer"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/cfssl"
	"sidegate/certs/files"
)

const key = "00112233445566778899aabbccddeeff"

// fake speaks the protocol of a CFSSL server over real TLS, and misbehaves as
// it is told.
type fake struct {
	t   *testing.T
	ca  *certstest.CA // signs
	url string

	// What the row of a test changes; nil: as a good server does.
	info   func() any                                    // the result of info
	change func(template *x509.Certificate)              // of the certificate
	public func(crypto.PublicKey) crypto.PublicKey       // of the certificate
	sign   func(leaf []byte) any                         // the result of authsign
	answer func(http.ResponseWriter, *http.Request) bool // true: it has answered

	signed atomic.Int32 // requests to sign that were good
	mu     sync.Mutex
	last   signer.SignRequest
}

// newFake signs with ca and shows a certificate of own.
func newFake(t *testing.T, ca, own *certstest.CA) *fake {
	t.Helper()
	return newFakeAt(t, ca, own.Server(t, "localhost", "127.0.0.1"))
}

func newFakeAt(t *testing.T, ca *certstest.CA, own certstest.Pair) *fake {
	t.Helper()
	f := &fake{t: t, ca: ca}
	s := httptest.NewUnstartedServer(f)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{own.TLS}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that shall fail
	s.StartTLS()
	t.Cleanup(s.Close)
	f.url = s.URL
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.answer != nil && f.answer(w, r) {
		return
	}
	var result any
	var err error
	switch r.URL.Path {
	case "/api/v1/cfssl/info":
		result = map[string]any{"certificate": string(f.ca.PEM()), "usages": []string{"server auth"}, "expiry": "1h"}
		if f.info != nil {
			result = f.info()
		}
	case "/api/v1/cfssl/authsign":
		result, err = f.authsign(r.Body)
	}
	answer := map[string]any{"success": err == nil, "result": result, "errors": []any{}, "messages": []any{}}
	if err != nil {
		answer["errors"] = []any{map[string]any{"code": 1, "message": err.Error()}}
		w.WriteHeader(http.StatusBadRequest)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// authsign does what cfssl's AuthHandler does.
func (f *fake) authsign(body io.Reader) (any, error) {
	var asked auth.AuthenticatedRequest
	var request signer.SignRequest
	if err := errors.Join(json.NewDecoder(body).Decode(&asked), json.Unmarshal(asked.Request, &request)); err != nil {
		return nil, err
	}
	provider, err := auth.New(key, nil)
	if err != nil {
		return nil, err
	}
	if !provider.Verify(&asked) {
		return nil, errors.New("invalid token")
	}
	block, _ := pem.Decode([]byte(request.Request))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err = errors.Join(err, csr.CheckSignature()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.last = request
	f.mu.Unlock()
	f.signed.Add(1)
	leaf, err := f.leaf(csr)
	if err != nil {
		return nil, err
	}
	if f.sign != nil {
		return f.sign(leaf), nil
	}
	return map[string]any{"certificate": string(leaf)}, nil
}

func (f *fake) leaf(csr *x509.CertificateRequest) ([]byte, error) {
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: csr.Subject, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, EmailAddresses: csr.EmailAddresses, URIs: csr.URIs,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if f.change != nil {
		f.change(t)
	}
	public := csr.PublicKey
	if f.public != nil {
		public = f.public(public)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, f.ca.Cert, public, f.ca.Key)
	return certstest.PEM("CERTIFICATE", der), err
}

// issuer asks the fakes and believes the CA.
func issuer(t *testing.T, pin []byte, servers ...*fake) *cfssl.Issuer {
	t.Helper()
	dir := t.TempDir()
	i := &cfssl.Issuer{CA: filepath.Join(dir, "ca.crt"), AuthKey: filepath.Join(dir, "auth-key"), Hosts: []string{"app.example"}}
	write(t, i.CA, pin)
	write(t, i.AuthKey, []byte(key+"\n"))
	for _, s := range servers {
		i.Servers = append(i.Servers, s.url)
	}
	return i
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// issued is a good answer and what the store makes of it.
func issued(t *testing.T, i *cfssl.Issuer) (certs.Input, []*x509.Certificate) {
	t.Helper()
	in, err := i.Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := certs.NewMaterial(in); err != nil {
		t.Fatal(err)
	}
	chain, err := certs.ParseCertificates("chain", in.Pairs[0].Cert.Data)
	if err != nil {
		t.Fatal(err)
	}
	return in, chain
}

func bundle(t *testing.T, in certs.Input) []*x509.Certificate {
	t.Helper()
	if len(in.Bundle) != 1 {
		t.Fatalf("%d bundles", len(in.Bundle))
	}
	list, err := certs.ParseCertificates("bundle", in.Bundle[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestIssue(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	f := newFake(t, ca, ca)
	i := issuer(t, certstest.Join(ca.PEM(), certstest.NewCA(t, "another").PEM()), f)
	i.Profile, i.Label = "web", "primary"
	i.Hosts = []string{"127.0.0.1", "App.example", "*.app.example", "::1", "ops@app.example", "spiffe://prod.example/ns/a/sa/b", "https://app.example/x"}
	if err := i.Check(); err != nil {
		t.Fatal(err)
	}
	in, chain := issued(t, i)
	leaf := chain[0]
	var uris []string
	for _, u := range leaf.URIs {
		uris = append(uris, u.String())
	}
	if leaf.Subject.String() != "CN=app.example" || !slices.Equal(leaf.DNSNames, []string{"app.example", "*.app.example"}) ||
		len(leaf.IPAddresses) != 2 || !slices.Equal(leaf.EmailAddresses, []string{"ops@app.example"}) ||
		!slices.Equal(uris, []string{"spiffe://prod.example/ns/a/sa/b", "https://app.example/x"}) {
		t.Errorf("%s, %v, %v, %v, %v", leaf.Subject, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, uris)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		t.Errorf("the key is %T", leaf.PublicKey)
	}
	if len(chain) != 1 {
		t.Errorf("presents %d certificates, the root needs no sending", len(chain))
	}
	if got := bundle(t, in); len(got) != 1 || !got[0].Equal(ca.Cert) {
		t.Errorf("clients are believed by %d CAs, want that of info alone", len(got))
	}
	if r := f.last; r.Profile != "web" || r.Label != "primary" || !slices.Equal(r.Hosts, i.Hosts) {
		t.Errorf("asked for %+v", r)
	}
	if len(in.Warnings) > 0 || in.Pairs[0].Cert.Name != f.url {
		t.Errorf("%q, from %s", in.Warnings, in.Pairs[0].Cert.Name)
	}
	if again, _ := issued(t, i); string(again.Pairs[0].Key.Data) == string(in.Pairs[0].Key.Data) { // ROT-17
		t.Error("the next certificate has the same key")
	}
}

// A common name has at most 64 bytes, and a URI is none.
func TestCommonName(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	f := newFake(t, ca, ca)
	long := strings.Repeat("a", 60) + ".example"
	for _, hosts := range [][]string{{"spiffe://prod.example/app"}, {long}} {
		i := issuer(t, ca.PEM(), f)
		i.Hosts = hosts
		if _, chain := issued(t, i); chain[0].Subject.String() != "" {
			t.Errorf("%q: subject is %s", hosts, chain[0].Subject)
		}
	}
}

// ROT-16: authsign returns the leaf alone; what is presented is a chain that
// a client verifies who knows the root alone.
func TestCompletesTheChain(t *testing.T) {
	root := certstest.NewCA(t, "root")
	ca := root.Intermediate(t, "issuing")
	i := issuer(t, root.PEM(), newFake(t, ca, root))
	i.Hosts = []string{"localhost"}
	in, chain := issued(t, i)
	if len(chain) != 2 || !chain[1].Equal(ca.Cert) {
		t.Fatalf("presents %d certificates, want leaf and intermediate", len(chain))
	}
	if got := bundle(t, in); len(got) != 1 || !got[0].Equal(ca.Cert) {
		t.Errorf("clients are believed by %s, want the issuing CA alone", got[0].Subject)
	}
	pair, err := tls.X509KeyPair(in.Pairs[0].Cert.Data, in.Pairs[0].Key.Data)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() { _ = tls.Server(a, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake() }()
	if err := tls.Client(b, &tls.Config{RootCAs: root.Pool(), ServerName: "localhost"}).HandshakeContext(t.Context()); err != nil {
		t.Error(err)
	}
	// Pinned is the intermediate alone: who knows the root still needs it.
	write(t, i.CA, certstest.Join(ca.PEM(), root.PEM()))
	if _, chain := issued(t, i); len(chain) != 2 {
		t.Errorf("presents %d certificates, want leaf and pinned intermediate", len(chain))
	}
}

// The same name and key with other dates: the operator's own copy counts.
func TestBelievesThePinnedCopy(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	f := newFake(t, ca, ca)
	f.info = func() any {
		template := *ca.Cert
		template.SerialNumber, template.NotAfter = big.NewInt(7), time.Now().AddDate(50, 0, 0)
		der, _ := x509.CreateCertificate(rand.Reader, &template, &template, ca.Cert.PublicKey, ca.Key)
		return map[string]any{"certificate": string(certstest.PEM("CERTIFICATE", der))}
	}
	in, _ := issued(t, issuer(t, ca.PEM(), f))
	if got := bundle(t, in); len(got) != 1 || !got[0].Equal(ca.Cert) {
		t.Errorf("clients are believed by a CA until %s", got[0].NotAfter)
	}
}

// ROT-16, LIB-05: a wrong answer is an error that reads the same each time, and
// the next server does not hide it.
func TestWrongAnswers(t *testing.T) {
	ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
	fixed := func(v any) func() any { return func() any { return v } }
	say := func(status int, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return true
		}
	}
	client := ca.Client(t, "client").Cert
	cases := []struct {
		name string
		bad  func(*fake)
		want string
	}{
		{"another key", func(f *fake) {
			f.public = func(crypto.PublicKey) crypto.PublicKey { return other.Cert.PublicKey }
		}, "it signed another key than ours"},
		{"no name", func(f *fake) { f.change = func(c *x509.Certificate) { c.DNSNames = nil } }, "lacks app.example"},
		{"another name", func(f *fake) { f.change = func(c *x509.Certificate) { c.DNSNames = []string{"b.example"} } }, "lacks app.example"},
		{"no serverAuth", func(f *fake) {
			f.change = func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
		}, "incompatible key usage"},
		{"expired", func(f *fake) { f.change = func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) } }, "ended "},
		{"a CA", func(f *fake) { f.change = func(c *x509.Certificate) { c.IsCA = true } }, "it made us a CA"},
		{"another CA signs", func(f *fake) {
			f.info, f.ca = fixed(map[string]any{"certificate": string(ca.PEM())}), other
		}, "is signed by CN=other, for whom"},
		{"info of another CA", func(f *fake) { f.info = fixed(map[string]any{"certificate": string(other.PEM())}) }, "is signed by CN=other, for whom"},
		{"info of the CA and another", func(f *fake) {
			f.info = fixed(map[string]any{"certificate": string(certstest.Join(ca.PEM(), other.PEM()))})
		}, "is signed by CN=other, for whom"},
		{"info of no CA", func(f *fake) { f.info = fixed(map[string]any{"certificate": string(client)}) }, "CN=client, of which info says that it signs, is not a CA"},
		{"info of nothing", func(f *fake) { f.info = fixed(map[string]any{}) }, "the answer to info holds no CERTIFICATE block"},
		{"info is null", func(f *fake) { f.info = fixed(nil) }, "the answer to info holds no CERTIFICATE block"},
		{"LIB-05 info is a list", func(f *fake) { f.info = fixed([]int{1}) }, "the answer to info is none of CFSSL"},
		{"LIB-05 certificate is a number", func(f *fake) { f.info = fixed(map[string]any{"certificate": 7}) }, "the answer to info is none of CFSSL"},
		{"LIB-05 usages are numbers", func(f *fake) { f.info = fixed(map[string]any{"certificate": "x", "usages": []int{1}}) }, "the answer to info is none of CFSSL"},
		{"LIB-05 signed is a list", func(f *fake) { f.sign = func([]byte) any { return []string{"x"} } }, "the answer to authsign is none of CFSSL"},
		{"LIB-05 signed is a number", func(f *fake) { f.sign = func([]byte) any { return map[string]any{"certificate": 7} } }, "the answer to authsign is none of CFSSL"},
		{"signed is garbage", func(f *fake) { f.sign = func([]byte) any { return map[string]any{"certificate": "x"} } }, "the answer to authsign holds no CERTIFICATE block"},
		{"signed is half", func(f *fake) {
			f.sign = func(leaf []byte) any { return map[string]any{"certificate": string(leaf[:len(leaf)-40])} }
		}, "the answer to authsign: a PEM block begins or ends without the other"},
		{"LIB-05 success is text", func(f *fake) { f.answer = say(200, `{"success":"yes","result":{}}`) }, "the answer to info is none of CFSSL"},
		{"LIB-05 errors is an object", func(f *fake) { f.answer = say(200, `{"success":false,"errors":{}}`) }, "the answer to info is none of CFSSL"},
		{"no JSON", func(f *fake) { f.answer = say(200, "<html>") }, "the answer to info is none of CFSSL"},
		{"empty", func(f *fake) { f.answer = say(200, "") }, "the answer to info is none of CFSSL"},
		{"not found", func(f *fake) { f.answer = say(404, "no such page") }, "info was refused: status 404"},
		{"no success", func(f *fake) {
			f.answer = say(200, `{"success":false,"errors":[{"code":1,"message":"bad\u001b[2J label"}]}`)
		}, `info was refused: "bad?[2J label"`},
		{"redirect", func(f *fake) {
			f.answer = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
				return true
			}
		}, `it redirects to "https://elsewhere.example/", which is not followed`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad, good := newFake(t, ca, ca), newFake(t, ca, ca)
			c.bad(bad)
			i := issuer(t, ca.PEM(), bad, good)
			_, err := i.Issue(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), bad.url+": ") {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var late *net.OpError
			if errors.As(err, &late) {
				t.Error("taken for a server that is late")
			}
			if good.signed.Load() > 0 {
				t.Error("the next server hides it")
			}
			if _, again := i.Issue(t.Context()); c.name != "expired" && again.Error() != err.Error() {
				t.Errorf("reads another time:\n%v\n%v", err, again)
			}
		})
	}
}

// LIB-05: an answer of 100 MB costs about as much memory as is read of it.
func TestHugeAnswer(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	f := newFake(t, ca, ca)
	var sent atomic.Int64
	f.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for sent.Load() < 100<<20 {
			n, err := w.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				break
			}
		}
		return true
	}
	_, err := issuer(t, ca.PEM(), f).Issue(t.Context())
	if err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Errorf("got %v", err)
	}
	if n := sent.Load(); n > 16<<20 { // the rest are buffers of sockets
		t.Errorf("%d MiB were taken", n>>20)
	}
}

// A server that can't be asked is passed over with a warning. Alone it is an
// error that tells whether it may only be late.
func TestUnansweredServers(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	status := func(code int) *fake {
		f := newFake(t, ca, ca)
		f.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			return true
		}
		return f
	}
	cuts := newFake(t, ca, ca)
	cuts.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/cfssl/info" {
			return false
		}
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "{")
		return true
	}
	old := certstest.NewCA(t, "old", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	cases := []struct {
		name, url, want string
		late            bool
	}{
		{"refused", refusing(t), "connect: connection refused", true},
		{"reset", resetting(t), "connection reset by peer", true},
		{"closed", closing(t), "it closed the connection without an answer", true},
		{"cut off", cuts.url, "it closed the connection without an answer", true},
		{"500", status(500).url, "info: status 500", true},
		{"503", status(503).url, "info: status 503", true},
		{"429", status(429).url, "info: status 429", true},
		{"no such host", "https://ca.invalid:1", "its name can't be looked up", true},
		{"not under the pinned CA", newFake(t, ca, certstest.NewCA(t, "other")).url, "its own certificate is not good: CN=localhost is signed by CN=other, for whom", false},
		{"expired CA", newFake(t, ca, old).url, "its own certificate is not good: ", false},
		{"another name", newFakeAt(t, ca, ca.Server(t, "other.example")).url, "its own certificate is not good: x509: cannot validate certificate for 127.0.0.1", false},
		{"a client's certificate", newFakeAt(t, ca, ca.Client(t, "client")).url, "its own certificate is not good: ", false},
		{"no TLS", plain(t), "server gave HTTP response to HTTPS client", false},
	}
	good := newFake(t, ca, ca)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			i := issuer(t, ca.PEM())
			i.Servers = []string{c.url}
			_, err := i.Issue(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var late *net.OpError
			if errors.As(err, &late) != c.late {
				t.Errorf("%v: late %t, want %t", err, !c.late, c.late)
			}
			if _, again := i.Issue(t.Context()); again == nil || again.Error() != err.Error() {
				t.Errorf("reads another time:\n%v\n%v", err, again)
			}
			i.Servers = append(i.Servers, good.url)
			in, _ := issued(t, i)
			if len(in.Warnings) != 1 || !strings.Contains(in.Warnings[0], c.want) || !strings.Contains(in.Warnings[0], "the next server was asked") {
				t.Errorf("warnings %q", in.Warnings)
			}
			if in.Pairs[0].Cert.Name != good.url {
				t.Errorf("from %s", in.Pairs[0].Cert.Name)
			}
		})
	}
}

func refusing(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}

// each calls do for every connection.
func each(t *testing.T, do func(net.Conn)) string { return "https://" + certstest.Listen(t, do) }

// closing ends each connection after the first bytes.
func closing(t *testing.T) string {
	return each(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 5))
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 200))
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
}

// resetting answers the first bytes with RST.
func resetting(t *testing.T) string {
	return each(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 5))
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	})
}

func plain(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "http:", "https:", 1)
}

// LIB-03: a server that accepts and never answers holds neither an attempt nor
// a shutdown.
func TestSilentServer(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	accepted, begun, end := make(chan struct{}, 10), make(chan struct{}, 10), make(chan struct{})
	mute := each(t, func(c net.Conn) {
		accepted <- struct{}{}
		<-end
		_ = c.Close()
	})
	never := newFake(t, ca, ca) // TLS, and then nothing
	never.answer = func(http.ResponseWriter, *http.Request) bool {
		begun <- struct{}{}
		<-end
		return true
	}
	t.Cleanup(func() { close(end) }) // before the servers close, which wait for their handlers
	for name, c := range map[string]struct {
		url    string
		waits  <-chan struct{}
		within time.Duration
	}{
		"handshake": {mute, accepted, 5 * time.Second},
		"answer":    {never.url, begun, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("shutdown", func(t *testing.T) {
				i := issuer(t, ca.PEM())
				i.Servers = []string{c.url}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() {
					_, err := i.Issue(ctx)
					ended <- err
				}()
				<-c.waits
				cancel()
				select {
				case err := <-ended:
					if err == nil {
						t.Error("no error")
					}
				case <-time.After(certstest.HangGuard):
					t.Error("it waits on")
				}
			})
			t.Run("deadline", func(t *testing.T) {
				i := issuer(t, ca.PEM())
				i.Servers = []string{c.url}
				began := certstest.StartStopwatch(t)
				_, err := i.Issue(t.Context())
				var late *net.OpError
				if err == nil || !strings.Contains(err.Error(), "no answer in time") || !errors.As(err, &late) {
					t.Errorf("got %v", err)
				}
				if took := began.Elapsed(); took > c.within+2*time.Second {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

// LIB-06: the token goes to the pinned server, through no proxy.
func TestNoProxy(t *testing.T) {
	asked := make(chan struct{}, 10)
	proxy := each(t, func(c net.Conn) { asked <- struct{}{}; _ = c.Close() })
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"} {
		t.Setenv(name, strings.Replace(proxy, "https:", "http:", 1))
	}
	i := issuer(t, certstest.NewCA(t, "ca").PEM())
	i.Servers = []string{"https://ca.invalid:1"} // loopback would not go through one anyway
	if _, err := i.Issue(t.Context()); err == nil || !strings.Contains(err.Error(), "looked up") {
		t.Errorf("got %v", err)
	}
	select {
	case <-asked:
		t.Error("the proxy was asked")
	default:
	}
}

// The server's CA is judged before the server gets a token.
func TestNoTokenForAnother(t *testing.T) {
	ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
	f := newFake(t, other, ca)
	if _, err := issuer(t, ca.PEM(), f).Issue(t.Context()); err == nil || f.signed.Load() > 0 {
		t.Errorf("%v, %d requests to sign", err, f.signed.Load())
	}
}

// OPS-08, and what is wrong with a refusal is named.
func TestAuthKey(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	f := newFake(t, ca, ca)
	const secret = "5ec7e75ec7e75ec7e75ec7e75ec7e7ff"
	for _, c := range []struct{ name, content, want string }{
		{"another key", secret, "is not that of its profile"},
		{"not hexadecimal", secret + "xy", "an even number of hexadecimal digits"},
		{"odd", secret + "f", "an even number of hexadecimal digits"},
		{"empty", "\n", "an even number of hexadecimal digits"},
		{"prefix of cfssl", "env:SECRET", "an even number of hexadecimal digits"},
		{"another prefix of cfssl", "file:/etc/passwd", "an even number of hexadecimal digits"},
	} {
		i := issuer(t, ca.PEM(), f)
		write(t, i.AuthKey, []byte(c.content))
		_, err := i.Issue(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), i.AuthKey) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), secret[:8]) {
			t.Errorf("%s: the error tells the key: %v", c.name, err)
		}
	}
	i := issuer(t, ca.PEM(), f)
	write(t, i.AuthKey, []byte("  "+strings.ToUpper(key)+"\r\n"))
	issued(t, i)
}

// The files are read anew for each certificate.
func TestFilesAreReadAnew(t *testing.T) {
	ca, next := certstest.NewCA(t, "ca"), certstest.NewCA(t, "next")
	f := newFake(t, next, next)
	i := issuer(t, ca.PEM(), f)
	if _, err := i.Issue(t.Context()); err == nil {
		t.Fatal("believed another CA")
	}
	write(t, i.CA, next.PEM())
	issued(t, i)
}

// Whoever is no longer vouched for is noticed before the renewal.
func TestOutdated(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	i := issuer(t, ca.PEM(), newFake(t, ca, ca))
	issued(t, i)
	if i.Outdated() {
		t.Error("outdated at once")
	}
	write(t, i.CA, certstest.NewCA(t, "other").PEM())
	if !i.Outdated() {
		t.Error("another CA is not noticed")
	}
	if _, err := i.Issue(t.Context()); err == nil || !i.Outdated() {
		t.Errorf("%v, and then it passed for judged", err)
	}
	write(t, i.CA, ca.PEM())
	if i.Outdated() {
		t.Error("outdated although all is as it was")
	}
	if err := os.Remove(i.CA); err != nil {
		t.Fatal(err)
	}
	if i.Outdated() {
		t.Error("a file that is not there says something")
	}
}

// LIB-04, and every problem at once.
func TestCheck(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	for _, c := range []struct {
		name string
		set  func(*cfssl.Issuer)
		want string // "" for none
	}{
		{"good", func(*cfssl.Issuer) {}, ""},
		{"a path", func(i *cfssl.Issuer) { i.Servers = []string{"https://ca.example/cfssl/"} }, ""},
		{"IPv6", func(i *cfssl.Issuer) { i.Servers = []string{"https://[::1]:8888"} }, ""},
		{"LIB-04 no scheme", func(i *cfssl.Issuer) { i.Servers = []string{"ca.example:8888"} }, "server 1 of the list is not https://HOST:PORT"},
		{"LIB-04 a name", func(i *cfssl.Issuer) { i.Servers = []string{"ca.example"} }, "is not https://HOST:PORT"},
		{"LIB-04 no host", func(i *cfssl.Issuer) { i.Servers = []string{"https://:8888"} }, "is not https://HOST:PORT"},
		{"LIB-04 bad port", func(i *cfssl.Issuer) { i.Servers = []string{"https://ca.example:88888"} }, "is not https://HOST:PORT"},
		{"LIB-04 a port that is none", func(i *cfssl.Issuer) { i.Servers = []string{"https://ca.example:http"} }, "is not https://HOST:PORT"},
		{"LIB-04 another scheme", func(i *cfssl.Issuer) { i.Servers = []string{"ftp://ca.example"} }, "is not https://HOST:PORT"},
		{"LIB-04 control byte", func(i *cfssl.Issuer) { i.Servers = []string{"https://ca.example\n"} }, "is not https://HOST:PORT"},
		{"LIB-04 http", func(i *cfssl.Issuer) { i.Servers = []string{"http://ca.example:8888"} }, "SIDEGATE_CFSSL_INSECURE=true lets it in"},
		{"LIB-04 http, insecure", func(i *cfssl.Issuer) { i.Servers, i.Insecure = []string{"http://ca.example:8888"}, true }, ""},
		{"OPS-08 password", func(i *cfssl.Issuer) { i.Servers = []string{"https://u:s3cret@ca.example"} }, "it has more than that"},
		{"OPS-08 password of a bad URL", func(i *cfssl.Issuer) { i.Servers = []string{"https://u:s3cret@ca.example:x"} }, "is not https://HOST:PORT"},
		{"query", func(i *cfssl.Issuer) { i.Servers = []string{"https://ca.example/?a=b"} }, "it has more than that"},
		{"no CA file", func(i *cfssl.Issuer) { i.CA = "/nowhere/ca.crt" }, "read /nowhere"},
		{"a CA folder", func(i *cfssl.Issuer) { i.CA = filepath.Dir(i.CA) }, "is a folder; name the file"},
		{"garbage CA", func(i *cfssl.Issuer) { write(t, i.CA, []byte("x")) }, "holds no CERTIFICATE block"},
		{"no key", func(i *cfssl.Issuer) { i.AuthKey = "/nowhere/auth-key" }, "read /nowhere"},
		{"host with a port", func(i *cfssl.Issuer) { i.Hosts = []string{"a.example:443"} }, `host "a.example:443" is neither`},
		{"host with a space", func(i *cfssl.Issuer) { i.Hosts = []string{"a b"} }, `host "a b" is neither`},
		{"IP address that is none", func(i *cfssl.Issuer) { i.Hosts = []string{"10.0.0.256"} }, "is neither"},
		{"IP address with a zone", func(i *cfssl.Issuer) { i.Hosts = []string{"fe80::1%eth0"} }, "is neither"},
		{"label too long", func(i *cfssl.Issuer) { i.Hosts = []string{strings.Repeat("a", 64) + ".example"} }, "is neither"},
		{"inner wildcard", func(i *cfssl.Issuer) { i.Hosts = []string{"a.*.example"} }, "is neither"},
		{"trailing dot", func(i *cfssl.Issuer) { i.Hosts = []string{"a.example."} }, "is neither"},
		{"Unicode", func(i *cfssl.Issuer) { i.Hosts = []string{"bücher.example"} }, "is neither"},
		{"bad SPIFFE ID", func(i *cfssl.Issuer) { i.Hosts = []string{"spiffe://Prod.example/a"} }, `host "spiffe://Prod.example/a": `},
		{"URI without a host", func(i *cfssl.Issuer) { i.Hosts = []string{"https:///x"} }, "is not a URI such as"},
		{"e-mail with a name", func(i *cfssl.Issuer) { i.Hosts = []string{"Ops <ops@a.example>"} }, "is not an e-mail address"},
		{"single label", func(i *cfssl.Issuer) { i.Hosts = []string{"localhost", "1password", "_a.b-c"} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := issuer(t, ca.PEM())
			i.Servers = []string{"https://ca.example:8888"}
			c.set(i)
			err := i.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("tells the password: %v", err)
			}
		})
	}
	i := &cfssl.Issuer{Servers: []string{"a", "b"}, CA: "/nowhere/1", AuthKey: "/nowhere/2", Hosts: []string{"c:1", "d:1"}}
	if joined, ok := i.Check().(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 6 {
		t.Errorf("got %v, want six problems", i.Check())
	}
}

// LIB-04: with the option, plain http works, and the answer is checked as ever.
func TestInsecure(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	f := &fake{t: t, ca: ca}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.url = s.URL
	i := issuer(t, ca.PEM(), f)
	i.Insecure = true
	issued(t, i)
	f.ca = certstest.NewCA(t, "other")
	if _, err := i.Issue(t.Context()); err == nil {
		t.Error("believed another CA")
	}
}

// ROT-17: what was kept starts a process without the server, and never when it
// is not what would be asked for now.
func TestCache(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	for _, c := range []struct {
		name    string
		set     func(*cfssl.Issuer)
		change  func(*x509.Certificate)
		asks    bool
		warning string
	}{
		{name: "good", set: func(*cfssl.Issuer) {}},
		{name: "other names", set: func(i *cfssl.Issuer) { i.Hosts = []string{"b.example"} }, asks: true},
		{name: "one name more", set: func(i *cfssl.Issuer) { i.Hosts = append(i.Hosts, "b.example") }, asks: true},
		{name: "one name fewer", set: func(i *cfssl.Issuer) { i.Hosts = i.Hosts[:1] }, asks: true},
		{name: "another profile", set: func(i *cfssl.Issuer) { i.Profile = "b" }, asks: true},
		{name: "another label", set: func(i *cfssl.Issuer) { i.Label = "b" }, asks: true},
		{name: "nearly over", set: func(*cfssl.Issuer) {}, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(10 * time.Second) }, asks: true},
		{name: "garbled", set: func(i *cfssl.Issuer) { write(t, filepath.Join(i.Cache.Dir, "cfssl.json"), []byte(`{"Key": "-----BE`)) }, asks: true, warning: "cfssl.json is garbled"},
		{name: "empty", set: func(i *cfssl.Issuer) { write(t, filepath.Join(i.Cache.Dir, "cfssl.json"), nil) }, asks: true, warning: "cfssl.json is garbled"},
		{name: "another key", set: func(i *cfssl.Issuer) { graft(t, i.Cache.Dir) }, asks: true, warning: "another key than ours"},
		{name: "no key", set: func(i *cfssl.Issuer) { edit(t, i.Cache.Dir, "Key", "x") }, asks: true, warning: "holds no key"},
		{name: "no chain", set: func(i *cfssl.Issuer) { edit(t, i.Cache.Dir, "Chain", "") }, asks: true, warning: "holds no CERTIFICATE"},
		{name: "no roots", set: func(i *cfssl.Issuer) { edit(t, i.Cache.Dir, "Roots", "") }, asks: true, warning: "holds no CERTIFICATE"},
		{name: "a folder", set: func(i *cfssl.Issuer) { folderAt(t, filepath.Join(i.Cache.Dir, "cfssl.json")) }, asks: true, warning: "is of no use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, ca, ca)
			f.change = c.change
			dir := t.TempDir()
			fresh := func() *cfssl.Issuer {
				i := issuer(t, ca.PEM(), f)
				i.Hosts, i.Cache = []string{"app.example", "127.0.0.1"}, &files.Cache{Dir: dir}
				return i
			}
			first, _ := issued(t, fresh())
			f.change = nil
			if info, err := os.Stat(filepath.Join(dir, "cfssl.json")); err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("%v %v", info, err)
			}
			i := fresh()
			c.set(i)
			in, _ := issued(t, i)
			if same := string(in.Pairs[0].Key.Data) == string(first.Pairs[0].Key.Data); same == c.asks {
				t.Errorf("the same key: %t", same)
			}
			if got := f.signed.Load() == 2; got != c.asks {
				t.Errorf("asked the server: %t, want %t", got, c.asks)
			}
			if text := strings.Join(in.Warnings, "; "); !strings.Contains(text, c.warning) || c.warning == "" && text != "" {
				t.Errorf("warnings %q, want %q", text, c.warning)
			}
			if next, _ := issued(t, i); string(next.Pairs[0].Key.Data) == string(in.Pairs[0].Key.Data) { // only the first call
				t.Error("the renewal gave what was there")
			}
		})
	}
}

// A CA that is no longer pinned is not believed because it once was.
func TestCacheIsJudgedAnew(t *testing.T) {
	ca, next := certstest.NewCA(t, "ca"), certstest.NewCA(t, "next")
	cache := &files.Cache{Dir: t.TempDir()}
	i := issuer(t, ca.PEM(), newFake(t, ca, ca))
	i.Cache = cache
	issued(t, i)
	i = issuer(t, next.PEM(), newFake(t, next, next))
	i.Cache = cache
	in, chain := issued(t, i)
	if err := chain[0].CheckSignatureFrom(next.Cert); err != nil {
		t.Error(err)
	}
	if len(in.Warnings) != 1 || !strings.Contains(in.Warnings[0], "does not vouch") {
		t.Errorf("warnings %q", in.Warnings)
	}
}

// A cache that can't be written is told and harms nothing.
func TestCacheCannotBeWritten(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	i := issuer(t, ca.PEM(), newFake(t, ca, ca))
	i.Cache = &files.Cache{Dir: filepath.Join(t.TempDir(), "nowhere")}
	in, _ := issued(t, i)
	again, _ := issued(t, i)
	if len(in.Warnings) != 1 || !strings.Contains(in.Warnings[0], "keep "+i.Cache.Dir) || !slices.Equal(in.Warnings, again.Warnings) {
		t.Errorf("warnings %q, then %q", in.Warnings, again.Warnings)
	}
}

// edit replaces one field of what is kept.
func edit(t *testing.T, dir, field, value string) {
	t.Helper()
	path := filepath.Join(dir, "cfssl.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var k map[string]any
	if err := json.Unmarshal(data, &k); err != nil {
		t.Fatal(err)
	}
	k[field] = value
	if data, err = json.Marshal(k); err != nil {
		t.Fatal(err)
	}
	write(t, path, data)
}

// graft puts another key beside the certificate that is kept.
func graft(t *testing.T, dir string) {
	t.Helper()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, dir, "Key", string(certstest.PEM("PRIVATE KEY", der)))
}

func folderAt(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
}
