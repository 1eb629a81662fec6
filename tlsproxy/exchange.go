package tlsproxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"sidegate/policy"
	"sidegate/tlsproxy/http1"
)

// exchange is one request and its answer, from canonical form to log line.
type exchange struct {
	gate *gate
	conn *conn
	in   *http.Request
	question
	trusted   bool // the connection comes from a trusted proxy
	sender    hop  // who sent the request, as far as can be told
	login     *policy.Login
	arrival   claim // what is booked for its having come
	room      claim // what is booked for its going on
	large     claim // what is booked for large buffers
	largeOnce sync.Once
	body      *requestBody // nil: none

	requestID string
	trace     string
	rule      string
	reason    policy.Reason
	cause     error         // what is wrong with the request, for its log line; nil: nothing to say
	audit     policy.Reason // why it would be refused, were that not only watched
	bare      bool          // the application is told nobody's name
	started   time.Time
	answer    recorder
	ctx       lifetime    // of what is done for it
	forget    func() bool // ends the watch for the client's going; nil: conn.client watches

	// Of conn.allowed, and guarded by its mutex.
	entered        bool
	previous, next *exchange
	ended          policy.Reason // why it was ended from outside; "": it was not
	proven         *policy.User  // whom its credential proved since; nil: id.User
}

// question is what is decided about a request, and what is decided again when
// rules or users change.
type question struct {
	req policy.Request
	id  policy.Identity
	by  Authenticator // that proved the user; nil: none did

	kept kept // of the last request of an idle connection
}

// kept is how much is left of a request that has ended.
type kept uint8

const (
	keptNothing kept = iota
	keptUser         // it was too long
	keptWhole
)

// serve is the path of one request: canonical form, credentials, decision,
// and then either the one place that refuses or the one that forwards.
func (g *gate) serve(w http.ResponseWriter, r *http.Request) {
	x := &exchange{gate: g, in: r, started: time.Now()}
	x.conn = r.Context().Value(connKey{}).(*conn)
	x.answer = recorder{ResponseWriter: w, gate: g, conn: x.conn, leaving: g.leaving, strictTransport: g.strictTransport}
	x.answer.watch(r, g.budget.BodyIdle)
	if g.StreamIdle > 0 {
		x.answer.silence = newSilence(g.StreamIdle, x.silent)
	}
	x.conn.parsing.Store(false)
	x.conn.exempt.Store(r.ProtoMajor == 1)
	x.conn.active.Add(1)
	head := x.conn.settle()
	x.begin()
	defer x.finish()
	x.trusted = g.trusts(x.conn.remote)
	x.sender = g.senderOf(x.conn.remote, r.Header)
	x.requestID = requestID(r.Header, x.trusted)
	x.trace = traceID(r.Header)

	if g.Upstream.RedirectPort > 0 {
		x.redirect()
		return
	}
	sweep := g.sweeps.Load() // before the decision, so that no change is missed
	if refusal := x.judge(&x.ctx); refusal != nil {
		x.refuse(refusal)
		return
	}
	if !x.book(&x.ctx, head) {
		x.refuse(&denial{status: http.StatusServiceUnavailable, reason: memoryLimit, retryAfter: time.Second})
		return
	}
	x.enter()
	if g.sweeps.Load() != sweep {
		if reason := x.judgeAgain(); reason != "" {
			x.refuse(&denial{status: http.StatusForbidden, reason: reason})
			return
		}
	}
	g.metrics.Decision(true, x.audit)
	x.forward()
}

// refuse counts and answers a refusal.
func (x *exchange) refuse(d *denial) {
	x.reason = d.reason
	x.gate.metrics.Decision(false, d.reason)
	x.deny(d)
}

// judge runs everything that can refuse the request. nil: it may pass.
func (x *exchange) judge(ctx context.Context) *denial {
	if reason := x.conn.ended.Load(); reason != nil {
		return &denial{status: http.StatusForbidden, reason: *reason}
	}
	if x.conn.cameBack() {
		return &denial{status: http.StatusLoopDetected, reason: policy.Loop}
	}
	if d := x.canonicalise(); d != nil {
		return d
	}
	if d := x.authenticate(ctx); d != nil {
		return d
	}
	decision := x.gate.Decider.Decide(ctx, &x.req, x.id)
	x.rule = decision.Rule
	if !decision.Allow {
		return x.refusedBy(decision)
	}
	if checkIdentity(x.id) != nil {
		return &denial{status: http.StatusForbidden, reason: policy.BadIdentity}
	}
	x.audit, x.bare = decision.Reason, decision.Bare
	return nil
}

// canonicalise fills in the request as policy sees it, or refuses one that
// could be read in more than one way.
func (x *exchange) canonicalise() *denial {
	r := x.in
	x.id.Peer = x.conn.peer
	x.req = policy.Request{
		Client:     x.sender.addr,
		Remote:     x.conn.remote,
		ServerName: x.conn.serverName,
		Method:     r.Method,
		Host:       r.Host,
		Target:     r.RequestURI,
		Overrides:  policy.MethodOverrides(r.Header),
		Preflight:  policy.IsPreflight(r.Method, r.Header),
		Header:     r.Header,
	}
	if (r.ProtoMajor >= 2 || x.gate.Plaintext) && headSize(r) > x.gate.budget.HeaderBytes+headSlack {
		return &denial{status: http.StatusRequestHeaderFieldsTooLarge, reason: headTooLarge}
	}
	if !lengthAgrees(r) || !settleUpgrade(r) {
		return badRequest(policy.BadRequest)
	}
	if refusal := x.gate.Canonicalise(&x.req); refusal != nil {
		x.cause = refusal.Err
		return &denial{status: x.gate.Status(policy.Decision{Reason: refusal.Reason}), reason: refusal.Reason}
	}
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host {
		x.cause = errHosts
		return badRequest(policy.BadRequest)
	}
	if x.gate.MaxBody > 0 && r.ContentLength > x.gate.MaxBody {
		return &denial{status: http.StatusRequestEntityTooLarge, reason: bodyTooLarge}
	}
	if r.Host == "" && x.gate.forward.protocol(r.Header) != overHTTP1 {
		x.cause = errNoHost
		return badRequest(policy.BadRequest)
	}
	if !x.gate.forward.sendsLiterally(r) {
		return badRequest(policy.AmbiguousTarget)
	}
	return nil
}

// errHosts is of HTTP/2, which has a field besides :authority (RFC 9113 8.3.1).
var errHosts = errors.New(":authority and host name several hosts")

// errNoHost is of net/http's HTTP/2, which leaves no host out and knows no empty one.
var errNoHost = errors.New("an application that speaks HTTP/2 wants to know the host, and the request names none")

// lengthAgrees reports whether net/http takes Content-Length for what it says.
// Over HTTP/2 it takes what is no number for 0, and so a request for an empty one.
func lengthAgrees(r *http.Request) bool {
	said := r.Header["Content-Length"]
	if r.ProtoMajor < 2 || len(said) == 0 {
		return true
	}
	n, ok := http1.ParseLength(said[0])
	return ok && len(said) == 1 && n == r.ContentLength
}

// authenticate asks each method for its kind of credential. A request may
// carry one credential: with two, different readers could see different users.
func (x *exchange) authenticate(ctx context.Context) *denial {
	if len(x.in.Header["Authorization"]) > 1 {
		return badRequest(policy.BadRequest)
	}
	for _, a := range x.gate.Authenticators {
		login, err := a.Authenticate(ctx, &x.req)
		if err != nil {
			return x.refusedCredential(a, err)
		}
		if login == nil {
			continue
		}
		if x.login != nil {
			return badRequest(policy.BadRequest)
		}
		x.login, x.id.User, x.by = login, login.User, a
	}
	if x.login == nil {
		x.id.User = x.conn.certUser
	}
	if x.id.User != nil {
		x.conn.known.Store(true)
	}
	return nil
}

// giveRoom gives back what is booked, behind which nothing more is.
func (x *exchange) giveRoom() {
	x.largeOnce.Do(func() {}) // an upload may still be about to begin
	for _, c := range [...]claim{x.large, x.room, x.arrival} {
		if c.kind != claimNothing {
			x.gate.budget.room.give(c)
		}
	}
}

// party is whose request it is where room is short.
func (x *exchange) party() party {
	name := x.conn.peerName
	if u := x.id.User; u != nil {
		name = u.Name
	}
	return party{name, x.sender.addr}
}

// book books room for the request before its body is read. It may wait until the
// request may go on, and returns false if there is no room.
func (x *exchange) book(ctx context.Context, head int64) bool {
	room, window := x.gate.budget.room, int64(x.gate.budget.window())
	arrival := claim{kind: claimArrival, bytes: priceOf(x.in, head, window), party: x.party(), upload: hasBody(x.in)}
	arrival.weight = arrival.bytes
	if x.conn.active.Load() == 1 {
		arrival.weight += x.conn.price()
	}
	if !room.take(ctx, arrival) {
		return false
	}
	x.arrival = arrival
	x.conn.expects(bodyIn(x.in, window))
	exchange := arrival
	exchange.kind, exchange.bytes = claimExchange, priceExchange
	if x.gate.forward.protocol(x.in.Header) != overHTTP1 {
		exchange.bytes += priceBuffers // net/http copies by large ones
	}
	exchange.weight = exchange.bytes
	if !room.take(ctx, exchange) {
		return false
	}
	x.room = exchange
	return true
}

// refusedCredential turns an authenticator's error into an answer. A bad
// credential never falls through to a weaker method or to anonymous.
func (x *exchange) refusedCredential(a Authenticator, err error) *denial {
	var refusal *policy.Refusal
	if !errors.As(err, &refusal) {
		refusal = &policy.Refusal{Reason: policy.DependencyDown, Err: err}
	}
	d := &denial{reason: refusal.Reason, retryAfter: refusal.RetryAfter, err: refusal.Err}
	switch refusal.Reason {
	case policy.BadCredentials:
		d.status = http.StatusUnauthorized
		d.challenges = a.Challenge(&x.req, err)
	case policy.RateLimited:
		d.status = http.StatusTooManyRequests
	case policy.BadRequest:
		d.status = http.StatusBadRequest
	default:
		d.status = http.StatusServiceUnavailable
	}
	return d
}

// refusedBy turns a decision into an answer.
func (x *exchange) refusedBy(decision policy.Decision) *denial {
	d := &denial{status: x.gate.Status(decision), reason: decision.Reason}
	if d.status == http.StatusUnauthorized {
		for _, a := range x.gate.Authenticators {
			d.challenges = append(d.challenges, a.Challenge(&x.req, nil)...)
		}
	}
	return d
}

// clientText is the client's address. It is formed anew only behind a proxy.
func (x *exchange) clientText() string {
	switch {
	case x.sender.addr == x.conn.remote:
		return x.conn.remoteText
	case !x.sender.addr.IsValid():
		return UnknownClient
	}
	return x.sender.addr.String()
}

// via is the method that proved the user, or "".
func (x *exchange) via() string {
	if x.id.User == nil {
		return ""
	}
	return x.id.User.Method
}

// begin makes the client's going the end of what is done for the request.
func (x *exchange) begin() {
	x.ctx.Context, x.ctx.exchange = x.in.Context(), x
	if x.in.ProtoMajor == 1 {
		x.conn.client.begin(&x.ctx, x.in)
	} else {
		x.forget = context.AfterFunc(x.ctx.Context, x.abort)
	}
}

// abort ends what is asked of the application.
func (x *exchange) abort() { x.ctx.end() }

// unwatch ends the watch for the client's going.
func (x *exchange) unwatch() {
	if x.forget != nil {
		x.forget()
	} else if c := x.conn.client; c != nil {
		c.over()
	}
}

// finish counts and logs the exchange, also when the handler panics, which is
// how net/http is told to abort an answer.
func (x *exchange) finish() {
	if x.body != nil {
		_ = x.body.Close() // a client that has gone can be given no deadline
	}
	x.answer.finish()
	x.unwatch()
	if x.conn.active.Add(-1) == 0 { // before it leaves, or nobody would judge the connection by it
		x.conn.rests()
	}
	x.leave()
	x.abort()
	x.giveRoom()
	if x.answer.stalled() && x.reason == "" {
		x.reason = bodyStalled
	}
	took := time.Since(x.started)
	x.gate.metrics.Request(x.answer.finalStatus(), x.via(), took)
	x.logAccess(took)
}
