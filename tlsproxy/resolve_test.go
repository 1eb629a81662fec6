package tlsproxy_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"sidegate/tlsproxy"
)

// names is a DNS server and what it says.
type names struct {
	mu        sync.Mutex
	addresses map[string][]string
}

func (n *names) set(name string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[name] = addresses
}

// startNames makes this process ask a DNS server of the test and nobody else.
func startNames(t *testing.T) *names {
	t.Helper()
	n := &names{addresses: map[string][]string{}}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	go n.serve(c)
	was := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = was })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	return n
}

func (n *names) serve(c net.PacketConn) {
	question := make([]byte, 4096)
	for {
		size, from, err := c.ReadFrom(question)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(question[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		m.Answers = n.answer(m.Questions[0])
		if answer, err := m.Pack(); err == nil {
			_, _ = c.WriteTo(answer, from)
		}
	}
}

func (n *names) answer(q dnsmessage.Question) []dnsmessage.Resource {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []dnsmessage.Resource
	for _, text := range n.addresses[strings.TrimSuffix(q.Name.String(), ".")] {
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch a := netip.MustParseAddr(text); {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			list = append(list, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			list = append(list, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return list
}

// TCP-07: an upstream's name is looked up at every connection, and must lead to
// loopback by each of its addresses.
func TestUpstreamNameBeyondLoopback(t *testing.T) {
	n := startNames(t)
	app := newRecorder(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(app.url, "http://"))
	must(t, err)
	w := newWorld(t, allow("anyone"), func(g *tlsproxy.Gate) {
		g.Upstream.Address = tlsproxy.Address{Network: "tcp", Address: "app.example:" + port}
	})
	for _, c := range []struct {
		addresses []string
		want      int
	}{
		{[]string{"127.0.0.1"}, 200},
		{[]string{"192.0.2.1"}, 502},
		{[]string{"127.0.0.1", "192.0.2.1"}, 502}, // one of them is enough
		{[]string{"192.0.2.1", "127.0.0.1"}, 502},
		{[]string{"127.0.0.1", "2001:db8::1"}, 502},
		{[]string{"127.0.0.1", "169.254.169.254"}, 502}, // the metadata of a cloud
		{[]string{"0.0.0.0"}, 502},                      // which Linux takes for this machine
		{[]string{"127.0.0.1"}, 200},
	} {
		n.set("app.example", c.addresses...)
		before := app.connections()
		if res := w.get("/"); res.StatusCode != c.want || (app.connections() > before) != (c.want == 200) {
			t.Errorf("%s: got %d, and the application saw %d connections", c.addresses, res.StatusCode, app.connections()-before)
		}
		if err := tlsproxy.CheckUpstream(t.Context(), w.gate.Upstream); (err == nil) != (c.want == 200) {
			t.Errorf("%s: CheckUpstream says %v", c.addresses, err)
		}
	}
	w.log.WaitFor(t, 6, "which is not loopback")
}
