package tlsproxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sidegate/tlsproxy"
)

// littleMemory has room for about 110 idle connections.
const littleMemory = 4 << 20

// OPS-16: hundreds hold connections, by which nothing is asked any more or a
// head does not end, and everybody who comes is served all the same.
func TestLittleMemoryManyConnections(t *testing.T) {
	for name, hold := range map[string]func(w *world, c *tls.Conn){
		"idle, HTTP/1.1": func(w *world, c *tls.Conn) {
			must(w.t, askKept(c))
		},
		"unfinished heads": func(_ *world, c *tls.Conn) {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nX-Long: "+strings.Repeat("x", 60<<10)) // it may be ended meanwhile
		},
		"nothing asked": func(*world, *tls.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldIn(t, tlsproxy.Limits{Memory: littleMemory}, upstream(echo(t).URL), allow("anyone"))
			conf := w.config(nil)
			conf.NextProtos = []string{"http/1.1"}
			for range 300 {
				c, err := tls.Dial("tcp", w.addr, conf)
				if err != nil {
					t.Fatal("a client who came last was refused: ", err)
				}
				t.Cleanup(func() { _ = c.Close() })
				hold(w, c)
				if n, _ := w.proxy.Memory(); n > littleMemory {
					t.Fatalf("%d bytes are held", n)
				}
			}
			if res := w.get("/"); res.StatusCode != http.StatusOK {
				t.Errorf("got %s", res.Status)
			}
			w.counted(`sidegate_connections_ended_total{gate="main",reason="made_room"}`)
		})
	}
}

// askKept asks by a connection that is kept.
func askKept(c *tls.Conn) error {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// OPS-16: requests for which there is no room are 503 before their body is read,
// with a time after which to come again; those that are under way go on, and a
// second user is served.
func TestLittleMemoryManyRequests(t *testing.T) {
	release := make(chan struct{})
	var held atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			held.Add(1)
			<-release
		}
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(app.Close)
	w := newWorldIn(t, tlsproxy.Limits{Memory: littleMemory}, upstream(app.URL), allow("anyone"))
	h2 := w.client(w.config(nil), "h2")
	codes := make(chan int)
	var all sync.WaitGroup
	const many = 200
	for range many {
		all.Go(func() {
			res, err := h2.Do(w.request(http.MethodPost, "/held", strings.NewReader(strings.Repeat("x", 1<<20))))
			if err != nil {
				t.Error(err)
				codes <- 0
				return
			}
			_ = res.Body.Close()
			if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "1" {
				t.Errorf("Retry-After is %q", res.Header.Get("Retry-After"))
			}
			codes <- res.StatusCode
		})
	}
	var refused int
	for code := range codes {
		if code != http.StatusServiceUnavailable {
			t.Fatalf("got %d, want 503", code)
		}
		if refused++; refused+int(held.Load()) == many {
			break
		}
	}
	if held.Load() == 0 {
		t.Error("none went on")
	}
	if n, _ := w.proxy.Memory(); n > littleMemory {
		t.Errorf("%d bytes are held", n)
	}
	other := w.request("GET", "/", nil)
	other.Header.Set("Authorization", authorized)
	if res := w.do(w.client(w.config(nil), "http/1.1"), other); res.StatusCode != http.StatusOK {
		t.Errorf("another user got %s", res.Status)
	}
	w.counted(`reason="memory_limit"`)
	close(release)
	for range many - refused {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("one that was under way got %d", code)
		}
	}
	all.Wait()
}

// A smaller limit ends idle connections that are too many, a larger one none.
func TestMemoryIsResized(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{Memory: littleMemory}, upstream(echo(t).URL), allow("anyone"))
	conf := w.config(nil)
	conf.NextProtos = []string{"http/1.1"}
	for range 50 {
		must(t, askKept(w.dial(conf)))
	}
	w.proxy.SetMemory(2 * littleMemory)
	if n := w.proxy.Status()[0].Connections; n != 50 {
		t.Errorf("%d connections are left of 50", n)
	}
	for n := int64(littleMemory); n > littleMemory/4; n, _ = w.proxy.Memory() { // some are too new to go at first
		w.proxy.SetMemory(littleMemory / 4)
		time.Sleep(time.Millisecond)
	}
	if n := w.proxy.Status()[0].Connections; n == 0 || n > 32 {
		t.Errorf("%d connections are left", n)
	}
}

// A frame of HTTP/2 costs a buffer as soon as it is announced: none may be larger
// than 16 KiB.
func TestFramesAreSmall(t *testing.T) {
	w := newWorld(t, upstream(echo(t).URL))
	conf := w.config(nil)
	conf.NextProtos = []string{"h2"}
	c := w.dial(conf)
	_, err := io.WriteString(c, http2.ClientPreface)
	must(t, err)
	framer := http2.NewFramer(c, bufio.NewReader(c))
	must(t, framer.WriteSettings())
	f, err := framer.ReadFrame()
	must(t, err)
	if size, ok := f.(*http2.SettingsFrame).Value(http2.SettingMaxFrameSize); ok && size > 16<<10 {
		t.Errorf("frames may have %d bytes", size)
	}
	_, err = c.Write([]byte{0, 0x40, 1, 0, 0, 0, 0, 0, 1}) // DATA of 16,385 bytes
	must(t, err)
	for err == nil {
		f, err = framer.ReadFrame()
		if away, ok := f.(*http2.GoAwayFrame); ok && away.ErrCode == http2.ErrCodeFrameSize {
			return
		}
	}
	t.Error(fmt.Errorf("it ended by %w, want a FRAME_SIZE_ERROR", err))
}
