package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// usersMount is a folder of users whose mount can hang.
func usersMount(t *testing.T) *certstest.Mount {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(usersFolder(t), "htpasswd"))
	try(t, err)
	return certstest.NewMount(t, map[string][]byte{"htpasswd": text})
}

// A hanging mount of the users: certificates rotate meanwhile, the alarm names
// the path after 30 s in log, metric and status, the end doesn't wait. What
// hung is loaded again when it answers.
func TestMountThatHangs(t *testing.T) {
	t.Parallel()
	m := usersMount(t)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+m.Dir)
	m.Hang()
	try(t, p.cmd.Process.Signal(syscall.SIGHUP))
	for range 2 {
		before := strings.Count(p.log.String(), "certificate in service")
		v.Update(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
		for strings.Count(p.log.String(), "certificate in service") == before {
			time.Sleep(10 * time.Millisecond)
		}
	}
	p.log.Wait(t, `"level":"ERROR","msg":"reload refused, last good stays in service","source":"users","err":"read `+m.Dir+`: it does not answer`)
	if text := p.metrics(); !strings.Contains(text, `sidegate_last_reload_successful{what="users"} 0`) ||
		!strings.Contains(text, `sidegate_last_reload_successful{what="certificates"} 1`) {
		t.Errorf("the metric does not tell which one hangs:\n%s", text)
	}
	if code, text := p.readyz(); code != 200 {
		t.Errorf("not ready: %s", text)
	}
	m.Resume()
	p.log.Wait(t, `"msg":"reload works again","source":"users"`)
	m.Hang()
	try(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.stop()
}

// A mount that hangs from the start is an error that names it, of serve and
// check after 30 s, and of check --here soon, which looks at the rest.
func TestStartWithMountThatHangs(t *testing.T) {
	t.Parallel()
	path, err := binary()
	try(t, err)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	m := usersMount(t)
	m.Hang()
	for _, args := range [][]string{{"serve"}, {"check"}, {"check", "--here"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(path, args...)
			cmd.Env = []string{"SIDEGATE_TLS=" + v.Dir, "SIDEGATE_USERS=" + m.Dir, "SIDEGATE_ADMIN=" + freeAddr(t)}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err == nil {
				t.Error("it ended well")
			}
			want := []string{"SIDEGATE_USERS: read " + m.Dir + ": it does not answer; does its mount (NFS, FUSE) hang?"}
			if len(args) == 2 {
				want = append(want, "tls.key fits", "a volume of the kubelet")
			}
			for _, text := range want {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%q is missing in\n%s", text, out.String())
				}
			}
		})
	}
}
