package tlsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// servers are the net/http engines of a gate.
type servers struct{ http1, http2 *engine }

// newServers makes the engines of a gate. They get connections whose handshake
// is done. That of HTTP/2 reads heads of twice the limit: what is above the
// limit our handler refuses, and not net/http, which leaves no trace of it.
func newServers(g *gate) *servers {
	var one, two http.Protocols
	one.SetHTTP1(true)
	one.SetUnencryptedHTTP2(g.Plaintext && !g.OnlyHTTP1)
	two.SetHTTP2(true)
	s := &servers{http1: newEngine(g, &one), http2: newEngine(g, &two)}
	s.http2.server.MaxHeaderBytes *= 2
	if g.Plaintext { // where one engine speaks both
		s.http1.server.MaxHeaderBytes *= 2
	}
	return s
}

// serve returns when both engines were shut down.
func (s *servers) serve() {
	var both sync.WaitGroup
	both.Go(s.http1.serve)
	both.Go(s.http2.serve)
	both.Wait()
}

// shutdown waits until no request is in flight, or ctx ends.
func (s *servers) shutdown(ctx context.Context) error {
	var second error
	var both sync.WaitGroup
	both.Go(func() { second = s.http2.server.Shutdown(ctx) })
	first := s.http1.server.Shutdown(ctx)
	both.Wait()
	return errors.Join(first, second)
}

// close closes every connection. What can't be closed has gone already.
func (s *servers) close() {
	_ = s.http1.server.Close()
	_ = s.http2.server.Close()
}

// engine is a net/http server and the listener from which it takes finished
// connections.
type engine struct {
	server *http.Server
	next   handover
}

func newEngine(g *gate, protocols *http.Protocols) *engine {
	return &engine{
		next: handover{conns: make(chan net.Conn), done: make(chan struct{}), addr: g.Listen},
		server: &http.Server{
			Handler:           http.HandlerFunc(g.serve),
			ReadHeaderTimeout: g.budget.Header,
			IdleTimeout:       g.budget.Idle,
			MaxHeaderBytes:    g.budget.HeaderBytes,
			Protocols:         protocols,
			HTTP2: &http.HTTP2Config{
				MaxConcurrentStreams:          g.budget.StreamsPerConn,
				MaxReadFrameSize:              maxFrame,
				MaxReceiveBufferPerConnection: g.budget.window(),
				MaxReceiveBufferPerStream:     g.budget.window(),
				CountError:                    g.metrics.ProtocolError,
			},
			DisableGeneralOptionsHandler: true, // OPTIONS * is decided like any request
			ErrorLog:                     slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
			ConnState:                    noteState,
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, connKey{}, below(c))
			},
		},
	}
}

func (e *engine) serve() { _ = e.server.Serve(&e.next) } // it ends when it is shut down

type connKey struct{}

// below returns our connection under what net/http has.
func below(c net.Conn) *conn {
	if over, ok := c.(*http1Conn); ok {
		return over.under
	}
	return c.(*tls.Conn).NetConn().(*conn)
}

type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  Address
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handover) Addr() net.Addr { return listenAddr{h.addr} }

// give hands a connection on, or closes it when nobody takes any more.
func (h *handover) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		below(c).hangUp(lastWords)
	}
}

// listenAddr is an Address as package net has them.
type listenAddr struct{ Address }

// Network implements net.Addr.
func (a listenAddr) Network() string { return a.Address.Network }
