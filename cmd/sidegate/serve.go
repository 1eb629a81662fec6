package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"sidegate/certs/wallclock"
	"sidegate/certs/watch"
	"sidegate/cmd/sidegate/lines"
	"sidegate/tlsproxy"
	"sidegate/tlsproxy/admin"
)

func runServe(ctx context.Context, p *program) error {
	if err := noArguments(p, "serve"); err != nil {
		return err
	}
	c, err := readConfig(p.environ)
	if err != nil {
		return usageError{listed("configuration", err)}
	}
	return serve(ctx, c, p)
}

// serve loads, binds and runs until ctx ends. A reader of the log that stalls or
// goes away changes nothing about that.
func serve(ctx context.Context, c *Config, p *program) error {
	signal.Ignore(syscall.SIGPIPE) // a write to a pipe that nobody reads would end the process
	log, queue := newLog(c, p.stdout)
	writing, ended := context.WithCancel(context.Background())
	var written sync.WaitGroup
	written.Go(func() { _ = queue.Run(writing) })
	defer written.Wait() // a second at most
	defer ended()
	return serveLogged(ctx, c, p, log, queue)
}

func serveLogged(ctx context.Context, c *Config, p *program, log *slog.Logger, queue *lines.Queue) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // before anything is loaded: unheard it would end the process
	defer signal.Stop(hangup)
	a, err := assemble(ctx, c, log)
	if err != nil {
		return usageError{listed("configuration", err)}
	}
	b := budgetOf(c, openFiles(), len(a.gates))
	if b.short != "" {
		log.Warn("few open files", "warning", b.short)
	}
	m := memoryNow(p.environ)
	m.tellRuntime(p.environ)
	log.Info("memory", "limit_bytes", m.limit, "room", m.String())
	if w := m.short(); w != "" {
		log.Warn("little memory", "warning", w)
	}
	b.limits.Memory = m.clients
	if w := oldGo(runtime.Version()); w != "" {
		log.Warn("old toolchain", "warning", w)
	}
	for _, w := range a.policyWarnings() {
		log.Warn("policy", "warning", w)
	}
	if a.fixed != nil { // a policy file has said so itself
		log.Info("rule in force", "rule", a.fixed.String())
	}
	metrics := admin.NewMetrics(version())
	metrics.Watch(a.loaded)
	for kind := range lines.Kind(lines.Kinds) {
		metrics.WatchLog(kind.String(), func() uint64 { return queue.Dropped(kind) })
	}
	proxy := &tlsproxy.Proxy{
		Gates: a.gates, Log: log, Metrics: metrics, Limits: b.limits, Clock: new(wallclock.Clock), DrainDelay: time.Duration(c.DrainDelay), DrainTimeout: time.Duration(c.DrainTimeout),
	}
	metrics.WatchRoots(proxy.Status)
	metrics.WatchMemory(proxy.Memory)
	if a.acme != nil {
		a.acme.Open = proxy.Opened()
	}
	server := &admin.Server{
		Started: started(proxy), Ready: ready(proxy, a), Metrics: metrics.Registry, Log: log,
		Status: func() any { return statusOf(proxy, a) }, Drain: proxy.Drain, Probes: c.Probes,
		MaxConnections: b.admin,
	}
	watcher := watch.New(watch.Options{Paths: a.paths, Log: log})

	resized := func(ctx context.Context) error { return followMemory(ctx, p.environ, m, proxy, log) }
	return runAll(ctx, signals{p.again, hangup}, a, proxy, server, watcher, resized)
}

// runAll runs the gates until ctx ends and they are drained, and everything
// else until then: probes must see the drain, and what is still served may
// still rotate. The first error ends all.
func runAll(ctx context.Context, heeded signals, a *assembly, proxy *tlsproxy.Proxy, server *admin.Server, watcher *watch.Watcher, resized func(context.Context) error) error {
	rest, drained := context.WithCancel(context.WithoutCancel(ctx))
	defer drained()
	g, rest := errgroup.WithContext(rest)
	gates, failed := context.WithCancel(ctx)
	defer failed()
	defer context.AfterFunc(rest, failed)()
	if a.config.Admin != none {
		l, err := net.Listen("tcp", string(a.config.Admin))
		if err != nil {
			return fmt.Errorf("SIDEGATE_ADMIN: %w", err)
		}
		g.Go(func() error { return server.Run(rest, l) })
	}
	g.Go(func() error {
		defer drained()
		return proxy.Run(gates)
	})
	if a.spiffe != nil {
		g.Go(func() error { return a.spiffe.Run(rest) })
	}
	for _, s := range a.stores {
		subscribe := watcher.Subscribe
		if s.signals != nil {
			subscribe = s.signals
		}
		changed := subscribe()
		g.Go(func() error { return s.Run(rest, changed) })
	}
	for _, l := range a.reload {
		changed := watcher.Subscribe()
		g.Go(func() error { return l.Run(rest, changed) })
	}
	g.Go(func() error { return watcher.Run(rest) })
	g.Go(func() error { return resized(rest) })
	g.Go(func() error { return heeded.heed(rest, proxy.Hurry, watcher.Kick) })
	return g.Wait()
}

func started(p *tlsproxy.Proxy) func() error {
	return func() error {
		if !p.Listening() {
			return errors.New("the gates are not open yet")
		}
		return nil
	}
}

func ready(p *tlsproxy.Proxy, a *assembly) func() error {
	return func() error {
		if p.Draining() {
			return errors.New("draining")
		}
		return errors.Join(started(p)(), a.ready())
	}
}

// signals are those that serve heeds besides the one that ends its context.
type signals struct {
	again  <-chan struct{}  // closed by the second one to end; nil: never
	reload <-chan os.Signal // SIGHUP
}

// heed skips the drain's delay for who asks twice to end, and looks at every
// file for who asks to reload, until ctx ends.
func (s signals) heed(ctx context.Context, hurry, reload func()) error {
	again := s.again
	for {
		select {
		case <-again:
			hurry()
			again = nil
		case <-s.reload:
			reload()
		case <-ctx.Done():
			return nil
		}
	}
}

// serveHTTP serves what is no gate until ctx ends, and ends what is under way
// then.
func serveHTTP(ctx context.Context, server *http.Server, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
