package tlsproxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// open is an exchange without a body that has begun, and both ends of its
// connection.
func open(t *testing.T) (p *presence, l *lifetime, client net.Conn) {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	p, l = &presence{from: server}, &lifetime{}
	p.begin(l, &http.Request{Body: http.NoBody})
	return p, l, client
}

// readAhead is what net/http does while a handler runs.
func readAhead(t *testing.T, p *presence) {
	t.Helper()
	if n, err := p.Read(make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("reading ahead: %d, %v", n, err)
	}
}

func TestClientLeavesAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, l, client := open(t)
		readAhead(t, p)
		_ = client.Close()
		time.Sleep(unwatched - 1)
		if l.Err() != nil {
			t.Error("it was watched from the beginning")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if l.Err() == nil {
			t.Error("the exchange goes on")
		}
		p.over()
		if _, err := p.Read(make([]byte, 9)); err != io.EOF {
			t.Errorf("the next read: %v", err)
		}
	})
}

// A client that had left before an exchange begins, or leaves while its body is read.
func TestClientHasLeft(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	p, before, with := &presence{from: server}, &lifetime{}, &lifetime{}
	p.begin(with, &http.Request{Body: io.NopCloser(strings.NewReader("x"))})
	_ = client.Close()
	if _, err := p.Read(make([]byte, 9)); err != io.EOF || with.Err() == nil {
		t.Errorf("with a body: %v, %v", err, with.Err())
	}
	p.over()
	p.begin(before, &http.Request{Body: http.NoBody})
	if before.Err() == nil {
		t.Error("the exchange goes on")
	}
}

// What comes while an exchange lasts is the next request, whole and in order,
// and no reason to end anything; a deadline neither.
func TestBytesBehindAnExchange(t *testing.T) {
	for _, c := range []struct{ lasts, sent time.Duration }{{unwatched / 2, 0}, {2 * unwatched, 0}, {2 * unwatched, 3 * unwatched}} {
		synctest.Test(t, func(t *testing.T) {
			p, l, client := open(t)
			readAhead(t, p)
			go func() {
				time.Sleep(c.sent)
				_, _ = io.WriteString(client, "GET / HTTP/1.1")
				_ = client.Close()
			}()
			time.Sleep(c.lasts)
			synctest.Wait()
			if p.over(); l.Err() != nil {
				t.Error("it was ended")
			}
			if got, err := io.ReadAll(p); string(got) != "GET / HTTP/1.1" || err != nil {
				t.Errorf("exchange of %s, sent after %s: %q, %v", c.lasts, c.sent, got, err)
			}
		})
	}
}

// A deadline that passes while the next request is waited for is no client
// that has gone.
func TestDeadlineIsNoLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := open(t)
		readAhead(t, p)
		time.Sleep(2 * unwatched)
		p.over()
		_ = p.from.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := p.Read(make([]byte, 9)); err == nil {
			t.Error("there was something to read")
		}
		next := &lifetime{}
		if p.begin(next, &http.Request{Body: http.NoBody}); next.Err() != nil {
			t.Error("the next exchange ends")
		}
	})
}

// Nobody else reads from a connection that has changed its protocol.
func TestNobodyWatchesBeyondTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, client := open(t)
		readAhead(t, p)
		p.over()
		go func() { _, _ = io.WriteString(client, "a") }()
		time.Sleep(time.Hour)
		synctest.Wait()
		b := make([]byte, 9)
		if n, err := p.from.Read(b); string(b[:n]) != "a" || err != nil {
			t.Errorf("left: %q, %v", b[:n], err)
		}
	})
}

// nothingAhead has nothing for who reads one byte.
type nothingAhead struct {
	net.Conn
	asked atomic.Int64
}

func (c *nothingAhead) Read(p []byte) (int, error) {
	if len(p) == 1 {
		c.asked.Add(1)
		return 0, nil
	}
	return c.Conn.Read(p)
}

// What presence builds on: net/http asks once for what a client says ahead, and
// takes a read of nothing for no more than that.
func TestNetHTTPTakesNothingForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		conn := &nothingAhead{Conn: server}
		next := &handover{conns: make(chan net.Conn, 1), done: make(chan struct{})}
		next.conns <- conn
		s := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour) // never ends while somebody asks again and again
			if r.Context().Err() != nil {
				t.Error("the client is thought to have gone")
			}
		})}
		go func() { _ = s.Serve(next) }()
		in := bufio.NewReader(client)
		for n := int64(1); n <= 3; n++ {
			_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(in, nil)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatal(res, err)
			}
			if got := conn.asked.Load(); got != n {
				t.Errorf("asked %d times in %d requests", got, n)
			}
		}
		_ = s.Close()
	})
}

func TestLifetime(t *testing.T) {
	type key struct{}
	x := &exchange{}
	newLifetime := func() *lifetime {
		return &lifetime{Context: context.WithValue(context.Background(), key{}, 1), exchange: x}
	}
	calls := make(chan string, 9)
	call := func(name string) func() { return func() { calls <- name } }

	l := newLifetime()
	if l.Value(key{}) != 1 || l.Value(exchangeKey{}) != x {
		t.Error("values are lost")
	}
	child, cancel := context.WithTimeout(l, time.Hour)
	defer cancel()
	first, second := l.AfterFunc(call("first")), context.AfterFunc(l, call("second"))
	third := l.AfterFunc(call("third"))
	if !first() || first() {
		t.Error("it is left out once, and once alone")
	}
	if l.Err() != nil {
		t.Error("it has ended")
	}
	l.end()
	l.end()
	if got := map[string]bool{<-calls: true, <-calls: true}; !got["second"] || !got["third"] {
		t.Errorf("called: %v", got)
	}
	if second() || third() {
		t.Error("what was done is left out")
	}
	<-l.Done()
	<-child.Done()
	if l.Err() != context.Canceled || context.Cause(child) != context.Canceled {
		t.Errorf("%v, %v", l.Err(), context.Cause(child))
	}
	if l.AfterFunc(call("late"))() || <-calls != "late" {
		t.Error("what is said after the end is not done")
	}
	over := newLifetime()
	over.end()
	<-over.Done()
}
