package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// load is traffic of every kind that goes on until it is ended.
type load struct {
	stop    chan struct{}
	workers sync.WaitGroup

	mu       sync.Mutex
	done     map[string]int
	failures []string
}

// kinds of traffic. None repeats a request that failed. Go's client does so over
// HTTP/2 alone, for a stream that the server's GOAWAY says it never looked at
// (RFC 9113, 6.8).
var kinds = map[string]func(*client) error{
	"new connections": func(c *client) error { return post(c, io.NopCloser(strings.NewReader(text))) },
	"HTTP/1.1":        func(c *client) error { return post(c, io.NopCloser(strings.NewReader(text))) },
	"HTTP/2":          func(c *client) error { return post(c, strings.NewReader(text)) },
	"slow answers":    slow,
	"WebSockets":      converse,
}

// alone waits until the pods of earlier tests have left: while a network
// interface leaves the node's bridge, others there may be unreachable for a
// moment, which is not what load is to find.
func (s *space) alone() {
	s.t.Helper()
	await(s.t, "pods of earlier tests to leave", func() bool {
		others := run(s.t, nil, "kubectl", "get", "pods", "--all-namespaces", "--field-selector", "metadata.namespace!="+s.name, "-o", "name")
		return len(others) == 0
	})
}

// load begins traffic to a Service, as admin.
func (s *space) load(address string) *load {
	s.alone()
	l := &load{stop: make(chan struct{}), done: map[string]int{}}
	for kind, ask := range kinds {
		c := s.client(address)
		transport := c.Transport.(*http.Transport)
		transport.DisableKeepAlives = kind == "new connections"
		transport.ForceAttemptHTTP2 = kind == "HTTP/2"
		for range 3 {
			l.workers.Go(func() { l.repeat(kind, func() error { return ask(c) }) })
		}
	}
	return l
}

func (l *load) repeat(kind string, ask func() error) {
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(20 * time.Millisecond): // the machine has other work too
		}
		err := ask()
		l.mu.Lock()
		l.done[kind]++
		if err != nil {
			l.failures = append(l.failures, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), kind, err))
		}
		l.mu.Unlock()
	}
}

// end waits for what is under way, fails the test for each failure, and says
// what was done.
func (l *load) end(t *testing.T) string {
	t.Helper()
	close(l.stop)
	l.workers.Wait()
	for _, f := range l.failures {
		t.Error(f)
	}
	var done []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if l.done[kind] == 0 {
			t.Errorf("no traffic: %s", kind)
		}
		done = append(done, fmt.Sprintf("%d %s", l.done[kind], kind))
	}
	return fmt.Sprintf("%d failed of %s", len(l.failures), strings.Join(done, ", "))
}

const text = "the same again"

func post(c *client, body io.Reader) error {
	status, got, err := c.ask("POST", "/", "admin", body)
	if err == nil && (status != http.StatusOK || got != text) {
		err = fmt.Errorf("got %d %q", status, got)
	}
	return err
}

func slow(c *client) error {
	status, body, err := c.ask("GET", "/slow", "admin", nil)
	if err == nil && (status != http.StatusOK || !strings.HasSuffix(body, "end\n")) {
		err = fmt.Errorf("got %d %q", status, body)
	}
	return err
}

// converse talks over a WebSocket for five seconds and takes leave.
func converse(c *client) error {
	socket, err := c.socket()
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	for range 25 {
		if err := echo(socket); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
	return socket.Close(websocket.StatusNormalClosure, "")
}

// socket is a new WebSocket, as admin.
func (c *client) socket() (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	authorization := "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+password))
	socket, _, err := websocket.Dial(ctx, "wss://web/websocket", &websocket.DialOptions{
		HTTPClient: &c.Client, HTTPHeader: http.Header{"Authorization": {authorization}},
	})
	return socket, err
}

func echo(socket *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	text := time.Now().String()
	if err := socket.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		return err
	}
	_, again, err := socket.Read(ctx)
	if err == nil && string(again) != text {
		err = fmt.Errorf("got %q, want %q", again, text)
	}
	return err
}
