package admin

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
)

// A flood at the admin port pushes itself out: a probe is answered, and a
// drain that waits is not ended for it.
func TestCrowd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ok := func() error { return nil }
	draining, release := make(chan struct{}), make(chan struct{})
	s := &Server{Started: ok, Ready: ok, Metrics: NewMetrics("test").Registry, Log: slog.New(slog.DiscardHandler), MaxConnections: 4,
		Drain: func(context.Context) { close(draining); <-release }}
	go func() { _ = s.Run(t.Context(), l) }()
	base := "http://" + l.Addr().String()
	drained := make(chan error, 1)
	go func() {
		res, err := http.Post(base+"/drain", "", nil)
		if err == nil {
			err = res.Body.Close()
		}
		drained <- err
	}()
	<-draining
	var first net.Conn
	for range 50 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /readyz HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = c
		}
	}
	for range 20 {
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(base + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the oldest connection did not give way")
	}
	close(release)
	if err := <-drained; err != nil {
		t.Errorf("the drain was ended: %v", err)
	}
}
