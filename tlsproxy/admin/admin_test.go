package admin

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// OPS-18: /status and /drain are for the pod itself, whatever else is there for
// Prometheus and the kubelet.
func TestLoopbackOnly(t *testing.T) {
	ok, drained := func() error { return nil }, 0
	s := &Server{Started: ok, Ready: ok, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		Status: func() any { return "secret of the pod" }, Drain: func(context.Context) { drained++ }}
	for _, c := range []struct {
		method, path, from string
		there              bool
	}{
		{"GET", "/status", "127.0.0.1:1", true},
		{"GET", "/status", "[::1]:1", true},
		{"GET", "/status", "10.0.0.1:1", false},
		{"GET", "/status", "[2001:db8::1]:1", false},
		{"GET", "/status", "[::ffff:10.0.0.1]:1", false},
		{"GET", "/status", "@", false}, // a unix socket
		{"POST", "/drain", "127.0.0.1:1", true},
		{"POST", "/drain", "10.0.0.1:1", false},
		{"POST", "/drain", "[2001:db8::1]:1", false},
		{"GET", "/readyz", "10.0.0.1:1", true},
		{"GET", "/metrics", "10.0.0.1:1", true},
	} {
		r := httptest.NewRequest(c.method, "http://127.0.0.1:9901"+c.path, nil)
		r.RemoteAddr = c.from
		before, answer := drained, httptest.NewRecorder()
		s.handler().ServeHTTP(answer, r)
		if there := answer.Code == http.StatusOK; there != c.there {
			t.Errorf("%s %s from %s: %d", c.method, c.path, c.from, answer.Code)
		}
		if c.path == "/drain" && (drained > before) != c.there {
			t.Errorf("drained from %s: %t", c.from, drained > before)
		}
	}
}
