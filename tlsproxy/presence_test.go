package tlsproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// silentApplication tells when a request has come, and when its connection ends.
func silentApplication(t *testing.T) (addr string, asked, left chan string) {
	t.Helper()
	asked, left = make(chan string, 9), make(chan string, 9)
	addr = certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		asked <- r.URL.Path
		_, _ = io.Copy(io.Discard, in)
		left <- r.URL.Path
	})
	return addr, asked, left
}

// The application learns that a client has left, whatever it speaks.
func TestApplicationLearnsThatClientLeft(t *testing.T) {
	app, asked, left := silentApplication(t)
	w := newWorld(t, upstream("http://"+app))
	for _, proto := range []string{"http/1.1", "h2"} {
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := w.client(w.config(nil), proto).Do(w.request("GET", "/"+proto[:2], nil).WithContext(ctx))
			ended <- err
		}()
		<-asked
		leave()
		if err := <-ended; err == nil {
			t.Error("there was an answer")
		}
		<-left
	}
	w.log.Wait(t, `"status":499`)
}

// slow is a method that waits until its context ends.
type slow struct{ asked, gone chan bool }

func (s slow) Authenticate(ctx context.Context, _ *policy.Request) (*policy.Login, error) {
	s.asked <- true
	<-ctx.Done()
	s.gone <- true
	return nil, ctx.Err()
}
func (slow) Challenge(*policy.Request, error) []string   { return nil }
func (slow) Recheck(context.Context, *policy.User) error { return nil }
func (slow) Changed() <-chan struct{}                    { return nil }
func (s slow) into(g *tlsproxy.Gate)                     { g.Authenticators = []tlsproxy.Authenticator{s} }
func newSlow() slow                                      { return slow{make(chan bool, 1), make(chan bool, 1)} }

// What takes its time to judge a credential learns that nobody waits any more.
func TestCredentialOfClientThatLeft(t *testing.T) {
	method := newSlow()
	w := newWorld(t, upstream(echo(t).URL), method.into)
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-method.asked
	_ = conn.Close()
	<-method.gone
}

// A client that asks while its answers are on the way gets them in order.
func TestPipelining(t *testing.T) {
	var paths []string
	app := certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if r.URL.Path == "/slow" {
				time.Sleep(100 * time.Millisecond) // for as long that the next request is read ahead
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.URL.Path), r.URL.Path)
		}
	})
	w := newWorld(t, upstream("http://"+app))
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	want := []string{"/slow", "/a", "/b", "/slow", "/slow", "/c"}
	go func() {
		for _, path := range want {
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n", path, authorized)
		}
	}()
	in := bufio.NewReader(conn)
	for range want {
		res, err := http.ReadResponse(in, nil)
		must(t, err)
		paths = append(paths, text(t, res))
	}
	if fmt.Sprint(paths) != fmt.Sprint(want) {
		t.Errorf("got %q", paths)
	}
}

// An application may take its time to change the protocol: what the client says
// meanwhile is the new protocol's, in order.
func TestLateUpgrade(t *testing.T) {
	app := certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond) // for as long that somebody looks whether the client is there
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		_, _ = io.Copy(c, in)
	})
	w := newWorld(t, upstream("http://"+app))
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", authorized)
	for _, part := range []string{"a", "b", "cde", "f"} { // records of their own
		_, _ = io.WriteString(conn, part)
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	must(t, conn.CloseWrite())
	if got, err := io.ReadAll(in); string(got) != "abcdef" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
