package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sidegate/certs/reload"
)

// Source loads a material from where it is kept. Load is never called twice
// at a time.
type Source interface {
	Load(context.Context) (*Material, error)
	// String names the place for logs, such as a folder.
	String() string
}

// Store keeps the newest good material of a source in service. Its fields are
// set before Load; its methods may then be called concurrently.
type Store struct {
	Source Source
	// Name tells stores apart in logs and metrics; "" means "certificates".
	Name string
	Log  *slog.Logger
	// AllowNameLoss lets a replacement drop a name that is now served.
	AllowNameLoss bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	once    sync.Once
	loop    *reload.Loop
	current atomic.Pointer[Material]
	mu      sync.Mutex
	changed chan struct{} // closed at the next swap
	said    map[string]bool
}

func (s *Store) init() {
	s.once.Do(func() {
		if s.Name == "" {
			s.Name = "certificates"
		}
		if s.Now == nil {
			s.Now = time.Now
		}
		s.changed = make(chan struct{})
		s.said = map[string]bool{}
		s.loop = &reload.Loop{What: s.Name, Load: s.load, Log: s.Log}
	})
}

// Load loads for the first time. Its error is a reason not to start.
func (s *Store) Load(ctx context.Context) error {
	s.init()
	return s.loop.First(ctx)
}

// Run loads again whenever changed says so, until ctx ends.
func (s *Store) Run(ctx context.Context, changed <-chan struct{}) error {
	s.init()
	return s.loop.Run(ctx, changed)
}

// load is one attempt of the loop.
func (s *Store) load(ctx context.Context) (reload.Result, error) {
	now := s.Now()
	old := s.current.Load()
	m, err := s.Source.Load(ctx)
	if err != nil {
		return reload.Result{}, err
	}
	if old != nil && old.ID == m.ID {
		s.warn(m, now)
		return s.result(old, time.Time{}), nil
	}
	if err := s.acceptable(m, old, now); err != nil {
		return reload.Result{}, err
	}
	if starts := m.notBefore(); now.Before(starts) {
		s.Log.Warn("certificate staged until it is valid", "source", s.Source.String(), "generation", m.ID, "starts", starts)
		return s.result(old, starts), nil
	}
	s.swap(m, old)
	s.warn(m, now)
	return s.result(m, time.Time{}), nil
}

func (s *Store) result(g *Material, again time.Time) reload.Result {
	return reload.Result{Generation: g.ID, Again: again}
}

// acceptable says why m must not replace old, which is nil at the start.
func (s *Store) acceptable(m *Material, old *Material, now time.Time) error {
	if p := m.expired(now); p != nil {
		return fmt.Errorf("certificate %s ended %s", p.Name, p.Cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if old == nil {
		if starts := m.notBefore(); now.Before(starts) {
			return fmt.Errorf("a certificate is not valid before %s; the clock says %s", starts.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
		return nil
	}
	missing := m.missingNames(old)
	if len(missing) == 0 || s.AllowNameLoss {
		return nil
	}
	if old.expired(now) != nil {
		s.Log.Error("replacement lacks names but the certificate in service has ended", "source", s.Source.String(), "names", strings.Join(missing, ","))
		return nil
	}
	return fmt.Errorf("the replacement lacks %s, which is served now (SIDEGATE_TLS_ALLOW_NAME_LOSS=true allows it)", strings.Join(missing, ", "))
}

// swap puts g in service and tells those who wait for a change.
func (s *Store) swap(g, old *Material) {
	s.current.Store(g)
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	for i, p := range g.pairs {
		attrs := []any{"generation", g.ID, "source", s.Source.String(), "name", p.Name,
			"serial", fmt.Sprintf("%x", p.Cert.Leaf.SerialNumber), "expires", p.Cert.Leaf.NotAfter}
		if old != nil && i < len(old.pairs) {
			attrs = append(attrs, "old_serial", fmt.Sprintf("%x", old.pairs[i].Cert.Leaf.SerialNumber))
		}
		s.Log.Info("certificate in service", attrs...)
	}
	if g.trust != nil && len(g.trust.crls) == 0 && old == nil {
		s.Log.Info("no CRL is configured, so no client certificate is ever revoked", "source", s.Source.String())
	}
	for _, note := range g.Notes {
		s.sayOnce(note, func() { s.Log.Info(note, "source", s.Source.String()) })
	}
}

// sayOnce does something the first time it meets the text.
func (s *Store) sayOnce(text string, do func()) {
	s.mu.Lock()
	seen := s.said[text]
	s.said[text] = true
	s.mu.Unlock()
	if !seen {
		do()
	}
}

// warn logs each warning about the material once.
func (s *Store) warn(m *Material, now time.Time) {
	if m.trust == nil {
		return
	}
	for _, w := range m.trust.warnings(now) {
		s.sayOnce(w, func() { s.Log.Warn(w, "source", s.Source.String()) })
	}
}

// errNotLoaded cannot be met by callers that start with Load.
var errNotLoaded = errors.New("no certificate is loaded")

// GetCertificate returns what to present, for tls.Config.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	g := s.current.Load()
	if g == nil {
		return nil, errNotLoaded
	}
	return g.certificate(hello), nil
}

// VerifyPeer returns the verified chain of a peer, leaf first, or a
// [*PeerError]. It makes no network connection.
func (s *Store) VerifyPeer(chain []*x509.Certificate, use x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	g := s.current.Load()
	if g == nil || g.trust == nil {
		return nil, refuse(peerUntrusted, "no CA for clients is loaded")
	}
	return g.trust.verify(chain, use, s.Now())
}

// ClientCAs is the list of CAs to name to clients; nil without any.
func (s *Store) ClientCAs() *x509.CertPool {
	if g := s.current.Load(); g != nil && g.trust != nil {
		return g.trust.hint
	}
	return nil
}

// Generation is the id of the material in service.
func (s *Store) Generation() string {
	if g := s.current.Load(); g != nil {
		return g.ID
	}
	return ""
}

// Changed is closed when the next generation is in service.
func (s *Store) Changed() <-chan struct{} {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Status is what a store has in service and how its last attempt went.
type Status struct {
	reload.Status
	Certificates []Certificate
	Warnings     []string
}

// Certificate is one certificate of a [Status].
type Certificate struct {
	Use      string    `json:"use"` // "server" or "client_ca"
	Name     string    `json:"name"`
	Subject  string    `json:"subject"`
	Serial   string    `json:"serial"`
	Names    []string  `json:"names,omitempty"`
	NotAfter time.Time `json:"not_after"`
}

// Status returns the state of the store.
func (s *Store) Status() Status {
	s.init()
	st := Status{Status: s.loop.Status()}
	g := s.current.Load()
	if g == nil {
		return st
	}
	for _, p := range g.pairs {
		st.Certificates = append(st.Certificates, describe("server", p.Name, p.Cert.Leaf))
	}
	if g.trust != nil {
		st.Warnings = g.trust.warnings(s.Now())
		for _, ca := range g.trust.cas {
			name := ca.Subject.CommonName
			if name == "" {
				name = ca.Subject.String()
			}
			st.Certificates = append(st.Certificates, describe("client_ca", name, ca))
		}
	}
	return st
}

func describe(use, name string, c *x509.Certificate) Certificate {
	return Certificate{Use: use, Name: name, Subject: c.Subject.String(), Serial: fmt.Sprintf("%x", c.SerialNumber),
		Names: servedNames(c), NotAfter: c.NotAfter}
}

// Ready returns why nobody should be sent here now, or nil. A failed reload
// is no such reason: the last good generation serves.
func (s *Store) Ready() error {
	g := s.current.Load()
	if g == nil {
		return errNotLoaded
	}
	now := s.Now()
	if end := g.pairs[0].Cert.Leaf.NotAfter; now.After(end) {
		return fmt.Errorf("certificate %s ended %s", g.pairs[0].Name, end.UTC().Format(time.RFC3339))
	}
	if g.trust != nil && g.trust.allExpired(now) {
		return errors.New("every CA for client certificates has expired")
	}
	return nil
}
