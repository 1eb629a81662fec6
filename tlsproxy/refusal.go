package tlsproxy

import (
	"bytes"
	"net"
	"net/http"
	"strconv"
	"time"

	"sidegate/policy"
)

// Reasons for which a head is refused before anything else is asked.
const (
	headTooLarge      policy.Reason = "head_too_large"     // 431
	expectationFailed policy.Reason = "expectation_failed" // 417: Expect names something else than 100-continue
	notImplemented    policy.Reason = "not_implemented"    // 501: a Transfer-Encoding that we don't speak
)

// http1Conn is a connection as the HTTP/1.1 engine of net/http has it. What
// the engine writes while no exchange is open is its own refusal of a head
// that it could not read: that is answered, logged and counted as any other.
type http1Conn struct {
	net.Conn // under, or TLS above it
	under    *conn
	gate     *gate
	refused  bool
}

func newHTTP1Conn(c net.Conn, under *conn, g *gate) *http1Conn {
	under.parsing.Store(true)
	under.client = &presence{from: c}
	return &http1Conn{Conn: c, under: under, gate: g}
}

func (h *http1Conn) Read(p []byte) (int, error) { return h.under.client.Read(p) }

// Close implements net.Conn. While a gate drains, net/http closes idle
// connections and holds its lock as long: that must not wait for a client.
func (h *http1Conn) Close() error {
	if h.gate.closing.Load() {
		h.under.hangUp(lastWords)
		return nil
	}
	return h.Conn.Close()
}

// CloseWrite lets net/http and the upgrade path half-close.
func (h *http1Conn) CloseWrite() error {
	return h.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (h *http1Conn) Write(p []byte) (int, error) {
	if !h.under.parsing.Load() {
		n, err := h.Conn.Write(p)
		if err != nil {
			h.under.client.left(err)
		}
		return n, err
	}
	if h.refused {
		return len(p), nil // the rest of what is not sent
	}
	status := statusOf(p)
	if status == 0 { // HTTP/2 at a plaintext gate
		return h.Conn.Write(p)
	}
	h.refused = true
	h.refuse(status)
	return len(p), nil
}

// statusOf reads the status of the answer that p begins; 0: p begins none.
func statusOf(p []byte) int {
	const version = "HTTP/1.1 "
	if !bytes.HasPrefix(p, []byte(version)) || len(p) < len(version)+3 {
		return 0
	}
	status, err := strconv.Atoi(string(p[len(version) : len(version)+3]))
	if err != nil {
		return 0
	}
	return status
}

// refuse answers a head that could not be read, of which nothing is known.
func (h *http1Conn) refuse(status int) {
	x := &exchange{gate: h.gate, conn: h.under, started: time.Now(), requestID: newRequestID()}
	x.in = &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
	x.req.Client = h.under.remote
	x.answer = recorder{ResponseWriter: &lastAnswer{to: h.Conn, header: http.Header{}}, leaving: h.gate.leaving, strictTransport: h.gate.strictTransport}
	x.conn.active.Add(1)
	defer x.finish()
	x.refuse(&denial{status: status, reason: headReason(status)})
}

func headReason(status int) policy.Reason {
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge:
		return headTooLarge
	case http.StatusExpectationFailed:
		return expectationFailed
	case http.StatusNotImplemented:
		return notImplemented
	}
	return policy.BadRequest
}

// lastAnswer writes the last answer of a connection.
type lastAnswer struct {
	to     net.Conn
	header http.Header
	head   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (l *lastAnswer) Header() http.Header { return l.header }

// WriteHeader implements http.ResponseWriter. The head goes out with the body.
func (l *lastAnswer) WriteHeader(status int) {
	l.header.Set("Connection", "close")
	l.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	l.head.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	_ = l.header.Write(&l.head) // a buffer takes everything
	l.head.WriteString("\r\n")
}

// Write implements http.ResponseWriter.
func (l *lastAnswer) Write(p []byte) (int, error) {
	_, err := l.to.Write(append(l.head.Bytes(), p...))
	return len(p), err
}

// headSlack is what net/http allows above MaxHeaderBytes, so that a limit means
// the same in both protocols.
const headSlack = 4096

// headSize is the size of a request's head as RFC 9113 6.5.2 counts it.
func headSize(r *http.Request) int {
	const overhead = 32
	size := len(r.Method) + len(r.RequestURI) + len(r.Host) + 3*overhead
	for name, values := range r.Header {
		for _, v := range values {
			size += len(name) + len(v) + overhead
		}
	}
	return size
}
