package e2e

import (
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Under load Sidegate stays within 64 MiB, half of what the manifests allow.
func TestMemory(t *testing.T) {
	s := deployed(t, "basic-auth")
	s.kubectl("patch", "deployment/web", "--patch", `{"spec":{"replicas":1,"template":{"spec":{"initContainers":[
		{"name":"sidegate","resources":{"limits":{"memory":"64Mi"}}}]}}}}`)
	s.ready("deployment/web")
	s.gone("old pods", 1)
	pod := s.field("pods", "{.items[0].metadata.name}")
	address := net.JoinHostPort(s.field("pod/"+pod, "{.status.podIP}"), "8443")

	l := s.load(address)
	const connections, requests, size = 300, 20, 256 << 10
	body := strings.Repeat("x", size)
	var busy sync.WaitGroup
	for range connections {
		busy.Go(func() {
			c := s.client(address)
			defer c.CloseIdleConnections()
			for range requests {
				status, got, err := c.ask("POST", "/", "admin", strings.NewReader(body))
				if err != nil || status != http.StatusOK || len(got) != size {
					t.Errorf("got %d and %d bytes, %v", status, len(got), err)
					return
				}
			}
		})
	}
	busy.Wait()
	done := l.end(t)
	status := `{.status.initContainerStatuses[?(@.name=="sidegate")]`
	if n := s.field("pod/"+pod, status+".restartCount}"); n != "0" {
		t.Errorf("%s restarts", n)
	}
	id := s.field("pod/"+pod, status+".containerID}")
	most := peak(t, id[strings.LastIndexByte(id, '/')+1:])
	figure(t, "at most %.1f MiB of 64 with %d connections that each sent %d bodies of %d KiB and got them back, and %s",
		float64(most)/(1<<20), connections, requests, size>>10, done)
}

// peak is the most memory that a container ever had, as its cgroup says.
func peak(t *testing.T, id string) int64 {
	t.Helper()
	most := int64(-1)
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || d.Name() != id {
			return nil // what has just ended is of no interest
		}
		for _, file := range []string{"memory.peak", "memory.max_usage_in_bytes"} { // of version 2 and 1
			text, err := os.ReadFile(filepath.Join(path, file))
			if err != nil {
				continue
			}
			most, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			return err
		}
		return nil
	})
	if err != nil || most < 0 {
		t.Fatalf("no cgroup tells the memory of %s: %v", id, err)
	}
	return most
}
