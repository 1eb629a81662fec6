package tlsproxy

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"sidegate/tlsproxy/upstream"
)

// OPS-07: only an application that refuses connections has gone; one that is
// slow to accept them is there, and a drain keeps its delay.
func TestWhoHasGone(t *testing.T) {
	answers := func(network, address string) bool {
		g := &gate{Gate: &Gate{}}
		g.forward = &forwarder{gate: g, dialer: &upstream.Dialer{Network: network, Address: address, Timeout: time.Minute}}
		return g.upstreamAnswers()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if !answers("tcp", l.Addr().String()) {
		t.Error("one that accepts has gone")
	}
	_ = l.Close()
	if answers("tcp", l.Addr().String()) {
		t.Error("one that refuses is there")
	}
	if answers("unix", t.TempDir()+"/app.sock") {
		t.Error("one without a socket is there")
	}
	if !answers("tcp", busyListener(t)) {
		t.Error("one that accepts nothing for a while has gone")
	}
}

// busyListener listens, has no place for another connection, and accepts none.
func busyListener(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	bound := name.(*syscall.SockaddrInet4)
	address := netip.AddrPortFrom(netip.AddrFrom4(bound.Addr), uint16(bound.Port)).String()
	c, err := net.Dial("tcp", address) // the one place
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return address
}
