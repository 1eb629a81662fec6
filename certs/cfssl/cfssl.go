// Package cfssl has certificates issued by a CFSSL server.
//
//	issuer := &cfssl.Issuer{
//		Servers: []string{"https://ca.example:8888"},
//		CA:      "/etc/sidegate/cfssl/ca.crt",
//		AuthKey: "/etc/sidegate/cfssl/auth-key",
//		Hosts:   []string{"app.example", "spiffe://prod.example/app"},
//	}
//	store := &certs.Store{Source: &certs.Issued{Issuer: issuer}, RefuseExpired: true, Log: log}
//
// # Promises
//
// Each certificate has a new ECDSA P-256 key, which leaves memory only for the
// [files.Cache]. An answer counts when the certificate is of that key, has every
// name that was asked for, serves TLS, is not over and chains to the file of
// CAs; the chain is completed with what the server says of its CA, since CFSSL
// signs and returns the leaf alone. Clients are believed by the CAs that the
// server names, as far as that file vouches for them, and never by the rest of
// the file.
//
// Every question ends at a deadline, every answer has a largest size, and the
// key of authsign is used over TLS that the file of CAs vouches for, without a
// proxy. Both files are read anew for each certificate.
//
// A server that can't be reached, does not prove who it is or has an error of
// its own (5xx) is passed over with a warning, and the next in order is asked. A
// wrong answer is none of these: it ends the attempt, because somebody must look
// at it, and the next server must not hide it.
//
// # What it does not do
//
// It can't tell that a profile does not exist: CFSSL signs with its default
// profile then, if the key fits that. When the server begins to sign with
// another CA, clients of the one before are refused: name both in
// SIDEGATE_CLIENT_CA for as long as both are about.
//
// # Design
//
// The protocol's types and its authentication are cfssl's own. Its client is
// not used: it takes no context and has no timeout, reads an answer of any
// size, panics on an answer of other JSON types, takes proxies from the
// environment, changes the tls.Config that it is given, and takes an address
// without a scheme for plain http. Two small POSTs are the lesser evil.
package cfssl

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cloudflare/cfssl/auth"

	"sidegate/certs"
	"sidegate/certs/files"
)

// Issuer implements [certs.Issuer]. Its fields are set before the first call.
type Issuer struct {
	// Servers are URLs, https://HOST:PORT, asked in this order.
	Servers []string
	// CA is the file with the CAs that the servers' own certificates and those
	// that they issue must chain to.
	CA string
	// AuthKey is the file with the key of authsign, hexadecimal.
	AuthKey string
	// Profile and Label choose among those of the server; "": its defaults.
	Profile, Label string
	// Hosts are the names to have in the certificate: DNS names, IP addresses,
	// e-mail addresses, URIs. The first DNS name is the common name too, where
	// it is not too long for one.
	Hosts []string
	// Insecure allows http:// servers.
	Insecure bool
	// Cache keeps key and certificate for the next start; nil: memory alone.
	Cache *files.Cache

	started  bool     // the cache was looked at
	warnings []string // of the cache
	judgedBy []byte   // the file of CAs that vouched for what was returned last
}

// pairName is what logs and metrics call the pair.
const pairName = "cfssl"

// Check reports every problem of the fields at once, without the network. It
// reads the files.
func (i *Issuer) Check() error {
	var errs []error
	for n, s := range i.Servers {
		if err := i.checkServer(s); err != nil {
			errs = append(errs, fmt.Errorf("server %d of the list %w", n+1, err))
		}
	}
	_, hosts := i.request()
	_, err := i.pins()
	errs = append(append(errs, hosts...), err)
	_, err = i.provider()
	return errors.Join(append(errs, err)...)
}

// checkServer refuses what the http client would read in another way than its
// writer, or tell in the log. It doesn't quote: what is no URL may be a secret.
func (i *Issuer) checkServer(server string) error {
	u, err := url.Parse(server)
	port := 0
	if err == nil && u.Port() != "" {
		port, err = strconv.Atoi(u.Port())
	}
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || port > 65535:
		return errors.New("is not https://HOST:PORT")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("is not https://HOST:PORT: it has more than that")
	case u.Scheme == "http" && !i.Insecure:
		return errors.New("is not https://, so that whoever sees a request could have it signed again; SIDEGATE_CFSSL_INSECURE=true lets it in")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("is not https://HOST:PORT")
	}
	return nil
}

// String names the servers.
func (i *Issuer) String() string { return strings.Join(i.Servers, ",") }

// Issue implements [certs.Issuer]. The first call gives what the cache has, if
// that is still good. The error wraps a [*net.OpError] if a server may only be
// late.
func (i *Issuer) Issue(ctx context.Context) (certs.Input, error) {
	pins, err := i.pins()
	if err != nil {
		return certs.Input{}, err
	}
	in, ok := i.atStart(pins)
	if !ok {
		in, err = i.renewed(ctx, pins)
	}
	if err == nil {
		i.judgedBy = pins.text
	}
	return in, err
}

// Outdated reports whether the file of CAs has changed since, so that who is
// no longer vouched for is not noticed at the next renewal only.
func (i *Issuer) Outdated() bool {
	data, err := files.ReadOne(i.CA)
	return err == nil && !bytes.Equal(data, i.judgedBy)
}

// atStart is what the cache has, for the first call.
func (i *Issuer) atStart(pins *pins) (certs.Input, bool) {
	if i.started {
		return certs.Input{}, false
	}
	i.started = true
	return i.kept(pins)
}

// renewed is a new certificate.
func (i *Issuer) renewed(ctx context.Context, pins *pins) (certs.Input, error) {
	provider, err := i.provider()
	if err != nil {
		return certs.Input{}, err
	}
	ask, err := i.newRequest()
	if err != nil {
		return certs.Input{}, err
	}
	return i.firstOf(ctx, pins, provider, ask)
}

// firstOf has the request signed by the first server that answers.
func (i *Issuer) firstOf(ctx context.Context, pins *pins, provider auth.Provider, ask *request) (certs.Input, error) {
	var failed outage
	var warnings []string
	for _, url := range i.Servers {
		given, err := i.signedBy(ctx, url, pins, provider, ask)
		if err == nil {
			in := given.input(url, ask.keyPEM)
			in.Warnings = append(append(warnings, i.keep(given, ask.keyPEM)...), i.warnings...)
			i.warnings = nil
			return in, nil
		}
		err = fmt.Errorf("%s: %w", url, err)
		var out *unanswered
		if !errors.As(err, &out) {
			return certs.Input{}, err
		}
		failed = append(failed, err)
		warnings = append(warnings, err.Error()+"; the next server was asked")
	}
	return certs.Input{}, failed
}

// outage is that no server answered, and why each did not.
type outage []error

func (o outage) Error() string {
	var list []string
	for _, err := range o {
		list = append(list, err.Error())
	}
	return strings.Join(list, "; ")
}

// Unwrap gives the servers' errors.
func (o outage) Unwrap() []error { return o }

// signedBy asks one server and believes nothing of its answer that is not
// checked.
func (i *Issuer) signedBy(ctx context.Context, url string, pins *pins, provider auth.Provider, ask *request) (*given, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	s := newServer(url, pins)
	defer s.close()
	authorities, err := s.info(ctx, i.Label, i.Profile)
	if err != nil {
		return nil, err
	}
	// The server's CA is judged before it gets a token.
	if _, err := pins.vouchedFor(authorities, time.Now()); err != nil {
		return nil, err
	}
	chain, err := s.sign(ctx, provider, signRequest(ask, i.Hosts, i.Profile, i.Label))
	var refused *refusal
	if errors.As(err, &refused) {
		return nil, refused.explain(i.AuthKey, i.Profile)
	}
	if err != nil {
		return nil, err
	}
	return pins.accept(answer{chain, authorities}, ask, time.Now())
}

// pins reads the file of CAs.
func (i *Issuer) pins() (*pins, error) {
	data, err := files.ReadOne(i.CA)
	if err != nil {
		return nil, err
	}
	cas, err := certs.ParseCertificates(i.CA, data)
	if err != nil {
		return nil, err
	}
	return &pins{file: i.CA, text: data, cas: cas, pool: certs.Pool(cas)}, nil
}

// provider reads the key of authsign. No error has any of its bytes. The
// prefixes env: and file: of cfssl's own configuration mean nothing here: what
// a mounted file holds must not name others.
func (i *Issuer) provider() (auth.Provider, error) {
	data, err := files.ReadOne(i.AuthKey)
	if err != nil {
		return nil, err
	}
	key := strings.TrimSpace(string(data))
	if _, err := hex.DecodeString(key); err != nil || key == "" {
		return nil, fmt.Errorf("%s is not a key of a CFSSL profile: an even number of hexadecimal digits", i.AuthKey)
	}
	return auth.New(key, nil)
}
