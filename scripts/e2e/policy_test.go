package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// A policy in a ConfigMap decides, and a change of it reaches the pods as they
// are.
func TestPolicy(t *testing.T) {
	s := newSpace(t)
	s.overlay("policy")
	s.ready("deployment/web")
	c := s.client(s.service("web"))
	for _, want := range []struct {
		path, user string
		status     int
	}{
		{"/healthz", "", http.StatusOK},
		{"/", "", http.StatusUnauthorized},
		{"/", "admin", http.StatusOK},
		{"/admin/x", "admin", http.StatusOK},
	} {
		if status, body := c.answer(t, "GET", want.path, want.user); status != want.status {
			t.Errorf("%s as %q: got %d %q, want %d", want.path, want.user, status, body, want.status)
		}
	}
	pods := s.pods("app.kubernetes.io/name=web")
	text, err := os.ReadFile("../../manifests/components/policy/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	other := strings.ReplaceAll(string(text), "user:admin", "user:somebody-else")
	written := time.Now()
	s.apply(s.kubectl("create", "configmap", "web-policy", "--from-literal=policy.yaml="+other, "--dry-run=client", "-o", "yaml"))
	for _, ip := range pods {
		c := s.client(ip + ":8443")
		await(t, "the new policy", func() bool {
			status, _, err := c.ask("GET", "/admin/x", "admin", nil)
			return err == nil && status == http.StatusForbidden
		})
	}
	figure(t, "a policy was in force in %d pods %v after the write to the API", len(pods), time.Since(written).Round(time.Millisecond))
	if now := s.pods("app.kubernetes.io/name=web"); strings.Join(now, " ") != strings.Join(pods, " ") {
		t.Errorf("the pods changed: %q, %q", pods, now)
	}
	if out := s.kubectl("exec", "deployment/web", "-c", "sidegate", "--", "/sidegate", "explain", "GET", "/admin/x", "--user", "somebody-else"); !strings.Contains(string(out), `allow   rule "administration"`) {
		t.Errorf("explained as %s", out)
	}
}
