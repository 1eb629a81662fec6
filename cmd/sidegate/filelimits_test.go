package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sidegate/certs/certstest"
)

// OPS-22: each kind of file is refused before it is read when it would not fit
// into the container's memory, with the figure, at the start and at a reload,
// where the last good one stays. One that fits is loaded.
func TestFilesThatWouldNotFit(t *testing.T) {
	const memory = 1 << 20
	ca := certstest.NewCA(t, "ca")
	tls := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), ca))
	large := map[string][]byte{}
	for _, f := range largeFiles(t, 80<<10) {
		large[f.name] = f.data
	}
	for name, c := range map[string]struct {
		file, small string
		large       []byte
		environ     []string
		want        string
	}{
		"CRL":    {"ca.crl", string(ca.CRL(t, ca.Cert.NotAfter)), large["ca.crl"], []string{"SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer", "SIDEGATE_CLIENT_CA="}, "SIDEGATE_CLIENT_CA: read %: it has 54 KiB; 32 KiB fit"},
		"CAs":    {"bundle.example.org.pem", string(ca.PEM()), large["bundle.example.org.pem"], []string{"SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer", "SIDEGATE_CLIENT_CA="}, "SIDEGATE_CLIENT_CA: read %: it has 80 KiB; 7 KiB fit"},
		"users":  {"htpasswd", "a:{SHA}hNGvzYtXBTYNMwbYHrCSBIqGRBk=\n", large["htpasswd"], []string{"SIDEGATE_USERS="}, "SIDEGATE_USERS: read %: it has 80 KiB; 8 KiB fit"},
		"policy": {"policy.yaml", "version: 1\nrules:\n- {name: one, user: [anyone]}\n", large["paths.yaml"], []string{"SIDEGATE_POLICY="}, "SIDEGATE_POLICY: read %: it has 80 KiB; 1 KiB fit"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, c.file)
			want := strings.Replace(c.want, "%", path, 1) + " into the container's memory limit of 1 MiB: raise resources.limits.memory"
			write := func(name string, data []byte) { try(t, os.WriteFile(filepath.Join(dir, name), data, 0o600)) }
			environ := append([]string{"SIDEGATE_TLS=" + tls.Dir}, c.environ...)
			last := &environ[len(environ)-1]
			*last += dir
			if name == "policy" {
				*last = "SIDEGATE_POLICY=" + path
			}
			if name == "CRL" || name == "CAs" {
				write("ca.crt", ca.PEM())
			}
			fill := func(memory int64) (*assembly, error) {
				config, err := parseConfig(environ)
				try(t, err)
				a := &assembly{config: config, log: slog.New(slog.DiscardHandler), memory: memory}
				return a, a.fill(context.Background())
			}
			write(c.file, c.large)
			if _, err := fill(memory); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("at the start: got %v, want %s", err, want)
			}
			write(c.file, []byte(c.small))
			a, err := fill(memory)
			try(t, err)
			before := generations(a)
			write(c.file, c.large)
			_, want, _ = strings.Cut(want, ": ")
			if err := reloadOf(a); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("at a reload: got %v, want %s", err, want)
			}
			if after := generations(a); after != before {
				t.Errorf("in service is %s, before %s", after, before)
			}
			for _, l := range a.loaded() {
				if !l.OK {
					return
				}
			}
			t.Error("the metric tells nothing")
		})
	}
}

// generations are those in service.
func generations(a *assembly) string {
	var list []string
	for _, l := range a.loaded() {
		list = append(list, l.What+" "+l.Generation)
	}
	return strings.Join(list, ", ")
}

// reloadOf loads all again and returns the first error.
func reloadOf(a *assembly) error {
	for _, s := range a.stores {
		if err := s.Load(context.Background()); err != nil {
			return err
		}
	}
	for _, l := range a.reload {
		if err := l.First(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// Without a known memory limit only the absolute ones hold, and much memory is
// no reason for more than those.
func TestFileLimits(t *testing.T) {
	if got := limitFiles(0, 1); got != (fileLimits{}) {
		t.Errorf("got %+v", got)
	}
	if text := limitFiles(64<<20, 1).String(); text != "files: 2 MiB of CRLs, 455 KiB of CAs, 512 KiB of users, 99 KiB of policy at most (the container's memory limit of 64 MiB: raise resources.limits.memory)" {
		t.Error(text)
	}
	for memory, want := range map[int64][4]int64{
		64 << 20:  {2 << 20, 466033, 512 << 10, 101680},
		128 << 20: {4 << 20, 932067, 1 << 20, 203360},
	} {
		l := limitFiles(memory, 1)
		if got := [4]int64{l.crls.Bytes, l.cas.Bytes, l.users.Bytes, l.policy.Bytes}; got != want {
			t.Errorf("%d: got %d, want %d", memory, got, want)
		}
		if two := limitFiles(memory, 2); two.crls.Bytes != l.crls.Bytes/2 || two.users != l.users {
			t.Errorf("%d: of two places %+v", memory, two)
		}
	}
}

// OPS-22: a file at its limit costs no more than its share.
func TestFileCosts(t *testing.T) {
	costs := map[string]int64{"ca.crl": crlCost, "crl.pem": crlCost, "bundle.example.org.pem": caCost, "htpasswd": userCost}
	for _, f := range largeFiles(t, 300<<10) {
		cost, known := costs[f.name]
		if !known {
			cost = policyCost
		}
		path := writeLarge(t, f)
		peak, kept := costOf(func() any { return f.load(t, path) })
		if most := cost * int64(len(f.data)); peak+kept > most+most/5 {
			t.Errorf("%s: %d + %d bytes for each of its own, want %d", f.name, kept/int64(len(f.data)), peak/int64(len(f.data)), cost)
		}
	}
}
