package files_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/files"
)

func TestLoad(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := ca.Server(t, "a.example")
	other := ca.Server(t, "b.example")
	cases := []struct {
		name    string
		content map[string][]byte
		trust   bool
		want    string // in the error; "" for none
	}{
		{"pair", certstest.Secret(pair, nil), false, ""},
		{"pair and ca", certstest.Secret(pair, ca), true, ""},
		{"several pairs", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "b.crt": other.Cert, "b.key": other.Key}, false, ""},
		{"crt without key is passed over", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "extra.crt": other.Cert}, false, ""},
		{"garbage ca.crt without client certificates", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": []byte("x")}, false, ""},
		{"TLS-06 client certificates without a CA", certstest.Secret(pair, nil), true, "set SIDEGATE_CLIENT_CA or mount ca.crt"},
		{"empty folder", nil, false, "holds no tls.crt and tls.key (found: nothing)"},
		{"no key", map[string][]byte{"tls.crt": pair.Cert}, false, "tls.crt but no tls.key"},
		{"no certificate", map[string][]byte{"tls.key": pair.Key}, false, "tls.key but no tls.crt"},
		{"other names", map[string][]byte{"cert.pem": pair.Cert, "key.pem": pair.Key}, false, "found: cert.pem, key.pem"},
		{"a CA with its key is no pair", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": other.Cert, "ca.key": pair.Key}, false, ""},
		{"TLS-07 empty ca.crt", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": {}}, true, "ca.crt holds no CERTIFICATE block"},
		{"bundle of no trust domain", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "bundle.A_B!.pem": ca.PEM()}, true, "is not a SPIFFE trust domain"},
		{"torn", map[string][]byte{"tls.crt": pair.Cert, "tls.key": other.Key}, false, "tls.key does not belong to the certificate"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := certstest.NewVolume(t, c.content)
			store := &certs.Store{Source: &files.Source{TLS: []string{v.Dir}, WantTrust: c.trust}, Log: slog.New(slog.DiscardHandler)}
			err := store.Load(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// What is not used is told, and nothing else.
func TestLoadNotes(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := ca.Server(t, "a")
	v := certstest.NewVolume(t, map[string][]byte{
		"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": ca.PEM(), "service-ca.crt": ca.PEM(), "ca-bundle.crt": ca.PEM(),
		"ca-bundle.key": pair.Key, "spare.crt": pair.Cert, "README": nil,
	})
	m, err := (&files.Source{TLS: []string{v.Dir}}).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Notes) != 2 || !strings.Contains(m.Notes[0], "ca-bundle.key is not used") || !strings.Contains(m.Notes[1], "spare.crt has no key") {
		t.Errorf("notes %q", m.Notes)
	}
}

// The default pair is tls of the first folder; names of pairs stay apart when
// folders have the same.
func TestLoadSeveralFolders(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pairs := []certstest.Pair{ca.Server(t, "a"), ca.Server(t, "b"), ca.Server(t, "c")}
	dirs := []string{filepath.Join(t.TempDir(), "tls"), filepath.Join(t.TempDir(), "tls")}
	for dir, content := range map[string]map[string][]byte{
		dirs[0]: {"tls.crt": pairs[0].Cert, "tls.key": pairs[0].Key, "first.crt": pairs[1].Cert, "first.key": pairs[1].Key},
		dirs[1]: {"tls.crt": pairs[2].Cert, "tls.key": pairs[2].Key},
	} {
		if err := files.WriteSecret(dir, content); err != nil {
			t.Fatal(err)
		}
	}
	store := &certs.Store{Source: &files.Source{TLS: dirs}, Log: slog.New(slog.DiscardHandler)}
	if err := store.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range store.Status().Certificates {
		got = append(got, c.Name+" "+c.Subject)
	}
	if want := []string{"tls/tls CN=a", "tls/first CN=b", filepath.Join(dirs[1], "tls") + " CN=c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// One generation spans the TLS folder and a CA that is mounted elsewhere.
func TestLoadSpansMounts(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	tls := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), nil))
	trust := certstest.NewVolume(t, map[string][]byte{"ca.crt": ca.PEM()})
	for name, path := range map[string]string{"folder": trust.Dir, "file": filepath.Join(trust.Dir, "ca.crt")} {
		t.Run(name, func(t *testing.T) {
			source := &files.Source{TLS: []string{tls.Dir}, WantTrust: true, ClientCA: path}
			before, err := source.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			trust.Update(t, map[string][]byte{"ca.crt": ca.PEM(), "crl.pem": ca.CRL(t, ca.Cert.NotAfter)})
			after, err := source.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if before.ID == after.ID {
				t.Error("a new CRL beside the CA did not make a new generation")
			}
		})
	}
}

// A file that is configured by name is all that is read beside its CRL: what
// else lies in its folder may be anything.
func TestLoadReadsOnlyTheNamedCA(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	dir := t.TempDir()
	for name, data := range map[string][]byte{"roots.crt": ca.PEM(), "large": make([]byte, 2<<20), "bundle.example.org.pem": []byte("no CA")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tls := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), nil))
	source := &files.Source{TLS: []string{tls.Dir}, WantTrust: true, ClientCA: filepath.Join(dir, "roots.crt")}
	if _, err := source.Load(t.Context()); err != nil {
		t.Error(err)
	}
}

// ROT-02: whatever moment a read falls into, all files are of one version.
func TestReadSeesOneVersion(t *testing.T) {
	version := func(i int) map[string][]byte {
		v := map[string][]byte{}
		for f := range 8 {
			v[fmt.Sprint("file", f)] = []byte(fmt.Sprint("version ", i))
		}
		return v
	}
	v := certstest.NewVolume(t, version(0))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				v.Update(t, version(i))
			}
		}
	})
	read := 0
	for range 2000 {
		content, err := files.Read(v.Dir)
		if err != nil {
			continue // five versions came and went: the loop retries
		}
		read++
		if len(content) != 8 {
			t.Fatalf("%d files of a version with 8", len(content))
		}
		for name, data := range content {
			if string(data) != string(content["file0"]) {
				t.Fatalf("%s is %q but file0 is %q", name, data, content["file0"])
			}
		}
	}
	close(stop)
	wg.Wait()
	if read == 0 {
		t.Error("no read succeeded")
	}
}

// A file named by itself may be hidden, is read through the kubelet's links,
// and only as far as the limit.
func TestReadFile(t *testing.T) {
	v := certstest.NewVolume(t, map[string][]byte{"htpasswd": []byte("x")})
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, path string
		want       string // in the error; "" for none
	}{
		{"through links", filepath.Join(v.Dir, "htpasswd"), ""},
		{"hidden", write(".htpasswd", 1), ""},
		{"largest", write("largest", 1<<20), ""},
		{"too large", write("large", 1<<20+1), "large: it has 1.0 MiB, more than 1 MiB"},
		{"largest CRL", write("crl.pem", 16<<20), ""},
		{"FIFO", fifo, "fifo: it is not a regular file"},
		{"missing", "/does/not/exist", "/does/not/exist"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			content, err := files.Read(c.path)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			} else if _, ok := content[filepath.Base(c.path)]; err != nil || !ok || len(content) != 1 {
				t.Errorf("got %d files, %v", len(content), err)
			}
		})
	}
}

// Of a folder, what is hidden and what is no file is passed over.
func TestReadFolder(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, ".hidden"), []byte("x"), 0o600),
		os.Mkdir(filepath.Join(dir, "folder"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	content, err := files.Read(dir)
	if err != nil || len(content) != 1 || string(content["file"]) != "x" {
		t.Errorf("got %v, %v; want the file", content, err)
	}
}

// A file that we may not read: what it is, who we are and what to do.
func TestReadExplainsPermission(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "tls.key")
	if err := os.WriteFile(path, nil, 0o200); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		for _, p := range []string{dir, path} {
			_, err := files.Read(p)
			for _, want := range []string{path, "mode --w-------", "uid ", "fsGroup", "defaultMode"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %v, want %q in it", p, err, want)
				}
			}
		}
	})
}

// asNobody calls f without the rights of root where the test has them.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	if err := syscall.Seteuid(65534); err != nil { // of all threads: files are read on others
		t.Fatal(err)
	}
	f()
	if err := syscall.Seteuid(0); err != nil {
		t.Fatal(err)
	}
}

// TLS-21: a CRL counts under whatever name it is mounted.
func TestCRLNames(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	revoked := ca.Client(t, "revoked")
	list := ca.CRL(t, ca.Cert.NotAfter, revoked.Leaf)
	block, _ := pem.Decode(list)
	tls := certstest.Secret(ca.Server(t, "a"), nil)
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"crl.pem", list}, {"ca.crl", list}, {"tls.crl", list}, {"ca-crl.pem", list}, {"CRL.PEM", list}, {"crl", list},
		{"crls.pem", list}, {"root.crl.pem", list}, {"rootcrl.pem", list}, {"ca.crl", block.Bytes}, {"crl.der", block.Bytes},
		{"crl.pem", block.Bytes}, {"rootcrl.der", block.Bytes}, {"1a2b3c4d.r0", list}, {"revoked.pem", list}, {"lists.txt", list},
	} {
		for place, load := range map[string]func(content map[string][]byte) (*certs.Material, error){
			"TLS folder": func(content map[string][]byte) (*certs.Material, error) {
				return (&files.Source{TLS: []string{certstest.NewVolume(t, with(content, tls)).Dir}, WantTrust: true}).Load(t.Context())
			},
			"folder of CAs": func(content map[string][]byte) (*certs.Material, error) {
				return (&files.Source{WantTrust: true, ClientCA: certstest.NewVolume(t, content).Dir}).Load(t.Context())
			},
			"file of CAs": func(content map[string][]byte) (*certs.Material, error) {
				return (&files.Source{WantTrust: true, ClientCA: filepath.Join(certstest.NewVolume(t, content).Dir, "ca.crt")}).Load(t.Context())
			},
		} {
			t.Run(place+" "+c.name, func(t *testing.T) {
				m, err := load(map[string][]byte{"ca.crt": ca.PEM(), c.name: c.data})
				if err != nil {
					t.Fatal(err)
				}
				if place == "file of CAs" && !files.IsCRL(c.name) {
					return // whatever else lies there is not read
				}
				s := &certs.Store{Source: loaded{m}, Log: slog.New(slog.DiscardHandler)}
				if err := s.Load(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := s.VerifyPeer(revoked.Chain(t), x509.ExtKeyUsageClientAuth); err == nil {
					t.Error("the list does not count")
				}
			})
		}
	}
	for _, name := range []string{"crl.pem", "ca.crl", "crl.der"} {
		t.Run("garbled "+name, func(t *testing.T) {
			v := certstest.NewVolume(t, with(map[string][]byte{"ca.crt": ca.PEM(), name: []byte("garbage")}, tls))
			if _, err := (&files.Source{TLS: []string{v.Dir}, WantTrust: true}).Load(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want an error that names the file", err)
			}
		})
	}
	for _, name := range []string{"crlnumber", "crl.cnf", "crl.pem.bak", "scrolls.txt", "ca.crt", "tls.key"} {
		if files.IsCRL(name) {
			t.Errorf("%s is taken for CRLs", name)
		}
	}
}

// TLS-21: a CRL in a folder whose CAs are not those of clients is warned of.
func TestCRLElsewhere(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	secret := with(certstest.Secret(ca.Server(t, "a"), ca), map[string][]byte{"ca.crl": ca.CRL(t, ca.Cert.NotAfter)})
	v, trust := certstest.NewVolume(t, secret), certstest.NewVolume(t, map[string][]byte{"ca.crt": ca.PEM()})
	m, err := (&files.Source{TLS: []string{v.Dir}, WantTrust: true, ClientCA: trust.Dir}).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Warnings) != 1 || !strings.Contains(m.Warnings[0], "ca.crl revokes nobody of those for whom "+trust.Dir) {
		t.Errorf("warnings %q", m.Warnings)
	}
}

// OPS-22: the lists of a folder have a bound together, which is told.
func TestManyLargeCRLs(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	comment := bytes.Repeat([]byte("#"), 9<<20) // text before a block is allowed
	list := append(append(comment, '\n'), ca.CRL(t, ca.Cert.NotAfter)...)
	v := certstest.NewVolume(t, with(certstest.Secret(ca.Server(t, "a"), ca), map[string][]byte{"one.crl": list}))
	source := &files.Source{TLS: []string{v.Dir}, WantTrust: true}
	if _, err := source.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.Update(t, with(certstest.Secret(ca.Server(t, "a"), ca), map[string][]byte{"one.crl": list, "two.crl": list}))
	if _, err := source.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "two.crl: it and the CRLs beside it have 18.0 MiB, more than 16 MiB") {
		t.Errorf("got %v", err)
	}
}

// OPS-22: files that nobody uses have a bound together, and decide about nothing.
func TestManyLargeFiles(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	content := certstest.Secret(ca.Server(t, "a"), ca)
	for i := range 20 {
		content[fmt.Sprintf("%02d.bin", i)] = make([]byte, 1<<20)
	}
	v := certstest.NewVolume(t, content)
	for _, c := range []struct {
		limit  files.Limit
		unused int
		text   string
	}{
		{files.Limit{}, 4, "16.bin: it and the files beside it have 17 MiB, more than 16 MiB"},
		{files.Limit{Bytes: 1 << 20, Of: "memory"}, 19, "01.bin: it and the files beside it have 2 MiB; 1 MiB fit into memory"},
	} {
		m, err := (&files.Source{TLS: []string{v.Dir}, WantTrust: true, CAs: c.limit}).Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Warnings) != c.unused || !strings.Contains(m.Warnings[0], c.text) {
			t.Errorf("%d warnings, want %d with %q: %q", len(m.Warnings), c.unused, c.text, m.Warnings)
		}
	}
}

// ROT-20: what lies beside the pair decides about nothing, whatever it is. Only
// whom to trust is strict.
func TestOtherFilesDecideNothing(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	pair := ca.Server(t, "localhost")
	large := make([]byte, 2<<20)
	for name, put := range map[string]func(dir string) error{
		"large":                   func(dir string) error { return os.WriteFile(filepath.Join(dir, "heap.dump"), large, 0o600) },
		"large certificate":       func(dir string) error { return os.WriteFile(filepath.Join(dir, "b.crt"), large, 0o600) },
		"large key alone":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "b.key"), large, 0o600) },
		"garbled key alone":       func(dir string) error { return os.WriteFile(filepath.Join(dir, "b.key"), []byte("x"), 0o600) },
		"looping file":            func(dir string) error { return os.Symlink("loop", filepath.Join(dir, "loop")) },
		"looping certificate":     func(dir string) error { return os.Symlink("loop.crt", filepath.Join(dir, "loop.crt")) },
		"link that leads nowhere": func(dir string) error { return os.Symlink("/does/not/exist", filepath.Join(dir, "b.key")) },
		"FIFO":                    func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "b.crt"), 0o600) },
		"garbled pair": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "b.crt"), []byte("x"), 0o600), os.WriteFile(filepath.Join(dir, "b.key"), []byte("x"), 0o600))
		},
		"folder": func(dir string) error { return os.Mkdir(filepath.Join(dir, "b.crt"), 0o700) },
	} {
		for _, trust := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, trust %t", name, trust), func(t *testing.T) {
				dir := t.TempDir()
				for file, data := range certstest.Secret(pair, ca) {
					if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if err := put(dir); err != nil {
					t.Fatal(err)
				}
				store := &certs.Store{Source: &files.Source{TLS: []string{dir}, WantTrust: trust}, Log: slog.New(slog.DiscardHandler)}
				if err := store.Load(t.Context()); err != nil {
					t.Errorf("got %v", err)
				}
			})
		}
	}
	for name, want := range map[string]string{"ca.crt": "ca.crt", "bundle.a.example.pem": "bundle.a.example.pem", "ca.crl": "ca.crl", "tls.key": "tls.key"} {
		t.Run("unreadable "+name, func(t *testing.T) {
			dir := t.TempDir()
			for file, data := range certstest.Secret(pair, ca) {
				if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca.PEM(), 0o600); err != nil { // which does not stand in for it
				t.Fatal(err)
			}
			_ = os.Remove(filepath.Join(dir, name)) // some are not there
			if err := os.Symlink(name, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			store := &certs.Store{Source: &files.Source{TLS: []string{dir}, WantTrust: true}, Log: slog.New(slog.DiscardHandler)}
			if err := store.Load(t.Context()); err == nil || !strings.Contains(err.Error(), want+": too many levels") {
				t.Errorf("got %v, want an error that names %s", err, want)
			}
		})
	}
}

// ROT-19: another folder than the first decides about its own pairs alone.
func TestOtherFolders(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	first := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "a"), nil))
	garbled := certstest.NewVolume(t, map[string][]byte{"tls.crt": []byte("x"), "tls.key": []byte("x")})
	for name, dir := range map[string]string{"missing": filepath.Join(t.TempDir(), "none"), "empty": t.TempDir(), "garbled": garbled.Dir} {
		t.Run(name, func(t *testing.T) {
			load := func(dirs ...string) (*certs.Store, error) {
				s := &certs.Store{Source: &files.Source{TLS: dirs}, Log: slog.New(slog.DiscardHandler)}
				return s, s.Load(t.Context())
			}
			s, err := load(first.Dir, dir)
			if err != nil {
				t.Fatal(err)
			}
			if w := s.Status().Warnings; len(w) != 1 || !strings.Contains(w[0], dir) {
				t.Errorf("warnings %q, want one that names the folder", w)
			}
			if _, err := load(dir, first.Dir); err == nil {
				t.Error("the first folder has the default pair, and serve started without")
			}
		})
	}
}

// loaded is a source of one material.
type loaded struct{ m *certs.Material }

func (l loaded) Load(context.Context) (*certs.Material, error) { return l.m, nil }
func (loaded) String() string                                  { return "test" }

// with is both.
func with(a, b map[string][]byte) map[string][]byte {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}
