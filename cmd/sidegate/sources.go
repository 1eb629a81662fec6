package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"sidegate/certs"
	"sidegate/certs/acme"
	"sidegate/certs/cfssl"
	"sidegate/certs/files"
	"sidegate/certs/reload"
	"sidegate/certs/spiffe"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// store is a [certs.Store] and what it is made of.
type store struct {
	*certs.Store
	key string // gates with the same one share it
	// signals makes a channel by which the source itself tells of changes; nil:
	// the watch on files does.
	signals func() <-chan struct{}
	check   func() error // what is wrong with its configuration
	issues  bool         // a load may have a certificate issued
	// trustOnly says that nothing is presented.
	trustOnly bool
	// variables are those with a value that an error of the source may speak
	// of, otherwise the one that every other error belongs to.
	variables map[string]string
	otherwise string
}

// loadCertificates makes the gates, and one store for each distinct place that
// their certificates and CAs come from: gates that share a place share its
// generation.
func (a *assembly) loadCertificates(ctx context.Context, specs []*gateSpec) error {
	a.specs = specs
	var errs []error
	for _, s := range specs {
		gate := s.gate(policy.CertUser(a.config.CertUser))
		gate.Ciphers = a.config.TLSCiphers
		gate.MinVersion, gate.OnlyHTTP1 = uint16(a.config.TLSMin), !bool(a.config.HTTP2)
		a.gates = append(a.gates, gate)
		if gate.Plaintext {
			continue
		}
		errs = append(errs, a.certificatesOf(ctx, s, gate), a.trustOf(ctx, s, gate))
	}
	return joinFlat(errs)
}

// certificatesOf gives the gate what it presents, and where that place has CAs
// for clients too, whom it trusts.
func (a *assembly) certificatesOf(ctx context.Context, s *gateSpec, gate *tlsproxy.Gate) (err error) {
	var st *store
	switch s.certs {
	case fromSPIFFE:
		st, err = a.load(ctx, s, a.workloadAPI(false))
	case fromCFSSL:
		st, err = a.load(ctx, s, a.cfssl)
	case fromACME:
		st, err = a.load(ctx, s, a.acmeServer)
		if a.acme != nil {
			gate.Challenge = a.acme.Challenge
		}
	default:
		st, err = a.load(ctx, s, a.files(s.tls, s.clientCAFile(), s.trustsOwnSource()))
	}
	if err != nil {
		return err
	}
	gate.Certificates = st
	if s.trustsOwnSource() {
		gate.Trust = st
	}
	return nil
}

// trustOf gives the gate whom it trusts, where that comes from another place
// than its certificate.
func (a *assembly) trustOf(ctx context.Context, s *gateSpec, gate *tlsproxy.Gate) error {
	if !s.asksClientCert() || s.trustsOwnSource() {
		return nil
	}
	make := a.files(nil, s.clientCA, true)
	switch {
	case s.clientCA == string(fromSPIFFE):
		make = a.workloadAPI(true)
	case s.clientCA == "":
		return fmt.Errorf("%s: acme brings no CA for client certificates: set SIDEGATE_CLIENT_CA", gateVariable(s.name))
	}
	st, err := a.load(ctx, s, make)
	if err != nil {
		return err
	}
	gate.Trust = st
	return nil
}

// rehearse lets every gate shake hands with itself, with what is loaded and from
// then on with all that would replace it. Such a handshake has no client, so
// that nobody meets a gate that can't complete any.
func (a *assembly) rehearse() error {
	var errs []error
	for _, st := range a.stores {
		err := st.Rehearse(func(candidate *certs.Store) ([]string, error) { return a.tryWith(st, candidate) })
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", st.otherwise, st.Source, err))
		}
	}
	return errors.Join(errs...)
}

// tryWith tries the gates of a store as they would be with the candidate.
func (a *assembly) tryWith(st *store, candidate *certs.Store) (alarms []string, err error) {
	for _, g := range a.gates {
		certificates, trust := g.Certificates, g.Trust
		if certificates == tlsproxy.Certificates(st) {
			certificates = candidate
		}
		if trust == tlsproxy.Trust(st) {
			trust = candidate
		}
		if certificates == g.Certificates && trust == g.Trust {
			continue
		}
		alarm, err := g.Rehearse(certificates, trust)
		if err != nil {
			return nil, err
		}
		if alarm != nil {
			alarms = append(alarms, alarm.Error())
		}
	}
	return alarms, nil
}

// presentOnly reports whether no gate asks for certificates that a source
// vouches for, though it could.
func (a *assembly) presentOnly(source certSource) bool {
	return !slices.ContainsFunc(a.specs, func(s *gateSpec) bool { return s.certs == source && s.trustsOwnSource() })
}

func (s *gateSpec) asksClientCert() bool {
	return s.clientCert != clientCertMode(tlsproxy.ClientCertNone)
}

// trustsOwnSource reports whether clients are believed by what comes with the
// gate's own certificate.
func (s *gateSpec) trustsOwnSource() bool {
	if !s.asksClientCert() {
		return false
	}
	switch s.certs {
	case fromFiles:
		return s.clientCA != string(fromSPIFFE)
	case fromSPIFFE:
		return s.clientCA == "" || s.clientCA == string(fromSPIFFE)
	case fromCFSSL:
		return s.clientCA == ""
	}
	return false
}

// clientCAFile is the client CA, if it is a file.
func (s *gateSpec) clientCAFile() string {
	if s.clientCA == string(fromSPIFFE) {
		return ""
	}
	return s.clientCA
}

// load returns the store that make describes, loaded, or the one that is there
// already.
func (a *assembly) load(ctx context.Context, s *gateSpec, make func() *store) (*store, error) {
	st := make()
	if i := slices.IndexFunc(a.stores, func(other *store) bool { return other.key == st.key }); i >= 0 {
		return a.stores[i], nil
	}
	st.Log = a.log
	st.CANames = certs.CANames(a.config.ClientCANames)
	st.Name = a.storeName(st, s.name)
	a.stores = append(a.stores, st)
	err := st.check()
	if err == nil && !(st.issues && a.lookOnly) {
		err = a.loadFirst(ctx, st)
	}
	if err == nil {
		return st, nil
	}
	var errs []error
	for _, e := range split(err) {
		if !strings.HasPrefix(e.Error(), prefix) { // it names its variable itself
			e = fmt.Errorf("%s: %w", st.variable(e), e)
		}
		errs = append(errs, e)
	}
	return st, errors.Join(errs...)
}

// storeName is what logs, metrics and alerts call a store. What each pod has
// issued for itself differs from pod to pod, and alerts must know.
func (a *assembly) storeName(st *store, gate string) string {
	name := "certificates"
	switch {
	case st.trustOnly:
		name = "client-ca"
	case st.RefuseExpired:
		name = "issued-certificates"
	}
	if slices.ContainsFunc(a.stores, func(other *store) bool { return other.Name == name }) {
		name += "-" + gate
	}
	return name
}

// loadFirst loads a store for the first time. Servers may be a moment late.
func (a *assembly) loadFirst(ctx context.Context, st *store) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.config.StartTimeout))
	defer cancel()
	var before error
	for {
		err := st.Load(ctx)
		if err != nil && before != nil && ctx.Err() != nil {
			return before // this attempt was cut short, and says only that
		}
		var unreachable *net.OpError
		if !errors.As(err, &unreachable) {
			return err
		}
		before = err
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// variable is the one whose value an error speaks of: the longest one, since a
// file may lie in the folder that another variable names.
func (st *store) variable(err error) string {
	found, longest := st.otherwise, ""
	for _, name := range slices.Sorted(maps.Keys(st.variables)) {
		if value := st.variables[name]; len(value) > len(longest) && strings.Contains(err.Error(), value) {
			found, longest = name, value
		}
	}
	return found
}

// files is the store of mounted files. trust says that client certificates are
// asked for, and clientCA or what lies in the first TLS folder has their CAs.
func (a *assembly) files(tls []string, clientCA string, trust bool) func() *store {
	return func() *store {
		source := &files.Source{TLS: tls, WantTrust: trust, ClientCA: clientCA, OwnDomain: a.ownDomain(tls), CRLs: a.limits.crls, CAs: a.limits.cas}
		a.paths = append(a.paths, source.Paths()...)
		return &store{
			Store:     &certs.Store{Source: source, AllowNameLoss: bool(a.config.TLSNameLoss)},
			key:       fmt.Sprintf("%q %t %q", tls, trust, clientCA),
			trustOnly: len(tls) == 0,
			check:     noCheck,
			variables: map[string]string{prefix + "CLIENT_CA": clientCA},
			otherwise: prefix + "TLS",
		}
	}
}

func noCheck() error { return nil }

// ownDomain is the trust domain of the certificates that cfssl issues, for
// files that say no more than whom to trust.
func (a *assembly) ownDomain(tls []string) string {
	if len(tls) > 0 {
		return ""
	}
	for _, host := range a.config.CertHosts {
		if p, err := policy.PeerOf(host); err == nil && !p.ID.IsZero() {
			return p.ID.TrustDomain().Name()
		}
	}
	return ""
}

// workloadAPI is the store of the Workload API, to which there is one
// connection.
func (a *assembly) workloadAPI(trustOnly bool) func() *store {
	return func() *store {
		if a.spiffe == nil {
			a.spiffe = &spiffe.Source{Socket: a.config.SPIFFESocket, SVID: a.config.SPIFFESVID, Log: a.log}
		}
		var source certs.Source = a.spiffe
		key := "spiffe"
		if trustOnly {
			source, key = a.spiffe.TrustOnly(), "spiffe trust"
		}
		return &store{
			// What names an SVID has is the SPIFFE server's to say.
			Store:     &certs.Store{Source: source, AllowNameLoss: true, RefuseExpired: true, PresentOnly: !trustOnly && a.presentOnly(fromSPIFFE)},
			key:       key,
			trustOnly: trustOnly,
			signals:   a.spiffe.Subscribe,
			check:     a.spiffe.Check,
			variables: map[string]string{prefix + "SPIFFE_SVID": fmt.Sprintf("%q", a.config.SPIFFESVID)}, // a hint may be any word
			otherwise: spiffeSocket,
		}
	}
}

func (a *assembly) cfssl() *store {
	c := a.config
	issuer := &cfssl.Issuer{
		Servers: c.CFSSLURL, CA: c.CFSSLCA, AuthKey: c.CFSSLAuthKey, Profile: c.CFSSLProfile, Label: c.CFSSLLabel,
		Hosts: c.CertHosts, Insecure: bool(c.CFSSLInsecure), Cache: a.cache(),
	}
	a.paths = append(a.paths, c.CFSSLCA, c.CFSSLAuthKey)
	st := issued(issuer, func() error {
		return joinFlat([]error{needed(c.CFSSLURL, "CFSSL_URL"), needed(c.CertHosts, "CERT_HOSTS"), issuer.Check(), issuer.Cache.Check()})
	})
	st.PresentOnly = a.presentOnly(fromCFSSL)
	st.key, st.Retry = "cfssl", reload.Retry{First: time.Second, Last: time.Minute}
	st.variables = map[string]string{
		prefix + "CFSSL_CA":            c.CFSSLCA,
		prefix + "CFSSL_AUTH_KEY_FILE": c.CFSSLAuthKey,
		prefix + "CFSSL_PROFILE":       fmt.Sprintf("no profile %q", c.CFSSLProfile),
		prefix + "CERT_CACHE":          c.CertCache,
		prefix + "CERT_HOSTS":          `host "`, // as errors about one begin
	}
	st.otherwise = prefix + "CFSSL_URL"
	return st
}

func (a *assembly) acmeServer() *store {
	c := a.config
	if a.acme == nil { // every gate proves the names for the one certificate
		a.acme = &acme.Issuer{Directory: c.ACMEURL, Email: string(c.ACMEEmail), CA: c.ACMECA, EAB: c.ACMEEAB, Hosts: c.CertHosts, Cache: a.cache(), Log: a.log}
		for _, path := range []string{c.ACMECA, c.ACMEEAB} {
			if path != "" {
				a.paths = append(a.paths, path)
			}
		}
	}
	issuer := a.acme
	st := issued(issuer, func() error {
		return joinFlat([]error{needed(c.CertHosts, "CERT_HOSTS"), said(c.CertCache), hostErrors(issuer), issuer.Check(), issuer.Cache.Check()})
	})
	st.key, st.Retry, st.MayStartEmpty = "acme", reload.Retry{First: 10 * time.Second, Last: time.Hour}, true
	st.variables = map[string]string{prefix + "ACME_EMAIL": "the contact ", prefix + "ACME_CA": c.ACMECA, prefix + "ACME_EAB_FILE": c.ACMEEAB, prefix + "CERT_CACHE": c.CertCache}
	st.otherwise = prefix + "ACME_URL"
	return st
}

// said reports that it was not said where to keep what acme orders.
func said(cache string) error {
	if cache != "" {
		return nil
	}
	return errors.New("SIDEGATE_CERT_CACHE is not set, and without it a new certificate is ordered at each start, of which servers give few: name a mounted folder, or none")
}

// hostErrors are the problems of the names, with their variable.
func hostErrors(issuer *acme.Issuer) error {
	err := issuer.CheckHosts()
	if err == nil {
		return nil
	}
	return errors.Join(prefixEach(prefix+"CERT_HOSTS", err)...)
}

// issued is the store of certificates that a server makes.
func issued(issuer certs.Issuer, check func() error) *store {
	return &store{Store: &certs.Store{Source: &certs.Issued{Issuer: issuer}, RefuseExpired: true}, check: check, issues: true}
}

// needed reports a list that must not be empty.
func needed(list List, variable string) error {
	if len(list) == 0 {
		return fmt.Errorf("%s%s is not set", prefix, variable)
	}
	return nil
}

// cache is the folder for what was issued; nil: nothing is kept.
func (a *assembly) cache() *files.Cache {
	if a.config.CertCache == "" || a.config.CertCache == none {
		return nil
	}
	return &files.Cache{Dir: a.config.CertCache}
}

// unusedSources reports variables of places that no gate's certificate comes from.
func unusedSources(c *Config, specs []*gateSpec) []error {
	from := func(source certSource) bool {
		return slices.ContainsFunc(specs, func(s *gateSpec) bool { return !s.plaintext && s.certs == source })
	}
	var errs []error
	v := reflect.ValueOf(c).Elem()
	for f := range configFields() {
		name := f.Tag.Get("env")
		for _, source := range []certSource{fromSPIFFE, fromCFSSL, fromACME} {
			if !strings.HasPrefix(name, strings.ToUpper(string(source))+"_") || from(source) {
				continue
			}
			if value := v.FieldByIndex(f.Index); fmt.Sprint(value) != f.Tag.Get("envDefault") {
				errs = append(errs, fmt.Errorf("%s%s is set, and no gate has its certificate from %s: set SIDEGATE_CERTS", prefix, name, source))
			}
		}
	}
	if c.TLS.String() != defaultOf("TLS") && !from(fromFiles) {
		errs = append(errs, errors.New("SIDEGATE_TLS is set, and no gate has its certificate from files: unset one of SIDEGATE_TLS and SIDEGATE_CERTS"))
	}
	for name, set := range map[string]bool{"CERT_HOSTS": len(c.CertHosts) > 0, "CERT_CACHE": c.CertCache != ""} {
		if set && !from(fromCFSSL) && !from(fromACME) {
			errs = append(errs, fmt.Errorf("%s%s is set, and no gate has its certificate from cfssl or acme: set SIDEGATE_CERTS", prefix, name))
		}
	}
	return errs
}
