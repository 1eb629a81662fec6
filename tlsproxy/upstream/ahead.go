package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"
)

// patience is how long a small body may take to come. After that the head goes
// ahead of it, since the application may answer without waiting for the rest.
const patience = 20 * time.Millisecond

// ahead is the exchange of a request whose small body did not come at once. It
// goes on beside whoever still reads that body.
type ahead struct {
	body   *io.PipeWriter
	result chan outcome
}

type outcome struct {
	res *Response
	err error
}

// small reports whether the body fits into the buffer behind the head, and may
// be read before anything is sent.
func (x *exchange) small() bool {
	n := x.req.Head.Length
	return x.req.Body != nil && !x.req.Expect && n >= 0 && n <= int64(bufferSize-len(x.out))
}

// readSmall reads a small body and sends the request: all of it by one write and
// without another goroutine, or, when the body takes its time, head first.
func (c *Client) readSmall(ctx context.Context, x *exchange) (*Response, error) {
	begun := make(chan *ahead, 1)
	timer := time.AfterFunc(patience, func() { c.goAhead(ctx, x.req, begun) })
	head := len(x.out)
	x.out = x.out[:head+int(x.req.Head.Length)]
	_, err := io.ReadFull(x.req.Body, x.out[head:])
	if timer.Stop() {
		if err != nil {
			x.free()
			return nil, fmt.Errorf("read the request's body: %w", err)
		}
		x.sent = true
		return c.do(ctx, x)
	}
	defer x.free()
	return (<-begun).finish(x.out[head:], err)
}

// goAhead sends the head, and behind it what finish gives. When there is an
// answer it makes the reader of the body read no longer.
func (c *Client) goAhead(client context.Context, r *Request, begun chan<- *ahead) {
	rest, w := io.Pipe()
	a := &ahead{body: w, result: make(chan outcome, 1)}
	begun <- a
	beside := *r
	beside.Body = rest
	x := newExchange(c, &beside)
	// The interruption may look as if the client had gone, and must not end
	// the exchange. From then on a client that leaves is noticed by who writes
	// to it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(client))
	watched := context.AfterFunc(client, cancel)
	err := x.prepare() // it has been right before
	var res *Response
	if err == nil {
		res, err = c.do(ctx, x)
	}
	watched()
	a.result <- outcome{res, err}
	if r.Interrupt != nil {
		r.Interrupt()
	}
}

// finish is called with the body, or why it could not be read, which may be that
// there is an answer.
func (a *ahead) finish(body []byte, err error) (*Response, error) {
	if err == nil {
		go a.feed(bytes.Clone(body))
		out := <-a.result
		return out.res, out.err
	}
	select {
	case out := <-a.result:
		return out.res, out.err
	default:
	}
	_ = a.body.CloseWithError(err) // always nil
	out := <-a.result
	return out.res, out.err
}

func (a *ahead) feed(body []byte) {
	_, _ = a.body.Write(body) // it errs when the answer came first
	_ = a.body.Close()        // always nil
}
