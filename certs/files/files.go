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
	"crypto/x509"
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
	in := certs.Input{OwnDomain: s.OwnDomain}
	for i, dir := range s.TLS {
		content, err := bounded(dir, func() (map[string][]byte, error) { return readPairs(dir) })
		if err != nil {
			return nil, err
		}
		if err := addPairs(&in, dir, content, i == 0); err != nil {
			return nil, err
		}
		switch {
		case !s.WantTrust:
		case i == 0 && s.ClientCA == "":
			if err := addTrust(&in, dir, content); err != nil {
				return nil, err
			}
		default:
			warnOfCRLs(&in, dir, cmp.Or(s.ClientCA, s.TLS[0]), content)
		}
	}
	if s.WantTrust && s.ClientCA != "" {
		content, err := bounded(s.ClientCA, s.readCA)
		if err != nil {
			return nil, err
		}
		if err := addTrust(&in, s.ClientCA, content); err != nil {
			return nil, err
		}
	}
	return certs.NewMaterial(in)
}

func readPairs(dir string) (map[string][]byte, error) {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s is a file; name the folder that holds tls.crt and tls.key", dir)
	}
	return readFolder(dir)
}

// addPairs finds the pairs of a folder, the default one first.
func addPairs(in *certs.Input, dir string, content map[string][]byte, first bool) error {
	var stems []string
	for _, name := range slices.Sorted(maps.Keys(content)) {
		kind := filepath.Ext(name)
		stem := strings.TrimSuffix(name, kind)
		cert, key := stem+".crt", stem+".key"
		switch {
		case kind != ".crt" && kind != ".key" || name == cert && IsCA(cert):
		case IsCA(cert):
			in.Notes = append(in.Notes, fmt.Sprintf("%s is not used; the key of a CA has no business here", filepath.Join(dir, key)))
		case content[cert] == nil:
			return fmt.Errorf("%s has %s but no %s", dir, key, cert)
		case content[key] == nil && stem == "tls":
			return fmt.Errorf("%s has tls.crt but no tls.key", dir)
		case content[key] == nil:
			in.Notes = append(in.Notes, fmt.Sprintf("%s has no key beside it and is not served", filepath.Join(dir, cert)))
		case name == key:
			stems = append(stems, stem)
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
			Name: pairName(in.Pairs, dir, stem),
			Cert: file(dir, stem+".crt", content),
			Key:  file(dir, stem+".key", content),
		})
	}
	return nil
}

// pairName is short and tells pairs of several folders apart.
func pairName(others []certs.PairInput, dir, stem string) string {
	name := filepath.Base(dir) + "/" + stem
	if slices.ContainsFunc(others, func(p certs.PairInput) bool { return p.Name == name }) {
		return filepath.Join(dir, stem)
	}
	return name
}

func file(dir, name string, content map[string][]byte) certs.File {
	return certs.File{Name: filepath.Join(dir, name), Data: content[name]}
}

func found(content map[string][]byte) string {
	if len(content) == 0 {
		return "nothing"
	}
	return strings.Join(slices.Sorted(maps.Keys(content)), ", ")
}

const (
	maxFile = 1 << 20  // what fits into a Secret
	maxCRL  = 16 << 20 // the CRL of a large CA may come by another way
	// attempts is how often a folder is read that is being replaced. The
	// kubelet deletes the old version right after it moved ..data.
	attempts = 5
)

var (
	errReplaced   = errors.New("it is replaced faster than it can be read")
	errNotRegular = errors.New("it is not a regular file")
)

// Read returns the content of every regular file of a folder by its name,
// from one version of the folder, or of a single file by its base name. In a
// folder, hidden files and sub-folders are passed over. A file of more than
// 1 MiB (a CRL: 16 MiB) is an error.
func Read(path string) (map[string][]byte, error) {
	return bounded(path, func() (map[string][]byte, error) { return read(path) })
}

func read(path string) (map[string][]byte, error) {
	folder, err := isFolder(path)
	if err != nil {
		return nil, err
	}
	if folder {
		return readFolder(path)
	}
	return readNamed(path, none)
}

// ReadOne returns the content of a single file, as Read does. A folder is an
// error.
func ReadOne(path string) ([]byte, error) {
	content, err := bounded(path, func() (map[string][]byte, error) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil, fmt.Errorf("%s is a folder; name the file", path)
		}
		return read(path)
	})
	return content[filepath.Base(path)], err
}

// Roots reads a file of CAs, as strictly as those of clients are read.
func Roots(path string) (*x509.CertPool, error) {
	data, err := ReadOne(path)
	if err != nil {
		return nil, err
	}
	list, err := certs.ParseCertificates(path, data)
	if err != nil {
		return nil, err
	}
	return certs.Pool(list), nil
}

// isFolder reports whether path is a folder. Its errors are explained.
func isFolder(path string) (bool, error) {
	info, err := steady(func() (fs.FileInfo, error) { return os.Stat(path) })
	if err != nil {
		return false, explain(path, err)
	}
	return info.IsDir(), nil
}

// readFolder reads all files of a folder.
func readFolder(dir string) (map[string][]byte, error) {
	return ofOneVersion(dir, func(version string) (map[string][]byte, error) {
		return readVersion(dir, version, all)
	})
}

// readNamed reads one file and those beside it whose names beside says.
func readNamed(path string, beside func(name string) bool) (map[string][]byte, error) {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	return ofOneVersion(dir, func(version string) (map[string][]byte, error) {
		data, err := readFile(filepath.Join(version, name))
		if err != nil {
			return nil, explain(path, err)
		}
		content, err := readVersion(dir, version, func(n string) bool { return n != name && beside(n) })
		if err == nil {
			content[name] = data
		}
		return content, err
	})
}

// ofOneVersion calls read with the folder that now holds the files of dir, and
// again if another one did by the end. The kubelet deletes the files of an old
// version one by one: without the second look, what was left of them in the
// middle of that would pass for the whole, perhaps without the CRL.
func ofOneVersion(dir string, read func(version string) (map[string][]byte, error)) (map[string][]byte, error) {
	return steady(func() (map[string][]byte, error) {
		version, err := versionOf(dir)
		if err != nil {
			return nil, explain(dir, err)
		}
		content, err := read(version)
		if err != nil {
			return nil, err
		}
		now, err := versionOf(dir)
		if err == nil && now != version {
			err = errReplaced
		}
		if err != nil {
			return nil, explain(dir, err)
		}
		return content, nil
	})
}

// steady tries again what may have failed because a version was replaced in
// the middle of it.
func steady[T any](do func() (T, error)) (v T, err error) {
	for range attempts {
		v, err = do()
		if !errors.Is(err, errReplaced) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return v, err
}

// versionOf is the folder that holds the files of dir now, without any link
// left in its name: what ..data leads to, or dir itself, which may be below a
// link of a projected volume. A ..data that leads nowhere is ErrNotExist: its
// target was replaced this moment, and to read through the links of dir
// instead would mix versions.
func versionOf(dir string) (string, error) {
	data := filepath.Join(dir, "..data")
	if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
		return filepath.EvalSymlinks(dir)
	}
	return filepath.EvalSymlinks(data)
}

func all(string) bool { return true }

func none(string) bool { return false }

// readVersion reads the files of a version that want wants and that are not
// hidden. Errors name them as files of dir.
func readVersion(dir, version string, want func(name string) bool) (map[string][]byte, error) {
	entries, err := os.ReadDir(version)
	if err != nil {
		return nil, explain(dir, err)
	}
	content := map[string][]byte{}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || !want(name) {
			continue
		}
		data, err := readFile(filepath.Join(version, name))
		switch {
		case errors.Is(err, errNotRegular):
		case err != nil:
			return nil, explain(filepath.Join(dir, name), err)
		default:
			content[name] = data
		}
	}
	return content, nil
}

// readFile reads a regular file: opening a FIFO would wait for ever.
func readFile(path string) ([]byte, error) {
	limit := maxFile
	if IsCRL(filepath.Base(path)) {
		limit = maxCRL
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("it is larger than %d MiB", limit>>20)
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
