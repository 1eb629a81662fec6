package cfssl

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/cloudflare/cfssl/api"
	"github.com/cloudflare/cfssl/auth"
	"github.com/cloudflare/cfssl/info"
	"github.com/cloudflare/cfssl/signer"

	"sidegate/certs"
)

const (
	// attemptTime is what one server has for both questions.
	attemptTime = 10 * time.Second
	dialTime    = 5 * time.Second
	maxAnswer   = 1 << 20
	maxText     = 300 // of what others wrote, in an error
)

// server is one CFSSL server for one attempt.
type server struct {
	url    string
	pins   *pins
	client *http.Client
}

// newServer has a transport of its own: the CAs may have changed since the
// last one. It knows no proxy, whatever the environment says.
func newServer(url string, pins *pins) *server {
	return &server{strings.TrimRight(url, "/"), pins, &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: dialTime}).DialContext,
			TLSHandshakeTimeout:    dialTime,
			TLSClientConfig:        &tls.Config{RootCAs: pins.pool, MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		// To follow would send the token to where the pinned name did not say.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *server) close() { s.client.CloseIdleConnections() }

// info is the CAs that the server signs with.
func (s *server) info(ctx context.Context, label, profile string) ([]*x509.Certificate, error) {
	var has info.Resp
	if err := s.ask(ctx, "info", info.Req{Label: label, Profile: profile}, &has); err != nil {
		return nil, err
	}
	return parse("info", has.Certificate)
}

// sign is the signed certificate, and what the server may have sent after it.
func (s *server) sign(ctx context.Context, provider auth.Provider, r signer.SignRequest) ([]*x509.Certificate, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	token, err := provider.Token(text)
	if err != nil {
		return nil, err
	}
	var has struct{ Certificate string }
	question := auth.AuthenticatedRequest{Timestamp: time.Now().Unix(), Token: token, Request: text}
	if err := s.ask(ctx, "authsign", question, &has); err != nil {
		return nil, err
	}
	return parse("authsign", has.Certificate)
}

// parse reads the certificates of an answer.
func parse(endpoint, text string) ([]*x509.Certificate, error) {
	list, err := certs.ParseCertificates("the answer to "+endpoint, []byte(text))
	if err != nil {
		return nil, errors.New(short(err.Error()))
	}
	return list, nil
}

// signRequest names the hosts beside the CSR, for profiles that take none of
// that.
func signRequest(ask *request, hosts []string, profile, label string) signer.SignRequest {
	return signer.SignRequest{Request: string(ask.csrPEM), Hosts: hosts, Profile: profile, Label: label}
}

// ask posts a question and reads the result of the answer.
func (s *server) ask(ctx context.Context, endpoint string, question, result any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/api/v1/cfssl/"+endpoint, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(r)
	if err != nil {
		return s.unreached(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return s.unreached(err)
	}
	if len(body) > maxAnswer {
		return fmt.Errorf("the answer to %s is larger than %d MiB", endpoint, maxAnswer>>20)
	}
	return read(endpoint, res, body, result)
}

// read takes the result out of an answer.
func read(endpoint string, res *http.Response, body []byte, result any) error {
	var has struct {
		Success bool
		Result  json.RawMessage
		Errors  []api.ResponseMessage
	}
	err := json.Unmarshal(body, &has)
	said := fmt.Sprintf("status %d", res.StatusCode)
	if err == nil && len(has.Errors) > 0 {
		said = fmt.Sprintf("%q", short(has.Errors[0].Message))
	}
	switch {
	case res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests:
		return &unanswered{why: endpoint + ": " + said, late: true}
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return fmt.Errorf("%s: it redirects to %q, which is not followed; name the server itself", endpoint, short(res.Header.Get("Location")))
	case err != nil && res.StatusCode == http.StatusOK:
		return fmt.Errorf("the answer to %s is none of CFSSL: %s", endpoint, short(err.Error()))
	case err != nil || res.StatusCode != http.StatusOK || !has.Success:
		return &refusal{endpoint, said}
	}
	if err := json.Unmarshal(has.Result, result); err != nil {
		return fmt.Errorf("the answer to %s is none of CFSSL: %s", endpoint, short(err.Error()))
	}
	return nil
}

// refusal is that the server understood and would not.
type refusal struct{ endpoint, said string }

func (r *refusal) Error() string { return r.endpoint + " was refused: " + r.said }

// explain adds what is wrong as a rule, with the words of cfssl's signhandler.
func (r *refusal) explain(authKey, profile string) error {
	switch {
	case strings.Contains(r.said, "invalid token"):
		return fmt.Errorf("%w; the key in %s is not that of its profile %q", r, authKey, profile)
	case strings.Contains(r.said, "no authentication provider"):
		return fmt.Errorf("%w; it has no profile %q with an auth_key", r, profile)
	}
	return r
}

// unanswered is why a server could not be asked, or had no answer: nothing of
// it was believed, and the next one may be asked.
type unanswered struct {
	why  string
	late bool // it may be there in a moment
}

func (u *unanswered) Error() string { return u.why }

// Unwrap gives a [*net.OpError] for a server that may only be late, by which
// those who start with it know. It is not the one of the network, whose text
// holds our own port.
func (u *unanswered) Unwrap() error {
	if !u.late {
		return nil
	}
	return &net.OpError{Op: "ask", Net: "tcp", Err: errors.New(u.why)}
}

// unreached says why there is no answer, in words that are the same each time.
func (s *server) unreached(err error) error {
	var lookup *net.DNSError
	var op *net.OpError
	var timed net.Error
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return &unanswered{why: "its own certificate is not good: " + s.pins.explain(untrusted.Err)}
	case errors.As(err, &lookup):
		return &unanswered{why: "its name can't be looked up: " + lookupProblem(lookup), late: true}
	case errors.As(err, &timed) && timed.Timeout():
		return &unanswered{why: "no answer in time", late: true}
	case errors.As(err, &op) && op.Op == "remote error": // an alert of TLS
		return &unanswered{why: "it refuses the handshake: " + short(op.Err.Error())}
	case errors.As(err, &op):
		return &unanswered{why: short(op.Err.Error()), late: true}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &unanswered{why: "it closed the connection without an answer", late: true}
	}
	if cause := errors.Unwrap(err); cause != nil {
		err = cause // without the URL, which stands before it anyway
	}
	return &unanswered{why: short(err.Error())}
}

// lookupProblem leaves out the resolver's address and our port to it.
func lookupProblem(e *net.DNSError) string {
	switch {
	case e.IsNotFound:
		return "no such host"
	case e.IsTimeout:
		return "no answer in time"
	}
	return "the resolver can't tell"
}

// short cuts what others wrote, and drops what is not text.
func short(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxText {
		return string(runes[:maxText]) + "…"
	}
	return s
}
