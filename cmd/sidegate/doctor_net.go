package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"sidegate/certs/files"
	"sidegate/tlsproxy"
)

// dial connects and hangs up again.
func dial(ctx context.Context, network, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var c net.Conn
	var err error
	if network == "unix" {
		c, err = files.Dial(ctx, address) // its mount may hang
	} else {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
	}
	if err != nil {
		return err
	}
	return c.Close()
}

// why is the cause of a failed attempt, without the addresses around it.
func why(err error) string {
	var call *url.Error
	if errors.As(err, &call) {
		err = call.Err // without the URL, which may hold a secret
	}
	var number syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &number):
		return number.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer within " + patience.String()
	}
	return err.Error()
}

// lookAtUpstream looks whether the application is there, and for whom else.
func (d *doctor) lookAtUpstream(ctx context.Context, s *gateSpec) findings {
	var f findings
	up := s.upstream
	if up.RedirectPort > 0 || tlsproxy.CheckUpstream(ctx, up) != nil || d.assembly.leadsBack(ctx, up) != "" { // serve has the words for the latter two
		return f
	}
	if up.InsecureUpstream {
		f.warn("upstream", "take insecure_upstream=true away if the application is in this pod", "gate %s sends plaintext to %s, wherever that is", s.name, up.Address)
	}
	switch err := dial(ctx, up.Address.Network, up.Address.Address); {
	case err == nil:
		f.ok("upstream", "somebody listens at %s for gate %s", up.Address, s.name)
	case errors.Is(err, fs.ErrPermission):
		f.broken("upstream", "let the application make its socket writable for the group of both, such as the pod's fsGroup",
			"gate %s may not connect to %s as uid %d: %s", s.name, up.Address, os.Getuid(), why(err))
	default:
		f.broken("upstream", "see that the application listens there; it may still be starting, or have another port",
			"nobody listens at %s for gate %s: %s", up.Address, s.name, why(err))
	}
	if up.Address.Network == "tcp" && !up.InsecureUpstream {
		f = append(f, d.lookAround(ctx, s)...)
	}
	return f
}

// lookAround tries the application's port on every address by which others
// reach this pod: who gets through there has passed no gate.
func (d *doctor) lookAround(ctx context.Context, s *gateSpec) findings {
	var f findings
	_, port, err := net.SplitHostPort(s.upstream.Address.Address)
	if err != nil {
		return f
	}
	var attempts []func(context.Context) findings
	for _, host := range reachable() {
		address := tlsproxy.Address{Network: "tcp", Address: net.JoinHostPort(host, port)}
		if d.assembly.leadsBack(ctx, tlsproxy.Upstream{Address: address}) != "" {
			continue
		}
		attempts = append(attempts, func(ctx context.Context) (open findings) {
			if dial(ctx, "tcp", address.Address) == nil {
				open.ok("", "%s", address.Address)
			}
			return open
		})
	}
	var open []string
	for _, one := range together(ctx, attempts) {
		open = append(open, one.Found)
	}
	if len(open) > 0 {
		f.warn("around", "bind the application to 127.0.0.1, or admit nobody but the gate's port by a NetworkPolicy, which can't be seen from here",
			"the application of gate %s also answers at %s: whoever reaches that gets around sidegate", s.name, strings.Join(open, ", "))
	} else if len(attempts) > 0 {
		f.ok("around", "port %s is open on no other address of this pod", port)
	}
	return f
}

// reachable are the addresses of this host's interfaces that are not loopback.
func reachable() []string {
	var list []string
	all, _ := net.InterfaceAddrs() // none: there is nothing to try
	for _, a := range all {
		ip, ok := a.(*net.IPNet)
		// Link-local ones are of no use without the name of the interface.
		if ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			list = append(list, ip.IP.String())
		}
	}
	return list
}

// lookAtListeners asks the sidegate that should run here what it has in
// service, and looks at who else has its ports.
func (d *doctor) lookAtListeners(ctx context.Context) findings {
	running, f := d.lookAtRunning(ctx)
	for _, s := range d.specs {
		f = append(f, d.lookAtListen(ctx, s, running)...)
	}
	return f
}

// lookAtRunning asks the admin port; nil: no sidegate answers.
func (d *doctor) lookAtRunning(ctx context.Context) (*statusReport, findings) {
	var f findings
	if d.config.Admin == none {
		return nil, f
	}
	if w := d.config.Admin.warning(); w != "" {
		f.warn("listen", "", "%s", w)
		return nil, f
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := d.config.Admin.ask(ctx, http.MethodGet, "/status")
	var r statusReport
	if err == nil {
		err = json.Unmarshal(body, &r)
	}
	var op *net.OpError
	switch {
	case err == nil && len(r.Gates) > 0:
		return &r, d.lookAtStatus(&r)
	case errors.As(err, &op) && op.Op == "dial":
		f.ok("listen", "no sidegate runs here: nobody answers at %s", d.config.Admin)
	default:
		f.broken("listen", "give SIDEGATE_ADMIN another port, or end what has it", "SIDEGATE_ADMIN: whoever answers at %s is no sidegate, or hangs", d.config.Admin)
	}
	return nil, f
}

// lookAtStatus tells what the running process tells.
func (d *doctor) lookAtStatus(r *statusReport) findings {
	var f findings
	f.ok("serving", "sidegate %s runs here; rule in force: %s", r.Version, r.Rule)
	if r.Draining {
		f.warn("serving", "nothing, if the pod is being deleted", "it is draining and takes no new clients soon")
	}
	for _, l := range r.Loaded {
		const mend = "correct what is mounted; it is taken as soon as it is right"
		switch {
		case l.OK:
			f.ok("serving", "%s: generation %s, loaded %s", l.What, l.Generation, rfc3339(l.LastSuccess))
		case l.Flawed:
			f.broken("serving", mend, "%s: generation %s is in service and must be mended: %s", l.What, l.Generation, l.Err)
		default:
			f.warn("serving", mend, "%s: the last good generation %s stays in service, since %s", l.What, l.Generation, l.Err)
		}
	}
	for _, w := range r.Warnings {
		f.warn("serving", "", "%s", w)
	}
	for _, c := range r.Certificates {
		if c.Use == "server" && (d.comesFrom(fromCFSSL) || d.comesFrom(fromACME) || d.comesFrom(fromSPIFFE)) {
			f = append(f, lookAtDates(fmt.Sprintf("the certificate %s in service (%s)", c.Name, strings.Join(c.Names, ", ")), c.NotBefore, c.NotAfter)...)
		}
	}
	return f
}

// lookAtListen says whether a gate has its port, or could have it.
func (d *doctor) lookAtListen(ctx context.Context, s *gateSpec, running *statusReport) findings {
	var f findings
	address := s.listen.String()
	if running != nil {
		for _, g := range running.Gates {
			if g.Name == s.name {
				f.ok("listen", "gate %s is open at %s: %s", s.name, g.Listen, number(g.Connections, "connection"))
				return f
			}
		}
	}
	switch err := d.couldListen(ctx, s.listen, running != nil); {
	case errors.Is(err, syscall.EADDRINUSE) && d.config.Admin == none:
		f.ok("listen", "somebody listens at %s; SIDEGATE_ADMIN is none, so whether that is sidegate can't be asked", address)
	case errors.Is(err, syscall.EADDRINUSE):
		f.broken("listen", "end what has it (an application that binds all addresses?), or give the gate another port", "somebody else listens at %s, so gate %s can't", address, s.name)
	case errors.Is(err, fs.ErrPermission):
		f.broken("listen", "take a port above 1023, and let the Service map 443 to it", "gate %s may not listen at %s as uid %d: %s", s.name, address, os.Getuid(), why(err))
	case err != nil:
		f.broken("listen", "correct the address in "+gateVariable(s.name), "gate %s can't listen at %s: %s", s.name, address, why(err))
	case running != nil:
		f.warn("listen", "see the log: the process that runs has another configuration", "the sidegate that runs here has no gate %s", s.name)
	default:
		f.ok("listen", "%s is free for gate %s", address, s.name)
	}
	return f
}

// couldListen tries the port. It is bound for a moment only where no sidegate
// runs that would want it in just that moment.
func (d *doctor) couldListen(ctx context.Context, a tlsproxy.Address, running bool) error {
	if a.Network == "unix" {
		_, err := files.Stat(filepath.Dir(a.Address))
		return err
	}
	if _, port, err := net.SplitHostPort(a.Address); err != nil || port == "0" {
		return err
	}
	if running {
		if dial(ctx, a.Network, a.Address) == nil {
			return syscall.EADDRINUSE
		}
		return nil
	}
	l, err := net.Listen(a.Network, a.Address)
	if err != nil {
		return err
	}
	return l.Close()
}

// lookAtWorkloadAPI looks at the socket. What is fetched from it, serve's own
// load says.
func (d *doctor) lookAtWorkloadAPI(ctx context.Context) findings {
	var f findings
	u, err := url.Parse(d.config.SPIFFESocket)
	if err != nil || u.Path == "" && u.Host == "" {
		return f
	}
	const mount = "mount the CSI volume csi.spiffe.io there, and see that the SPIRE agent of this node runs"
	network, address := u.Scheme, u.Host
	if u.Scheme == "unix" {
		address = u.Path
		info, err := files.Stat(address)
		switch {
		case err != nil:
			f.broken("spiffe", mount, "%s: %s: %s", spiffeSocket, address, why(err))
			return f
		case info.Mode()&fs.ModeSocket == 0:
			f.broken("spiffe", mount, "%s: %s is not a socket", spiffeSocket, address)
			return f
		}
	} else if u.Scheme != "tcp" {
		return f // its own check has the words
	}
	switch err := dial(ctx, network, address); {
	case errors.Is(err, fs.ErrPermission):
		f.broken("spiffe", "let the agent make its socket for everyone (mode 0777), as it is meant to be", "%s: uid %d may not connect to %s: %s", spiffeSocket, os.Getuid(), address, why(err))
	case err != nil:
		f.broken("spiffe", mount, "%s: nobody listens at %s: %s", spiffeSocket, address, why(err))
	default:
		f.ok("spiffe", "somebody listens at %s", address)
	}
	return f
}

// lookAtCFSSL tries each server, and whether the key to ask with is there.
// Nothing is asked for: what a server issues is the CA's to account for.
func (d *doctor) lookAtCFSSL(ctx context.Context) findings {
	var f findings
	if _, err := files.Read(d.config.CFSSLAuthKey); err != nil {
		f.problem("files", fmt.Errorf("%sCFSSL_AUTH_KEY_FILE: %w", prefix, err))
	} else {
		f.ok("cfssl", "the auth key %s can be read", d.config.CFSSLAuthKey)
	}
	roots, err := files.Roots(d.config.CFSSLCA)
	if err != nil {
		f.problem(caProblem(err), fmt.Errorf("%sCFSSL_CA: %w", prefix, err))
	}
	var attempts []func(context.Context) findings
	for _, server := range d.config.CFSSLURL {
		attempts = append(attempts, func(ctx context.Context) findings { return lookAtCA(ctx, server, roots) })
	}
	return append(f, oneIsEnough(together(ctx, attempts))...)
}

// caProblem is what a file of CAs has: it can't be read, or holds none.
func caProblem(err error) string {
	if about := aboutOf(fmt.Errorf("CA: %w", err)); about == "files" {
		return about
	}
	return "ca"
}

// oneIsEnough makes warnings of what is broken where another one works.
func oneIsEnough(f findings) findings {
	if f.count(levelOK) > 0 {
		for i := range f {
			f[i].Level = min(f[i].Level, levelWarning)
		}
	}
	return f
}

// lookAtCA connects to a CFSSL server and looks at its certificate.
func lookAtCA(ctx context.Context, server string, roots *x509.CertPool) findings {
	var f findings
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return f // the issuer's own check has the words
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	address, bare := net.JoinHostPort(u.Hostname(), port), withoutSecrets([]string{server})
	if u.Scheme == "https" && roots != nil {
		err = handshake(ctx, address, roots)
	} else {
		err = dial(ctx, "tcp", address)
	}
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		f.broken("cfssl", "put the CA of the server's own certificate into SIDEGATE_CFSSL_CA", "%s is not believed: %v", bare, untrusted.Err)
	case err != nil:
		f.broken("cfssl", "see that the server runs, and that NetworkPolicies let this pod reach it", "%s can't be reached: %s", bare, why(err))
	default:
		f.ok("cfssl", "%s can be reached", bare)
	}
	return f
}

func handshake(ctx context.Context, address string, roots *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots}}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// lookAtACME fetches the directory of the ACME server. Nothing is ordered.
func (d *doctor) lookAtACME(ctx context.Context) findings {
	var f findings
	c := d.config
	if c.ACMEEAB != "" {
		if _, err := files.Read(c.ACMEEAB); err != nil {
			f.problem("files", fmt.Errorf("%sACME_EAB_FILE: %w", prefix, err))
		}
	}
	var roots *x509.CertPool // nil: those of the system
	if c.ACMECA != "" {
		var err error
		if roots, err = files.Roots(c.ACMECA); err != nil {
			f.problem(caProblem(err), fmt.Errorf("%sACME_CA: %w", prefix, err))
			return f
		}
	}
	bare := withoutSecrets([]string{c.ACMEURL})
	if bare == "" {
		return f // the issuer's own check has the words
	}
	err := fetchDirectory(ctx, c.ACMEURL, roots)
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		f.broken("acme", "name the CA of the server's own certificate by SIDEGATE_ACME_CA; the image has no CAs of its own", "%s is not believed: %v", bare, untrusted.Err)
	case err != nil:
		f.broken("acme", "see that SIDEGATE_ACME_URL is the server's directory, and that NetworkPolicies let this pod reach it", "%s: %s", bare, why(err))
	default:
		f.ok("acme", "%s is an ACME directory", bare)
	}
	return f
}

// fetchDirectory wants the directory of RFC 8555, 7.1.1.
func fetchDirectory(ctx context.Context, at string, roots *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New("the answer is " + strconv.Itoa(res.StatusCode) + ", not a directory")
	}
	var directory struct{ NewNonce, NewAccount, NewOrder string }
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&directory); err != nil || directory.NewNonce == "" || directory.NewAccount == "" || directory.NewOrder == "" {
		return errors.New("the answer is not an ACME directory")
	}
	return nil
}
