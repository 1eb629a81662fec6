package acme_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
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
	"testing"
	"time"

	"sidegate/certs/acme"
	"sidegate/certs/certstest"
)

// server is an ACME server on loopback that can be told to do wrong, which
// pebble, with which the whole program is tested, can't. It looks for proofs at
// a listener of its own, and knows one account.
type server struct {
	t       *testing.T
	url     string
	api, ca *certstest.CA // of its own certificate, and of those it issues
	gate    net.Listener  // where it looks for proofs
	log     *certstest.Log

	mu       sync.Mutex
	answers  map[string]http.HandlerFunc // instead of its own, by path
	change   func(*x509.Certificate)     // of what it issues; nil: nothing
	chain    func([]byte) []byte         // of PEM; nil: as it is
	offers   string                      // type of challenge
	account  bool
	names    []string
	proven   map[string]string // status by name
	issued   []byte
	requests []string // path and payload
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, api: certstest.NewCA(t, "api"), ca: certstest.NewCA(t, "root").Intermediate(t, "issuing"), log: &certstest.Log{},
		answers: map[string]http.HandlerFunc{}, offers: "tls-alpn-01"}
	h := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	h.TLS = &tls.Config{Certificates: []tls.Certificate{s.api.Server(t, "127.0.0.1").TLS}}
	h.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	h.StartTLS()
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

// issuer has its certificates from here, and shows its proofs.
func (s *server) issuer(hosts ...string) *acme.Issuer {
	s.t.Helper()
	ca := filepath.Join(s.t.TempDir(), "ca.crt")
	must(s.t, os.WriteFile(ca, s.api.PEM(), 0o600))
	i := &acme.Issuer{Directory: s.url + "/dir", Email: "ops@web.example", CA: ca, Hosts: hosts, Log: slog.New(slog.NewJSONHandler(s.log, nil))}
	must(s.t, i.Check())
	must(s.t, i.CheckHosts())
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{"acme-tls/1"}, GetCertificate: i.Challenge})
	must(s.t, err)
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			_ = c.Close()
		}
	}()
	s.gate = l
	return i
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seen are the requests whose path begins so.
func (s *server) seen(path string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(r string) bool { return !strings.HasPrefix(r, path) })
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Replay-Nonce", rand.Text())
	payload := payloadOf(r)
	s.requests = append(s.requests, r.URL.Path+" "+string(payload))
	if answer := s.answers[r.URL.Path]; answer != nil {
		answer(w, r)
		return
	}
	step, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch step {
	case "dir":
		reply(w, 200, map[string]any{"newNonce": s.url + "/nonce", "newAccount": s.url + "/account", "newOrder": s.url + "/order",
			"meta": map[string]any{"termsOfService": s.url + "/terms"}})
	case "account":
		s.serveAccount(w, payload)
	case "order":
		s.order(payload)
		w.Header().Set("Location", s.url+"/status/1")
		s.replyOrder(w, 201)
	case "authz":
		reply(w, 200, map[string]any{"status": s.proven[name], "identifier": map[string]string{"type": "dns", "value": name}, "challenges": []any{
			map[string]any{"type": s.offers, "url": s.url + "/challenge/" + name, "token": "token-" + name, "status": s.proven[name]}}})
	case "challenge":
		s.proven[name] = s.look(name)
		reply(w, 200, map[string]any{"type": s.offers, "url": s.url + "/challenge/" + name, "token": "token-" + name, "status": "processing"})
	case "status":
		s.replyOrder(w, 200)
	case "finalize":
		s.sign(payload)
		s.replyOrder(w, 200)
	case "certificate":
		_, _ = w.Write(s.issued)
	}
}

// payloadOf is what a request says, whoever signed it.
func payloadOf(r *http.Request) []byte {
	var signed struct{ Payload string }
	if json.NewDecoder(r.Body).Decode(&signed) != nil {
		return nil
	}
	payload, _ := base64.RawURLEncoding.DecodeString(signed.Payload)
	return payload
}

func reply(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// problem is an answer that is a problem document.
func problem(status int, kind, detail string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		reply(w, status, map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": detail})
	}
}

func (s *server) serveAccount(w http.ResponseWriter, payload []byte) {
	var ask struct{ OnlyReturnExisting bool }
	_ = json.Unmarshal(payload, &ask)
	w.Header().Set("Location", s.url+"/accounts/1")
	switch {
	case s.account:
		reply(w, 200, map[string]string{"status": "valid"})
	case ask.OnlyReturnExisting:
		problem(400, "accountDoesNotExist", "there is none")(w, nil)
	default:
		s.account = true
		reply(w, 201, map[string]string{"status": "valid"})
	}
}

func (s *server) order(payload []byte) {
	var ask struct{ Identifiers []struct{ Value string } }
	_ = json.Unmarshal(payload, &ask)
	s.names, s.proven, s.issued = nil, map[string]string{}, nil
	for _, id := range ask.Identifiers {
		s.names = append(s.names, id.Value)
		s.proven[id.Value] = "pending"
	}
}

func (s *server) replyOrder(w http.ResponseWriter, status int) {
	order := map[string]any{"status": "ready", "finalize": s.url + "/finalize"}
	var urls []string
	for _, name := range s.names {
		urls = append(urls, s.url+"/authz/"+name)
		if s.proven[name] != "valid" {
			order["status"] = "pending"
		}
	}
	if s.issued != nil {
		order["status"], order["certificate"] = "valid", s.url+"/certificate"
	}
	order["authorizations"] = urls
	reply(w, status, order)
}

// look is the status of a name after its proof was looked for.
func (s *server) look(name string) string {
	c, err := tls.Dial("tcp", s.gate.Addr().String(), &tls.Config{ServerName: name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err != nil {
		return "invalid"
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	proves := slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool {
		return e.Critical && e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31})
	})
	if !proves || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != name {
		return "invalid"
	}
	return "valid"
}

func (s *server) sign(payload []byte) {
	var ask struct{ CSR string }
	_ = json.Unmarshal(payload, &ask)
	der, _ := base64.RawURLEncoding.DecodeString(ask.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		s.t.Error(err)
		return
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), DNSNames: csr.DNSNames, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, PublicKey: csr.PublicKey}
	if s.change != nil {
		s.change(template)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, s.ca.Cert, template.PublicKey, s.ca.Key)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.issued = fmt.Appendf(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), "%s", s.ca.PEM())
	if s.chain != nil {
		s.issued = s.chain(s.issued)
	}
}
