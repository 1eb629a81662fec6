package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sidegate/certs/certstest"
)

// OPS-20: who runs a program that was built by a Go with known holes is told so.
func TestOldGo(t *testing.T) {
	for _, c := range []struct {
		built string
		old   bool
	}{
		{"go1.26.11", false},
		{"go1.26.12", false},
		{"go1.26.11-corp", false},
		{"go1.27.4", false},
		{"go1.27.10", false},
		{"go1.27.4 X:nodwarf5", false},
		{"go1.28.0", false},
		{"go1.28rc1", false},
		{"go2.0.0", false},
		{"go1.25.99", true}, // no longer mended
		{"go1.26.0", true},
		{"go1.26.10", true},
		{"go1.26.9-corp", true},
		{"go1.27rc2", true},
		{"go1.27.0", true},
		{"go1.27.3", true},
		{"go1.27.3 X:nodwarf5", true},
		{"devel +0123456789", true}, // nobody can tell
		{"", true},
	} {
		if got := oldGo(c.built); (got != "") != c.old {
			t.Errorf("oldGo(%q) = %q, want a warning: %v", c.built, got, c.old)
		}
	}
}

// OPS-20: one floor, wherever a Go is named.
func TestToolchainIsNamedOnce(t *testing.T) {
	floors := strings.Fields(goFloor)
	newest := strings.TrimPrefix(floors[len(floors)-1], "go")
	for _, c := range []struct{ file, pattern, want string }{
		{"go.mod", `(?m)^toolchain go(\S+)$`, newest},
		{"go.mod", `(?m)^go (\S+)$`, "1.26.0"}, // so that `go run` works wherever it worked
		{"Containerfile", `golang:(\S+)`, newest},
		{"scripts/vulncheck/kept", `(?m)^GO-2026-6859 std +(.+)$`, strings.ReplaceAll(goFloor, "go", "")}, // the advisory that set it
	} {
		text, err := os.ReadFile("../../" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(c.pattern).FindAllSubmatch(text, -1)
		if len(found) == 0 {
			t.Errorf("%s: nothing is like %s", c.file, c.pattern)
		}
		for _, m := range found {
			if string(m[1]) != c.want {
				t.Errorf("%s: %s names %s, want %s", c.file, m[0], m[1], c.want)
			}
		}
	}
}

// OPS-20: the program itself, built by the oldest Go that can, says it at
// check and at serve.
func TestOldGoIsSaid(t *testing.T) {
	oldest := "GOTOOLCHAIN=go1.26.0"
	here := exec.Command("go", "version")
	here.Env = append(os.Environ(), oldest)
	if out, err := here.CombinedOutput(); err != nil {
		if os.Getenv("TEST_PEERS") == "required" {
			t.Fatalf("%v: %s", err, out)
		}
		t.Skipf("%v: %s", err, out)
	}
	program := filepath.Join(t.TempDir(), "sidegate")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), oldest)
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	environ := []string{"SIDEGATE_ALLOW=anyone", "SIDEGATE_INGRESS=127.0.0.1:0=http://127.0.0.1:1?tls=off", "SIDEGATE_ADMIN=none", "SIDEGATE_DRAIN_DELAY=0s"}
	const want = "built by go1.26.0, whose standard library has known holes that clients can reach: build with go1.26.11 or newer"

	check := exec.Command(program, "check")
	check.Env = environ
	out, err = check.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "warning: "+want+"\n") {
		t.Errorf("check ended with %v and said %s, want %q", err, out, want)
	}

	serve, log := exec.Command(program, "serve"), &certstest.Log{}
	serve.Env, serve.Stdout, serve.Stderr = environ, log, log
	try(t, serve.Start())
	log.Wait(t, "old toolchain")
	try(t, serve.Process.Kill())
	_ = serve.Wait() // it was killed
	if !strings.Contains(log.String(), want) {
		t.Errorf("serve logged %s, want %q", log, want)
	}
}
