package e2e

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sidegate/certs/certstest"
)

// definitions are the custom resources of the manifests as their projects
// publish them: files of Go modules that our own tests take types from.
var definitions = map[string]string{
	"github.com/cert-manager/cert-manager":  "deploy/crds/cert-manager.io_*.yaml",
	"github.com/cert-manager/trust-manager": "deploy/charts/trust-manager/templates/crd-trust.cert-manager.io_bundles.yaml",
	"github.com/openshift/api":              "route/v1/route.crd.yaml",
}

// define makes the custom resources known to the cluster.
func define(t *testing.T) {
	t.Helper()
	for module, pattern := range definitions {
		run(t, nil, "go", "mod", "download", module)
		dir := strings.TrimSpace(string(run(t, nil, "go", "list", "-m", "-f", "{{.Dir}}", module)))
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no %s", module, pattern)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			run(t, withoutTemplates(text), "kubectl", "apply", "--server-side", "-f", "-")
		}
	}
	run(t, nil, "kubectl", "wait", "--for=condition=Established", "customresourcedefinitions", "--all", "--timeout=60s")
}

// withoutTemplates drops the lines of a chart that are not YAML.
func withoutTemplates(text []byte) []byte {
	var kept []byte
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "{{") {
			kept = append(kept, line...)
		}
	}
	return kept
}

// The API server accepts every overlay without a warning about a field, and
// custom resources by the schemas of those who made them.
func TestDryRun(t *testing.T) {
	define(t)
	s := newSpace(t)
	overlays, err := filepath.Glob("../../manifests/overlays/*")
	if err != nil || len(overlays) == 0 {
		t.Fatal(err)
	}
	for _, overlay := range overlays {
		out := s.kubectl("apply", "--dry-run=server", "--validate=strict", "-k", overlay)
		t.Logf("%s\n%s", filepath.Base(overlay), out)
	}
	figure(t, "the API server accepts %d overlays", len(overlays))
}

// A password before an application that has none: from the Service, from a
// port-forward, and not past the gate.
func TestBasicAuth(t *testing.T) {
	s := newSpace(t)
	// Variables of a Service with our name would look like ours.
	s.kubectl("create", "service", "clusterip", "sidegate-x", "--tcp=80")
	s.overlay("basic-auth")
	s.ready("deployment/web")
	s.client(s.service("web")).guarded(t)
	s.client(s.forward("service/web", "443")).guarded(t)

	pods := s.pods("app.kubernetes.io/name=web")
	from := s.field("pods", "{.items[0].metadata.name}")
	connect := `import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)`
	for _, ip := range pods {
		if ip == s.field("pod/"+from, "{.status.podIP}") {
			continue
		}
		s.kubectl("exec", from, "-c", "app", "--", "python3", "-c", connect, ip, "8443")
		_, err := s.try("exec", from, "-c", "app", "--", "python3", "-c", connect, ip, "8080")
		if err == nil || !strings.Contains(err.Error(), "ConnectionRefusedError") {
			t.Errorf("the application's port, from another pod: %v", err)
		}
	}

	s.kubectl("patch", "deployment/web", "--patch", `{"spec":{"template":{"spec":{"enableServiceLinks":true}}}}`)
	s.ready("deployment/web")
	environment := s.kubectl("exec", "deployment/web", "-c", "app", "--", "env")
	if !strings.Contains(string(environment), "SIDEGATE_X_PORT=") {
		t.Errorf("no service links: %s", environment)
	}
	s.client(s.service("web")).guarded(t)
}

// forward is the address at which `kubectl port-forward` leads to an object.
func (s *space) forward(object, port string) string {
	s.t.Helper()
	cmd := exec.Command("kubectl", "--namespace", s.name, "port-forward", object, ":"+port)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:39001 -> 8443
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Fields(line)[2]
}

func TestTLSOnly(t *testing.T) {
	s := newSpace(t)
	s.overlay("tls-only")
	s.ready("deployment/web")
	if status, body := s.client(s.service("web")).answer(t, "GET", "/", ""); status != http.StatusOK || body != "hello whoever you are\n" {
		t.Errorf("got %d %q", status, body)
	}
}

// Only the named clients pass; a passthrough Route leads to the same pods.
func TestClientCertificates(t *testing.T) {
	define(t)
	for _, overlay := range []string{"mtls", "openshift-passthrough"} {
		t.Run(overlay, func(t *testing.T) {
			s := newSpace(t)
			clients := certstest.NewCA(t, "clients")
			s.apply(s.kubectl("create", "configmap", "web-clients", "--from-literal=ca.crt="+string(clients.PEM()), "--dry-run=client", "-o", "yaml"))
			s.overlay(overlay)
			if overlay != "mtls" {
				s.likeRestrictedV2()
			}
			s.ready("deployment/web")
			named := clients.Client(t, "prometheus", "spiffe://prod.example/ns/monitoring/sa/prometheus")
			if status, body := s.client(s.service("web"), named).answer(t, "GET", "/", ""); status != http.StatusOK {
				t.Errorf("a named client: got %d %q", status, body)
			}
			other := clients.Client(t, "other", "spiffe://prod.example/ns/monitoring/sa/other")
			if status, _ := s.client(s.service("web"), other).answer(t, "GET", "/", ""); status != http.StatusForbidden {
				t.Errorf("another client of the CA: got %d, want 403", status)
			}
			stranger := certstest.NewCA(t, "clients").Client(t, "prometheus", "spiffe://prod.example/ns/monitoring/sa/prometheus")
			for who, certificate := range map[string][]certstest.Pair{"none": nil, "of another CA": {stranger}} {
				if status, _, err := s.client(s.service("web"), certificate...).ask("GET", "/", "", nil); err == nil {
					t.Errorf("a certificate, %s: got %d, want no connection", who, status)
				}
			}
		})
	}
}

// likeRestrictedV2 does to the pods what OpenShift's admission does: any user,
// group 0.
func (s *space) likeRestrictedV2() {
	s.t.Helper()
	s.kubectl("patch", "deployment/web", "--patch", `{"spec":{"template":{"spec":{"securityContext":{
		"runAsUser":1000680000,"runAsGroup":0,"fsGroup":1000680000}}}}}`)
}

// The manifests for OpenShift run as an arbitrary user, behind TLS and, where a
// router has ended that, without.
func TestOpenShift(t *testing.T) {
	define(t)
	for overlay, scheme := range map[string]string{"openshift-reencrypt": "https", "openshift-edge": "http"} {
		t.Run(overlay, func(t *testing.T) {
			s := newSpace(t)
			s.overlay(overlay)
			s.likeRestrictedV2()
			s.ready("deployment/web")
			c := s.client(s.service("web"))
			c.scheme = scheme
			c.guarded(t)
		})
	}
}

// The kubelet asks the application through Sidegate, and an application that is
// unwell makes nothing else unready.
func TestProbes(t *testing.T) {
	s := deployed(t, "basic-auth")
	pod := s.field("pods", "{.items[0].metadata.name}")
	ready := func(list, container string) string {
		return s.field("pod/"+pod, `{.status.`+list+`[?(@.name=="`+container+`")].ready}`)
	}
	if ready("initContainerStatuses", "sidegate") != "true" || ready("containerStatuses", "app") != "true" {
		t.Fatal("not ready")
	}
	c := s.client(net.JoinHostPort(s.field("pod/"+pod, "{.status.podIP}"), "8443"))
	if status, body := c.answer(t, "POST", "/unwell", "admin"); status != http.StatusOK {
		t.Fatalf("got %d %q", status, body)
	}
	await(t, "the application to be unready", func() bool { return ready("containerStatuses", "app") == "false" })
	if ready("initContainerStatuses", "sidegate") != "true" {
		t.Error("Sidegate is unready because the application is")
	}
}
