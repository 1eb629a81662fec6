package certstest

import (
	"net"
	"testing"
)

// Listen is the address of a listener that lives as long as the test. Each
// connection is do's, in a goroutine of its own; nobody else closes it.
func Listen(tb testing.TB, do func(net.Conn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go do(c)
		}
	}()
	return l.Addr().String()
}
