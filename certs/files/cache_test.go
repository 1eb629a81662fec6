package files_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"sidegate/certs/files"
)

func TestCache(t *testing.T) {
	c := &files.Cache{Dir: t.TempDir()}
	get := func(name, want string) {
		t.Helper()
		got, err := c.Get(name)
		if err != nil || string(got) != want || (got == nil) != (want == "") {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	get("a", "")
	for _, text := range []string{"one", "a longer text", "2"} {
		if err := c.Put("a", []byte(text)); err != nil {
			t.Fatal(err)
		}
		get("a", text)
	}
	get("b", "")
	if info, err := os.Stat(filepath.Join(c.Dir, "a")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want 0600", info.Mode(), err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) != 1 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

// A nil cache keeps nothing and is no error.
func TestNoCache(t *testing.T) {
	var c *files.Cache
	got, err := c.Get("a")
	if err != nil || got != nil || c.Put("a", nil) != nil || c.Check() != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// ROT-17: whoever reads at any moment sees one whole content. Whoever is ended
// in the middle leaves what was there before.
func TestCacheIsReplacedWhole(t *testing.T) {
	c := &files.Cache{Dir: t.TempDir()}
	a, b := bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<16)
	if err := c.Put("x", a); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	written := make(chan error, 1)
	go func() {
		defer done.Store(true)
		for range 50 {
			for _, text := range [][]byte{b, a} {
				if err := c.Put("x", text); err != nil {
					written <- err
					return
				}
			}
		}
		written <- nil
	}()
	for !done.Load() {
		got, err := c.Get("x")
		if err != nil || !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	// What one that was ended has left is passed over.
	if err := os.WriteFile(filepath.Join(c.Dir, ".new-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get("x"); err != nil || !bytes.Equal(got, a) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// What can't be read or written says which file and why, the same each time.
func TestCacheErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "folder", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, nowhere := &files.Cache{Dir: dir}, &files.Cache{Dir: filepath.Join(dir, "nowhere")}
	big := bytes.Repeat([]byte("x"), 2<<20)
	if err := c.Put("big", big); err != nil {
		t.Fatal(err)
	}
	get := func(name string) func() error {
		return func() error {
			_, err := c.Get(name)
			return err
		}
	}
	for _, row := range []struct {
		name string
		do   func() error
		want string
	}{
		{"get a folder", get("folder"), "read " + dir + "/folder: it is not a regular file"},
		{"get too much", get("big"), "read " + dir + "/big: it has 2 MiB, more than 1 MiB"},
		{"put onto a folder", func() error { return c.Put("folder", nil) }, "keep " + dir + "/folder: file exists"},
		{"put into nowhere", func() error { return nowhere.Put("a", nil) }, "keep " + nowhere.Dir + "/a: no such file or directory"},
		{"check nowhere", nowhere.Check, "keep " + nowhere.Dir + "/.check: no such file or directory"},
	} {
		err, again := row.do(), row.do()
		if err == nil || !strings.HasPrefix(err.Error(), row.want) || again == nil || again.Error() != err.Error() {
			t.Errorf("%s: got %v, then %v; want %q", row.name, err, again, row.want)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".new-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if os.Getuid() == 0 {
		return // root reads all
	}
	if err := os.Chmod(filepath.Join(dir, "big"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("big"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v", err)
	}
}
