package authn

import (
	"fmt"
	"strings"
	"testing"
)

// OPS-22: a file full of what can't be understood is told by its first lines,
// and takes no time by the square of its size.
func TestManyProblems(t *testing.T) {
	for name, line := range map[string]func(i int) string{
		"no colon": func(int) string { return "x\n" },
		"twice":    func(i int) string { return fmt.Sprintf("u%d:{SHA}hNGvzYtXBTYNMwbYHrCSBIqGRBk=\n", i/2) },
	} {
		var text strings.Builder
		for i := range 100_000 {
			text.WriteString(line(i))
		}
		_, err := parseHtpasswd("htpasswd", []byte(text.String()), false)
		if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) != maxErrors+1 || !strings.Contains(lines[maxErrors], "the first 100 are told") {
			t.Errorf("%s: %d lines, the last one %q", name, len(lines), lines[len(lines)-1])
		}
	}
}
