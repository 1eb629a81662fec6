package tlsproxy

import (
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// unwatched is how long an exchange of HTTP/1.1 may last before anybody looks
// whether its client is still there.
const unwatched = 20 * time.Millisecond

// presence notices when the client of an HTTP/1.1 exchange leaves.
//
// # Design
//
// While a handler runs, net/http reads one byte ahead in another goroutine, and
// takes an error for the client's going. Most exchanges end before there could
// be anything to read, and to begin that read and to break it off costs more
// than all that is decided about a request. So where there is no body, and it is
// the only read, net/http is told that nothing has come, with which it gives up;
// the byte is read here, and only if the exchange lasts.
type presence struct {
	from net.Conn // TLS, or the connection

	mu       sync.Mutex
	exchange *lifetime     // the one that is open; nil: none
	bare     bool          // it has no body
	gone     bool          // the client has left
	timer    *time.Timer   // nil: there was no exchange to watch
	due      bool          // the timer runs, and may begin to read
	reading  chan struct{} // closed when that read has returned; nil: there is none
	ahead    []byte        // what it has read, and
	err      error         // why no more, for whoever reads next
	one      [1]byte
}

// begin is called when an exchange begins.
func (p *presence) begin(l *lifetime, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchange, p.bare = l, r.Body == nil || r.Body == http.NoBody
	if p.gone {
		l.end()
	}
}

// over is called when the exchange has ended, or reads from the connection itself.
func (p *presence) over() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchange = nil
	if p.due {
		p.due = false
		p.timer.Stop()
	}
}

// Read reads for net/http.
func (p *presence) Read(to []byte) (int, error) {
	p.mu.Lock()
	if p.exchange != nil && p.bare {
		p.watchLaterLocked()
		p.mu.Unlock()
		return 0, nil
	}
	for p.reading != nil {
		returned := p.reading
		p.mu.Unlock()
		<-returned
		p.mu.Lock()
	}
	if len(p.ahead) > 0 || p.err != nil {
		defer p.mu.Unlock()
		n, err := copy(to, p.ahead), p.err
		p.ahead, p.err = nil, nil
		return n, err
	}
	p.mu.Unlock()
	n, err := p.from.Read(to)
	if err != nil {
		p.left(err)
	}
	return n, err
}

func (p *presence) watchLaterLocked() {
	p.due = true
	if p.timer == nil {
		p.timer = time.AfterFunc(unwatched, p.watch)
	} else {
		p.timer.Reset(unwatched)
	}
}

// watch reads a byte ahead. An exchange that begins later reads it.
func (p *presence) watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.due || p.reading != nil {
		return
	}
	p.due, p.reading = false, make(chan struct{})
	p.mu.Unlock()
	n, err := p.from.Read(p.one[:])
	p.mu.Lock()
	p.ahead, p.err = p.one[:n], err
	close(p.reading)
	p.reading = nil
	if err != nil {
		p.leftLocked(err)
	}
}

// left ends the exchange that is open, because of an error.
func (p *presence) left(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftLocked(err)
}

func (p *presence) leftLocked(err error) {
	p.gone = p.gone || !errors.Is(err, os.ErrDeadlineExceeded) // else the client may be there
	if p.exchange != nil {
		p.exchange.end()
	}
}
