// Package files reads material from mounted folders, as Kubernetes mounts
// Secrets and ConfigMaps, or from plain ones.
//
//	source := &files.Source{TLS: []string{"/etc/sidegate/tls"}, WantTrust: true}
//
// Every file of a folder is read from one version of it, even while the
// kubelet replaces it. One material spans all folders.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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
	// first folder, else its first pair, is the default.
	TLS []string
	// WantTrust says that client certificates are asked for. false: a CA that
	// happens to lie in a folder means nothing.
	WantTrust bool
	// ClientCA is the file or folder with the CAs of clients. "": the ca.crt
	// of the first TLS folder.
	ClientCA string

	hadCRL bool // a CRL was loaded before, so its absence is an error
}

// Names by which a folder holds CAs. The first is cert-manager's and the
// kubelet's, the others OpenShift's and trust-manager's.
var caNames = []string{"ca.crt", "ca-bundle.crt", "service-ca.crt", "trust-bundle.pem", "ca.pem"}

const crlName = "crl.pem"

// String names the folders.
func (s *Source) String() string { return strings.Join(s.TLS, ",") }

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
	var in certs.Input
	for i, dir := range s.TLS {
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			return nil, fmt.Errorf("%s is a file; name the folder that holds tls.crt and tls.key", dir)
		}
		content, err := Read(dir)
		if err != nil {
			return nil, err
		}
		if err := addPairs(&in, dir, content, i == 0); err != nil {
			return nil, err
		}
		if i == 0 && s.WantTrust && s.ClientCA == "" {
			if err := s.addTrust(&in, dir, content); err != nil {
				return nil, err
			}
		}
	}
	if s.WantTrust && s.ClientCA != "" {
		content, err := s.readCA()
		if err != nil {
			return nil, err
		}
		if err := s.addTrust(&in, s.ClientCA, content); err != nil {
			return nil, err
		}
	}
	m, err := certs.NewMaterial(in)
	if err == nil && len(in.CRLs) > 0 {
		s.hadCRL = true
	}
	return m, err
}

// readCA reads the CAs. A single file comes with the CRL beside it.
func (s *Source) readCA() (map[string][]byte, error) {
	info, err := os.Stat(s.ClientCA)
	if err != nil {
		return nil, explain(s.ClientCA, err)
	}
	if info.IsDir() {
		return Read(s.ClientCA)
	}
	all, err := Read(filepath.Dir(s.ClientCA))
	if err != nil {
		return nil, err
	}
	content := map[string][]byte{caNames[0]: all[filepath.Base(s.ClientCA)]}
	if crl, ok := all[crlName]; ok {
		content[crlName] = crl
	}
	return content, nil
}

// addPairs finds the pairs of a folder, the default one first.
func addPairs(in *certs.Input, dir string, content map[string][]byte, first bool) error {
	var stems []string
	for _, name := range slices.Sorted(maps.Keys(content)) {
		if stem, ok := strings.CutSuffix(name, ".key"); ok {
			if content[stem+".crt"] == nil {
				return fmt.Errorf("%s has %s but no %s.crt", dir, name, stem)
			}
			stems = append(stems, stem)
		} else if stem, ok := strings.CutSuffix(name, ".crt"); ok && content[stem+".key"] == nil {
			if stem == "tls" {
				return fmt.Errorf("%s has tls.crt but no tls.key", dir)
			}
			if !slices.Contains(caNames, name) {
				in.Notes = append(in.Notes, fmt.Sprintf("%s has no key and is not served", filepath.Join(dir, name)))
			}
		}
	}
	if len(stems) == 0 {
		return fmt.Errorf("%s holds no tls.crt and tls.key (found: %s); mount a Secret of type kubernetes.io/tls there", dir, found(content))
	}
	if i := slices.Index(stems, "tls"); first && i > 0 {
		stems = append([]string{"tls"}, slices.Delete(stems, i, i+1)...)
	}
	for _, stem := range stems {
		in.Pairs = append(in.Pairs, certs.PairInput{
			Name: pairName(dir, stem),
			Cert: file(dir, stem+".crt", content),
			Key:  file(dir, stem+".key", content),
		})
	}
	return nil
}

// pairName is short and tells pairs of several folders apart.
func pairName(dir, stem string) string { return filepath.Base(dir) + "/" + stem }

func file(dir, name string, content map[string][]byte) certs.File {
	return certs.File{Name: filepath.Join(dir, name), Data: content[name]}
}

// addTrust finds the CAs, the bundles of trust domains and the CRLs.
func (s *Source) addTrust(in *certs.Input, dir string, content map[string][]byte) error {
	for _, name := range caNames {
		if content[name] != nil {
			in.Bundle = append(in.Bundle, file(dir, name, content))
			break
		}
	}
	for _, name := range slices.Sorted(maps.Keys(content)) {
		domain, isBundle := strings.CutPrefix(name, "bundle.")
		if domain, ok := strings.CutSuffix(domain, ".pem"); ok && isBundle {
			if in.Domains == nil {
				in.Domains = map[string]certs.File{}
			}
			in.Domains[domain] = file(dir, name, content)
		}
	}
	if in.Bundle == nil && in.Domains == nil {
		return fmt.Errorf("client certificates are asked for but %s holds no CA (looked for %s, bundle.<trust-domain>.pem; found: %s); set SIDEGATE_CLIENT_CA or mount ca.crt there",
			dir, strings.Join(caNames, ", "), found(content))
	}
	if content[crlName] != nil {
		in.CRLs = append(in.CRLs, file(dir, crlName, content))
	} else if s.hadCRL {
		return fmt.Errorf("%s is gone; nobody is taken for unrevoked because of that", filepath.Join(dir, crlName))
	}
	return nil
}

func found(content map[string][]byte) string {
	if len(content) == 0 {
		return "nothing"
	}
	return strings.Join(slices.Sorted(maps.Keys(content)), ", ")
}

const (
	maxFile = 16 << 20 // the CRL of a large CA is the largest thing anyone mounts
	// attempts is how often a folder is read that is being replaced. The
	// kubelet deletes the old version right after it moved ..data.
	attempts = 5
)

// Read returns the content of every regular file of a folder by its name,
// from one version of the folder, or of a single file by its base name.
// Hidden files and sub-folders are passed over.
func Read(path string) (map[string][]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, explain(path, err)
	}
	if !info.IsDir() {
		data, err := readFile(path)
		if err != nil {
			return nil, explain(path, err)
		}
		return map[string][]byte{filepath.Base(path): data}, nil
	}
	for range attempts {
		var content map[string][]byte
		content, err = readVersion(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return content, err
		}
	}
	return nil, explain(path, err)
}

// readVersion reads what ..data points to now, or a plain folder itself.
func readVersion(dir string) (map[string][]byte, error) {
	version := dir
	if target, err := filepath.EvalSymlinks(filepath.Join(dir, "..data")); err == nil {
		version = target
	}
	entries, err := os.ReadDir(version)
	if err != nil {
		return nil, err
	}
	content := map[string][]byte{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(version, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if content[e.Name()], err = readFile(path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			return nil, explain(filepath.Join(dir, e.Name()), err)
		}
	}
	return content, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return data, nil
}

// explain names the path once and says what to do.
func explain(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		mode := ""
		if info, statErr := os.Stat(path); statErr == nil {
			mode = fmt.Sprintf(" (mode %s)", info.Mode())
		}
		return fmt.Errorf("read %s%s as uid %d: %w; give the pod an fsGroup or the volume another defaultMode", path, mode, os.Getuid(), err)
	}
	return fmt.Errorf("read %s: %w", path, err)
}
