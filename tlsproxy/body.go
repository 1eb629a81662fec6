package tlsproxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// requestBody passes the client's body on, bounded in size and in the time it
// may stand still before the answer begins, remembers why reading it failed,
// and hands its trailers over.
type requestBody struct {
	io.ReadCloser
	in     *http.Request
	out    http.Header // trailers to send: the announced names, values pending
	conn   *http.ResponseController
	answer *recorder
	client watchdog
	idle   time.Duration

	mu      sync.Mutex
	closed  bool // nothing may touch the connection any more
	stopped bool // nobody wants the rest
	reading bool
	ended   bool

	failed, tooLarge, stalled atomic.Bool
	interrupted               atomic.Bool // by us, which net/http takes for the client's going
}

func newRequestBody(x *exchange) *requestBody {
	b := &requestBody{
		ReadCloser: x.in.Body, in: x.in, answer: &x.answer,
		conn: http.NewResponseController(x.answer.ResponseWriter), idle: x.gate.budget.BodyIdle,
	}
	if !isGRPC(x.in.Header) { // whose clients may listen for ever
		b.client.limit, b.client.bite = b.idle, b.expire
	}
	if x.gate.MaxBody > 0 {
		b.ReadCloser = http.MaxBytesReader(x.answer.ResponseWriter, x.in.Body, x.gate.MaxBody)
	}
	return b
}

// Read waits for the client as long as the limit. A body that moves may take
// for ever, and so may one that stands still once the answer has begun.
func (b *requestBody) Read(p []byte) (int, error) {
	if !b.enter() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.client.start()
	n, err := b.ReadCloser.Read(p)
	b.client.stop()
	b.exit()
	b.answer.conn.expects(int64(n))
	b.answer.silence.touch()
	if err != nil {
		b.end(err)
	}
	return n, err
}

// enter begins a Read; false: nobody reads any more.
func (b *requestBody) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = !b.closed && !b.stopped
	return b.reading
}

func (b *requestBody) exit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
}

// expire makes the read that waits fail, unless the answer has begun.
func (b *requestBody) expire() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.stopped || b.ended || b.answer.begun.Load() {
		return false
	}
	return b.conn.SetReadDeadline(time.Unix(1, 0)) == nil
}

// interrupt ends a Read that waits for the client: the answer is there.
func (b *requestBody) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && !b.ended {
		b.closed = true
		b.interrupted.Store(true)
		_ = b.conn.SetReadDeadline(time.Unix(1, 0)) // one that has gone reads nothing any more
	}
}

// lastRead is how long a Read of HTTP/1.1 may go on that nobody waits for. One
// that is interrupted costs the client its connection, and it may be sending.
const lastRead = 50 * time.Millisecond

// stop ends the reading for good. A Read that waits for the client is
// interrupted. What is left of the body, Close leaves to net/http.
func (b *requestBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
	if b.closed || b.ended || !b.reading {
		return
	}
	b.interrupted.Store(true)
	wait := time.Duration(0)
	if b.in.ProtoMajor == 1 {
		wait = lastRead
	}
	_ = b.conn.SetReadDeadline(time.Now().Add(wait)) // one that has gone reads nothing any more
}

// Close ends the reading, by the upload and once more before the handler
// returns. The upload may read on after that, where the application answered
// early: to touch what the handler had then is a race with another request, or
// the end of the process (HTTP/2). What is left of the body, net/http reads and
// drops when the answer is out: to wait for that here would hold the answer up.
func (b *requestBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if b.ended {
		return nil
	}
	return b.conn.SetReadDeadline(time.Now().Add(b.idle))
}

func (b *requestBody) end(err error) {
	var large *http.MaxBytesError
	switch {
	case err == io.EOF:
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
		for name := range b.out {
			b.out[name] = b.in.Trailer[name]
		}
	case errors.As(err, &large):
		b.tooLarge.Store(true)
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.mu.Lock()
		b.stalled.Store(!b.closed && !b.stopped) // else it was interrupted
		b.mu.Unlock()
	case !errors.Is(err, http.ErrBodyReadAfterClose):
		b.failed.Store(true)
	}
}
