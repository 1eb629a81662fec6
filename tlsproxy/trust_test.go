package tlsproxy_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// ends is a change of a certificate: its end.
func ends(at time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = at }
}

// mustEnd waits for the end of a connection.
func mustEnd(t testing.TB, h held) {
	t.Helper()
	select {
	case <-h.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("%s goes on", h.name)
	}
}

// mustGoOn fails if a connection has ended.
func mustGoOn(t testing.TB, h held) {
	t.Helper()
	select {
	case err := <-h.ended:
		t.Errorf("%s ended: %v", h.name, err)
	default:
	}
}

// TLS-31: the first end in a peer's verified chain, of whichever certificate,
// ends its connections unless another chain holds.
func TestFirstEndOfTheChain(t *testing.T) {
	w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	server := w.ca.Server(t, "localhost", "127.0.0.1")
	end := time.Now().Add(5 * time.Second).Truncate(time.Second)
	soon, long := certstest.NewCA(t, "soon", ends(end)), certstest.NewCA(t, "long")
	middle := long.Intermediate(t, "middle", ends(end))
	lasting := long.Cross(t, middle)
	content := certstest.Secret(server, nil)
	content["ca.crt"] = certstest.Join(soon.PEM(), long.PEM())
	w.update(content)

	byMiddle := middle.Client(t, "by middle")
	byRoot := soon.Client(t, "by root")
	both := middle.Client(t, "by two")
	both.TLS.Certificate = append(both.TLS.Certificate, lasting.Cert.Raw)
	other := long.Client(t, "other")
	var refused, kept []held
	for _, p := range []*certstest.Pair{&byMiddle, &byRoot} {
		refused = append(refused, w.holdIdle(p, "http/1.1"), w.holdIdle(p, "h2"), w.holdUpgraded(p), w.holdStream(p))
	}
	for _, p := range []*certstest.Pair{&both, &other} {
		kept = append(kept, w.holdIdle(p, "http/1.1"), w.holdUpgraded(p))
	}
	for _, h := range refused {
		mustEnd(t, h)
	}
	if time.Now().Before(end) {
		t.Error("it ended before its time")
	}
	w.log.Wait(t, `"reason":"peer_expired"`)
	for _, h := range kept {
		mustGoOn(t, h)
	}
	if _, err := w.roundTrip(w.config(&both)); err != nil {
		t.Errorf("the other chain: %v", err)
	}
}

// TLS-31, ROT-13: a clock that is set past the end of a certificate ends its
// peer, and one that is set back lets it stay until then.
func TestClockIsSet(t *testing.T) {
	for name, c := range map[string]struct {
		before, after time.Duration // by which the clock is ahead
		ends          bool
	}{"forward": {0, 100 * time.Hour, true}, "back": {90 * time.Hour, 0, false}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
			long := certstest.NewCA(t, "long", ends(time.Now().Add(1000*time.Hour)))
			w.update(certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), long))
			w.ahead.Store(int64(c.before))
			peer, lasting := long.Issue(t, "peer", ends(time.Now().Add(96*time.Hour))), long.Issue(t, "lasting", ends(time.Now().Add(900*time.Hour)))
			of, others := []held{w.holdIdle(&peer, "http/1.1"), w.holdUpgraded(&peer)}, []held{w.holdIdle(&lasting, "http/1.1"), w.holdUpgraded(&lasting)}
			if c.ends {
				of = append(of, w.holdIdle(&peer, "h2"), w.holdStream(&peer))
			} else {
				others = append(others, of...)
			}
			w.ahead.Store(int64(c.after))
			looked := make(chan struct{})
			w.clock.At(w.clock.Now(), func() { close(looked) }) // else it is looked at within wallclock.Step
			<-looked
			if c.ends {
				for _, h := range of {
					mustEnd(t, h)
				}
				w.log.Wait(t, `"reason":"peer_expired"`)
			}
			for _, h := range others {
				mustGoOn(t, h)
			}
		})
	}
}

// TLS-31: a change of trust may leave another chain, which ends sooner.
func TestFirstEndAfterChange(t *testing.T) {
	w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	server := w.ca.Server(t, "localhost", "127.0.0.1")
	old, next := certstest.NewCA(t, "old"), certstest.NewCA(t, "next")
	middle := old.Intermediate(t, "middle")
	peer := middle.Client(t, "peer")
	content := certstest.Secret(server, old)
	w.update(content)
	h := w.holdIdle(&peer, "http/1.1")
	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	crossed := next.Cross(t, middle, ends(end))
	content["ca.crt"] = certstest.Join(next.PEM(), crossed.PEM())
	w.update(content)
	mustEnd(t, h)
	w.log.Wait(t, `"reason":"peer_expired"`)
}

// TLS-01, TLS-20, TLS-31: who resumes a session is verified as in a full
// handshake, also where nothing was loaded since the ticket was made.
func TestResumptionWithinOneGeneration(t *testing.T) {
	const life = time.Hour
	soon := ends(time.Now().Add(life))
	cases := []struct {
		name, reason string
		peer         func(*certstest.CA) certstest.Pair
		list         bool
	}{
		{"leaf ended", "peer_expired", func(ca *certstest.CA) certstest.Pair { return ca.Issue(t, "x", soon) }, false},
		{"intermediate ended", "peer_expired", func(ca *certstest.CA) certstest.Pair { return ca.Intermediate(t, "middle", soon).Client(t, "x") }, false},
		{"CRL overdue", "crl_expired", func(ca *certstest.CA) certstest.Pair { return ca.Client(t, "x") }, true},
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range cases {
			t.Run(tls.VersionName(version)+" "+c.name, func(t *testing.T) {
				w := newWorld(t, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
				content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
				if c.list {
					content["crl.pem"] = w.ca.CRL(t, time.Now().Add(life))
				}
				w.update(content)
				pair := c.peer(w.ca)
				client, before := w.session(version, &pair), w.store.Generation()
				w.ahead.Store(int64(2 * life))
				if _, err := w.roundTrip(client); err == nil {
					t.Error("the session was resumed")
				}
				w.log.Wait(t, `"reason":"`+c.reason+`"`)
				if w.log.Count(`"msg":"connection ended"`) > 0 {
					t.Error("the handshake succeeded, and only then the connection ended")
				}
				if w.store.Generation() != before {
					t.Error("something was loaded meanwhile")
				}
			})
		}
	}
}

// SPI-08, ROT-13: a peer was decided about as one of our own trust domain, or as
// one of another. When that changes, its connections end.
func TestFederationChanges(t *testing.T) {
	for name, domains := range map[string][2]string{
		"becomes another's": {"peers.example", "ours.example"},
		"becomes ours":      {"ours.example", "peers.example"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer", "spiffe://peers.example/x"))
			peers, others := certstest.NewCA(t, "peers"), certstest.NewCA(t, "others")
			content := func(own string) map[string][]byte {
				server := w.ca.Issue(t, "server", func(c *x509.Certificate) {
					c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
					c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
					c.URIs = []*url.URL{{Scheme: "spiffe", Host: own, Path: "/server"}}
				})
				return map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key,
					"bundle.peers.example.pem": peers.PEM(), "ca.crt": others.PEM()}
			}
			w.update(content(domains[0]))
			peer, other := peers.Client(t, "x", "spiffe://peers.example/x"), others.Client(t, "other")
			refused := w.hold(&peer)
			kept := w.holdIdle(&other, "http/1.1")
			w.update(content(domains[1]))
			for _, h := range refused {
				mustEnd(t, h)
			}
			w.log.Wait(t, `"reason":"peer_untrusted"`)
			mustGoOn(t, kept)
			if _, err := w.roundTrip(w.config(&peer)); err != nil {
				t.Errorf("it may come again: %v", err)
			}
		})
	}
}

// racing is a trust that changes right after it was asked about a peer for the
// n-th time.
type racing struct {
	tlsproxy.Trust
	leaf    atomic.Pointer[x509.Certificate]
	left    atomic.Int64
	change  func()
	witness *x509.Certificate
	seen    chan struct{} // the witness was verified
}

func (r *racing) VerifyPeer(chain []*x509.Certificate, use x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	verified, err := r.Trust.VerifyPeer(chain, use)
	if chain[0].Equal(r.witness) {
		select {
		case r.seen <- struct{}{}:
		default:
		}
	}
	r.asked(chain[0])
	return verified, err
}

func (r *racing) Federated(leaf *x509.Certificate) bool {
	federated := r.Trust.Federated(leaf)
	r.asked(leaf)
	return federated
}

func (r *racing) asked(leaf *x509.Certificate) {
	if want := r.leaf.Load(); want != nil && leaf.Equal(want) && r.left.Add(-1) == 0 {
		r.change()
	}
}

// ROT-13: a handshake during which its peer is revoked ends in nothing, at
// whichever moment that is. Those who are live were looked at before this
// connection could be seen.
func TestHandshakeRacesWithChange(t *testing.T) {
	reached := true
	for n := int64(1); reached; n++ {
		race := &racing{seen: make(chan struct{}, 1)}
		w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"),
			func(g *tlsproxy.Gate) { race.Trust, g.Trust = g.Trust, race })
		peer, witness := w.ca.Client(t, "peer"), w.ca.Client(t, "witness")
		race.witness = witness.Leaf
		kept := w.holdIdle(&witness, "http/1.1")
		content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
		content["crl.pem"] = w.ca.CRL(t, time.Now().Add(time.Hour), peer.Leaf)
		race.change = func() {
			select {
			case <-race.seen:
			default:
			}
			w.update(content)
			<-race.seen // whoever is live by now has been looked at, or is about to
		}
		race.left.Store(n)
		race.leaf.Store(peer.Leaf)
		reached = race.meet(w, w.config(&peer))
		if !reached && n == 1 {
			t.Fatal("nobody asked about the peer")
		}
		mustGoOn(t, kept)
		w.stop()
	}
}

// meet makes a request, which may fail, and waits for the end of the connection
// if trust changed meanwhile.
func (r *racing) meet(w *world, c *tls.Config) (changed bool) {
	w.t.Helper()
	c.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", w.addr, c)
	if err != nil {
		return true
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if err == nil {
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	}
	changed = r.left.Load() <= 0
	if err != nil && !changed {
		w.t.Error(err)
	}
	if changed {
		mustEnd(w.t, w.watch("the connection", conn))
	}
	return changed
}
