package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"sidegate/certs/certstest"
)

// conformance asks h2spec about a server and returns how many cases passed
// and those that did not.
func conformance(t *testing.T, addr string) (passed int, failed map[string]func() error) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	try(t, err)
	// Longer than the second for which net/http lingers after a GOAWAY.
	c := &config.Config{Host: host, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, TLS: true, Insecure: true}
	c.Port, err = strconv.Atoi(port)
	try(t, err)
	patient := *c // the suite judges by timeouts, which a busy machine misses
	patient.Timeout = 30 * time.Second
	failed = map[string]func() error{}
	var all func(*spec.TestGroup)
	all = func(g *spec.TestGroup) {
		for i, tc := range g.Tests {
			again := func(c *config.Config) error {
				if err := tc.Test(c, i+1); err != nil {
					return err
				}
				if tc.Result != nil && tc.Result.Failed {
					return fmt.Errorf("%v", tc.Result.Error)
				}
				return nil
			}
			if again(c) == nil {
				passed++
			} else {
				failed[fmt.Sprintf("%s/%d %s", g.ID(), i+1, tc.Desc)] = func() error { return again(&patient) }
			}
		}
		for _, sub := range g.Groups {
			all(sub)
		}
	}
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		all(g)
	}
	return passed, failed
}

// HTTP/2 is spoken at least as well as Go's own server does.
func TestH2spec(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("x", 4096))
	})
	plain := httptest.NewUnstartedServer(handler)
	plain.EnableHTTP2 = true
	plain.StartTLS()
	t.Cleanup(plain.Close)
	app := httptest.NewServer(handler)
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, app.URL, nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ACCESS_LOG=off", "SIDEGATE_DRAIN_TIMEOUT=100ms")
	var goPassed, passed int
	var goFailed, failed map[string]func() error
	var both sync.WaitGroup
	both.Go(func() { goPassed, goFailed = conformance(t, plain.Listener.Addr().String()) })
	both.Go(func() { passed, failed = conformance(t, p.gate) })
	both.Wait()
	t.Logf("Go's server: %d passed, %d failed; sidegate: %d passed, %d failed", goPassed, len(goFailed), passed, len(failed))
	for name, again := range failed {
		if _, too := goFailed[name]; too {
			t.Logf("both fail: %s", name)
			continue
		}
		if err := again(); err != nil {
			t.Errorf("Go's server passes, sidegate does not: %s: %v", name, err)
		}
	}
}

// nghttp2's load generator: many streams of many connections, each answered.
func TestH2load(t *testing.T) {
	t.Parallel()
	peer(t, "h2load")
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off")
	out, err := exec.Command("h2load", "-n", "3000", "-c", "8", "-m", "32", "-H", "Authorization: "+adminBasic, "https://"+p.gate+"/").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "3000 succeeded, 0 failed, 0 errored, 0 timeout") || !strings.Contains(string(out), "3000 2xx") {
		t.Errorf("%v\n%s", err, out)
	}
}

// nghttp sends a body with a trailer, and an authority that host contradicts
// (HTTP-17).
func TestNghttp(t *testing.T) {
	t.Parallel()
	peer(t, "nghttp")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", body, r.Trailer.Get("Sum"))
	}))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, app.URL, nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone")
	data := folder(t, map[string][]byte{"body": []byte("a body")}) + "/body"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-d", data, "--trailer", "sum: 42"}, "a body 42"},
		{[]string{"-v", "-H", ":authority: a.example", "-H", "host: b.example"}, ":status: 400"},
	} {
		out, err := exec.Command("nghttp", append(c.args, "https://"+p.gate+"/")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("nghttp %q: %v\n%s", c.args, err, out)
		}
	}
}

// OPS-04, OPS-14: slowhttptest drips heads and bodies and reads slowly. Its
// connections are closed while it runs, and others are served all the time.
func TestSlowhttptest(t *testing.T) {
	t.Parallel()
	peer(t, "slowhttptest")
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off",
		"SIDEGATE_HEADER_TIMEOUT=3s", "SIDEGATE_BODY_TIMEOUT=3s", "SIDEGATE_IDLE_TIMEOUT=3s", "SIDEGATE_DRAIN_TIMEOUT=100ms")
	served, before := startLoad(p, ca), p.handshakes()
	for name, args := range map[string][]string{
		"heads":  {"-H", "-i", "4"},
		"bodies": {"-B", "-i", "4"},
	} {
		out, err := exec.Command("slowhttptest", append(args, "-c", "200", "-r", "200", "-l", "180", "-p", "60", "-u", "https://"+p.gate+"/")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No open connections left") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if now := p.handshakes(); now < before+200 {
			t.Errorf("%s: only %d connections were slow", name, now-before)
		} else {
			before = now
		}
	}
	served.end(t)
}

// handshakes counts those that succeeded.
func (p *instance) handshakes() int {
	p.t.Helper()
	found := handshakesOK.FindStringSubmatch(p.metrics())
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(found[1])
	try(p.t, err)
	return n
}

var handshakesOK = regexp.MustCompile(`(?m)^sidegate_handshakes_total\{gate="main",reason="",result="ok"\} (\d+)$`)
