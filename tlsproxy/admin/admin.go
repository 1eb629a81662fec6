// Package admin is the plaintext port for probes and Prometheus. It tells
// nothing that must stay secret.
//
//	/startupz  material is loaded and every gate listens
//	/readyz    that, and the certificate in service is valid; the body says what is missing
//	/healthz   the process answers
//	/metrics   Prometheus text
//	/probe/x   the application's probe x, its status alone
//	/status    what is in service, as JSON; for the pod's own processes only
//	/drain     POST: leave, answered when the listeners are closed; for the pod's own processes only
//
// The pod's own processes are those that connect from 127.0.0.1 or ::1 to
// 127.0.0.1 or ::1 and name localhost or a loopback address as the Host.
// Requests of browser pages and those that a proxy forwarded are 403.
package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server serves the admin port. Fields are set before [Server.Run].
type Server struct {
	Started func() error // nil error: started
	Ready   func() error // nil error: ready
	Metrics *prometheus.Registry
	Status  func() any                // what /status tells, made JSON
	Drain   func(ctx context.Context) // begins a drain and waits until listeners are closed
	Probes  map[string]*Relay         // of the application, by name
	Log     *slog.Logger
	// MaxConnections is how many may be open at a time; 0: 16.
	MaxConnections int
}

// Run serves on l until ctx ends, and closes it.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	crowd := newCrowd(l, cmp.Or(s.MaxConnections, 16))
	server := &http.Server{
		ConnState:         crowd.state,
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(crowd); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin port: %w", err)
	}
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /startupz", probe(s.Started))
	mux.HandleFunc("GET /readyz", probe(s.Ready))
	mux.HandleFunc("GET /healthz", probe(func() error { return nil }))
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{}))
	for name, relay := range s.Probes {
		mux.HandleFunc("GET /probe/"+name, relay.serve)
	}
	mux.HandleFunc("/status", podOnly(http.MethodGet, s.status))
	mux.HandleFunc("/drain", podOnly(http.MethodPost, s.drain))
	return mux
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s.Status()); err != nil {
		s.Log.Debug("status", "err", err)
	}
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	// The delay may be longer than other answers may take. An error means
	// that there was no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	s.Drain(r.Context())
	fmt.Fprintln(w, "draining")
}

// probe answers 200 "ok", or 503 with what is missing.
func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
