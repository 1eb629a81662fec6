package tlsproxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"sidegate/policy"
	"sidegate/tlsproxy/http1"
	"sidegate/tlsproxy/upstream"
)

// Reasons for answers of ours that are no refusal.
const (
	upstreamDown    policy.Reason = "upstream_down"    // 502
	upstreamsBusy   policy.Reason = "upstreams_busy"   // 503: as many connections to applications are open as may be
	upstreamTimeout policy.Reason = "upstream_timeout" // 504
	badAnswer       policy.Reason = "bad_answer"       // 502: it is no HTTP, or says in two ways where it ends
	answerTruncated policy.Reason = "answer_truncated" // the application broke it off
	clientGone      policy.Reason = "client_gone"      // 499
	badBody         policy.Reason = "bad_body"         // 400: the client broke its own body off
	bodyTooLarge    policy.Reason = "body_too_large"   // 413
	bodyStalled     policy.Reason = "body_stalled"     // 408, or an answer that the client did not take: no byte moved for too long
	streamIdle      policy.Reason = "stream_idle"      // no byte moved for the gate's stream_idle
)

// forwarder sends allowed requests to the application.
type forwarder struct {
	gate   *gate
	dialer *upstream.Dialer
	proxy  *httputil.ReverseProxy
	http1  *upstream.Client
	h2c    *http.Transport
	grpc   *http.Transport // h2c whose streams may stay silent for ever
}

func newForwarder(g *gate) *forwarder {
	dialer := &upstream.Dialer{
		Network: g.Upstream.Address.Network, Address: g.Upstream.Address.Address,
		AnyAddress: g.Upstream.InsecureUpstream, Timeout: g.budget.UpstreamConnect,
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, g.budget.UpstreamConnect) // for a place, too
		defer cancel()
		if err := g.budget.upstreams.take(ctx); err != nil {
			return nil, err
		}
		c, err := dialer.Dial(ctx)
		if err != nil {
			g.budget.upstreams.give()
			return nil, err
		}
		return g.budget.hops.out(c, g.budget.upstreams.give), nil
	}
	f := &forwarder{gate: g, dialer: dialer, h2c: newH2C(g, dial), grpc: newH2C(g, dial)}
	f.http1 = upstream.New(upstream.Options{Dial: dial, HeadTimeout: g.budget.UpstreamHeader, Idle: g.budget.UpstreamIdle, Log: g.log})
	f.grpc.ResponseHeaderTimeout = 0
	f.proxy = &httputil.ReverseProxy{
		Rewrite:        rewriteH2C,
		Transport:      f,
		ModifyResponse: modifyAnswer,
		ErrorHandler:   func(_ http.ResponseWriter, r *http.Request, err error) { exchangeOf(r).failed(err) },
		BufferPool:     &largeBuffers,
		ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	return f
}

// newH2C makes a transport that speaks HTTP/2 in plaintext to the gate's
// upstream, whatever a request names.
func newH2C(g *gate, dial func(context.Context) (net.Conn, error)) *http.Transport {
	var plaintext2 http.Protocols
	plaintext2.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Proxy:                 nil,
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:    true, // the answer passes as the application made it
		IdleConnTimeout:       g.budget.UpstreamIdle,
		ResponseHeaderTimeout: g.budget.UpstreamHeader,
		ExpectContinueTimeout: time.Second,
		Protocols:             &plaintext2,
	}
}

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
	_, err = upstream.ResolveLoopback(ctx, host)
	return err
}

// sendsLiterally reports whether the target goes on as it came. net/http, which
// speaks HTTP/2 to the application, takes what follows a leading // for a host,
// and so can't be told every such path literally.
func (f *forwarder) sendsLiterally(r *http.Request) bool {
	if !strings.HasPrefix(r.RequestURI, "//") || f.protocol(r.Header) == overHTTP1 {
		return true
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return r.URL.EscapedPath() == path
}

// protocol is how a request with these fields reaches the application: gRPC as
// HTTP/2 and upgrades as HTTP/1.1, whatever the gate's usual one is, because
// neither knows another.
func (f *forwarder) protocol(h http.Header) protocol {
	switch {
	case h.Get("Upgrade") != "":
		return overHTTP1
	case isGRPC(h):
		return overGRPC
	case f.gate.Upstream.H2C:
		return overH2C
	}
	return overHTTP1
}

type protocol uint8

const (
	overHTTP1 protocol = iota
	overH2C
	overGRPC
)

// RoundTrip sends a request on as HTTP/2.
func (f *forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	t := f.h2c
	if isGRPC(r.Header) {
		t = f.grpc
	}
	began := time.Now()
	res, err := roundTrip2(t, r)
	if err == nil {
		f.gate.metrics.Upstream(time.Since(began))
	}
	return res, err
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

// forward sends the request on and its answer back.
func (x *exchange) forward() {
	if x.in.Body != nil && x.in.Body != http.NoBody {
		if x.in.ProtoMajor == 1 {
			// Without it net/http reads the whole upload before the first byte
			// of an answer that came early. An error means it is not supported.
			_ = http.NewResponseController(x.answer.ResponseWriter).EnableFullDuplex()
		}
		x.body = newRequestBody(x)
	}
	if isGRPC(x.in.Header) {
		x.answer.silence.listen()
	}
	if x.gate.forward.protocol(x.in.Header) == overHTTP1 {
		x.forward1()
		return
	}
	r := x.in.WithContext(&x.ctx)
	if x.body != nil {
		r.Body = h2cUpload{x.body}
	}
	x.gate.forward.proxy.ServeHTTP(&x.answer, r)
}

// stripAnswer removes what the application must not say in our name.
func (g *gate) stripAnswer(h http.Header) {
	if g.stripper.stripAnswer(h) {
		g.metrics.ForgedHeader()
	}
}

// rewrite makes the fields and the announced trailers of the outgoing request of
// an allowed one. Those that are hop by hop were removed before, so that nothing
// set here can be removed by what a client wrote into Connection.
func (x *exchange) rewrite(h, trailer http.Header) {
	x.gate.stripper.strip(h, x.trusted, x.sender.addr)
	x.gate.stripper.stripTrailer(trailer)
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
		x.body.out = trailer
	}
}

// rewriteH2C is rewrite as ReverseProxy asks for it.
func rewriteH2C(pr *httputil.ProxyRequest) {
	setTarget(pr.Out, pr.In)
	restoreForwarding(pr.Out.Header, pr.In.Header)
	exchangeOf(pr.In).rewrite(pr.Out.Header, pr.Out.Trailer)
	if len(pr.Out.Trailer) > 0 {
		pr.Out.ContentLength = -1
	}
}

// setTarget makes net/http write path and query as they were received, where it
// is what speaks to the application (h2c). By itself it would escape some bytes
// anew and drop queries it can't parse.
func setTarget(out, in *http.Request) {
	out.URL.Scheme = "http"
	out.URL.Host = "upstream" // where to dial is not taken from here
	path, query, hasQuery := strings.Cut(in.RequestURI, "?")
	out.URL.RawQuery = query
	out.URL.ForceQuery = hasQuery && query == ""
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path
	}
}

// modifyAnswer hands the fields of an answer of HTTP/2 over.
func modifyAnswer(res *http.Response) error {
	x := exchangeOf(res.Request)
	h := x.answer.Header()
	maps.Copy(h, res.Header)
	if strings.HasPrefix(h.Get("Content-Type"), "text/event-stream") {
		res.ContentLength = -1 // each event goes on at once
	}
	res.Header = nil
	x.gate.stripAnswer(res.Trailer) // those that are announced
	x.settleAnswer(h, res.StatusCode)
	return nil
}

// settleAnswer drops from the fields of an answer what the application must not
// say in our name, and keeps net/http from adding to them.
func (x *exchange) settleAnswer(h http.Header, status int) {
	x.gate.stripAnswer(h)
	if status == http.StatusNoContent {
		delete(h, "Content-Length") // RFC 9110 8.6
	}
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil // net/http would guess one
	}
}

// failed answers when the application did not.
func (x *exchange) failed(err error) {
	clear(x.answer.Header()) // of an answer that was refused at last
	d := &denial{status: http.StatusBadGateway, reason: upstreamDown, err: err}
	var timeout net.Error
	switch {
	case x.body != nil && x.body.tooLarge.Load():
		d.status, d.reason = http.StatusRequestEntityTooLarge, bodyTooLarge
	case x.body != nil && x.body.stalled.Load():
		d.status, d.reason = http.StatusRequestTimeout, bodyStalled
	case x.body != nil && x.body.failed.Load():
		d.status, d.reason = http.StatusBadRequest, badBody
	case x.clientLeft():
		x.reason = clientGone
		// Returning would make net/http send an empty 200.
		panic(http.ErrAbortHandler)
	case errors.Is(err, errNoPlace):
		d.status, d.reason, d.retryAfter = http.StatusServiceUnavailable, upstreamsBusy, time.Second
	case errors.As(err, &timeout) && timeout.Timeout() && !isDial(err):
		d.status, d.reason = http.StatusGatewayTimeout, upstreamTimeout
	case errors.Is(err, http1.ErrProtocol):
		d.reason = badAnswer
	}
	x.reason = d.reason
	x.deny(d)
}

// clientLeft reports whether the client has gone, or its request was ended,
// before the answer was whole.
func (x *exchange) clientLeft() bool {
	return x.ctx.Err() != nil && !(x.body != nil && x.body.interrupted.Load())
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Bodies are copied through large buffers, or through small ones where little is
// copied, or little memory left.
var (
	largeBuffers = upstream.Buffers{Size: 32 << 10}
	smallBuffers = upstream.Buffers{Size: 4 << 10}
)

// buffersFor lends buffers for a body of that length; negative: unknown.
func (x *exchange) buffersFor(length int64) *upstream.Buffers {
	if length >= 0 && length <= smallBody || !x.mayHaveLarge() {
		return &smallBuffers
	}
	return &largeBuffers
}

// mayHaveLarge books large buffers, one for each way, until the exchange ends. It
// reports whether there is room for them.
func (x *exchange) mayHaveLarge() bool {
	x.largeOnce.Do(func() {
		c := claim{kind: claimBuffers, bytes: priceBuffers}
		if x.gate.budget.room.try(c) {
			x.large = c
		}
	})
	return x.large.bytes > 0
}
