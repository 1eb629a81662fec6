package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sidegate/tlsproxy/http1"
)

// endless is an upload that never ends, and says when it is let go.
type endless struct{ stopped chan struct{} }

func (e endless) Read(p []byte) (int, error) {
	select {
	case <-e.stopped:
		return 0, errors.New("the client has gone")
	default:
		return len(p), nil
	}
}

func uploading(o Owner, length int64, body io.Reader) *Request {
	return &Request{Head: http1.Request{Method: "POST", Target: "/", Host: "a", Length: length}, Body: body, Owner: o}
}

// OPS-15: an answer that comes early is whole, also where the application then
// closes with the upload unread, so that writing fails before the answer is read.
func TestEarlyAnswer(t *testing.T) {
	const body = "no thanks"
	for name, c := range map[string]struct {
		answer string
		linger bool // close at once, with bytes unread: a reset
	}{
		"and closes":              {"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\n" + body, true},
		"and closes, chunked":     {"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n" + body + "\r\n0\r\n\r\n", true},
		"and stays":               {"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\n" + body, false},
		"an interim answer first": {"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\n" + body, true},
	} {
		t.Run(name, func(t *testing.T) {
			over := make(chan bool)
			s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) bool {
				_, _ = io.WriteString(conn, c.answer)
				if !c.linger {
					<-over
				}
				return false
			}))
			for _, length := range []int64{http1.Chunked, 1 << 40} {
				for range 20 {
					up := endless{make(chan struct{})}
					res, got, err := s.send(uploading(owner(), length, up))
					close(up.stopped)
					if err != nil || res.Status != 413 || got != body {
						t.Fatalf("length %d: %+v, %q, %v", length, res, got, err)
					}
				}
			}
			close(over)
			until(t, "the connections are given back", func() bool { _, inUse, _ := s.state(); return inUse == 0 })
		})
	}
}

// Both sides talk at a time.
func TestUploadGoesOnBesideTheAnswer(t *testing.T) {
	s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				fmt.Fprintf(conn, "%x\r\n%s\r\n", n, buf[:n])
			}
			if err != nil {
				break
			}
		}
		fmt.Fprintf(conn, "0\r\nX-Sum: %s\r\n\r\n", r.Trailer.Get("X-Sent"))
		return true
	})).trust()
	o := owner()
	for range 3 {
		body, feed := io.Pipe()
		r := uploading(o, http1.Chunked, body)
		r.Head.Trailers = []string{"X-Sent"}
		r.Trailers = func() []http1.Field { return []http1.Field{{Name: "X-Sent", Value: "42"}} }
		res, err := s.Do(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"one", "two", "three"} {
			_, _ = io.WriteString(feed, word)
			got := make([]byte, len(word))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != word {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		_ = feed.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
			t.Fatalf("rest %q, %v", rest, err)
		}
		if trailers := fmt.Sprint(res.Body.Trailers()); trailers != "[{X-Sum 42}]" {
			t.Errorf("trailers %s", trailers)
		}
		_ = res.Body.Close()
		until(t, "the connection is given back", func() bool { _, inUse, _ := s.state(); return inUse == 0 })
	}
	if n := s.app.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Bodies of all sizes arrive, with a length or without, and connections are used again.
func TestUploads(t *testing.T) {
	s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
		b, err := io.ReadAll(r.Body)
		text := fmt.Sprint(len(b), " ", err, " ", r.ContentLength)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		return true
	})).trust()
	o := owner()
	for _, n := range []int{0, 1, 100, bufferSize - 100, bufferSize, uploads.Size, 1 << 20} {
		for _, length := range []int64{int64(n), http1.Chunked} {
			if length == 0 {
				continue // there is no body then
			}
			_, got, err := s.send(uploading(o, length, bytes.NewReader(make([]byte, n))))
			if want := fmt.Sprint(n, " <nil> ", length); err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
			until(t, "the connection is given back", func() bool { _, inUse, _ := s.state(); return inUse == 0 })
		}
	}
	if n := s.app.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What the client did not send whole must not look so to the application.
func TestBrokenUpload(t *testing.T) {
	got := make(chan error, 1)
	s := newSide(t, newApplication(t, func(_ net.Conn, _ *bufio.Reader, r *http.Request) bool {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
		return false
	}))
	broken := errors.New("broken")
	for _, length := range []int64{http1.Chunked, 1 << 20} {
		body := io.MultiReader(strings.NewReader("half"), errReader{broken})
		if _, _, err := s.send(uploading(owner(), length, body)); !errors.Is(err, broken) {
			t.Errorf("length %d: got %v", length, err)
		}
		if err := <-got; err == nil {
			t.Errorf("length %d looks whole to the application", length)
		}
		if _, _, err := s.send(uploading(owner(), 1<<20, strings.NewReader("short"))); err == nil {
			t.Error("a body that is shorter than its length")
		}
		if err := <-got; err == nil {
			t.Error("a short body looks whole to the application")
		}
	}
	if _, _, err := s.send(uploading(owner(), 10, io.MultiReader(strings.NewReader("half"), errReader{broken}))); !errors.Is(err, broken) {
		t.Errorf("small: got %v", err)
	}
	until(t, "the connections are given back", func() bool { _, inUse, _ := s.state(); return inUse == 0 })
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// A body that waits for 100 is sent when that comes, or after a while, and never
// once the answer is there.
func TestExpect(t *testing.T) {
	for name, c := range map[string]struct {
		first string
		body  bool
	}{
		"100":      {"HTTP/1.1 100 Continue\r\n\r\n", true},
		"silence":  {"", true},
		"103, 100": {"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", true},
		"refused":  {"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
				if r.Method == "GET" {
					_, _ = io.WriteString(conn, ok)
					return true
				}
				_, _ = io.WriteString(conn, c.first)
				if c.body {
					b, _ := io.ReadAll(r.Body)
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
				}
				return true
			})).trust()
			o := owner()
			body := &watchedReader{r: strings.NewReader("body")}
			r := uploading(o, 4, body)
			r.Expect = true
			r.Head.Fields = []http1.Field{{Name: "Expect", Value: "100-continue"}}
			res, got, err := s.send(r)
			if err != nil || c.body != (got == "body") || c.body != (res.Status == 200) {
				t.Fatalf("%+v, %q, %v", res, got, err)
			}
			if body.read != c.body {
				t.Errorf("the body was read: %t", body.read)
			}
			until(t, "the connection is given back", func() bool { _, inUse, _ := s.state(); return inUse == 0 })
			want := int64(0)
			if !c.body {
				want = 1 // the application may still wait for the body
			}
			if n := s.dialled(func() { s.must(o, "GET", "/") }); n != want {
				t.Errorf("%d connections", n)
			}
		})
	}
}

type watchedReader struct {
	r    io.Reader
	read bool
}

func (w *watchedReader) Read(p []byte) (int, error) {
	w.read = true
	return w.r.Read(p)
}

// Interim answers are passed on, and bounded in number.
func TestInterim(t *testing.T) {
	s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
		n := 3
		if r.URL.Path == "/many" {
			n = maxInterim + 1
		}
		_, _ = io.WriteString(conn, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", n)+ok)
		return true
	}))
	var seen []string
	r := &Request{Head: http1.Request{Method: "GET", Target: "/", Host: "a"}, Owner: owner()}
	r.Interim = func(status int, fields []http1.Field) { seen = append(seen, fmt.Sprint(status, fields)) }
	if _, got, err := s.send(r); err != nil || got != "ok" || strings.Join(seen, " ") != strings.TrimSpace(strings.Repeat("103 [{Link </a>}] ", 3)) {
		t.Errorf("%q, %v, %q", got, err, seen)
	}
	r.Head.Target = "/many"
	if _, _, err := s.send(r); err == nil {
		t.Error("any number passes")
	}
}

// An answer that ends too early is never complete.
func TestTruncated(t *testing.T) {
	for name, answer := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) bool {
			_, _ = io.WriteString(conn, answer)
			return false
		}))
		if _, got, err := s.ask(owner(), "GET", "/"); !errors.Is(err, io.ErrUnexpectedEOF) || got != "abc" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, answer := range map[string]string{"head": "HTTP/1.1 200 OK\r\nContent-Le", "status": "HTTP"} {
		s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) bool {
			_, _ = io.WriteString(conn, answer)
			return false
		}))
		if _, _, err := s.ask(owner(), "GET", "/"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A body that ends with the connection is whole if the application closed it,
// and not if it broke it off.
func TestUntilClose(t *testing.T) {
	for _, reset := range []bool{false, true} {
		s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) bool {
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nabc")
			if reset {
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			return false
		}))
		_, got, err := s.ask(owner(), "GET", "/")
		if reset != (err != nil) || !reset && got != "abc" {
			t.Errorf("reset %t: %q, %v", reset, got, err)
		}
		up := endless{make(chan struct{})}
		_, got, err = s.send(uploading(owner(), http1.Chunked, up))
		close(up.stopped)
		if reset && err == nil {
			t.Errorf("reset during an upload: %q looks whole", got)
		}
	}
}

// HTTP-31: what can't be told apart is refused, the error names the field and
// nothing of the answer.
func TestStrange(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 SECRET\r\nContent-Length: 6\r\nContent-Length: 6\r\n\r\nSECRET":                      "Content-Length",
		"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\nX: SECRET\r\n\r\n0\r\n\r\n": "Content-Length",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n0\r\n\r\n":                                    "Transfer-Encoding",
		"HTTP/1.1 200 OK\r\nSECRET\r\n\r\n":                                                                "colon",
		"SECRET\r\n\r\n":                                                                                   "status line",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n":                                  "chunk",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n":                                "chunk",
		"HTTP/1.1 101 SECRET\r\nUpgrade: SECRET\r\n\r\nSECRET":                                             "101",
	} {
		s := newSide(t, newApplication(t, says(answer)))
		_, _, err := s.ask(owner(), "GET", "/")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v", answer, err)
		}
		if waiting, inUse, _ := s.state(); waiting != 0 || inUse != 0 {
			t.Errorf("%q: %d wait, %d in use", answer, waiting, inUse)
		}
	}
}

// The head has its time from the end of the request on, the body has none.
func TestHeadTimeout(t *testing.T) {
	release := make(chan bool)
	s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
		if r.URL.Path == "/body" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
			<-release
			_, _ = io.WriteString(conn, "k")
			return true
		}
		<-release
		return false
	}))
	s.head = 40 * time.Millisecond
	if _, _, err := s.ask(owner(), "GET", "/"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, _, err := s.send(uploading(owner(), http1.Chunked, strings.NewReader("x"))); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an upload got %v", err)
	}
	go func() {
		time.Sleep(5 * s.head) // the input of this test: an application that takes its time
		close(release)
	}()
	if got := s.must(owner(), "GET", "/body"); got != "ok" {
		t.Errorf("got %q", got)
	}
}

// A client that leaves ends the exchange, wherever it is.
func TestCancel(t *testing.T) {
	arrived, gone := make(chan bool, 1), make(chan bool)
	s := newSide(t, newApplication(t, func(conn net.Conn, in *bufio.Reader, r *http.Request) bool {
		if r.URL.Path == "/body" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
		}
		arrived <- true
		_, _ = io.Copy(io.Discard, in)
		gone <- true
		return false
	}))
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-arrived; cancel() }()
	r := &Request{Head: http1.Request{Method: "GET", Target: "/", Host: "a"}, Owner: owner()}
	if _, err := s.Do(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-gone
	ctx, cancel = context.WithCancel(context.Background())
	r.Head.Target = "/body"
	res, err := s.Do(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	<-arrived
	cancel()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the body looks complete")
	}
	_ = res.Body.Close()
	<-gone
	if waiting, inUse, _ := s.state(); waiting != 0 || inUse != 0 {
		t.Errorf("%d wait, %d in use", waiting, inUse)
	}
}

// What is read of an answer only in part leaves nothing to the next.
func TestCloseEarly(t *testing.T) {
	s := newSide(t, newApplication(t, says("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100000)))).trust()
	o := owner()
	for range 3 {
		res, err := s.Do(context.Background(), &Request{Head: http1.Request{Method: "GET", Target: "/", Host: "a"}, Owner: o})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = res.Body.Read(make([]byte, 10))
		_ = res.Body.Close()
		if n, err := res.Body.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("after Close: %d, %v", n, err)
		}
	}
	if got := s.app.dials.Load(); got != 3 {
		t.Errorf("%d connections", got)
	}
}

// What follows 101 is the other protocol's, from its first byte on.
func TestTunnel(t *testing.T) {
	s := newSide(t, newApplication(t, func(conn net.Conn, in *bufio.Reader, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly ")
		_, _ = io.Copy(conn, in)
		return false
	}))
	res, err := s.Do(context.Background(), &Request{Head: http1.Request{Method: "GET", Target: "/", Host: "a"}, Upgrade: true, Owner: owner()})
	if err != nil || res.Tunnel == nil {
		t.Fatalf("%+v, %v", res, err)
	}
	_, _ = io.WriteString(res.Tunnel, "late")
	_ = res.Tunnel.CloseWrite()
	if got, err := io.ReadAll(res.Tunnel); err != nil || string(got) != "early late" || http1.Value(res.Fields, "upgrade") != "x" {
		t.Errorf("%q, %v, %v", got, err, res.Fields)
	}
	_ = res.Tunnel.Close()
	if waiting, inUse, _ := s.state(); waiting != 0 || inUse != 0 {
		t.Errorf("%d wait, %d in use", waiting, inUse)
	}
}

// A head that needs more than the buffer, both ways.
func TestLargeHeads(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nX-Seen: %d\r\nX: %s\r\nContent-Length: 2\r\n\r\nok", len(r.Header.Get("X")), large)
		return true
	})).trust()
	o := owner()
	for range 2 {
		res, got, err := s.send(&Request{Head: http1.Request{Method: "GET", Target: "/", Host: "a", Fields: []http1.Field{{Name: "X", Value: large}}}, Owner: o})
		if err != nil || got != "ok" || http1.Value(res.Fields, "X-Seen") != fmt.Sprint(len(large)) || http1.Value(res.Fields, "X") != large {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if _, _, err := s.send(&Request{Head: http1.Request{Method: "GET", Target: "/a b", Host: "a"}, Owner: o}); err == nil {
		t.Error("a target with a blank was sent")
	}
}

// TCP-07: what is not loopback is refused unless that is allowed.
func TestDialLoopbackOnly(t *testing.T) {
	app := newApplication(t, says(ok))
	_, port, _ := net.SplitHostPort(app.addr)
	for host, good := range map[string]bool{"127.0.0.1": true, "localhost": true, "192.0.2.1": false, "0.0.0.0": false, "::": false, "[::ffff:192.0.2.1]": false} {
		d := &Dialer{Network: "tcp", Address: net.JoinHostPort(strings.Trim(host, "[]"), port), Timeout: time.Second}
		c, err := d.Dial(context.Background())
		if (err == nil) != good || !good && !contains(err.Error(), "not loopback") {
			t.Errorf("%s: %v", host, err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
	d := &Dialer{Network: "tcp", Address: "0.0.0.0:" + port, AnyAddress: true, Timeout: time.Second}
	c, err := d.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// deafConn takes no more than some writes, and gives the answer only after one
// has failed: the order that a loaded machine brings about now and then.
type deafConn struct {
	net.Conn
	takes  int
	failed chan struct{}
}

func (d *deafConn) Write(p []byte) (int, error) {
	if d.takes--; d.takes < 0 {
		close(d.failed)
		return 0, syscall.ECONNRESET
	}
	return d.Conn.Write(p)
}

func (d *deafConn) Read(p []byte) (int, error) {
	<-d.failed
	return d.Conn.Read(p)
}

// OPS-15: the answer counts, though writing failed before it was read: the head,
// or the body behind it.
func TestAnswerBeforeTheWriteError(t *testing.T) {
	for takes := range 2 {
		app := newApplication(t, nil)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		answer := "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
		s := newSide(t, app)
		s.dial = func(context.Context) (net.Conn, error) {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return nil, err
			}
			theirs, err := l.Accept()
			if err != nil {
				return nil, err
			}
			_, _ = io.WriteString(theirs, answer)
			_ = theirs.Close()
			return &deafConn{Conn: c, takes: takes, failed: make(chan struct{})}, err
		}
		res, got, err := s.send(uploading(owner(), http1.Chunked, strings.NewReader("x")))
		if err != nil || res.Status != 503 || got != "busy" {
			t.Errorf("after %d writes: %+v, %q, %v", takes, res, got, err)
		}
		// Without a length, what had come may not be all.
		answer = "HTTP/1.1 503 Busy\r\n\r\nbusy"
		if _, got, err := s.send(uploading(owner(), http1.Chunked, strings.NewReader("x"))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d writes, until close: %q, %v", takes, got, err)
		}
	}
}

// OPS-15: an answer comes early also where the body is small and stands still,
// and one that only takes its time arrives.
func TestEarlyAnswerToASmallBody(t *testing.T) {
	s := newSide(t, newApplication(t, func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
		if r.URL.Path == "/early" {
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
			_, _ = io.Copy(io.Discard, r.Body)
			return true
		}
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		return err == nil
	})).trust()
	o := owner()
	for range 3 {
		body, feed := io.Pipe()
		go func() { _, _ = io.WriteString(feed, "half") }()
		r := uploading(o, 8, body)
		r.Head.Target, r.Interrupt = "/early", func() { _ = feed.CloseWithError(errors.New("interrupted")) }
		if res, got, err := s.send(r); err != nil || res.Status != 413 || got != "big" {
			t.Fatalf("%+v, %q, %v", res, got, err)
		}
		body, feed = io.Pipe()
		go func() {
			_, _ = io.WriteString(feed, "half")
			time.Sleep(3 * patience) // the input: a client that takes its time
			_, _ = io.WriteString(feed, "half")
		}()
		if res, got, err := s.send(uploading(o, 8, body)); err != nil || res.Status != 200 || got != "halfhalf" {
			t.Fatalf("%+v, %q, %v", res, got, err)
		}
		body, feed = io.Pipe()
		broken := errors.New("broken")
		go func() {
			_, _ = io.WriteString(feed, "half")
			time.Sleep(3 * patience)
			_ = feed.CloseWithError(broken)
		}()
		if _, _, err := s.send(uploading(o, 8, body)); !errors.Is(err, broken) {
			t.Fatalf("broken: %v", err)
		}
	}
	until(t, "the connections are given back", func() bool { _, inUse, _ := s.state(); return inUse == 0 })
}
