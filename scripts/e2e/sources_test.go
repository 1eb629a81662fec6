package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
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
	s.ready("deployment/web")
	s.client(s.service("web")).guarded(t)
	s.renews(2)
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

// renews waits until each pod has replaced its certificate n times, under load.
func (s *space) renews(n int) {
	s.t.Helper()
	l := s.load(s.service("web"))
	began := time.Now()
	pods := s.pods("app.kubernetes.io/name=web")
	for _, ip := range pods {
		address := ip + ":8443"
		c := s.client(address)
		seen := map[string]bool{}
		await(s.t, fmt.Sprintf("%d new certificates of %s", n, ip), func() bool {
			serial, err := c.serial(address)
			if err != nil {
				s.t.Fatal(err)
			}
			seen[serial] = true
			return len(seen) > n
		})
	}
	done := l.end(s.t)
	figure(s.t, "%d renewals in each of %d pods within %v: %s", n, len(pods), time.Since(began).Round(time.Second), done)
}
