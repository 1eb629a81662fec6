package files

import (
	"bytes"
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

// attempts is how often a folder is read that is being replaced. The kubelet
// deletes the old version right after it moved ..data.
const attempts = 5

var (
	errReplaced   = errors.New("it is replaced faster than it can be read")
	errNotRegular = errors.New("it is not a regular file")
)

// Read returns the content of every regular file of a folder by its name,
// from one version of the folder, or of a single file by its base name. In a
// folder, hidden files and sub-folders are passed over. A file of more than
// 1 MiB (CRLs: 16 MiB together) is an error.
func Read(path string) (map[string][]byte, error) { return Limit{}.Read(path) }

// Read is that of the package for files within the limit.
func (l Limit) Read(path string) (map[string][]byte, error) {
	return bounded(path, func() (map[string][]byte, error) { return l.read(path) })
}

func (l Limit) read(path string) (map[string][]byte, error) {
	folder, err := isFolder(path)
	if err != nil {
		return nil, err
	}
	if folder {
		return strictly(readEach(path, l.quota, all))
	}
	return strictly(readNamed(path, l.quota, none))
}

// ReadOne returns the content of a single file, as Read does. A folder is an
// error.
func ReadOne(path string) ([]byte, error) { return Limit{}.ReadOne(path) }

// ReadOne is that of the package for a file within the limit.
func (l Limit) ReadOne(path string) ([]byte, error) {
	content, err := bounded(path, func() (map[string][]byte, error) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil, fmt.Errorf("%s is a folder; name the file", path)
		}
		return l.read(path)
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

// folder is what was read of one version of a folder, or of one file and some
// beside it. Each file has a content or an error.
type folder struct {
	dir     string
	content map[string][]byte
	errs    map[string]error
	seen    []string // names, also of what was not read
	ca      string   // path of the only CA file, of whatever name; "": those of caNames
}

func (f *folder) has(name string) bool { return f.content[name] != nil || f.errs[name] != nil }

func (f *folder) file(name string) certs.File {
	return certs.File{Name: filepath.Join(f.dir, name), Data: f.content[name]}
}

// names are those of all files, in order.
func (f *folder) names() []string {
	names := slices.Collect(maps.Keys(f.content))
	return slices.Sorted(slices.Values(slices.AppendSeq(names, maps.Keys(f.errs))))
}

func (f *folder) found() string {
	if len(f.seen) == 0 {
		return "nothing"
	}
	return strings.Join(f.seen, ", ")
}

// strictly is the content if every file could be read.
func strictly(f *folder, err error) (map[string][]byte, error) {
	if err != nil {
		return nil, err
	}
	for _, name := range f.names() {
		if err := f.errs[name]; err != nil {
			return nil, err
		}
	}
	return f.content, nil
}

// readEach reads the files of a folder that want wants, within the limits.
func readEach(dir string, limits func() *quota, want func(name string) bool) (*folder, error) {
	return ofOneVersion(dir, func(version string) (*folder, error) {
		return readVersion(dir, version, limits(), want)
	})
}

// readNamed reads one file and those beside it whose names beside says.
func readNamed(path string, limits func() *quota, beside func(name string) bool) (*folder, error) {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	return ofOneVersion(dir, func(version string) (*folder, error) {
		q := limits()
		data, err := q.read(filepath.Join(version, name))
		if err != nil {
			return nil, explain(path, err)
		}
		f, err := readVersion(dir, version, q, func(n string) bool { return n != name && beside(n) })
		if err == nil {
			f.content[name] = data
		}
		return f, err
	})
}

// ofOneVersion calls read with the folder that now holds the files of dir, and
// again if another one did by the end. The kubelet deletes the files of an old
// version one by one: without the second look, what was left of them in the
// middle of that would pass for the whole, perhaps without the CRL.
func ofOneVersion[T any](dir string, read func(version string) (T, error)) (content T, err error) {
	return steady(func() (content T, err error) {
		version, err := versionOf(dir)
		if err != nil {
			return content, explain(dir, err)
		}
		if content, err = read(version); err != nil {
			return content, err
		}
		now, err := versionOf(dir)
		if err == nil && now != version {
			err = errReplaced
		}
		if err != nil {
			return content, explain(dir, err)
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
func readVersion(dir, version string, q *quota, want func(name string) bool) (*folder, error) {
	entries, err := os.ReadDir(version)
	if err != nil {
		return nil, explain(dir, err)
	}
	f := &folder{dir: dir, content: map[string][]byte{}, errs: map[string]error{}}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		f.seen = append(f.seen, name)
		if !want(name) {
			continue
		}
		data, err := q.read(filepath.Join(version, name))
		switch {
		case errors.Is(err, errNotRegular):
		case err != nil:
			f.errs[name] = explain(filepath.Join(dir, name), err)
		default:
			f.content[name] = data
		}
	}
	return f, nil
}

// readFile reads a regular file: opening a FIFO would wait for ever. What is too
// large beside what was taken before is refused before it is read.
func readFile(path string, limit Limit, who string, taken int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	if err := limit.check(who, taken+info.Size()); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	left := limit.Bytes - taken // it may have grown meanwhile
	var content bytes.Buffer
	content.Grow(int(info.Size()) + bytes.MinRead) // at once: a list may be large
	if _, err := content.ReadFrom(io.LimitReader(f, left+1)); err != nil {
		return nil, err
	}
	data := content.Bytes()
	return data, limit.check(who, taken+int64(len(data)))
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
