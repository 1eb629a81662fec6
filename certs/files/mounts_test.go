package files

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The lines are those of a container: a Secret as a folder, one file of it by
// subPath, and folders by subPath of a Secret and of a volume on a disk.
func TestFrozen(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"whole", "whole/..2026_01_02_03_04_05.678", "one", "sub", "disk", "with space", "plain"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"whole/..2026_01_02_03_04_05.678/tls.crt", "one/tls.crt", "one/tls.key", "sub/tls.crt", "disk/tls.crt", "with space/tls.crt", "plain/tls.crt"} {
		if err := os.WriteFile(filepath.Join(base, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..2026_01_02_03_04_05.678/tls.crt", filepath.Join(base, "whole/tls.crt")); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(base, "mountinfo")
	text := "22 1 0:20 / / rw - overlay overlay rw\n" +
		"23 22 0:30 / " + base + "/whole ro,relatime - tmpfs tmpfs rw\n" +
		"24 22 0:31 /..2026_01_02_03_04_05.678/tls.crt " + base + "/one/tls.crt ro - tmpfs tmpfs rw\n" +
		"25 22 0:32 /..2026_01_02_03_04_05.678/sub " + base + "/sub ro - tmpfs tmpfs rw\n" +
		"26 22 8:1 /var/lib/kubelet/pods/u/volume-subpaths/v/sidegate/0 " + base + "/disk rw - ext4 /dev/sda1 rw\n" +
		"27 22 8:1 /some/file " + base + "/with\\040space/tls.crt rw - ext4 /dev/sda1 rw\n" +
		"garbage\n"
	if err := os.WriteFile(table, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts, err := Mounts(table)
	if err != nil || len(mounts) != 6 {
		t.Fatalf("%d mounts, want 6; %v", len(mounts), err)
	}
	for path, want := range map[string]bool{
		"whole": false, "whole/tls.crt": false, "one": false, "one/tls.crt": true, "one/tls.key": false,
		"sub": true, "sub/tls.crt": true, "disk/tls.crt": true, "with space/tls.crt": true, "with space": false,
		"plain": false, "not there": false,
	} {
		if m, got := Frozen(mounts, filepath.Join(base, path)); got != want {
			t.Errorf("%s: %t by %+v, want %t", path, got, m, want)
		}
	}
	if _, err := Mounts(filepath.Join(base, "none")); err == nil {
		t.Error("no error without a table")
	}
}

// What the kernel writes of a file of a kubelet's volume that is mounted by
// itself, in a mount namespace of its own.
func TestFrozenByTheKernel(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "tls.crt")
	if os.Getenv("FROZEN_TARGET") != "" {
		target = os.Getenv("FROZEN_TARGET")
		mounts, err := Mounts("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		m, frozen := Frozen(mounts, target)
		if !frozen {
			t.Errorf("not seen: %+v", m)
		}
		if m, frozen := Frozen(mounts, filepath.Dir(target)); frozen {
			t.Errorf("the folder is frozen by %+v", m)
		}
		return
	}
	if out, err := exec.Command("unshare", "-rm", "true").CombinedOutput(); err != nil {
		t.Skipf("mount namespaces are not allowed here: %v %s", err, out)
	}
	volume := t.TempDir()
	if err := WriteSecret(volume, map[string][]byte{"tls.crt": []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-rm", "sh", "-c", `mount --bind "$1/tls.crt" "$2" && exec "$3" -test.run='^TestFrozenByTheKernel$'`,
		"sh", volume, target, os.Args[0])
	cmd.Env = append(os.Environ(), "FROZEN_TARGET="+target)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
