package e2e

import (
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// OPS-16: with what the manifests allow, 128 MiB, Sidegate carries bodies by
// hundreds of connections, and is not killed by thousands of idle ones, beside
// which everybody else is served.
func TestMemory(t *testing.T) {
	s := deployed(t, "basic-auth")
	s.kubectl("patch", "deployment/web", "--patch", `{"spec":{"replicas":1,"template":{"spec":{"initContainers":[
		{"name":"sidegate","resources":{"limits":{"memory":"128Mi"}}}]}}}}`)
	s.ready("deployment/web")
	s.gone("old pods", 1)
	pod := s.field("pods", "{.items[0].metadata.name}")
	address := net.JoinHostPort(s.field("pod/"+pod, "{.status.podIP}"), "8443")
	status := `{.status.initContainerStatuses[?(@.name=="sidegate")]`
	id := s.field("pod/"+pod, status+".containerID}")
	id = id[strings.LastIndexByte(id, '/')+1:]

	l := s.load(address)
	const connections, requests, size = 300, 20, 256 << 10
	s.carry(address, connections, requests, size)
	bodies := peak(t, id)
	const many = 8000
	held := s.idle(address, many)
	done := l.end(t)
	if n := s.field("pod/"+pod, status+".restartCount}"); n != "0" {
		t.Errorf("%s restarts", n)
	}
	if held < 2000 {
		t.Errorf("%d idle connections are held, want 2000", held)
	}
	figure(t, "at most %.1f MiB of 128 with %d connections that each sent %d bodies of %d KiB and got them back; %.1f MiB when %d more had asked once, of which %d were held; %s",
		float64(bodies)/(1<<20), connections, requests, size>>10, float64(peak(t, id))/(1<<20), many, held, done)
}

// carry sends bodies by so many connections at once, and gets them back.
func (s *space) carry(address string, connections, requests, size int) {
	s.t.Helper()
	body := strings.Repeat("x", size)
	var busy sync.WaitGroup
	for range connections {
		busy.Go(func() {
			c := s.client(address)
			defer c.CloseIdleConnections()
			for range requests {
				status, got, err := c.ask("POST", "/", "admin", strings.NewReader(body))
				if err != nil || status != http.StatusOK || len(got) != size {
					s.t.Errorf("got %d and %d bytes, %v", status, len(got), err)
					return
				}
			}
		})
	}
	busy.Wait()
}

// idle opens connections that ask once and are kept, and returns how many
// Sidegate has then.
func (s *space) idle(address string, connections int) (held int) {
	s.t.Helper()
	const workers = 16
	opened := make([]*client, connections)
	var busy sync.WaitGroup
	for i := range workers {
		busy.Go(func() {
			for k := i; k < connections; k += workers {
				opened[k] = s.client(address)
				if status, _, err := opened[k].ask("GET", "/", "admin", nil); err != nil || status != http.StatusOK {
					s.t.Errorf("one of many who come got %d, %v", status, err)
				}
			}
		})
	}
	busy.Wait()
	defer func() {
		for _, c := range opened {
			c.CloseIdleConnections()
		}
	}()
	return s.connections(address)
}

// connections is how many connections a pod has, as its metrics say.
func (s *space) connections(address string) int {
	s.t.Helper()
	host, _, _ := net.SplitHostPort(address)
	res, err := http.Get("http://" + net.JoinHostPort(host, "9901") + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	found := regexp.MustCompile(`(?m)^sidegate_connections{gate="main"} ([0-9]+)$`).FindSubmatch(text)
	if err != nil || found == nil {
		s.t.Fatalf("no number of connections in the metrics: %v", err)
	}
	n, _ := strconv.Atoi(string(found[1])) // it has digits
	return n
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
