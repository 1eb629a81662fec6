package certstest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Names is a DNS server and what it says.
type Names struct {
	mu        sync.Mutex
	addresses map[string][]string
}

// Set makes a name lead to these addresses and no others.
func (n *Names) Set(name string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[name] = addresses
}

// StartNames makes this process ask a DNS server of the test and nobody else.
func StartNames(tb testing.TB) *Names {
	tb.Helper()
	n := &Names{addresses: map[string][]string{}}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(tb, err)
	tb.Cleanup(func() { _ = c.Close() })
	go n.serve(c)
	was := net.DefaultResolver
	tb.Cleanup(func() { net.DefaultResolver = was })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	return n
}

func (n *Names) serve(c net.PacketConn) {
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

func (n *Names) answer(q dnsmessage.Question) []dnsmessage.Resource {
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
