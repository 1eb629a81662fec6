package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
)

// HTTP-30: an application that sends a body with HEAD, which nobody asked for.
// Of 32 users who share it, each reads what it said to him alone, and the gate
// uses its connections again all the same.
func TestDjango(t *testing.T) {
	const users = 32
	var names []string
	for i := range users {
		names = append(names, fmt.Sprint("user", i))
	}
	s := newSpace(t)
	s.secret("web-users", "Opaque", map[string][]byte{"htpasswd": s.htpasswd(names...)})
	s.kubectl("create", "configmap", "site", "--from-file=../../tlsproxy/testdata/site_of_one_file.py")
	_, injected := s.inject("django")
	s.apply(injected)
	s.ready("deployment/django")
	s.alone()

	var all visits
	var visitors sync.WaitGroup
	for i, name := range names {
		c := s.client(s.service("django"))
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = i%2 == 1
		visitors.Go(func() {
			for n := range mixed + pages {
				kind, connection, err := c.visit(name, i, n)
				all.note(kind, connection, n >= mixed+pages/2, err)
			}
		})
	}
	visitors.Wait()
	all.judge(t, users)
}

// A user asks this often, first by several methods and then for pages alone.
const mixed, pages = 200, 400

// visit is the n-th request of the i-th user. Some ask HEAD, some for what has
// no content, and all for pages of their own.
func (c *client) visit(user string, i, n int) (kind, connection string, err error) {
	method, path, status := "GET", fmt.Sprintf("/%s/%d", user, n), http.StatusOK
	switch {
	case n >= mixed:
	case n%2 == 0 && i%3 == 0:
		method = "HEAD"
	case n%2 == 0 && i%3 == 1:
		path, status = "/none"+path, http.StatusNoContent
	}
	want := ""
	if method == "GET" && status == http.StatusOK {
		want = page(user, path)
	}
	res, body, err := c.fetch(method, path, user)
	if err == nil && (res.StatusCode != status || body != want) {
		err = fmt.Errorf("got %d %q, want %d %q", res.StatusCode, body, status, want)
	}
	if err != nil {
		return "", "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	return fmt.Sprint(method, " ", status), res.Header.Get("X-Connection"), nil
}

// page is what the site says to who asks for a path: another answer, if it came
// in front of one.
func page(user, path string) string {
	text := user + " asked " + path
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
}

// fetch is the answer with its whole body.
func (c *client) fetch(method, path, user string) (*http.Response, string, error) {
	req, err := http.NewRequest(method, c.scheme+"://web"+path, nil)
	if err != nil {
		return nil, "", err
	}
	req.SetBasicAuth(user, password)
	res, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(res.Body)
	return res, string(body), errors.Join(err, res.Body.Close())
}

// visits are what came of all requests.
type visits struct {
	mu          sync.Mutex
	wrong       []error
	right       map[string]int  // by method and status
	connections map[string]bool // to the application
	late, again int             // requests of the end, and those by a connection that had carried another
}

func (v *visits) note(kind, connection string, late bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.wrong = append(v.wrong, err)
		return
	}
	if v.right == nil {
		v.right, v.connections = map[string]int{}, map[string]bool{}
	}
	v.right[kind]++
	if late {
		v.late++
		if v.connections[connection] {
			v.again++
		}
	}
	v.connections[connection] = true
}

func (v *visits) judge(t *testing.T, users int) {
	t.Helper()
	for i, err := range v.wrong {
		if i == 20 {
			t.Errorf("and %d more", len(v.wrong)-i)
			break
		}
		t.Error(err)
	}
	if v.again < v.late/2 {
		t.Errorf("%d of the last %d requests went by a connection that had carried another, want half at least", v.again, v.late)
	}
	figure(t, "%d of %d answers wrong for %d users of Django, right %v; at the end %d of %d requests by a connection that had carried another",
		len(v.wrong), users*(mixed+pages), users, v.right, v.again, v.late)
}
