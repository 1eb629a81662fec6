package files

import (
	"os"
	"path/filepath"
	"testing"
)

// A writer that was ended between its link and the rename keeps nobody from
// writing after it.
func TestWriteSecretAfterACrash(t *testing.T) {
	dir := t.TempDir()
	for i, content := range []string{"first", "second"} {
		if err := os.Symlink("..gone", filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := WriteSecret(dir, map[string][]byte{"a": []byte(content)}); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != content {
			t.Errorf("got %q, %v, want %q", got, err, content)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 { // a, ..data and one version
		t.Errorf("left: %v, %v", entries, err)
	}
}
