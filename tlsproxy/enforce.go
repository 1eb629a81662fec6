package tlsproxy

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"sidegate/policy"
)

// lastWords is how long a request in flight may go on after the connection it
// came by is no longer trusted.
const lastWords = 500 * time.Millisecond

// enforce ends connections whose peer is no longer trusted, whenever trust
// changes, until ctx ends. The certificate's own end is a timer, see watchExpiry.
func (g *gate) enforce(ctx context.Context) {
	for {
		changed := g.Trust.Changed() // taken before the check, so that no change is missed
		g.recheck()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// recheck verifies the peer of every live connection again. A chain that many
// connections showed is verified once. The leaf alone would not do as its
// name: with other intermediates it may have another verdict.
func (g *gate) recheck() {
	verdicts := map[string]error{}
	for _, c := range g.live.withPeer() {
		chain := chainKey(c.chain)
		err, known := verdicts[chain]
		if !known {
			_, err = g.Trust.VerifyPeer(c.chain, x509.ExtKeyUsageClientAuth)
			verdicts[chain] = err
		}
		if reason := endingReason(err); reason != "" {
			g.end(c, reason)
		}
	}
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

// watchExpiry ends the connection when the peer's certificate does.
func (g *gate) watchExpiry(c *conn) {
	if c.peer != nil {
		c.expiry.Store(time.AfterFunc(time.Until(c.peer.NotAfter), func() { g.end(c, policy.PeerExpired) }))
	}
}

// end ends a connection: at once if nothing is in flight on it, else after
// lastWords. Requests that still come by it are refused.
func (g *gate) end(c *conn, reason policy.Reason) {
	if !c.ended.CompareAndSwap(nil, &reason) {
		return
	}
	g.metrics.Ended(reason)
	g.log.Info("connection ended", "remote", c.remoteText, "peer", c.peerName, "reason", reason)
	if c.active.Load() == 0 {
		c.shut()
		return
	}
	c.goodbye(closePolicy)
	time.AfterFunc(lastWords, c.shut)
}
