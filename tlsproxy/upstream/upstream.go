package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"sidegate/tlsproxy/http1"
)

// Client sends requests to one application. It is made by [New].
type Client struct {
	dial func(context.Context) (net.Conn, error)
	head time.Duration // until the head of the answer; 0: for ever
	pool pool
}

// Options are what a Client needs to know.
type Options struct {
	Dial func(context.Context) (net.Conn, error)
	// HeadTimeout is how long the application may take from the end of the
	// request to the head of its answer. 0: for ever.
	HeadTimeout time.Duration
	// Idle is how long a connection may wait for the next request.
	Idle time.Duration
	// Log gets one warning for each kind of answer that the application does
	// not end where it says.
	Log *slog.Logger
}

// New makes a client. It opens nothing.
func New(o Options) *Client {
	c := &Client{dial: o.Dial, head: o.HeadTimeout}
	c.pool.init(o.Idle, func(fault string) {
		o.Log.Warn("application breaks HTTP, connections close after such answers", "reason", fault)
	})
	return c
}

// Leave closes the connections that wait for the caller's next request. It is
// called when the caller has gone.
func (c *Client) Leave(caller *Caller) { c.pool.leave(caller) }

// Close closes the connections that wait.
func (c *Client) Close() { c.pool.close() }

// Request is a request to send.
type Request struct {
	Head http1.Request
	// Body is read up to its end, which may not be before Head.Length. It is
	// read no more once the answer's body was closed. It may be read after Do
	// has returned, but never by two at a time.
	Body io.Reader
	// Interrupt, which may be nil, ends a Read of the body that waits, because
	// there is an answer.
	Interrupt func()
	// Buffers lends what the body is copied through; nil: some of 32 KiB.
	Buffers *Buffers
	// Trailers returns the fields behind a chunked body. nil: none.
	Trailers func() []http1.Field
	// Upgrade says that the request asks for another protocol.
	Upgrade bool
	// Expect says that the body waits for 100 (RFC 9110 10.1.1).
	Expect bool
	// Interim is called with each 1xx answer. The fields are good during the call.
	Interim func(status int, fields []http1.Field)
	Owner   Owner
}

// repeatable reports whether a request that may have arrived may be sent again:
// it does the same (RFC 9110 9.2.2), and no body is gone.
func (r *Request) repeatable() bool {
	switch r.Head.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return r.Body == nil && !r.Upgrade
	}
	return false
}

// Response is an answer. Its fields are good until the body is closed, which it
// must be.
type Response struct {
	*http1.Response
	Body   *Body   // with any other status than 101
	Tunnel *Tunnel // with 101
}

// Do sends a request and returns when the head of the answer has come. The
// connection is given back, or closed, by the answer's body. When ctx ends, so
// does the exchange, up to the end of the body.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	x := newExchange(c, r)
	if err := x.prepare(); err != nil {
		x.free()
		return nil, err
	}
	if x.small() {
		return c.readSmall(ctx, x)
	}
	return c.do(ctx, x)
}

// do sends what is prepared.
func (c *Client) do(ctx context.Context, x *exchange) (*Response, error) {
	r := x.req
	conn := c.pool.take(r.Owner, r.repeatable(), c.pool.now())
	for {
		again := conn != nil
		if conn == nil {
			var err error
			if conn, err = c.connect(ctx, r.Owner); err != nil {
				x.free()
				return nil, err
			}
		}
		res, err := x.run(ctx, conn)
		if err == nil {
			return res, nil
		}
		if again && r.repeatable() && ctx.Err() == nil && isDeath(err) {
			conn = nil
			continue
		}
		x.free()
		return nil, err
	}
}

func (c *Client) connect(ctx context.Context, o Owner) (*conn, error) {
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.pool.began()
	return newConn(nc, o), nil
}

// afterEnd is context.AfterFunc, but for what that allocates beside a context
// which has such a method itself.
func afterEnd(ctx context.Context, do func()) (stop func() bool) {
	if c, ok := ctx.(interface{ AfterFunc(func()) func() bool }); ok {
		return c.AfterFunc(do)
	}
	return context.AfterFunc(ctx, do)
}

// deathError says that a connection ended before the first byte of an answer.
type deathError struct{ err error }

func (e *deathError) Error() string {
	return "the application closed the connection without an answer: " + e.err.Error()
}
func (e *deathError) Unwrap() error { return e.err }

func isDeath(err error) bool {
	var death *deathError
	return errors.As(err, &death)
}

// closedByPeer reports whether err is the other end's doing.
func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

const bufferSize = 16 << 10

// buffers lends what one exchange needs: the head and a small body to send, then
// what comes.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
