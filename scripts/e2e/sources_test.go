package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/spiffe/workloadtest"
)

// Certificates from a CFSSL server in the same cluster, which live 30 seconds:
// each pod renews its own without losing a request.
func TestCFSSL(t *testing.T) {
	s := newSpace(t)
	dir := filepath.Join(t.TempDir(), "ca")
	run(t, nil, sidegate, "ca", "init", dir)
	key := []byte(strings.Repeat("e2", 16)) // hexadecimal
	secret := map[string][]byte{"ca.crt": read(t, filepath.Join(dir, "ca.crt")), "auth-key": key}
	s.secret("web-cfssl", "Opaque", secret)
	secret["ca.key"] = read(t, filepath.Join(dir, "ca.key"))
	s.secret("cfssl-ca", "Opaque", secret)
	s.apply([]byte(cfsslServer))
	s.ready("deployment/cfssl")
	s.trust(secret["ca.crt"])

	s.overlay("cfssl")
	s.alias("cfssl", s.field("service/cfssl", "{.spec.clusterIP}"))
	s.kubectl("patch", "deployment/web", "--patch", ourApplication)
	s.ready("deployment/web")
	s.gone("old pods", 2+1) // and the server
	s.client(s.service("web")).guarded(t)
	s.renews(2, nil)
}

// cfsslServer is a CFSSL server out of our own image.
const cfsslServer = `
apiVersion: v1
kind: Service
metadata: {name: cfssl}
spec:
  selector: {app: cfssl}
  ports: [{port: 8888}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cfssl}
spec:
  selector: {matchLabels: {app: cfssl}}
  template:
    metadata: {labels: {app: cfssl}}
    spec:
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}, fsGroup: 65532}
      containers:
      - name: cfssl
        image: localhost/sidegate:devel
        args: [ca, serve, /ca, --listen, ":8888", --host, cfssl, --lifetime, 30s]
        readinessProbe: {tcpSocket: {port: 8888}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
        volumeMounts: [{name: ca, mountPath: /ca, readOnly: true}]
      volumes: [{name: ca, secret: {secretName: cfssl-ca}}]
`

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// trust makes the clients of the namespace believe this CA instead of its own.
func (s *space) trust(bundle []byte) {
	s.t.Helper()
	list, err := certs.ParseCertificates("the CA", bundle)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ca = &certstest.CA{Cert: list[0]}
}

// alias lets the pods find a name: there is no DNS in this cluster.
func (s *space) alias(name, ip string) {
	s.t.Helper()
	s.kubectl("patch", "deployment/web", "--patch", fmt.Sprintf(`{"spec":{"template":{"spec":{"hostAliases":[{"ip":%q,"hostnames":[%q]}]}}}}`, ip, name))
}

// renews lets each pod replace its certificate n times under load. next makes the
// next one where the pod does not ask for it by itself; nil: it does.
func (s *space) renews(n int, next func()) {
	s.t.Helper()
	l := s.load(s.service("web"))
	began := time.Now()
	pods := s.pods("app.kubernetes.io/name=web")
	serial := func(ip string) string {
		address := ip + ":8443"
		serial, err := s.client(address).serial(address)
		if err != nil {
			s.t.Fatal(err)
		}
		return serial
	}
	for range n {
		before := map[string]string{}
		for _, ip := range pods {
			before[ip] = serial(ip)
		}
		if next != nil {
			next()
		}
		for _, ip := range pods {
			await(s.t, "another certificate of "+ip, func() bool { return serial(ip) != before[ip] })
		}
	}
	done := l.end(s.t)
	figure(s.t, "%d renewals in each of %d pods within %v: %s", n, len(pods), time.Since(began).Round(time.Second), done)
}

// The Workload API at its socket in the pod, where the CSI driver would mount it:
// certificate and trust are from there alone, and rotate without losing a request.
func TestSPIFFE(t *testing.T) {
	s := newSpace(t)
	text := string(s.kubectl("kustomize", "../../manifests/overlays/spiffe"))
	for old, new := range map[string]string{ // one pod, and an application that knows all kinds of traffic, from the beginning
		"csi:\n          driver: csi.spiffe.io\n          readOnly: true": "emptyDir: {}", // there is no such driver here
		"replicas: 2":                          "replicas: 1",
		"docker.io/library/python:3.13-alpine": "localhost/e2e-app:1",
		"- python3\n        - /app/app.py":     "- /usr/bin/e2e-app",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in\n%s", old, text)
		}
		text = strings.Replace(text, old, new, 1)
	}
	s.apply([]byte(text))
	agent := s.agent("spiffe-workload-api")
	next := func() {
		agent.Set(workloadtest.Update{SVIDs: []workloadtest.SVID{workloadtest.Issue(t, s.ca, "spiffe://prod.example/ns/"+s.name+"/sa/default", time.Minute,
			func(c *x509.Certificate) { c.DNSNames = []string{"web"} })}})
	}
	next()
	agent.Start()
	if err := os.Chmod(agent.Path, 0o777); err != nil { // as SPIRE does: who may connect is found out otherwise
		t.Fatal(err)
	}
	s.ready("deployment/web")
	other := s.ca.Client(t, "other", "spiffe://prod.example/ns/monitoring/sa/other")
	if status, _ := s.client(s.service("web"), other).answer(t, "GET", "/", ""); status != http.StatusForbidden {
		t.Errorf("another workload: got %d, want 403", status)
	}
	named := s.ca.Client(t, "prometheus", "spiffe://prod.example/ns/monitoring/sa/prometheus")
	s.shown = &named
	s.renews(3, next)
}

// agent is one that does not run yet, and will listen in a volume of the only pod.
func (s *space) agent(volume string) *workloadtest.Server {
	s.t.Helper()
	const label = "app.kubernetes.io/name=web"
	await(s.t, "a pod", func() bool { return s.field("pods", "{.items[*].metadata.uid}") != "" })
	uid := string(s.kubectl("get", "pods", "-l", label, "-o", "jsonpath={.items[0].metadata.uid}"))
	dir := filepath.Join(kubelet, "pods", uid, "volumes", "kubernetes.io~empty-dir", volume)
	await(s.t, dir, func() bool { _, err := os.Stat(dir); return err == nil })
	folder, err := os.Open(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { folder.Close() })
	agent := workloadtest.New(s.t)
	agent.Path = fmt.Sprintf("/proc/self/fd/%d/spire-agent.sock", folder.Fd()) // a socket's path has 107 bytes at most
	return agent
}

// A certificate from an ACME server, which looks at the gate through the Service
// as it would through a passthrough Route, and renewals of it.
func TestACME(t *testing.T) {
	define(t)
	s := newSpace(t)
	s.overlay("openshift-acme")
	s.host = "web.apps.example"
	server := s.pebble(s.field("service/web", "{.spec.clusterIP}"))
	s.apply(s.kubectl("create", "configmap", "acme-ca", "--from-literal=ca.crt="+string(server.ca.PEM()), "--dry-run=client", "-o", "yaml"))
	s.kubectl("patch", "deployment/web", "--patch", `{"spec":{"template":{"spec":{
		"initContainers":[{"name":"sidegate",
			"env":[{"name":"SIDEGATE_ACME_URL","value":"https://`+server.address+`/dir"},{"name":"SIDEGATE_ACME_CA","value":"/etc/acme/ca.crt"}],
			"volumeMounts":[{"name":"acme-ca","mountPath":"/etc/acme","readOnly":true}]}],
		"volumes":[{"name":"acme-ca","configMap":{"name":"acme-ca"}},
			{"name":"certificates","persistentVolumeClaim":null,"emptyDir":{}}]}}}}`) // nobody here provides claims
	s.kubectl("patch", "deployment/web", "--patch", ourApplication)
	s.likeRestrictedV2()
	s.ready("deployment/web")
	s.trust(server.root(t))
	s.client(s.service("web")).guarded(t)
	s.renews(2, nil)
}

// acmeServer is pebble, on this machine's end of the cable to the node.
type acmeServer struct {
	ca              *certstest.CA // of its own certificate
	address, manage string
}

// pebble runs it and a DNS server in whose eyes every name is one address.
func (s *space) pebble(address string) *acmeServer {
	s.t.Helper()
	dir := s.t.TempDir()
	run(s.t, nil, "go", "build", "-o", dir+"/", "github.com/letsencrypt/pebble/v2/cmd/pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv")
	p := &acmeServer{ca: certstest.NewCA(s.t, "pebble"), address: free(s.t), manage: free(s.t)}
	pair := p.ca.Server(s.t, machine)
	_, dns, _ := net.SplitHostPort(free(s.t))
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": p.address, "managementListenAddress": p.manage, "certificate": dir + "/tls.crt", "privateKey": dir + "/tls.key",
		"httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": 60}},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key, "config.json": config} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.background(dir+"/pebble-challtestsrv", "-dnsserver", "127.0.0.1:"+dns, "-defaultIPv4", address, "-defaultIPv6", "",
		"-management", free(s.t), "-http01", "", "-https01", "", "-doh", "", "-tlsalpn01", "")
	s.background(dir+"/pebble", "-config", dir+"/config.json", "-dnsserver", "127.0.0.1:"+dns)
	return p
}

// machine is this end of the cable to the node, see scripts/e2e/cluster.
const machine = "10.99.0.1"

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", machine+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// background runs a program until the test ends.
func (s *space) background(name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	var out certstest.Log
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%s\n%s", name, out.String())
		}
	})
}

// root is the CA that pebble issues with, which is another one at each start.
func (p *acmeServer) root(t *testing.T) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.ca.Pool()}}}
	res, err := client.Get("https://" + p.manage + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
