package tlsproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// A request of HTTP/1.1 over TLS, from end to end in one process.
func BenchmarkRequest(b *testing.B) {
	app := certstest.Listen(b, func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for {
			for {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					break
				}
			}
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n"+strings.Repeat("x", 1024)); err != nil {
				return
			}
		}
	})
	w := newWorld(b, upstream("http://"+app), allow("anyone"), func(g *tlsproxy.Gate) { g.AccessLog = tlsproxy.AccessLogOff })
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := w.config(nil)
		c.NextProtos = []string{"http/1.1"}
		conn := w.dial(c)
		in := bufio.NewReader(conn)
		for pb.Next() {
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				b.Fatal(err)
			}
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
		}
	})
}
