package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// bench is where Sidegate runs.
type bench struct {
	folder string
	app    string // the application's address
	only   string
}

// gate is a Sidegate that runs in a cgroup.
type gate struct {
	addr   string
	admin  string
	cgroup *cgroup
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it has
	log    *os.File
}

// start runs Sidegate under that limit until it is ready.
func (b *bench) start(ctx context.Context, limit int64, env ...string) (*gate, error) {
	c, err := newCgroup(limit)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	g := &gate{addr: ports[0], admin: ports[1], cgroup: c, ended: make(chan struct{})}
	if g.log, err = os.Create(filepath.Join(b.folder, "sidegate.log")); err != nil {
		return nil, err
	}
	// The shell enters the cgroup before the program is there.
	g.cmd = exec.Command("sh", "-c", `echo $$ >"$1/cgroup.procs" && exec "$2" serve`, "sh", c.dir, filepath.Join(b.folder, "sidegate"))
	g.cmd.Env = append([]string{
		"SIDEGATE_INGRESS=" + g.addr + "=http://" + b.app,
		"SIDEGATE_ADMIN=" + g.admin,
		"SIDEGATE_TLS=" + filepath.Join(b.folder, "tls"),
		"SIDEGATE_USERS=" + filepath.Join(b.folder, "users"),
		"SIDEGATE_CLIENT_CA=" + filepath.Join(b.folder, "ca"),
		"SIDEGATE_CLIENT_CERT=optional",
		"SIDEGATE_ALLOW=authenticated",
		"SIDEGATE_POLICY=none",
		"SIDEGATE_DRAIN_DELAY=0s",
		"SIDEGATE_DRAIN_TIMEOUT=1s",
	}, env...)
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = g.cmd.Wait() // whoever asks sees the state
		close(g.ended)
	}()
	if err := g.ready(ctx); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

func (g *gate) ready(ctx context.Context) error {
	for {
		res, err := http.Get("http://" + g.admin + "/readyz")
		if err == nil {
			_ = res.Body.Close() // nothing of it is wanted
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-g.ended:
			return fmt.Errorf("sidegate ended: %s; see %s", g.cmd.ProcessState, g.log.Name())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// alive reports whether it still runs.
func (g *gate) alive() bool {
	select {
	case <-g.ended:
		return false
	default:
		return true
	}
}

// stop ends it.
func (g *gate) stop() {
	_ = g.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-g.ended:
	case <-time.After(10 * time.Second):
		_ = g.cmd.Process.Kill() // likewise
		<-g.ended
	}
	_ = g.log.Close()     // nothing more is written
	_ = g.cgroup.remove() // left behind it costs nothing
}

// freePorts are addresses on loopback that were free a moment ago.
func freePorts(n int) (list []string, err error) {
	for range n {
		l, listenErr := net.Listen("tcp", "127.0.0.1:0")
		if listenErr != nil {
			return nil, listenErr
		}
		list = append(list, l.Addr().String())
		err = errors.Join(err, l.Close())
	}
	return list, err
}
