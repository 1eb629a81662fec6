package upstream

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"sidegate/tlsproxy/http1"
)

const page = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 00:00:00 GMT\r\nContent-Type: text/html\r\nLast-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\n" +
	"Connection: keep-alive\r\nETag: \"5f5e1000-400\"\r\nAccept-Ranges: bytes\r\nContent-Length: 1024\r\n\r\n"

// One client beside net/http's, an application in the same process.
func BenchmarkDo(b *testing.B) {
	app := newApplication(b, says(page+strings.Repeat("x", 1024)))
	b.Run("upstream", func(b *testing.B) {
		s := newSide(b, app).trust()
		r := &Request{Head: http1.Request{Method: "GET", Target: "/", Host: "localhost", Fields: []http1.Field{{Name: "Accept", Value: "*/*"}}}, Owner: owner()}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		b.ReportAllocs()
		for b.Loop() {
			res, err := s.Do(ctx, r)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				b.Fatal(err)
			}
			_ = res.Body.Close()
		}
	})
	b.Run("net http", func(b *testing.B) {
		tr := &http.Transport{DisableCompression: true}
		defer tr.CloseIdleConnections()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+app.addr+"/", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Accept", "*/*")
		b.ReportAllocs()
		for b.Loop() {
			res, err := tr.RoundTrip(r)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				b.Fatal(err)
			}
			_ = res.Body.Close()
		}
	})
}
