package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sidegate/policy"
	"sidegate/tlsproxy"
)

// gateSpec is one gate as configured: LISTEN=UPSTREAM?options, over what the
// variables say for every gate.
type gateSpec struct {
	name     string
	listen   tlsproxy.Address
	upstream tlsproxy.Upstream

	plaintext         bool
	certs             certSource
	tls               List
	clientCert        clientCertMode
	clientCA          string
	hosts             []string
	maxBody           int64
	streamIdle        Duration
	headers           headerPreset
	fields            []tlsproxy.IdentityField // beyond the preset
	groupsSeparator   string
	peerHeaders       peerHeaders
	passAuthorization bool
	trustedProxies    Networks
	clientField       clientField
	accessLog         accessLog
	hsts              strictTransport
}

var gateName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)

// gateSpecs parses every gate in the order of their names.
func gateSpecs(c *Config) ([]*gateSpec, error) {
	var specs []*gateSpec
	var errs []error
	listens := map[tlsproxy.Address]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Ingress)) {
		variable := gateVariable(name)
		spec, err := parseGate(name, c.Ingress[name], c)
		if err != nil {
			errs = append(errs, prefixEach(variable, err)...)
			continue
		}
		if other, taken := listens[spec.listen]; taken {
			errs = append(errs, fmt.Errorf("%s: %s is taken by %s", variable, spec.listen, other))
		}
		listens[spec.listen] = variable
		specs = append(specs, spec)
	}
	asked := func(s *gateSpec) bool { return s.clientCert != clientCertMode(tlsproxy.ClientCertNone) }
	if c.CertUser != certUser(policy.CertUserNone) && len(errs) == 0 && !slices.ContainsFunc(specs, asked) {
		errs = append(errs, errors.New("SIDEGATE_CERT_USER is set, and no gate asks for client certificates: set SIDEGATE_CLIENT_CERT"))
	}
	if len(errs) == 0 {
		errs = append(errs, unusedSources(c, specs)...)
	}
	return specs, errors.Join(errs...)
}

// prefixEach names the variable in each of several joined problems.
func prefixEach(variable string, err error) []error {
	var all []error
	for _, e := range split(err) {
		all = append(all, fmt.Errorf("%s: %w", variable, e))
	}
	return all
}

// split is the problems of a joined error, or the one that it is; none of nil.
func split(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

func parseGate(name, value string, c *Config) (*gateSpec, error) {
	s := &gateSpec{
		name:           name,
		certs:          c.Certs,
		tls:            c.TLS,
		clientCert:     c.ClientCert,
		clientCA:       c.ClientCA,
		headers:        c.Headers,
		peerHeaders:    c.PeerHeaders,
		trustedProxies: c.TrustedProxies,
		accessLog:      c.AccessLog,
		hsts:           c.HSTS,
	}
	if !gateName.MatchString(name) {
		return nil, fmt.Errorf("gate name %q: letters, digits and _, at most 31, beginning with a letter", name)
	}
	listen, upstream, ok := strings.Cut(value, "=")
	if !ok {
		return nil, errors.New("it has no =; a gate is LISTEN=UPSTREAM, such as " + defaultIngress)
	}
	var errs []error
	var err error
	if s.listen, err = parseListen(listen); err != nil {
		errs = append(errs, err)
	}
	target, query, _ := strings.Cut(upstream, "?")
	if s.upstream, err = parseUpstream(target); err != nil {
		errs = append(errs, err)
	}
	if err := s.options(query); err != nil {
		errs = append(errs, err)
	}
	if s.plaintext && s.clientCert != clientCertMode(tlsproxy.ClientCertNone) {
		errs = append(errs, errors.New("tls=off can't ask for client certificates: add client_cert=none"))
	}
	switch {
	case s.plaintext && s.certs != c.Certs:
		errs = append(errs, errors.New("option certs: this gate has tls=off and presents no certificate"))
	case s.certs != fromFiles && !slices.Equal(s.tls, c.TLS):
		errs = append(errs, fmt.Errorf("option tls: folders are read with certs=files, and this gate has %s", s.certs))
	}
	if s.plaintext && s.hsts != c.HSTS {
		errs = append(errs, errors.New("option hsts: browsers heed it over TLS alone (RFC 6797 7.2), and this gate has tls=off"))
	}
	if s.clientField != "" && len(s.trustedProxies) == 0 {
		errs = append(errs, errors.New("option client_field: it names what trusted proxies write, and there are none: add trusted_proxies"))
	}
	errs = append(errs, s.sameFields()...)
	return s, joinFlat(errs)
}

// joinFlat joins errors, those that are joined already among them, to one level.
func joinFlat(errs []error) error {
	var flat []error
	for _, e := range errs {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			flat = append(flat, joined.Unwrap()...)
		} else {
			flat = append(flat, e)
		}
	}
	return errors.Join(flat...)
}

// parseListen reads :8443, 127.0.0.1:8443, [::1]:8443 or unix:/path.
func parseListen(s string) (tlsproxy.Address, error) {
	if p, ok := strings.CutPrefix(s, "unix:"); ok {
		if !path.IsAbs(p) {
			return tlsproxy.Address{}, errors.New("listen: a unix socket needs an absolute path")
		}
		return tlsproxy.Address{Network: "unix", Address: path.Clean(p)}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return tlsproxy.Address{}, errors.New("listen is not [HOST]:PORT or unix:/path")
	}
	if host != "" && net.ParseIP(host) == nil {
		return tlsproxy.Address{}, errors.New("listen: the host is not an IP address")
	}
	if !validPort(port, 0) {
		return tlsproxy.Address{}, errors.New("listen: what follows the last colon is not a port")
	}
	return tlsproxy.Address{Network: "tcp", Address: s}, nil
}

func validPort(s string, least uint64) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n >= least
}

var errNoPort = errors.New("upstream: what follows the last colon is not a port")

var schemes = []string{"http", "h2c", "http+unix", "h2c+unix"}

// parseUpstream reads http://HOST:PORT, h2c://HOST:PORT and both with +unix.
func parseUpstream(s string) (tlsproxy.Upstream, error) {
	var up tlsproxy.Upstream
	if port, ok := strings.CutPrefix(s, "redirect:"); ok {
		return parseRedirect(port)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !slices.Contains(schemes, scheme) {
		return up, fmt.Errorf("upstream begins with one of %s, then ://%s", strings.Join(schemes, ", "), didYouMean(scheme, schemes))
	}
	base, unix := strings.CutSuffix(scheme, "+unix")
	up.H2C = base == "h2c"
	if unix {
		if !path.IsAbs(rest) {
			return up, fmt.Errorf("upstream: %s: is followed by three slashes and an absolute path", scheme)
		}
		up.Address = tlsproxy.Address{Network: "unix", Address: path.Clean(rest)}
		return up, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Fragment != "" || u.Hostname() == "" {
		return up, fmt.Errorf("upstream is not %s://HOST:PORT", scheme)
	}
	if u.Path != "" && u.Path != "/" {
		return up, errors.New("upstream: paths are forwarded as they come, so none may be added here")
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	if !validPort(port, 1) {
		return up, errNoPort
	}
	up.Address = tlsproxy.Address{Network: "tcp", Address: net.JoinHostPort(u.Hostname(), port)}
	return up, nil
}

// parseRedirect reads redirect: or redirect:PORT.
func parseRedirect(port string) (tlsproxy.Upstream, error) {
	if port == "" {
		port = "443"
	}
	if !validPort(port, 1) {
		return tlsproxy.Upstream{}, errNoPort
	}
	n, err := strconv.Atoi(port)
	return tlsproxy.Upstream{RedirectPort: n, Address: tlsproxy.Address{Network: "redirect", Address: "https port " + port}}, err
}

// gateOptions are the options of a gate and what each does to its spec. Most
// override the variable of the same name for this gate.
var gateOptions = map[string]func(s *gateSpec, value string) error{
	"certs":              func(s *gateSpec, v string) error { return s.certs.UnmarshalText([]byte(v)) },
	"tls":                (*gateSpec).setTLS,
	"client_cert":        func(s *gateSpec, v string) error { return s.clientCert.UnmarshalText([]byte(v)) },
	"client_ca":          func(s *gateSpec, v string) error { s.clientCA = v; return nil },
	"hosts":              (*gateSpec).setHosts,
	"max_body":           (*gateSpec).setMaxBody,
	"stream_idle":        func(s *gateSpec, v string) error { return s.streamIdle.UnmarshalText([]byte(v)) },
	"headers":            func(s *gateSpec, v string) error { return s.headers.UnmarshalText([]byte(v)) },
	"header":             (*gateSpec).addField,
	"groups_separator":   (*gateSpec).setSeparator,
	"peer_headers":       func(s *gateSpec, v string) error { return s.peerHeaders.UnmarshalText([]byte(v)) },
	"pass_authorization": func(s *gateSpec, v string) error { return setSwitch(&s.passAuthorization, v) },
	"insecure_upstream":  func(s *gateSpec, v string) error { return setSwitch(&s.upstream.InsecureUpstream, v) },
	"trusted_proxies":    func(s *gateSpec, v string) error { return s.trustedProxies.UnmarshalText([]byte(v)) },
	"client_field":       func(s *gateSpec, v string) error { return s.clientField.UnmarshalText([]byte(v)) },
	"hsts":               func(s *gateSpec, v string) error { return s.hsts.UnmarshalText([]byte(v)) },
	"access_log":         func(s *gateSpec, v string) error { return s.accessLog.UnmarshalText([]byte(v)) },
}

// options reads the query of a gate and returns every problem in it.
func (s *gateSpec) options(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("options are NAME=VALUE&NAME=VALUE; write a semicolon as %3B and a percent sign as %25")
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		set, known := gateOptions[name]
		switch {
		case !known:
			errs = append(errs, unknownOption(name))
			continue
		case len(values[name]) > 1 && name != "header":
			errs = append(errs, fmt.Errorf("option %s is there %d times", name, len(values[name])))
			continue
		}
		for _, v := range values[name] {
			if v == "" {
				errs = append(errs, fmt.Errorf("option %s is empty", name))
			} else if err := set(s, v); err != nil {
				errs = append(errs, fmt.Errorf("option %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// unknownOption shows a name only if it is nearly one that is known: what
// belongs to the upstream's URL would stand here too.
func unknownOption(name string) error {
	known := slices.Sorted(maps.Keys(gateOptions))
	if near := didYouMean(name, known); near != "" {
		return fmt.Errorf("unknown option %q%s", name, near)
	}
	return fmt.Errorf("unknown option; there are %s", strings.Join(known, ", "))
}

func setSwitch(b *bool, v string) error {
	var s Switch
	err := s.UnmarshalText([]byte(v))
	*b = bool(s)
	return err
}

func (s *gateSpec) setHosts(v string) error {
	var list List
	if err := list.UnmarshalText([]byte(v)); err != nil {
		return err
	}
	for i, h := range list {
		host, err := policy.HostPattern(h)
		if err != nil {
			return fmt.Errorf("entry %d is not a host name, without a port, such as app.example.org or *.example.org", i+1)
		}
		s.hosts = append(s.hosts, host)
	}
	return nil
}

// setTLS reads folders, or off for a gate without TLS.
func (s *gateSpec) setTLS(v string) error {
	if v == "off" {
		s.plaintext = true
		return nil
	}
	return s.tls.UnmarshalText([]byte(v))
}

// setMaxBody reads bytes, or with a suffix KiB, MiB or GiB.
func (s *gateSpec) setMaxBody(v string) error {
	digits, shift := v, 0
	for suffix, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if d, ok := strings.CutSuffix(v, suffix); ok {
			digits, shift = d, bits
		}
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 {
		return errors.New("it is not a size such as 512KiB or 10MiB")
	}
	s.maxBody = int64(n) << shift
	return nil
}

// gate is the spec as tlsproxy takes it, without what must be loaded first.
func (s *gateSpec) gate(certUser policy.CertUser) *tlsproxy.Gate {
	fields, _ := tlsproxy.HeaderPreset(string(s.headers)) // the name was checked when it was parsed
	return &tlsproxy.Gate{
		Name:       s.name,
		Listen:     s.listen,
		Upstream:   s.upstream,
		Plaintext:  s.plaintext,
		ClientCert: tlsproxy.ClientCert(s.clientCert),
		CertUser:   certUser,
		Hosts:      s.hosts,
		MaxBody:    s.maxBody,
		StreamIdle: time.Duration(s.streamIdle),
		Headers: tlsproxy.IdentityHeaders{
			Fields:          append(fields, s.fields...),
			GroupsSeparator: s.groupsSeparator,
			PeerHeaders:     s.peerHeaders,
		},
		PassAuthorization: s.passAuthorization,
		TrustedProxies:    s.trustedProxies,
		ClientField:       tlsproxy.ClientField(s.clientField),
		StrictTransport:   string(s.hsts),
		AccessLog:         tlsproxy.AccessLog(s.accessLog),
	}
}
