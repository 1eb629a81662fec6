package files_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/files"
)

func newStore(t *testing.T, v *certstest.Volume) *certs.Store {
	t.Helper()
	s := &certs.Store{Source: &files.Source{TLS: []string{v.Dir}, WantTrust: true}, Log: slog.New(slog.DiscardHandler)}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// running is a store whose loop runs, with a hand on its change signal.
type running struct {
	*certs.Store
	log    *certstest.Log
	change chan struct{}
}

func run(t *testing.T, v *certstest.Volume, set ...func(*certs.Store)) *running {
	t.Helper()
	r := &running{log: &certstest.Log{}, change: make(chan struct{}, 1)}
	r.Store = &certs.Store{Source: &files.Source{TLS: []string{v.Dir}, WantTrust: true}, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, f := range set {
		f(r.Store)
	}
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context(), r.change) }()
	t.Cleanup(func() { <-done })
	return r
}

// until polls for a state that a signal leads to.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *running) serves(t *testing.T, name string) string {
	t.Helper()
	c, err := r.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf.SerialNumber.String()
}

func TestStoreKeepsLastGood(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	good := ca.Server(t, "a.example")
	next := ca.Server(t, "a.example")
	expired := ca.Issue(t, "a", serverFor("a.example"), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	noServerAuth := ca.Issue(t, "a", serverFor("a.example"), func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	secret := func(name string, data []byte) map[string][]byte {
		m := certstest.Secret(next, ca)
		m[name] = data
		return m
	}
	otherCA := certstest.NewCA(t, "other")
	cases := []struct {
		name    string
		content map[string][]byte
	}{
		{"ROT-01 new certificate beside old key", map[string][]byte{"tls.crt": next.Cert, "tls.key": good.Key, "ca.crt": ca.PEM()}},
		{"ROT-03 garbage certificate", secret("tls.crt", []byte("garbage"))},
		{"ROT-03 empty key", secret("tls.key", nil)},
		{"ROT-03 one bad byte", secret("tls.crt", flip(next.Cert))},
		{"ROT-05 expired", certstest.Secret(expired, ca)},
		{"ROT-07 without serverAuth", certstest.Secret(noServerAuth, ca)},
		{"ROT-07 lacks a name", certstest.Secret(ca.Server(t, "b.example"), ca)},
		{"TLS-07 bundle of whitespace", secret("ca.crt", []byte(" \n"))},
		{"TLS-07 one unreadable block", secret("ca.crt", certstest.Join(ca.PEM(), certstest.PEM("CERTIFICATE", []byte("x"))))},
		{"TLS-07 a block that is no base64", secret("ca.crt", certstest.Join(ca.PEM(), []byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n")))},
		{"TLS-07 a key in the bundle", secret("ca.crt", certstest.Join(ca.PEM(), next.Key))},
		{"TLS-07 a block cut off", secret("ca.crt", certstest.Join(ca.PEM(), ca.PEM()[:60]))},
		{"TLS-21 garbage CRL", secret("crl.pem", []byte("garbage"))},
		{"TLS-22 CRL of another issuer", secret("crl.pem", otherCA.CRL(t, time.Now().Add(time.Hour)))},
		{"wrong order", secret("tls.crt", certstest.Join(otherCA.PEM(), next.Cert))},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := certstest.NewVolume(t, certstest.Secret(good, ca))
			r := run(t, v)
			loaded := r.Status().LastSuccess
			v.Update(t, c.content)
			r.change <- struct{}{}
			until(t, "refusal", func() bool { return !r.Status().OK })
			if got := r.serves(t, "a.example"); got != good.Leaf.SerialNumber.String() {
				t.Errorf("serves %s, want the last good", got)
			}
			if err := r.Ready(); err != nil { // OPS-10
				t.Errorf("not ready with last good: %v", err)
			}
			// ROT-04 and ROT-10: several retries, one line; recovery clears all.
			until(t, "retries", func() bool { return r.log.Count("reload refused") == 1 })
			if st := r.Status(); st.Err == "" || st.LastSuccess.Before(loaded) {
				t.Errorf("status %+v does not tell the failure", st)
			}
			v.Update(t, certstest.Secret(next, ca))
			until(t, "recovery without a signal", func() bool { return r.Status().OK })
			if got := r.serves(t, "a.example"); got != next.Leaf.SerialNumber.String() {
				t.Errorf("serves %s after recovery, want the new one", got)
			}
			until(t, "recovery line", func() bool { return r.log.Count("reload works again") == 1 })
			if n := r.log.Count("reload refused"); n != 1 {
				t.Errorf("%d lines about one failure, want 1", n)
			}
		})
	}
}

// flip changes a byte in the middle of the base64.
func flip(pem []byte) []byte {
	out := slices.Clone(pem)
	i := len(out) / 2
	if out[i] == 'A' {
		out[i] = 'B'
	} else {
		out[i] = 'A'
	}
	return out
}

func serverFor(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames = names
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

// ROT-06: staged, then swapped at its NotBefore without any event.
func TestStoreStagesFutureCertificate(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	good := ca.Server(t, "a.example")
	starts := time.Now().Add(2500 * time.Millisecond).Truncate(time.Second).Add(time.Second)
	future := ca.Issue(t, "a", serverFor("a.example"), func(c *x509.Certificate) { c.NotBefore = starts })
	v := certstest.NewVolume(t, certstest.Secret(good, ca))
	r := run(t, v)
	v.Update(t, certstest.Secret(future, ca))
	r.change <- struct{}{}
	until(t, "staging", func() bool { return r.log.Count("certificate staged") == 1 })
	if got := r.serves(t, "a.example"); got != good.Leaf.SerialNumber.String() && time.Now().Before(starts) {
		t.Error("a future certificate was served")
	}
	until(t, "swap", func() bool { return r.serves(t, "a.example") == future.Leaf.SerialNumber.String() })
	if time.Now().Before(starts) {
		t.Error("served before its NotBefore")
	}
}

// ROT-07: better a certificate without a name than one that has ended.
func TestStoreTakesTheOnlyUnexpiredPair(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	old := ca.Server(t, "a.example")
	v := certstest.NewVolume(t, certstest.Secret(old, ca))
	var mu sync.Mutex
	now := time.Now()
	r := run(t, v, func(s *certs.Store) {
		s.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	mu.Lock()
	now = old.Leaf.NotAfter.Add(time.Second)
	mu.Unlock()
	if r.Ready() == nil { // OPS-10
		t.Error("ready with an expired certificate")
	}
	later := ca.Issue(t, "b", serverFor("b.example"), func(c *x509.Certificate) { c.NotAfter = now.Add(time.Hour) })
	v.Update(t, certstest.Secret(later, ca))
	r.change <- struct{}{}
	until(t, "swap", func() bool { return r.serves(t, "b.example") == later.Leaf.SerialNumber.String() })
	if r.log.Count("lacks names") != 1 {
		t.Error("no alarm")
	}
}

// ROT-07: the option allows it.
func TestStoreAllowsNameLoss(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a.example"), ca))
	r := run(t, v, func(s *certs.Store) { s.AllowNameLoss = true })
	next := ca.Server(t, "b.example")
	v.Update(t, certstest.Secret(next, ca))
	r.change <- struct{}{}
	until(t, "swap", func() bool { return r.serves(t, "") == next.Leaf.SerialNumber.String() })
}

// ROT-10: the same content makes no swap and no line.
func TestStoreIgnoresSameContent(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := ca.Server(t, "a.example")
	v := certstest.NewVolume(t, certstest.Secret(pair, ca))
	r := run(t, v)
	before := r.Changed()
	v.Update(t, certstest.Secret(pair, ca))
	first := r.Status().LastSuccess
	r.change <- struct{}{}
	until(t, "another load", func() bool { return r.Status().LastSuccess.After(first) })
	select {
	case <-before:
		t.Error("the same content was swapped in")
	default:
	}
	if n := r.log.Count("certificate in service"); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func TestVerifyPeer(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	now := time.Now()
	dates := func(from, to time.Time) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }
	}
	usage := func(use ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = use }
	}
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
	good, revoked := ca.Client(t, "good"), ca.Client(t, "revoked")
	other := certstest.NewCA(t, "other")
	sameSerial := other.Issue(t, "other", func(c *x509.Certificate) { c.SerialNumber = revoked.Leaf.SerialNumber })
	overdue := certstest.NewCA(t, "overdue")
	ended := certstest.NewCA(t, "ended", dates(now.Add(-2*time.Hour), now.Add(-time.Hour)))
	constrained := ca.Intermediate(t, "constrained", func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"a.example"}, []string{"a.example"}, true
	})
	domainA := certstest.NewCA(t, "domain a")
	// Same name as ca, other key: a CRL belongs to a key.
	twin := certstest.NewCA(t, "ca")
	server := ca.Server(t, "server")
	v := certstest.NewVolume(t, map[string][]byte{
		"tls.crt": server.Cert, "tls.key": server.Key,
		"ca.crt":               certstest.Join(ca.PEM(), other.PEM(), overdue.PEM(), ended.PEM(), twin.PEM()),
		"crl.pem":              certstest.Join(ca.CRL(t, now.Add(time.Hour), revoked.Leaf), overdue.CRL(t, now.Add(-time.Minute))),
		"bundle.a.example.pem": domainA.PEM(),
	})
	store := newStore(t, v)
	cases := []struct {
		name   string
		peer   certstest.Pair
		reason string // "" for accepted
		text   string
	}{
		{"good", good, "", ""},
		{"through an intermediate", ca.Intermediate(t, "mid").Client(t, "x"), "", ""},
		{"stranger", certstest.NewCA(t, "stranger").Client(t, "x"), "peer_untrusted", ""},
		{"ended", ca.Issue(t, "x", dates(now.Add(-2*time.Hour), now.Add(-time.Minute))), "peer_expired", "ended"},
		{"ROT-14 not yet, by a minute", ca.Issue(t, "x", dates(now.Add(time.Minute), now.Add(time.Hour))), "peer_expired", "not valid before"},
		{"TLS-08 CA", ca.Issue(t, "x", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "peer_untrusted", "CA's certificate"},
		{"TLS-08 certSign", ca.Issue(t, "x", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "peer_untrusted", "CA's certificate"},
		{"TLS-08 crlSign", ca.Issue(t, "x", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), "peer_untrusted", "CA's certificate"},
		{"TLS-09 serverAuth only", ca.Issue(t, "x", usage(x509.ExtKeyUsageServerAuth)), "peer_untrusted", "lacks clientAuth"},
		{"TLS-09 without the extension", ca.Issue(t, "x", usage()), "", ""},
		{"TLS-10 expired CA", ended.Client(t, "x"), "peer_expired", ""},
		{"TLS-11 DNS outside the constraint", constrained.Issue(t, "x", func(c *x509.Certificate) { c.DNSNames = []string{"b.example"} }), "peer_untrusted", ""},
		{"TLS-11 SPIFFE ID outside the constraint", constrained.Client(t, "x", "spiffe://b.example/x"), "peer_untrusted", ""},
		{"TLS-11 inside", constrained.Client(t, "x", "spiffe://sub.a.example/x"), "", ""},
		{"TLS-19 revoked", revoked, "peer_revoked", "revoked"},
		{"TLS-23 same serial from another CA", sameSerial, "", ""},
		{"TLS-23 same serial from a CA of the same name", twin.Issue(t, "x", func(c *x509.Certificate) { c.SerialNumber = revoked.Leaf.SerialNumber }), "", ""},
		{"TLS-20 CRL overdue", overdue.Client(t, "x"), "crl_expired", "was due"},
		{"SPI-03 own domain", domainA.Client(t, "x", "spiffe://a.example/x"), "", ""},
		{"SPI-03 another domain's root", domainA.Client(t, "x", "spiffe://b.example/x"), "peer_untrusted", ""},
		{"SPI-03 any root for a domain with a bundle", ca.Client(t, "x", "spiffe://a.example/x"), "peer_untrusted", ""},
		{"no SPIFFE ID from a domain's root", domainA.Issue(t, "x", uri("https://a.example/x")), "peer_untrusted", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := store.VerifyPeer(c.peer.Chain(t), x509.ExtKeyUsageClientAuth)
			var refused *certs.PeerError
			got := ""
			if errors.As(err, &refused) {
				got = refused.Reason()
			} else if err != nil {
				t.Fatalf("%v is no PeerError", err)
			}
			if got != c.reason || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %q (%v), want %q with %q", got, err, c.reason, c.text)
			}
		})
	}
	if w := store.Status().Warnings; len(w) != 2 { // the ended CA (TLS-10) and the overdue CRL
		t.Errorf("warnings %q, want 2", w)
	}
	if _, err := store.VerifyPeer(nil, x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("no certificate was accepted")
	}
	var long []*x509.Certificate // TLS-25
	for range 100 {
		long = append(long, good.Leaf)
	}
	if _, err := store.VerifyPeer(long, x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("a chain of 100 was accepted")
	}
}

// TLS-10, OPS-10: every CA expired.
func TestNotReadyWhenEveryCAExpired(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	ended := certstest.NewCA(t, "ended", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	store := newStore(t, certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), ended)))
	if err := store.Ready(); err == nil || !strings.Contains(err.Error(), "every CA") {
		t.Errorf("ready: %v", err)
	}
}

// TLS-16: however the name is spelled, it is the same certificate.
func TestCertificateByName(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	a, b, wild := ca.Server(t, "a.example"), ca.Server(t, "b.example"), ca.Server(t, "*.c.example")
	v := certstest.NewVolume(t, map[string][]byte{
		"tls.crt": a.Cert, "tls.key": a.Key, "b.crt": b.Cert, "b.key": b.Key, "0.crt": wild.Cert, "0.key": wild.Key, "ca.crt": ca.PEM(),
	})
	store := newStore(t, v)
	for name, want := range map[string]certstest.Pair{
		"": a, "a.example": a, "b.example": b, "B.Example": b, "b.example.": b, "x.c.example": wild, "x.y.c.example": a, "unknown": a,
	} {
		got, err := store.GetCertificate(&tls.ClientHelloInfo{ServerName: name,
			SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}})
		if err != nil || got.Leaf.SerialNumber.Cmp(want.Leaf.SerialNumber) != 0 {
			t.Errorf("%q: got %v, want %v", name, got.Leaf.Subject, want.Leaf.Subject)
		}
	}
}

// Reloads while handshakes read, under the race detector (ROT-18).
func TestStoreUnderLoad(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	client := ca.Client(t, "c").Chain(t)
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a.example"), ca))
	r := run(t, v)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r.serves(t, "a.example")
				if _, err := r.VerifyPeer(client, x509.ExtKeyUsageClientAuth); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		changed := r.Changed()
		v.Update(t, certstest.Secret(ca.Server(t, "a.example"), ca))
		r.change <- struct{}{}
		<-changed
	}
	close(stop)
	wg.Wait()
}

func FuzzParseCertificates(f *testing.F) {
	ca := certstest.NewCA(f, "ca")
	f.Add(ca.PEM())
	f.Add(certstest.Join(ca.PEM(), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := certs.ParseCertificates("f", data)
		if err == nil && (len(list) == 0 || strings.Count(string(data), "-----BEGIN ") != len(list)) {
			t.Errorf("accepted %d certificates of %q", len(list), data)
		}
	})
}
