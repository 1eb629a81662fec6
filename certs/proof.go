package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// proof remembers for which CAs of verified chains an unproven list holds. A
// list of the bundle's CAs needs none: it was checked when it was loaded.
type proof struct {
	checking sync.Mutex // a list may be large: one check at a time
	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]bool // by certificate
	failures []string                   // for the status
}

func newProof() *proof { return &proof{verdicts: map[[sha256.Size]byte]bool{}} }

// Bounds of what a proof remembers. Who has a CA below one of ours may make any
// number of CAs that bear the name of another.
const (
	maxVerdicts = 64
	maxFailures = 4
)

// check checks the signature of an unproven list, once for each CA. A verdict
// is about that CA alone: who has a CA below one of ours can make namesakes, and
// what fails with those must not count against the true one, nor a proof for
// one of those against others.
func (p *proof) check(list *x509.RevocationList, ca *x509.Certificate) bool {
	key := sha256.Sum256(ca.Raw)
	if holds, known := p.known(key); known {
		return holds
	}
	p.checking.Lock()
	defer p.checking.Unlock()
	if holds, known := p.known(key); known {
		return holds
	}
	holds := list.CheckSignatureFrom(ca) == nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.verdicts) >= maxVerdicts {
		clear(p.verdicts)
	}
	p.verdicts[key] = holds
	return holds
}

func (p *proof) known(key [sha256.Size]byte) (holds, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	holds, known = p.verdicts[key]
	return holds, known
}

// fail refuses a CA in whose name the list speaks without its signature, and
// notes that for the status.
func (c *crl) fail(ca *x509.Certificate) error {
	err := fmt.Errorf("%s: the CRL of %s is not signed by the CA of that name with serial %s, whose certificates are refused", c.file, ca.Subject, serial(ca))
	c.proof.mu.Lock()
	defer c.proof.mu.Unlock()
	if text := err.Error(); len(c.proof.failures) < maxFailures && !slices.Contains(c.proof.failures, text) {
		c.proof.failures = append(c.proof.failures, text)
	}
	return &PeerError{peerUntrusted, err}
}

// States of a list in the status.
const (
	crlSigned   = "signed"   // by a CA of the bundle or of a verified chain
	crlUnproven = "unproven" // nobody has sent its CA yet
	crlRefused  = "refused"  // not signed by the CA that was sent
)

// state says what is known about the signature, and which CAs are refused by it.
func (c *crl) state() (state string, failures []string) {
	if c.signer != nil {
		return crlSigned, nil
	}
	c.proof.mu.Lock()
	defer c.proof.mu.Unlock()
	switch {
	case slices.Contains(slices.Collect(maps.Values(c.proof.verdicts)), true):
		state = crlSigned
	case len(c.proof.failures) > 0:
		state = crlRefused
	default:
		state = crlUnproven
	}
	return state, slices.Clone(c.proof.failures)
}

func (c *crl) describe() CRL {
	state, _ := c.state()
	return CRL{File: c.file, Issuer: c.list.Issuer.String(), State: state, Revoked: c.revoked.count(),
		ThisUpdate: c.list.ThisUpdate, NextUpdate: c.list.NextUpdate}
}
