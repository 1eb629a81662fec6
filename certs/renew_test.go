package certs_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/reload"
)

// maker issues certificates that begin back before and end life after now.
type maker struct {
	t          *testing.T
	ca         *certstest.CA
	back, life time.Duration
	empty      bool // it gives CAs alone

	mu       sync.Mutex
	err      error
	outdated bool
	warnings []string
	asked    []time.Time
}

// set changes what the next call finds.
func (m *maker) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *maker) Issue(context.Context) (certs.Input, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, time.Now())
	if m.err != nil {
		return certs.Input{}, m.err
	}
	in := certs.Input{Bundle: []certs.File{{Name: "ca", Data: m.ca.PEM()}}, Warnings: m.warnings}
	if m.empty {
		return in, nil
	}
	p := m.ca.Issue(m.t, "app", serverFor("app.example"), dates(-m.back, m.life))
	in.Pairs = []certs.PairInput{{Name: "made", Cert: certs.File{Name: "cert", Data: p.Cert}, Key: certs.File{Name: "key", Data: p.Key}}}
	return in, nil
}

// times are when it was asked.
func (m *maker) times() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

func (m *maker) String() string { return "a maker" }

func (m *maker) Outdated() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.outdated
}

// made runs a store of what the maker issues on the clock of a bubble.
func made(t *testing.T, m *maker, retry reload.Retry) (*running, *maker) {
	t.Helper()
	m.t, m.ca = t, certstest.NewCA(t, "ca", dates(-time.Hour, 1000*time.Hour))
	r := &running{t: t, log: &certstest.Log{}, change: make(chan struct{})}
	r.Store = &certs.Store{Source: &certs.Issued{Issuer: m}, RefuseExpired: true, Retry: retry, Log: slog.New(slog.NewTextHandler(r.log, nil))}
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, r.change) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r, m
}

// ROT-15: at two thirds of the lifetime, give or take a tenth, and not all at
// the same time.
func TestIssuedIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := made(t, &maker{life: 30 * time.Hour}, reload.Retry{})
		pass(600 * time.Hour)
		var least, most time.Duration
		asked := m.times()
		for i := 1; i < len(asked); i++ {
			gap := asked[i].Sub(asked[i-1])
			if i == 1 || gap < least {
				least = gap
			}
			most = max(most, gap)
		}
		if len(m.times()) < 25 || least < 17*time.Hour-time.Second || most > 23*time.Hour+time.Second || most-least < 10*time.Minute {
			t.Errorf("%d asked, gaps of %s to %s, want 17 h to 23 h", len(m.times()), least, most)
		}
		r.wantLogged(len(m.times()), "certificate in service")
	})
}

// ROT-15: neither a very short certificate nor one that begins long before it
// was made is asked for without end.
func TestIssuedMakesNoLoop(t *testing.T) {
	for _, c := range []struct {
		name       string
		back, life time.Duration
		atMost     int // in a minute
	}{
		{"short", 0, 2 * time.Second, 13},
		{"short and dated back", 5 * time.Minute, 3 * time.Second, 13},
		{"dated back", 5 * time.Minute, time.Minute, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, m := made(t, &maker{back: c.back, life: c.life}, reload.Retry{})
				pass(time.Minute)
				if n := len(m.times()); n < 3 || n > c.atMost {
					t.Errorf("asked %d times in a minute, want at most %d", n, c.atMost)
				}
			})
		})
	}
}

// Changes of files and SIGHUP ask for nothing, unless the issuer says so.
func TestIssuedWhenOutdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := made(t, &maker{life: time.Hour}, reload.Retry{})
		for range 5 {
			pass(time.Second)
			r.signal()
		}
		if len(m.times()) != 1 {
			t.Errorf("asked %d times", len(m.times()))
		}
		m.set(func() { m.outdated = true })
		pass(time.Second)
		r.signal()
		if len(m.times()) != 2 {
			t.Errorf("asked %d times although outdated, want 2", len(m.times()))
		}
	})
}

// A renewal that fails leaves what is in service until its end, is retried with
// growing pauses up to the cap, and after the end nothing is presented.
func TestIssuedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := made(t, &maker{life: time.Hour, warnings: []string{"one server is away"}}, reload.Retry{First: time.Second, Last: time.Minute})
		r.wantLogged(1, "source degraded")
		if w := r.Status().Warnings; len(w) != 1 || w[0] != "one server is away" {
			t.Errorf("warnings %q", w)
		}
		m.set(func() { m.err = errors.New("nobody answers") })
		pass(50 * time.Minute)
		r.wantLogged(1, "nobody answers")
		if _, err := r.GetCertificate(nil); err != nil || r.Ready() != nil {
			t.Errorf("before the end: %v, %v", err, r.Ready())
		}
		failed := len(m.times())
		pass(10*time.Minute + time.Second) // at the end's second the log tells
		if n := len(m.times()) - failed; n < 9 || n > 11 {
			t.Errorf("%d attempts in ten minutes, want one a minute", n)
		}
		var own *certs.OwnError
		if _, err := r.GetCertificate(nil); !errors.As(err, &own) || own.Reason() != "certificate_expired" {
			t.Errorf("after the end: %v", err)
		}
		if _, err := r.GetClientCertificate(nil); !errors.As(err, &own) {
			t.Errorf("to a server, after the end: %v", err)
		}
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "certificate made ended ") {
			t.Errorf("ready: %v", err)
		}
		r.wantLogged(1, "certificate expired")
		m.set(func() { m.err, m.warnings = nil, nil })
		pass(time.Minute)
		r.wantLogged(1, "reload works again")
		if err := r.Ready(); err != nil || len(r.Status().Warnings) > 0 {
			t.Errorf("after recovery: %v, %q", err, r.Status().Warnings)
		}
	})
}

// What an issuer must not give is refused.
func TestIssuedRefuses(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	for _, c := range []struct {
		name, want string
		m          *maker
	}{
		{"nothing", "the issuer gave no certificate", &maker{t: t, ca: ca, empty: true}},
		{"over", "the issuer gave a certificate that ended ", &maker{t: t, ca: ca, back: time.Hour, life: -time.Second}},
		{"an error", "no", &maker{t: t, ca: ca, err: errors.New("no")}},
	} {
		s := &certs.Issued{Issuer: c.m, Now: func() time.Time { return time.Now() }}
		if _, err := s.Load(t.Context()); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// The clock of the source decides when the next one is due.
func TestIssuedUsesItsClock(t *testing.T) {
	m := &maker{t: t, ca: certstest.NewCA(t, "ca", dates(-time.Hour, 100*time.Hour)), life: 10 * time.Hour}
	now := time.Now()
	s := &certs.Issued{Issuer: m, Now: func() time.Time { return now }}
	load := func() *certs.Material {
		t.Helper()
		got, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := load()
	now = now.Add(5*time.Hour + 39*time.Minute)
	if load() != first {
		t.Error("renewed before its time")
	}
	now = now.Add(2 * time.Hour)
	if load() == first {
		t.Error("not renewed in time")
	}
}

// MayStartEmpty: nothing yet is no failure where the source can have nothing
// before the gates are open, and any other failure still is.
func TestStoreMayStartEmpty(t *testing.T) {
	for _, c := range []struct {
		name string
		may  bool
		err  error
		want bool // Load succeeds
	}{
		{"pending", true, certs.ErrPending, true},
		{"pending, not allowed", false, certs.ErrPending, false},
		{"failed", true, errors.New("no"), false},
	} {
		m := &maker{t: t, ca: certstest.NewCA(t, "ca"), err: c.err, life: time.Hour}
		s := &certs.Store{Source: &certs.Issued{Issuer: m}, MayStartEmpty: c.may, Log: slog.New(slog.DiscardHandler)}
		if err := s.Load(t.Context()); (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		var own *certs.OwnError
		if _, err := s.GetCertificate(nil); !errors.As(err, &own) || own.Reason() != "certificate_missing" {
			t.Errorf("%s: presents: %v", c.name, err)
		}
		if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "a maker: "+c.err.Error()) {
			t.Errorf("%s: ready: %v", c.name, err)
		}
		if _, err := s.VerifyPeer(nil, x509.ExtKeyUsageClientAuth); err == nil {
			t.Errorf("%s: believes anyone", c.name)
		}
		m.err = nil
		if err := s.Load(t.Context()); err != nil || s.Ready() != nil {
			t.Errorf("%s: %v, %v once it is there", c.name, err, s.Ready())
		}
	}
}

// RefuseExpired: without it an old certificate is presented all the same.
func TestStoreRefuseExpired(t *testing.T) {
	for _, refuse := range []bool{true, false} {
		m := &maker{t: t, ca: certstest.NewCA(t, "ca"), life: time.Hour}
		now := time.Now()
		s := &certs.Store{Source: &certs.Issued{Issuer: m}, RefuseExpired: refuse, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}
		if err := s.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		leaf := s.Status().Certificates[0]
		now = leaf.NotAfter
		if _, err := s.GetCertificate(nil); err != nil {
			t.Errorf("refuse %t, at its last moment: %v", refuse, err)
		}
		now = now.Add(1)
		if _, err := s.GetCertificate(nil); (err != nil) != refuse {
			t.Errorf("refuse %t, after its end: %v", refuse, err)
		}
		if s.Ready() == nil {
			t.Errorf("refuse %t: ready after the end", refuse)
		}
	}
}
