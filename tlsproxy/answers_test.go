package tlsproxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy"
)

// rawApp answers each request by answer, and reads heads alone.
func rawApp(t *testing.T, answer func(c net.Conn, head string) bool) string {
	t.Helper()
	return "http://" + certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for {
			var head strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					break
				}
				head.WriteString(line)
			}
			if !answer(c, head.String()) {
				return
			}
		}
	})
}

// says answers with the same text and closes.
func says(t *testing.T, text string) string {
	t.Helper()
	return rawApp(t, func(c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, text)
		return false
	})
}

// HTTP-30: of an application that sends a body with HEAD, in the same packet or
// in the next, other clients see nothing, and get their own.
func TestSurplusReachesNobody(t *testing.T) {
	for _, split := range []bool{false, true} {
		var late atomic.Int64 // surplus that came when nobody waits for it any more, on a busy machine
		app := rawApp(t, func(c net.Conn, head string) bool {
			if strings.HasPrefix(head, "HEAD") {
				const answer, more = "HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
				if !split {
					_, err := io.WriteString(c, answer+more)
					return err == nil
				}
				began := time.Now()
				_, _ = io.WriteString(c, answer)
				time.Sleep(time.Millisecond) // as gunicorn sends it
				_, err := io.WriteString(c, more)
				if time.Since(began) > 40*time.Millisecond {
					late.Add(1)
				}
				return err == nil
			}
			path := strings.Fields(head)[1]
			_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path)
			return err == nil
		})
		w := newWorld(t, upstream(app), allow("anyone"))
		var clients sync.WaitGroup
		for i := range 8 {
			clients.Go(func() {
				c := w.client(w.config(nil), []string{"http/1.1", "h2"}[i%2])
				for n := range 60 {
					path := fmt.Sprintf("/%d/%d", i, n)
					if i < 3 {
						if res, err := c.Do(w.request("HEAD", path, nil)); err != nil || res.StatusCode != 200 {
							t.Errorf("HEAD: %v, %v", res, err)
						}
					}
					res, err := c.Do(w.request("GET", path, nil))
					if err != nil {
						t.Error(err)
						continue
					}
					b, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if res.StatusCode == http.StatusBadGateway && late.Add(-1) >= 0 {
						continue
					}
					if string(b) != path || err != nil {
						t.Errorf("split %t: %s got %d %q, %v", split, path, res.StatusCode, b, err)
					}
				}
			})
		}
		clients.Wait()
		w.log.Wait(t, "a body in the answer to HEAD")
		if strings.Contains(w.log.String(), "EVIL") {
			t.Errorf("the application's bytes are in the log:\n%s", w.log)
		}
	}
}

// Nothing that an application says is in a log, be it the process's own.
func TestNothingOfTheAnswerIsLogged(t *testing.T) {
	var std bytes.Buffer
	log.SetOutput(&std)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	for _, answer := range []string{
		"HTTP/1.1 204 No Content\r\n\r\nSECRET",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokSECRET",
		"HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\nok",
		"HTTP/1.1 SECRET\r\n\r\n",
		"SECRET\r\n\r\n",
		"HTTP/1.1 200 OK\r\nSECRET\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nSECRET",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SECRET\r\nConnection: Upgrade\r\n\r\n",
	} {
		w := newWorld(t, upstream(rawApp(t, func(c net.Conn, _ string) bool {
			_, _ = io.WriteString(c, answer)
			time.Sleep(5 * time.Millisecond) // the connection waits for a while
			return false
		})), allow("anyone"))
		_ = w.wire("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		w.log.Wait(t, `"msg":"request"`)
		if all := w.log.String() + std.String(); strings.Contains(all, "SECRET") {
			t.Errorf("%q is in the log:\n%s", answer, all)
		}
	}
}

// HTTP-31: an answer that says in two ways where it ends is 502, and the log names the field.
func TestAmbiguousAnswers(t *testing.T) {
	for answer, field := range map[string]string{
		"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok":                 "Content-Length",
		"Content-Length: 2, 2\r\n\r\nok":                                   "Content-Length",
		"Content-Length: +2\r\n\r\nok":                                     "Content-Length",
		"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "Content-Length",
		"Transfer-Encoding: gzip\r\n\r\nok":                                "Transfer-Encoding",
		"Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n":             "chunk",
		"X: a\rb\r\nContent-Length: 2\r\n\r\nok":                           "bare CR",
	} {
		w := newWorld(t, upstream(says(t, "HTTP/1.1 200 OK\r\n"+answer)), allow("anyone"))
		for _, proto := range []string{"http/1.1", "h2"} {
			if res := w.do(w.client(w.config(nil), proto), w.request("GET", "/", nil)); res.StatusCode != http.StatusBadGateway {
				t.Errorf("%q over %s: %d", answer, proto, res.StatusCode)
			}
		}
		w.log.Wait(t, field)
		w.log.Wait(t, `"reason":"bad_answer"`)
	}
}

// h2cApp answers each stream with these fields and data.
func h2cApp(t *testing.T, list [][2]string, data string) string {
	t.Helper()
	return "http://" + certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(c, c)
		_ = framer.WriteSettings()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := frame.(*http2.HeadersFrame); ok {
				_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: fields(t, list), EndHeaders: true})
				_ = framer.WriteData(f.StreamID, true, []byte(data))
			}
		}
	})
}

// HTTP-31: fields of an answer of HTTP/2 never frame one of HTTP/1.1.
func TestAmbiguousAnswersOfH2C(t *testing.T) {
	for _, list := range [][][2]string{
		{{"content-length", "2"}},
		{{"connection", "close"}, {"keep-alive", "x"}, {"x-y", "z"}},
		{{"transfer-encoding", "chunked"}},
		{{"transfer-encoding", "identity"}},
		{{"content-length", "2"}, {"content-length", "2"}},
		{{"content-length", "1"}, {"content-length", "2"}},
		{{"content-length", "2, 2"}},
		{{"content-length", "+2"}},
		{{"content-length", ""}},
	} {
		app := h2cApp(t, append([][2]string{{":status", "200"}}, list...), "ok")
		w := newWorld(t, upstream(app), allow("anyone"), func(g *tlsproxy.Gate) { g.Upstream.H2C = true })
		// Not raw, which understands what must not be there.
		got := string(w.wire("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		lengths, chunks := strings.Count(head, "Content-Length"), strings.Count(head, "Transfer-Encoding: chunked")
		whole := lengths == 1 && body == "ok" || chunks == 1 && body == "2\r\nok\r\n0\r\n\r\n"
		if status(got) != "502" && (status(got) != "200" || lengths+chunks != 1 || strings.Contains(head, "identity") || !whole) {
			t.Errorf("%v: %q", list, got)
		}
	}
}

// An answer that breaks off looks so to every client, and leaves a reason and
// how much of it there was.
func TestTruncatedAnswerIsLogged(t *testing.T) {
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		for _, version := range []string{"1.1", "1.0"} {
			w := newWorld(t, upstream(says(t, answer)), allow("anyone"))
			c := w.config(nil)
			c.NextProtos = []string{"http/1.1"}
			conn := w.dial(c)
			fmt.Fprintf(conn, "GET / HTTP/%s\r\nHost: localhost\r\n\r\n", version)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil {
				_, err = io.ReadAll(res.Body)
			}
			if err == nil {
				t.Errorf("%s, HTTP/%s: it looks complete", name, version)
			}
			w.log.Wait(t, `"status":200,"bytes":3`)
			w.log.Wait(t, `"reason":"answer_truncated"`)
		}
	}
}

// OPS-15: an early answer is whole, also where the application then closes.
func TestEarlyAnswerAndClose(t *testing.T) {
	w := newWorld(t, upstream(says(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")), allow("anyone"))
	for range 20 {
		for _, proto := range []string{"http/1.1", "h2"} {
			body := io.LimitReader(zeros{}, 4<<20)
			res, err := w.client(w.config(nil), proto).Do(w.request("POST", "/", body))
			if err != nil {
				if proto == "http/1.1" {
					continue // net/http's client may look at its write error first
				}
				t.Fatal(err)
			}
			if res.StatusCode != 413 || text(t, res) != "big" {
				t.Fatalf("%s: %d\n%s", proto, res.StatusCode, w.log)
			}
		}
	}
	if strings.Contains(w.log.String(), `"status":502`) {
		t.Errorf("log\n%s", w.log)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// HTTP-35: what the application does not say of its answer, nobody says. Names
// are spelled as it spells them.
func TestAnswersAreAsTheyAre(t *testing.T) {
	w := newWorld(t, upstream(says(t, "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nWWW-Thing: y\r\nx-lower: z\r\ncontent-TYPE: text/plain\r\nX-Fold : a\r\n b\r\nContent-Length: 14\r\n\r\n<html> <script")), allow("anyone"))
	got := string(w.wire("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
	for _, want := range []string{"\r\nETag: \"x\"\r\n", "\r\nWWW-Thing: y\r\n", "\r\nx-lower: z\r\n", "\r\nContent-Type: text/plain\r\n", "\r\nX-Fold: a b\r\n", "\r\nContent-Length: 14\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html> <script", "HTTP/1.1 200 OK\r\n\r\n<html> <script", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\ne\r\n<html> <script\r\n0\r\n\r\n"} {
		w := newWorld(t, upstream(says(t, answer)), allow("anyone"))
		for _, proto := range []string{"http/1.1", "h2"} {
			res := w.do(w.client(w.config(nil), proto), w.request("GET", "/", nil))
			if body := text(t, res); body != "<html> <script" || res.Header["Content-Type"] != nil {
				t.Errorf("%s: %q, %v", proto, body, res.Header)
			}
		}
	}
}

// wire returns every byte of the answer.
func (w *world) wire(request string) []byte {
	w.t.Helper()
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	_, err := io.WriteString(conn, request)
	must(w.t, err)
	b, _ := io.ReadAll(conn) // an end without close_notify is one too
	return b
}

// Upgrades keep the spelling that some clients compare with.
func TestUpgradeSpelling(t *testing.T) {
	w := newWorld(t, upstream(says(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\nearly")), allow("anyone"))
	got := string(w.wire("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"))
	for _, want := range []string{"HTTP/1.1 101 ", "\r\nSec-WebSocket-Accept: x\r\n", "\r\nUpgrade: WebSocket\r\n", "\r\nConnection: Upgrade\r\n", "\r\n\r\nearly"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	w = newWorld(t, upstream(says(t, "HTTP/1.1 101 Switching Protocols\r\n\r\nearly")), allow("anyone"))
	if got := w.raw("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); status(got) != "502" {
		t.Errorf("101 that nobody asked for: %s", got)
	}
}

// A 204 with a length is a 204, over HTTP/2 too.
func TestNoContentWithLength(t *testing.T) {
	for _, length := range []string{"0", "5"} {
		w := newWorld(t, upstream(says(t, "HTTP/1.1 204 No Content\r\nContent-Length: "+length+"\r\n\r\n")), allow("anyone"))
		for _, proto := range []string{"http/1.1", "h2"} {
			res := w.do(w.client(w.config(nil), proto), w.request("GET", "/", nil))
			if body := text(t, res); res.StatusCode != 204 || body != "" || res.Header["Content-Length"] != nil {
				t.Errorf("%s: %d %q %v", proto, res.StatusCode, body, res.Header)
			}
		}
	}
}

// HTTP-32: a Content-Length over HTTP/2 that is no number, several, or not what
// comes is refused, and not forwarded as an empty request.
func TestLengthOfH2(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"))
	for _, lengths := range [][]string{{"5, 6"}, {"5,5"}, {"abc"}, {"+0"}, {"-1"}, {""}, {"5"}, {"5", "6"}} {
		list := [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}}
		for _, l := range lengths {
			list = append(list, [2]string{"content-length", l})
		}
		if got := w.h2Request(t, list); got != "400" && got != "reset" {
			t.Errorf("%q: %s", lengths, got)
		}
	}
	if n := app.connections(); n != 0 {
		t.Errorf("the application saw %d connections:\n%s", n, app.last())
	}
	if got := w.h2Request(t, [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}, {"content-length", "0"}}); got != "200" {
		t.Errorf("0: %s", got)
	}
}

// HTTP-33: an upgrade with content is none, and a WebSocket with content is refused.
func TestUpgradeWithContent(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"))
	for _, c := range []struct{ upgrade, want string }{
		{"websocket", "400"}, {"x, WebSocket", "400"}, {"custom/1", "200"}, {"h2c", "200"}, {"x\r\nUpgrade: h2c", "200"},
	} {
		for _, content := range []string{"Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
			got := w.raw("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: " + c.upgrade + "\r\n" + content)
			if status(got) != c.want || c.want == "200" && strings.Contains(app.last(), "Upgrade") {
				t.Errorf("%s: %s\n%s", c.upgrade, got, app.last())
			}
		}
	}
}

// A gRPC stream that the application cancels, as it does at a deadline, is not
// one that failed.
func TestCancelledGRPC(t *testing.T) {
	for _, begun := range []bool{false, true} {
		app := "http://" + certstest.Listen(t, func(c net.Conn) {
			defer c.Close()
			if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
				return
			}
			framer := http2.NewFramer(c, c)
			_ = framer.WriteSettings()
			for {
				frame, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if f, ok := frame.(*http2.HeadersFrame); ok {
					if begun {
						_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, EndHeaders: true,
							BlockFragment: fields(t, [][2]string{{":status", "200"}, {"content-type", "application/grpc"}})})
					}
					_ = framer.WriteRSTStream(f.StreamID, http2.ErrCodeCancel)
				}
			}
		})
		w := newWorld(t, upstream(app), allow("anyone"))
		for timeout, want := range map[string]string{"": "1", "1S": "4"} {
			r := w.request("POST", "/a.B/C", strings.NewReader("\x00\x00\x00\x00\x00"))
			r.Header.Set("Content-Type", "application/grpc")
			if timeout != "" {
				r.Header.Set("Grpc-Timeout", timeout)
			}
			res := w.do(w.client(w.config(nil), "h2"), r)
			_ = text(t, res)
			if got := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"); got != want {
				t.Errorf("begun %t, deadline %q: status %q", begun, timeout, got)
			}
		}
	}
}

// A keep-alive client is served by one connection, once the application is known.
func TestConnectionIsUsedAgain(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }))
	t.Cleanup(app.Close)
	w := newWorld(t, upstream(app.URL), allow("anyone"))
	client := w.client(w.config(nil), "http/1.1")
	first := text(t, w.do(client, w.request("GET", "/", nil)))
	for range 100 { // on probation it may be used once it was silent for 50 ms
		time.Sleep(60 * time.Millisecond)
		if text(t, w.do(client, w.request("GET", "/", nil))) == first {
			return
		}
	}
	t.Error("no connection was used again")
}

// OPS-15: an early answer to a small body that stands still.
func TestEarlyAnswerToASmallBody(t *testing.T) {
	w := newWorld(t, upstream(rawApp(t, func(c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nb")
		time.Sleep(50 * time.Millisecond) // an answer that comes in parts
		_, _ = io.WriteString(c, "ig")
		return false
	})), allow("anyone"))
	if got := w.raw("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nhalf"); got != "HTTP/1.1 413 Request Entity Too Large\nbig" {
		t.Errorf("http/1.1: %q", got)
	}
	body, feed := io.Pipe()
	go func() { _, _ = io.WriteString(feed, "half") }()
	r := w.request("POST", "/", body)
	r.ContentLength = 8
	res := w.do(w.client(w.config(nil), "h2"), r)
	_ = feed.Close()
	if body := text(t, res); res.StatusCode != 413 || body != "big" {
		t.Errorf("h2: %d %q", res.StatusCode, body)
	}
	w = newWorld(t, upstream("http://"+freeAddr(t)), allow("anyone"))
	if got := w.raw("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nhalf"); status(got) != "502" {
		t.Errorf("nobody is there: %q", got)
	}
}
