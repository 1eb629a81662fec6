package certs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Issuer has certificates issued, such as by a CFSSL or ACME server.
type Issuer interface {
	// Issue asks for a certificate with a new key and returns it once it is
	// checked: its key, its names, and that it chains to whom the issuer is
	// believed by. It is never called twice at a time. What it returns must not
	// be over or renewed at once.
	//
	// An error's text holds nothing that changes by itself (see
	// [sidegate/certs/reload.Loop]), such as a port of ours or a request's id.
	Issue(context.Context) (Input, error)
	// String names the place for logs, such as a URL.
	String() string
}

// outdatable is an [Issuer] that may want to be asked before the time: what it
// last returned was judged by something that has changed.
type outdatable interface{ Outdated() bool }

// Issued is the source of certificates that an [Issuer] makes: the one in
// service until two thirds of its lifetime are over, give or take a tenth of it
// so that the pods of a deployment don't all ask at once, and then the next. An
// issuer with a method Outdated() bool is asked again whenever that is true, too.
type Issued struct {
	Issuer Issuer
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	current *Material // Load's own
}

// Load implements [Source].
func (s *Issued) Load(ctx context.Context) (*Material, error) {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	o, ok := s.Issuer.(outdatable)
	if s.current != nil && now().Before(s.current.renew) && !(ok && o.Outdated()) {
		return s.current, nil
	}
	in, err := s.Issuer.Issue(ctx)
	if err != nil {
		return nil, err
	}
	m, err := NewMaterial(in)
	if err != nil {
		return nil, err
	}
	if m.leaf() == nil {
		return nil, errors.New("the issuer gave no certificate")
	}
	if at := now(); !m.leaf().NotAfter.After(at) { // else it would be asked for the next one without end
		return nil, fmt.Errorf("the issuer gave a certificate that ended %s", utc(m.leaf().NotAfter))
	}
	m.renew = renewal(m, now())
	s.current = m
	return m, nil
}

// String names the issuer.
func (s *Issued) String() string { return s.Issuer.String() }

// minLife is what a certificate is left to live at least before the next one
// is asked for, so that a very short one, or one that came late, makes no loop.
const minLife = 5 * time.Second

// renewal is when to ask for the next certificate. One that begins long before
// it was made (cfssl dates back by five minutes) or that was kept for some time
// may be past that already: a third of what it has left must be over first.
func renewal(m *Material, now time.Time) time.Time {
	leaf := m.leaf()
	lifetime, left := leaf.NotAfter.Sub(leaf.NotBefore), leaf.NotAfter.Sub(now)
	jitter := (rand.Float64()*2 - 1) / 10
	at := leaf.NotBefore.Add(time.Duration(float64(lifetime) * (2.0/3 + jitter)))
	soonest := now.Add(max(minLife, time.Duration(float64(left)*(1.0/3+jitter))))
	if at.Before(soonest) {
		at = soonest
	}
	return at.Round(0) // a time of day, not one that passes on the monotonic clock
}
