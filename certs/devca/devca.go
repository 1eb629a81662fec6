// Package devca makes certificates for laptops, demonstrations and tests, by
// cfssl's own packages.
//
//	ca, err := devca.New("Sidegate demo CA")
//	cert, key, err := ca.Server([]string{"localhost", "127.0.0.1"}, time.Hour)
//	cert, key, err = ca.Client("alice", time.Hour)
//
// The CA lives in memory unless its owner keeps [CA.Bundle] and [CA.Key] for
// [Load]. It checks nobody's right to a name: do not trust it beyond the machine
// it was made on.
package devca

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"sync"
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
	keyPEM []byte
	cert   *x509.Certificate
	key    crypto.Signer
}

// Leaf is what to sign.
type Leaf struct {
	Name  string   // common name
	Hosts []string // DNS names, IP addresses, e-mail addresses and URIs (SPIFFE IDs)
	// Lifetime is from now to the certificate's end, cut to whole seconds as
	// all X.509 times are. The CA must live as long.
	Lifetime time.Duration
	// Server and Client say what for; both may be set, and with neither it is
	// a server's.
	Server, Client bool
}

// Pair is a signed certificate and its new ECDSA P-256 key, PEM.
type Pair struct{ Cert, Key []byte }

const (
	caLifetime = 30 * 24 * time.Hour
	// backdate is how long before its making a certificate begins, for clocks
	// that are a little late. The CA begins five minutes early.
	backdate = time.Minute
)

// quiet stops cfssl from telling each step on stderr. Its level is one for the
// process and not guarded, so it is set once and only ever raised; what cfssl
// would say of an error it also returns.
var quiet = sync.OnceFunc(func() { log.Level = max(log.Level, log.LevelCritical) })

// New makes a CA with a new ECDSA P-256 key. It signs for 30 days, any name,
// but no further CA. It silences cfssl's logger for the whole process.
func New(name string) (*CA, error) {
	quiet()
	bundle, _, keyPEM, err := initca.New(&csr.CertificateRequest{
		CN:         name,
		KeyRequest: p256(),
		CA:         &csr.CAConfig{Expiry: caLifetime.String(), PathLenZero: true},
	})
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return Load(bundle, keyPEM)
}

// Load is a CA of its certificate and key, PEM. It silences cfssl's logger as
// New does.
func Load(bundle, keyPEM []byte) (*CA, error) {
	quiet()
	key, err := helpers.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the CA's key can't be read: %w", err)
	}
	cert, err := helpers.ParseCertificatePEM(bundle)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate can't be read: %w", err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !cert.IsCA:
		return nil, fmt.Errorf("%s is not a CA", cert.Subject)
	case !ok || !public.Equal(cert.PublicKey):
		return nil, fmt.Errorf("the key is not that of %s", cert.Subject)
	}
	return &CA{bundle: bundle, keyPEM: keyPEM, cert: cert, key: key}, nil
}

func p256() *csr.KeyRequest { return &csr.KeyRequest{A: "ecdsa", S: 256} }

// Bundle is the CA's certificate, PEM.
func (ca *CA) Bundle() []byte { return ca.bundle }

// Key is the CA's key, PEM. Whoever has it is the CA.
func (ca *CA) Key() []byte { return ca.keyPEM }

// Name is the CA's common name.
func (ca *CA) Name() string { return ca.cert.Subject.CommonName }

// NotAfter is when the CA ends.
func (ca *CA) NotAfter() time.Time { return ca.cert.NotAfter }

// Server makes a server's certificate, named by the first host.
func (ca *CA) Server(hosts []string, lifetime time.Duration) (certPEM, keyPEM []byte, err error) {
	if len(hosts) == 0 {
		return nil, nil, fmt.Errorf("sign a server's certificate: no host to name in it")
	}
	pair, err := ca.Issue(Leaf{Name: hosts[0], Hosts: hosts, Lifetime: lifetime, Server: true})
	return pair.Cert, pair.Key, err
}

// Client makes a client's certificate that has a name and nothing else. For a
// SPIFFE ID or other SANs call Issue.
func (ca *CA) Client(name string, lifetime time.Duration) (certPEM, keyPEM []byte, err error) {
	pair, err := ca.Issue(Leaf{Name: name, Lifetime: lifetime, Client: true})
	return pair.Cert, pair.Key, err
}

// Issue makes a key and signs its certificate, which began a minute ago.
func (ca *CA) Issue(leaf Leaf) (Pair, error) {
	now := time.Now()
	end := now.Add(leaf.Lifetime)
	if leaf.Lifetime < time.Second || end.After(ca.cert.NotAfter) {
		return Pair{}, fmt.Errorf("sign %s: lifetime %s is not between 1s and the CA's end %s",
			leaf.Name, leaf.Lifetime, ca.cert.NotAfter.Format(time.RFC3339))
	}
	request, key, err := csr.ParseRequest(&csr.CertificateRequest{CN: leaf.Name, Hosts: leaf.Hosts, KeyRequest: p256()})
	if err != nil {
		return Pair{}, fmt.Errorf("make key for %s: %w", leaf.Name, err)
	}
	s, err := local.NewSigner(ca.key, ca.cert, signer.DefaultSigAlgo(ca.key), &config.Signing{
		Default: &config.SigningProfile{
			Usage:        leaf.usages(),
			Expiry:       leaf.Lifetime,
			ExpiryString: leaf.Lifetime.String(),
		},
	})
	if err != nil {
		return Pair{}, fmt.Errorf("sign %s: %w", leaf.Name, err)
	}
	// Left to itself cfssl counts the lifetime from a beginning that it rounds
	// to the minute and dates back, so that a short one would be over already.
	cert, err := s.Sign(signer.SignRequest{Request: string(request), NotBefore: now.Add(-backdate), NotAfter: end})
	if err != nil {
		return Pair{}, fmt.Errorf("sign %s: %w", leaf.Name, err)
	}
	return Pair{Cert: cert, Key: key}, nil
}

// usages are by cfssl's names.
func (l Leaf) usages() []string {
	u := []string{"digital signature"}
	if l.Server || !l.Client {
		u = append(u, "server auth")
	}
	if l.Client {
		u = append(u, "client auth")
	}
	return u
}
