package certs

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// Input is what a source has read: the content of each file, by the name that
// errors shall call it.
type Input struct {
	// Pairs are what is presented; the first is the default. None: nothing is,
	// and there must be CAs.
	Pairs []PairInput
	// Bundle are the CAs of clients, PEM. nil: client certificates are not
	// asked for.
	Bundle []File
	// Domains are CAs that vouch for the SPIFFE IDs of one trust domain only,
	// by trust domain.
	Domains map[string]File
	CRLs    []File
	// KeepPairs lets the first pair be one that is no good, as any other may be:
	// a [Store] then keeps the one in service, and does not start without.
	KeepPairs bool
	// OwnDomain is the SPIFFE trust domain of the workload. "": that of the
	// first pair, or the only one of Domains.
	OwnDomain string
	// Notes are said once in the log, such as which file is not used.
	Notes []string
	// Warnings are what works and should not stay so, such as a server that
	// could not be asked: said once in the log, and in the status for as long as
	// this is in service.
	Warnings []string
}

// File is a name and a content.
type File struct {
	Name string
	Data []byte
}

// PairInput is a certificate chain and its key.
type PairInput struct {
	Name      string // of the pair, for metrics
	Cert, Key File
	Err       error // why they can't be read; nil: they were
}

// Material is one immutable generation of what is presented and trusted.
type Material struct {
	ID       string   // short hash of the content
	Notes    []string // of the [Input]
	Warnings []string // of the [Input]

	alarms  []string           // of its trial, see [Try]
	renew   time.Time          // when the source should be asked for the next one; zero: when it signals
	slots   []slot             // as they were read
	pairs   []*Pair            // those that are good, the default first
	exact   map[string][]*Pair // by lower-case name; "*.x" for wildcards
	trust   *trust             // nil: no client certificates
	domain  string             // our own, where the input says it
	pairsID [sha256.Size]byte
	trustID [sha256.Size]byte
}

// Pair is a certificate that is presented.
type Pair struct {
	Name  string
	File  string          // of the chain, for logs
	Cert  tls.Certificate // Leaf is set
	names []string
	sum   [sha256.Size]byte // of its files
}

// NewMaterial checks the input and makes a material of it. The dates of the
// pairs are not checked here, and a pair that is no good stops none but the
// first: see [Store].
func NewMaterial(in Input) (*Material, error) {
	m := &Material{Notes: in.Notes, Warnings: in.Warnings, domain: in.OwnDomain, trustID: in.trustID()}
	if len(in.Pairs) == 0 && in.Bundle == nil && in.Domains == nil {
		return nil, errors.New("no certificate and key")
	}
	var good []*Pair
	for i, p := range in.Pairs {
		pair, err := newPair(p)
		if err != nil && i == 0 && !in.KeepPairs {
			return nil, err
		}
		if err == nil {
			good = append(good, pair)
		}
		m.slots = append(m.slots, slot{p.Name, pair, err})
	}
	if in.Bundle == nil && in.Domains == nil {
		return m.withPairs(good), nil
	}
	var err error
	if m.trust, err = newTrust(in); err != nil {
		return nil, err
	}
	return m.withPairs(good), nil
}

// withPairs is what m trusts, and these pairs.
func (m *Material) withPairs(pairs []*Pair) *Material {
	mixed := *m
	mixed.pairs, mixed.exact = pairs, map[string][]*Pair{}
	h := sha256.New()
	for _, p := range pairs {
		h.Write(p.sum[:])
		for _, name := range p.names {
			mixed.exact[name] = append(mixed.exact[name], p)
		}
	}
	h.Sum(mixed.pairsID[:0])
	if m.trust != nil {
		t := *m.trust
		t.own = cmp.Or(m.domain, t.ownDomain(mixed.leaf()))
		mixed.trust = &t
	}
	mixed.ID = mixed.id()
	return &mixed
}

// leaf is the default certificate, nil if nothing is presented.
func (m *Material) leaf() *x509.Certificate {
	if len(m.pairs) == 0 {
		return nil
	}
	return m.pairs[0].Cert.Leaf
}

// id is the short form in which logs and metrics name the content.
func (m *Material) id() string {
	sum := sha256.Sum256(append(m.pairsID[:], m.trustID[:]...))
	return hex.EncodeToString(sum[:6])
}

func (in *Input) trustID() [sha256.Size]byte {
	list := slices.Concat(in.Bundle, in.CRLs)
	for _, d := range slices.Sorted(maps.Keys(in.Domains)) {
		list = append(list, in.Domains[d])
	}
	return hashFiles(append(list, File{Name: in.OwnDomain}))
}

// hashFiles hashes files with their names, in the order in which they count.
func hashFiles(list []File) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, f := range list {
		fmt.Fprintf(h, "%d:%s%d:", len(f.Name), f.Name, len(f.Data))
		h.Write(f.Data)
	}
	h.Sum(sum[:0])
	return sum
}

// withAlarms is m after its trial.
func (m *Material) withAlarms(alarms []string) *Material {
	tried := *m
	tried.alarms = alarms
	return &tried
}

// withoutTrust is what m presents.
func (m *Material) withoutTrust() *Material {
	if m.trust == nil {
		return m
	}
	bare := *m
	bare.trust, bare.trustID = nil, [sha256.Size]byte{}
	bare.ID = bare.id()
	return &bare
}

func newPair(in PairInput) (*Pair, error) {
	if in.Err != nil {
		return nil, in.Err
	}
	chain, err := ParseCertificates(in.Cert.Name, in.Cert.Data)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(in.Key.Name, in.Key.Data)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to the certificate in %s", in.Key.Name, in.Cert.Name)
	}
	if err := checkOrder(in.Cert.Name, chain); err != nil {
		return nil, err
	}
	if !servesTLS(leaf) {
		return nil, fmt.Errorf("%s: the extended key usage lacks serverAuth, so clients would refuse it", in.Cert.Name)
	}
	p := &Pair{Name: in.Name, File: in.Cert.Name, Cert: tls.Certificate{PrivateKey: key, Leaf: leaf}, names: servedNames(leaf),
		sum: hashFiles([]File{in.Cert, in.Key})}
	for _, c := range chain {
		p.Cert.Certificate = append(p.Cert.Certificate, c.Raw)
	}
	return p, nil
}

// checkOrder makes sure that each certificate signed the one before it:
// clients may rely on the order (RFC 5246 7.4.2).
func checkOrder(name string, chain []*x509.Certificate) error {
	for i := range len(chain) - 1 {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
			return fmt.Errorf("%s: certificate %d did not sign certificate %d; the order is leaf, intermediate, root: %w", name, i+2, i+1, err)
		}
	}
	return nil
}

// servesTLS reports whether the usage lets the certificate serve. One without
// the extension may (RFC 5280 4.2.1.12).
func servesTLS(leaf *x509.Certificate) bool {
	return allowsUsage(leaf, x509.ExtKeyUsageServerAuth)
}

func allowsUsage(c *x509.Certificate, use x509.ExtKeyUsage) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, use) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

func servedNames(leaf *x509.Certificate) []string {
	var names []string
	for _, n := range leaf.DNSNames {
		names = append(names, strings.ToLower(strings.TrimSuffix(n, ".")))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// certificate chooses by server name, then by what the client can verify (an
// ECDSA and an RSA pair may hold the same names). A name that nobody holds, or
// none, gets the default pair or one that holds the same names as that.
func (m *Material) certificate(hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(m.pairs) == 1 {
		return &m.pairs[0].Cert
	}
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	candidates := m.exact[name]
	if candidates == nil {
		if _, parent, ok := strings.Cut(name, "."); ok {
			candidates = m.exact["*."+parent]
		}
	}
	if candidates == nil {
		candidates = m.likeDefault()
	}
	unnamed := *hello
	unnamed.ServerName = "" // the name is judged above; what counts here are key and signature
	for _, p := range candidates {
		if unnamed.SupportsCertificate(&p.Cert) == nil {
			return &p.Cert
		}
	}
	return &candidates[0].Cert
}

// likeDefault are the default pair and those with the same names.
func (m *Material) likeDefault() []*Pair {
	names := m.pairs[0].names
	list := m.pairs[:1:1]
	for _, p := range m.pairs[1:] {
		if len(names) > 0 && slices.Equal(slices.Sorted(slices.Values(p.names)), slices.Sorted(slices.Values(names))) {
			list = append(list, p)
		}
	}
	return list
}

// forPeer chooses what to present to a server that asks for a certificate. The
// CAs that it names are only a hint: where none fits, it gets the default pair.
func (m *Material) forPeer(ask *tls.CertificateRequestInfo) *tls.Certificate {
	for _, p := range m.pairs {
		if ask.SupportsCertificate(&p.Cert) == nil {
			return &p.Cert
		}
	}
	return &m.pairs[0].Cert
}

// named returns the pair of that name, or nil.
func (m *Material) named(name string) *Pair {
	for _, p := range m.pairs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// remarks are what an operator should know of a material that is in service.
func (m *Material) remarks(now time.Time) []remark {
	var list []remark
	for _, n := range m.Notes {
		list = append(list, remark{slog.LevelInfo, "file not used", n})
	}
	for _, w := range m.Warnings {
		list = append(list, remark{slog.LevelWarn, "source degraded", w})
	}
	for _, p := range m.pairs {
		if now.After(p.Cert.Leaf.NotAfter) {
			list = append(list, remark{slog.LevelError, "certificate expired",
				fmt.Sprintf("%s ended %s", p.File, utc(p.Cert.Leaf.NotAfter))})
		}
	}
	for _, a := range m.alarms {
		list = append(list, remark{slog.LevelError, "handshake with itself failed", a})
	}
	if m.trust != nil {
		list = append(list, m.trust.remarks(now)...)
	}
	return list
}

// nextDate is when remarks change next, or zero.
func (m *Material) nextDate(now time.Time) time.Time {
	var dates []time.Time
	for _, p := range m.pairs {
		dates = append(dates, p.Cert.Leaf.NotAfter)
	}
	if m.trust != nil {
		dates = append(dates, m.trust.dates()...)
	}
	var next time.Time
	for _, d := range dates {
		if d = d.Add(1); d.After(now) && (next.IsZero() || d.Before(next)) {
			next = d
		}
	}
	return next
}

// missingNames returns the names that old served and m does not.
func (m *Material) missingNames(old *Material) []string {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(old.exact)) {
		if _, ok := m.exact[name]; !ok && !m.coveredByWildcard(name) {
			missing = append(missing, name)
		}
	}
	return missing
}

func (m *Material) coveredByWildcard(name string) bool {
	_, parent, ok := strings.Cut(name, ".")
	return ok && m.exact["*."+parent] != nil
}
