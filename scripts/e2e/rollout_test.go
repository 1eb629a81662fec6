package e2e

import (
	"net"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// ourApplication replaces the one of the manifests by that of the tests.
const ourApplication = `{"spec":{"template":{"spec":{"containers":[
	{"name":"app","image":"localhost/e2e-app:1","command":["/usr/bin/e2e-app"]}]}}}}`

// deployed is an overlay with the application of the tests, in service.
func deployed(t *testing.T, overlay string) *space {
	t.Helper()
	s := newSpace(t)
	s.overlay(overlay)
	s.kubectl("patch", "deployment/web", "--patch", ourApplication)
	s.ready("deployment/web")
	s.gone("old pods", 2)
	return s
}

// gone waits until no more than n pods are left.
func (s *space) gone(what string, n int) {
	s.t.Helper()
	await(s.t, what+" to end", func() bool {
		return len(s.kubectl("get", "pods", "-o", `go-template={{range .items}}x{{end}}`)) <= n
	})
}

// A rolling update loses no request, whichever kind of sidecar it is.
func TestRollout(t *testing.T) {
	for name, overlay := range map[string]string{"native": "basic-auth", "plain": "basic-auth-plain"} {
		t.Run(name, func(t *testing.T) {
			s := deployed(t, overlay)
			l := s.load(s.service("web"))
			began := time.Now()
			const rollouts = 2
			for range rollouts {
				s.kubectl("rollout", "restart", "deployment/web")
				s.ready("deployment/web")
				s.gone("old pods", 2)
			}
			took := time.Since(began)
			figure(t, "%d rollouts of 2 pods in %v: %s", rollouts, took.Round(time.Second), l.end(t))
		})
	}
}

// Whoever talks over a WebSocket goes on when its pod is deleted: as long as it
// likes within the time to drain, and then it is told.
func TestDelete(t *testing.T) {
	s := deployed(t, "basic-auth")
	pod := s.field("pods", "{.items[0].metadata.name}")
	c := s.client(net.JoinHostPort(s.field("pod/"+pod, "{.status.podIP}"), "8443"))
	var sockets [2]*websocket.Conn
	for i := range sockets {
		var err error
		if sockets[i], err = c.socket(); err != nil {
			t.Fatal(err)
		}
	}
	s.kubectl("delete", "pod", pod, "--wait=false")
	began := time.Now()
	for time.Since(began) < 10*time.Second {
		if err := echo(sockets[0]); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := sockets[0].Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	var err error
	for err == nil {
		err = echo(sockets[1])
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(began).Round(100 * time.Millisecond)
	if websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("after %v: got %v, want status 1001", took, err)
	}
	s.kubectl("wait", "--for=delete", "pod/"+pod, "--timeout=30s")
	figure(t, "a WebSocket went on for 10 s after kubectl delete, another was told 1001 after %v; the pod was gone after %v", took, time.Since(began).Round(100*time.Millisecond))
}
