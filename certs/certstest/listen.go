package certstest

import (
	"fmt"
	"math/rand/v2"
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

// FreeAddr is an address on loopback where nobody listens. Its port is below
// those that the kernel gives to clients, lest one of a test beside this one
// takes it before it is used.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	tb.Fatal("no port is free")
	return ""
}
