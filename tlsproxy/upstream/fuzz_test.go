package upstream

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"sidegate/tlsproxy/http1"
)

// HTTP-30: an application that the fuzzer makes answers each request as the next
// byte of its plan says, rightly or with surplus. Two clients ask in turn. What a
// client gets is what was said to this request, to it at least, or an error.
func FuzzReuse(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"), true)
	f.Add([]byte{17, 0, 81, 0, 18, 0, 80, 0, 12, 0}, []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nWHO"), true)
	f.Add([]byte{2, 0, 2, 0, 4, 0, 130, 0, 6, 0}, []byte("\r\n"), true)
	f.Add([]byte{0x30, 0x9f}, []byte("#0"), true)
	f.Add([]byte{7, 7, 0, 64, 0, 65, 0}, []byte("HTTP/1.1 408 Request Timeout\r\n\r\n"), false)
	var app *application
	script := make(chan play, 1)
	app = newApplication(f, func(c net.Conn, _ *bufio.Reader, r *http.Request) bool { return (<-script).act(c, r) })
	f.Fuzz(func(t *testing.T, plan, surplus []byte, trusted bool) {
		s := newSide(t, app).hasty().stopClock()
		owners := []Owner{owner(), owner()}
		for i, step := range plan[:min(len(plan), 24)] {
			if trusted {
				s.trust()
			}
			mark := strings.NewReplacer("#", "%", "WHO", fmt.Sprint("#", i%2)) // nobody else says whose it is
			p := play{step: step, surplus: mark.Replace(string(surplus)), who: i % 2, said: make(chan bool)}
			script <- p
			method := "GET"
			if step&0x20 != 0 {
				method = "HEAD"
			}
			r := &Request{Head: http1.Request{Method: method, Target: fmt.Sprintf("/%d", i), Host: "a", Fields: []http1.Field{{Name: "X-Who", Value: fmt.Sprint(p.who)}}}, Owner: owners[p.who]}
			res, body, err := s.send(r)
			select {
			case <-p.said:
			case <-script: // the request did not arrive: something else was taken for its answer
			}
			if err == nil {
				p.check(t, res, body, i)
			}
			if step&0x40 != 0 {
				s.advance(quiet)
			}
		}
	})
}

// play is one answer.
type play struct {
	step    byte
	surplus string
	who     int
	said    chan bool
}

func (p play) text(r *http.Request) (answer string) {
	me := fmt.Sprintf("for %s of %s", r.URL.Path, r.Header.Get("X-Who"))
	switch p.step & 7 {
	case 0, 1:
		answer = fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Me: %s\r\nContent-Length: %d\r\n\r\n", me, len(me))
	case 2:
		answer = fmt.Sprintf("HTTP/1.1 204 No Content\r\nX-Me: %s\r\n\r\n", me)
	case 3:
		answer = fmt.Sprintf("HTTP/1.1 304 Not Modified\r\nX-Me: %s\r\nContent-Length: 5\r\n\r\n", me)
	case 4, 5:
		answer = fmt.Sprintf("HTTP/1.1 200 OK\nX-Me:\n %s\nTransfer-Encoding: chunked\n\n", me)
	case 6:
		return fmt.Sprintf("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nX-Me: %s\r\nContent-Length: 0\r\n\r\n", me)
	case 7:
		answer = fmt.Sprintf("HTTP/1.0 200 OK\r\nX-Me: %s\r\n\r\n", me)
	}
	switch {
	case r.Method == "HEAD" || p.step&7 == 2 || p.step&7 == 3:
		return answer
	case p.step&6 == 4:
		return answer + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(me), me)
	}
	return answer + me
}

func (p play) act(c net.Conn, r *http.Request) bool {
	defer close(p.said)
	text := p.text(r)
	if p.step&8 != 0 && p.step&7 != 7 {
		text += p.surplus
	}
	_, err := io.WriteString(c, text)
	if p.step&16 != 0 && err == nil {
		_, err = io.WriteString(c, p.surplus)
	}
	return err == nil && p.step&0x80 == 0 && p.step&7 != 7
}

// check is the invariant. A second packet may come after the answer was read; if
// the application is trusted, the same client may read it as its next answer.
func (p play) check(t *testing.T, res *http1.Response, body string, i int) {
	t.Helper()
	if strings.Contains(body+fmt.Sprint(res.Fields), fmt.Sprint("#", 1-p.who)) {
		t.Errorf("request %d of client %d got the other's surplus: %v %q", i, p.who, res.Fields, body)
	}
	me := http1.Value(res.Fields, "X-Me")
	if me == "" {
		return // not of this application's making: the surplus of a packet before, which its own client has read
	}
	if !strings.HasSuffix(me, fmt.Sprint(" of ", p.who)) {
		t.Errorf("request %d of client %d got %q", i, p.who, me)
	}
	if res.Frame != http1.NoBody && body != me && p.step&7 != 6 && !strings.HasPrefix(body, me) {
		t.Errorf("request %d of client %d got head %q and body %q", i, p.who, me, body)
	}
}
