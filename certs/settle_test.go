package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/certs/certstest"
)

// twoPairs is a folder with the default pair, and one more.
func twoPairs(a, b certstest.Pair, ca *certstest.CA) map[string][]byte {
	m := certstest.Secret(a, ca)
	m["b.crt"], m["b.key"] = b.Cert, b.Key
	return m
}

// wantFor says which pair a client gets that asks for a name.
func (r *running) wantFor(name string, want certstest.Pair) {
	r.t.Helper()
	c, err := r.GetCertificate(&tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}})
	if err != nil {
		r.t.Fatal(err)
	}
	if !c.Leaf.Equal(want.Leaf) {
		r.t.Errorf("%s gets %s %x, want %s %x", name, c.Leaf.DNSNames, c.Leaf.SerialNumber, want.Leaf.DNSNames, want.Leaf.SerialNumber)
	}
}

func (r *running) wantWarnings(count int, text string) {
	r.t.Helper()
	list := r.Status().Warnings
	if len(list) != count || !strings.Contains(strings.Join(list, "\n"), text) {
		r.t.Errorf("warnings %q, want %d with %q", list, count, text)
	}
}

// ROT-19: each pair is judged alone. The default pair decides about start.
func TestPairsAreJudgedAlone(t *testing.T) {
	const hour = time.Hour
	type made struct {
		ca        *certstest.CA
		a, a2, b2 certstest.Pair
		b         func(from, to time.Duration) certstest.Pair
	}
	prepare := func(t *testing.T) made {
		ca := certstest.NewCA(t, "ca")
		issue := func(name string, from, to time.Duration) certstest.Pair {
			return ca.Issue(t, name, serverFor(name), dates(from, to))
		}
		return made{ca, issue("a.example", -hour, 12*hour), issue("a.example", -hour, 48*hour), issue("b.example", -hour, 48*hour),
			func(from, to time.Duration) certstest.Pair { return issue("b.example", from, to) }}
	}
	spoiled := func(content map[string][]byte, names ...string) map[string][]byte {
		m := maps.Clone(content)
		for _, n := range names {
			m[n] = []byte("garbage")
		}
		return m
	}
	without := func(content map[string][]byte, names ...string) map[string][]byte {
		m := maps.Clone(content)
		for _, n := range names {
			delete(m, n)
		}
		return m
	}
	cases := []struct {
		name string
		do   func(t *testing.T, x made)
	}{
		{"ended at the start", func(t *testing.T, x made) {
			r := run(t, twoPairs(x.a, x.b(-2*hour, -hour), x.ca))
			r.wantFor("a.example", x.a)
			r.wantFor("b.example", x.a)
			r.wantWarnings(1, "b.crt ended")
			r.wantLogged(1, `level=ERROR msg="pair refused, it is not served"`)
			if err := r.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
			r.update(twoPairs(x.a, x.b2, x.ca))
			r.wantFor("b.example", x.b2)
			r.wantWarnings(0, "")
		}},
		{"not yet valid at the start", func(t *testing.T, x made) {
			b := x.b(hour, 48*hour)
			r := run(t, twoPairs(x.a, b, x.ca))
			r.wantFor("b.example", x.a)
			if r.Status().Staged.IsZero() {
				t.Error("nothing is staged")
			}
			pass(hour + time.Second)
			r.wantFor("b.example", b)
		}},
		{"garbled at the start", func(t *testing.T, x made) {
			r := run(t, spoiled(twoPairs(x.a, x.b2, x.ca), "b.crt"))
			r.wantFor("a.example", x.a)
			r.wantWarnings(1, "b.crt")
		}},
		{"ends while the default is renewed", func(t *testing.T, x made) {
			b := x.b(-hour, 3*hour)
			r := run(t, twoPairs(x.a, b, x.ca))
			pass(4 * hour)
			r.update(twoPairs(x.a2, b, x.ca))
			r.wantFor("a.example", x.a2)
			pass(12 * hour)
			r.wantFor("a.example", x.a2)
			if err := r.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
		}},
		{"garbled while the default is renewed", func(t *testing.T, x made) {
			b := x.b(-hour, 20*hour)
			r := run(t, twoPairs(x.a, b, x.ca))
			for _, broken := range []map[string][]byte{
				spoiled(twoPairs(x.a2, x.b2, x.ca), "b.key"), without(twoPairs(x.a2, x.b2, x.ca), "b.crt"),
				spoiled(twoPairs(x.a2, x.b2, x.ca), "b.crt", "b.key"),
			} {
				pass(time.Minute)
				r.update(broken)
				r.wantFor("a.example", x.a2)
				r.wantFor("b.example", b)
				r.wantWarnings(1, "b.")
				if s := r.Status(); !s.OK {
					t.Errorf("status %+v", s.Status)
				}
			}
			pass(time.Minute)
			r.update(twoPairs(x.a2, x.b2, x.ca))
			r.wantFor("b.example", x.b2)
			r.wantWarnings(0, "")
		}},
		{"taken away", func(t *testing.T, x made) {
			b := x.b(-hour, 3*hour)
			r := run(t, twoPairs(x.a, b, x.ca))
			pass(time.Minute)
			r.update(certstest.Secret(x.a2, x.ca))
			r.wantFor("a.example", x.a2)
			r.wantFor("b.example", b)
			r.wantWarnings(1, "lacks b.example")
			pass(4 * hour)
			r.signal()
			r.wantFor("b.example", x.a2)
			pass(time.Minute)
			r.signal()
			r.wantWarnings(0, "")
		}},
		{"loses a name", func(t *testing.T, x made) {
			wide := x.ca.Issue(t, "b", serverFor("b.example", "c.example"))
			r := run(t, twoPairs(x.a, wide, x.ca))
			pass(time.Minute)
			r.update(twoPairs(x.a2, x.b2, x.ca))
			r.wantFor("a.example", x.a2)
			r.wantFor("c.example", wide)
			r.wantFor("b.example", wide)
			r.wantWarnings(1, "lacks c.example")
		}},
		{"a name moves to another pair", func(t *testing.T, x made) {
			wide := x.ca.Issue(t, "a", serverFor("a.example", "b.example"))
			r := run(t, twoPairs(x.a, x.b2, x.ca))
			pass(time.Minute)
			r.update(certstest.Secret(wide, x.ca))
			r.wantFor("b.example", wide)
			r.wantWarnings(0, "")
		}},
		{"default garbled while another is renewed and a client revoked", func(t *testing.T, x made) {
			b, client := x.b(-hour, 3*hour), x.ca.Client(t, "x")
			r := run(t, twoPairs(x.a, b, x.ca))
			pass(time.Minute)
			m := spoiled(twoPairs(x.a2, x.b2, x.ca), "tls.crt")
			m["crl.pem"] = x.ca.CRL(t, time.Now().Add(48*hour), client.Leaf)
			r.update(m)
			r.wantFor("a.example", x.a)
			r.wantFor("b.example", x.b2)
			if s := r.Status(); s.OK || !strings.Contains(s.Err, "tls.crt") {
				t.Errorf("status %+v, want a failure that names the default pair", s.Status)
			}
			if _, err := r.VerifyPeer(client.Chain(t), x509.ExtKeyUsageClientAuth); reason(t, err) != "peer_revoked" {
				t.Errorf("got %v, want it revoked", err)
			}
			pass(time.Minute)
			r.update(twoPairs(x.a2, x.b2, x.ca)) // and the list is lost
			r.wantFor("a.example", x.a)
			m = twoPairs(x.a2, x.b2, x.ca)
			m["crl.pem"] = x.ca.CRL(t, time.Now().Add(48*hour), client.Leaf)
			pass(time.Minute)
			r.update(m)
			r.wantFor("a.example", x.a2)
			if s := r.Status(); !s.OK {
				t.Errorf("status %+v after recovery", s.Status)
			}
		}},
		{"default ended while another is renewed", func(t *testing.T, x made) {
			ended := x.ca.Issue(t, "a.example", serverFor("a.example"), dates(-2*hour, -hour))
			r := run(t, twoPairs(x.a, x.b(-hour, 3*hour), x.ca))
			pass(time.Minute)
			r.update(twoPairs(ended, x.b2, x.ca))
			r.wantFor("a.example", x.a)
			r.wantFor("b.example", x.b2)
			if s := r.Status(); s.OK || !strings.Contains(s.Err, "tls.crt ended") {
				t.Errorf("status %+v", s.Status)
			}
		}},
		{"default staged while another is renewed", func(t *testing.T, x made) {
			later := x.ca.Issue(t, "a.example", serverFor("a.example"), dates(hour, 48*hour))
			r := run(t, twoPairs(x.a, x.b(-hour, 3*hour), x.ca))
			pass(time.Minute)
			r.update(twoPairs(later, x.b2, x.ca))
			r.wantFor("a.example", x.a)
			r.wantFor("b.example", x.b2)
			pass(hour)
			r.wantFor("a.example", later)
		}},
		{"the default decides about start", func(t *testing.T, x made) {
			for want, content := range map[string]map[string][]byte{
				"tls.crt ended":    twoPairs(x.ca.Issue(t, "a.example", serverFor("a.example"), dates(-2*hour, -hour)), x.b2, x.ca),
				"not valid before": twoPairs(x.ca.Issue(t, "a.example", serverFor("a.example"), dates(hour, 2*hour)), x.b2, x.ca),
				"tls.crt":          spoiled(twoPairs(x.a, x.b2, x.ca), "tls.crt"),
				"no tls.key":       without(twoPairs(x.a, x.b2, x.ca), "tls.key"),
			} {
				s, _ := unloaded(certstest.NewVolume(t, content))
				if err := s.Load(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
		}},
	}
	for _, c := range cases {
		t.Run("ROT-19 "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := prepare(t)
				c.do(t, x)
			})
		})
	}
}
