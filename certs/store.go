package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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
	// RefuseExpired refuses handshakes once the certificate has ended, as is
	// right where nobody but the source could renew it. false: it is presented
	// all the same, and clients refuse it.
	RefuseExpired bool
	// MayStartEmpty lets Load succeed with [ErrPending]: the source can have
	// nothing before the gates are open.
	MayStartEmpty bool
	// PresentOnly leaves out whom the source says to trust, because no gate asks
	// for certificates that it would vouch for.
	PresentOnly bool
	// CANames says whether clients are told whom they must chain to.
	CANames CANames
	// Retry are the pauses after failed loads; zero: those of files.
	Retry reload.Retry
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	once    sync.Once
	loop    *reload.Loop
	current atomic.Pointer[Material]
	told    map[remark]bool // since the last load that succeeded; load's own
	try     Try             // nil: candidates serve untried

	mu      sync.Mutex
	changed chan struct{} // closed at the next swap
	staged  time.Time     // see Status
	faults  []string      // of pairs that are not served
}

// remark is something for the log that is said once for as long as it is true.
type remark struct {
	level slog.Level
	event string // the message, constant
	text  string
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
		s.told = map[remark]bool{}
		s.loop = &reload.Loop{What: s.Name, Load: s.load, Log: s.Log, Now: s.Now, Retry: s.Retry}
	})
}

// ErrPending says that there is nothing yet and why that is no failure.
var ErrPending = errors.New("the first certificate is not there yet")

// Load loads for the first time. Its error is a reason not to start.
func (s *Store) Load(ctx context.Context) error {
	s.init()
	err := s.loop.First(ctx)
	if s.MayStartEmpty && errors.Is(err, ErrPending) {
		return nil
	}
	return err
}

// Run loads again whenever changed says so, until ctx ends.
func (s *Store) Run(ctx context.Context, changed <-chan struct{}) error {
	s.init()
	return s.loop.Run(ctx, changed)
}

// load is one attempt of the loop. What serves on while attempts fail may end or
// become overdue meanwhile, which is said in time all the same.
func (s *Store) load(ctx context.Context) (reload.Result, error) {
	r, err := s.replace(ctx)
	if m := s.current.Load(); err != nil && m != nil {
		now := s.Now()
		s.remind(m.remarks(now))
		r.Again = earliest(r.Again, m.nextDate(now))
	}
	return r, err
}

// replace loads a candidate, checks it and puts it in service.
func (s *Store) replace(ctx context.Context) (reload.Result, error) {
	m, err := s.Source.Load(ctx)
	if err != nil {
		return reload.Result{}, err
	}
	if s.PresentOnly {
		m = m.withoutTrust()
	}
	now, old := s.Now(), s.current.Load()
	c := s.settle(m, old, now)
	switch {
	case old == nil && c.refused != nil:
		return reload.Result{}, c.refused
	case old != nil && old.trust != nil && m.trust != nil:
		if lost := m.trust.lostCRL(old.trust, now); lost != nil {
			return reload.Result{}, fmt.Errorf("%s: the CRL of %s is gone, and without it nobody would be revoked; restart to go on without it", lost.file, lost.list.Issuer)
		}
	}
	next := m.withPairs(c.pairs)
	if old == nil || old.ID != next.ID {
		if next, err = s.tried(next); err != nil {
			return reload.Result{}, err
		}
		s.swap(next, old)
	} else {
		next = next.withAlarms(old.alarms)
	}
	s.setState(c)
	s.tell(append(c.remarks, next.remarks(now)...))
	return reload.Result{Generation: next.ID, Again: earliest(m.renew, earliest(c.starts, next.nextDate(now)))}, c.refused
}

// earliest is the earlier of two times, of which zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// swap puts m in service and tells those who wait for a change.
func (s *Store) swap(m, old *Material) {
	s.current.Store(m)
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	for _, p := range m.pairs {
		attrs := []any{"generation", m.ID, "source", p.File, "serial", serial(p.Cert.Leaf), "expires", p.Cert.Leaf.NotAfter}
		if old != nil {
			if was := old.named(p.Name); was != nil {
				attrs = append(attrs, "old_serial", serial(was.Cert.Leaf))
			}
		}
		s.Log.Info("certificate in service", attrs...)
	}
}

// TrustDomains are those that have a bundle of their own. any says that there
// is a CA besides, for every other one.
func (s *Store) TrustDomains() (domains []string, any bool) {
	m := s.current.Load()
	if m == nil || m.trust == nil {
		return nil, false
	}
	return slices.Sorted(maps.Keys(m.trust.domains)), m.trust.any != nil
}

func serial(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber) }

// setState keeps for the status what is not in service.
func (s *Store) setState(c settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staged, s.faults = c.starts, nil
	for _, r := range c.remarks {
		if r.level >= slog.LevelError {
			s.faults = append(s.faults, r.text)
		}
	}
}

// tell logs the remarks that were not told yet, and forgets all others.
func (s *Store) tell(remarks []remark) {
	s.remind(remarks)
	clear(s.told)
	for _, r := range remarks {
		s.told[r] = true
	}
}

// remind logs the remarks that were not told yet.
func (s *Store) remind(remarks []remark) {
	for _, r := range remarks {
		if !s.told[r] {
			s.Log.Log(context.Background(), r.level, r.event, "source", s.Source.String(), "err", r.text)
		}
		s.told[r] = true
	}
}

// OwnError is why the gate itself has nothing to present. Reason is for
// metrics and the closed list of the log.
type OwnError struct {
	reason string
	err    error
}

// Reason is one word of a closed list.
func (e *OwnError) Reason() string { return e.reason }

func (e *OwnError) Error() string { return e.err.Error() }

// errNotLoaded cannot be met by callers that start with a Load that loads.
var errNotLoaded = &OwnError{"certificate_missing", errors.New("there is no certificate to present yet")}

// presented is the material whose pairs may be presented.
func (s *Store) presented() (*Material, error) {
	m := s.current.Load()
	if m == nil || len(m.pairs) == 0 {
		return nil, errNotLoaded
	}
	if s.RefuseExpired && s.Now().After(m.leaf().NotAfter) {
		return nil, &OwnError{"certificate_expired", fmt.Errorf("our own certificate %s ended %s", m.pairs[0].Name, utc(m.leaf().NotAfter))}
	}
	return m, nil
}

// GetCertificate returns what to present, for tls.Config.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	m, err := s.presented()
	if err != nil {
		return nil, err
	}
	return m.certificate(hello), nil
}

// GetClientCertificate returns what to present to a server that asks for a
// certificate, for tls.Config.
func (s *Store) GetClientCertificate(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	m, err := s.presented()
	if err != nil {
		return nil, err
	}
	return m.forPeer(ask), nil
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

// Federated reports whether a verified peer is of a trust domain that has a
// bundle of its own and is not ours.
func (s *Store) Federated(leaf *x509.Certificate) bool {
	g := s.current.Load()
	return g != nil && g.trust != nil && g.trust.federated(leaf)
}

// CANames says when a gate names the CAs that a client must chain to. The names
// are a hint, by which some clients choose among several certificates.
type CANames int

// The zero value leaves the names out where they may be in the way: Java's
// clients fail above 32 KiB, and every one above 64 KiB.
const (
	CANamesAuto CANames = iota
	CANamesAlways
	CANamesNever
)

// maxCANames is how many bytes of names CANamesAuto sends.
const maxCANames = 16 << 10

// ClientCAs is the list of CAs to name to clients; nil for none.
func (s *Store) ClientCAs() *x509.CertPool {
	g := s.current.Load()
	switch {
	case g == nil || g.trust == nil || s.CANames == CANamesNever:
		return nil
	case s.CANames == CANamesAuto && g.trust.hintSize > maxCANames:
		return nil
	}
	return g.trust.hint
}

// Generation is the id of the material in service.
func (s *Store) Generation() string {
	if g := s.current.Load(); g != nil {
		return g.ID
	}
	return ""
}

// TrustGeneration names whom the store trusts now. It stays what it is when our
// own certificate is renewed, unless that makes us one of another trust domain.
func (s *Store) TrustGeneration() string {
	g := s.current.Load()
	if g == nil || g.trust == nil {
		return ""
	}
	return hex.EncodeToString(g.trustID[:]) + " " + g.trust.own
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
	Source string `json:"source"`
	// Staged is when a certificate that is not yet valid comes into service;
	// zero without such.
	Staged       time.Time     `json:"staged,omitzero"`
	Certificates []Certificate `json:"certificates"`
	CRLs         []CRL         `json:"crls,omitempty"`
	Warnings     []string      `json:"warnings,omitempty"`
}

// CRL is one revocation list of a [Status].
type CRL struct {
	File       string    `json:"file"`
	Issuer     string    `json:"issuer"`
	State      string    `json:"state"` // "signed", "unproven" or "refused"
	Revoked    int       `json:"revoked"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update,omitzero"`
}

// Certificate is one certificate of a [Status].
type Certificate struct {
	Use       string    `json:"use"` // "server" or "client_ca"
	Name      string    `json:"name"`
	Subject   string    `json:"subject"`
	Serial    string    `json:"serial"`
	Names     []string  `json:"names,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Status returns the state of the store.
func (s *Store) Status() Status {
	s.init()
	st := Status{Status: s.loop.Status(), Source: s.Source.String()}
	s.mu.Lock()
	st.Staged = s.staged
	st.Warnings = slices.Clone(s.faults)
	s.mu.Unlock()
	g := s.current.Load()
	if g == nil {
		return st
	}
	for _, p := range g.pairs {
		st.Certificates = append(st.Certificates, describe("server", p.Name, p.Cert.Leaf))
	}
	if g.trust != nil {
		st.Certificates = append(st.Certificates, g.trust.describe()...)
		for _, l := range g.trust.crls {
			st.CRLs = append(st.CRLs, l.describe())
		}
	}
	for _, r := range g.remarks(s.Now()) {
		if r.level >= slog.LevelWarn {
			st.Warnings = append(st.Warnings, r.text)
		}
	}
	return st
}

func describe(use, name string, c *x509.Certificate) Certificate {
	return Certificate{Use: use, Name: name, Subject: c.Subject.String(), Serial: serial(c),
		Names: servedNames(c), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

// Ready returns why nobody should be sent here now, or nil. A failed reload
// is no such reason: the last good generation serves.
func (s *Store) Ready() error {
	g := s.current.Load()
	if g == nil {
		return s.unloaded()
	}
	now := s.Now()
	if leaf := g.leaf(); leaf != nil && now.After(leaf.NotAfter) {
		return fmt.Errorf("certificate %s ended %s", g.pairs[0].Name, utc(leaf.NotAfter))
	}
	if g.trust != nil && g.trust.allExpired(now) {
		return errors.New("every CA for client certificates has expired")
	}
	return nil
}

// unloaded says that there is nothing, and why, as far as that is known.
func (s *Store) unloaded() error {
	if why := s.loop.Status().Err; why != "" {
		return fmt.Errorf("%s: %s", s.Source, why)
	}
	return errNotLoaded
}
