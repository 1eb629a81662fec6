package tlsproxy

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// gate is a Gate at work.
type gate struct {
	*Gate
	log      *slog.Logger
	metrics  GateMetrics
	budget   *budget
	stripper *stripper
	forward  *forwarder
	clock    Clock
	tls      *tls.Config // nil at a plaintext gate
	servers  *servers
	listener net.Listener
	live     live
	greeting live // connections whose handshake is in progress
	roots    roots
	trust    atomic.Pointer[string] // the generation by which everybody live was verified
	noise    sampler                // of log lines about failed handshakes
	pending  sync.WaitGroup         // handshakes in progress
	leaving  *atomic.Bool           // a drain has begun
	closing  atomic.Bool            // the listener is closed
	sweeps   atomic.Uint64          // how often live requests were decided again
	sweeping sync.Mutex

	strictTransport []string // as answers carry it; nil: none
}

func newGate(conf *Gate, p *Proxy, b *budget, s *stripper) *gate {
	g := &gate{
		Gate:     conf,
		log:      p.Log.With("gate", conf.Name),
		metrics:  p.Metrics.Gate(conf.Name),
		budget:   b,
		stripper: s,
		clock:    p.clock(),
		leaving:  &p.drain().begun,
	}
	if !conf.Plaintext {
		g.tls = newTLSConfigs(conf).outer()
		if conf.StrictTransport != "" {
			g.strictTransport = []string{conf.StrictTransport}
		}
	}
	g.forward = newForwarder(g)
	g.servers = newServers(g)
	return g
}

// run serves until ctx ends and then drains.
func (g *gate) run(ctx context.Context, drain time.Duration) error {
	served := make(chan struct{})
	go func() {
		defer close(served)
		g.servers.serve()
	}()
	stop := context.AfterFunc(ctx, func() { _ = g.listener.Close() })
	defer stop()
	if g.Plaintext {
		g.log.Warn("gate without TLS: whoever can reach it sees and says everything", "listen", g.Listen.String())
	}
	g.log.Info("gate open", "listen", g.Listen.String(), "upstream", g.Upstream.Address.String())

	rest, drained := context.WithCancel(context.WithoutCancel(ctx)) // a drain changes nothing about who may do what
	var enforcing sync.WaitGroup
	for _, e := range g.enforcers() {
		enforcing.Go(func() { enforce(rest, e.changed, e.again) })
	}
	defer enforcing.Wait()
	defer drained()
	err := g.accept(ctx)
	g.drain(drain)
	<-served
	g.forward.http1.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept takes connections until the listener is closed. Errors such as a
// lack of file descriptors pass, so they are waited out.
func (g *gate) accept(ctx context.Context) error {
	var pause time.Duration
	for {
		c, err := g.listener.Accept()
		if err == nil {
			pause = 0
			g.admit(ctx, c)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return err
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		g.log.Warn("accept", "err", err, "retry_ms", pause.Milliseconds())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give hands a connection whose handshake is done to the engine of its protocol.
func (g *gate) give(c *tls.Conn, under *conn) {
	if c.ConnectionState().NegotiatedProtocol == protocolHTTP2 {
		g.servers.http2.next.give(c) // bare: net/http speaks HTTP/2 on a *tls.Conn alone
		return
	}
	g.servers.http1.next.give(newHTTP1Conn(c, under, g))
}

// admit applies the limits and starts the handshake. It waits for room, and while
// there are too many handshakes in progress that may come to their end.
func (g *gate) admit(ctx context.Context, c net.Conn) {
	if !g.budget.room.take(ctx, claim{kind: claimConn, bytes: priceConn}) {
		_ = c.Close()
		g.shed(c.RemoteAddr().String(), g.budget.room.full())
		return
	}
	under := g.newConn(c)
	if g.Plaintext {
		under.register(g, peerVerdict{})
		g.pending.Go(func() { g.servers.http1.next.give(newHTTP1Conn(under, under, g)) })
		return
	}
	place, ok := g.budget.handshakes.enter(ctx, under)
	if !ok {
		_ = under.Close()
		g.shed(under.remoteText, "handshakes")
		return
	}
	g.greeting.add(under)
	g.pending.Go(func() {
		defer g.greeting.remove(under)
		if done, ok := g.handshake(under, place); ok {
			g.give(done, under)
		}
	})
}

// newConn wraps a connection that has a place in the limits.
func (g *gate) newConn(c net.Conn) *conn {
	var under *conn
	under = newConn(c, func() {
		under.leave()
		g.live.remove(under)
		g.forward.http1.Leave(&under.caller)
		if under.root != nil {
			g.roots.leave(under.root)
		}
		g.metrics.Connections(-1)
	})
	under.gate = g
	under.writeIdle = g.budget.BodyIdle
	under.cameBack = sync.OnceValue(func() bool { return g.budget.hops.cameBack(c) })
	g.metrics.Connections(+1)
	return under
}

// shed counts a connection that was one too many.
func (g *gate) shed(remote, limit string) {
	g.metrics.Handshake("shed_" + limit)
	if g.noise.allow(time.Now()) {
		g.log.Warn("connection shed", "reason", limit, "remote", remote)
	}
}

// handshake runs TLS and registers the connection before anything is decided
// about it. It gives the handshake's place back, and returns false when the
// connection has ended.
func (g *gate) handshake(under *conn, place *list.Element) (*tls.Conn, bool) {
	c := tls.Server(under, g.tls)
	ctx, cancel := context.WithTimeout(context.Background(), g.budget.Handshake)
	defer cancel()
	err := c.HandshakeContext(ctx)
	g.budget.handshakes.leave(place)
	under.tls = c
	if err != nil {
		g.handshakeFailed(under, ctx, err)
		_ = under.Close()
		return nil, false
	}
	state := c.ConnectionState()
	if state.NegotiatedProtocol == protocolChallenge {
		g.proved(under, state.ServerName)
		return nil, false
	}
	under.http2.Store(state.NegotiatedProtocol == protocolHTTP2)
	peer := under.learn(&state, g)
	if !under.book(claim{kind: claimMore, bytes: lastingPrice(&state)}, &under.lasting) || !under.register(g, peer) {
		g.handshakeFailed(under, ctx, net.ErrClosed)
		_ = under.Close()
		return nil, false
	}
	if under.peer != nil { // trust may have changed while nobody could see this connection
		g.judgePeer(under, peer)
	}
	g.metrics.Handshake("")
	return c, true
}

// proved ends a connection that has shown an ACME server its proof. What the
// server makes of it, the issuer learns from the server.
func (g *gate) proved(under *conn, name string) {
	under.hangUp(lastWords)
	g.metrics.Handshake(HandshakeChallenge)
	if g.noise.allow(time.Now()) {
		g.log.Info("challenge answered", "remote", under.remoteText, "host", name)
	}
}

func (g *gate) handshakeFailed(c *conn, ctx context.Context, err error) {
	if c.shed.Load() {
		g.shed(c.remoteText, "handshakes")
		return
	}
	reason := handshakeReason(err, c.received.Load())
	switch {
	case g.closing.Load() && errors.Is(err, net.ErrClosed):
		reason = string(drainTimeout)
	case ctx.Err() != nil:
		reason = reasonTimeout
	}
	g.metrics.Handshake(reason)
	if reason == reasonEndBeforeHello { // a TCP probe is no news
		g.log.Debug("connection ended before a hello", "remote", c.remoteText)
		return
	}
	if g.noise.allow(time.Now()) {
		g.log.Info("handshake refused", "remote", c.remoteText, "reason", reason, "err", err)
	}
}

// sampler lets ten events a second through.
type sampler struct {
	mu     sync.Mutex
	second int64
	count  int
}

func (s *sampler) allow(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sec := now.Unix(); sec != s.second {
		s.second, s.count = sec, 0
	}
	s.count++
	return s.count <= 10
}
