// Vulncheck looks for known vulnerabilities in Go and the modules of this
// project. It asks the Go vulnerability database by govulncheck. Where that
// can't be reached it compares versions with the advisories kept beside it.
// Either way the last line says what was compared: it never passes in silence.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"go/version"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

const database = "https://vuln.go.dev"

//go:embed kept
var kept string

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vulncheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	advisories, err := parse(kept)
	if err != nil {
		return err
	}
	modules, err := modules(ctx)
	if err != nil {
		return err
	}
	holes := compare(advisories, runtime.Version(), modules)
	where := "the database was asked, too"
	if err := reachable(ctx); err != nil {
		where = "THE DATABASE WAS NOT ASKED: " + err.Error()
	} else if err := govulncheck(ctx, out); err != nil {
		holes = append(holes, err)
	}
	fmt.Fprintf(out, "%s and %d modules were compared with %d kept advisories, %d problems; %s\n",
		runtime.Version(), len(modules), len(advisories), len(holes), where)
	return errors.Join(holes...)
}

// advisory is a hole and where it is mended.
type advisory struct {
	id, module string
	fixed      []string // as Go compares them; of std one of each minor, the newest last
}

func parse(text string) ([]advisory, error) {
	var list []advisory
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		a, err := parseAdvisory(fields)
		if err != nil {
			return nil, fmt.Errorf("kept:%d: %w", n, err)
		}
		list = append(list, a)
	}
	return list, lines.Err()
}

func parseAdvisory(fields []string) (advisory, error) {
	if len(fields) < 3 {
		return advisory{}, errors.New("want an id, a module and a version")
	}
	a := advisory{id: fields[0], module: fields[1]}
	for _, v := range fields[2:] {
		switch {
		case a.module == "std" && version.IsValid("go"+v):
			a.fixed = append(a.fixed, "go"+v)
		case a.module != "std" && semver.IsValid("v"+v) && len(fields) == 3:
			a.fixed = append(a.fixed, "v"+v)
		default:
			return advisory{}, fmt.Errorf("%q is no version of %s", v, a.module)
		}
	}
	return a, nil
}

// modules are those that the program, its tests and the tools of this
// repository are compiled from, with their versions.
func modules(ctx context.Context) (map[string]string, error) {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-test", "-f",
		"{{with .Module}}{{if .Version}}{{.Path}} {{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}{{end}}{{end}}", "./...", "tool")
	var stderr bytes.Buffer
	list.Stderr = &stderr
	text, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, &stderr)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if path, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			found[path] = version
		}
	}
	return found, nil
}

// compare returns an error for each advisory that is not mended in what we use.
func compare(advisories []advisory, goVersion string, modules map[string]string) []error {
	var holes []error
	for _, a := range advisories {
		used, mended := modules[a.module], true
		if a.module == "std" {
			used, mended = goVersion, mendedIn(goVersion, a.fixed)
		} else if used != "" {
			mended = semver.Compare(used, a.fixed[0]) >= 0
		}
		if !mended {
			holes = append(holes, fmt.Errorf("%s: %s %s is older than %s", a.id, a.module, used, strings.Join(a.fixed, " and ")))
		}
	}
	return holes
}

// mendedIn reports whether a Go has the fix of its minor, or of the newest
// where its minor has none.
func mendedIn(goVersion string, fixed []string) bool {
	goVersion, _, _ = strings.Cut(goVersion, " ") // without experiments
	of := slices.IndexFunc(fixed, func(f string) bool { return version.Lang(f) == version.Lang(goVersion) })
	if of < 0 {
		of = len(fixed) - 1
	}
	return version.Compare(goVersion, fixed[of]) >= 0
}

func reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, database+"/index/db.json", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close() // only the status counts
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", database, res.Status)
	}
	return nil
}

func govulncheck(ctx context.Context, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "tool", "govulncheck", "./...")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("govulncheck: %w", err)
	}
	return nil
}
