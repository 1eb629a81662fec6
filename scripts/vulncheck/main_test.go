package main

import (
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	advisories, err := parse("# id module fixed\n\nGO-1 std 1.26.9 1.27.2\nGO-2 example.org/a/v2 2.3.4\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, goVersion, module string
		want                    string // the ids that are reported
	}{
		{"both mended", "go1.27.2", "v2.3.4", ""},
		{"newer", "go1.28.0", "v2.10.0", ""},
		{"minor of its own", "go1.26.9", "v2.3.4", ""},
		{"old patch of the newest minor", "go1.27.1", "v2.3.4", "GO-1"},
		{"old patch of an older minor", "go1.26.8", "v2.3.4", "GO-1"},
		{"minor that nobody mends", "go1.25.99", "v2.3.4", "GO-1"},
		{"experiment", "go1.27.2 X:nodwarf5", "v2.3.4", ""},
		{"old module", "go1.27.2", "v2.3.3", "GO-2"},
		{"before the release", "go1.27.2", "v2.3.4-rc.1", "GO-2"},
		{"module that is not used", "go1.27.2", "", ""},
		{"both old", "go1.27.0", "v2.0.0", "GO-1 GO-2"},
	} {
		modules := map[string]string{"example.org/b": "v0.0.1"}
		if c.module != "" {
			modules["example.org/a/v2"] = c.module
		}
		var got []string
		for _, hole := range compare(advisories, c.goVersion, modules) {
			id, _, _ := strings.Cut(hole.Error(), ":")
			got = append(got, id)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"GO-1 std", "GO-1 std v1.26.9", "GO-1 example.org/a 1.2.3 1.3.4", "GO-1 example.org/a x"} {
		if _, err := parse(text); err == nil || !strings.HasPrefix(err.Error(), "kept:1: ") {
			t.Errorf("parse(%q) = %v, want an error that names the line", text, err)
		}
	}
}

// OPS-20: what can't be looked up is still compared, and said.
func TestNeverSilent(t *testing.T) {
	for _, proxy := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
		t.Setenv(proxy, "http://127.0.0.1:1") // nothing listens there
	}
	t.Setenv("no_proxy", "")
	t.Setenv("NO_PROXY", "")
	t.Chdir("../..")
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "kept advisories, 0 problems; THE DATABASE WAS NOT ASKED: ") {
		t.Errorf("it printed %q", &out)
	}
}
