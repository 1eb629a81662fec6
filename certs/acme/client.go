package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/acme"

	"sidegate/certs/files"
)

// Bounds of what a server can cost.
const (
	dialTimeout = 10 * time.Second
	callTimeout = 30 * time.Second // one request with its answer
	maxAnswer   = 1 << 20          // bytes
	maxQuiet    = time.Hour        // for which a server can ask not to be asked
	maxDetail   = 300              // characters of what a server says in an error
	maxNonces   = 5                // that a server may call stale in a row
)

// transport connects to the server alone, never through a proxy of the
// environment.
func (i *Issuer) transport() (*http.Transport, error) {
	roots, err := i.roots()
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

// roots reads the CAs of the server anew; nil: those of the system.
func (i *Issuer) roots() (*x509.CertPool, error) {
	if i.CA == "" {
		return nil, nil
	}
	return files.Roots(i.CA)
}

func client(t http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: bounded{t},
		Timeout:   callTimeout,
		// A signed request is for one URL, and none may lead away from https.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded speaks https alone, whatever URLs a directory has, and ends answers
// that are too long.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("the server's directory leads to %.20s://, not https://", r.URL.Scheme)
	}
	res, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = &limited{res.Body, maxAnswer}
	if later := res.Header.Get("Retry-After"); later != "" && over(later) {
		res.Header.Del("Retry-After")
	}
	return res, nil
}

// over reports whether a Retry-After is a time that has passed, as it is by a
// clock that is behind. x/crypto/acme would ask again without any pause.
func over(later string) bool {
	if seconds, err := strconv.Atoi(later); err == nil {
		return seconds <= 0
	}
	at, err := http.ParseTime(later)
	return err == nil && time.Until(at) <= 0
}

// limited is a body that ends with an error when it goes on for too long.
type limited struct {
	io.ReadCloser
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, fmt.Errorf("an answer has more than %d bytes", maxAnswer)
	}
	n, err := l.ReadCloser.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// onlyNonces tries again what a server refused for a stale nonce, of which it
// is the only cure (RFC 8555 6.5). All else is for the store's own pauses.
func onlyNonces(n int, _ *http.Request, res *http.Response) time.Duration {
	if res.StatusCode != http.StatusBadRequest || n > maxNonces {
		return 0
	}
	return time.Duration(n) * 100 * time.Millisecond
}

// step is what was being done when err came.
type step struct {
	doing string
	err   error
}

func while(doing string, err error) error { return &step{doing, err} }

func (s *step) Error() string { return s.doing + ": " + stable(s.err) }

func (s *step) Unwrap() error { return s.err }

// hush keeps quiet for as long as a server asked for (RFC 8555 6.6), in which
// the last answer stands.
func (i *Issuer) hush(err error) {
	var problem *acme.Error
	if !errors.As(err, &problem) {
		return
	}
	if wait, limited := acme.RateLimit(problem); limited {
		i.quiet, i.refused = time.Now().Add(min(wait, maxQuiet)), err
	}
}

// stable is the text of an error without what changes from one attempt to the
// next: URLs of orders, ports of ours, nonces, times.
func stable(err error) string {
	var authorization *acme.AuthorizationError
	var order *acme.OrderError
	var problem *acme.Error
	switch {
	case errors.As(err, &authorization):
		if len(authorization.Errors) == 0 {
			return "the server does not say why not"
		}
		var list []string
		for _, e := range authorization.Errors {
			list = append(list, stable(e))
		}
		return strings.Join(list, "; ")
	case errors.As(err, &order) && order.Problem != nil:
		return stable(order.Problem)
	case errors.As(err, &order):
		return fmt.Sprintf("the order is %.20q", order.Status)
	case errors.As(err, &problem):
		return problemText(problem)
	case errors.Is(err, context.DeadlineExceeded):
		return "the server takes too long"
	}
	var call *url.Error
	if errors.As(err, &call) {
		err = call.Err
	}
	var untrusted x509.UnknownAuthorityError
	text := ownPort.ReplaceAllString(err.Error(), "")
	if errors.As(err, &untrusted) {
		text += " (SIDEGATE_ACME_CA names the CAs of the server)"
	}
	return oneLine(text)
}

// ownPort is our end of a connection, as package net names it.
var ownPort = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:.%]+\]):\d+->`)

// problemText is a problem document (RFC 7807, RFC 8555 6.7) in one line.
func problemText(p *acme.Error) string {
	kind := strings.TrimPrefix(p.ProblemType, "urn:ietf:params:acme:error:")
	if kind == "" {
		kind = fmt.Sprintf("status %d", p.StatusCode)
	}
	if strings.EqualFold(kind, "badNonce") { // the detail is the nonce
		return "badNonce: the server takes none of its own nonces"
	}
	text := kind + ": " + p.Detail
	for _, sub := range p.Subproblems {
		text += "; "
		if sub.Identifier != nil {
			text += sub.Identifier.Value + ": "
		}
		text += sub.Detail
	}
	return oneLine(pointInTime.ReplaceAllString(text, "…"))
}

// pointInTime is such as from when a server that counts may be asked again.
var pointInTime = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(UTC|Z|[+-]\d\d:?\d\d))*`)

// oneLine makes a line of bounded length of what a server said.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return fmt.Sprintf("%.*s", maxDetail, strings.Join(strings.Fields(s), " "))
}
