package tlsproxy

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sidegate/policy"
)

// drainTimeout is why a connection was cut that a drain could not wait for.
const drainTimeout policy.Reason = "drain_timeout"

// drain is how a proxy ends: it says that it leaves, keeps its listeners open
// while that spreads, closes them, and lets what is in flight finish.
type drain struct {
	begun   atomic.Bool
	begin   func() // idempotent, as are the next two
	hurry   func()
	close   func()
	began   chan struct{} // closed by begin
	hurried chan struct{} // closed by hurry
	closed  chan struct{} // closed by close, when no listener takes connections any more
}

func newDrain() *drain {
	d := &drain{began: make(chan struct{}), hurried: make(chan struct{}), closed: make(chan struct{})}
	d.begin = sync.OnceFunc(func() { d.begun.Store(true); close(d.began) })
	d.hurry = sync.OnceFunc(func() { close(d.hurried) })
	d.close = sync.OnceFunc(func() { close(d.closed) })
	return d
}

// wait returns when the listeners shall close: the delay after the drain
// began, of which it tells, earlier when it is hurried, or when ctx ends.
func (d *drain) wait(ctx context.Context, delay time.Duration, tell func()) {
	select {
	case <-d.began:
		tell()
	case <-ctx.Done():
		return
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-d.hurried:
	case <-ctx.Done():
	}
}

func (p *Proxy) drain() *drain {
	p.drainOnce.Do(func() { p.drainState = newDrain() })
	return p.drainState
}

// Drain makes the proxy leave as the end of Run's ctx does, and returns when
// no listener takes connections any more, or when ctx ends. It may be called
// several times.
func (p *Proxy) Drain(ctx context.Context) {
	p.leave()
	d := p.drain()
	select {
	case <-d.closed:
	case <-ctx.Done():
	}
}

// Hurry skips what is left of the delay of a drain.
func (p *Proxy) Hurry() { p.drain().hurry() }

// Draining reports whether the proxy is leaving.
func (p *Proxy) Draining() bool { return p.drain().begun.Load() }

// terminate is what the end of Run's ctx means. A drain that began before has
// had its time.
func (p *Proxy) terminate() {
	if p.Draining() {
		p.Hurry()
	}
	p.leave()
}

// leave begins the drain. Nobody waits for an application that has gone, such
// as a Job's.
func (p *Proxy) leave() {
	if gates := p.gates.Load(); gates != nil && allIdle(*gates) {
		p.Hurry()
	}
	p.drain().begin()
}

// allIdle reports whether nothing is in flight and no application answers.
func allIdle(gates []*gate) bool {
	for _, g := range gates {
		if g.live.count().Requests > 0 || g.upstreamAnswers() {
			return false
		}
	}
	return true
}

// upstreamAnswers reports whether the application is there. One that is slow to
// accept a connection is: only one that refuses it has gone.
func (g *gate) upstreamAnswers() bool {
	if g.Upstream.RedirectPort > 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := g.forward.dialer.Dial(ctx)
	if err == nil {
		_ = c.Close() // it was only asked whether it is there
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}

// handshakeGrace is how long handshakes that are in progress when a listener
// is closed have to come to their end, if a drain takes as long.
const handshakeGrace = 2 * time.Second

// drain lets handshakes and requests in flight end within the timeout. It
// waits for no client: what a connection does that reads nothing, or says
// nothing, makes the drain no longer than that.
func (g *gate) drain(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	g.closing.Store(true)
	g.finishHandshakes(min(handshakeGrace, timeout/2))
	err := g.servers.shutdown(ctx)
	upgraded := g.live.until(ctx, isUpgraded)
	if err != nil || len(upgraded) > 0 {
		g.cut(upgraded)
	}
	ended, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	g.live.until(ended, isAny) // their sockets are closed by then
	g.servers.close()          // it holds its lock while it closes, so nothing may be left that could wait
	g.log.Info("gate closed")
}

// finishHandshakes returns when none is in progress, and ends those that take
// longer than the timeout.
func (g *gate) finishHandshakes(timeout time.Duration) {
	late := time.AfterFunc(timeout, func() {
		for _, c := range g.greeting.all() {
			_ = c.Close() // it may have ended meanwhile
		}
	})
	defer late.Stop()
	g.pending.Wait()
}

// cut ends what has not ended within the drain's timeout. WebSocket
// connections are told why.
func (g *gate) cut(upgraded []*conn) {
	busy := g.live.busy()
	for range busy {
		g.metrics.Ended(drainTimeout)
	}
	g.log.Warn("connections cut", "reason", drainTimeout, "connections", busy, "upgraded", len(upgraded))
	for _, c := range upgraded {
		c.goodbye(closeGoingAway)
	}
	told, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	g.live.until(told, isUpgraded)
	for _, c := range g.live.all() {
		c.hangUp(parting)
	}
}

// GateStatus is the state of one gate.
type GateStatus struct {
	Name     string `json:"name"`
	Listen   string `json:"listen"`
	Upstream string `json:"upstream"`
	LiveCount
	Roots []RootStatus `json:"roots,omitempty"` // CAs that peers chained to since the start
}

// LiveCount is what is alive at a gate.
type LiveCount struct {
	Connections int `json:"connections"` // past their handshake
	Requests    int `json:"requests"`    // in flight, upgraded ones among them
	Upgraded    int `json:"upgraded"`
}

// Status returns the state of every gate, in the order of Gates. It is empty
// until Run has bound the listeners.
func (p *Proxy) Status() []GateStatus {
	gates := p.gates.Load()
	if gates == nil {
		return nil
	}
	var list []GateStatus
	for _, g := range *gates {
		list = append(list, GateStatus{g.Name, g.Listen.String(), g.Upstream.Address.String(), g.live.count(), g.roots.status()})
	}
	return list
}

// count counts what is alive.
func (l *live) count() LiveCount {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := LiveCount{Connections: len(l.conns), Upgraded: len(l.kindLocked(isUpgraded))}
	for c := range l.conns {
		n.Requests += int(c.active.Load())
	}
	return n
}
