package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"sidegate/certs"
	"sidegate/certs/files"
	"sidegate/certs/reload"
	"sidegate/policy"
	"sidegate/policy/authn"
	"sidegate/tlsproxy"
	"sidegate/tlsproxy/admin"
)

// assembly is everything that serve runs, loaded and checked. check makes the
// same one and stops there.
type assembly struct {
	config *Config
	log    *slog.Logger
	gates  []*tlsproxy.Gate
	stores []*certs.Store
	users  *authn.Users // nil: none configured
	reload *reload.Loop // of users
	policy *policy.Policy
	paths  []string // all that is watched
}

// assemble loads everything that the configuration names and returns every
// problem at once.
func assemble(ctx context.Context, c *Config, log *slog.Logger) (*assembly, error) {
	a := &assembly{config: c, log: log}
	specs, specErr := gateSpecs(c)
	userErr := a.loadUsers(ctx)
	policyErr := a.loadPolicy(specs, specErr == nil && userErr == nil)
	certErr := a.loadCertificates(ctx, specs)
	var upstreamErrs []error
	for i, s := range specs {
		if err := tlsproxy.CheckUpstream(ctx, s.upstream); err != nil {
			upstreamErrs = append(upstreamErrs, fmt.Errorf("%s: %w", gateVariable(s.name), err))
		}
		a.gates[i].Decider = a.policy
		if a.users != nil {
			a.gates[i].Authenticators = []tlsproxy.Authenticator{a.users}
		}
	}
	return a, joinFlat([]error{specErr, userErr, policyErr, certErr, errors.Join(upstreamErrs...)})
}

// loadUsers reads the users where there are any. The default path counts
// only if it exists; one that was set must.
func (a *assembly) loadUsers(ctx context.Context) error {
	path := a.config.Users
	if path == none {
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && path == defaultOf("Users") {
		return nil
	}
	users, err := authn.NewUsers(authn.Options{
		Realm:      a.config.Realm,
		Read:       func() (map[string][]byte, error) { return files.Read(path) },
		Log:        a.log,
		AllowPlain: bool(a.config.PlainPasswords),
	})
	if err != nil {
		return fmt.Errorf("SIDEGATE_REALM: %w", err)
	}
	a.users = users
	a.reload = &reload.Loop{What: "users", Log: a.log, Load: func(ctx context.Context) (reload.Result, error) {
		id, err := users.Load(ctx)
		return reload.Result{Generation: id}, err
	}}
	a.paths = append(a.paths, path)
	err = a.reload.First(ctx)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), path):
		return fmt.Errorf("SIDEGATE_USERS: %w", err)
	}
	return fmt.Errorf("SIDEGATE_USERS: %s: %w", path, err)
}

// loadPolicy makes the policy; complete says whether gates and users are all
// there, without which the default policy would only repeat their problems.
func (a *assembly) loadPolicy(specs []*gateSpec, complete bool) (err error) {
	var methods []string
	if a.users != nil {
		methods = []string{policy.LocalMethod}
	}
	if len(a.config.Allow) > 0 {
		a.policy, err = policy.NewAllow(a.config.Allow, methods)
		if err != nil {
			return joinFlat(prefixEach("SIDEGATE_ALLOW", err))
		}
		return nil
	}
	if !complete {
		return nil
	}
	kinds := make([]policy.GateKind, 0, len(specs))
	for _, s := range specs {
		if s.upstream.RedirectPort > 0 {
			continue // it forwards nothing
		}
		kinds = append(kinds, policy.GateKind{
			Name:         s.name,
			CertAsked:    s.clientCert != clientCertMode(tlsproxy.ClientCertNone),
			CertRequired: s.clientCert == clientCertMode(tlsproxy.ClientCertRequire),
		})
	}
	a.policy, err = policy.NewDefault(kinds, methods)
	if err != nil {
		return a.whatToMount(err)
	}
	return nil
}

// whatToMount adds to "nothing authenticates anyone" what would.
func (a *assembly) whatToMount(err error) error {
	hint := fmt.Sprintf("mount users at %s (an htpasswd file, or a Secret of type kubernetes.io/basic-auth), or set SIDEGATE_CLIENT_CERT and SIDEGATE_ALLOW, or SIDEGATE_ALLOW=anyone for TLS alone", a.config.Users)
	for _, dir := range a.config.TLS {
		if _, statErr := os.Stat(dir + "/ca.crt"); statErr == nil && a.config.ClientCert == clientCertMode(tlsproxy.ClientCertNone) {
			hint += fmt.Sprintf("; %s/ca.crt is there but SIDEGATE_CLIENT_CERT is not set", dir)
		}
	}
	return fmt.Errorf("%w: %s", err, hint)
}

// loadCertificates makes one store for each distinct set of files: gates that
// share a set share its generation.
func (a *assembly) loadCertificates(ctx context.Context, specs []*gateSpec) error {
	stores := map[string]*certs.Store{}
	var errs []error
	for _, s := range specs {
		gate := s.gate()
		gate.Ciphers = a.config.TLSCiphers
		gate.MinVersion, gate.OnlyHTTP1 = uint16(a.config.TLSMin), !bool(a.config.HTTP2)
		a.gates = append(a.gates, gate)
		if gate.Plaintext {
			continue
		}
		source := &files.Source{
			TLS:       s.tls,
			WantTrust: gate.ClientCert != tlsproxy.ClientCertNone,
			ClientCA:  s.clientCA,
		}
		key := fmt.Sprintf("%q %t %q", s.tls, source.WantTrust, s.clientCA)
		store := stores[key]
		if store == nil {
			store = &certs.Store{Source: source, Log: a.log, AllowNameLoss: bool(a.config.TLSNameLoss)}
			if len(stores) > 0 {
				store.Name = "certificates-" + s.name
			}
			stores[key] = store
			a.stores = append(a.stores, store)
			a.paths = append(a.paths, source.Paths()...)
			if err := store.Load(ctx); err != nil {
				errs = append(errs, prefixEach(certVariable(s, err), err)...)
			}
		}
		gate.Certificates, gate.Trust = store, store
	}
	return errors.Join(errs...)
}

// certVariable is the variable that leads to the file an error speaks of.
func certVariable(s *gateSpec, err error) string {
	if s.clientCA != "" && strings.Contains(err.Error(), s.clientCA) {
		return prefix + "CLIENT_CA"
	}
	return prefix + "TLS"
}

// loaded is the state of everything that is reloaded, for metrics.
func (a *assembly) loaded() []admin.Loaded {
	var list []admin.Loaded
	for _, s := range a.stores {
		st := s.Status()
		l := loadedOf(st.Status)
		for _, c := range st.Certificates {
			l.Dates = append(l.Dates, admin.CertificateDates{Use: c.Use, Name: c.Name, NotBefore: c.NotBefore, NotAfter: c.NotAfter})
		}
		list = append(list, l)
	}
	if a.reload != nil {
		list = append(list, loadedOf(a.reload.Status()))
	}
	return list
}

func loadedOf(s reload.Status) admin.Loaded {
	return admin.Loaded{What: s.What, Generation: s.Generation, OK: s.OK, LastSuccess: s.LastSuccess}
}

// ready says why nobody should be sent here, or nil.
func (a *assembly) ready() error {
	var errs []error
	for _, s := range a.stores {
		errs = append(errs, s.Ready())
	}
	return errors.Join(errs...)
}
