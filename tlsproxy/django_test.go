package tlsproxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// debianPython is the one that Debian's packages are for, whatever PATH says.
const debianPython = "/usr/bin/python3"

// django starts Django on gunicorn's threads and returns its URL.
func django(t *testing.T) string {
	t.Helper()
	if err := exec.Command(debianPython, "-c", "import django, gunicorn").Run(); err != nil {
		if os.Getenv("TEST_PEERS") == "required" {
			t.Fatal("Django and gunicorn are needed: ", err)
		}
		t.Skip("Django and gunicorn are not here: ", err)
	}
	addr := freeAddr(t)
	// testdata/site_of_one_file.py
	cmd := exec.Command(debianPython, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "8", "--bind", addr,
		"--chdir", "testdata", "site_of_one_file")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	var out strings.Builder
	cmd.Stderr = &out
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-ended
	})
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return "http://" + addr
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("gunicorn: %v\n%s", err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// HTTP-30: 32 clients of Django on gunicorn's threads, of which some ask HEAD and
// some what has no content. Each gets its own, and nobody a 502.
func TestDjango(t *testing.T) {
	w := newWorld(t, upstream(django(t)), allow("anyone"))
	var own, wrong atomic.Int64
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			c := w.client(w.config(nil), []string{"http/1.1", "h2"}[i%2])
			who := fmt.Sprint("client", i)
			for n := range 40 {
				path := fmt.Sprintf("/%d/%d", i, n)
				method := "GET"
				switch {
				case i%3 == 0 && n%2 == 0:
					method = "HEAD"
				case i%3 == 1 && n%2 == 0:
					path = "/none" + path
				}
				r := w.request(method, path, nil)
				r.Header.Set("X-Who", who)
				res, err := c.Do(r)
				if err != nil {
					t.Error(err)
					continue
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				want := page(who, path)
				switch {
				case err == nil && res.StatusCode == http.StatusOK && (string(b) == want || method == "HEAD" && len(b) == 0),
					err == nil && res.StatusCode == http.StatusNoContent && len(b) == 0 && strings.HasPrefix(path, "/none"):
					own.Add(1)
				default:
					wrong.Add(1)
					t.Errorf("%s %s as %s: %d %q, %v", method, path, who, res.StatusCode, b, err)
				}
			}
		})
	}
	clients.Wait()
	t.Logf("%d answers right, %d wrong\n%s", own.Load(), wrong.Load(), lines(w.log.String(), "application breaks HTTP"))
}

// page is what Django says to who asks for a path.
func page(who, path string) string {
	text := who + " asked " + path
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
}

// lines are those that contain text.
func lines(log, text string) string {
	var found []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
