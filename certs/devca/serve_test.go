package devca_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/cfssl/auth"
	"github.com/cloudflare/cfssl/csr"
	"github.com/cloudflare/cfssl/signer"
)

// ask posts a signing request that is authenticated by the key.
func ask(t *testing.T, h http.Handler, key string, request *csr.CertificateRequest) *httptest.ResponseRecorder {
	t.Helper()
	request.KeyRequest = csr.NewKeyRequest()
	text, _, err := csr.ParseRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(signer.SignRequest{Request: string(text), Profile: "any"})
	if err != nil {
		t.Fatal(err)
	}
	provider, err := auth.New(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _ := provider.Token(body)
	question, err := json.Marshal(auth.AuthenticatedRequest{Token: token, Request: body})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/api/v1/cfssl/authsign", bytes.NewReader(question)))
	return w
}

// Whoever has the key gets a certificate of exactly the lifetime, and never one
// of a CA.
func TestHandler(t *testing.T) {
	ca, roots := newCA(t)
	h, err := ca.Handler("00ff", 90*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	w := ask(t, h, "00ff", &csr.CertificateRequest{Hosts: []string{"a.example"}})
	var answer struct{ Result struct{ Certificate string } }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	block, _ := pem.Decode([]byte(answer.Result.Certificate))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "a.example"}); err != nil {
		t.Error(err)
	}
	if left := leaf.NotAfter.Sub(before); left < 88*time.Second || left > 100*time.Second {
		t.Errorf("lives %s", left)
	}
	if w := ask(t, h, "00fe", &csr.CertificateRequest{Hosts: []string{"a.example"}}); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "invalid token") {
		t.Errorf("another key: status %d: %s", w.Code, w.Body)
	}
	if w := ask(t, h, "00ff", &csr.CertificateRequest{CN: "ca", CA: &csr.CAConfig{}}); w.Code == http.StatusOK {
		t.Errorf("signed a CA: %s", w.Body)
	}
	long, err := ca.Handler("00ff", 31*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(t, long, "00ff", &csr.CertificateRequest{Hosts: []string{"a.example"}}); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "the CA ends") {
		t.Errorf("longer than the CA: status %d: %s", w.Code, w.Body)
	}
	for _, key := range []string{"", "5ec7et"} {
		if _, err := ca.Handler(key, time.Hour); err == nil || strings.Contains(err.Error(), "5ec7") {
			t.Errorf("key %q: %v", key, err)
		}
	}
}

// The server's own certificate stays for a while and is the CA's.
func TestTLS(t *testing.T) {
	ca, roots := newCA(t)
	config, err := ca.TLS([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := config.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	if again, err := config.GetCertificate(&tls.ClientHelloInfo{}); err != nil || again != first {
		t.Errorf("another one for each handshake, %v", err)
	}
	if _, err := ca.TLS(nil); err == nil {
		t.Error("a certificate for nobody")
	}
}
