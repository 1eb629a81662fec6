package tlsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// counting is a trust that counts what is verified, and asks before it says of
// a leaf.
type counting struct {
	tlsproxy.Trust
	verified atomic.Int64
	before   func(leaf *x509.Certificate)
}

// count is a change of a gate.
func (c *counting) count(g *tlsproxy.Gate) { c.Trust, g.Trust = g.Trust, c }

func (c *counting) VerifyPeer(chain []*x509.Certificate, use x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	c.verified.Add(1)
	if c.before != nil {
		c.before(chain[0])
	}
	return c.Trust.VerifyPeer(chain, use)
}

// ask makes one request, the last of its connection.
func ask(c *tls.Conn) (status string, err error) {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	return res.Status, nil
}

// TLS-33: a handshake gives way to another while its last step is under way.
// The client's part is here in whole, so that it succeeds nevertheless.
func TestShedHandshakeThatSucceeds(t *testing.T) {
	trust := &counting{}
	w := newWorldIn(t, tlsproxy.Limits{Handshakes: 1, Handshake: time.Hour}, clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), trust.count)
	pair := w.ca.Client(t, "peer")
	judging, goOn := make(chan bool), make(chan bool)
	var once sync.Once
	trust.before = func(*x509.Certificate) { once.Do(func() { close(judging); <-goOn }) }
	conf := w.config(&pair)
	conf.SessionTicketsDisabled = true // with a ticket the gate would write once more, and notice
	victim := w.dial(conf)
	<-judging
	began := time.Now()
	other, err := net.Dial("tcp", w.addr)
	must(t, err)
	defer other.Close()
	if _, err := io.Copy(io.Discard, victim.NetConn()); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("it did not give way")
	}
	if took := time.Since(began); took < 900*time.Millisecond { // more is the machine's affair
		t.Errorf("a client that has said hello gave way after %s", took)
	}
	close(goOn)
	w.counted(`reason="shed_handshakes",result="failed"} 1`)
	for _, r := range w.proxy.Status()[0].Roots {
		if r.Live != 0 {
			t.Errorf("a live peer of %s is counted: %d", r.CA, r.Live)
		}
	}
	if got := w.proxy.Status()[0].Connections; got != 0 {
		t.Errorf("%d connections in the table", got)
	}
	_ = other.Close()
	w.counted(`sidegate_connections{gate="main"} 0`)
}

// TLS-33: handshakes that succeed, fail and give way under load leave nothing.
func TestHandshakesLeaveNothing(t *testing.T) {
	w := newWorldIn(t, tlsproxy.Limits{Handshakes: 2, Handshake: 2 * time.Second}, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertOptional), allow("any-peer"))
	pair := w.ca.Client(t, "peer")
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if i%8 > 0 {
				_ = tls.Client(c, w.config(&pair)).Handshake() // it may give way
				return
			}
			_, _ = io.Copy(io.Discard, c) // half-open, until it gives way
		})
	}
	clients.Wait()
	w.counted(`sidegate_connections{gate="main"} 0`)
	s := w.proxy.Status()[0]
	if s.Connections != 0 {
		t.Errorf("%d connections in the table", s.Connections)
	}
	for _, r := range s.Roots {
		if r.Live != 0 {
			t.Errorf("%d live peers of %s", r.Live, r.CA)
		}
	}
}

// TLS-34: handshakes in progress at a change of trust verify their own chains,
// and not those of everybody who is live.
func TestHandshakesAtAChangeOfTrust(t *testing.T) {
	trust := &counting{}
	w := newWorld(t, upstream(newRecorder(t).url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), trust.count)
	const live, late = 20, 10
	for i := range live {
		pair := w.ca.Client(t, fmt.Sprint("peer", i))
		w.holdIdle(&pair, "h2")
	}
	certstest.Until(t, "all are live", func() bool { return w.proxy.Status()[0].Connections == live })
	var ready, done sync.WaitGroup
	goOn := make(chan bool)
	pair := w.ca.Client(t, "late")
	ready.Add(late)
	for range late {
		done.Go(func() {
			conf := w.config(nil)
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				ready.Done()
				<-goOn
				return &pair.TLS, nil
			}
			if c, err := tls.Dial("tcp", w.addr, conf); err == nil {
				defer c.Close()
				_, _ = ask(c)
			}
		})
	}
	ready.Wait()
	before := trust.verified.Load()
	content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
	content["ca.crt"] = certstest.Join(w.ca.PEM(), certstest.NewCA(t, "one more").PEM())
	w.update(content)
	certstest.Until(t, "all are verified again", func() bool { return trust.verified.Load()-before >= live })
	before = trust.verified.Load()
	close(goOn)
	done.Wait()
	if got := trust.verified.Load() - before; got > 2*late {
		t.Errorf("%d verifications for %d handshakes, beside %d live peers", got, late, live)
	}
}

// OPS-05: many clients at once wait for each other, and none is turned away.
func TestHandshakesAtOnce(t *testing.T) {
	const clients = 200
	w := newWorldIn(t, tlsproxy.Limits{Handshakes: 5, Patience: time.Minute}, upstream(echo(t).URL), allow("anyone"))
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			c, err := tls.Dial("tcp", w.addr, w.config(nil))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if got, err := ask(c); err != nil || got != "200 OK" {
				t.Error(got, err)
			}
		})
	}
	all.Wait()
	if text := scrape(w.metrics); strings.Contains(text, "shed_handshakes") {
		t.Error("a handshake was shed")
	}
}

// leaver is an authenticator of one user, who may leave.
type leaver struct {
	gone   atomic.Bool
	notice policy.Notice
}

func (l *leaver) leave() { l.gone.Store(true); l.notice.Tell() }

func (l *leaver) Authenticate(context.Context, *policy.Request) (*policy.Login, error) {
	if l.gone.Load() {
		return nil, &policy.Refusal{Reason: policy.BadCredentials}
	}
	return &policy.Login{User: &policy.User{Method: policy.LocalMethod, Name: "ann"}}, nil
}

func (l *leaver) Recheck(context.Context, *policy.User) error {
	if l.gone.Load() {
		return &policy.Refusal{Reason: policy.BadCredentials}
	}
	return nil
}

func (l *leaver) Challenge(*policy.Request, error) []string { return nil }
func (l *leaver) Changed() <-chan struct{}                  { return l.notice.Changed() }

func (l *leaver) only(g *tlsproxy.Gate) { g.Authenticators = []tlsproxy.Authenticator{l} }

// ROT-13, TLS-19: an idle HTTP/1.1 connection does not outlive its user, whatever
// it asked last and however far its answer is.
func TestIdleConnectionOfARemovedUser(t *testing.T) {
	for _, target := range []string{"/", "/" + strings.Repeat("a", 3000), "/?" + strings.Repeat("a", 30_000)} {
		user := &leaver{}
		w := newWorld(t, upstream(echo(t).URL), user.only)
		conf := w.config(nil)
		conf.NextProtos = []string{"http/1.1"}
		conn := w.dial(conf)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", target)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		must(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		must(t, err)
		user.leave()
		began := certstest.StartStopwatch(t)
		if _, err := in.ReadByte(); err != io.EOF {
			t.Errorf("target of %d bytes: %v, want the end", len(target), err)
		}
		if took := began.Elapsed(); took > time.Second {
			t.Errorf("target of %d bytes: it ended after %s", len(target), took)
		}
	}
}

// ROT-13: a request that is ended and comes to its end in its last words leaves
// no connection behind.
func TestLastWordsOfARemovedUser(t *testing.T) {
	begun, finish := make(chan bool), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		begun <- true
		<-finish
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(app.Close)
	user := &leaver{}
	w := newWorld(t, upstream(app.URL), user.only)
	conf := w.config(nil)
	conf.NextProtos = []string{"http/1.1"}
	conn := w.dial(conf)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-begun
	user.leave()
	began := certstest.StartStopwatch(t)
	w.log.Wait(t, `"msg":"request ended"`)
	close(finish)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	if got := text(t, res); got != "done" {
		t.Errorf("the client got %q", got)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
	if took := began.Elapsed(); took > time.Second {
		t.Errorf("it ended after %s", took)
	}
}

// fountain answers without an end, and tells when nobody wants its water.
type fountain struct {
	url   string
	sent  atomic.Int64
	ended chan bool
}

func newFountain(t *testing.T) *fountain {
	f := &fountain{ended: make(chan bool, 1)}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop := context.AfterFunc(r.Context(), func() { f.ended <- true })
		defer stop()
		for drops := make([]byte, 1<<10); ; {
			n, err := w.Write(drops)
			if f.sent.Add(int64(n)); err != nil {
				<-r.Context().Done()
				return
			}
		}
	}))
	t.Cleanup(app.Close)
	f.url = app.URL
	return f
}

// thirsty opens an HTTP/2 connection that asks for all there is and reads no
// more than the settings.
func (w *world) thirsty() (*tls.Conn, *http2.Framer) {
	w.t.Helper()
	conf := w.config(nil)
	conf.NextProtos = []string{"h2"}
	conn := w.dial(conf)
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(w.t, err)
	framer := http2.NewFramer(conn, conn)
	const all = 1<<31 - 1
	must(w.t, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: all}))
	must(w.t, framer.WriteWindowUpdate(0, all-65535))
	must(w.t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true,
		BlockFragment: fields(w.t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}})}))
	return conn, framer
}

// TLS-32: the stream of a removed user whose client reads nothing ends at the
// application within a second, and then so does the connection.
func TestStreamOfARemovedUser(t *testing.T) {
	app, user := newFountain(t), &leaver{}
	w := newWorld(t, unix(t), upstream(app.url), user.only)
	w.thirsty()
	stalled(&app.sent)
	user.leave()
	began := certstest.StartStopwatch(t)
	<-app.ended
	if took := began.Elapsed(); took > time.Second {
		t.Errorf("it ended at the application after %s", took)
	}
	certstest.Until(t, "the connection ended", func() bool { return w.proxy.Status()[0].Connections == 0 })
	w.counted(`sidegate_connections_ended_total{gate="main",reason="bad_credentials"} 1`)
}

// TLS-32: a trusted proxy's connection carries others' requests too. It stays,
// and learns of the reset when it reads.
func TestStreamOfARemovedUserBehindAProxy(t *testing.T) {
	app, user := newFountain(t), &leaver{}
	w := newWorld(t, upstream(app.url), user.only, func(g *tlsproxy.Gate) { g.TrustedProxies = networks(t, "127.0.0.0/8") })
	_, framer := w.thirsty()
	stalled(&app.sent)
	user.leave()
	<-app.ended
	before := app.sent.Load()
	must(t, framer.WritePing(false, [8]byte{1}))
	var got int64
	for reset, pong := false, false; !reset || !pong; {
		frame, err := framer.ReadFrame()
		must(t, err)
		switch f := frame.(type) {
		case *http2.DataFrame:
			got += int64(len(f.Data()))
			if reset {
				t.Error("data of a stream that was reset")
			}
		case *http2.RSTStreamFrame:
			reset = true
		case *http2.PingFrame:
			pong = pong || f.IsAck()
		}
	}
	if got > before {
		t.Errorf("the client got %d bytes, the application had sent %d", got, before)
	}
}

// ROT-13: a request whose application neither reads nor answers ends too when
// its user is removed, although nobody tries to read or write by then.
func TestUploadToADeafApplication(t *testing.T) {
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // its kernel takes the connection
	must(t, err)
	defer deaf.Close()
	for _, proto := range []string{"http/1.1", "h2"} {
		user := &leaver{}
		w := newWorld(t, upstream("http://"+deaf.Addr().String()), user.only)
		body, out := io.Pipe()
		defer body.Close()
		var sent atomic.Int64
		go func() {
			for n, err := out.Write(make([]byte, 1<<16)); err == nil; n, err = out.Write(make([]byte, 1<<16)) {
				sent.Add(int64(n))
			}
		}()
		go func() {
			if res, err := w.client(w.config(nil), proto).Do(w.request("POST", "/", body)); err == nil {
				_ = res.Body.Close()
			}
		}()
		stalled(&sent)
		user.leave()
		began := certstest.StartStopwatch(t)
		w.log.Wait(t, `"msg":"request","`)
		if took := began.Elapsed(); took > time.Second {
			t.Errorf("%s: it ended after %s", proto, took)
		}
	}
}

// stalled waits until nothing moves.
func stalled(moved *atomic.Int64) {
	for before := int64(-1); ; time.Sleep(300 * time.Millisecond) { // the situation: time passes without a byte
		now := moved.Load()
		if now > 0 && now == before {
			return
		}
		before = now
	}
}

// ROT-13: an upload that the application does not read ends there as well when
// its user is removed.
func TestUploadOfARemovedUser(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		begun, ended := make(chan bool, 1), make(chan bool, 1)
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			begun <- true
			for { // it reads nothing, and so sees the end when it writes
				if _, err := io.WriteString(w, "still here\n"); err != nil {
					break
				}
				if http.NewResponseController(w).Flush() != nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			ended <- true
		}))
		user := &leaver{}
		w := newWorld(t, upstream(app.URL), user.only)
		body, out := io.Pipe()
		go func() {
			for _, err := out.Write(make([]byte, 1<<16)); err == nil; _, err = out.Write(make([]byte, 1<<16)) {
			}
		}()
		go func() {
			if res, err := w.client(w.config(nil), proto).Do(w.request("POST", "/", body)); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}()
		<-begun
		user.leave()
		began := certstest.StartStopwatch(t)
		<-ended
		if took := began.Elapsed(); took > time.Second {
			t.Errorf("%s: it ended at the application after %s", proto, took)
		}
		_ = body.Close()
		app.Close()
	}
}
