package tlsproxy_test

import (
	"context"
	"testing"
	"time"

	"sidegate/policy"
	"sidegate/tlsproxy"
)

// refusing says no to whatever comes.
type refusing struct {
	broken
	err error
}

func (r refusing) Authenticate(context.Context, *policy.Request) (*policy.Login, error) {
	return nil, r.err
}

// Each reason of an authenticator has its status, and none is an invitation to
// try another credential but a bad one.
func TestRefusedCredentials(t *testing.T) {
	app := newRecorder(t)
	for reason, want := range map[policy.Reason]int{
		policy.BadCredentials: 401, policy.RateLimited: 429, policy.BadRequest: 400, policy.Overloaded: 503, policy.DependencyDown: 503, "new": 503,
	} {
		w := newWorld(t, upstream(app.url), allow("anyone"), func(g *tlsproxy.Gate) {
			g.Authenticators = []tlsproxy.Authenticator{refusing{err: &policy.Refusal{Reason: reason, RetryAfter: 1500 * time.Millisecond}}}
		})
		res := w.get("/")
		if res.StatusCode != want || res.Header.Get("Retry-After") != "2" || app.connections() > 0 {
			t.Errorf("%s: status %d, Retry-After %q, %d connections to the application", reason, res.StatusCode, res.Header.Get("Retry-After"), app.connections())
		}
	}
}
