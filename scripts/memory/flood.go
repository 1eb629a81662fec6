package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

// opener makes one connection of a flood. What it returns is kept open.
type opener func(ctx context.Context, d *dialer) (net.Conn, error)

// overHTTP1 opens a connection of HTTP/1.1 and uses it.
func overHTTP1(use func(c *tls.Conn) error) opener {
	return func(ctx context.Context, d *dialer) (net.Conn, error) {
		c, err := d.dial(ctx, "http/1.1")
		if err != nil {
			return nil, err
		}
		return c, use(c)
	}
}

// overHTTP2 opens a connection of HTTP/2 and uses it.
func overHTTP2(use func(h *h2conn) error) opener {
	return func(ctx context.Context, d *dialer) (net.Conn, error) {
		c, err := d.dial(ctx, "h2")
		if err != nil {
			return nil, err
		}
		h, err := newH2(c)
		if err != nil {
			return c, err
		}
		return c, use(h)
	}
}

var (
	// askedOnce and askedOnceH2 are idle connections.
	askedOnce   = overHTTP1(func(c *tls.Conn) error { return ask(c, bufio.NewReaderSize(c, 512), "/", "shared") })
	askedOnceH2 = overHTTP2(func(h *h2conn) error { return h.ask(1, "/", "shared") })

	// silent is a connection by which nothing was asked.
	silent = overHTTP1(func(*tls.Conn) error { return nil })
)

// halfOpen is a connection that never says hello.
func halfOpen(ctx context.Context, d *dialer) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
}

// unfinishedHead is a head of 60 KiB without an end.
var unfinishedHead = overHTTP1(func(c *tls.Conn) error {
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat(longField, 60))
	return err
})

// unfinishedBlock is a field block of 60 KiB without an end, by CONTINUATION.
var unfinishedBlock = overHTTP2(func(h *h2conn) error {
	if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields("GET", "/", "shared")}); err != nil {
		return err
	}
	for range 60 {
		block := append([]byte{0, 1, 'x', 0x7f, 0xe9, 0x06}, bytes.Repeat([]byte("y"), 1000)...) // a literal field; 127 + 105 + 6*128 = 1000
		if err := h.WriteContinuation(1, false, block); err != nil {
			return err
		}
	}
	return nil
})

// upload is a body that the application never reads.
var upload = overHTTP1(func(c *tls.Conn) error {
	_, err := fmt.Fprintf(c, "POST /never HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nContent-Length: 100000000\r\n\r\n", basic("shared"))
	go func() { _, _ = c.Write(make([]byte, 4<<20)) }() // it ends with the connection
	return err
})

// uploadH2 is the same by HTTP/2, as far as the windows allow it.
var uploadH2 = overHTTP2(func(h *h2conn) error {
	if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields("POST", "/never", "shared"), EndHeaders: true}); err != nil {
		return err
	}
	for range 4 { // the window of a stream before SETTINGS is 65,535
		if err := h.WriteData(1, false, make([]byte, 16000)); err != nil {
			return err
		}
	}
	return nil
})

// requesting is a request whose answer nobody reads.
func requesting(path, more string) opener {
	return overHTTP1(func(c *tls.Conn) error {
		_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n%s\r\n", path, basic("shared"), more)
		return err
	})
}

// requestingH2 is the same by HTTP/2.
func requestingH2(path string) opener {
	return overHTTP2(func(h *h2conn) error {
		return h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields("GET", path, "shared"), EndHeaders: true, EndStream: true})
	})
}

// flood opens connections, 64 at a time, and keeps those that the gate keeps.
type flood struct {
	opened, failed atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	last  error
}

func (f *flood) run(ctx context.Context, d *dialer, open opener, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				one, cancel := context.WithTimeout(ctx, 20*time.Second)
				c, err := open(one, d)
				cancel()
				f.keep(c, err)
			}
		})
	}
	wg.Wait()
}

func (f *flood) keep(c net.Conn, err error) {
	if c != nil {
		f.opened.Add(1)
		f.mu.Lock()
		f.conns = append(f.conns, c)
		f.mu.Unlock()
	}
	if err != nil {
		f.failed.Add(1)
		f.mu.Lock()
		f.last = err
		f.mu.Unlock()
	}
	const often = 500 // or the process runs out of files
	if f.opened.Load()%often == 0 {
		f.held()
	}
}

// held counts the connections that the gate has not closed, and lets go of the
// others.
func (f *flood) held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = slices.DeleteFunc(f.conns, func(c net.Conn) bool {
		tcp := socket(c)
		if open(tcp) {
			return false
		}
		_ = tcp.Close() // the gate has closed it
		return true
	})
	return len(f.conns)
}

func socket(c net.Conn) *net.TCPConn {
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	return c.(*net.TCPConn)
}

// open reports whether the other end has neither closed nor reset.
func open(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	established := false
	_ = raw.Control(func(fd uintptr) { // false where it fails
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		established = err == nil && info.State == tcpEstablished
	})
	return established
}

const tcpEstablished = 1 // as Linux counts the states of TCP

// close ends the flood without a word to the gate.
func (f *flood) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = socket(c).Close() // the gate may have closed it
	}
}
