package tlsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"sidegate/policy"
)

// Reasons for answers of ours that are no refusal.
const (
	upstreamDown    policy.Reason = "upstream_down"    // 502
	upstreamTimeout policy.Reason = "upstream_timeout" // 504
	clientGone      policy.Reason = "client_gone"      // 499
	badBody         policy.Reason = "bad_body"         // 400: the client broke its own body off
	bodyTooLarge    policy.Reason = "body_too_large"   // 413
	bodyStalled     policy.Reason = "body_stalled"     // 408, or an answer that the client did not take: no byte moved for too long
	streamIdle      policy.Reason = "stream_idle"      // no byte moved for the gate's stream_idle
)

// forwarder sends allowed requests to the application.
type forwarder struct {
	gate  *gate
	proxy *httputil.ReverseProxy
	http1 *http.Transport
	h2c   *http.Transport
	grpc  *http.Transport // h2c whose streams may stay silent for ever
}

func newForwarder(g *gate) *forwarder {
	f := &forwarder{gate: g, http1: newTransport(g), h2c: newTransport(g), grpc: newTransport(g)}
	var plaintext2 http.Protocols
	plaintext2.SetUnencryptedHTTP2(true)
	f.h2c.Protocols, f.grpc.Protocols = &plaintext2, &plaintext2
	f.grpc.ResponseHeaderTimeout = 0
	f.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      f,
		ModifyResponse: modifyAnswer,
		ErrorHandler:   forwardFailed,
		BufferPool:     &bufferPool{},
		ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	return f
}

// newTransport makes a transport that connects to the gate's upstream
// whatever a request names, never by way of a proxy from the environment.
func newTransport(g *gate) *http.Transport {
	dial := dialer{upstream: g.Upstream, timeout: g.budget.UpstreamConnect, hops: &g.budget.hops}
	return &http.Transport{
		Proxy:              nil,
		DialContext:        dial.dial,
		DisableCompression: true, // the answer passes as the application made it
		MaxIdleConns:       0,
		// Many applications close an idle connection after 2 s (gunicorn) or
		// 5 s (Node). We let go first, so that no request meets a closed one.
		IdleConnTimeout:       1500 * time.Millisecond,
		MaxIdleConnsPerHost:   512,
		ResponseHeaderTimeout: g.budget.UpstreamHeader,
		ExpectContinueTimeout: time.Second,
		WriteBufferSize:       8 << 10,
		ReadBufferSize:        8 << 10,
	}
}

// dialer connects to one upstream and nothing else.
type dialer struct {
	upstream Upstream
	timeout  time.Duration
	hops     *hops
}

func (d dialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	return d.hops.out(c), nil
}

func (d dialer) connect(ctx context.Context) (net.Conn, error) {
	var nd net.Dialer
	a := d.upstream.Address
	if a.Network == "unix" || d.upstream.InsecureUpstream {
		return nd.DialContext(ctx, a.Network, a.Address)
	}
	return DialLoopback(ctx, a.Address)
}

// DialLoopback connects to a host and port if all addresses of the host are
// loopback.
func DialLoopback(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := resolveLoopback(ctx, host)
	if err != nil {
		return nil, err
	}
	var nd net.Dialer
	for _, ip := range ips {
		var c net.Conn
		if c, err = nd.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), port)); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// resolveLoopback returns the addresses of host if all of them are loopback.
// It is asked at every dial, since names change.
func resolveLoopback(ctx context.Context, host string) ([]net.IP, error) {
	if ip := net.ParseIP(host); ip != nil {
		if !ip.IsLoopback() {
			return nil, notLoopback(host, ip)
		}
		return []net.IP{ip}, nil
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	ips := make([]net.IP, 0, len(addrs))
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			return nil, notLoopback(host, a.IP)
		}
		ips = append(ips, a.IP)
	}
	return ips, nil
}

func notLoopback(host string, ip net.IP) error {
	return fmt.Errorf("upstream %s is %s, which is %w: plaintext would leave the pod", host, ip, ErrNotLoopback)
}

// ErrNotLoopback is why an upstream beyond the pod is refused.
var ErrNotLoopback = errors.New("not loopback")

// CheckUpstream says why a gate could never connect to its upstream: it does
// not resolve, or not to loopback. A unix socket need not exist yet.
func CheckUpstream(ctx context.Context, u Upstream) error {
	if u.Address.Network == "unix" || u.InsecureUpstream || u.RedirectPort > 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(u.Address.Address)
	if err != nil {
		return err
	}
	_, err = resolveLoopback(ctx, host)
	return err
}

// RoundTrip sends gRPC as HTTP/2 and upgrades as HTTP/1.1, whatever the
// gate's usual protocol is, because neither knows another.
func (f *forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	transport := f.http1
	switch {
	case r.Header.Get("Upgrade") != "":
	case isGRPC(r.Header):
		transport = f.grpc
	case f.gate.Upstream.H2C:
		transport = f.h2c
	}
	res, err := transport.RoundTrip(r)
	if err == nil {
		f.gate.metrics.Upstream(time.Since(began))
	}
	return res, err
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// forward sends the request on and its answer back.
func (x *exchange) forward() {
	if x.in.ProtoMajor == 1 {
		// Without it net/http reads the whole upload before the first byte
		// of an answer that came early. An error means it is not supported.
		_ = http.NewResponseController(x.answer.ResponseWriter).EnableFullDuplex()
	}
	r := x.in.WithContext(context.WithValue(x.in.Context(), exchangeKey{}, x))
	if r.Body != nil && r.Body != http.NoBody {
		x.body = newRequestBody(x)
		r.Body = x.body
	}
	if isGRPC(x.in.Header) {
		x.answer.silence.listen()
	}
	x.gate.forward.proxy.ServeHTTP(&x.answer, r)
	if x.upstream != nil && len(x.upstream.Trailer) > 0 {
		x.gate.stripAnswer(x.answer.Header()) // ReverseProxy has put the trailers there
	}
}

// stripAnswer removes what the application must not say in our name.
func (g *gate) stripAnswer(h http.Header) {
	if g.stripper.stripAnswer(h) {
		g.metrics.ForgedHeader()
	}
}

// rewrite makes the outgoing request of an allowed one. ReverseProxy has
// removed hop-by-hop fields before, so that nothing set here can be removed
// by what a client wrote into Connection.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In)
	out := pr.Out
	setTarget(out, pr.In)
	dropH2CUpgrade(out.Header)
	h := out.Header
	restoreForwarding(h, pr.In.Header)
	x.gate.stripper.strip(h, x.trusted, x.sender.addr)
	x.gate.stripper.stripTrailer(out.Trailer)
	if x.login != nil && !x.gate.PassAuthorization {
		for _, name := range x.login.ConsumedHeaders {
			h.Del(name)
		}
	}
	setForwarding(h, x)
	if !x.bare {
		x.gate.Headers.set(h, x.id)
		for name, value := range x.conn.peerFields {
			h[name] = []string{value}
		}
	}
	if x.body != nil {
		x.body.out = out.Trailer
	}
	if len(out.Trailer) > 0 {
		out.ContentLength = -1 // HTTP/1.1 has room for trailers behind chunks alone
	}
}

// setTarget makes net/http write path and query as they were received. By
// itself it would escape some bytes anew and drop queries it can't parse.
func setTarget(out, in *http.Request) {
	out.URL.Scheme = "http"
	out.URL.Host = "upstream" // where to dial is not taken from here
	if out.Host == "" {
		out.Host = noHost
	}
	path, query, hasQuery := strings.Cut(in.RequestURI, "?")
	out.URL.RawQuery = query
	out.URL.ForceQuery = hasQuery && query == ""
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path
	}
}

// noHost makes net/http send an empty Host field (RFC 9112 3.2), which it does for
// hosts that are none. For an empty one it would take the URL's.
const noHost = " "

// dropH2CUpgrade keeps clients from tunnelling past the per-request checks.
func dropH2CUpgrade(h http.Header) {
	for protocol := range strings.SplitSeq(h.Get("Upgrade"), ",") {
		if strings.EqualFold(strings.TrimSpace(protocol), "h2c") {
			h.Del("Upgrade")
			h.Del("Connection")
			h.Del("Http2-Settings")
			return
		}
	}
}

// modifyAnswer looks at what the application answers before the client gets it.
func modifyAnswer(res *http.Response) error {
	x := exchangeOf(res.Request)
	x.gate.stripAnswer(res.Header)
	x.gate.stripAnswer(res.Trailer) // those that are announced
	x.upstream = res
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.conn.upgraded.Store(true)      // before net/http forgets the connection
		x.answer.status = res.StatusCode // it is written past the recorder
		x.answer.protocol = res.Header.Get("Upgrade")
	}
	return nil
}

// forwardFailed answers when the application did not.
func forwardFailed(_ http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r)
	d := &denial{status: http.StatusBadGateway, reason: upstreamDown, err: err}
	var timeout net.Error
	switch {
	case x.body != nil && x.body.tooLarge.Load():
		d.status, d.reason = http.StatusRequestEntityTooLarge, bodyTooLarge
	case x.body != nil && x.body.stalled.Load():
		d.status, d.reason = http.StatusRequestTimeout, bodyStalled
	case x.body != nil && x.body.failed.Load():
		d.status, d.reason = http.StatusBadRequest, badBody
	case r.Context().Err() != nil:
		x.reason = clientGone
		// Returning would make net/http send an empty 200.
		panic(http.ErrAbortHandler)
	case errors.As(err, &timeout) && timeout.Timeout() && !isDial(err):
		d.status, d.reason = http.StatusGatewayTimeout, upstreamTimeout
	}
	x.reason = d.reason
	x.deny(d)
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// bufferPool lends the buffers through which bodies are copied.
type bufferPool struct{ pool sync.Pool }

const copyBufferSize = 32 << 10

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[copyBufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, copyBufferSize)
}

func (p *bufferPool) Put(b []byte) {
	p.pool.Put((*[copyBufferSize]byte)(b))
}
