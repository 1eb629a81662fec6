// Package e2e proves Sidegate in a real cluster, which scripts/e2e-kubernetes
// brings up. Its tests type what a user types: kubectl, curl's requests, and
// `sidegate inject`.
package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// The environment that scripts/e2e-kubernetes gives.
var (
	sidegate = os.Getenv("E2E_SIDEGATE") // the program
	kubelet  = os.Getenv("E2E_KUBELET")  // the kubelet's folder, where it mounts Secrets
)

// figures are told once more when all tests have ended.
var figures []string

func TestMain(m *testing.M) {
	if sidegate == "" {
		fmt.Println("no cluster: run scripts/e2e-kubernetes")
		return
	}
	code := m.Run()
	fmt.Printf("\nFigures\n\n%s\n", strings.Join(figures, "\n"))
	os.Exit(code)
}

func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf("%-28s %s", t.Name(), fmt.Sprintf(format, args...))
	t.Log(line)
	figures = append(figures, line)
}

// run is the output of a program that must succeed.
func run(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	out, err := try(stdin, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out, err
}

// space is a namespace for one test, under Pod Security "restricted".
type space struct {
	t    *testing.T
	name string
	ca   *certstest.CA
	// host is the name in the server's certificate, and shown the certificate of
	// every client that brings none of its own; nil: none.
	host  string
	shown *certstest.Pair
}

const password = "correct horse"

// newSpace makes a namespace with the Secrets web-tls, of a CA of its own, and
// web-users, where admin has a password.
func newSpace(t *testing.T) *space {
	t.Helper()
	name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "-"))
	name += strconv.FormatInt(time.Now().UnixMilli(), 36) // an earlier one of this name may still be on its way out
	s := &space{t: t, name: name, ca: certstest.NewCA(t, "e2e "+name), host: "web"}
	s.apply([]byte("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + name + "\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"))
	await(t, "service account", func() bool { _, err := s.try("get", "serviceaccount", "default"); return err == nil })
	s.secret("web-tls", "kubernetes.io/tls", certstest.Secret(s.certificate(), nil))
	s.secret("web-users", "Opaque", map[string][]byte{"htpasswd": s.htpasswd("admin")})
	t.Cleanup(func() {
		if t.Failed() {
			s.tellAll()
		}
		s.kubectl("delete", "namespace", name, "--wait=false")
	})
	return s
}

// tellAll logs what is needed to understand a failure.
func (s *space) tellAll() {
	for _, args := range [][]string{{"get", "pods", "-o", "wide"}, {"get", "events", "--sort-by=.lastTimestamp"}, {"describe", "pods"}} {
		out, _ := s.try(args...)
		s.t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
	pods, _ := s.try("get", "pods", "-o", "name")
	for _, pod := range strings.Fields(string(pods)) {
		out, _ := s.try("logs", pod, "--all-containers", "--tail=20")
		s.t.Logf("%s\n%s", pod, out)
	}
}

func (s *space) kubectl(args ...string) []byte {
	s.t.Helper()
	return run(s.t, nil, "kubectl", append([]string{"--namespace", s.name}, args...)...)
}

func (s *space) try(args ...string) ([]byte, error) {
	return try(nil, "kubectl", append([]string{"--namespace", s.name}, args...)...)
}

func (s *space) apply(manifest []byte) {
	s.t.Helper()
	run(s.t, manifest, "kubectl", "--namespace", s.name, "apply", "-f", "-")
}

// overlay applies one of ours, as it is.
func (s *space) overlay(name string) {
	s.t.Helper()
	s.kubectl("apply", "-k", "../../manifests/overlays/"+name)
}

// ready waits until a workload is as its manifest says.
func (s *space) ready(workload string) {
	s.t.Helper()
	s.kubectl("rollout", "status", workload, "--timeout=120s")
}

// field is a jsonpath of an object.
func (s *space) field(object, path string) string {
	s.t.Helper()
	return string(s.kubectl("get", object, "-o", "jsonpath="+path))
}

// secret writes one, by the same call for the first time and for an update.
func (s *space) secret(name, kind string, files map[string][]byte) {
	s.t.Helper()
	dir := s.t.TempDir()
	args := []string{"create", "secret", "generic", name, "--type=" + kind, "--dry-run=client", "-o", "yaml"}
	for file, content := range files {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
		args = append(args, "--from-file="+path)
	}
	s.apply(s.kubectl(args...))
}

// certificate is a new one for the names by which the tests call.
func (s *space) certificate() certstest.Pair {
	return s.ca.Server(s.t, "web", "web."+s.name+".svc", "localhost")
}

// htpasswd is what `sidegate passwd` writes for these users.
func (s *space) htpasswd(users ...string) []byte {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "htpasswd")
	for _, user := range users {
		run(s.t, []byte(password+"\n"), sidegate, "passwd", file, user)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// pods are the addresses of the pods with a label that aren't going away.
func (s *space) pods(label string) []string {
	s.t.Helper()
	out := s.kubectl("get", "pods", "-l", label, "-o",
		`go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.status.podIP}}{{"\n"}}{{end}}{{end}}`)
	addresses := strings.Fields(string(out))
	slices.Sort(addresses)
	return addresses
}

// service is HOST:PORT of a Service.
func (s *space) service(name string) string {
	s.t.Helper()
	return net.JoinHostPort(s.field("service/"+name, "{.spec.clusterIP}"), s.field("service/"+name, "{.spec.ports[0].port}"))
}

// await waits for something that comes within two minutes.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}
