// Mutants puts small faults into the code, one at a time, and sees whether the
// tests notice.
//
//	go run ./scripts/mutants              all of them
//	go run ./scripts/mutants CRL 'HTTP-'  those whose text holds one of the words
//
// The faults are in the .txt files beside this one; see parse for their form.
// The compiler is handed the changed file in place of the real one, which is
// never touched. The exit code is 1 if a fault lives, does not apply or does
// not compile, or if a test fails without any.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	all, err := readAll(filepath.Join(root, "scripts", "mutants"))
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(all, func(m mutant) bool { return !m.holds(words) })
	if err := healthy(root, chosen); err != nil {
		return err
	}
	count, err := tryAll(root, chosen)
	if err != nil {
		return err
	}
	dead := count[killed] + count[hung]
	fmt.Printf("%d mutants: %d killed, %d alive, %d useless\n", len(chosen), dead, count[alive], count[useless])
	if dead < len(chosen) {
		return errors.New("not every mutant was killed")
	}
	return nil
}

// repository is the folder with go.mod.
func repository() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

// healthy wants that the tests pass as long as nothing is changed.
func healthy(root string, list []mutant) error {
	tests := map[string][]string{}
	for _, m := range list {
		if !slices.Contains(tests[m.pkg], m.test) {
			tests[m.pkg] = append(tests[m.pkg], m.test)
		}
	}
	for pkg, names := range tests {
		out, err := test(root, "", pkg, strings.Join(names, "|"), 10*time.Minute)
		if err != nil {
			return fmt.Errorf("%s fails without any fault: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// verdict is what became of a mutant.
type verdict string

const (
	killed  verdict = "killed"
	hung    verdict = "hung" // killed too, by a test that waited in vain
	alive   verdict = "ALIVE"
	useless verdict = "USELESS" // it does not apply or does not compile
)

// tryAll tries as many at a time as there are processors.
func tryAll(root string, list []mutant) (map[verdict]int, error) {
	var g errgroup.Group
	var mu sync.Mutex
	count := map[verdict]int{}
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, m := range list {
		g.Go(func() error {
			v, why, err := try(root, m)
			mu.Lock()
			defer mu.Unlock()
			count[v]++
			fmt.Printf("%-7s  %-60s  %s %s\n%s", v, m.name, m.pkg, m.test, why)
			return err
		})
	}
	return count, g.Wait()
}

// try runs the mutant's test. why is for the reader of one that is useless.
func try(root string, m mutant) (v verdict, why string, err error) {
	file, text, err := m.apply(root)
	if err != nil {
		return useless, err.Error() + "\n", nil
	}
	changed, err := overlay(file, text)
	if err != nil {
		return useless, "", err
	}
	defer os.RemoveAll(filepath.Dir(changed))
	out, err := test(root, changed, m.pkg, m.test, 30*time.Second)
	switch {
	case err == nil:
		return alive, "", nil
	case strings.Contains(out, "[build failed]"):
		return useless, out, nil
	case strings.Contains(out, "panic: test timed out"):
		return hung, "", nil
	}
	return killed, "", nil
}

// test runs the tests of a package whose name matches, with the overlay of the
// compiler if there is one. What they build has it, too. A test that waits in
// vain fails when its time is up.
func test(root, overlay, pkg, name string, limit time.Duration) (output string, err error) {
	cmd := exec.Command("go", "test", "-count=1", "-failfast", "-vet=off", "-timeout="+limit.String(), "-run=^("+name+")$", "./"+pkg)
	cmd.Dir = root
	if overlay != "" {
		cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
