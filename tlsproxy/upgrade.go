package tlsproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"sidegate/tlsproxy/http1"
	"sidegate/tlsproxy/upstream"
)

// Status codes of a WebSocket Close frame (RFC 6455 7.4.1).
const (
	closeGoingAway uint16 = 1001
	closePolicy    uint16 = 1008
)

// settleUpgrade drops what is no upgrade to pass on, so that the request goes on
// as any other (RFC 9110 7.8 permits that): one to h2c, which would tunnel past
// the checks of each request, one that Connection does not name, and one with
// content, since both the body and what follows it would be read from one buffer.
// A WebSocket client can't go on that way; false: the request must be refused.
func settleUpgrade(r *http.Request) bool {
	values := r.Header["Upgrade"]
	if values == nil {
		return true
	}
	content := r.ContentLength != 0
	if content && hasToken(values, "websocket") {
		return false
	}
	if content || r.ProtoMajor != 1 || hasToken(values, "h2c") || !hasToken(r.Header["Connection"], "upgrade") {
		delete(r.Header, "Upgrade")
		delete(r.Header, "Http2-Settings")
	}
	return true
}

// hasToken reports whether one of the lists has the token.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// upgradedConn is the client's side of a connection that has switched to
// another protocol. Where that is WebSocket it can say why it ends.
type upgradedConn struct {
	net.Conn
	in        io.Reader // what was read together with the request, then Conn
	webSocket bool
	silence   *silence

	mu     sync.Mutex // held while a write goes on
	frames frames     // from the application to the client
	code   uint16     // of the Close frame that ends the connection; 0: none
	said   bool       // that frame is out
}

// newUpgradedConn takes over what http.Hijacker gave.
func newUpgradedConn(c net.Conn, r *bufio.Reader, protocol string) *upgradedConn {
	u := &upgradedConn{Conn: c, in: c, webSocket: strings.EqualFold(protocol, "websocket")}
	if n := r.Buffered(); n > 0 {
		early, _ := r.Peek(n) // buffered, so it can't fail
		u.in = io.MultiReader(bytes.NewReader(bytes.Clone(early)), c)
	}
	return u
}

func (u *upgradedConn) Read(p []byte) (int, error) {
	n, err := u.in.Read(p)
	u.silence.touch()
	return n, err
}

// CloseWrite passes on that the application has nothing more to say.
func (u *upgradedConn) CloseWrite() error {
	return u.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// Write sends what the application says. Once goodbye was called it is cut
// behind the frame that is under way, and the Close frame follows.
func (u *upgradedConn) Write(p []byte) (int, error) {
	u.silence.touch()
	if !u.webSocket {
		return u.Conn.Write(p)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.code == 0 {
		u.frames.follow(p)
		return u.Conn.Write(p)
	}
	if !u.said {
		n, err := u.Conn.Write(p[:u.frames.next(p)])
		if err != nil {
			return n, err
		}
		if err := u.sayIfBetween(); err != nil {
			return n, err
		}
	}
	return len(p), nil // an error would end the connection before the client has read the Close frame
}

// goodbye ends a WebSocket connection by a Close frame, as soon as no other
// frame is in the way. It may wait for a write that does not come to its end,
// until the connection is closed.
func (u *upgradedConn) goodbye(code uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.webSocket || u.code != 0 {
		return
	}
	u.code = code
	_ = u.sayIfBetween() // a client that has gone needs no goodbye
}

// sayIfBetween sends the Close frame where one may stand. mu is held.
func (u *upgradedConn) sayIfBetween() error {
	if !u.frames.between() {
		return nil
	}
	u.said = true
	if u.frames.closed { // the application has said goodbye itself
		return nil
	}
	_, err := u.Conn.Write(binary.BigEndian.AppendUint16([]byte{0x80 | opcodeClose, 2}, u.code))
	return err
}

// tunnel passes on what both sides say after the application has agreed to change
// the protocol.
func (x *exchange) tunnel(res *upstream.Response) {
	defer res.Tunnel.Close()
	protocol := http1.Value(res.Fields, "Upgrade")
	if !hasToken(x.in.Header["Upgrade"], protocol) {
		x.failed(&http1.ProtocolError{Field: "Upgrade", Problem: "not a protocol that was asked for"})
		return
	}
	h := x.answer.Header()
	x.gate.stripAnswer(h)
	h["Connection"] = []string{"Upgrade"}
	x.conn.upgraded.Store(true) // before net/http forgets the connection
	x.conn.client.over()        // the tunnel reads by itself
	x.answer.status, x.answer.protocol = res.Status, protocol
	client, buffered, err := x.answer.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // its connection has gone
	}
	defer client.Close()
	if err := writeSwitch(buffered.Writer, h); err != nil {
		return // likewise
	}
	stop := context.AfterFunc(&x.ctx, func() { _ = res.Tunnel.Close() })
	defer stop()
	ended := make(chan error, 2)
	buffers := x.buffersFor(-1)
	go func() { ended <- copyHalf(res.Tunnel, client, buffers) }()
	go func() { ended <- copyHalf(client, res.Tunnel, buffers) }()
	if err := <-ended; err == nil {
		<-ended // one may be silent for ever, and the other not
	}
}

// writeSwitch writes the head of the answer that changes the protocol.
func writeSwitch(w *bufio.Writer, h http.Header) error {
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // Flush returns the error
	_ = h.Write(w)                                               // likewise
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}

// copyHalf copies until from has no more to say, and passes that on.
func copyHalf(to, from net.Conn, buffers *upstream.Buffers) error {
	buf := buffers.Get()
	defer buffers.Put(buf)
	if _, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, buf); err != nil {
		return err
	}
	return to.(interface{ CloseWrite() error }).CloseWrite()
}

// onlyReader and onlyWriter hide what would copy by a buffer of its own.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

const opcodeClose = 8

// frames finds where WebSocket frames end (RFC 6455 5.2).
type frames struct {
	head   [14]byte
	have   int    // bytes of the head seen so far; 0 between two frames
	left   uint64 // bytes of the payload to come
	closed bool   // a Close frame went by
}

func (f *frames) between() bool { return f.have == 0 }

// follow goes through all of p.
func (f *frames) follow(p []byte) {
	for len(p) > 0 {
		p = p[f.next(p):]
	}
}

// next goes through p up to the end of the frame under way, or to the end of
// p, and returns how far that is.
func (f *frames) next(p []byte) int {
	n := 0
	for n < len(p) && f.left == 0 {
		f.head[f.have] = p[n]
		f.have++
		n++
		if f.have == f.headLen() {
			f.left = f.payload()
			if f.left == 0 {
				f.end()
				return n
			}
		}
	}
	part := min(f.left, uint64(len(p)-n))
	f.left -= part
	if f.left == 0 && part > 0 {
		f.end()
	}
	return n + int(part)
}

func (f *frames) end() {
	f.closed = f.closed || f.head[0]&0x0f == opcodeClose
	f.have = 0
}

// headLen is how long the head is, as far as can be told.
func (f *frames) headLen() int {
	if f.have < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n = 4
	case 127:
		n = 10
	}
	if f.head[1]&0x80 != 0 { // a mask, which servers may not use
		n += 4
	}
	return n
}

func (f *frames) payload() uint64 {
	switch short := f.head[1] & 0x7f; short {
	case 126:
		return uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		return binary.BigEndian.Uint64(f.head[2:])
	default:
		return uint64(short)
	}
}

// Hijack hands the connection over to the protocol that client and
// application agreed on.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u := newUpgradedConn(c, buffered.Reader, w.protocol)
	u.silence = w.silence
	w.silence.listen()
	w.conn.stream.Store(u)
	return u, buffered, nil
}
