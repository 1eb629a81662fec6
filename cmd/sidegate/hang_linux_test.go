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

// A unix socket on a mount that hangs, of an application, of the Workload API,
// or to listen on: an error that names it in time, and the end doesn't wait.
func TestSocketOnMountThatHangs(t *testing.T) {
	t.Parallel()
	m := certstest.NewMount(t, map[string][]byte{"socket": nil, "other": nil})
	m.Hang()
	socket, other := filepath.Join(m.Dir, "socket"), filepath.Join(m.Dir, "other")
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	common := []string{"SIDEGATE_TLS=" + v.Dir, "SIDEGATE_ALLOW=anyone"}
	for name, c := range map[string]struct {
		args, environ []string
		want          string
	}{
		"serve, to listen on":       {[]string{"serve"}, []string{"SIDEGATE_INGRESS=unix:" + socket + "=http://127.0.0.1:1"}, "listen on unix:" + socket},
		"check, both":               {[]string{"check"}, []string{"SIDEGATE_INGRESS=unix:" + socket + "=http+unix://" + other}, "ok\n"},
		"check --here, to listen":   {[]string{"check", "--here"}, []string{"SIDEGATE_INGRESS=unix:" + other + "=http://127.0.0.1:1"}, "gate main can't listen at unix:" + other + ": "},
		"check --here, application": {[]string{"check", "--here"}, []string{"SIDEGATE_INGRESS=" + freeAddr(t) + "=http+unix://" + socket}, "nobody listens at unix:" + socket + " for gate main: "},
		"serve, Workload API": {[]string{"serve"}, []string{"SIDEGATE_CERTS=spiffe", "SIDEGATE_TLS=/etc/sidegate/tls", "SPIFFE_ENDPOINT_SOCKET=unix://" + socket, "SIDEGATE_START_TIMEOUT=15s"},
			"connect to unix://" + socket + ": it does not answer; does its mount (NFS, FUSE) hang?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, err := binary()
			try(t, err)
			cmd := exec.Command(path, c.args...)
			cmd.Env = append(append(common[:len(common):len(common)], "SIDEGATE_ADMIN="+freeAddr(t)), c.environ...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			_ = cmd.Run() // its words tell
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("%q is missing in\n%s", c.want, out.String())
			}
		})
	}
	t.Run("serve, application", func(t *testing.T) {
		t.Parallel()
		p := start(t, "http+unix://"+socket, nil, common...)
		answer := <-p.ask(ca, "/")
		p.log.Wait(t, `"reason":"upstream_down"`)
		p.log.Wait(t, "does its mount (NFS, FUSE) hang?")
		if !strings.Contains(answer, "502") && !strings.Contains(p.log.String(), `"status":502`) {
			t.Errorf("got %s", answer)
		}
		p.stop()
	})
}
