// Package devca makes certificates for demonstrations, by cfssl's own packages.
//
//	ca, err := devca.New("Sidegate demo CA")
//	pair, err := ca.Issue(devca.Leaf{Name: "localhost", Hosts: []string{"localhost"}, Lifetime: time.Hour})
//
// Its key lives in memory and its certificates are for this machine only.
package devca

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/csr"
	"github.com/cloudflare/cfssl/helpers"
	"github.com/cloudflare/cfssl/initca"
	"github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"
)

// CA signs. It may be used concurrently.
type CA struct {
	bundle []byte
	cert   *x509.Certificate
	key    crypto.Signer
}

// Leaf is what to sign.
type Leaf struct {
	Name     string   // common name
	Hosts    []string // DNS names, IP addresses and URIs
	Lifetime time.Duration
	Client   bool // for TLS clients; false: for servers
}

// Pair is a signed certificate and its key, PEM.
type Pair struct{ Cert, Key []byte }

// New makes a CA with a new key.
func New(name string) (*CA, error) {
	log.Level = log.LevelError // cfssl logs each step to stderr by a logger of its own
	bundle, _, keyPEM, err := initca.New(&csr.CertificateRequest{
		CN:         name,
		KeyRequest: &csr.KeyRequest{A: "ecdsa", S: 256},
		CA:         &csr.CAConfig{Expiry: "720h"},
	})
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	key, err := helpers.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	cert, err := helpers.ParseCertificatePEM(bundle)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return &CA{bundle: bundle, cert: cert, key: key}, nil
}

// Bundle is the CA's certificate, PEM.
func (ca *CA) Bundle() []byte { return ca.bundle }

// Issue makes a key and signs its certificate. The certificate begins a
// minute early, for clocks that are a little late.
func (ca *CA) Issue(leaf Leaf) (Pair, error) {
	request, key, err := csr.ParseRequest(&csr.CertificateRequest{
		CN:         leaf.Name,
		Hosts:      leaf.Hosts,
		KeyRequest: &csr.KeyRequest{A: "ecdsa", S: 256},
	})
	if err != nil {
		return Pair{}, fmt.Errorf("make key for %s: %w", leaf.Name, err)
	}
	usage := "server auth"
	if leaf.Client {
		usage = "client auth"
	}
	s, err := local.NewSigner(ca.key, ca.cert, signer.DefaultSigAlgo(ca.key), &config.Signing{
		Default: &config.SigningProfile{
			Usage:        []string{"digital signature", usage},
			Expiry:       leaf.Lifetime,
			ExpiryString: leaf.Lifetime.String(),
			Backdate:     time.Minute,
		},
	})
	if err != nil {
		return Pair{}, fmt.Errorf("sign %s: %w", leaf.Name, err)
	}
	cert, err := s.Sign(signer.SignRequest{Request: string(request)})
	if err != nil {
		return Pair{}, fmt.Errorf("sign %s: %w", leaf.Name, err)
	}
	return Pair{Cert: cert, Key: key}, nil
}
