package tlsproxy_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// manyCAs are CAs whose names take about that many bytes in a handshake.
func manyCAs(t *testing.T, bytes int) []byte {
	t.Helper()
	const each = 1000
	var all []byte
	for i := range bytes/each + 1 {
		all = append(all, certstest.NewCA(t, fmt.Sprintf("%0*d", each-17, i)).PEM()...)
	}
	return all
}

// named counts the CAs that the server names to a client.
func (w *world) named(version uint16) (n int, err error) {
	w.t.Helper()
	pair := w.ca.Client(w.t, "x")
	c := w.config(nil)
	c.MaxVersion = version
	c.GetClientCertificate = func(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		n = len(ask.AcceptableCAs)
		return &pair.TLS, nil
	}
	_, err = w.roundTrip(c)
	return n, err
}

// TLS-27: names of CAs that no handshake or no Java can carry are left out.
func TestManyCANames(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	server := w.ca.Server(t, "localhost", "127.0.0.1")
	for _, c := range []struct {
		bytes int
		want  bool
	}{{15 << 10, true}, {17 << 10, false}, {40 << 10, false}, {80 << 10, false}} {
		content := certstest.Secret(server, w.ca)
		content["ca.crt"] = append(content["ca.crt"], manyCAs(t, c.bytes)...)
		w.update(content)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if n, err := w.named(version); err != nil || n > 0 != c.want {
				t.Errorf("%d bytes, %s: %d names, %v", c.bytes, tls.VersionName(version), n, err)
			}
		}
	}
}

// TLS-27: a generation with which no handshake could be completed is refused,
// and the last good one serves on.
func TestGenerationIsRehearsed(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), func(g *tlsproxy.Gate) {
		g.Trust.(*certs.Store).CANames = certs.CANamesAlways
	})
	server := w.ca.Server(t, "localhost", "127.0.0.1")
	content := certstest.Secret(server, w.ca)
	content["ca.crt"] = append(content["ca.crt"], manyCAs(t, 40<<10)...)
	w.update(content)
	if n, err := w.named(tls.VersionTLS13); err != nil || n < 40 {
		t.Errorf("always: %d names, %v", n, err)
	}
	before := w.store.Generation()
	content = certstest.Secret(server, w.ca)
	content["ca.crt"] = append(content["ca.crt"], manyCAs(t, 80<<10)...)
	w.volume.Update(t, content)
	w.change <- struct{}{}
	w.log.Wait(t, "can't complete a handshake of TLS 1.3")
	if s := w.store.Status(); s.OK || w.store.Generation() != before {
		t.Errorf("status %+v, generation %s after %s", s.Status, w.store.Generation(), before)
	}
	if n, err := w.named(tls.VersionTLS13); err != nil || n < 40 {
		t.Errorf("last good: %d names, %v", n, err)
	}
}

// rsaServer is a server's certificate with an RSA key.
func rsaServer(t *testing.T, ca *certstest.CA) map[string][]byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, ca.Server(t, "localhost", "127.0.0.1").Leaf, ca.Cert, key.Public(), ca.Key)
	must(t, err)
	return map[string][]byte{"tls.crt": certstest.PEM("CERTIFICATE", der), "ca.crt": ca.PEM(),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})}
}

// TLS-27: where TLS 1.2 alone fails, the generation serves, with an alarm for as
// long as it does.
func TestTLS12AloneFails(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url), allow("anyone"), func(g *tlsproxy.Gate) {
		g.Ciphers = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	})
	w.update(rsaServer(t, w.ca))
	w.log.Wait(t, `"msg":"handshake with itself failed"`)
	if list := w.store.Status().Warnings; len(list) != 1 || !strings.Contains(list[0], "can't complete a handshake of TLS 1.2") {
		t.Errorf("warnings %q", list)
	}
	if _, err := w.roundTrip(w.config(nil)); err != nil {
		t.Errorf("TLS 1.3: %v", err)
	}
	w.update(certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca))
	if list := w.store.Status().Warnings; len(list) != 0 {
		t.Errorf("warnings %q", list)
	}
}

// verdicts is a trust that says the same about everybody.
type verdicts struct {
	tlsproxy.Trust
	err error
}

func (v verdicts) VerifyPeer(chain []*x509.Certificate, _ x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	return chain, v.err
}

// TLS-27: a stranger must be refused, and as a stranger.
func TestStrangerIsRefused(t *testing.T) {
	w := newWorld(t, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertOptional), allow("any-peer"))
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"everybody is let in": {nil, "was not refused as peer_untrusted"},
		"nobody is judged":    {errors.New("out of order"), "out of order"},
		"another reason":      {&policy.Refusal{Reason: policy.PeerExpired}, "peer_expired"},
	} {
		_, err := w.gate.Rehearse(w.store, verdicts{w.store, c.err})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// Every kind of gate rehearses without a client, and without a trace.
func TestEveryGateRehearses(t *testing.T) {
	for _, mode := range []tlsproxy.ClientCert{tlsproxy.ClientCertNone, tlsproxy.ClientCertOptional, tlsproxy.ClientCertRequire} {
		w := newWorld(t, upstream(newRecorder(t).url), clientCert(mode), allow("authenticated"))
		if alarm, err := w.gate.Rehearse(w.store, w.store); alarm != nil || err != nil {
			t.Errorf("mode %d: %v, %v", mode, alarm, err)
		}
		if strings.Contains(w.log.String(), "handshake refused") {
			t.Error("a rehearsal is in the log")
		}
	}
}
