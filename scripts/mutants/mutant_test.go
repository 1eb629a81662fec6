package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every mutant still applies: its old text is there once, what comes out is
// Go, and its test exists. Whether it is killed takes minutes, and is the
// command's to find out.
func TestEveryMutantApplies(t *testing.T) {
	const root = "../.."
	all, err := readAll(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 60 {
		t.Errorf("%d mutants, want 60 or more", len(all))
	}
	names := map[string]bool{}
	for _, m := range all {
		if names[m.name] || m.name == "" || m.promise == "" {
			t.Errorf("%q: a mutant wants a name of its own and what it breaks", m.name)
		}
		names[m.name] = true
		file, text, err := m.apply(root)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for name := range strings.SplitSeq(m.test, "|") {
			if !hasTest(t, filepath.Join(root, m.pkg), name) {
				t.Errorf("%s: %s has no %s", m.name, m.pkg, name)
			}
		}
	}
}

// hasTest reports whether a test file of the folder has the test.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func ` + name + `\(t \*testing\.T\)`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if declared.Match(text) {
			return true
		}
	}
	return false
}

func TestParse(t *testing.T) {
	const good = "name a\nbreaks b\nin    c\nold  x := 1\nnew\ntest  d TestD|TestE"
	list, err := parse("x.txt", "# comment\n\n"+good+"\n\n"+good+"\n")
	want := mutant{"a", "b", "c", "x := 1", "", "d", "TestD|TestE"}
	if err != nil || len(list) != 2 || list[0] != want {
		t.Errorf("got %+v, %v", list, err)
	}
	for _, bad := range []string{"name a", strings.Replace(good, "old", "odl", 1), good + "\nmore"} {
		if _, err := parse("x.txt", bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
