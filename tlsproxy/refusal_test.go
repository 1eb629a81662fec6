package tlsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"sidegate/tlsproxy"
)

// HTTP-36: what net/http's parser refuses is answered, logged and counted as
// any other refusal.
func TestRefusedHeads(t *testing.T) {
	for _, scheme := range []string{"https", "http"} {
		w := newWorld(t, upstream(echo(t).URL), allow("anyone"), func(g *tlsproxy.Gate) {
			if scheme == "http" {
				plaintext(g)
			}
		})
		for _, c := range []struct {
			name, head     string
			status, reason string
		}{
			{"head too large", "GET / HTTP/1.1\r\nHost: a\r\nX-Large: " + strings.Repeat("x", 200_000) + "\r\n\r\n", "431 Request Header Fields Too Large", "head_too_large"},
			{"no host", "GET / HTTP/1.1\r\n\r\n", "400 Bad Request", "bad_request"},
			{"name with a blank", "GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", "400 Bad Request", "bad_request"},
			{"two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400 Bad Request", "bad_request"},
			{"unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented", "not_implemented"},
			{"unknown expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n", "417 Expectation Failed", "expectation_failed"},
			{"no HTTP", "hello\r\n\r\n", "400 Bad Request", "bad_request"},
			{"after an exchange", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n", "400 Bad Request", "bad_request"},
			{"after another in one segment with a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nHTTP/1.1 400GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", "400 Bad Request", "bad_request"},
		} {
			t.Run(scheme+"/"+c.name, func(t *testing.T) {
				lines := w.log.Count(`"reason":"` + c.reason + `"`)
				conn := w.open(t, scheme)
				go func() { _, _ = io.WriteString(conn, c.head) }() // a head may be refused before it is out
				answers := bufio.NewReader(conn)
				res, err := http.ReadResponse(answers, nil)
				must(t, err)
				if strings.HasPrefix(c.name, "after") {
					_, err = io.Copy(io.Discard, res.Body)
					must(t, err)
					res, err = http.ReadResponse(answers, nil)
					must(t, err)
				}
				body, err := io.ReadAll(res.Body)
				must(t, err)
				id := res.Header.Get("X-Request-Id")
				if res.Status != c.status || id == "" || !strings.Contains(string(body), id) || !res.Close || res.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("got %s %v %q, want %s with a request id", res.Status, res.Header, body, c.status)
				}
				if rest, _ := io.ReadAll(answers); len(rest) > 0 {
					t.Errorf("behind the answer there is %q", rest)
				}
				w.log.Wait(t, id)
				if n := w.log.Count(`"reason":"` + c.reason + `"`); n != lines+1 {
					t.Errorf("%d lines with reason %s, want 1 more than %d:\n%s", n, c.reason, lines, w.log)
				}
			})
		}
		for _, code := range []string{"400", "4xx", "431", "501"} {
			w.counted(`sidegate_requests_total{code="` + code + `"`)
		}
	}
}

// open connects to the gate for HTTP/1.1.
func (w *world) open(t *testing.T, scheme string) net.Conn {
	t.Helper()
	if scheme == "http" {
		conn, err := net.Dial("tcp", w.addr)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	return w.dial(c)
}

// HTTP-36, OPS-06: the same limit in HTTP/2, and errors of its protocol are counted.
func TestRefusedHeadsOfHTTP2(t *testing.T) {
	w := newWorld(t, upstream(echo(t).URL), allow("anyone"))
	large := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}}
	for i := range 10 {
		large = append(large, [2]string{fmt.Sprint("x-large-", i), strings.Repeat("x", 7500)})
	}
	if got := w.h2Request(t, large); got != "431" {
		t.Errorf("75 kB of fields got %s, want 431", got)
	}
	w.log.Wait(t, `"reason":"head_too_large"`)
	if got := w.h2Request(t, [][2]string{{":method", "GET"}, {":path", "/"}}); got != "reset" {
		t.Errorf("a request without a scheme got %s, want reset", got)
	}
	w.counted(`sidegate_http2_errors_total{`)
}
