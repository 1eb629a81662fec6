package tlsproxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sidegate/tlsproxy"
)

// pour is an application that reads its upload or, at /pour, answers without end.
func pour(t *testing.T) string {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pour" {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		chunk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(app.Close)
	return app.URL
}

// OPS-14: an upload that stands still is ended, one that moves is not.
func TestStalledUpload(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			w := newWorldIn(t, tlsproxy.Limits{BodyIdle: 2 * time.Second}, upstream(pour(t)), allow("anyone"))
			body, feed := io.Pipe()
			go func() {
				_, _ = feed.Write([]byte("x")) // and no more
			}()
			answered := make(chan bool, 1)
			go func() {
				res, err := w.client(w.config(nil), proto).Do(w.request("POST", "/", body))
				answered <- err == nil && res.StatusCode == http.StatusOK
			}()
			w.log.Wait(t, `"reason":"body_stalled"`)
			_ = feed.Close() // net/http's client waits for its body where the connection has gone
			if <-answered {
				t.Error("a stalled upload was answered 200")
			}

			body, feed = io.Pipe()
			go func() {
				defer feed.Close()
				for range 8 { // longer than the limit in all
					time.Sleep(400 * time.Millisecond)
					_, _ = feed.Write([]byte("x"))
				}
			}()
			if got := text(t, w.do(w.client(w.config(nil), proto), w.request("POST", "/", body))); got != "8 <nil>" {
				t.Errorf("a moving upload got %s", got)
			}
		})
	}
}

// The deadline of a body does not outlive it: a slow answer, and a second
// request on the same connection, are not cut by it.
func TestBodyDeadlineEndsWithTheBody(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(2 * time.Second) // an application that thinks longer than BodyIdle
		fmt.Fprint(w, "done")
	}))
	t.Cleanup(app.Close)
	w := newWorldIn(t, tlsproxy.Limits{BodyIdle: time.Second}, upstream(app.URL), allow("anyone"))
	client := w.client(w.config(nil), "http/1.1")
	for range 2 {
		if got := text(t, w.do(client, w.request("POST", "/", strings.NewReader("x")))); got != "done" {
			t.Errorf("got %q", got)
		}
	}
}

// OPS-14: a client that takes nothing of a large answer is let go.
func TestStalledDownload(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{BodyIdle: 400 * time.Millisecond}, upstream(pour(t)), allow("anyone"))
	t.Run("http/1.1", func(t *testing.T) {
		c := w.config(nil)
		c.NextProtos = []string{"http/1.1"}
		conn := w.dial(c)
		fmt.Fprint(conn, "GET /pour HTTP/1.1\r\nHost: localhost\r\n\r\n")
		_, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(t, err)
		w.log.Wait(t, `"path":"/pour","proto":"HTTP/1.1"`) // its line: it has ended
	})
	t.Run("h2", func(t *testing.T) {
		c := w.config(nil)
		c.NextProtos = []string{"h2"}
		conn := w.dial(c)
		stallH2(t, conn)
		w.log.Wait(t, `"path":"/pour","proto":"HTTP/2.0"`)
	})
}

// stallH2 asks for /pour and never opens the window.
func stallH2(t *testing.T, conn *tls.Conn) {
	t.Helper()
	framer := beginH2(t, conn)
	must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true,
		BlockFragment: fields(t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/pour"}})}))
	go func() { _, _ = io.Copy(io.Discard, conn) }()
}

func TestMaxBody(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"), func(g *tlsproxy.Gate) { g.MaxBody = 10 })
	for _, proto := range []string{"http/1.1", "h2"} {
		if res := w.do(w.client(w.config(nil), proto), w.request("POST", "/", strings.NewReader("12345678901"))); res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s announced: %d", proto, res.StatusCode)
		}
		if app.connections() != 0 { // HTTP-24
			t.Errorf("%s: the application saw a connection", proto)
		}
	}
	conf := w.config(nil)
	conf.NextProtos = []string{"http/1.1"}
	c := w.dial(conf)
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
	must(t, err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil) // of a body that does not come
	must(t, err)
	if res.StatusCode != http.StatusRequestEntityTooLarge || app.connections() != 0 {
		t.Errorf("a body that is announced and does not come: %d, %d connections to the application", res.StatusCode, app.connections())
	}
	big := newWorld(t, upstream(pour(t)), allow("anyone"), func(g *tlsproxy.Gate) { g.MaxBody = 10 })
	for _, proto := range []string{"http/1.1", "h2"} {
		c := big.client(big.config(nil), proto)
		if res := big.do(c, big.request("POST", "/", io.MultiReader(strings.NewReader("12345678901")))); res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s chunked: %d", proto, res.StatusCode)
		}
		if got := text(t, big.do(c, big.request("POST", "/", io.MultiReader(strings.NewReader("1234567890"))))); got != "10 <nil>" {
			t.Errorf("%s just fitting: %s", proto, got)
		}
	}
}

// OPS-19: an application may be silent as long as it likes once its answer has
// begun, and so may either side of gRPC and a client whose answer has begun.
func TestSilentStreamsLive(t *testing.T) {
	const limit = 200 * time.Millisecond
	quiet := make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		if r.URL.Path == "/long" {
			_, _ = w.Write(make([]byte, 100<<10)) // more than a client takes without saying so
		} else {
			fmt.Fprint(w, "begun")
		}
		_ = rc.Flush()
		<-quiet
		fmt.Fprint(w, "end")
	}))
	t.Cleanup(app.Close)
	w := newWorldIn(t, tlsproxy.Limits{BodyIdle: limit}, upstream(app.URL), allow("anyone"))
	var answers []*http.Response
	for _, proto := range []string{"http/1.1", "h2"} {
		for _, path := range []string{"/short", "/long"} {
			answers = append(answers, w.do(w.client(w.config(nil), proto), w.request("GET", path, nil)))
		}
		body, feed := io.Pipe() // it stands still all the time
		t.Cleanup(func() { _ = feed.Close() })
		answers = append(answers, w.do(w.client(w.config(nil), proto), w.request("POST", "/upload", body)))
	}
	time.Sleep(3 * limit) // the silence
	close(quiet)
	for _, res := range answers {
		if got := text(t, res); !strings.HasSuffix(got, "end") {
			t.Errorf("%s %s: the answer ends %q, want it whole", res.Proto, res.Request.URL.Path, got[max(0, len(got)-10):])
		}
	}
}

// OPS-19: a gate may set a limit for silence, which says why it cut.
func TestStreamIdle(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for i := 0; i < 8 || r.URL.Path == "/silent"; i++ {
			fmt.Fprint(w, ".")
			_ = rc.Flush()
			if r.URL.Path == "/silent" {
				<-r.Context().Done()
				return
			}
			time.Sleep(100 * time.Millisecond) // longer than the limit in all
		}
	}))
	t.Cleanup(app.Close)
	w := newWorld(t, upstream(app.URL), allow("anyone"), func(g *tlsproxy.Gate) { g.StreamIdle = 400 * time.Millisecond })
	for _, proto := range []string{"http/1.1", "h2"} {
		if got := text(t, w.do(w.client(w.config(nil), proto), w.request("GET", "/moving", nil))); got != "........" {
			t.Errorf("%s: a moving stream got %q", proto, got)
		}
		res := w.do(w.client(w.config(nil), proto), w.request("GET", "/silent", nil))
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: a silent stream ended as if it was whole", proto)
		}
		w.log.Wait(t, `"path":"/silent","proto":"`+res.Proto+`"`)
		w.log.Wait(t, `"reason":"stream_idle"`)
	}
}
