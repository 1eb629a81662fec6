package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"sidegate/tlsproxy/http1"
)

// maxInterim is how many 1xx answers may precede an answer.
const maxInterim = 64

// exchange is one request and its answer.
type exchange struct {
	client *Client
	req    *Request
	conn   *conn
	buf    *[bufferSize]byte
	out    []byte // the head, and the body if it is small
	sent   bool   // the body is in out
	in     http1.Reader
	res    http1.Response
	upload *upload // nil: nothing is sent beside the answer
	// writeErr is why the head, or all of the request, could not be sent.
	writeErr error
	stop     func() bool
	settled  bool // the connection is given back or closed
	// What is returned, here so that all of it is one allocation.
	body     Body
	response Response
}

func newExchange(c *Client, r *Request) *exchange {
	return &exchange{client: c, req: r, buf: buffers.Get().(*[bufferSize]byte)}
}

// free gives the buffer back. Nothing may use it any more.
func (x *exchange) free() {
	if x.buf != nil {
		buffers.Put(x.buf)
		x.buf = nil
	}
}

// prepare writes the head.
func (x *exchange) prepare() (err error) {
	if x.out, err = x.req.Head.Append(x.buf[:0]); err != nil {
		return fmt.Errorf("request not sent: %w", err)
	}
	return nil
}

// run sends the request by a connection and reads the head of the answer. The
// connection is closed when that fails.
func (x *exchange) run(ctx context.Context, c *conn) (*Response, error) {
	x.conn, x.settled = c, false
	x.stop = afterEnd(ctx, c.sever)
	res, err := x.exchange()
	if err == nil {
		return res, nil
	}
	x.abandon()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if x.upload != nil {
		err = x.upload.blame(err)
	}
	return nil, err
}

func (x *exchange) exchange() (*Response, error) {
	x.writeErr = x.send()
	if x.writeErr != nil && x.conn.used {
		// Whatever came is no answer to what was not sent.
		return nil, &deathError{x.writeErr}
	}
	// A connection that takes no request any more may have brought an answer
	// all the same.
	err := x.receive()
	switch {
	case err != nil && x.writeErr != nil:
		return nil, x.writeErr
	case err != nil:
		return nil, err
	case x.res.Status == 101:
		return x.switched()
	}
	return x.answered()
}

func (x *exchange) send() error {
	if _, err := x.conn.Write(x.out); err != nil {
		return err
	}
	if x.req.Body == nil || x.sent {
		return nil
	}
	var err error
	if x.upload, err = newUpload(x); err == nil {
		go x.upload.run()
	}
	return err
}

// receive reads heads until one is final.
func (x *exchange) receive() error {
	if x.upload == nil {
		if err := x.conn.expectBy(x.client.head); err != nil {
			return err
		}
	}
	x.in.Reset(x.conn, x.buf[:])
	for interim := 0; ; interim++ {
		if err := x.res.Read(&x.in, x.req.Head.Method); err != nil {
			if interim == 0 && len(x.in.Buffered()) == 0 && closedByPeer(err) {
				return &deathError{err}
			}
			return x.strange(err)
		}
		if x.res.Status >= 200 || x.res.Status == 101 {
			return nil
		}
		if interim == maxInterim {
			return fmt.Errorf("answer: more than %d with status 1xx", maxInterim)
		}
		if x.upload != nil && x.res.Status == 100 {
			x.upload.proceed()
		}
		if x.req.Interim != nil {
			x.req.Interim(x.res.Status, x.res.Fields)
		}
	}
}

// strange is the error of a head that can't be read. By a connection that was
// used before it is, as likely as not, what its last answer had too much.
func (x *exchange) strange(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if x.conn.used && errors.Is(err, http1.ErrProtocol) {
		x.client.pool.fault(x.conn.kind)
	}
	return fmt.Errorf("answer: %w", err)
}

// answered makes the response of a final head.
func (x *exchange) answered() (*Response, error) {
	x.body = Body{x: x, body: x.res.Body(&x.in)}
	b := &x.body
	ended, surplus, err := b.body.Whole()
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	x.conn.kind, x.conn.atOnce = kindOf(&x.res, x.req.Head.Method)
	x.conn.used = true
	if x.writeErr != nil || x.req.Head.Method != "HEAD" && x.res.Status == 204 && (x.res.Length > 0 || x.res.Coded) {
		x.res.Close = true
	}
	if x.upload != nil {
		x.upload.answerBegan()
	}
	if ended && x.upload == nil {
		x.in.Cut()
		x.settle(surplus)
	}
	x.response = Response{Response: &x.res, Body: b}
	return &x.response, nil
}

// kindOf is what is remembered of an answer, and whether its connection may be
// used again at once: after a body whose end was said, or a status without a
// body and nothing that speaks of one.
func kindOf(res *http1.Response, method string) (k kind, atOnce bool) {
	bare := res.Length <= 0 && !res.Coded
	switch {
	case method == "HEAD":
		return toHead, false
	case res.Status == 204:
		return noContent, bare
	case res.Status == 304:
		return notModified, bare
	case res.Coded:
		return withChunks, true
	}
	return withLength, true
}

// settle is the end of an exchange whose answer has come to its end.
func (x *exchange) settle(surplus int) {
	x.settled = true
	c := x.conn
	if surplus > 0 {
		x.client.pool.fault(c.kind)
	}
	keep := !x.res.Close && surplus == 0
	if !x.stop() {
		keep = false // it is being closed
	}
	if x.upload != nil {
		over, whole := x.upload.leave(keep)
		if !over {
			return
		}
		keep = keep && whole
	}
	x.client.release(c, keep)
}

// brokenOff reports whether the application has reset the connection, which may
// have destroyed what it had said before.
func (x *exchange) brokenOff() bool {
	return errors.Is(x.writeErr, syscall.ECONNRESET) || x.upload != nil && x.upload.reset()
}

// release gives a connection back that is in use no longer.
func (c *Client) release(conn *conn, keep bool) {
	if keep {
		c.pool.put(conn)
	} else {
		c.pool.drop(conn)
	}
}

// abandon closes the connection of an exchange that did not come to its end.
func (x *exchange) abandon() {
	if x.settled {
		return
	}
	x.settled = true
	x.stop() // the connection is closed in any case
	x.client.pool.drop(x.conn)
	if x.upload != nil {
		x.upload.cancel()
	}
}

// expectBy lets reading take so long. A deadline that is a bit later will do as
// well: setting one costs more than reading a small answer.
func (c *conn) expectBy(d time.Duration) error {
	if d == 0 {
		return c.expectNothing()
	}
	end := time.Now().Add(d)
	if !c.deadline.Before(end) {
		return nil
	}
	c.deadline = end.Add(d / 4)
	return c.SetReadDeadline(c.deadline)
}

// expectNothing lets reading take for ever.
func (c *conn) expectNothing() error {
	if c.deadline.IsZero() {
		return nil
	}
	c.deadline = time.Time{}
	return c.SetReadDeadline(time.Time{})
}

// switched hands the connection over to another protocol.
func (x *exchange) switched() (*Response, error) {
	if !x.req.Upgrade {
		return nil, errors.New("answer: status 101 to a request without Upgrade")
	}
	if err := x.conn.expectNothing(); err != nil {
		return nil, err
	}
	if !x.stop() {
		return nil, net.ErrClosed
	}
	x.settled = true
	x.client.pool.released()
	t := &Tunnel{Conn: x.conn.Conn, early: append([]byte(nil), x.in.Buffered()...)}
	res := x.res
	x.free()
	return &Response{Response: &res, Tunnel: t}, nil
}
