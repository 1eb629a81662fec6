package main

import (
	"net"
	"os"
	"strings"
	"testing"

	"sidegate/manifests/inject"
)

// README.md and the help speak of every option of inject.
func TestInjectOptionsAreDocumented(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range inject.Settings() {
		if row := "| `--" + s.Name + "`, `" + inject.Prefix + s.Name + "` | "; !strings.Contains(string(readme), row) {
			t.Errorf("README.md lacks a row that begins with %s", row)
		}
		if !strings.Contains(injectHelp(), "--"+s.Name+" ") {
			t.Errorf("the help lacks --%s", s.Name)
		}
	}
}

// The gate of an injected pod is written with brackets, for both kinds of
// address.
func TestGateOnThePodsAddress(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "fd00::1"} {
		if err := checkEnviron([]string{"SIDEGATE_INGRESS=[" + ip + "]:8080=http://127.0.0.1:8080"}); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	l, err := net.Listen("tcp", "[127.0.0.1]:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestImageTag(t *testing.T) {
	for version, want := range map[string]string{"(devel)": "devel", "v1.2.0": "v1.2.0", "v0.0.0-2026+dirty": "v0.0.0-2026-dirty"} {
		if got := imageTag(version); got != want {
			t.Errorf("%s: got %s, want %s", version, got, want)
		}
	}
}
