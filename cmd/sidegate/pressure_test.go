package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/errgroup"

	"sidegate/certs/certstest"
)

// OPS-04, OPS-05: a thousand connections that say nothing, a thousand half
// handshakes and a thousand dripped heads end by their deadlines, while others
// are served. Few shake hands at a time: a processor that all of them wait for
// would make the others slow, too, and the deadlines are theirs as well.
func TestThreeThousandSlowClients(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off",
		"SIDEGATE_HANDSHAKE_TIMEOUT=8s", "SIDEGATE_HEADER_TIMEOUT=8s", "SIDEGATE_MAX_HANDSHAKES=5000")
	served := startLoad(p, ca)
	var slow errgroup.Group
	turns := make(chan struct{}, 8)
	for i := range 3000 {
		if i%3 == 2 {
			turns <- struct{}{}
		}
		c, err := net.Dial("tcp", p.gate)
		try(t, err)
		t.Cleanup(func() { _ = c.Close() })
		try(t, c.SetDeadline(time.Now().Add(certstest.HangGuard)))
		slow.Go(func() error {
			switch i % 3 {
			case 1:
				_, _ = c.Write([]byte{22, 3, 1, 1, 0, 1, 0, 0}) // a hello that goes no further
			case 2:
				over := tls.Client(c, clientConfig(ca))
				err := over.Handshake()
				<-turns
				if err != nil {
					return nil // it took too long, and was closed for that
				}
				_, _ = io.WriteString(over, "GET / HTTP/1.1\r\nHost: a\r\nX-")
			}
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("client %d was never closed", i)
			}
			return nil
		})
	}
	try(t, slow.Wait())
	served.end(t)
}

// Idle connections cost memory and nothing else; a leak would show here. The
// bound is that of the race detector's build, which takes a multiple.
func TestIdleConnections(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ACCESS_LOG=off")
	const count = 500
	before := p.rss()
	conf := clientConfig(ca)
	conf.NextProtos = []string{"http/1.1"}
	for range count {
		c, err := tls.Dial("tcp", p.gate, conf)
		try(t, err)
		t.Cleanup(func() { _ = c.Close() })
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		try(t, err)
		_ = res.Body.Close()
	}
	each := (p.rss() - before) / count
	t.Logf("%d KB each, %d KB before", each, before)
	if each > 400 {
		t.Errorf("an idle connection takes %d KB", each)
	}
}

// rss is the resident memory of the process in KB.
func (p *instance) rss() int {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	try(p.t, err)
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		p.t.Fatalf("no VmRSS in\n%s", status)
	}
	n, err := strconv.Atoi(string(found[1]))
	try(p.t, err)
	return n
}

// PWD: guesses, each of which costs a hash, don't slow down a user whose
// password is known, and none is let in. What a hash takes is measured beside
// the flood, so that a busy machine is slow at both.
func TestPasswordFlood(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("admin1041"), 10)
	try(t, err)
	var users bytes.Buffer
	for _, name := range []string{"admin", "a", "b", "c", "d", "e"} {
		fmt.Fprintf(&users, "%s:%s\n", name, hash)
	}
	dir := folder(t, map[string][]byte{"htpasswd": users.Bytes()})
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+dir, "SIDEGATE_ACCESS_LOG=off", "SIDEGATE_DRAIN_TIMEOUT=100ms")
	client := func() *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca)}, Timeout: certstest.HangGuard}
	}
	ask := func(ctx context.Context, c *http.Client, user, password string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, "GET", "https://"+p.gate+"/", nil)
		if err != nil {
			return nil, err
		}
		r.SetBasicAuth(user, password)
		res, err := c.Do(r)
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		return res, err
	}
	known := client()
	if res, err := ask(t.Context(), known, "admin", "admin1041"); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("the known user: %v %v", res, err)
	}
	flood, stop := context.WithCancel(t.Context())
	defer stop()
	var answers [600]atomic.Int64
	var attackers sync.WaitGroup
	for i := range 100 {
		c, name := client(), []string{"admin", "a", "b", "c", "d", "e", "nobody"}[i%7]
		attackers.Go(func() {
			for n := 0; flood.Err() == nil; n++ {
				if res, err := ask(flood, c, name, fmt.Sprint("guess", i, n)); err == nil {
					answers[res.StatusCode].Add(1)
					if res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") == "" {
						t.Error("503 without Retry-After")
					}
				}
			}
		})
	}
	for answers[429].Load()+answers[503].Load() == 0 { // the flood is in full swing
		time.Sleep(time.Millisecond)
	}
	var took []time.Duration
	for range 100 {
		began := time.Now()
		res, err := ask(t.Context(), known, "admin", "admin1041")
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("the known user: %v %v", res, err)
		}
		took = append(took, time.Since(began))
	}
	began := time.Now()
	try(t, bcrypt.CompareHashAndPassword(hash, []byte("admin1041")))
	hashing := time.Since(began)
	stop()
	attackers.Wait()
	slices.Sort(took)
	t.Logf("known user: median %s, p99 %s, slowest %s; a hash %s", took[50], took[98], took[99], hashing)
	// Whoever waits for a hash waits at least for a whole one: this tells the two
	// apart on a machine however busy.
	if took[98] > hashing {
		t.Errorf("the known user waits %s for a request, a hash takes %s", took[98], hashing)
	}
	var total int64
	for code := range answers {
		if n := answers[code].Load(); n > 0 {
			t.Logf("%d: %d guesses", code, n)
			total += n
		}
	}
	if good := answers[401].Load() + answers[429].Load() + answers[503].Load(); good != total {
		t.Errorf("%d of %d guesses got another answer", total-good, total)
	}
}

// A process that has run out of file descriptors, here because its limit was
// lowered after the start, waits, says so a few times, and serves on when there
// are some.
func TestOutOfFileDescriptors(t *testing.T) {
	t.Parallel()
	peer(t, "prlimit")
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ACCESS_LOG=off")
	lower := exec.Command("prlimit", "--pid", strconv.Itoa(p.cmd.Process.Pid), "--nofile=64:64")
	if out, err := lower.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var held []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", p.gate)
		try(t, err)
		held = append(held, c)
	}
	p.log.Wait(t, "too many open files")
	for _, c := range held {
		_ = c.Close()
	}
	if got := <-p.ask(ca, "/"); got != "hello \n" {
		t.Errorf("afterwards: %q", got)
	}
	if n := strings.Count(p.log.String(), `"msg":"accept"`); n > 20 {
		t.Errorf("%d lines about one thing", n)
	}
}

// faulty is an application that does one wrong thing with each connection.
func faulty(t *testing.T, do func(c *net.TCPConn, in *bufio.Reader)) string {
	t.Helper()
	return "http://" + certstest.Listen(t, func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for { // up to the end of the head
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
		}
		do(c.(*net.TCPConn), in)
	})
}

func reset(c *net.TCPConn) { _ = c.SetLinger(0) } // the close that follows is a RST

// OPS-14, OPS-15: whatever the application does wrong, its client never takes
// a part for the whole, and is told at once where there is nothing to tell.
func TestFaultyUpstreams(t *testing.T) {
	t.Parallel()
	const whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	upload := map[string]int{"answers before it has read": 4 << 20, "is slow": 4 << 20} // bytes of the request
	say := func(text string) func(*net.TCPConn, *bufio.Reader) {
		return func(c *net.TCPConn, _ *bufio.Reader) { _, _ = io.WriteString(c, text) }
	}
	cases := []struct {
		name string
		do   func(*net.TCPConn, *bufio.Reader)
		want string // status, then body; "cut" where the body breaks off
	}{
		{"resets before the answer", func(c *net.TCPConn, _ *bufio.Reader) { reset(c) }, "502"},
		{"closes at once", say(""), "502"},
		{"speaks no HTTP", say("220 mail.example ESMTP\r\n"), "502"},
		{"has an endless head", say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 11<<20) + "\r\n\r\n"), "502"},
		{"resets within the body", func(c *net.TCPConn, _ *bufio.Reader) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"+strings.Repeat("x", 50))
			reset(c)
		}, "cut"},
		{"says less than it announced", say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), "cut"},
		{"cuts a chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"), "cut"},
		{"leaves out the last chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), "cut"},
		{"says more than it announced", say(whole + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"), "200 ok"},
		{"answers before it has read", func(c *net.TCPConn, in *bufio.Reader) {
			_, _ = io.WriteString(c, strings.Replace(whole, "\r\n", "\r\nConnection: close\r\n", 1))
			_, _ = io.Copy(io.Discard, in)
		}, "200 ok"},
		{"is slow", func(_ *net.TCPConn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) }, "504"},
	}
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			patience := "SIDEGATE_UPSTREAM_TIMEOUT=10m" // an endless head takes a while, too
			if c.want == "504" {
				patience = "SIDEGATE_UPSTREAM_TIMEOUT=1s"
			}
			p := start(t, faulty(t, c.do), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", patience, "SIDEGATE_DRAIN_TIMEOUT=1s")
			for _, h2 := range []bool{false, true} {
				client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca), ForceAttemptHTTP2: h2}, Timeout: certstest.HangGuard}
				for range 2 { // the second must not suffer from the first
					if got := outcome(client, "https://"+p.gate+"/", upload[c.name]); !strings.HasPrefix(got, c.want) {
						t.Errorf("HTTP/2 %t: %.80q", h2, got)
					}
				}
			}
		})
	}
}

// outcome is the status and body of an answer, or "cut: " and the error where
// it broke off.
func outcome(client *http.Client, url string, upload int) string {
	res, err := client.Post(url, "text/plain", bytes.NewReader(make([]byte, upload)))
	if err != nil {
		return "cut: " + err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "cut: " + err.Error()
	}
	return fmt.Sprintf("%d %s", res.StatusCode, body)
}

// An application that is down is 502 at once, and served as soon as it is there.
func TestUpstreamComesBack(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "app.sock")
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, "http+unix://"+socket, nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone")
	for range 2 {
		if got := <-p.ask(ca, "/"); !strings.HasPrefix(got, "502 Bad Gateway") {
			t.Errorf("down: %q", got)
		}
		l, err := net.Listen("unix", socket)
		try(t, err)
		app := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "back") })}
		ended := make(chan error, 1)
		go func() { ended <- app.Serve(l) }()
		if got := <-p.ask(ca, "/"); got != "back" {
			t.Errorf("back: %q", got)
		}
		_ = app.Close()
		<-ended
	}
}
