package tlsproxy

import (
	"errors"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// recorder is the ResponseWriter that remembers what was answered.
type recorder struct {
	http.ResponseWriter
	gate     *gate
	conn     *conn
	protocol string // what the application switches to, with status 101
	leaving  *atomic.Bool
	// strictTransport is the gate's Strict-Transport-Security; nil: none.
	strictTransport []string
	// client watches writes of HTTP/2 that wait for the client to open its
	// window. For HTTP/1.1 conn.Write sees to it.
	client  watchdog
	silence *silence // nil: the exchange may be silent for ever
	begun   atomic.Bool
	timeout bool // a write of HTTP/1.1 waited for the client too long
	status  int
	denied  int // the HTTP status that a gRPC refusal stands for; 0: none
	bytes   int64
}

// watch bounds how long a write may wait for the client.
func (w *recorder) watch(r *http.Request, limit time.Duration) {
	if r.ProtoMajor >= 2 {
		w.client.limit, w.client.bite = limit, w.reset
	}
}

// reset ends the stream of an HTTP/2 client that takes nothing: a deadline in
// the past resets it at once. The handler has not returned, or else the call
// that is watched had.
func (w *recorder) reset() bool {
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Unix(1, 0)) == nil
}

// Unwrap lets http.ResponseController flush and hijack.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status < 200 || w.status == http.StatusSwitchingProtocols {
		w.status = status
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.gate.stripAnswer(w.Header()) // 103 has fields too
	}
	if status >= 200 {
		w.begin()
		if w.leaving.Load() {
			w.Header().Set("Connection", "close") // of HTTP/2, net/http makes GOAWAY of it
		}
	}
	if w.strictTransport != nil {
		w.Header()["Strict-Transport-Security"] = w.strictTransport
	}
	w.ResponseWriter.WriteHeader(status)
}

// begin notes that the answer has begun. From now on the exchange may be a
// stream, in which either side is silent as long as it likes.
func (w *recorder) begin() {
	if !w.begun.Swap(true) {
		w.silence.listen()
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status < 200 {
		w.status = http.StatusOK
		w.begin()
	}
	w.client.start()
	n, err := w.ResponseWriter.Write(p)
	w.client.stop()
	w.bytes += int64(n)
	w.silence.touch()
	w.timeout = w.timeout || errors.Is(err, os.ErrDeadlineExceeded)
	return n, err
}

// FlushError is what http.ResponseController calls; it waits like Write.
func (w *recorder) FlushError() error {
	w.client.start()
	defer w.client.stop()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// finish is called before the handler returns, with which net/http sends what
// it still holds. A client that does not take that is no longer watched here,
// but by net/http.
func (w *recorder) finish() {
	w.silence.stop()
	if w.client.limit > 0 && w.bytes > 0 && !w.client.bit() {
		// An error means that the stream has ended.
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.client.limit))
	}
}

// stalled reports whether the client did not take what waited for it.
func (w *recorder) stalled() bool { return w.timeout || w.client.bit() }

// finalStatus is what the client saw; 499, as nginx logs it, when it saw none.
func (w *recorder) finalStatus() int {
	if w.denied != 0 {
		return w.denied
	}
	if w.status == 0 || w.status < 200 && w.status != http.StatusSwitchingProtocols {
		return statusClientGone
	}
	return w.status
}

const statusClientGone = 499
