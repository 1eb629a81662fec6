package tlsproxy

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"sidegate/policy"
)

// lastWords is how long a request in flight may go on after the connection it
// came by is no longer trusted.
const lastWords = 500 * time.Millisecond

// leastWords is what is left of that for whoever took long to judge: enough to
// say good-bye.
const leastWords = 200 * time.Millisecond

// enforcer is something that may change while connections and requests are
// live, and what to look at again then.
type enforcer struct {
	changed func() <-chan struct{}
	again   func()
}

// enforcers are those of the gate. The end of a peer's certificates is an
// alarm, see judgePeer.
func (g *gate) enforcers() []enforcer {
	var list []enforcer
	if g.ClientCert != ClientCertNone {
		list = append(list, enforcer{g.Trust.Changed, g.recheck})
	}
	if g.Upstream.RedirectPort > 0 {
		return list // it decides nothing
	}
	list = append(list, enforcer{g.Decider.Changed, g.redecide})
	for _, a := range g.Authenticators {
		list = append(list, enforcer{a.Changed, g.redecide})
	}
	return list
}

// enforce looks again whenever something has changed, until ctx ends.
func enforce(ctx context.Context, changed func() <-chan struct{}, again func()) {
	for {
		c := changed() // taken before the look, so that no change is missed
		again()
		select {
		case <-ctx.Done():
			return
		case <-c:
		}
	}
}

// recheck verifies the peer of every live connection again. A chain that many
// connections showed is verified once. The leaf alone would not do as its
// name: with other intermediates it may have another verdict.
//
// Where another thing than trust has changed, such as our own certificate,
// nobody is verified: all who are live were, or saw by themselves that they
// must be, and their next end is an alarm.
func (g *gate) recheck() {
	generation := g.Trust.TrustGeneration()
	if before := g.trust.Swap(&generation); before != nil && *before == generation {
		return
	}
	verdicts := map[string]peerVerdict{}
	for _, c := range g.live.withPeer() {
		key := chainKey(c.chain)
		v, known := verdicts[key]
		if !known {
			v = g.verifyPeer(c)
			verdicts[key] = v
		}
		g.judgePeer(c, v)
	}
}

// peerVerdict is how a peer was verified, and by which generation of trust.
type peerVerdict struct {
	generation string
	chain      []*x509.Certificate
	err        error
}

func (g *gate) verifyPeer(c *conn) peerVerdict {
	v := peerVerdict{generation: g.Trust.TrustGeneration()}
	v.chain, v.err = g.Trust.VerifyPeer(c.chain, x509.ExtKeyUsageClientAuth)
	return v
}

// judgePeer ends a live connection whose peer is refused by now. It verifies
// any other one again at the first end in its chain: another chain may hold
// then. The certificates that the peer sent count too, for it may have no chain
// that holds but for an overdue CRL.
func (g *gate) judgePeer(c *conn, v peerVerdict) {
	reason := endingReason(v.err)
	if v.err == nil && g.Trust.Federated(c.chain[0]) != c.peer.Federated {
		reason = policy.PeerUntrusted // it was decided about as another's, or as one of ours
	}
	if reason != "" {
		g.end(c, reason)
		return
	}
	again := func() { g.judgePeer(c, g.verifyPeer(c)) }
	c.wakeAt(g.clock, firstEnd(g.clock.Now(), v.chain, c.chain), again)
	if g.Trust.TrustGeneration() != v.generation { // recheck may have looked before or meanwhile
		c.wakeAt(g.clock, g.clock.Now(), again)
	}
}

// firstEnd is when the first of the certificates ends that have not ended yet.
func firstEnd(now time.Time, chains ...[]*x509.Certificate) time.Time {
	var first time.Time
	for _, c := range slices.Concat(chains...) {
		if !c.NotAfter.Before(now) && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter
		}
	}
	return first
}

// chainKey is the same for the same certificates in the same order. DER says
// its own length, so no two chains run together to one key.
func chainKey(chain []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range chain {
		b.Write(c.Raw)
	}
	return b.String()
}

// endingReason is why an error of VerifyPeer ends a live connection; "" when
// it does not. An overdue CRL refuses new connections only: nothing is known
// against those who are here.
func endingReason(err error) policy.Reason {
	var peer interface{ Reason() string }
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &peer):
		return policy.PeerUntrusted
	case policy.Reason(peer.Reason()) == policy.CRLExpired:
		return ""
	}
	return policy.Reason(peer.Reason())
}

// end ends a connection: at once if nothing is in flight on it, else after
// lastWords. Requests that still come by it are refused.
func (g *gate) end(c *conn, reason policy.Reason) {
	if !g.noteEnd(c, reason) {
		return
	}
	if c.active.Load() == 0 {
		c.hangUp(lastWords)
		return
	}
	c.goodbye(closePolicy)
	time.AfterFunc(lastWords, func() { c.hangUp(parting) })
}

// noteEnd counts the end of a connection, once.
func (g *gate) noteEnd(c *conn, reason policy.Reason) bool {
	if !c.ended.CompareAndSwap(nil, &reason) {
		return false
	}
	g.metrics.Ended(reason)
	g.log.Info("connection ended", "remote", c.remoteText, "peer", c.peerName, "reason", reason)
	return true
}

// enter puts an allowed request where changes of rules and users find it.
func (x *exchange) enter() {
	c := x.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.next = c.allowed; x.next != nil {
		x.next.previous = x
	}
	c.allowed, x.entered = x, true
}

// leave takes it away again, if it was there. An HTTP/1.1 connection
// remembers what it asked: that is what it is judged by until it asks again.
func (x *exchange) leave() {
	c := x.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = question{}
	if !x.entered {
		return
	}
	x.entered = false
	if x.previous != nil {
		x.previous.next = x.next
	} else {
		c.allowed = x.next
	}
	if x.next != nil {
		x.next.previous = x.previous
	}
	if x.ended != "" {
		x.reason = x.ended
		x.afterLastWords()
		return
	}
	if x.in.ProtoMajor < 2 {
		c.last = x.question.remembered()
	}
}

// afterLastWords ends an HTTP/1.1 connection whose request was ended and has
// come to its end before it was cut. net/http still sends what it holds.
func (x *exchange) afterLastWords() {
	if x.in.ProtoMajor < 2 {
		time.AfterFunc(parting, func() { x.conn.hangUp(parting) })
	}
}

// redecide decides every live request again, and ends those that would be
// refused. Users that prove to be gone do so once for all their requests. Where
// only the credential can tell, that goes on after redecide returned: it takes
// a hash of each such user.
func (g *gate) redecide() {
	g.sweeping.Lock()
	defer g.sweeping.Unlock()
	g.sweeps.Add(1)
	s := &sweep{g, time.Now(), map[*policy.User]verdict{}, map[*policy.User][]*exchange{}}
	for _, c := range g.live.all() {
		s.conn(c)
	}
	for _, requests := range s.unproven {
		go s.prove(requests) // whoever hashes has a bound of its own, and no user waits for another's
	}
}

// sweep is one look at everything that is live.
type sweep struct {
	gate     *gate
	began    time.Time
	users    map[*policy.User]verdict
	unproven map[*policy.User][]*exchange // requests by the user that they proved
}

// verdict is what Recheck says of a user.
type verdict struct {
	reason policy.Reason // why its requests end; "": they don't
	prove  bool          // its credential must be looked at again
}

func (s *sweep) conn(c *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for x := c.allowed; x != nil; x = x.next {
		if x.ended != "" {
			continue
		}
		q := x.question
		if x.proven != nil {
			q.id.User = x.proven
		}
		switch reason, prove := s.gate.again(&q, s.users); {
		case reason != "":
			x.end(reason, lastWords)
		case prove:
			s.unproven[q.id.User] = append(s.unproven[q.id.User], x)
		}
	}
	if c.allowed != nil || c.last.kept == keptNothing || c.active.Load() > 0 {
		return
	}
	if reason := s.idle(&c.last); reason != "" {
		c.last = question{}
		s.gate.requestEnded(c, "", reason)
		s.hangUpIdle(c)
	}
}

// judgeAgain is why a request is refused that was allowed before something
// changed, or "".
func (x *exchange) judgeAgain() policy.Reason {
	reason, prove := x.gate.again(&x.question, nil)
	if !prove {
		return reason
	}
	user, reason := x.prove()
	if reason != "" {
		return reason
	}
	return x.decideAs(user)
}

// decideAs is why the request is refused to the user, or "".
func (x *exchange) decideAs(user *policy.User) policy.Reason {
	id := x.id
	id.User = user
	if d := x.gate.Decider.Decide(context.Background(), &x.req, id); !d.Allow {
		return d.Reason
	}
	return ""
}

// again decides what was allowed once more. It is why it is refused by now, or
// "", unless the credential proves nobody any more. users remembers verdicts;
// nil: nothing is remembered.
func (g *gate) again(q *question, users map[*policy.User]verdict) (reason policy.Reason, prove bool) {
	v := g.userAgain(q, users)
	if v.reason != "" {
		return v.reason, false
	}
	if d := g.Decider.Decide(context.Background(), &q.req, q.id); !d.Allow {
		return d.Reason, false
	}
	return "", v.prove
}

// userAgain asks whether the user is still good, as far as that can be told
// without the credential.
func (g *gate) userAgain(q *question, users map[*policy.User]verdict) verdict {
	if q.by == nil {
		return verdict{}
	}
	v, known := users[q.id.User]
	if !known {
		v = verdictOf(q.by.Recheck(context.Background(), q.id.User))
		if users != nil {
			users[q.id.User] = v
		}
	}
	return v
}

// verdictOf is what an error of Recheck means for a request. A dependency that
// does not answer says nothing against the user.
func verdictOf(err error) verdict {
	var refusal *policy.Refusal
	switch {
	case errors.Is(err, policy.ErrProveAgain):
		return verdict{prove: true}
	case !errors.As(err, &refusal) || refusal.Reason == policy.DependencyDown:
		return verdict{}
	}
	return verdict{reason: refusal.Reason}
}

// end ends a request alone: after grace, or when it ends by itself before. The
// connection's mutex is held.
func (x *exchange) end(reason policy.Reason, grace time.Duration) {
	x.ended = reason
	x.gate.requestEnded(x.conn, x.requestID, reason)
	if x.conn.upgraded.Load() {
		x.conn.goodbye(closePolicy)
	}
	time.AfterFunc(grace, x.cut)
}

// silent ends a request by which nothing has moved for the gate's StreamIdle.
func (x *exchange) silent() {
	x.conn.mu.Lock()
	defer x.conn.mu.Unlock()
	if x.entered && x.ended == "" {
		x.end(streamIdle, 0)
	}
}

// cut is the end of a request that did not end by itself. The application
// learns of it at once. An HTTP/1.1 client loses its connection, one of HTTP/2
// its stream, as soon as it takes what was sent before.
func (x *exchange) cut() {
	c := x.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !x.entered {
		return // it has ended
	}
	switch {
	case !x.in.ProtoAtLeast(1, 1):
		go c.cut() // it may want the mutex, as the next
		return
	case x.in.ProtoMajor < 2:
		go c.hangUp(parting)
		return
	}
	reason, wrote := x.ended, c.wrote.Load()
	time.AfterFunc(lastWords, func() { x.gate.unstick(c, wrote, reason) })
	// A deadline in the past resets the stream. The request can't end
	// meanwhile: for that it needs the mutex. An error means that the
	// connection has gone.
	_ = http.NewResponseController(x.answer.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	x.abort()
}

// unstick ends a connection whose client has taken nothing since so many
// writes had ended, and so does not learn that a stream was reset. That of a
// trusted proxy stays, for it carries other clients' requests.
func (g *gate) unstick(c *conn, wrote uint64, reason policy.Reason) {
	if c.writing.Load() > 0 && c.wrote.Load() == wrote && !g.trusts(c.remote) && g.noteEnd(c, reason) {
		c.hangUp(parting)
	}
}

func (g *gate) requestEnded(c *conn, requestID string, reason policy.Reason) {
	g.metrics.RequestEnded(reason)
	g.log.Info("request ended", "remote", c.remoteText, "peer", c.peerName, "request_id", requestID, "reason", reason)
}
