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
// may stand still, remembers why reading it failed, and hands its trailers over.
type requestBody struct {
	io.ReadCloser
	in   *http.Request
	out  http.Header // trailers to send: the announced names, values pending
	conn *http.ResponseController
	idle time.Duration

	mu     sync.Mutex
	closed bool // nothing may touch the connection any more
	ended  bool

	failed, tooLarge, stalled atomic.Bool
}

func newRequestBody(x *exchange) *requestBody {
	b := &requestBody{
		ReadCloser: x.in.Body, in: x.in, idle: x.gate.budget.BodyIdle,
		conn: http.NewResponseController(x.answer.ResponseWriter),
	}
	if x.gate.MaxBody > 0 {
		b.ReadCloser = http.MaxBytesReader(x.answer.ResponseWriter, x.in.Body, x.gate.MaxBody)
	}
	return b
}

// Read sets the deadline anew each time: a body that moves may take for ever.
// After the end there is none, because net/http watches the connection while
// the application answers, and would take a deadline for the client's going.
func (b *requestBody) Read(p []byte) (int, error) {
	if !b.deadline(time.Now().Add(b.idle)) {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// release is called before the handler returns. The transport may read on after
// that, where the application answered early: ReverseProxy keeps it from new
// reads alone, and does not close us. To touch what the handler had then is a
// race with another request, or the end of the process (HTTP/2).
func (b *requestBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// deadline reports whether the body may still be read.
func (b *requestBody) deadline(t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	if !b.ended {
		_ = b.conn.SetReadDeadline(t) // one that has gone can't be given a deadline
	}
	return true
}

func (b *requestBody) end(err error) {
	var large *http.MaxBytesError
	switch {
	case err == io.EOF:
		b.deadline(time.Time{})
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
		for name := range b.out {
			b.out[name] = b.in.Trailer[name]
		}
	case errors.As(err, &large):
		b.tooLarge.Store(true)
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.stalled.Store(true)
	case !errors.Is(err, http.ErrBodyReadAfterClose):
		b.failed.Store(true)
	}
}
