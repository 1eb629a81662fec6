package files_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sidegate/certs/certstest"
	"sidegate/certs/files"
)

func TestLoad(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := ca.Server(t, "a.example")
	other := ca.Server(t, "b.example")
	cases := []struct {
		name    string
		content map[string][]byte
		trust   bool
		want    string // in the error; "" for none
	}{
		{"pair", certstest.Secret(pair, nil), false, ""},
		{"pair and ca", certstest.Secret(pair, ca), true, ""},
		{"several pairs", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "b.crt": other.Cert, "b.key": other.Key}, false, ""},
		{"crt without key is passed over", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "extra.crt": other.Cert}, false, ""},
		{"garbage ca.crt without client certificates", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": []byte("x")}, false, ""},
		{"TLS-06 client certificates without a CA", certstest.Secret(pair, nil), true, "set SIDEGATE_CLIENT_CA or mount ca.crt"},
		{"empty folder", nil, false, "holds no tls.crt and tls.key (found: nothing)"},
		{"no key", map[string][]byte{"tls.crt": pair.Cert}, false, "tls.crt but no tls.key"},
		{"no certificate", map[string][]byte{"tls.key": pair.Key}, false, "tls.key but no tls.crt"},
		{"other names", map[string][]byte{"cert.pem": pair.Cert, "key.pem": pair.Key}, false, "found: cert.pem, key.pem"},
		{"torn", map[string][]byte{"tls.crt": pair.Cert, "tls.key": other.Key}, false, "tls.key does not belong to the certificate"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := certstest.NewVolume(t, c.content)
			_, err := (&files.Source{TLS: []string{v.Dir}, WantTrust: c.trust}).Load(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// One generation spans the TLS folder and a CA that is mounted elsewhere.
func TestLoadSpansMounts(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	tls := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), nil))
	trust := certstest.NewVolume(t, map[string][]byte{"ca.crt": ca.PEM()})
	for name, path := range map[string]string{"folder": trust.Dir, "file": filepath.Join(trust.Dir, "ca.crt")} {
		t.Run(name, func(t *testing.T) {
			source := &files.Source{TLS: []string{tls.Dir}, WantTrust: true, ClientCA: path}
			before, err := source.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			trust.Update(t, map[string][]byte{"ca.crt": ca.PEM(), "crl.pem": ca.CRL(t, ca.Cert.NotAfter)})
			after, err := source.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if before.ID == after.ID {
				t.Error("a new CRL beside the CA did not make a new generation")
			}
			// TLS-21: the list that was there before is gone.
			trust.Update(t, map[string][]byte{"ca.crt": ca.PEM()})
			if _, err := source.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "crl.pem is gone") {
				t.Errorf("got %v after the CRL was removed, want a refusal", err)
			}
		})
	}
}

// ROT-02: whatever moment a read falls into, all files are of one version.
func TestReadSeesOneVersion(t *testing.T) {
	version := func(i int) map[string][]byte {
		v := map[string][]byte{}
		for f := range 8 {
			v[fmt.Sprint("file", f)] = []byte(fmt.Sprint("version ", i))
		}
		return v
	}
	v := certstest.NewVolume(t, version(0))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				v.Update(t, version(i))
			}
		}
	})
	read := 0
	for range 2000 {
		content, err := files.Read(v.Dir)
		if err != nil {
			continue // five versions came and went: the loop retries
		}
		read++
		for name, data := range content {
			if string(data) != string(content["file0"]) {
				t.Fatalf("%s is %q but file0 is %q", name, data, content["file0"])
			}
		}
	}
	close(stop)
	wg.Wait()
	if read == 0 {
		t.Error("no read succeeded")
	}
}

func TestReadExplains(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("root can read everything: only the missing file is tried")
	} else {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Read(dir); err == nil || !strings.Contains(err.Error(), "fsGroup") {
			t.Errorf("got %v, want what to do", err)
		}
	}
	if _, err := files.Read("/does/not/exist"); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("got %v, want the path", err)
	}
}

// TLS-24: URLs in a client's certificate lead to no connection.
func TestVerifyConnectsNowhere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String() + "/"
	ca := certstest.NewCA(t, "ca")
	client := ca.Issue(t, "client", func(c *x509.Certificate) {
		c.OCSPServer, c.IssuingCertificateURL, c.CRLDistributionPoints = []string{url}, []string{url}, []string{url}
	})
	store := newStore(t, certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), ca)))
	if _, err := store.VerifyPeer(client.Chain(t), x509.ExtKeyUsageClientAuth); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan bool, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_ = c.Close()
		}
		accepted <- err == nil
	}()
	_ = l.Close()
	if <-accepted {
		t.Error("verifying made a connection")
	}
}
