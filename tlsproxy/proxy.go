package tlsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Proxy serves gates. Its fields are set before [Proxy.Run].
type Proxy struct {
	Gates   []*Gate
	Log     *slog.Logger
	Metrics Metrics
	Limits  Limits
	// Clock has the alarms by which peers end with their certificates. nil: it
	// counts the time that passes, and does not notice when the clock is set.
	Clock Clock
	// DrainDelay is how long listeners stay open after a drain began, for
	// those who have not heard of it yet.
	DrainDelay time.Duration
	// DrainTimeout is how long requests in flight may take after that. 0: 20 s.
	DrainTimeout time.Duration

	listening  atomic.Bool
	openOnce   sync.Once
	opened     chan struct{}
	gates      atomic.Pointer[[]*gate]
	room       atomic.Pointer[room]
	drainOnce  sync.Once
	drainState *drain
}

// Listening reports whether every listener is bound and serving.
func (p *Proxy) Listening() bool { return p.listening.Load() }

// Opened returns a channel that is closed when every listener is bound and
// serving.
func (p *Proxy) Opened() <-chan struct{} {
	p.openOnce.Do(func() { p.opened = make(chan struct{}) })
	return p.opened
}

// Run binds every listener, serves until ctx ends or [Proxy.Drain] is called,
// drains, and returns nil. What had to be cut is logged.
func (p *Proxy) Run(ctx context.Context) error {
	budget := newBudget(p.Limits.withDefaults())
	p.room.Store(budget.room)
	strip := newStripper(p.Gates)
	gates := make([]*gate, 0, len(p.Gates))
	for _, g := range p.Gates {
		gates = append(gates, newGate(g, p, budget, strip))
	}
	budget.victims.gates = gates
	if err := bindAll(gates); err != nil {
		return err
	}
	p.gates.Store(&gates)
	d := p.drain()
	stop := context.AfterFunc(ctx, p.terminate)
	defer stop()
	serving, closeAll := context.WithCancel(context.WithoutCancel(ctx))
	defer closeAll()
	g, serving := errgroup.WithContext(serving)
	g.Go(func() error {
		d.wait(serving, p.DrainDelay, func() {
			p.Log.Info("drain begun", "delay", p.DrainDelay.String(), "timeout", p.drainTimeout().String())
		})
		closeAll()
		for _, gate := range gates {
			_ = gate.listener.Close() // what closeAll has begun may not be done yet
		}
		d.close()
		return nil
	})
	for _, gate := range gates {
		g.Go(func() error { return gate.run(serving, p.drainTimeout()) })
	}
	p.listening.Store(true)
	p.Opened()
	close(p.opened)
	defer p.listening.Store(false)
	return g.Wait()
}

// SetMemory changes Limits.Memory while Run serves: who is too many for it is
// ended or refused. Before that it does nothing.
func (p *Proxy) SetMemory(bytes int64) {
	if room := p.room.Load(); room != nil {
		room.resize(bytes)
	}
}

// Memory is what clients hold now, in bytes, as Limits.Memory counts it, and that
// limit as it is now. Both are 0 before Run.
func (p *Proxy) Memory() (held, limit int64) {
	if room := p.room.Load(); room != nil {
		return room.held()
	}
	return 0, 0
}

func (p *Proxy) drainTimeout() time.Duration {
	if p.DrainTimeout == 0 {
		return 20 * time.Second
	}
	return p.DrainTimeout
}

// bindAll binds every gate or none.
func bindAll(gates []*gate) error {
	var errs []error
	for _, g := range gates {
		l, err := listen(g.Listen)
		if err != nil {
			errs = append(errs, fmt.Errorf("gate %s: listen on %s: %w", g.Name, g.Listen, err))
			continue
		}
		g.listener = l
	}
	if len(errs) == 0 {
		return nil
	}
	for _, g := range gates {
		if g.listener != nil {
			_ = g.listener.Close()
		}
	}
	return errors.Join(errs...)
}
