package upstream

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sidegate/tlsproxy/http1"
)

// application listens on loopback and answers each request as answer says, which
// may say false to close. It is net/http's reader alone that tells requests apart.
type application struct {
	addr   string
	dials  atomic.Int64 // connections so far
	open   atomic.Int64 // connections now
	answer func(c net.Conn, in *bufio.Reader, r *http.Request) bool
}

func newApplication(t testing.TB, answer func(c net.Conn, in *bufio.Reader, r *http.Request) bool) *application {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &application{addr: l.Addr().String(), answer: answer}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.dials.Add(1)
			a.open.Add(1)
			serving.Go(func() { a.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return a
}

func (a *application) serve(c net.Conn) {
	defer a.open.Add(-1)
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil || !a.answer(c, in, r) {
			return
		}
	}
}

// says answers every request with the same text.
func says(text string) func(net.Conn, *bufio.Reader, *http.Request) bool {
	return func(c net.Conn, _ *bufio.Reader, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		_, err := io.WriteString(c, text)
		return err == nil
	}
}

// side is a client with a hand on its clock.
type side struct {
	t testing.TB
	*Client
	app    *application
	log    *lockedBuffer
	offset atomic.Int64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSide(t testing.TB, app *application) *side {
	t.Helper()
	s := &side{t: t, app: app, log: &lockedBuffer{}}
	s.open(time.Minute) // longer than the busiest machine takes
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *side) open(timeout time.Duration) {
	dial := &Dialer{Network: "tcp", Address: s.app.addr, Timeout: time.Minute}
	s.Client = New(Options{Dial: dial.Dial, HeadTimeout: timeout, Idle: 1500 * time.Millisecond, Log: slog.New(slog.NewTextHandler(s.log, nil))})
}

// hasty makes it wait for an answer no longer than it takes to see that an
// application says something else.
func (s *side) hasty() *side {
	s.Close()
	s.open(100 * time.Millisecond)
	return s
}

// stopClock makes time pass by advance alone.
func (s *side) stopClock() *side {
	start := time.Now()
	s.pool.now = func() time.Time { return start.Add(time.Duration(s.offset.Load())) }
	s.pool.after = func(time.Duration) {}
	return s
}

// advance lets time pass, and the pool look at what waits, as its timer would.
func (s *side) advance(d time.Duration) {
	s.offset.Add(int64(d))
	s.pool.watch()
}

// trust ends the probation.
func (s *side) trust() *side {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.pool.silent = probation
	return s
}

func (s *side) state() (waiting, inUse, silent int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.pool.waiting, s.pool.inUse, s.pool.silent
}

// ask sends a request without a body and reads the whole answer.
func (s *side) ask(o Owner, method, target string) (*http1.Response, string, error) {
	return s.send(&Request{Head: http1.Request{Method: method, Target: target, Host: "a"}, Owner: o})
}

func (s *side) send(r *Request) (*http1.Response, string, error) {
	s.t.Helper()
	res, err := s.Do(context.Background(), r)
	if err != nil {
		return nil, "", err
	}
	head := *res.Response
	head.Fields = append([]http1.Field(nil), res.Fields...)
	b, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	return &head, string(b), err
}

// must is ask for who wants nothing but the body.
func (s *side) must(o Owner, method, target string) string {
	s.t.Helper()
	_, body, err := s.ask(o, method, target)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	return body
}

// dialled runs f and returns how many connections that took.
func (s *side) dialled(f func()) int64 {
	before := s.app.dials.Load()
	f()
	return s.app.dials.Load() - before
}

// until waits for something that another goroutine or the kernel does.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func owner() Owner { return Owner{Caller: &Caller{}} }

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
