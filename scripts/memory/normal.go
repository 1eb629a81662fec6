package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// normal is a client that behaves: one kept connection with a request each
// tenth of a second, and five new connections a second with one each.
type normal struct {
	asked, answered atomic.Int64
	mu              sync.Mutex
	last            error
}

const patience = 10 * time.Second // of the client, with one request

func (n *normal) run(ctx context.Context, addr string) {
	var wg sync.WaitGroup
	wg.Go(func() { n.kept(ctx, addr) })
	tick := time.NewTicker(time.Second / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			wg.Go(func() { (&link{addr: addr}).once(n).close() })
		case <-ctx.Done():
			wg.Wait()
			return
		}
	}
}

// kept asks again and again by one connection.
func (n *normal) kept(ctx context.Context, addr string) {
	tick := time.NewTicker(time.Second / 10)
	defer tick.Stop()
	l := &link{addr: addr}
	defer l.close()
	for {
		select {
		case <-tick.C:
			l.once(n)
		case <-ctx.Done():
			return
		}
	}
}

// link is a connection of the client, where there is one.
type link struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
}

// once asks once, and counts it. Where a kept connection was closed meanwhile it
// asks by a new one, as every client does (RFC 9110 9.2.2).
func (l *link) once(n *normal) *link {
	reused := l.conn != nil
	err := l.ask()
	if err != nil && reused {
		err = l.ask()
	}
	n.count(err)
	return l
}

// ask asks, by a new connection if there is none.
func (l *link) ask() error {
	if l.conn == nil {
		if err := l.connect(); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	_ = l.conn.SetDeadline(time.Now().Add(patience)) // an error comes with the request
	err := ask(l.conn, l.in, "/", "normal")
	if err != nil {
		l.close() // nothing more comes by it
	}
	return err
}

func (l *link) connect() error {
	// The gate's certificate is made for the measurement.
	dial := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{InsecureSkipVerify: true}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := dial.DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return err
	}
	l.conn, l.in = c, bufio.NewReader(c)
	return nil
}

func (l *link) close() {
	if l.conn != nil {
		_ = l.conn.Close() // it is not wanted any more
		l.conn = nil
	}
}

func (n *normal) count(err error) {
	n.asked.Add(1)
	if err != nil {
		n.note(err)
		return
	}
	n.answered.Add(1)
}

func (n *normal) note(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = err
}

// String is what the client got.
func (n *normal) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked, answered := n.asked.Load(), n.answered.Load()
	text := fmt.Sprintf("%d of %d (%.1f %%)", answered, asked, 100*float64(answered)/float64(max(asked, 1)))
	if n.last != nil {
		text += fmt.Sprintf(", last failure: %v", n.last)
	}
	return text
}

// served reports whether the client got at least 99 of 100.
func (n *normal) served() bool { return 100*n.answered.Load() >= 99*n.asked.Load() }
