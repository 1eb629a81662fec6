package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/acme"

	"sidegate/certs"
)

// pairFile is where key and certificate are kept. Other names, or another
// server, have a file of their own.
func (i *Issuer) pairFile() string {
	return "acme-" + digest(append([]string{i.Directory}, slices.Sorted(slices.Values(i.names()))...)) + ".pem"
}

// accountFile is where the key of the account is kept. Another contact or
// binding means another account.
func (i *Issuer) accountFile(binding *acme.ExternalAccountBinding) string {
	kid := ""
	if binding != nil {
		kid = binding.KID
	}
	return "acme-account-" + digest([]string{i.Directory, i.Email, kid}) + ".pem"
}

func digest(parts []string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return hex.EncodeToString(sum[:8])
}

// kept is the certificate of an earlier run, if it is good.
func (i *Issuer) kept() (certs.Input, error) {
	name := i.pairFile()
	data, err := i.Cache.Get(name)
	if err != nil {
		return certs.Input{}, err
	}
	if data == nil {
		return certs.Input{}, certs.ErrPending
	}
	in, err := i.usable(data, time.Now())
	if err != nil {
		// Nobody would write another by hand: the next order does.
		return certs.Input{}, fmt.Errorf("%w, and what was kept in %s is of no use: %w", certs.ErrPending, name, err)
	}
	return in, nil
}

// keep keeps data for the next start. What can't be kept serves all the same.
func (i *Issuer) keep(name string, data []byte) {
	if err := i.Cache.Put(name, data); err != nil {
		i.Log.Warn("issued but not kept, the next start orders anew", "source", i.Directory, "err", err)
	}
}

// encodePair is key and certificates as they are kept, in one file so that
// they fit at any moment (ROT-17).
func encodePair(key *ecdsa.PrivateKey, chain [][]byte) ([]byte, error) {
	data, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	for _, der := range chain {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return data, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// usable checks a pair as encodePair made it, whether it was issued this
// moment or kept: key, order of the chain, usage, names, dates (ROT-16).
func (i *Issuer) usable(data []byte, now time.Time) (certs.Input, error) {
	block, chain := pem.Decode(data)
	if block == nil {
		return certs.Input{}, errors.New("it does not begin with a key")
	}
	in := certs.Input{Pairs: []certs.PairInput{{
		Name: i.names()[0],
		Cert: certs.File{Name: "the certificate", Data: chain},
		Key:  certs.File{Name: "the key", Data: pem.EncodeToMemory(block)},
	}}}
	if _, err := certs.NewMaterial(in); err != nil {
		return certs.Input{}, err
	}
	list, err := certs.ParseCertificates("the certificate", chain)
	if err != nil {
		return certs.Input{}, err
	}
	for _, host := range i.names() {
		if list[0].VerifyHostname(host) != nil {
			return certs.Input{}, fmt.Errorf("it lacks the name %s", host)
		}
	}
	if !now.Before(list[0].NotAfter) {
		return certs.Input{}, fmt.Errorf("it ended %s", list[0].NotAfter.UTC().Format(time.RFC3339))
	}
	in.Pairs[0].Cert.Name = i.Directory
	return in, nil
}

// accountKey is the key of the account, a new one if none was kept.
func (i *Issuer) accountKey(binding *acme.ExternalAccountBinding) (*ecdsa.PrivateKey, error) {
	name := i.accountFile(binding)
	if i.accounts[name] == nil {
		key, err := i.keptAccount(name)
		if err != nil {
			return nil, err
		}
		if i.accounts == nil {
			i.accounts = map[string]*ecdsa.PrivateKey{}
		}
		i.accounts[name] = key
	}
	return i.accounts[name], nil
}

// keptAccount reads the key of an account, or makes and keeps one.
func (i *Issuer) keptAccount(name string) (*ecdsa.PrivateKey, error) {
	data, err := i.Cache.Get(name)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		key, _ := x509.ParsePKCS8PrivateKey(block.Bytes) // the cause may quote key bytes
		if key, ok := key.(*ecdsa.PrivateKey); ok && key.Curve == elliptic.P256() {
			return key, nil
		}
	}
	if data != nil {
		return nil, fmt.Errorf("%s of the cache holds no key of an account; delete it for a new account", name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if data, err = encodeKey(key); err != nil {
		return nil, err
	}
	i.keep(name, data)
	return key, nil
}
