package tlsproxy_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// held is a live connection and how one sees that it has ended.
type held struct {
	name  string
	ended chan error
}

// hold opens a connection of each kind with the pair and keeps it.
func (w *world) hold(pair *certstest.Pair) []held {
	w.t.Helper()
	return []held{w.holdIdle(pair, "http/1.1"), w.holdIdle(pair, "h2"), w.holdUpgraded(pair), w.holdStream(pair)}
}

// holdIdle has made one request and waits.
func (w *world) holdIdle(pair *certstest.Pair, proto string) held {
	c := w.config(pair)
	c.NextProtos = []string{proto}
	conn := w.dial(c)
	if proto == "http/1.1" {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(w.t, err)
		_ = res.Body.Close()
	}
	return w.watch("idle "+proto, conn)
}

// holdUpgraded has switched protocols.
func (w *world) holdUpgraded(pair *certstest.Pair) held {
	c := w.config(pair)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(w.t, err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatal(res.Status)
	}
	return w.watch("upgraded", conn)
}

// holdStream has an HTTP/2 answer that goes on.
func (w *world) holdStream(pair *certstest.Pair) held {
	res := w.do(w.client(w.config(pair), "h2"), w.request("GET", "/stream", nil))
	h := held{"h2 stream", make(chan error, 1)}
	go func() {
		_, err := io.Copy(io.Discard, res.Body)
		h.ended <- err
	}()
	return h
}

func (w *world) watch(name string, conn *tls.Conn) held {
	h := held{name, make(chan error, 1)}
	must(w.t, conn.SetDeadline(time.Time{}))
	go func() {
		_, err := io.Copy(io.Discard, conn)
		h.ended <- err
	}()
	return h
}

// untilEnded waits until what was held has ended.
func (w *world) untilEnded(h held) {
	w.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(certstest.HangGuard):
		w.t.Errorf("%s goes on", h.name)
	}
}

// streamer upgrades, streams at /stream until the client goes, or says hello.
func streamer(t *testing.T) string {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		case r.URL.Path == "/stream":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(app.Close)
	return app.URL
}

// TLS-19, ROT-13: a peer that is revoked, whose CA goes, or whose certificate
// ends loses its connections within a second; another peer's stay.
func TestLiveConnectionsEnd(t *testing.T) {
	cases := []struct {
		name   string
		reason string
		life   time.Duration // of the first peer's certificate
		change func(w *world, first, second *certstest.CA, peer certstest.Pair) map[string][]byte
	}{
		{"revoked", "peer_revoked", time.Hour, func(w *world, first, second *certstest.CA, peer certstest.Pair) map[string][]byte {
			return map[string][]byte{"ca.crt": certstest.Join(first.PEM(), second.PEM()), "crl.pem": first.CRL(w.t, time.Now().Add(time.Hour), peer.Leaf)}
		}},
		{"CA removed", "peer_untrusted", time.Hour, func(_ *world, _, second *certstest.CA, _ certstest.Pair) map[string][]byte {
			return map[string][]byte{"ca.crt": second.PEM()}
		}},
		{"expired", "peer_expired", 6 * time.Second, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
			first, second := certstest.NewCA(t, "first"), certstest.NewCA(t, "second")
			server := w.ca.Server(t, "localhost", "127.0.0.1")
			content := func(trust map[string][]byte) map[string][]byte {
				trust["tls.crt"], trust["tls.key"] = server.Cert, server.Key
				return trust
			}
			w.update(content(map[string][]byte{"ca.crt": certstest.Join(first.PEM(), second.PEM())}))
			ends := time.Now().Add(c.life).Truncate(time.Second)
			peer := first.Issue(t, "peer", func(x *x509.Certificate) { x.NotAfter = ends })
			other := second.Client(t, "other")
			refused, kept := w.hold(&peer), w.hold(&other)
			if c.change == nil {
				time.Sleep(time.Until(ends)) // the situation: that time has come
			} else {
				w.update(content(c.change(w, first, second, peer)))
			}
			began := certstest.StartStopwatch(t)
			for _, h := range refused {
				w.untilEnded(h)
				t.Logf("%s ended after %s", h.name, began.Elapsed())
				if took := began.Elapsed(); took > time.Second {
					t.Errorf("%s ended after %s", h.name, took)
				}
			}
			w.log.Wait(t, `"msg":"connection ended"`)
			w.log.Wait(t, `"reason":"`+c.reason+`"`)
			w.counted(`sidegate_connections_ended_total{gate="main",reason="` + c.reason + `"} 4`)
			for _, h := range kept {
				select {
				case err := <-h.ended:
					t.Errorf("%s of another peer ended: %v", h.name, err)
				default:
				}
			}
		})
	}
}

// TLS-20: an overdue CRL refuses new connections, but not those that are here.
func TestOverdueCRLKeepsLiveConnections(t *testing.T) {
	w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	peer := good(w)
	h := w.holdIdle(peer, "http/1.1")
	server := w.ca.Server(t, "localhost", "127.0.0.1")
	content := certstest.Secret(server, w.ca)
	content["crl.pem"] = w.ca.CRL(t, time.Now().Add(-time.Minute))
	w.update(content)
	if _, err := w.roundTrip(w.config(peer)); err == nil {
		t.Error("a new connection was accepted")
	}
	w.log.Wait(t, `"reason":"crl_expired"`)
	select {
	case err := <-h.ended:
		t.Errorf("the live connection ended: %v", err)
	default:
	}
}

// A leaf that two connections showed with different intermediates has a
// verdict of its own with each: what ends one leaves the other.
func TestRecheckJudgesWholeChains(t *testing.T) {
	w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	middle := w.ca.Intermediate(t, "middle")
	whole := middle.Client(t, "peer")
	bare := whole
	bare.TLS.Certificate = whole.TLS.Certificate[:1]
	server := w.ca.Server(t, "localhost", "127.0.0.1")
	trusting := func(cas ...[]byte) map[string][]byte {
		return map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key, "ca.crt": certstest.Join(cas...)}
	}
	w.update(trusting(w.ca.PEM(), middle.PEM())) // with middle as an anchor the bare leaf will do
	var kept, refused []held
	for range 4 { // in whatever order they are looked at
		kept = append(kept, w.holdIdle(&whole, "http/1.1"))
		refused = append(refused, w.holdIdle(&bare, "http/1.1"))
	}
	w.update(trusting(w.ca.PEM()))
	for _, h := range refused {
		w.untilEnded(h)
	}
	for _, h := range kept {
		select {
		case err := <-h.ended:
			t.Errorf("a whole chain was ended: %v", err)
		default:
		}
	}
}
