package tlsproxy_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"sidegate/tlsproxy"
)

// OPS-23: an upstream that leads back is found before anything serves, however
// its address is written.
func TestLeadsTo(t *testing.T) {
	var own string // an address by which others reach this host; "": it has none
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			own = ip.IP.String()
		}
	}
	type row struct {
		upstream, listen string
		want             bool
	}
	cases := []row{
		{"127.0.0.1:80", ":80", true},
		{"127.0.0.1:80", "0.0.0.0:80", true},
		{"127.0.0.1:80", "[::]:80", true},
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.9:80", ":80", true},
		{"[::1]:80", ":80", true},
		{"[::1]:80", "[::1]:80", true},
		{"[::ffff:127.0.0.1]:80", "127.0.0.1:80", true},
		{"localhost:80", ":80", true},
		{"localhost:80", "127.0.0.1:80", true},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "localhost:80", true},
		{"127.0.0.1:81", ":80", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"127.0.0.1:80", "192.0.2.1:80", false}, // how a gate keeps its application's port
		{"192.0.2.1:80", ":80", false},
		{"[::1]:80", "0.0.0.0:80", false},
		{"127.0.0.1:0", ":0", false},
		{"no-such-name.invalid:80", ":80", false},
	}
	if own != "" {
		cases = append(cases, row{own + ":80", ":80", true}, row{own + ":80", own + ":80", true}, row{own + ":80", "127.0.0.1:80", false})
	}
	for _, c := range cases {
		up := tlsproxy.Upstream{Address: tlsproxy.Address{Network: "tcp", Address: c.upstream}}
		if got := up.LeadsTo(t.Context(), tlsproxy.Address{Network: "tcp", Address: c.listen}); got != c.want {
			t.Errorf("%s to %s: %t, want %t", c.upstream, c.listen, got, c.want)
		}
	}
	redirect := tlsproxy.Upstream{RedirectPort: 80, Address: tlsproxy.Address{Network: "tcp", Address: "127.0.0.1:80"}}
	if redirect.LeadsTo(t.Context(), tlsproxy.Address{Network: "tcp", Address: ":80"}) {
		t.Error("a redirect gate forwards nothing")
	}
}

// OPS-23: the same of sockets, by links of all kinds, there or not yet.
func TestLeadsToSocket(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("run"), 0o700))
	must(t, os.Symlink("run", at("link")))
	must(t, os.Symlink("run/gate", at("early")))
	must(t, os.Symlink("early", at("twice")))
	must(t, os.Symlink("round", at("round")))
	l, err := net.Listen("unix", at("run/there"))
	must(t, err)
	defer l.Close()
	must(t, os.Link(at("run/there"), at("hard")))
	for _, c := range []struct {
		upstream, listen string
		want             bool
	}{
		{"run/gate", "run/gate", true},
		{"link/gate", "run/gate", true},
		{"early", "run/gate", true},
		{"twice", "link/gate", true},
		{"hard", "run/there", true},
		{"run/app", "run/gate", false},
		{"round", "run/gate", false},
		{"none/gate", "run/gate", false},
	} {
		up := tlsproxy.Upstream{Address: tlsproxy.Address{Network: "unix", Address: at(c.upstream)}}
		if got := up.LeadsTo(t.Context(), tlsproxy.Address{Network: "unix", Address: at(c.listen)}); got != c.want {
			t.Errorf("%s to %s: %t, want %t", c.upstream, c.listen, got, c.want)
		}
	}
}

// loops checks that one request ended at the guard, once.
func (w *world) loops(res *http.Response) {
	w.t.Helper()
	if res.StatusCode != http.StatusLoopDetected {
		w.t.Errorf("status %d, want 508", res.StatusCode)
	}
	w.log.Wait(w.t, `"status":508`)
	w.log.Wait(w.t, `"reason":"loop"`)
	w.counted(`sidegate_decisions_total{decision="deny",gate="main",reason="loop"} 1`)
}

// OPS-23: what comes back all the same is refused by the ends of the
// connection, in each protocol.
func TestHopGuard(t *testing.T) {
	itself := func(g *tlsproxy.Gate) {
		plaintext(g)
		allow("anyone")(g)
		g.Upstream.Address = g.Listen
	}
	const upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	t.Run("HTTP/1.1", func(t *testing.T) {
		w := newWorld(t, itself)
		w.loops(w.plain("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	})
	t.Run("a client that writes Via", func(t *testing.T) {
		w := newWorld(t, itself)
		w.loops(w.plain("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 a, 1.1 b\r\nConnection: Via\r\n\r\n"))
	})
	t.Run("upgrade", func(t *testing.T) {
		w := newWorld(t, itself)
		w.loops(w.plain(upgrade))
	})
	t.Run("h2c", func(t *testing.T) {
		w := newWorld(t, itself, func(g *tlsproxy.Gate) { g.Upstream.H2C = true })
		w.loops(w.plain("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	})
	t.Run("by every address of the host", func(t *testing.T) {
		w := newWorld(t, itself, func(g *tlsproxy.Gate) {
			_, port, _ := net.SplitHostPort(g.Listen.Address)
			g.Listen.Address = ":" + port
			g.Upstream.Address.Address = "localhost:" + port
		})
		w.addr = w.gate.Upstream.Address.Address
		w.loops(w.plain("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	})
	t.Run("socket", func(t *testing.T) {
		socket := tlsproxy.Address{Network: "unix", Address: filepath.Join(t.TempDir(), "gate")}
		w := newWorld(t, itself, func(g *tlsproxy.Gate) { g.Listen, g.Upstream.Address = socket, socket })
		tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket.Address) }}
		t.Cleanup(tr.CloseIdleConnections)
		res, err := (&http.Client{Transport: tr}).Get("http://a/")
		must(t, err)
		defer res.Body.Close()
		w.loops(res)
	})
}
