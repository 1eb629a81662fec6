package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutant is one small fault, and the test that must fail with it.
type mutant struct {
	name     string // what is wrong with it
	promise  string // what it breaks: a statement's id, or words
	in       string // the package's folder
	old, new string // a piece of a line that the package holds once, and what stands there instead
	pkg      string // of the test
	test     string // its name, or several with | between them
}

// readAll reads the .txt files of a folder.
func readAll(dir string) ([]mutant, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		list, err := parse(filepath.Base(file), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// parse reads blocks of six lines with an empty line between them:
//
//	name    the left-most X-Forwarded-For
//	breaks  HTTP-27
//	in      tlsproxy
//	old     for i := len(hops) - 1; i >= 0; i-- {
//	new     for i := range hops {
//	test    tlsproxy TestClientAddress
//
// A word alone stands for nothing in its place. Lines that begin with # are
// comments.
func parse(file, text string) ([]mutant, error) {
	var list []mutant
	for i, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		var m mutant
		var test string
		fields := []struct {
			word string
			to   *string
		}{{"name", &m.name}, {"breaks", &m.promise}, {"in", &m.in}, {"old", &m.old}, {"new", &m.new}, {"test", &test}}
		lines := slices.DeleteFunc(strings.Split(block, "\n"), func(l string) bool { return strings.HasPrefix(l, "#") })
		if len(lines) == 0 {
			continue
		}
		if len(lines) != len(fields) {
			return nil, fmt.Errorf("%s: block %d (%s) has %d lines, want %d", file, i+1, lines[0], len(lines), len(fields))
		}
		for j, f := range fields {
			word, value, _ := strings.Cut(lines[j], " ")
			if word != f.word {
				return nil, fmt.Errorf("%s: block %d (%s): line %d begins with %q, want %q", file, i+1, lines[0], j+1, word, f.word)
			}
			*f.to = strings.TrimSpace(value)
		}
		m.pkg, m.test, _ = strings.Cut(test, " ")
		list = append(list, m)
	}
	return list, nil
}

// holds reports whether one of the words is in the mutant's text. No words:
// it is meant too.
func (m *mutant) holds(words []string) bool {
	text := strings.Join([]string{m.name, m.promise, m.in, m.pkg, m.test}, "\n")
	return len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// apply finds the file that holds the old text and returns its text with the
// fault.
func (m *mutant) apply(root string) (file, text string, err error) {
	files, err := filepath.Glob(filepath.Join(root, m.in, "*.go"))
	if err != nil {
		return "", "", err
	}
	found := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return "", "", err
		}
		if n := strings.Count(string(b), m.old); n > 0 {
			found += n
			file, text = f, strings.Replace(string(b), m.old, m.new, 1)
		}
	}
	if m.old == "" || found != 1 {
		return "", "", fmt.Errorf("%s holds %q %d times, want once", m.in, m.old, found)
	}
	return file, text, nil
}

// overlay writes the text that shall stand in the file's place, beside what go's
// -overlay wants, and returns the latter's path.
func overlay(file, text string) (string, error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, replace, 0o600)
}
