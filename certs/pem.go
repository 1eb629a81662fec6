package certs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// ParseCertificates reads every certificate of a PEM file and refuses the
// whole file when anything in it is not one: x509.CertPool skips such blocks
// silently, which would be a bundle that trusts less, or a chain that is
// shorter, than its owner believes. Text before a block is allowed, as openssl
// and others write it; after the last one it is what a cut or overwritten file
// looks like, and refused.
func ParseCertificates(name string, data []byte) ([]*x509.Certificate, error) {
	return parseAll(name, data, "CERTIFICATE", x509.ParseCertificate)
}

// Pool is the certificates as crypto/x509 wants to look among them.
func Pool(list []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c)
	}
	return pool
}

// parseCRLs reads every CRL of a PEM file, as strictly, or the one of a file in
// DER, as CAs publish them.
func parseCRLs(name string, data []byte) ([]*revocationList, error) {
	const sequence = 0x30 // the first byte of DER, and no beginning of text before PEM
	if len(data) > 0 && data[0] == sequence && !bytes.Contains(data, pemBegin) {
		list, err := parseCRL(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return []*revocationList{list}, nil
	}
	return parseAll(name, data, "X509 CRL", parseCRL)
}

func parseAll[T any](name string, data []byte, kind string, parse func([]byte) (T, error)) ([]T, error) {
	var list []T
	err := eachBlock(name, data, func(i int, b *pem.Block) error {
		if b.Type != kind {
			return fmt.Errorf("%s: block %d is %s, only %s belongs here", name, i, b.Type, kind)
		}
		v, err := parse(b.Bytes)
		if err != nil {
			return fmt.Errorf("%s: block %d: %w", name, i, err)
		}
		list = append(list, v)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s holds no %s block", name, kind)
	}
	return list, err
}

var (
	pemBegin = []byte("-----BEGIN ")
	pemEnd   = []byte("-----END ")
)

// eachBlock calls do for every PEM block, counted from 1, and refuses data in
// which a block begins or ends that can't be read, and data that goes on after
// the last block.
func eachBlock(name string, data []byte, do func(i int, b *pem.Block) error) error {
	marks := bytes.Count(data, pemBegin)
	if bytes.Count(data, pemEnd) != marks {
		return fmt.Errorf("%s: a PEM block begins or ends without the other", name)
	}
	i := 0
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		i++
		if err := do(i, block); err != nil {
			return err
		}
	}
	if i != marks {
		return fmt.Errorf("%s: %d of %d PEM blocks can't be read", name, marks-i, marks)
	}
	if i > 0 && len(bytes.TrimSpace(data)) > 0 {
		return fmt.Errorf("%s goes on after its last PEM block: it may be cut off or overwritten", name)
	}
	return nil
}

// parseKey reads the private key of a PEM file: PKCS#8, PKCS#1 or SEC 1. EC
// parameters, which openssl ecparam writes before the key, are passed over.
func parseKey(name string, data []byte) (crypto.Signer, error) {
	var key crypto.Signer
	err := eachBlock(name, data, func(_ int, b *pem.Block) error {
		if b.Type == "EC PARAMETERS" {
			return nil
		}
		if key != nil {
			return fmt.Errorf("%s holds more than one key", name)
		}
		var err error
		key, err = decodeKey(b)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err == nil && key == nil {
		err = fmt.Errorf("%s holds no private key", name)
	}
	return key, err
}

var errEncrypted = errors.New("the private key is encrypted; store it decrypted in the Secret")

func decodeKey(b *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	if strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") { // RFC 1421, as old openssl writes it
		return nil, errEncrypted
	}
	switch b.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errEncrypted
	default:
		return nil, fmt.Errorf("the block is %s, not a private key", b.Type)
	}
	if err != nil {
		return nil, errors.New("the private key can't be read") // the cause may quote key bytes
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T can't sign", key)
	}
	return signer, nil
}
