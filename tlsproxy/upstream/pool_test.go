package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sidegate/tlsproxy/http1"
)

// HTTP-30: a connection has one owner for ever.
func TestOnlyTheOwnerUsesItAgain(t *testing.T) {
	s := newSide(t, newApplication(t, says(ok))).stopClock().trust()
	caller, other := &Caller{}, &Caller{}
	client := netip.MustParseAddr("192.0.2.1")
	mine := Owner{caller, "local", "alice", client}
	s.must(mine, "GET", "/")
	s.advance(quiet)
	for name, o := range map[string]Owner{
		"another connection": {other, "local", "alice", client},
		"another user":       {caller, "local", "bob", client},
		"another method":     {caller, "cert", "alice", client},
		"nobody":             {caller, "", "", client},
		"another client":     {caller, "local", "alice", netip.MustParseAddr("192.0.2.2")},
		"no connection":      {nil, "local", "alice", client},
	} {
		if n := s.dialled(func() { s.must(o, "GET", "/") }); n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
	if n := s.dialled(func() { s.must(mine, "GET", "/"); s.must(mine, "GET", "/") }); n != 0 {
		t.Errorf("the owner: %d connections", n)
	}
}

// HTTP-30: when a connection may be used again, by what the answer was.
func TestWhenItIsUsedAgain(t *testing.T) {
	const never = time.Hour
	for name, c := range map[string]struct {
		method, answer string
		probation      time.Duration // the least wait
		trusted        time.Duration
	}{
		"length":          {"GET", ok, quiet, 0},
		"length 0":        {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", quiet, 0},
		"chunks":          {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", quiet, 0},
		"HEAD":            {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", quiet, quiet},
		"HEAD bare":       {"HEAD", "HTTP/1.1 200 OK\r\n\r\n", quiet, quiet},
		"HEAD 204":        {"HEAD", "HTTP/1.1 204 No Content\r\n\r\n", quiet, quiet},
		"204":             {"GET", "HTTP/1.1 204 No Content\r\n\r\n", quiet, 0},
		"204 length 0":    {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", quiet, 0},
		"204 length 2":    {"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", never, never},
		"204 chunked":     {"GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", never, never},
		"304":             {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n", quiet, 0},
		"304 length 2":    {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", quiet, quiet},
		"304 chunked":     {"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", quiet, quiet},
		"close":           {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", never, never},
		"HTTP/1.0":        {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", never, never},
		"HTTP/1.0 kept":   {"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", quiet, 0},
		"HEAD, chunked":   {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", quiet, quiet},
		"interim and 200": {"GET", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok, quiet, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, trusted := range []bool{false, true} {
				least := c.probation
				if trusted {
					least = c.trusted
				}
				for _, waited := range []time.Duration{0, quiet - 1, quiet} {
					s := newSide(t, newApplication(t, says(c.answer))).stopClock()
					if trusted {
						s.trust()
					}
					o := owner()
					s.must(o, c.method, "/")
					s.offset.Add(int64(waited))
					again := s.dialled(func() { s.must(o, c.method, "/") }) == 0
					if again != (waited >= least) {
						t.Errorf("trusted %t, after %s: used again %t", trusted, waited, again)
					}
				}
			}
		})
	}
}

// HTTP-30: an application is on probation until 1,000 connections were silent.
func TestProbation(t *testing.T) {
	s := newSide(t, newApplication(t, says(ok))).stopClock()
	for range probation {
		o := owner()
		s.must(o, "GET", "/")
		if n := s.dialled(func() { s.must(o, "GET", "/") }); n != 1 {
			t.Fatal("used at once on probation")
		}
		s.advance(quiet)
		s.Leave(o.Caller)
		if _, _, silent := s.state(); silent == probation {
			break
		}
	}
	o := owner()
	s.must(o, "GET", "/")
	if n := s.dialled(func() { s.must(o, "GET", "/") }); n != 0 {
		t.Errorf("%d connections after the probation", n)
	}
}

// A look that finds nothing before 50 ms proves nothing.
func TestEarlyLooksDoNotCount(t *testing.T) {
	s := newSide(t, newApplication(t, says(ok))).stopClock()
	s.must(owner(), "GET", "/")
	s.advance(quiet - 1)
	if _, _, silent := s.state(); silent != 0 {
		t.Errorf("%d counted", silent)
	}
	s.advance(1)
	s.advance(quiet)
	if _, _, silent := s.state(); silent != 1 {
		t.Errorf("%d counted, want the connection once", silent)
	}
}

// HTTP-30: one byte of surplus, in the packet or later, ends the trust in
// answers of its kind, is told once, and is in no log.
func TestSurplusEndsTrust(t *testing.T) {
	for name, c := range map[string]struct{ method, answer, warning string }{
		"HEAD":   {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "a body in the answer to HEAD"},
		"204":    {"GET", "HTTP/1.1 204 No Content\r\n\r\n", "a body with status 204"},
		"304":    {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n", "a body with status 304"},
		"length": {"GET", ok, "bytes beyond Content-Length"},
		"chunks": {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bytes behind the last chunk"},
	} {
		for _, late := range []bool{false, true} {
			more := make(chan bool)
			app := newApplication(t, nil)
			app.answer = func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
				if !late {
					_, _ = io.WriteString(conn, c.answer+"SECRET")
					return true
				}
				_, _ = io.WriteString(conn, c.answer)
				if r.URL.Path == "/surplus" {
					<-more
					_, _ = io.WriteString(conn, "SECRET")
					more <- true
				}
				return true
			}
			s := newSide(t, app).stopClock().trust()
			o := owner()
			s.must(o, c.method, "/surplus")
			if late {
				more <- true
				<-more
				until(t, "the surplus is there", func() bool {
					s.advance(quiet)
					waiting, _, _ := s.state()
					return waiting == 0
				})
			}
			if waiting, inUse, silent := s.state(); waiting != 0 || inUse != 0 || silent != 0 {
				t.Errorf("%s, late %t: %d wait, %d in use, %d silent", name, late, waiting, inUse, silent)
			}
			s.trust()
			for range 3 {
				s.must(o, c.method, "/")
				s.offset.Add(int64(quiet))
			}
			if waiting, _, _ := s.state(); waiting != 0 {
				t.Errorf("%s, late %t: %d wait after another answer of the kind", name, late, waiting)
			}
			log := s.log.String()
			if strings.Count(log, c.warning) != 1 || strings.Contains(log, "SECRET") {
				t.Errorf("%s, late %t: log\n%s", name, late, log)
			}
		}
	}
}

// Answers of another kind go on being trusted, after a new probation.
func TestOtherKindsAreTrustedAgain(t *testing.T) {
	s := newSide(t, newApplication(t, func(c net.Conn, _ *bufio.Reader, r *http.Request) bool {
		text := ok
		if r.Method == "HEAD" {
			text += "x" // the body, and more
		}
		_, err := io.WriteString(c, text)
		return err == nil
	})).stopClock().trust()
	o := owner()
	s.must(o, "HEAD", "/")
	s.must(o, "GET", "/")
	if n := s.dialled(func() { s.must(o, "GET", "/") }); n != 1 {
		t.Errorf("%d connections: no probation", n)
	}
	s.trust()
	if n := s.dialled(func() {
		for range 10 {
			s.must(o, "GET", "/")
		}
	}); n != 0 {
		t.Errorf("%d connections for GET once it is trusted", n)
	}
}

// A server's good-bye to an idle connection is no surplus.
func TestTimeoutNotice(t *testing.T) {
	done := make(chan bool, 1)
	app := newApplication(t, func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
		_, _ = io.WriteString(c, ok)
		<-done
		_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
		return false
	})
	s := newSide(t, app).stopClock().trust()
	s.must(owner(), "GET", "/")
	done <- true
	until(t, "the connection is closed", func() bool {
		s.advance(10 * time.Millisecond)
		waiting, _, _ := s.state()
		return waiting == 0
	})
	if s.log.String() != "" {
		t.Errorf("log\n%s", s.log)
	}
}

// An application with few threads is not held by connections that wait.
func TestFewWait(t *testing.T) {
	s := newSide(t, newApplication(t, says(ok))).stopClock()
	for range 30 {
		s.must(owner(), "GET", "/")
	}
	if waiting, _, _ := s.state(); waiting != fewest {
		t.Errorf("on probation %d wait", waiting)
	}
	s.trust()
	for range 30 {
		s.must(owner(), "GET", "/")
	}
	s.advance(quiet)
	s.advance(quiet)
	if waiting, _, _ := s.state(); waiting != fewest {
		t.Errorf("trusted, %d wait", waiting)
	}
	s.advance(1500 * time.Millisecond)
	if waiting, _, _ := s.state(); waiting != 0 {
		t.Errorf("%d wait for longer than the idle time", waiting)
	}
	until(t, "the application sees them closed", func() bool { return s.app.open.Load() == 0 })
}

// As many may wait as are in use.
func TestAsManyWaitAsAreInUse(t *testing.T) {
	hold := make(chan bool)
	s := newSide(t, newApplication(t, func(c net.Conn, _ *bufio.Reader, r *http.Request) bool {
		if r.URL.Path == "/hold" {
			<-hold
		}
		_, err := io.WriteString(c, ok)
		return err == nil
	})).stopClock()
	ended := make(chan error)
	for range 20 {
		go func() {
			_, _, err := s.ask(owner(), "GET", "/hold")
			ended <- err
		}()
	}
	until(t, "20 are in use", func() bool { _, inUse, _ := s.state(); return inUse == 20 })
	for range 40 {
		s.must(owner(), "GET", "/")
	}
	if waiting, _, _ := s.state(); waiting != 21 { // with the one that was answered meanwhile
		t.Errorf("%d wait", waiting)
	}
	close(hold)
	for range 20 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// What only a client that has gone could use again is closed.
func TestLeave(t *testing.T) {
	s := newSide(t, newApplication(t, says(ok))).stopClock().trust()
	o, other := owner(), owner()
	s.must(o, "GET", "/")
	s.must(other, "GET", "/")
	s.Leave(o.Caller)
	if waiting, _, _ := s.state(); waiting != 1 {
		t.Errorf("%d wait", waiting)
	}
	s.must(o, "GET", "/") // its last one may end after it
	if waiting, _, _ := s.state(); waiting != 1 {
		t.Errorf("%d wait after the last answer", waiting)
	}
	s.Close()
	until(t, "all are closed", func() bool { return s.app.open.Load() == 0 })
}

// A request that may not be repeated goes by no connection that has waited long.
func TestUnrepeatableWantsAFreshConnection(t *testing.T) {
	s := newSide(t, newApplication(t, says(ok))).stopClock().trust()
	post := func(o Owner) func() {
		return func() {
			if _, _, err := s.send(&Request{Head: http1.Request{Method: "POST", Target: "/", Host: "a", Length: 1}, Body: strings.NewReader("x"), Owner: o}); err != nil {
				t.Error(err)
			}
		}
	}
	for waited, want := range map[time.Duration]int64{fresh - 1: 0, fresh: 1} {
		o := owner()
		s.must(o, "GET", "/")
		s.offset.Add(int64(waited))
		if n := s.dialled(post(o)); n != want {
			t.Errorf("POST after %s: %d connections", waited, n)
		}
	}
	o := owner()
	s.must(o, "GET", "/")
	s.offset.Add(int64(time.Second))
	if n := s.dialled(func() { s.must(o, "GET", "/") }); n != 0 {
		t.Errorf("GET after 1 s: %d connections", n)
	}
}

// A request is repeated only by a new connection, only if it may be, and only
// if nothing of an answer came.
func TestRepeat(t *testing.T) {
	for _, c := range []struct {
		name, method, begun string
		body                bool
		repeated            bool
	}{
		{"GET", "GET", "", false, true},
		{"HEAD", "HEAD", "", false, true},
		{"DELETE", "DELETE", "", false, true},
		{"POST", "POST", "", false, false},
		{"PATCH", "PATCH", "", false, false},
		{"PUT with a body", "PUT", "", true, false},
		{"a method of its own", "PURGE", "", false, false},
		{"a byte has come", "GET", "H", false, false},
		{"an interim answer has come", "GET", "HTTP/1.1 103 Hints\r\n\r\n", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := 0
			app := newApplication(t, nil)
			app.answer = func(conn net.Conn, _ *bufio.Reader, r *http.Request) bool {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/first" {
					_, _ = io.WriteString(conn, ok)
					return true
				}
				if asked++; asked == 1 {
					_, _ = io.WriteString(conn, c.begun)
					return false
				}
				_, _ = io.WriteString(conn, ok)
				return true
			}
			s := newSide(t, app).stopClock().trust()
			o := owner()
			s.must(o, "GET", "/first")
			r := &Request{Head: http1.Request{Method: c.method, Target: "/", Host: "a"}, Owner: o}
			if c.body {
				r.Head.Length, r.Body = 1, strings.NewReader("x")
			}
			_, _, err := s.send(r)
			if (err == nil) != c.repeated {
				t.Errorf("got %v", err)
			}
			if _, inUse, _ := s.state(); inUse != 0 {
				t.Errorf("%d in use", inUse)
			}
		})
	}
	t.Run("never by a new connection", func(t *testing.T) {
		s := newSide(t, newApplication(t, func(net.Conn, *bufio.Reader, *http.Request) bool { return false })).stopClock()
		if _, _, err := s.ask(owner(), "GET", "/"); err == nil || s.app.dials.Load() != 1 {
			t.Errorf("%v, %d connections", err, s.app.dials.Load())
		}
	})
}
