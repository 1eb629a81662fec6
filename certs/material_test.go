package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"

	"sidegate/certs"
	"sidegate/certs/certstest"
)

// keys of the kinds that may serve.
func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"RSA": r, "ECDSA": e, "Ed25519": d}
}

// signed is a server's pair with that key.
func signed(t *testing.T, ca *certstest.CA, key crypto.Signer, hosts ...string) certstest.Pair {
	t.Helper()
	p := ca.Server(t, hosts...)
	der, err := x509.CreateCertificate(rand.Reader, p.Leaf, ca.Cert, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	if p.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.Cert = certstest.PEM("CERTIFICATE", der)
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		t.Fatal(err)
	}
	p.Key = certstest.PEM("PRIVATE KEY", der)
	return p
}

func input(p certstest.Pair) certs.Input {
	return certs.Input{Pairs: []certs.PairInput{{Name: "tls", Cert: certs.File{Name: "tls.crt", Data: p.Cert}, Key: certs.File{Name: "tls.key", Data: p.Key}}}}
}

// Every kind of key, in every form in which it is stored.
func TestKeys(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pairs := map[string]certstest.Pair{}
	for kind, key := range keys(t) {
		pairs[kind] = signed(t, ca, key, "a")
	}
	of := func(kind string) crypto.Signer {
		b, _ := pem.Decode(pairs[kind].Key)
		key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return key.(crypto.Signer)
	}
	sec1, err := x509.MarshalECPrivateKey(of("ECDSA").(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(of("RSA").(*rsa.PrivateKey))
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: pkcs1})
	rsaKey, ecKey, edKey := pairs["RSA"].Key, pairs["ECDSA"].Key, pairs["Ed25519"].Key
	cases := []struct {
		name, kind string
		key        []byte
		want       string // in the error; "" for none
	}{
		{"RSA, PKCS#8", "RSA", rsaKey, ""},
		{"RSA, PKCS#1", "RSA", certstest.PEM("RSA PRIVATE KEY", pkcs1), ""},
		{"ECDSA, PKCS#8", "ECDSA", ecKey, ""},
		{"ECDSA, SEC 1", "ECDSA", certstest.PEM("EC PRIVATE KEY", sec1), ""},
		{"ECDSA, SEC 1 after its parameters", "ECDSA", certstest.Join(certstest.PEM("EC PARAMETERS", []byte{6}), certstest.PEM("EC PRIVATE KEY", sec1)), ""},
		{"Ed25519, PKCS#8", "Ed25519", edKey, ""},
		{"text before it", "RSA", certstest.Join([]byte("Bag Attributes\n"), rsaKey), ""},
		{"of another kind", "RSA", edKey, "tls.key does not belong to the certificate in tls.crt"},
		{"two keys", "RSA", certstest.Join(rsaKey, rsaKey), "tls.key holds more than one key"},
		{"cut off", "RSA", rsaKey[:100], "tls.key: a PEM block begins or ends without the other"},
		{"garbage within", "RSA", certstest.PEM("PRIVATE KEY", []byte("x")), "tls.key: the private key can't be read"},
		{"a certificate", "RSA", pairs["RSA"].Cert, "tls.key: the block is CERTIFICATE, not a private key"},
		{"encrypted, PKCS#8", "RSA", certstest.PEM("ENCRYPTED PRIVATE KEY", []byte("x")), "store it decrypted"},
		{"encrypted, as old openssl does", "RSA", encrypted, "store it decrypted"},
		{"none", "RSA", nil, "tls.key holds no private key"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := pairs[c.kind]
			p.Key = c.key
			_, err := certs.NewMaterial(input(p))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

var ecdsaOnly = []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}

func hello(name string, schemes ...tls.SignatureScheme) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: schemes}
}

// TLS-16: however the name is spelled, it is the same certificate.
func TestCertificateByName(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	a, b, wild := ca.Server(t, "a.example"), ca.Server(t, "b.example"), ca.Server(t, "*.c.example")
	v := certstest.NewVolume(t, map[string][]byte{
		"tls.crt": a.Cert, "tls.key": a.Key, "b.crt": b.Cert, "b.key": b.Key, "0.crt": wild.Cert, "0.key": wild.Key, "ca.crt": ca.PEM(),
	})
	store, _ := newStore(t, v)
	for name, want := range map[string]certstest.Pair{
		"": a, "a.example": a, "b.example": b, "B.Example": b, "b.example.": b, "unknown": a,
		"x.c.example": wild, "X.C.EXAMPLE.": wild, "x.y.c.example": a, "c.example": a,
	} {
		got, err := store.GetCertificate(hello(name, ecdsaOnly...))
		if err != nil || !got.Leaf.Equal(want.Leaf) {
			t.Errorf("%q: got %v, want %v", name, got.Leaf.Subject, want.Leaf.Subject)
		}
	}
}

// Where pairs hold the same names, the client's abilities choose: with the
// name, with another spelling of it, and for the default.
func TestCertificateByKey(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	k := keys(t)
	ec, rs := signed(t, ca, k["ECDSA"], "a.example", "b.example"), signed(t, ca, k["RSA"], "b.example", "a.example")
	other := signed(t, ca, k["RSA"], "c.example")
	v := certstest.NewVolume(t, map[string][]byte{
		"tls.crt": ec.Cert, "tls.key": ec.Key, "rsa.crt": rs.Cert, "rsa.key": rs.Key, "other.crt": other.Cert, "other.key": other.Key, "ca.crt": ca.PEM(),
	})
	store, _ := newStore(t, v)
	cases := []struct {
		name   string
		scheme tls.SignatureScheme
		want   certstest.Pair
	}{
		{"a.example", tls.ECDSAWithP256AndSHA256, ec},
		{"a.example", tls.PSSWithSHA256, rs},
		{"A.example.", tls.PSSWithSHA256, rs},
		{"", tls.PSSWithSHA256, rs},
		{"unknown", tls.PSSWithSHA256, rs},
		{"unknown", tls.ECDSAWithP256AndSHA256, ec},
		{"c.example", tls.PSSWithSHA256, other},
		{"c.example", tls.ECDSAWithP256AndSHA256, other}, // it alone has the name
		{"", tls.Ed25519, ec},
	}
	for _, c := range cases {
		got, err := store.GetCertificate(hello(c.name, c.scheme))
		if err != nil || !got.Leaf.Equal(c.want.Leaf) {
			t.Errorf("%q with %s: got %s of %s, want %s of %s", c.name, c.scheme, got.Leaf.PublicKeyAlgorithm, got.Leaf.DNSNames, c.want.Leaf.PublicKeyAlgorithm, c.want.Leaf.DNSNames)
		}
	}
}

// Towards a server the certificate is chosen among those it can verify.
func TestGetClientCertificate(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	k := keys(t)
	ec, rs := signed(t, ca, k["ECDSA"], "a"), signed(t, ca, k["RSA"], "a")
	store, _ := newStore(t, certstest.NewVolume(t, with(with(certstest.Secret(ec, ca), "rsa.crt", rs.Cert), "rsa.key", rs.Key)))
	for scheme, want := range map[tls.SignatureScheme]certstest.Pair{tls.ECDSAWithP256AndSHA256: ec, tls.PSSWithSHA256: rs, tls.Ed25519: ec} {
		ask := &tls.CertificateRequestInfo{Version: tls.VersionTLS13, SignatureSchemes: []tls.SignatureScheme{scheme}}
		got, err := store.GetClientCertificate(ask)
		if err != nil || !got.Leaf.Equal(want.Leaf) {
			t.Errorf("%s: got %v, %v", scheme, got, err)
		}
	}
	var empty certs.Store
	if _, err := empty.GetClientCertificate(nil); err == nil {
		t.Error("a certificate without a material")
	}
	if _, err := empty.GetCertificate(nil); err == nil {
		t.Error("a certificate without a material")
	}
}

// Both ends of a handshake from one store, with a chain that the other side
// completes.
func TestHandshake(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	both := func(c *x509.Certificate) {
		c.DNSNames = []string{"a.example"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	pair := ca.Intermediate(t, "mid").Issue(t, "a", both)
	store, _ := newStore(t, certstest.NewVolume(t, certstest.Secret(pair, ca)))
	verified := make(chan []*x509.Certificate, 1)
	server := &tls.Config{
		GetCertificate: store.GetCertificate, ClientAuth: tls.RequireAnyClientCert, ClientCAs: store.ClientCAs(),
		VerifyConnection: func(cs tls.ConnectionState) error {
			chain, err := store.VerifyPeer(cs.PeerCertificates, x509.ExtKeyUsageClientAuth)
			verified <- chain
			return err
		},
	}
	client := &tls.Config{ServerName: "a.example", RootCAs: ca.Pool(), GetClientCertificate: store.GetClientCertificate}
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- tls.Server(far, server).HandshakeContext(t.Context()) }()
	if err := tls.Client(near, client).HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if chain := <-verified; len(chain) != 3 || !chain[0].Equal(pair.Leaf) || !chain[2].Equal(ca.Cert) {
		t.Errorf("verified chain %v, want leaf, intermediate, root", chain)
	}
}

// The id is that of the content, names of files included.
func TestMaterialID(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	id := func(change func(*certs.Input)) string {
		in := input(ca.Server(t, "a"))
		in.Bundle = []certs.File{{Name: "ca.crt", Data: ca.PEM()}}
		change(&in)
		m, err := certs.NewMaterial(in)
		if err != nil {
			t.Fatal(err)
		}
		return m.ID
	}
	p := ca.Server(t, "a")
	same := func(in *certs.Input) { in.Pairs = input(p).Pairs }
	if a, b := id(same), id(same); a != b {
		t.Errorf("ids %s and %s of the same content", a, b)
	}
	seen := map[string]string{id(same): "same"}
	for name, change := range map[string]func(*certs.Input){
		"pair":   func(*certs.Input) {},
		"bundle": func(in *certs.Input) { in.Bundle[0].Data = certstest.Join(ca.PEM(), ca.PEM()) },
		"file":   func(in *certs.Input) { in.Bundle[0].Name = "other.crt" },
		"crl":    func(in *certs.Input) { in.CRLs = []certs.File{{Name: "crl.pem", Data: ca.CRL(t, p.Leaf.NotAfter)}} },
		"domain": func(in *certs.Input) {
			in.Domains = map[string]certs.File{"td.example": {Name: "bundle.td.example.pem", Data: ca.PEM()}}
		},
		"no trust": func(in *certs.Input) { in.Bundle = nil },
	} {
		got := id(func(in *certs.Input) {
			if name != "pair" {
				same(in)
			}
			change(in)
		})
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same id", name, other)
		}
		seen[got] = name
	}
}

// What is accepted holds as many certificates as blocks begin.
func FuzzParseCertificates(f *testing.F) {
	ca := certstest.NewCA(f, "ca")
	f.Add(ca.PEM())
	f.Add(certstest.Join(ca.PEM(), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n")))
	f.Add(certstest.Join([]byte("# text\n"), ca.PEM(), ca.PEM(), []byte("\n\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := certs.ParseCertificates("f", data)
		if err == nil && (len(list) == 0 || strings.Count(string(data), "-----BEGIN ") != len(list)) {
			t.Errorf("accepted %d certificates of %q", len(list), data)
		}
	})
}

// Keys and CRLs of any content neither panic nor let a wrong key through.
func FuzzNewMaterial(f *testing.F) {
	ca := certstest.NewCA(f, "ca")
	p, other := ca.Server(f, "a"), ca.Server(f, "a")
	f.Add(p.Key, ca.CRL(f, p.Leaf.NotAfter, other.Leaf))
	f.Add(other.Key, []byte{})
	f.Fuzz(func(t *testing.T, key, crl []byte) {
		in := input(p)
		in.Pairs[0].Key.Data = key
		in.Bundle = []certs.File{{Name: "ca.crt", Data: ca.PEM()}}
		in.CRLs = []certs.File{{Name: "crl.pem", Data: crl}}
		m, err := certs.NewMaterial(in)
		if (m == nil) == (err == nil) {
			t.Errorf("got %v and %v", m, err)
		}
		if err == nil && !strings.Contains(string(key), "PRIVATE KEY") {
			t.Errorf("accepted the key %q", key)
		}
	})
}
