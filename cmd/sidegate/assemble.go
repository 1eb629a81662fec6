package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"sidegate/certs/acme"
	"sidegate/certs/files"
	"sidegate/certs/reload"
	"sidegate/certs/spiffe"
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
	specs  []*gateSpec
	gates  []*tlsproxy.Gate
	stores []*store
	spiffe *spiffe.Source // nil: nothing comes from the Workload API
	acme   *acme.Issuer   // nil: nothing comes from an ACME server
	users  *authn.Users   // nil: none configured
	fixed  *policy.Policy // of the variables; nil: there is a policy file
	policy *policy.Store  // of the policy file; nil: there is none
	reload []*reload.Loop // of users and policy
	paths  []string       // all that is watched

	memory   int64         // the container's limit; 0: unknown
	limits   fileLimits    // that follow from it
	lookOnly bool          // nothing is to be issued for it, by cfssl or acme
	patience time.Duration // with mounts that hang; zero: files.Patience
}

// rules is the policy in force.
func (a *assembly) rules() *policy.Policy {
	if a.policy != nil {
		return a.policy.Policy()
	}
	return a.fixed
}

// policyWarnings are those of the policy, and of what it lacks around it.
func (a *assembly) policyWarnings() []string {
	list := slices.Clone(a.rules().Warnings())
	var bundles []string
	for _, s := range a.stores {
		domains, any := s.TrustDomains()
		if any {
			return list // it may be the one of any domain
		}
		bundles = append(bundles, domains...)
	}
	for _, td := range a.rules().TrustDomains() {
		if !slices.Contains(bundles, td) {
			list = append(list, fmt.Sprintf("nobody can be spiffe://%s/…: there is neither a CA nor a bundle of that trust domain (bundle.%s.pem, or one of the Workload API)", td, td))
		}
	}
	return list
}

func (a *assembly) decider() tlsproxy.Decider {
	if a.policy != nil {
		return a.policy
	}
	return a.fixed
}

// assemble loads everything that the configuration names and returns every
// problem at once.
func assemble(ctx context.Context, c *Config, log *slog.Logger) (*assembly, error) {
	a := &assembly{config: c, log: log, memory: cgroupLimit("/")}
	return a, a.fill(ctx)
}

func (a *assembly) fill(ctx context.Context) error {
	specs, specErr := readSpecs(a.config)
	a.limits = limitFiles(a.memory, placesOfCAs(specs))
	files.Probe(ctx, cmp.Or(a.patience, files.Patience), mounted(a.config, specs))
	userErr := a.loadUsers(ctx)
	policyErr := a.loadPolicy(ctx, specs, specErr == nil && userErr == nil)
	certErr := a.loadCertificates(ctx, specs)
	for i := range specs {
		a.gates[i].Decider = a.decider()
		if a.users != nil {
			a.gates[i].Authenticators = []tlsproxy.Authenticator{a.users}
		}
	}
	err := joinFlat([]error{specErr, userErr, policyErr, certErr, a.checkUpstreams(ctx)})
	if err == nil {
		err = a.rehearse()
	}
	return err
}

// mounted is every path that is read, as far as the gates are right.
func mounted(c *Config, specs []*gateSpec) []string {
	paths := []string{c.Users, c.Policy}
	for _, s := range specs {
		switch s.certs {
		case fromFiles:
			paths = append(paths, s.tls...)
		case fromCFSSL:
			paths = append(paths, c.CFSSLCA, c.CFSSLAuthKey, c.CertCache)
		case fromACME:
			paths = append(paths, c.ACMECA, c.ACMEEAB, c.CertCache)
		}
		paths = append(paths, s.clientCAFile())
	}
	slices.Sort(paths)
	return slices.DeleteFunc(slices.Compact(paths), func(path string) bool { return path == "" || path == none })
}

// loadUsers reads the users where there are any. The default path counts
// only if it exists; one that was set must.
func (a *assembly) loadUsers(ctx context.Context) error {
	path := a.config.Users
	if path == none {
		return nil
	}
	if _, err := files.Stat(path); errors.Is(err, fs.ErrNotExist) && path == defaultOf("Users") {
		return nil
	}
	users, err := authn.NewUsers(authn.Options{
		Realm:      a.config.Realm,
		Read:       func() (map[string][]byte, error) { return a.limits.users.Read(path) },
		Log:        a.log,
		AllowPlain: bool(a.config.PlainPasswords),
	})
	if err != nil {
		return fmt.Errorf("SIDEGATE_REALM: %w", err)
	}
	a.users = users
	err = a.loads(ctx, "users", path, users.Load)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), path):
		return fmt.Errorf("SIDEGATE_USERS: %w", err)
	}
	return fmt.Errorf("SIDEGATE_USERS: %s: %w", path, err)
}

// loads loads something for the first time and keeps it fresh from then on.
func (a *assembly) loads(ctx context.Context, what, path string, load func(context.Context) (string, error)) error {
	loop := &reload.Loop{What: what, Log: a.log, Load: func(ctx context.Context) (reload.Result, error) {
		id, err := load(ctx)
		return reload.Result{Generation: id}, err
	}}
	a.reload = append(a.reload, loop)
	a.paths = append(a.paths, path)
	return loop.First(ctx)
}

// loadPolicy reads the policy file, or makes the policy of the variables;
// complete says whether gates and users are all there, without which a policy
// would only repeat their problems.
func (a *assembly) loadPolicy(ctx context.Context, specs []*gateSpec, complete bool) (err error) {
	around := a.surroundings(specs)
	file, err := a.policyFile()
	switch {
	case err != nil:
		return err
	case file != "" && complete:
		return a.loadPolicyFile(ctx, file, around)
	case len(a.config.Allow) > 0:
		if a.fixed, err = policy.NewAllow(a.config.Allow, around.Methods); err != nil {
			return joinFlat(prefixEach("SIDEGATE_ALLOW", err))
		}
		return nil
	case !complete:
		return nil
	}
	a.fixed, err = policy.NewDefault(around.Gates, around.Methods)
	if err != nil {
		return a.whatToMount(err)
	}
	return nil
}

// policyFile is the path of the policy file, "" if there is none. The default
// counts only if it exists; one that was set must.
func (a *assembly) policyFile() (string, error) {
	path := a.config.Policy
	if path == none {
		return "", nil
	}
	if path == defaultOf("Policy") {
		if _, err := files.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
	}
	if len(a.config.Allow) > 0 {
		return "", fmt.Errorf("SIDEGATE_ALLOW is set and %s is there: unset SIDEGATE_ALLOW, or SIDEGATE_POLICY=none", path)
	}
	return path, nil
}

func (a *assembly) loadPolicyFile(ctx context.Context, path string, around policy.Surroundings) error {
	store := &policy.Store{File: path, Surroundings: around, Log: a.log, Read: func() ([]byte, error) { return a.limits.policy.ReadOne(path) }}
	if err := a.loads(ctx, "policy", path, store.Load); err != nil {
		return joinFlat(prefixEach("SIDEGATE_POLICY", err))
	}
	a.policy = store
	return nil
}

// surroundings are what the policy is read against.
func (a *assembly) surroundings(specs []*gateSpec) policy.Surroundings {
	var around policy.Surroundings
	if a.users != nil {
		around.Methods = []string{policy.LocalMethod}
	}
	if a.config.CertUser != certUser(policy.CertUserNone) {
		around.Methods = append(around.Methods, policy.CertMethod)
	}
	for _, s := range specs {
		if s.upstream.RedirectPort > 0 {
			continue // it forwards nothing
		}
		around.Gates = append(around.Gates, policy.GateKind{
			Name:         s.name,
			CertAsked:    s.clientCert != clientCertMode(tlsproxy.ClientCertNone),
			CertRequired: s.clientCert == clientCertMode(tlsproxy.ClientCertRequire),
		})
	}
	return around
}

// whatToMount adds to "nothing authenticates anyone" what would.
func (a *assembly) whatToMount(err error) error {
	hint := fmt.Sprintf("mount users at %s (an htpasswd file, or a Secret of type kubernetes.io/basic-auth), or set SIDEGATE_CLIENT_CERT and SIDEGATE_ALLOW, or SIDEGATE_ALLOW=anyone for TLS alone", a.config.Users)
	for _, dir := range a.config.TLS {
		if _, statErr := files.Stat(dir + "/ca.crt"); statErr == nil && a.config.ClientCert == clientCertMode(tlsproxy.ClientCertNone) {
			hint += fmt.Sprintf("; %s/ca.crt is there but SIDEGATE_CLIENT_CERT is not set", dir)
		}
	}
	return fmt.Errorf("%w: %s", err, hint)
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
	for _, l := range a.reload {
		list = append(list, loadedOf(l.Status()))
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
