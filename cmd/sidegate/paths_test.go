package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// OPS-08: a variable that names a file may hold the secret itself by mistake.
// The error names the variable, and says what to do without showing the value.
func TestWhatMayBeASecretIsNotShown(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "hunter2"
	for f := range configFields() {
		if _, isPath := f.Tag.Lookup("path"); !isPath {
			continue
		}
		name := prefix + f.Tag.Get("env")
		for _, value := range []string{secret, "/" + secret, "./" + secret, "a/" + secret, dir + "/none/" + secret, "//" + secret + "=="} {
			_, err := readConfig([]string{name + "=" + value}, f.Tag.Get("env"))
			if err == nil || !strings.Contains(err.Error(), name+" wants a path") || strings.Contains(err.Error(), secret) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
		for _, value := range []string{there, filepath.Join(dir, "not yet there")} {
			if _, err := readConfig([]string{name + "=" + value}, f.Tag.Get("env")); err != nil && strings.Contains(err.Error(), "wants a path") {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
}
