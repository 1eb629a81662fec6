package tlsproxy

import (
	"context"
	"errors"
	"time"

	"sidegate/policy"
)

// prove looks at the credential of a user whose secret has changed, once for
// all its requests, and ends those if it proves nobody any more. It is that of
// the request itself; none is kept.
func (s *sweep) prove(requests []*exchange) {
	user, reason := requests[0].prove()
	for unsettled(reason) && time.Since(s.began) < lastWords {
		time.Sleep(provePause)
		user, reason = requests[0].prove()
	}
	grace := max(lastWords-time.Since(s.began), leastWords) // the hash was part of it
	for _, x := range requests {
		x.judged(user, reason, grace)
	}
}

// provePause is how long whoever could not judge a credential is left alone.
const provePause = 50 * time.Millisecond

// unsettled reports whether a refusal says nothing about the credential. Who
// never finds out whether it is still good refuses it in the end.
func unsettled(reason policy.Reason) bool {
	switch reason {
	case policy.RateLimited, policy.Overloaded, policy.DependencyDown:
		return true
	}
	return false
}

// prove asks who the request's credential proves now. It may be another login
// of the same user, with other groups, but no other user.
func (x *exchange) prove() (*policy.User, policy.Reason) {
	login, err := x.proveBy(context.Background())
	was := x.id.User
	var refusal *policy.Refusal
	switch {
	case errors.As(err, &refusal):
		return nil, refusal.Reason
	case err != nil:
		return nil, policy.DependencyDown
	case login == nil || login.User == nil:
		return nil, policy.BadCredentials
	}
	if now := login.User; now.Method == was.Method && now.Issuer == was.Issuer && now.Name == was.Name {
		return now, ""
	}
	return nil, policy.BadCredentials
}

func (x *exchange) proveBy(ctx context.Context) (*policy.Login, error) {
	if p, ok := x.by.(Prover); ok {
		return p.Prove(ctx, &x.req, x.id.User)
	}
	return x.by.Authenticate(ctx, &x.req)
}

// judged is what became of prove, for a request that may have ended meanwhile.
func (x *exchange) judged(user *policy.User, reason policy.Reason, grace time.Duration) {
	x.conn.mu.Lock()
	defer x.conn.mu.Unlock()
	if !x.entered || x.ended != "" {
		return
	}
	if reason == "" {
		x.proven = user
		reason = x.decideAs(user)
	}
	if reason != "" {
		x.end(reason, grace)
	}
}
