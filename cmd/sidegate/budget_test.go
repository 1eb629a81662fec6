package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// few runs a command with at most 64 open files.
var few = []string{"sh", "-c", `ulimit -n 64; exec "$@"`, "sh"}

// With 64 files: strangers that hold connections make room, also at the admin
// port; a user who is there goes on, probes are answered, files are reloaded.
func TestFewOpenFiles(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), few, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t))
	p.log.Wait(t, `"msg":"few open files"`)
	u := &unread{p, &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca), ForceAttemptHTTP2: true}}}
	u.get(true, http.StatusOK)
	hold := func(address string) {
		for range 100 {
			c, err := net.Dial("tcp", address)
			try(t, err)
			t.Cleanup(func() { _ = c.Close() })
			if address == p.gate {
				go func() { _ = tls.Client(c, clientConfig(ca)).HandshakeContext(t.Context()) }()
			}
		}
	}
	hold(p.gate)
	hold(p.admin)
	for !strings.Contains(p.metrics(), `reason="made_room"`) {
		time.Sleep(10 * time.Millisecond)
	}
	for range 50 {
		u.get(true, http.StatusOK)
	}
	if code, text := p.readyz(); code != http.StatusOK {
		t.Errorf("not ready: %d %s", code, text)
	}
	before := strings.Count(p.log.String(), "certificate in service")
	v.Update(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	for strings.Count(p.log.String(), "certificate in service") == before {
		time.Sleep(10 * time.Millisecond)
	}
	if strings.Contains(p.log.String(), "too many open files") {
		t.Errorf("the files were used up:\n%s", p.log)
	}
}

// One HTTP/2 connection may ask for more connections to the application than
// there are files: what is beyond waits, then is 503, and nobody else starves.
func TestFewOpenFilesAndManyStreams(t *testing.T) {
	release := make(chan struct{})
	var held atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			held.Add(1)
			<-release
		}
	}))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, app.URL, few, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca), ForceAttemptHTTP2: true}}
	res, err := client.Get("https://" + p.gate + "/") // all others go by its connection
	try(t, err)
	_ = res.Body.Close()
	var all sync.WaitGroup
	codes := make(chan int, 100)
	for range 100 {
		all.Go(func() {
			r, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+p.gate+"/held", nil)
			res, err := client.Do(r)
			if err != nil {
				t.Error(err)
				codes <- 0
				return
			}
			_ = res.Body.Close()
			codes <- res.StatusCode
		})
	}
	var busy int
	for held.Load()+int64(busy) < 100 {
		if code, text := p.readyz(); code != http.StatusOK {
			t.Fatalf("not ready: %d %s", code, text)
		}
		select {
		case code := <-codes:
			if busy++; code != http.StatusServiceUnavailable {
				t.Fatalf("got %d, want 503", code)
			}
		default:
			time.Sleep(10 * time.Millisecond)
		}
	}
	close(release)
	all.Wait()
	if text := p.metrics(); busy == 0 || !strings.Contains(p.log.String(), `"reason":"upstreams_busy"`) {
		t.Errorf("%d were refused\n%s", busy, text)
	}
	if strings.Contains(p.log.String(), "too many open files") {
		t.Errorf("the files were used up:\n%s", p.log)
	}
}

// What is left for clients of how many files, and when that is worth a warning.
func TestBudgetOf(t *testing.T) {
	for _, c := range []struct {
		files, gates, wanted int
		want                 string
		short                bool
	}{
		{1 << 20, 1, 10000, "10000 1000 1038510 16", false},
		{20000, 1, 10000, "9967 1000 9967 16", false},
		{1024, 1, 10000, "479 239 479 16", true},
		{1024, 1, 400, "400 200 558 16", false},
		{64, 1, 10000, "16 8 16 8", true},
		{64, 100, 10, "10 5 22 8", false},
		{3, 1, 10000, "1 1 1 1", true},
	} {
		conf, err := parseConfig([]string{fmt.Sprintf("SIDEGATE_MAX_CONNECTIONS=%d", c.wanted)})
		try(t, err)
		b := budgetOf(conf, c.files, c.gates)
		got := fmt.Sprint(b.limits.Connections, b.limits.Handshakes, b.limits.Upstreams, b.admin)
		if got != c.want || (b.short != "") != c.short {
			t.Errorf("%d files, %d gates: got %s, %q; want %s", c.files, c.gates, got, b.short, c.want)
		}
	}
}
