package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/cmd/sidegate/lines"
)

// unread is an instance whose stdout goes to what the test holds.
type unread struct {
	*instance
	client *http.Client
}

// startUnread runs serve, told by wrap and stdout where its log goes.
func startUnread(t *testing.T, wrap []string, stdout *os.File) *unread {
	t.Helper()
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := prepare(t, freeAddr(t), hello(t), wrap, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t))
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	p.begin()
	p.untilReady()
	return &unread{p, &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca)}}}
}

// get asks as the stranger, or as the user, and wants that status.
func (u *unread) get(user bool, want int) {
	u.t.Helper()
	r, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, "https://"+u.gate+"/", nil)
	try(u.t, err)
	if user {
		r.Header.Set("Authorization", adminBasic)
	}
	res, err := u.client.Do(r)
	try(u.t, err)
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if res.StatusCode != want {
		u.t.Fatalf("user %t: %d, want %d", user, res.StatusCode, want)
	}
}

// dropped is the count of a kind of lines in the metrics.
func (u *unread) dropped(kind string) bool {
	u.t.Helper()
	return !strings.Contains(u.metrics(), `sidegate_log_lines_dropped_total{kind="`+kind+`"} 0`+"\n")
}

// OPS-21: a pipe that nobody reads. Strangers and users are answered, probes
// too; what is beyond the buffers is counted; when the reader reads again it
// gets whole lines and one warning.
func TestStdoutStalls(t *testing.T) {
	reader, writer, err := os.Pipe()
	try(t, err)
	defer reader.Close()
	u := startUnread(t, nil, writer)
	try(t, writer.Close())
	for range 205 {
		u.get(false, http.StatusUnauthorized)
	}
	for range 300 { // beyond the 64 KiB of a pipe, within the buffer
		u.get(true, http.StatusOK)
	}
	if u.dropped("request") || u.dropped("other") || u.dropped("error") {
		t.Fatalf("lines were dropped that had room:\n%s", u.metrics())
	}
	for !u.dropped("other") { // strangers go on
		u.get(false, http.StatusUnauthorized)
	}
	u.get(true, http.StatusOK)
	if code, text := u.readyz(); code != http.StatusOK {
		t.Errorf("not ready: %s", text)
	}
	if u.dropped("request") {
		t.Error("refusals took the room of allowed requests")
	}
	warning := make(chan string, 10)
	var users int
	lines, read := bufio.NewScanner(reader), make(chan struct{})
	lines.Buffer(nil, 1<<20)
	go func() {
		defer close(read)
		for lines.Scan() {
			line := lines.Text()
			if !strings.HasPrefix(line, `{"time":`) || !strings.HasSuffix(line, "}") {
				t.Errorf("torn: %s", line)
			}
			if strings.Contains(line, `"status":200`) {
				users++
			}
			if strings.Contains(line, "log lines dropped") {
				warning <- line
			}
		}
	}()
	select {
	case line := <-warning:
		if !strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"lines":0`) {
			t.Errorf("got %s", line)
		}
	case <-time.After(30 * time.Second):
		t.Error("no warning that lines were dropped")
	}
	u.stop()
	<-read
	if users != 301 || len(warning) > 0 {
		t.Errorf("%d lines of users' requests, %d more warnings; want 301 and 0", users, len(warning))
	}
}

// OPS-21: a reader that stalls for ever doesn't keep the process.
func TestEndWithStalledStdout(t *testing.T) {
	reader, writer, err := os.Pipe()
	try(t, err)
	defer reader.Close()
	u := startUnread(t, nil, writer)
	try(t, writer.Close())
	for range 300 {
		u.get(false, http.StatusUnauthorized)
	}
	u.stop() // wants exit code 0
}

// OPS-21: neither a reader that has gone nor a stdout that never was ends the
// process or a request.
func TestStdoutGone(t *testing.T) {
	t.Run("reader", func(t *testing.T) {
		reader, writer, err := os.Pipe()
		try(t, err)
		u := startUnread(t, nil, writer)
		try(t, errors.Join(writer.Close(), reader.Close()))
		for range 50 {
			u.get(true, http.StatusOK)
		}
	})
	t.Run("closed", func(t *testing.T) {
		u := startUnread(t, []string{"sh", "-c", `exec "$@" >&-`, "sh"}, nil)
		for range 50 {
			u.get(true, http.StatusOK)
		}
	})
	t.Run("full", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		try(t, err)
		u := startUnread(t, nil, full)
		try(t, full.Close())
		u.get(true, http.StatusOK)
	})
}

// A complaint on stderr that nobody reads doesn't keep the process either.
func TestComplaintThatNobodyReads(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	p := &program{args: []string{"nonsense"}, stdout: io.Discard, stderr: w}
	if code := p.run(t.Context()); code != exitUsage {
		t.Errorf("ended with %d", code)
	}
}

// OPS-21: what strangers cause is no line of an allowed request and no error.
func TestKindOfLine(t *testing.T) {
	for want, records := range map[lines.Kind][]func(*slog.Logger){
		lines.Request: {
			func(l *slog.Logger) { l.Info("request", "status", 200, "path", "/reason") },
		},
		lines.Other: {
			func(l *slog.Logger) { l.Info("request", "status", 401, "reason", "no_credentials") },
			func(l *slog.Logger) { l.Info("request", "status", 200, "audit", "not_allowed") },
			func(l *slog.Logger) { l.Info("handshake refused") },
			func(l *slog.Logger) { l.Warn("connection shed") },
		},
		lines.Error: {
			func(l *slog.Logger) { l.Error("reload refused, last good stays in service") },
		},
	} {
		for _, say := range records {
			c, err := parseConfig([]string{"SIDEGATE_POD=pod-1"})
			try(t, err)
			got := lines.Kind(-1)
			h := &sorted{}
			for kind := range h.of {
				h.of[kind] = newHandler(c, claim{func() { got = lines.Kind(kind) }}, false)
			}
			say(slog.New(h).With("pod", "pod-1").WithGroup("g"))
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

type claim struct{ taken func() }

func (c claim) Write(p []byte) (int, error) { c.taken(); return len(p), nil }

// The queue and the sorting add nothing to what a line of slog allocates.
func TestLogAllocations(t *testing.T) {
	c, err := parseConfig(nil)
	try(t, err)
	say := func(log *slog.Logger) func() {
		return func() {
			log.LogAttrs(context.Background(), slog.LevelInfo, "request", slog.Int("status", 200), slog.String("a", "b"), slog.String("c", "d"),
				slog.String("e", "f"), slog.String("g", "h"), slog.String("i", "j"), slog.String("k", "l"))
		}
	}
	sortedLog, _ := newLog(c, io.Discard)
	plain := leastAllocations(say(slog.New(newHandler(c, &bytes.Buffer{}, false))))
	if ours := leastAllocations(say(sortedLog)); ours > plain {
		t.Errorf("%v allocations, want %v", ours, plain)
	}
}

// leastAllocations is what f allocates when nothing else does: the race detector
// makes pools forget what they hold, at random.
func leastAllocations(f func()) float64 {
	least := testing.AllocsPerRun(3, f)
	for range 200 {
		least = min(least, testing.AllocsPerRun(3, f))
	}
	return least
}
