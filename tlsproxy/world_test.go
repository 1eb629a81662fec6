package tlsproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/files"
	"sidegate/certs/wallclock"
	"sidegate/policy"
	"sidegate/policy/authn"
	"sidegate/tlsproxy"
	"sidegate/tlsproxy/admin"
)

// world is one gate at work with real certificates and users, and a hand on
// everything around it.
type world struct {
	t       testing.TB
	ca      *certstest.CA
	volume  *certstest.Volume
	store   *certs.Store
	change  chan struct{}
	gate    *tlsproxy.Gate
	metrics *admin.Metrics
	proxy   *tlsproxy.Proxy
	addr    string
	log     *certstest.Log
	stop    func()
	done    chan error
	clock   wallclock.Clock // of the certificates and the gate
	ahead   atomic.Int64    // nanoseconds by which it is ahead
}

// allow is a change of a gate: the principals that may pass it.
func allow(principals ...string) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) {
		p, err := policy.NewAllow(principals, []string{policy.LocalMethod})
		if err != nil {
			panic(err)
		}
		g.Decider = p
	}
}

func upstream(rawURL string) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) {
		u, err := url.Parse(rawURL)
		if err != nil {
			panic(err)
		}
		g.Upstream.Address = tlsproxy.Address{Network: "tcp", Address: u.Host}
	}
}

func clientCert(c tlsproxy.ClientCert) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) { g.ClientCert = c }
}

// newWorld opens a gate that wants user admin with password admin1041, as changed.
func newWorld(t testing.TB, change ...func(*tlsproxy.Gate)) *world {
	t.Helper()
	return newWorldIn(t, tlsproxy.Limits{}, change...)
}

func newWorldIn(t testing.TB, limits tlsproxy.Limits, change ...func(*tlsproxy.Gate)) *world {
	t.Helper()
	w := &world{t: t, ca: certstest.NewCA(t, "ca"), change: make(chan struct{}, 1), log: &certstest.Log{}, done: make(chan error, 1)}
	w.volume = certstest.NewVolume(t, certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca))
	log := slog.New(slog.NewJSONHandler(w.log, nil))
	w.clock.Source = func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	w.store = &certs.Store{Source: &files.Source{TLS: []string{w.volume.Dir}, WantTrust: true}, Log: log, Now: w.clock.Now}
	must(t, w.store.Load(t.Context()))
	w.gate = &tlsproxy.Gate{
		Name: "main", Listen: tlsproxy.Address{Network: "tcp", Address: freeAddr(t)},
		Certificates: w.store, Trust: w.store, Authenticators: []tlsproxy.Authenticator{newUsers(t, log)},
	}
	fields, _ := tlsproxy.HeaderPreset("default")
	w.gate.Headers.Fields = fields
	allow("authenticated")(w.gate)
	for _, c := range change {
		c(w.gate)
	}
	must(t, w.store.Rehearse(w.rehearse))
	w.addr = w.gate.Listen.Address
	w.metrics = admin.NewMetrics("test")
	proxy := &tlsproxy.Proxy{Gates: []*tlsproxy.Gate{w.gate}, Log: log, Metrics: w.metrics, Limits: limits, Clock: &w.clock,
		DrainDelay: time.Hour, DrainTimeout: 5 * time.Second}
	w.proxy = proxy
	ctx, cancel := context.WithCancel(context.Background())
	stop := func() { // leave without the delay, which has a test of its own
		proxy.Hurry()
		cancel()
	}
	w.stop = stop
	go func() { w.done <- proxy.Run(ctx) }()
	storeDone := make(chan error, 1)
	go func() { storeDone <- w.store.Run(ctx, w.change) }()
	t.Cleanup(func() {
		stop()
		<-storeDone
		if err := <-w.done; err != nil {
			t.Error(err)
		}
		w.done <- nil                                      // a test may have taken it
		for n := int64(1); n != 0; n, _ = proxy.Memory() { // OPS-16: all that was booked is given back
			time.Sleep(time.Millisecond)
		}
	})
	for !proxy.Listening() {
		time.Sleep(time.Millisecond)
	}
	return w
}

// rehearse tries the gate with what would be loaded next.
func (w *world) rehearse(candidate *certs.Store) (alarms []string, err error) {
	alarm, err := w.gate.Rehearse(candidate, candidate)
	if alarm != nil {
		alarms = append(alarms, alarm.Error())
	}
	return alarms, err
}

func newUsers(t testing.TB, log *slog.Logger) *authn.Users {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	hash, err := bcrypt.GenerateFromPassword([]byte("admin1041"), bcrypt.MinCost)
	must(t, err)
	must(t, os.WriteFile(path, append([]byte("admin:"), hash...), 0o600))
	users, err := authn.NewUsers(authn.Options{Realm: "test", Log: log, Read: func() (map[string][]byte, error) { return files.Read(path) }})
	must(t, err)
	_, err = users.Load(t.Context())
	must(t, err)
	return users
}

func freeAddr(t testing.TB) string {
	t.Helper()
	return certstest.FreeAddr(t)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// update puts other files into the TLS folder and waits until they serve.
func (w *world) update(content map[string][]byte) {
	w.t.Helper()
	changed := w.store.Changed()
	w.volume.Update(w.t, content)
	w.change <- struct{}{}
	select {
	case <-changed:
	case <-time.After(certstest.HangGuard):
		w.t.Fatalf("the new generation is not in service: %+v", w.store.Status())
	}
}

// config is a client's; pair may be nil.
func (w *world) config(pair *certstest.Pair) *tls.Config {
	c := &tls.Config{RootCAs: w.ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if pair != nil {
		c.Certificates = []tls.Certificate{pair.TLS}
	}
	return c
}

// client speaks the protocol, "http/1.1" or "h2".
func (w *world) client(c *tls.Config, proto string) *http.Client {
	tr := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: proto == "h2"}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: certstest.HangGuard,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

const authorized = "Basic YWRtaW46YWRtaW4xMDQx" // admin:admin1041

// get asks for a path with the right password.
func (w *world) get(path string) *http.Response {
	w.t.Helper()
	return w.do(w.client(w.config(nil), "http/1.1"), w.request("GET", path, nil))
}

func (w *world) request(method, path string, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequest(method, "https://"+w.addr+path, body)
	must(w.t, err)
	r.Header.Set("Authorization", authorized)
	return r
}

func (w *world) do(c *http.Client, r *http.Request) *http.Response {
	w.t.Helper()
	res, err := c.Do(r)
	must(w.t, err)
	w.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func text(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return string(b)
}

// dial makes a TLS connection.
func (w *world) dial(c *tls.Config) *tls.Conn {
	w.t.Helper()
	conn, err := tls.Dial(w.gate.Listen.Network, w.addr, c)
	must(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	must(w.t, conn.SetDeadline(time.Now().Add(certstest.HangGuard)))
	return conn
}

// raw sends bytes over HTTP/1.1 and returns the status line and body of the answer.
func (w *world) raw(request string) string {
	w.t.Helper()
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	go func() { _, _ = io.WriteString(conn, request) }() // it may be refused before all is sent
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(w.t, err)
	defer res.Body.Close()
	return "HTTP/1.1 " + res.Status + "\n" + text(w.t, res)
}

// status is the code in the first line of an answer.
func status(answer string) string {
	_, rest, _ := strings.Cut(answer, " ")
	code, _, _ := strings.Cut(rest, " ")
	return code
}

// recorder is an application that remembers every byte it was sent. It
// answers each connection's first request.
type recorder struct {
	url    string
	before string // its answers: an interim one
	fields string // of its answers
	body   string // framed by these fields; "": ok
	whole  bool   // remember chunked bodies too
	mu     sync.Mutex
	seen   []string // heads of requests
	live   int      // connections so far
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	r := &recorder{url: "http://" + l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.live++
			r.mu.Unlock()
			go r.answer(c)
		}
	}()
	return r
}

func (r *recorder) answer(c net.Conn) {
	defer c.Close()
	var head strings.Builder
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			break
		}
	}
	if head.Len() == 0 {
		return
	}
	for last := false; r.whole && !last; { // up to the empty line after the last chunk
		line, err := in.ReadString('\n')
		head.WriteString(line)
		last = err != nil || line == "\r\n"
	}
	r.mu.Lock()
	r.seen = append(r.seen, head.String())
	r.mu.Unlock()
	body, length := r.body, ""
	if body == "" {
		body, length = "ok", "Content-Length: 2\r\n"
	}
	_, _ = io.WriteString(c, r.before+"HTTP/1.1 200 OK\r\n"+length+"Connection: close\r\n"+r.fields+"\r\n"+body)
}

// last is the head of the newest request.
func (r *recorder) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		return ""
	}
	return r.seen[len(r.seen)-1]
}

func (r *recorder) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

// echo is an application that tells what it saw.
func echo(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.Header.Write(w)
		_, _ = io.WriteString(w, "Host: "+r.Host+"\r\n")
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(s.Close)
	return s
}

func networks(t *testing.T, list ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
