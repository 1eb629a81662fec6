package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// application is what Sidegate forwards to.
type application struct {
	addr   string
	server *http.Server
}

func startApplication() (*application, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	page := strings.Repeat("x", 1024)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }) // the client may have gone
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, page) // likewise
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		part := make([]byte, 64<<10)
		for range 1024 {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: hello\n\n") // likewise
		_ = http.NewResponseController(w).Flush()   // likewise
		<-r.Context().Done()
	})
	mux.HandleFunc("/switch", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n") // likewise
		_, _ = io.Copy(c, c)                                                                                         // likewise
	})
	mux.HandleFunc("/never", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	a := &application{addr: l.Addr().String(), server: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}}
	go func() { _ = a.server.Serve(l) }() // it ends when it is closed
	return a, nil
}

// Close ends the application and what it has under way.
func (a *application) Close() { _ = a.server.Close() }
