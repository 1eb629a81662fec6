package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/acme"

	"sidegate/certs/files"
)

// proofType is the only proof that is spoken.
const proofType = "tls-alpn-01"

// session is one conversation with the server.
type session struct {
	*Issuer
	client *acme.Client
	close  func()
}

// open begins a conversation as the holder of the account, which is made if
// the server does not know it.
func (i *Issuer) open(ctx context.Context) (s *session, err error) {
	binding, err := i.binding()
	if err != nil {
		return nil, err
	}
	key, err := i.accountKey(binding)
	if err != nil {
		return nil, err
	}
	transport, err := i.transport()
	if err != nil {
		return nil, err
	}
	s = &session{Issuer: i, close: transport.CloseIdleConnections}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.client = &acme.Client{
		Key: key, DirectoryURL: i.Directory, HTTPClient: client(transport), RetryBackoff: onlyNonces, UserAgent: "sidegate",
	}
	return s, s.register(ctx, binding)
}

// register makes sure that there is an account. Asking whether there is one
// comes first: a binding may be good for one registration only.
func (s *session) register(ctx context.Context, binding *acme.ExternalAccountBinding) error {
	directory, err := s.client.Discover(ctx)
	if err != nil {
		return while("ask for the directory", err)
	}
	account, err := s.client.GetReg(ctx, "")
	if errors.Is(err, acme.ErrNoAccount) {
		if directory.ExternalAccountRequired && binding == nil {
			return errors.New("the server wants an external account binding: mount kid and hmac, and set SIDEGATE_ACME_EAB_FILE")
		}
		account = &acme.Account{ExternalAccountBinding: binding}
		if s.Email != "" {
			account.Contact = []string{"mailto:" + s.Email}
		}
		account, err = s.client.Register(ctx, account, acme.AcceptTOS)
		if err == nil {
			s.Log.Info("account registered", "source", s.Directory)
		}
	}
	if err != nil {
		return while("register an account", err)
	}
	s.client.KID = acme.KeyID(account.URI)
	return nil
}

// binding reads the external account binding anew; nil: there is none.
func (i *Issuer) binding() (*acme.ExternalAccountBinding, error) {
	if i.EAB == "" {
		return nil, nil
	}
	content, err := files.Read(i.EAB)
	if err != nil {
		return nil, err
	}
	b := &acme.ExternalAccountBinding{KID: strings.TrimSpace(string(content["kid"]))}
	if b.KID == "" {
		return nil, fmt.Errorf("%s holds no kid, the id of the external account binding; the key beside it is hmac", i.EAB)
	}
	if b.Key, err = decodeHMAC(string(content["hmac"])); err != nil {
		return nil, fmt.Errorf("%s %w", filepath.Join(i.EAB, "hmac"), err)
	}
	return b, nil
}

var base64URL = strings.NewReplacer("+", "-", "/", "_")

// decodeHMAC reads the key of a binding as CAs hand it out: base64url, with or
// without padding, or the ordinary base64. Its errors don't quote it.
func decodeHMAC(text string) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	key, err := base64.RawURLEncoding.Strict().DecodeString(base64URL.Replace(text))
	switch {
	case err != nil:
		return nil, errors.New("is not base64url, as the CA shows the key of a binding")
	case len(key) == 0:
		return nil, errors.New("is missing or empty; it holds the key of the external account binding")
	}
	return key, nil
}

// order gets a certificate with a new key and returns both as encodePair does.
func (s *session) order(ctx context.Context) ([]byte, error) {
	names := s.names()
	order, err := s.client.AuthorizeOrder(ctx, acme.DomainIDs(names...))
	if err != nil {
		return nil, while("order a certificate", err)
	}
	if err := s.prove(ctx, order.AuthzURLs); err != nil {
		return nil, err
	}
	if order, err = s.client.WaitOrder(ctx, order.URI); err != nil {
		return nil, while("wait for the order", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		return nil, err
	}
	chain, _, err := s.client.CreateCertFromOrder(ctx, order, csr, true)
	if err != nil {
		return nil, while("fetch the certificate", err)
	}
	return encodePair(key, chain)
}

// prove proves every name that the server does not know to be ours already.
// All are under way together, and none is given up before each has its answer:
// servers count the failures of a name.
func (s *session) prove(ctx context.Context, authorizations []string) error {
	proofs, err := s.proofsOf(ctx, authorizations)
	if err != nil {
		return err
	}
	for _, p := range proofs {
		s.publish(p.name, &p.cert)
		defer s.withdraw(p.name)
		if _, err := s.client.Accept(ctx, p.challenge); err != nil {
			return while("prove "+p.name, err)
		}
	}
	var errs []error
	for _, p := range proofs {
		if _, err := s.client.WaitAuthorization(ctx, p.authorization); err != nil {
			errs = append(errs, while("prove "+p.name, err))
		}
	}
	return errors.Join(errs...)
}

// proof is what shows one name to be ours.
type proof struct {
	name          string
	authorization string // URL
	challenge     *acme.Challenge
	cert          tls.Certificate
}

// proofsOf prepares the proofs of those authorizations that want one.
func (s *session) proofsOf(ctx context.Context, authorizations []string) ([]proof, error) {
	var proofs []proof
	for _, url := range authorizations {
		a, err := s.client.GetAuthorization(ctx, url)
		if err != nil {
			return nil, while("ask how to prove the names", err)
		}
		name := strings.ToLower(a.Identifier.Value)
		switch {
		case a.Status == acme.StatusValid: // it was proven for an order before this
			continue
		case a.Identifier.Type != "dns" || a.Wildcard || !slices.Contains(s.names(), name):
			return nil, fmt.Errorf("the server wants a proof of %.100q, which was not ordered", name)
		case a.Status != acme.StatusPending:
			return nil, fmt.Errorf("the server says that the proof of %s is %.20q", name, a.Status)
		}
		c, err := challengeOf(a)
		if err != nil {
			return nil, err
		}
		cert, err := s.client.TLSALPN01ChallengeCert(c.Token, name)
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, proof{name, url, c, cert})
	}
	return proofs, nil
}

func challengeOf(a *acme.Authorization) (*acme.Challenge, error) {
	var offered []string
	for _, c := range a.Challenges {
		if c.Type == proofType {
			return c, nil
		}
		offered = append(offered, c.Type)
	}
	return nil, fmt.Errorf("the server takes no %s for %s, the only proof that goes through the gate's own port (it offers %.100q)", proofType, a.Identifier.Value, offered)
}
