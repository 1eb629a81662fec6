package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/files"
)

func newStore(t *testing.T, v *certstest.Volume, set ...func(*certs.Store)) (*certs.Store, *certstest.Log) {
	t.Helper()
	s, log := unloaded(v, set...)
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, log
}

func unloaded(v *certstest.Volume, set ...func(*certs.Store)) (*certs.Store, *certstest.Log) {
	log := &certstest.Log{}
	s := &certs.Store{Source: &files.Source{TLS: []string{v.Dir}, WantTrust: true}, Log: slog.New(slog.NewTextHandler(log, nil))}
	for _, f := range set {
		f(s)
	}
	return s, log
}

// running is a store whose loop runs on the clock of a synctest bubble, with a
// hand on its change signal.
type running struct {
	*certs.Store
	t      *testing.T
	volume *certstest.Volume
	log    *certstest.Log
	change chan struct{}
}

func run(t *testing.T, content map[string][]byte, set ...func(*certs.Store)) *running {
	t.Helper()
	r := &running{t: t, volume: certstest.NewVolume(t, content), change: make(chan struct{})}
	r.Store, r.log = newStore(t, r.volume, set...)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, r.change) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// update swaps the files as the kubelet does, signals, and returns when the
// store is at rest.
func (r *running) update(content map[string][]byte) {
	r.t.Helper()
	r.volume.Update(r.t, content)
	r.signal()
}

func (r *running) signal() {
	r.change <- struct{}{}
	synctest.Wait()
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble: takes no time
	synctest.Wait()
}

func (r *running) wantServed(want certstest.Pair) {
	r.t.Helper()
	c, err := r.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		r.t.Fatal(err)
	}
	if !c.Leaf.Equal(want.Leaf) {
		r.t.Errorf("serves %s %x, want %s %x", c.Leaf.DNSNames, c.Leaf.SerialNumber, want.Leaf.DNSNames, want.Leaf.SerialNumber)
	}
}

func (r *running) wantLogged(count int, text string) {
	r.t.Helper()
	if n := r.log.Count(text); n != count {
		r.t.Errorf("%q was logged %d times, want %d:\n%s", text, n, count, r.log)
	}
}

func serverFor(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames = names
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

// flip changes a bit of the public key, which is then no point of its curve.
func flip(p certstest.Pair) []byte {
	der := slices.Clone(p.Leaf.Raw)
	key := p.Leaf.RawSubjectPublicKeyInfo
	der[bytes.Index(der, key)+len(key)-1] ^= 1
	return certstest.PEM("CERTIFICATE", der)
}

func dates(from, to time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
}

func usage(use ...x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = use }
}

// with is a Secret with one file replaced.
func with(secret map[string][]byte, name string, data []byte) map[string][]byte {
	secret[name] = data
	return secret
}

func TestStoreKeepsLastGood(t *testing.T) {
	type setting struct {
		ca, other  *certstest.CA
		good, next certstest.Pair
	}
	secret := func(x setting, name string, data ...[]byte) map[string][]byte {
		return with(certstest.Secret(x.next, x.ca), name, certstest.Join(data...))
	}
	cases := []struct {
		name    string
		content func(t *testing.T, x setting) map[string][]byte
		err     string // in the log and the status
	}{
		{"ROT-01 new certificate beside old key", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "tls.key", x.good.Key)
		}, "tls.key does not belong to the certificate in "},
		{"ROT-01 old certificate beside new key", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "tls.crt", x.good.Cert)
		}, "tls.key does not belong to the certificate in "},
		{"ROT-03 garbage certificate", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "tls.crt", []byte("garbage"))
		}, "tls.crt holds no CERTIFICATE block"},
		{"ROT-03 empty key", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "tls.key")
		}, "tls.key holds no private key"},
		{"ROT-03 one bad byte", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "tls.crt", flip(x.next))
		}, "tls.crt: block 1: "},
		{"ROT-03 key gone", func(t *testing.T, x setting) map[string][]byte {
			return map[string][]byte{"tls.crt": x.next.Cert, "ca.crt": x.ca.PEM()}
		}, "tls.crt but no tls.key"},
		{"ROT-03 emptied", func(t *testing.T, x setting) map[string][]byte { return nil }, "found: nothing"},
		{"ROT-05 expired", func(t *testing.T, x setting) map[string][]byte {
			return certstest.Secret(x.ca.Issue(t, "a", serverFor("a.example"), dates(-2*time.Hour, -time.Hour)), x.ca)
		}, "ended "},
		{"ROT-07 without serverAuth", func(t *testing.T, x setting) map[string][]byte {
			return certstest.Secret(x.ca.Issue(t, "a", serverFor("a.example"), usage(x509.ExtKeyUsageClientAuth)), x.ca)
		}, "lacks serverAuth"},
		{"ROT-07 lacks a name", func(t *testing.T, x setting) map[string][]byte {
			return certstest.Secret(x.ca.Server(t, "b.example"), x.ca)
		}, "lacks a.example"},
		{"TLS-07 bundle of whitespace", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "ca.crt", []byte(" \n"))
		}, "ca.crt holds no CERTIFICATE block"},
		{"TLS-07 one block is no certificate", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "ca.crt", x.ca.PEM(), certstest.PEM("CERTIFICATE", []byte("x")))
		}, "ca.crt: block 2"},
		{"TLS-07 a block that is no base64", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "ca.crt", x.ca.PEM(), []byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"))
		}, "1 of 2 PEM blocks can't be read"},
		{"TLS-07 a key in the bundle", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "ca.crt", x.ca.PEM(), x.next.Key)
		}, "block 2 is PRIVATE KEY"},
		{"TLS-07 a block cut off", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "ca.crt", x.ca.PEM(), x.ca.PEM()[:60])
		}, "begins or ends without the other"},
		{"TLS-07 a block cut off early", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "ca.crt", x.ca.PEM(), x.ca.PEM()[:8])
		}, "goes on after its last PEM block"},
		{"TLS-07 a leaf in the bundle", func(t *testing.T, x setting) map[string][]byte {
			leaf := x.ca.Issue(t, "leaf", func(c *x509.Certificate) { c.BasicConstraintsValid = true })
			return secret(x, "ca.crt", x.ca.PEM(), leaf.Cert)
		}, "certificate 2 (CN=leaf) is not a CA"},
		{"TLS-07 bundle gone", func(t *testing.T, x setting) map[string][]byte {
			return certstest.Secret(x.next, nil)
		}, "client certificates are asked for but"},
		{"TLS-21 garbled CRL", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "crl.pem", []byte("garbage"))
		}, "crl.pem holds no X509 CRL block"},
		{"TLS-22 CRL signed by a namesake", func(t *testing.T, x setting) map[string][]byte {
			return secret(x, "crl.pem", certstest.NewCA(t, "ca").CRL(t, time.Now().Add(time.Hour)))
		}, "CRL 1 (CN=ca): it is not signed by a CA of the bundle"},
		{"wrong order", func(t *testing.T, x setting) map[string][]byte {
			mid := x.ca.Intermediate(t, "mid")
			pair := mid.Server(t, "a.example")
			m := certstest.Secret(pair, x.ca)
			return with(m, "tls.crt", certstest.Join(certstest.PEM("CERTIFICATE", pair.Leaf.Raw), x.other.PEM(), mid.PEM()))
		}, "certificate 2 did not sign certificate 1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := certstest.NewCA(t, "ca")
				x := setting{ca, certstest.NewCA(t, "other"), ca.Server(t, "a.example"), ca.Server(t, "a.example")}
				r := run(t, certstest.Secret(x.good, ca))
				pass(time.Minute)
				before := r.Status()
				r.update(c.content(t, x))
				pass(time.Hour) // ROT-10: many retries, one line
				r.wantServed(x.good)
				r.wantLogged(1, "reload refused")
				r.wantLogged(1, c.err)
				if err := r.Ready(); err != nil { // OPS-10
					t.Errorf("not ready with last good: %v", err)
				}
				st := r.Status() // ROT-04
				if st.OK || !strings.Contains(st.Err, c.err) || st.Generation != before.Generation || !st.LastSuccess.Equal(before.LastSuccess) {
					t.Errorf("status %+v after %+v", st, before)
				}
				r.volume.Update(t, certstest.Secret(x.next, ca))
				pass(30 * time.Second) // the longest pause between retries; no signal
				r.wantServed(x.next)
				r.wantLogged(1, "reload refused")
				r.wantLogged(1, "reload works again")
				if st := r.Status(); !st.OK || st.Err != "" || !st.LastSuccess.After(before.LastSuccess) {
					t.Errorf("status %+v after recovery", st)
				}
			})
		})
	}
}

// ROT-01: when the second half lands it is served within the pause of a retry.
func TestStoreServesTheSecondHalfSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca")
		good, next := ca.Server(t, "a.example"), ca.Server(t, "a.example")
		r := run(t, certstest.Secret(good, ca))
		pass(time.Minute)
		r.update(with(certstest.Secret(good, ca), "tls.crt", next.Cert))
		r.wantServed(good)
		r.volume.Update(t, certstest.Secret(next, ca))
		pass(150 * time.Millisecond)
		r.wantServed(next)
	})
}

// What can't serve is no start; the error says which file and why.
func TestStoreRefusesToStart(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	good := ca.Server(t, "a.example")
	cases := []struct {
		name    string
		content map[string][]byte
		want    string
	}{
		{"expired", certstest.Secret(ca.Issue(t, "a", serverFor("a.example"), dates(-2*time.Hour, -time.Hour)), ca), "ended "},
		{"ROT-14 not yet valid by a minute", certstest.Secret(ca.Issue(t, "a", serverFor("a.example"), dates(time.Minute, time.Hour)), ca), "not valid before "},
		{"TLS-06 no CA", certstest.Secret(good, nil), "mount ca.crt"},
		{"TLS-07 empty bundle", with(certstest.Secret(good, ca), "ca.crt", nil), "holds no CERTIFICATE block"},
		{"TLS-21 unreadable CRL", with(certstest.Secret(good, ca), "crl.pem", nil), "holds no X509 CRL block"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, _ := unloaded(certstest.NewVolume(t, c.content))
			if err := s.Load(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if s.Ready() == nil { // OPS-10
				t.Error("ready without a material")
			}
		})
	}
}

// A refused start must not depend on ca.crt when no client certificate is wanted.
func TestStoreWithoutTrustIgnoresCA(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, with(certstest.Secret(ca.Server(t, "a"), ca), "crl.pem", []byte("garbage")))
	s, _ := newStore(t, v, func(s *certs.Store) { s.Source = &files.Source{TLS: []string{v.Dir}} })
	if s.ClientCAs() != nil {
		t.Error("a ca.crt that happens to lie there is trusted")
	}
	if _, err := s.VerifyPeer(ca.Client(t, "c").Chain(t), x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("a client of it was accepted")
	}
}

// ROT-06: staged, then swapped at its NotBefore without any event. Signals
// before that make no further line (ROT-10), and a revocation that comes with
// it or after it does not wait (TLS-19).
func TestStoreStagesFutureCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca")
		client := ca.Client(t, "client")
		good := ca.Server(t, "a.example")
		future := ca.Issue(t, "a", serverFor("a.example"), dates(time.Hour, 48*time.Hour))
		r := run(t, certstest.Secret(good, ca))
		pass(time.Minute)
		generation := r.Generation()

		r.update(certstest.Secret(future, ca))
		for range 5 {
			r.signal()
			pass(time.Minute)
		}
		r.wantServed(good)
		r.wantLogged(1, "certificate staged")
		if st := r.Status(); !st.OK || !st.Staged.Equal(future.Leaf.NotBefore) || st.Generation != generation {
			t.Errorf("status %+v, want it staged until %s", st, future.Leaf.NotBefore)
		}

		r.update(with(certstest.Secret(future, ca), "crl.pem", ca.CRL(t, time.Now().Add(96*time.Hour), client.Leaf)))
		r.wantServed(good)
		if _, err := r.VerifyPeer(client.Chain(t), x509.ExtKeyUsageClientAuth); err == nil {
			t.Error("a revocation waits for the staged certificate")
		}
		if r.Generation() == generation {
			t.Error("the trust changed and the generation did not: old sessions are resumed")
		}

		pass(time.Until(future.Leaf.NotBefore) - time.Nanosecond)
		r.wantServed(good)
		pass(time.Nanosecond)
		r.wantServed(future)
		if st := r.Status(); !st.Staged.IsZero() || !st.Since.Equal(future.Leaf.NotBefore) {
			t.Errorf("status %+v after the swap", st)
		}
	})
}

// A staged replacement that is taken back is forgotten.
func TestStoreForgetsStaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca")
		good := ca.Server(t, "a.example")
		r := run(t, certstest.Secret(good, ca))
		pass(time.Minute)
		r.update(certstest.Secret(ca.Issue(t, "a", serverFor("a.example"), dates(time.Hour, 2*time.Hour)), ca))
		pass(time.Minute)
		r.update(certstest.Secret(good, ca))
		if !r.Status().Staged.IsZero() {
			t.Error("still staged")
		}
		pass(2 * time.Hour)
		r.wantServed(good)
	})
}

// ROT-07: better a certificate without a name than one that has ended.
func TestStoreTakesTheOnlyUnexpiredPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca", dates(0, 96*time.Hour))
		r := run(t, certstest.Secret(ca.Server(t, "a.example"), ca))
		pass(24 * time.Hour)
		if err := r.Ready(); err != nil {
			t.Errorf("not ready at NotAfter: %v", err) // ROT-14: the last second counts
		}
		pass(time.Second)
		if r.Ready() == nil { // OPS-10
			t.Error("ready with an expired certificate")
		}
		r.wantLogged(1, "certificate expired") // without any event
		next := ca.Server(t, "b.example")
		r.update(certstest.Secret(next, ca))
		r.wantServed(next)
		r.wantLogged(1, "replacement lacks names")
		if err := r.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// ROT-07: the option allows it; so does a wildcard that covers the name.
func TestStoreAllowsNameLoss(t *testing.T) {
	allow := func(s *certs.Store) { s.AllowNameLoss = true }
	cases := []struct {
		name      string
		old, next string
		set       []func(*certs.Store)
		served    bool
	}{
		{"option", "a.example", "b.example", []func(*certs.Store){allow}, true},
		{"wildcard covers", "a.example", "*.example", nil, true},
		{"wildcard covers one label", "x.a.example", "*.example", nil, false},
		{"wildcard lost", "*.example", "a.example", nil, false},
		{"other case", "A.example", "a.EXAMPLE", nil, true},
		{"address lost", "127.0.0.1", "127.0.0.2", nil, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := certstest.NewCA(t, "ca")
				old, next := ca.Server(t, c.old), ca.Server(t, c.next)
				r := run(t, certstest.Secret(old, ca), c.set...)
				pass(time.Minute)
				r.update(certstest.Secret(next, ca))
				if c.served {
					r.wantServed(next)
				} else {
					r.wantServed(old)
				}
			})
		})
	}
}

// ROT-10: the same content makes no swap and no line, another one makes both.
func TestStoreIgnoresSameContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca")
		pair, next := ca.Server(t, "a.example"), ca.Server(t, "a.example")
		content := with(certstest.Secret(pair, ca), "spare.crt", next.Cert) // a certificate without key: one line
		r := run(t, content)
		pass(time.Minute)
		before, changed := r.log.String(), r.Changed()
		for range 10 {
			r.update(content)
			pass(time.Second)
		}
		select {
		case <-changed:
			t.Error("the same content was swapped in")
		default:
		}
		if r.log.String() != before {
			t.Errorf("the log grew:\n%s", r.log)
		}
		r.wantLogged(1, "spare.crt has no key beside it and is not served")

		r.update(with(certstest.Secret(next, ca), "spare.crt", next.Cert))
		<-changed
		r.wantLogged(1, "spare.crt")
		r.wantLogged(2, `"certificate in service"`)
		_, line, _ := strings.Cut(r.log.String()[len(before):], `"certificate in service"`)
		for _, want := range []string{
			"generation=" + r.Generation(), "serial=" + next.TLS.Leaf.SerialNumber.Text(16),
			"old_serial=" + pair.Leaf.SerialNumber.Text(16), "expires=2000-01-02", "source=" + r.volume.Dir + "/tls.crt",
		} {
			if !strings.Contains(line, " "+want) {
				t.Errorf("%q is not in%s", want, line)
			}
		}
	})
}

// TLS-20: a CRL that becomes overdue while nothing else happens is an alarm,
// and refuses the certificates of its issuer until a newer one is there.
func TestStoreNoticesOverdueCRL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
		server, peer, unaffected := ca.Server(t, "a.example"), ca.Client(t, "x").Chain(t), other.Client(t, "y").Chain(t)
		content := func(due time.Duration) map[string][]byte {
			return with(with(certstest.Secret(server, nil), "ca.crt", certstest.Join(ca.PEM(), other.PEM())), "crl.pem", ca.CRL(t, time.Now().Add(due)))
		}
		r := run(t, content(time.Hour))
		verdict := func(chain []*x509.Certificate) string {
			_, err := r.VerifyPeer(chain, x509.ExtKeyUsageClientAuth)
			return reason(t, err)
		}
		pass(time.Hour)
		if got := verdict(peer); got != "" {
			t.Errorf("%q at nextUpdate", got)
		}
		r.wantLogged(0, "CRL overdue")
		pass(time.Second)
		if got := verdict(peer); got != "crl_expired" {
			t.Errorf("%q after nextUpdate, want crl_expired", got)
		}
		if got := verdict(unaffected); got != "" {
			t.Errorf("%q for another issuer", got)
		}
		pass(time.Hour)
		r.wantLogged(1, `level=ERROR msg="CRL overdue"`)
		if w := r.Status().Warnings; len(w) != 1 || !strings.Contains(w[0], "the CRL of CN=ca was due") {
			t.Errorf("warnings %q", w)
		}
		r.update(content(time.Hour))
		if got := verdict(peer); got != "" {
			t.Errorf("%q with a newer CRL", got)
		}
		if w := r.Status().Warnings; len(w) != 0 {
			t.Errorf("warnings %q", w)
		}
	})
}

// TLS-21: a list that was in service does not go away unnoticed, unless its CA
// goes too.
func TestStoreKeepsCRL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
		server, revoked := ca.Server(t, "a.example"), ca.Client(t, "x")
		due := time.Now().Add(time.Hour)
		both := certstest.Join(ca.PEM(), other.PEM())
		lists := certstest.Join(ca.CRL(t, due, revoked.Leaf), other.CRL(t, due))
		content := func(cas, crls []byte) map[string][]byte {
			m := with(certstest.Secret(server, nil), "ca.crt", cas)
			if crls != nil {
				m["crl.pem"] = crls
			}
			return m
		}
		r := run(t, content(both, lists))
		r.wantLogged(0, "no CRL")
		pass(time.Minute)
		r.update(content(both, nil))
		r.wantLogged(1, "crl.pem: the CRL of CN=ca is gone")
		pass(time.Minute)
		r.update(content(both, other.CRL(t, due)))
		if _, err := r.VerifyPeer(revoked.Chain(t), x509.ExtKeyUsageClientAuth); reason(t, err) != "peer_revoked" {
			t.Errorf("got %v after its CRL was removed, want it revoked", err)
		}
		pass(time.Minute)
		r.update(content(both, lists))
		r.wantLogged(1, "reload works again")
		pass(time.Minute)
		r.update(content(other.PEM(), other.CRL(t, due)))
		if st := r.Status(); !st.OK {
			t.Errorf("a CA may go with its list: %s", st.Err)
		}
	})
}

// TLS-21: a folder without a CRL is said at the start.
func TestStoreSaysThatThereIsNoCRL(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	_, log := newStore(t, certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), ca)))
	if log.Count("without a CRL no client certificate is revoked before it ends") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// What ends while nothing can be loaded is said all the same, and once.
func TestStoreSaysExpiryWhileReloadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewCA(t, "ca")
		r := run(t, certstest.Secret(ca.Issue(t, "a", serverFor("a.example"), dates(-time.Hour, time.Hour)), ca))
		pass(time.Minute)
		r.update(map[string][]byte{"tls.crt": []byte("garbage"), "tls.key": nil, "ca.crt": ca.PEM()})
		pass(30 * time.Minute)
		r.wantLogged(0, "certificate expired")
		pass(time.Hour)
		r.wantLogged(1, "certificate expired")
		r.wantLogged(1, "no CRL")
	})
}

// TLS-10, OPS-10: every CA expired.
func TestNotReadyWhenEveryCAExpired(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	ended := certstest.NewCA(t, "ended", dates(-2*time.Hour, -time.Hour))
	store, log := newStore(t, certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), ended)))
	if err := store.Ready(); err == nil || !strings.Contains(err.Error(), "every CA") {
		t.Errorf("ready: %v", err)
	}
	if log.Count(`level=WARN msg="CA expired"`) != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// What a status tells of the material, for metrics: each name once, though
// two CAs bear the same during a rotation.
func TestStatus(t *testing.T) {
	ca, next := certstest.NewCA(t, "ca"), certstest.NewCA(t, "ca")
	pair := ca.Server(t, "a.example", "127.0.0.1")
	v := certstest.NewVolume(t, with(certstest.Secret(pair, nil), "ca.crt", certstest.Join(ca.PEM(), next.PEM(), ca.PEM())))
	store, _ := newStore(t, v)
	st := store.Status()
	if st.Source != v.Dir || st.What != "certificates" || !st.OK || st.Since.IsZero() || st.Generation != store.Generation() {
		t.Errorf("status %+v", st)
	}
	var got []string
	for _, c := range st.Certificates {
		got = append(got, c.Use+" "+c.Name)
	}
	if want := []string{"server 001/tls", "client_ca ca", "client_ca ca " + next.Cert.SerialNumber.Text(16)}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if c := st.Certificates[0]; !slices.Equal(c.Names, []string{"a.example", "127.0.0.1"}) || !c.NotAfter.Equal(pair.Leaf.NotAfter) ||
		c.Serial != pair.Leaf.SerialNumber.Text(16) || c.Subject != "CN=a.example" {
		t.Errorf("certificate %+v", c)
	}
}

// Reloads while handshakes read, under the race detector (ROT-18).
func TestStoreUnderLoad(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	client := ca.Client(t, "c").Chain(t)
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a.example"), ca))
	r, _ := newStore(t, v)
	change := make(chan struct{}, 1)
	done := make(chan error, 1)
	ctx, end := context.WithCancel(t.Context())
	go func() { done <- r.Run(ctx, change) }()
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
				if _, err := r.GetCertificate(&tls.ClientHelloInfo{}); err != nil {
					t.Error(err)
				}
				if st := r.Status(); len(st.Certificates) != 2 {
					t.Errorf("status %+v", st)
				}
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
		change <- struct{}{}
		<-changed
	}
	close(stop)
	wg.Wait()
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A source that says only whom to trust: nothing is presented, everything else
// works.
func TestStoreOfTrustAlone(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, map[string][]byte{"ca.crt": ca.PEM()})
	s := &certs.Store{Source: &files.Source{WantTrust: true, ClientCA: v.Dir, OwnDomain: "td.example"}, Log: slog.New(slog.DiscardHandler)}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	var own *certs.OwnError
	if _, err := s.GetCertificate(&tls.ClientHelloInfo{}); !errors.As(err, &own) {
		t.Errorf("presents: %v", err)
	}
	if _, err := s.GetClientCertificate(&tls.CertificateRequestInfo{}); !errors.As(err, &own) {
		t.Errorf("presents to a server: %v", err)
	}
	client := ca.Client(t, "c", "spiffe://td.example/c")
	if _, err := s.VerifyPeer(client.Chain(t), x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if st := s.Status(); len(st.Certificates) != 1 || st.Certificates[0].Use != "client_ca" {
		t.Errorf("status %+v", st.Certificates)
	}
	before, next := s.Generation(), certstest.NewCA(t, "next")
	v.Update(t, map[string][]byte{"ca.crt": next.PEM()})
	if err := s.Load(t.Context()); err != nil || s.Generation() == before {
		t.Errorf("%v, generation %s", err, s.Generation())
	}
	if _, err := s.VerifyPeer(client.Chain(t), x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("a CA that is gone is believed")
	}
}

// A source may say whom to trust though nobody asks: then nobody is.
func TestStorePresentsOnly(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a.example"), ca))
	log := &certstest.Log{}
	s := &certs.Store{Source: &files.Source{TLS: []string{v.Dir}, WantTrust: true}, PresentOnly: true, Log: slog.New(slog.NewTextHandler(log, nil))}
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.VerifyPeer(ca.Client(t, "c").Chain(t), x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("a client is believed")
	}
	if st := s.Status(); len(st.Certificates) != 1 || st.Certificates[0].Use != "server" || log.Count("CRL") > 0 {
		t.Errorf("status %+v, log\n%s", st.Certificates, log)
	}
	before := s.Generation()
	v.Update(t, certstest.Secret(ca.Server(t, "a.example"), ca))
	if err := s.Load(t.Context()); err != nil || s.Generation() == before {
		t.Errorf("%v, generation %s", err, s.Generation())
	}
}
