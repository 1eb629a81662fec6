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
	file     string
	old, new string // a piece of a line that the file holds once, and what stands there instead
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
//	file    tlsproxy/headers.go
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
		}{{"name", &m.name}, {"breaks", &m.promise}, {"file", &m.file}, {"old", &m.old}, {"new", &m.new}, {"test", &test}}
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
	text := strings.Join([]string{m.name, m.promise, m.file, m.pkg, m.test}, "\n")
	return len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// apply returns the file's text with the fault.
func (m *mutant) apply(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); m.old == "" || n != 1 {
		return "", fmt.Errorf("%s holds %q %d times, want once", m.file, m.old, n)
	}
	return strings.Replace(string(text), m.old, m.new, 1), nil
}

// overlay writes the text beside what go's -overlay wants, and returns the
// latter's path.
func (m *mutant) overlay(root, text string) (string, error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, replace, 0o600)
}
