// Package acme has certificates issued by an ACME server (RFC 8555), which
// looks at the gate's own port for the proof (TLS-ALPN-01, RFC 8737).
//
//	issuer := &acme.Issuer{Directory: url, Hosts: []string{"web.example"}, Cache: cache, Open: proxy.Opened()}
//	if err := issuer.Check(); err != nil { … }
//	store := &certs.Store{Source: &certs.Issued{Issuer: issuer}, MayStartEmpty: true, RefuseExpired: true, Log: log}
//	gate.Certificates, gate.Challenge = store, issuer.Challenge
//
// Only that proof is spoken: it needs no other port and no rights at a DNS
// server, and passes a router that hands TLS on as it is. It can't prove
// wildcards, and the server must reach this very process: where several stand
// behind one name it would find any of them.
//
// # Design
//
// When to renew, retries, the swap, metrics and logs are [certs.Issued]'s and
// [certs.Store]'s as for every other source. autocert has its own of each, asks
// for a certificate in the handshake of whoever names a host, and tells nobody
// why there is none.
package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"sidegate/certs"
	"sidegate/certs/files"
)

// Issuer implements [certs.Issuer]. Its fields are set before the first call.
type Issuer struct {
	// Directory is the URL of the server's directory, https.
	Directory string
	// Email is the contact of the account; "": none.
	Email string
	// CA is the file with the CAs that the server's own certificate must chain
	// to, read for each certificate anew; "": those of the system.
	CA string
	// EAB is the folder with kid and hmac of an external account binding
	// (RFC 8555 7.3.4), read for each certificate anew; "": none.
	EAB string
	// Hosts are the DNS names to have in the certificate.
	Hosts []string
	// Cache keeps account, key and certificate for the next start; nil: memory
	// alone.
	Cache *files.Cache
	// Open is closed when the gates listen; nil: they do already.
	Open <-chan struct{}
	Log  *slog.Logger

	// These are Issue's own.
	begun    bool                         // what was kept has been looked at
	accounts map[string]*ecdsa.PrivateKey // by file
	quiet    time.Time                    // until when the server doesn't want to be asked
	refused  error                        // what it said then

	mu     sync.Mutex
	proofs map[string]*tls.Certificate // under way, by name
}

// maxHosts is how many names servers put into one certificate.
const maxHosts = 100

// Check reports every problem of the fields but Hosts at once, without the
// network.
func (i *Issuer) Check() error {
	errs := []error{checkDirectory(i.Directory)}
	if a, err := mail.ParseAddress(i.Email); i.Email != "" && (err != nil || a.Address != i.Email) {
		errs = append(errs, errors.New("the contact is not an e-mail address"))
	}
	if i.CA != "" {
		_, err := i.roots()
		errs = append(errs, err)
	}
	if i.EAB != "" {
		_, err := i.binding()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// CheckHosts reports every problem of Hosts at once.
func (i *Issuer) CheckHosts() error {
	var errs []error
	if len(i.Hosts) > maxHosts {
		errs = append(errs, fmt.Errorf("%d names are more than the %d that servers put into one certificate", len(i.Hosts), maxHosts))
	}
	seen := map[string]bool{}
	for _, host := range i.names() {
		if seen[host] {
			errs = append(errs, fmt.Errorf("%s is there twice", host))
		}
		seen[host] = true
		errs = append(errs, checkHost(host))
	}
	return errors.Join(errs...)
}

func checkDirectory(directory string) error {
	u, err := url.Parse(directory)
	switch {
	case err != nil:
		return errors.New("the directory is not a URL") // the cause quotes it, with a password if there is one
	case u.User != nil:
		return errors.New("the directory has a user or password in it, which would stand in the log; ACME knows none")
	case u.Scheme != "https" || u.Hostname() == "":
		return errors.New("the directory is not an https:// URL; ACME is spoken over TLS alone (RFC 8555 6.1)")
	}
	return nil
}

// dnsName is how names stand in certificates: letters, digits and hyphens.
var dnsName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return fmt.Errorf("%s is an IP address; a certificate from here is for DNS names", host)
	}
	switch {
	case strings.HasPrefix(host, "*."):
		return fmt.Errorf("%s is a wildcard, which the gate's port can't prove (TLS-ALPN-01): name the hosts, or let cert-manager prove it by DNS", host)
	case len(host) > 253 || !dnsName.MatchString(host):
		return fmt.Errorf("%q is not a DNS name of letters, digits and hyphens (xn--… for others)", host)
	}
	return nil
}

// names are Hosts as certificates and hellos are compared.
func (i *Issuer) names() []string {
	names := make([]string, len(i.Hosts))
	for n, host := range i.Hosts {
		names[n] = strings.ToLower(host)
	}
	return names
}

// issueTimeout bounds one order with all of its proofs.
const issueTimeout = 5 * time.Minute

// Issue implements [certs.Issuer]. The first call gives what was kept, or
// [certs.ErrPending]: the server can look at the gate only when it is open, for
// which every later call waits.
func (i *Issuer) Issue(ctx context.Context) (certs.Input, error) {
	if !i.begun {
		i.begun = true
		return i.kept()
	}
	if i.Open != nil {
		select {
		case <-i.Open:
		case <-ctx.Done():
			return certs.Input{}, ctx.Err()
		}
	}
	if time.Now().Before(i.quiet) {
		return certs.Input{}, i.refused
	}
	in, err := i.issue(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %w", i, err)
		i.hush(err)
	}
	return in, err
}

func (i *Issuer) issue(ctx context.Context) (certs.Input, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	s, err := i.open(ctx)
	if err != nil {
		return certs.Input{}, err
	}
	defer s.close()
	pair, err := s.order(ctx)
	if err != nil {
		return certs.Input{}, err
	}
	in, err := i.usable(pair, time.Now())
	if err != nil {
		return certs.Input{}, fmt.Errorf("the server's certificate is of no use: %w", err)
	}
	i.keep(i.pairFile(), pair)
	return in, nil
}

// Challenge is the certificate that proves a name to the server, for a
// handshake that offers acme-tls/1 alone. It errs when none is under way; the
// error's Reason is one word for metrics.
func (i *Issuer) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if proof := i.proofs[strings.ToLower(hello.ServerName)]; proof != nil {
		return proof, nil
	}
	return nil, noProof(hello.ServerName)
}

// noProof is the name for which nothing is to be proven now.
type noProof string

func (n noProof) Error() string {
	return fmt.Sprintf("a proof for an ACME server is asked for, and none of %q is under way", string(n))
}

// Reason is of the closed list of the log.
func (n noProof) Reason() string { return "no_challenge" }

// publish shows a proof to whoever asks for it, until withdraw.
func (i *Issuer) publish(name string, proof *tls.Certificate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.proofs == nil {
		i.proofs = map[string]*tls.Certificate{}
	}
	i.proofs[name] = proof
}

func (i *Issuer) withdraw(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.proofs, name)
}

// String names the directory, without a query, which may hold a token.
func (i *Issuer) String() string {
	bare, _, _ := strings.Cut(i.Directory, "?")
	return bare
}
