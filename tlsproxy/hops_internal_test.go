package tlsproxy

import (
	"net"
	"syscall"
	"testing"
)

// pairOf is both sides of a connection to a new listener, from a port that
// others use too; 0: any.
func pairOf(t *testing.T, from int) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: from}, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	}}
	near, err = d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

// OPS-23: a stranger on loopback may have the port of one of our connections
// to elsewhere, and the port of one that is closed.
func TestHopsKnowStrangers(t *testing.T) {
	var h hops
	ours, back := pairOf(t, 0)
	noted := h.out(ours, func() {})
	_, stranger := pairOf(t, ours.LocalAddr().(*net.TCPAddr).Port)
	if !h.cameBack(back) {
		t.Error("our own connection passes for a stranger's")
	}
	if h.cameBack(stranger) {
		t.Error("a stranger's connection passes for ours")
	}
	_ = noted.Close()
	_ = noted.Close()
	if h.cameBack(back) || len(h.open) != 0 {
		t.Errorf("it is noted after its end: %v", h.open)
	}
}
