// Package files reads material from mounted folders, as Kubernetes mounts
// Secrets and ConfigMaps, or from plain ones.
//
//	source := &files.Source{TLS: []string{"/etc/sidegate/tls"}, WantTrust: true}
//
// Every file of a folder is read from one version of it, even while the
// kubelet replaces it. One material spans all folders.
package files

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sidegate/certs"
)

// Source reads certificates from folders. Fields are not changed after the
// first Load.
type Source struct {
	// TLS are folders with NAME.crt and NAME.key pairs. The pair tls of the
	// first folder, else its first pair, is the default. None: what is
	// presented comes from elsewhere, and ClientCA is set.
	TLS []string
	// WantTrust says that client certificates are asked for. false: a CA that
	// happens to lie in a folder means nothing.
	WantTrust bool
	// ClientCA is the file or folder with the CAs of clients. "": the ca.crt
	// of the first TLS folder.
	ClientCA string
	// OwnDomain is the SPIFFE trust domain of the workload, where its
	// certificate comes from elsewhere. "": as certs.Input tells.
	OwnDomain string
	// CRLs and CAs are how much may be read of those, each CA's file by itself.
	CRLs, CAs Limit
}

// Names by which a folder holds CAs. The first is cert-manager's and the
// kubelet's, the others OpenShift's and trust-manager's.
var caNames = []string{"ca.crt", "ca-bundle.crt", "service-ca.crt", "trust-bundle.pem", "ca.pem"}

// IsCA reports whether a file of that name in a folder is taken for CAs, and
// never for a certificate to present.
func IsCA(name string) bool { return slices.Contains(caNames, name) }

// String names the folders.
func (s *Source) String() string {
	if len(s.TLS) == 0 {
		return s.ClientCA
	}
	return strings.Join(s.TLS, ",")
}

// Paths returns every path that is read, for a watch.
func (s *Source) Paths() []string {
	paths := slices.Clone(s.TLS)
	if s.WantTrust && s.ClientCA != "" {
		paths = append(paths, s.ClientCA)
	}
	return paths
}

// Load implements [certs.Source].
func (s *Source) Load(context.Context) (*certs.Material, error) {
	in := certs.Input{OwnDomain: s.OwnDomain, KeepPairs: true}
	for i, dir := range s.TLS {
		trust := s.WantTrust && i == 0 && s.ClientCA == ""
		f, err := bounded(dir, func() (*folder, error) { return s.readPairs(dir) })
		switch {
		case err == nil:
			err = f.addPairs(&in, i == 0)
		case i > 0 && !errors.Is(err, errIsFile): // the pairs of the other folders are judged alone
			in.Pairs = append(in.Pairs, certs.PairInput{Name: pairName(in.Pairs, dir, "tls"), Err: err})
			continue
		}
		if err == nil && trust {
			err = f.addTrust(&in, s.CRLs.within(maxCRL))
		}
		if err != nil {
			return nil, err
		}
		if s.WantTrust && !trust {
			f.warnOfCRLs(&in, cmp.Or(s.ClientCA, s.TLS[0]))
		}
	}
	if s.WantTrust && s.ClientCA != "" {
		f, err := bounded(s.ClientCA, s.readCA)
		if err != nil {
			return nil, err
		}
		if err := f.addTrust(&in, s.CRLs.within(maxCRL)); err != nil {
			return nil, err
		}
	}
	return certs.NewMaterial(in)
}

var errIsFile = errors.New("is a file; name the folder that holds tls.crt and tls.key")

// readPairs reads the files of a folder that may be of use.
func (s *Source) readPairs(dir string) (*folder, error) {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s %w", dir, errIsFile)
	}
	return readEach(dir, s.limits, func(name string) bool { return s.WantTrust || isPair(name) })
}

func (s *Source) limits() *quota { return newQuota(s.CRLs, s.CAs) }

// isPair reports whether a file of that name is part of a pair.
func isPair(name string) bool {
	kind := filepath.Ext(name)
	return kind == ".crt" || kind == ".key"
}

// addPairs finds the pairs of a folder, the default one first. What is wrong
// with one is its own error.
func (f *folder) addPairs(in *certs.Input, first bool) error {
	var stems []string
	for _, name := range f.names() {
		kind := filepath.Ext(name)
		stem := strings.TrimSuffix(name, kind)
		cert, key := stem+".crt", stem+".key"
		switch {
		case !isPair(name) || name == cert && IsCA(cert):
		case IsCA(cert):
			in.Notes = append(in.Notes, fmt.Sprintf("%s is not used; the key of a CA has no business here", filepath.Join(f.dir, key)))
		case name == key, stem == "tls" && !f.has(key):
			stems = append(stems, stem)
		case !f.has(key):
			in.Notes = append(in.Notes, fmt.Sprintf("%s has no key beside it and is not served", filepath.Join(f.dir, cert)))
		}
	}
	if len(stems) == 0 {
		err := fmt.Errorf("%s holds no tls.crt and tls.key (found: %s); mount a Secret of type kubernetes.io/tls there", f.dir, f.found())
		if first {
			return err
		}
		in.Pairs = append(in.Pairs, certs.PairInput{Name: pairName(in.Pairs, f.dir, "tls"), Err: err})
	}
	if i := slices.Index(stems, "tls"); first && i > 0 {
		stems = append([]string{"tls"}, slices.Delete(stems, i, i+1)...)
	}
	for _, stem := range stems {
		in.Pairs = append(in.Pairs, f.pair(stem, pairName(in.Pairs, f.dir, stem)))
	}
	return nil
}

// pair is one of the folder.
func (f *folder) pair(stem, name string) certs.PairInput {
	cert, key := stem+".crt", stem+".key"
	p := certs.PairInput{Name: name, Cert: f.file(cert), Key: f.file(key), Err: cmp.Or(f.errs[cert], f.errs[key])}
	switch {
	case p.Err != nil:
	case !f.has(cert):
		p.Err = fmt.Errorf("%s has %s but no %s", f.dir, key, cert)
	case !f.has(key):
		p.Err = fmt.Errorf("%s has %s but no %s", f.dir, cert, key)
	}
	return p
}

// pairName is short and tells pairs of several folders apart.
func pairName(others []certs.PairInput, dir, stem string) string {
	name := filepath.Base(dir) + "/" + stem
	if slices.ContainsFunc(others, func(p certs.PairInput) bool { return p.Name == name }) {
		return filepath.Join(dir, stem)
	}
	return name
}
