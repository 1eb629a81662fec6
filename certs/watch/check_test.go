package watch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// ROT-11: a lack of inotify is told before it is felt. The test runs itself in
// a user namespace that has none.
func TestCheck(t *testing.T) {
	if os.Getenv("WITHOUT_INOTIFY") != "" {
		if err := Check(t.Context(), []string{t.TempDir()}); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("got %v, want %v", err, syscall.EMFILE)
		}
		return
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "tls.crt"), "0")
	if err := Check(t.Context(), []string{dir, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "not", "there")}); err != nil {
		t.Error(err)
	}
	wrap := []string{"-Ur", "sh", "-c", `echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"`, "sh"}
	if out, err := exec.Command("unshare", append(wrap, "true")...).CombinedOutput(); err != nil {
		t.Skipf("user namespaces are not allowed here: %v %s", err, out)
	}
	cmd := exec.Command("unshare", append(wrap, os.Args[0], "-test.run=^TestCheck$")...)
	cmd.Env = append(os.Environ(), "WITHOUT_INOTIFY=yes")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
