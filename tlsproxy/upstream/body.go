package upstream

import (
	"fmt"
	"io"
	"net"

	"sidegate/tlsproxy/http1"
)

// Body is the body of an answer. It is used by one goroutine at a time.
type Body struct {
	x    *exchange // nil: it is over
	body http1.Body
	err  error // then
}

// Read implements io.Reader. An answer that ended too early is never io.EOF.
func (b *Body) Read(p []byte) (int, error) {
	x := b.x
	if x == nil {
		return 0, b.err
	}
	if err := b.mayWait(); err != nil {
		x.abandon()
		return 0, b.end(err)
	}
	n, err := b.body.Read(p)
	if err == io.EOF && x.res.Frame == http1.UntilClose && x.brokenOff() {
		err = io.ErrUnexpectedEOF
	}
	switch err {
	case nil:
		return n, nil
	case io.EOF:
		if !x.settled {
			x.settle(len(x.in.Buffered()))
		}
		return n, b.end(io.EOF)
	}
	x.abandon()
	return n, b.end(fmt.Errorf("answer: %w", err))
}

// Ready reports whether Read has something without waiting.
func (b *Body) Ready() bool { return b.x == nil || b.body.Ready() }

// mayWait takes the deadline of the head away before a read that may block. An
// application may be silent as long as it likes once its answer has begun.
func (b *Body) mayWait() error {
	x := b.x
	if x.settled || x.upload != nil || x.res.Frame == http1.ByLength && len(x.in.Buffered()) > 0 {
		return nil
	}
	return x.conn.expectNothing()
}

func (b *Body) end(err error) error {
	b.x.free()
	b.x, b.err = nil, err
	return err
}

// Trailers are the fields behind the body, once Read has returned io.EOF.
func (b *Body) Trailers() []http1.Field { return b.body.Trailers }

// Close ends the exchange. The rest of the body is not read.
func (b *Body) Close() error {
	x := b.x
	switch {
	case x == nil:
		return nil
	case x.settled:
	case b.body.Ended():
		x.settle(len(x.in.Buffered()))
	default:
		x.abandon()
	}
	b.end(net.ErrClosed)
	return nil
}

// Tunnel is a connection that speaks another protocol by now.
type Tunnel struct {
	net.Conn
	early []byte // of it, which came with the head
}

// Read implements io.Reader.
func (t *Tunnel) Read(p []byte) (int, error) {
	if len(t.early) > 0 {
		n := copy(p, t.early)
		t.early = t.early[n:]
		return n, nil
	}
	return t.Conn.Read(p)
}

// CloseWrite passes on that the client has nothing more to say.
func (t *Tunnel) CloseWrite() error {
	return t.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
