package tlsproxy_test

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// turning is a policy that lets everybody in, and no longer does while it makes
// its first decision: when that is told, the sweep for the change is over.
type turning struct {
	once   sync.Once
	notice policy.Notice
	turned atomic.Bool
	looked chan struct{} // holds one for each look at Changed
}

func (p *turning) Decide(context.Context, *policy.Request, policy.Identity) policy.Decision {
	if p.turned.Load() {
		return policy.Decision{Reason: policy.RuleDenied, Rule: "turned"}
	}
	p.once.Do(func() {
		p.turned.Store(true)
		p.tell()
		p.tell() // the look that this one waits for comes behind the sweep of the first
	})
	return policy.Decision{Allow: true, Rule: "before"}
}

func (p *turning) tell() {
	p.notice.Tell()
	<-p.looked
}

func (p *turning) Changed() <-chan struct{} {
	c := p.notice.Changed()
	select {
	case p.looked <- struct{}{}:
	default:
	}
	return c
}

// ROT-13, TLS-01: a request is decided, the policy changes, everything that is
// live is decided again, and only then does the request count among that.
func TestPolicyChangesInADecision(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		app := newRecorder(t)
		p := &turning{looked: make(chan struct{}, 1)}
		w := newWorld(t, upstream(app.url), func(g *tlsproxy.Gate) { g.Decider = p })
		<-p.looked // of the look at the start
		res := w.do(w.client(w.config(nil), proto), w.request("GET", "/", nil))
		if res.StatusCode != http.StatusForbidden || app.connections() > 0 {
			t.Errorf("%s: got %d, and the application saw %d connections", proto, res.StatusCode, app.connections())
		}
	}
}

// revoking is a trust that is replaced behind its first verdict. Nobody hears
// of that: whoever judged by the old one must notice by themselves.
type revoking struct {
	*certs.Store
	once    sync.Once
	replace func()
}

func (r *revoking) VerifyPeer(chain []*x509.Certificate, use x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	verified, err := r.Store.VerifyPeer(chain, use)
	r.once.Do(r.replace)
	return verified, err
}

func (r *revoking) Changed() <-chan struct{} { return nil }

// TLS-02, ROT-13: trust changes in the middle of a handshake, behind the
// verdict and before the connection can be found by those who look again.
func TestTrustChangesInAHandshake(t *testing.T) {
	app := newRecorder(t)
	trust := &revoking{}
	w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), func(g *tlsproxy.Gate) {
		trust.Store = g.Trust.(*certs.Store)
		g.Trust = trust
	})
	pair := good(w)
	trust.replace = func() {
		content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
		content["crl.pem"] = w.ca.CRL(t, time.Now().Add(time.Hour), pair.Leaf)
		w.update(content)
	}
	if _, err := w.roundTrip(w.config(pair)); err == nil || app.connections() > 0 {
		t.Fatalf("a revoked client passed: %v, %d connections to the application", err, app.connections())
	}
	w.counted(`sidegate_connections_ended_total{gate="main",reason="peer_revoked"} 1`)
}

// ROT-13: what still comes by a connection that is being ended, in the moment
// that is left to what is under way on it, does not reach the application.
func TestNoRequestOnAnEndingConnection(t *testing.T) {
	w := newWorld(t, upstream(streamer(t)), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"))
	pair := good(w)
	client := w.client(w.config(pair), "h2")
	stream := w.do(client, w.request("GET", "/stream", nil))
	content := certstest.Secret(w.ca.Server(t, "localhost", "127.0.0.1"), w.ca)
	content["crl.pem"] = w.ca.CRL(t, time.Now().Add(time.Hour), pair.Leaf)
	w.update(content)
	w.log.Wait(t, `"msg":"connection ended"`)
	res, err := client.Do(w.request("GET", "/", nil))
	if err == nil { // else it came too late, and the connection was gone
		defer res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	if _, err := io.Copy(io.Discard, stream.Body); err == nil {
		t.Error("the stream came to a good end")
	}
}

// TLS-01: a connection that waits is judged by what it asked last.
func TestIdleConnectionIsJudged(t *testing.T) {
	p := &switched{}
	w := newWorld(t, upstream(streamer(t)), func(g *tlsproxy.Gate) { g.Decider = p })
	idle := w.holdIdle(nil, "http/1.1")
	p.deny("/")
	w.untilEnded(idle)
	w.counted(`sidegate_requests_ended_total{gate="main",reason="rule_denied"} 1`)
}

// switched is a policy that refuses one path from some moment on.
type switched struct {
	refused atomic.Pointer[string]
	notice  policy.Notice
}

func (p *switched) deny(path string) {
	p.refused.Store(&path)
	p.notice.Tell()
}

func (p *switched) Decide(_ context.Context, r *policy.Request, _ policy.Identity) policy.Decision {
	if refused := p.refused.Load(); refused != nil && *refused == r.Path {
		return policy.Decision{Reason: policy.RuleDenied}
	}
	return policy.Decision{Allow: true}
}

func (p *switched) Changed() <-chan struct{} { return p.notice.Changed() }

// shifting proves one user and then another, by whatever a request carries.
type shifting struct {
	name   atomic.Pointer[string]
	notice policy.Notice
}

func (s *shifting) proves(name string) {
	s.name.Store(&name)
	s.notice.Tell()
}

func (s *shifting) Authenticate(context.Context, *policy.Request) (*policy.Login, error) {
	return &policy.Login{User: &policy.User{Method: policy.LocalMethod, Name: *s.name.Load()}}, nil
}

func (s *shifting) Recheck(_ context.Context, u *policy.User) error {
	if u.Name == *s.name.Load() {
		return nil
	}
	return policy.ErrProveAgain
}

func (s *shifting) Challenge(*policy.Request, error) []string { return nil }
func (s *shifting) Changed() <-chan struct{}                  { return s.notice.Changed() }

// TLS-01: a credential that proves somebody else by now does not keep the
// request of who it was.
func TestProveWantsTheSameUser(t *testing.T) {
	who := &shifting{}
	who.proves("alice")
	w := newWorld(t, upstream(streamer(t)), func(g *tlsproxy.Gate) { g.Authenticators = []tlsproxy.Authenticator{who} })
	stream := w.holdStream(nil)
	who.proves("bob")
	w.untilEnded(stream)
	w.counted(`sidegate_requests_ended_total{gate="main",reason="bad_credentials"} 1`)
}
