package policy

import (
	"fmt"
	"strings"
	"testing"
)

// OPS-22: a policy takes time by its size and not by the square of it, or it is
// refused with the figure.
func TestLargePolicy(t *testing.T) {
	around := Surroundings{Methods: []string{LocalMethod}}
	var paths strings.Builder
	paths.WriteString("version: 1\nrules:\n  - name: one\n    user: [authenticated]\n    paths:\n")
	for i := range 100_000 { // which took most of a minute when each was compared with all before it
		fmt.Fprintf(&paths, "      - /a%d/b\n", i)
	}
	if _, err := Parse("policy.yaml", []byte(paths.String()), around); err != nil {
		t.Error(err)
	}
	if _, err := Parse("policy.yaml", []byte(paths.String()+"      - /a7/b\n"), around); err == nil || !strings.Contains(err.Error(), `"/a7/b" is in the list twice`) {
		t.Errorf("a path that is there twice: got %v", err)
	}
	var rules strings.Builder
	rules.WriteString("version: 1\nrules:\n")
	for i := range 16_000 {
		fmt.Fprintf(&rules, "  - {name: r%d, paths: [/a%d], user: [authenticated]}\n", i, i)
	}
	_, err := Parse("policy.yaml", []byte(rules.String()), around)
	if err == nil || !strings.Contains(err.Error(), "the policy is too large") || !strings.Contains(err.Error(), fmt.Sprint(maxComparisons)) {
		t.Errorf("got %v, want it refused with the figure", err)
	}
	if lines := strings.Count(fmt.Sprint(err), "\n"); lines > 0 {
		t.Errorf("it was said %d times", lines+1)
	}
}

// OPS-22: a file full of problems is told by the first of them.
func TestManyProblems(t *testing.T) {
	text := "version: 1\nrules:\n- {name: one, user: [anyone], paths: [" + strings.Repeat("a,", 100_000) + "]}"
	_, err := Parse("policy.yaml", []byte(text), Surroundings{})
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "policy.yaml: 99899 more problems" {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}
