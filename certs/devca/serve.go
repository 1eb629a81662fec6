package devca

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/cloudflare/cfssl/api/info"
	"github.com/cloudflare/cfssl/api/signhandler"
	"github.com/cloudflare/cfssl/auth"
	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"
)

// maxQuestion is what a signing request with many names has room in.
const maxQuestion = 64 << 10

// Handler answers as a CFSSL server does to authsign and info. Whoever has the
// key, hexadecimal, gets certificates for servers and clients of any name that
// live as long as lifetime says. Every profile and label is the same.
func (ca *CA) Handler(key string, lifetime time.Duration) (http.Handler, error) {
	if lifetime < time.Second {
		return nil, fmt.Errorf("lifetime %s is shorter than 1s", lifetime)
	}
	provider, err := auth.New(key, nil)
	if err != nil || key == "" {
		return nil, errors.New("the key is not hexadecimal") // the cause may quote it
	}
	s, err := local.NewSigner(ca.key, ca.cert, signer.DefaultSigAlgo(ca.key), &config.Signing{
		Default: &config.SigningProfile{
			Usage:        Leaf{Server: true, Client: true}.usages(),
			Expiry:       lifetime,
			ExpiryString: lifetime.String(),
			Provider:     provider,
		},
	})
	if err != nil {
		return nil, err
	}
	exact := &exactSigner{s, ca, lifetime}
	sign, err := signhandler.NewAuthHandlerFromSigner(exact)
	if err != nil {
		return nil, err
	}
	about, err := info.NewHandler(exact)
	if err != nil {
		return nil, err
	}
	return http.MaxBytesHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v1/cfssl/authsign":
			sign.ServeHTTP(w, r)
		case "/api/v1/cfssl/info":
			about.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	}), maxQuestion), nil
}

// exactSigner counts the lifetime from now to the second, as Issue does.
type exactSigner struct {
	*local.Signer
	ca       *CA
	lifetime time.Duration
}

func (s *exactSigner) Sign(r signer.SignRequest) ([]byte, error) {
	now := time.Now()
	r.NotBefore, r.NotAfter = now.Add(-backdate), now.Add(s.lifetime)
	if r.NotAfter.After(s.ca.cert.NotAfter) {
		return nil, fmt.Errorf("the CA ends %s, before what it would sign", s.ca.cert.NotAfter.Format(time.RFC3339))
	}
	return s.Signer.Sign(r)
}

// ownLifetime is that of the certificate that a server of the CA has itself.
const ownLifetime = time.Hour

// TLS is the configuration of a server with a certificate of the CA for the
// hosts, which renews itself.
func (ca *CA) TLS(hosts []string) (*tls.Config, error) {
	own := &own{ca: ca, hosts: hosts}
	if _, err := own.certificate(nil); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: own.certificate}, nil
}

// own is the certificate of such a server.
type own struct {
	ca    *CA
	hosts []string

	mu      sync.Mutex
	current *tls.Certificate
}

// certificate makes another one when half of the lifetime is over.
func (o *own) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current != nil && time.Until(o.current.Leaf.NotAfter) > ownLifetime/2 {
		return o.current, nil
	}
	cert, key, err := o.ca.Server(o.hosts, min(ownLifetime, time.Until(o.ca.cert.NotAfter)-time.Second))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	o.current = &pair
	return o.current, nil
}
