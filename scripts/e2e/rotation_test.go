package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A Secret that is written with kubectl is in service a moment after the
// kubelet renamed it into place, ten times in a row, and no request is lost.
func TestRotation(t *testing.T) {
	s := deployed(t, "basic-auth")
	pods := s.mounts()
	l := s.load(s.service("web"))
	var certificate, users times
	for i := range 10 {
		pair := s.certificate()
		user := fmt.Sprintf("user%d", i)
		file := s.htpasswd("admin", user)
		written := [2]time.Time{0: time.Now()}
		s.secret("web-tls", "kubernetes.io/tls", map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key})
		written[1] = time.Now()
		s.secret("web-users", "Opaque", map[string][]byte{"htpasswd": file})
		var seen sync.WaitGroup
		for _, p := range pods {
			seen.Go(func() {
				c := s.client(p.address)
				certificate.add(t, written[0], p.tls.wait(t), func() bool {
					serial, err := c.serial(p.address)
					return err == nil && serial == pair.Leaf.SerialNumber.String()
				})
				users.add(t, written[1], p.users.wait(t), func() bool {
					status, _, err := c.ask("GET", "/", user, nil)
					return err == nil && status == http.StatusOK
				})
			})
		}
		seen.Wait()
	}
	done := l.end(t)
	figure(t, "10 rotations in 2 pods: %s", done)
	figure(t, "certificate: %s", &certificate)
	figure(t, "users: %s", &users)
}

// mounted is a pod with the folders in which the kubelet keeps its Secrets.
type mounted struct {
	address    string
	tls, users *renames
}

func (s *space) mounts() []mounted {
	s.t.Helper()
	var all []mounted
	out := s.kubectl("get", "pods", "-o", `go-template={{range .items}}{{.metadata.uid}} {{.status.podIP}}{{"\n"}}{{end}}`)
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		uid, ip, _ := strings.Cut(line, " ")
		volumes := filepath.Join(kubelet, "pods", uid, "volumes", "kubernetes.io~secret")
		all = append(all, mounted{net.JoinHostPort(ip, "8443"),
			watch(s.t, filepath.Join(volumes, "tls")), watch(s.t, filepath.Join(volumes, "users"))})
	}
	return all
}

// renames tells when the kubelet put a new version into place.
type renames struct{ watcher *fsnotify.Watcher }

func watch(t *testing.T, dir string) *renames {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	return &renames{w}
}

func (r *renames) wait(t *testing.T) time.Time {
	late := time.After(3 * time.Minute)
	for {
		select {
		case e := <-r.watcher.Events:
			if filepath.Base(e.Name) == "..data" && e.Has(fsnotify.Create) {
				return time.Now()
			}
		case <-late:
			t.Error("the kubelet wrote nothing")
			return time.Now()
		}
	}
}

// times are how long something took from the kubelet's rename, and from the
// write to the API.
type times struct {
	mu               sync.Mutex
	renamed, written []time.Duration
}

// add repeats ok until it is true, and notes how long ago the Secret was written
// and renamed.
func (x *times) add(t *testing.T, written, renamed time.Time, ok func() bool) {
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Error("what was renamed is not in service a minute later")
			return
		}
	}
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.renamed = append(x.renamed, now.Sub(renamed))
	x.written = append(x.written, now.Sub(written))
}

func (x *times) String() string {
	return fmt.Sprintf("%s after the rename, %s after the write to the API", span(x.renamed), span(x.written))
}

// span is the median and the longest.
func span(d []time.Duration) string {
	slices.Sort(d)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%v (at most %v)", round(d[len(d)/2]), round(d[len(d)-1]))
}
