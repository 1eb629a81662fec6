package e2e

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// workloads are of workloads/, as their users would inject them.
var workloads = []struct {
	kind    string
	options []string
	gate    string // port of the gate
	plain   string // where the application answers without the sidecar; "": on loopback alone
}{
	{"deployment", nil, "8080", ""},
	{"statefulset", []string{"--port=8443"}, "8443", "8080"},
	{"daemonset", nil, "8080", ""},
	{"pod", nil, "8080", ""},
	{"deployment", []string{"--plain"}, "8080", ""},
}

// What inject writes runs and is guarded, and what --remove writes is what was
// there before, in the file and in the cluster.
func TestInject(t *testing.T) {
	for _, w := range workloads {
		t.Run(strings.Trim(w.kind+strings.Join(w.options, ""), "-=0123456789"), func(t *testing.T) {
			s := newSpace(t)
			original, injected := s.inject(w.kind, w.options...)
			s.apply(injected)
			s.settled(w.kind)
			for _, ip := range s.pods("app=" + w.kind) {
				s.client(net.JoinHostPort(ip, w.gate)).guarded(t)
			}
			if w.kind == "deployment" { // whose Service nobody changed
				s.client(s.service(w.kind)).guarded(t)
			}
			s.remove(w.kind, original, injected)
			if w.plain != "" {
				s.settled(w.kind)
				c := s.client(net.JoinHostPort(s.pods("app=" + w.kind)[0], w.plain))
				c.scheme = "http"
				if status, body := c.answer(t, "GET", "/", ""); status != http.StatusOK {
					t.Errorf("without the sidecar: got %d %q", status, body)
				}
			}
		})
	}
}

// inject is a workload's file as it is, and as `sidegate inject` writes it.
func (s *space) inject(kind string, options ...string) (original, injected []byte) {
	s.t.Helper()
	file := "workloads/" + kind + ".yaml"
	original, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	args := append([]string{"inject", "-f", file, "--tls-secret=web-tls", "--users-secret=web-users"}, options...)
	return original, run(s.t, nil, sidegate, args...)
}

// settled waits until a workload runs as its manifest says, every container of
// it ready by its own probes.
func (s *space) settled(kind string) {
	s.t.Helper()
	if kind == "pod" {
		s.kubectl("wait", "--for=condition=Ready", "pod/pod", "--timeout=120s")
		return
	}
	s.ready(kind + "/" + kind)
}

// remove takes the sidecar away again.
func (s *space) remove(kind string, original, injected []byte) {
	s.t.Helper()
	removed := run(s.t, injected, sidegate, "inject", "-f", "-", "--remove")
	if !bytes.Equal(removed, original) {
		s.t.Errorf("removed:\n%s\nwas:\n%s", removed, original)
	}
	if kind == "pod" { // of which nothing but images may be changed
		s.kubectl("delete", "pod", "pod")
	}
	s.apply(removed)
	if names := s.containers(kind + "/" + kind); slices.Contains(names, "sidegate") {
		s.t.Errorf("the sidecar is still there: %v", names)
	}
}

// containers are the names of all containers of a workload in the cluster.
func (s *space) containers(object string) []string {
	s.t.Helper()
	var names []string
	var find func(any)
	find = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				list, ok := value.([]any)
				if ok && (key == "containers" || key == "initContainers") {
					for _, c := range list {
						names = append(names, c.(map[string]any)["name"].(string))
					}
				}
				find(value)
			}
		case []any:
			for _, item := range v {
				find(item)
			}
		}
	}
	var o map[string]any
	if err := json.Unmarshal(s.kubectl("get", object, "-o", "json"), &o); err != nil {
		s.t.Fatal(err)
	}
	find(o["spec"])
	return names
}

// A Job with the sidecar ends when its work is done.
func TestInjectCronJob(t *testing.T) {
	s := newSpace(t)
	original, injected := s.inject("cronjob")
	s.apply(injected)
	s.kubectl("create", "job", "tonight", "--from=cronjob/cronjob")
	s.kubectl("wait", "--for=condition=Complete", "job/tonight", "--timeout=120s")
	took := s.field("job/tonight", "{.status.startTime} to {.status.completionTime}")
	figure(t, "a Job with a second of work, with the sidecar: %s", took)
	s.remove("cronjob", original, injected)
}
