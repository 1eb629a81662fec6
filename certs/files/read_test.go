package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// ROT-02: the kubelet deletes the files of an old version one by one. What is
// left in the middle of that is not taken for the whole.
func TestReadDuringDeletion(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "..data")
	put := func(version string, names ...string) {
		t.Helper()
		err := os.Mkdir(filepath.Join(dir, version), 0o700)
		for _, n := range names {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, version, n), []byte(version), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("..old", "ca.crt") // its crl.pem is deleted already
	put("..new", "ca.crt", "crl.pem")
	if err := os.Symlink("..old", data); err != nil {
		t.Fatal(err)
	}
	reads := 0
	content, err := ofOneVersion(dir, func(version string) (map[string][]byte, error) {
		reads++
		if reads == 1 {
			if err := errors.Join(os.Symlink("..new", data+"_tmp"), os.Rename(data+"_tmp", data)); err != nil {
				t.Fatal(err)
			}
		}
		return strictly(readVersion(dir, version, Limit{}.quota(), all))
	})
	if err != nil || reads != 2 || len(content) != 2 || string(content["ca.crt"]) != "..new" {
		t.Errorf("got %q, %v after %d reads; want the new version", content, err, reads)
	}
}

// ROT-02: a link that leads nowhere for a moment must not make us read
// through the links of single files.
func TestVersionOfDanglingLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("..gone", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if got, err := versionOf(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %q, %v; want that there is none", got, err)
	}
}

// ROT-02: items of a projected volume lie in folders below the link.
func TestVersionOfFolderBelowLink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "..v1", "server"), 0o700),
		os.Symlink("..v1", filepath.Join(dir, "..data")),
		os.Symlink(filepath.Join("..data", "server"), filepath.Join(dir, "server")),
	); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "..v1", "server")
	if got, err := versionOf(filepath.Join(dir, "server")); got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// A folder where one file is wanted is said to be one, whoever wants it.
func TestReadOne(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadOne(file); err != nil || string(got) != "text" {
		t.Errorf("got %q, %v", got, err)
	}
	_, one := ReadOne(dir)
	_, roots := Roots(dir)
	for _, err := range []error{one, roots} {
		if err == nil || err.Error() != dir+" is a folder; name the file" {
			t.Errorf("got %v", err)
		}
	}
}
