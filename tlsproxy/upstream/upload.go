package upstream

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"sidegate/tlsproxy/http1"
)

const (
	// continueAfter is how long a body waits for 100 Continue.
	continueAfter = time.Second
	// lastWrite is how long an upload may go on after the answer has ended.
	lastWrite = 50 * time.Millisecond
)

// upload sends a body while the answer may come already.
type upload struct {
	client *Client
	req    *Request
	conn   *conn
	asked  chan struct{} // the body need not wait any longer; nil: it never had to

	mu       sync.Mutex
	begun    bool
	ended    bool
	readErr  error // why the body could not be read
	writeErr error // why it could not be sent
	answered bool  // the answer has begun
	left     bool  // the answer has ended, and the connection is ours to give back
	keep     bool  // then, whether it may be used again
	hurry    *time.Timer
}

// newUpload makes an upload. The head's deadline begins when it has ended.
func newUpload(x *exchange) (*upload, error) {
	u := &upload{client: x.client, req: x.req, conn: x.conn}
	if x.req.Expect {
		u.asked = make(chan struct{}, 1)
	}
	return u, u.conn.expectNothing()
}

func (u *upload) run() {
	if u.begin() {
		u.end(u.send())
	}
}

// begin waits until the body may be sent.
func (u *upload) begin() bool {
	if u.asked != nil {
		t := time.NewTimer(continueAfter)
		defer t.Stop()
		select {
		case <-u.asked:
		case <-t.C:
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.begun = !u.ended
	return u.begun
}

// proceed ends the wait for 100 Continue.
func (u *upload) proceed() {
	if u.asked == nil {
		return
	}
	select {
	case u.asked <- struct{}{}:
	default: // it was told before
	}
}

// send returns why the body could not be read, or not be written.
func (u *upload) send() (readErr, writeErr error) {
	buffers := u.req.Buffers
	if buffers == nil {
		buffers = &uploads
	}
	buf := buffers.Get()
	defer buffers.Put(buf)
	if u.req.Head.Length == http1.Chunked {
		return u.sendChunks(buf)
	}
	for left := u.req.Head.Length; left > 0; {
		n, err := u.req.Body.Read(buf[:min(left, int64(len(buf)))])
		left -= int64(n)
		if _, writeErr = u.conn.Write(buf[:n]); writeErr != nil {
			return nil, writeErr
		}
		switch {
		case err == io.EOF && left > 0:
			return io.ErrUnexpectedEOF, nil
		case err != nil && err != io.EOF:
			return err, nil
		}
	}
	return nil, nil
}

func (u *upload) sendChunks(buf []byte) (readErr, writeErr error) {
	const data = http1.ChunkPrefix
	for {
		n, err := u.req.Body.Read(buf[data : len(buf)-2])
		if n > 0 {
			if _, writeErr = u.conn.Write(http1.FrameChunk(buf[:data+n])); writeErr != nil {
				return nil, writeErr
			}
		}
		if err == io.EOF {
			return nil, u.sendLast(buf[:0])
		}
		if err != nil {
			return err, nil
		}
	}
}

func (u *upload) sendLast(buf []byte) error {
	var trailers []http1.Field
	if u.req.Trailers != nil {
		trailers = u.req.Trailers()
	}
	last, err := http1.AppendLastChunk(buf, trailers)
	if err != nil {
		return err
	}
	_, err = u.conn.Write(last)
	return err
}

// end notes how the upload ended. What the client did not send whole must not
// look so to the application; what the application did not take may have been
// answered all the same.
func (u *upload) end(readErr, writeErr error) {
	u.mu.Lock()
	u.ended, u.readErr, u.writeErr = true, readErr, writeErr
	if readErr != nil {
		_ = u.conn.Close()
	} else if !u.answered {
		_ = u.conn.expectBy(u.client.head) // an error comes with the read
	}
	left, keep := u.left, u.keep && readErr == nil && writeErr == nil
	if u.hurry != nil && !u.hurry.Stop() {
		keep = false
	}
	u.mu.Unlock()
	if left {
		u.client.release(u.conn, keep)
	}
}

// answerBegan takes the deadline of the head away. A body that nobody has asked
// for yet is not sent any more.
func (u *upload) answerBegan() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answered = true
	_ = u.conn.expectNothing() // an error comes with the read
	u.giveUpLocked()
}

// giveUpLocked keeps a body from being sent that nobody has asked for yet.
func (u *upload) giveUpLocked() {
	if u.asked != nil && !u.begun {
		u.ended, u.writeErr = true, errUnsent
		u.proceed()
	}
}

var errUnsent = errors.New("the body was not asked for")

// leave is called at the end of the answer. over says that the upload has ended
// too, and whole that it could be sent. Otherwise the upload gives the connection
// back, when it ends.
func (u *upload) leave(keep bool) (over, whole bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended {
		u.left, u.keep = true, keep
		u.hurry = time.AfterFunc(lastWrite, func() {
			_ = u.conn.Close()
			u.stopPipe()
		})
	}
	return u.ended, u.readErr == nil && u.writeErr == nil
}

// cancel is called when the exchange has failed and its connection is closed.
func (u *upload) cancel() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.giveUpLocked()
	u.stopPipe()
}

// stopPipe ends the wait for a small body that comes by way of [ahead]. Others
// end with the client's request.
func (u *upload) stopPipe() {
	if p, ok := u.req.Body.(*io.PipeReader); ok {
		_ = p.Close() // always nil
	}
}

// blame is the error of an exchange that failed with err: the client's, if its
// body could not be read.
func (u *upload) blame(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.readErr != nil {
		return fmt.Errorf("read the request's body: %w", u.readErr)
	}
	return err
}

// reset reports whether the application has broken the connection off while the
// body was sent.
func (u *upload) reset() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return errors.Is(u.writeErr, syscall.ECONNRESET)
}

// Buffers lends what bodies are copied through. It may be used concurrently.
type Buffers struct {
	Size int       // of each, at least 4 KiB
	pool sync.Pool // of pointers to the first byte, which it holds without an allocation
}

// Get lends a buffer.
func (b *Buffers) Get() []byte {
	if p, ok := b.pool.Get().(*byte); ok {
		return unsafe.Slice(p, b.Size)
	}
	return make([]byte, b.Size)
}

// Put takes one back.
func (b *Buffers) Put(p []byte) { b.pool.Put(unsafe.SliceData(p)) }

// uploads lends what a body is copied through by default.
var uploads = Buffers{Size: 32 << 10}
