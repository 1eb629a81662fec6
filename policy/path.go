package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// pathPattern is a pattern of canonical paths. "*" is any part of one segment,
// and a whole one if it stands alone; "/**" at the end is that path and
// everything below.
type pathPattern struct {
	text    string
	literal []byte // the text up to the first *, without the slash of /**: most paths fail here
	below   bool   // it ended in /**
	stars   bool   // there is a * in body
	body    []byte // the text without /**
}

// parsePath reads a pattern. It must be written as paths are compared, so
// that what can be read can also be met.
func parsePath(text string) (pathPattern, error) {
	p := newPattern(text)
	switch {
	case text == "*": // of OPTIONS
		return pathPattern{text: text, literal: p.body, body: p.body}, nil
	case !strings.HasPrefix(text, "/"):
		return p, fmt.Errorf("a path begins with /")
	case bytes.Contains(p.body, []byte("**")):
		return p, errors.New("** stands for all the rest, so only at the end, as in /a/**")
	case strings.ContainsAny(text, "?#"):
		return p, errors.New("a query has no part in a path")
	case len(p.body) != 1 && strings.HasSuffix(string(p.body), "/"):
		return p, fmt.Errorf("write %s, which covers the final slash too", strings.TrimRight(text, "/"))
	}
	return p, checkCanonical(text)
}

func newPattern(text string) pathPattern {
	body, below := strings.CutSuffix(text, "/**")
	literal, _, stars := strings.Cut(body, "*")
	return pathPattern{text: text, literal: []byte(literal), below: below, stars: stars, body: []byte(body)}
}

// fold is the pattern for folded paths.
func (p *pathPattern) fold() pathPattern {
	if p.text == "*" {
		return *p
	}
	folded, _ := appendFolded(nil, []byte(p.text))
	return newPattern(string(folded))
}

// checkCanonical refuses a pattern that no request's canonical path can meet,
// or whose requests all have several readings.
func checkCanonical(text string) error {
	canonical, err := canonicalPath(text)
	switch {
	case err != nil:
		return fmt.Errorf("no request for this is ever let through: %w", err)
	case canonical != text:
		return fmt.Errorf("paths are compared decoded: write %s", canonical)
	case hasReadings(text):
		return fmt.Errorf("applications may read this as %s", anotherReading(text))
	}
	return nil
}

// anotherReading is the first reading of a path that is not the path itself.
func anotherReading(path string) (other string) {
	every := &Policy{namesPaths: true, distinct: true}
	every.pathReadings(&Request{Path: path}, func(reading []byte, _ bool) bool {
		other = string(reading)
		return other == path
	})
	return other
}

// match reports whether the pattern covers a canonical path. It allocates
// nothing.
func (p *pathPattern) match(path []byte) bool {
	if len(path) == 0 || !bytes.HasPrefix(path, p.literal) { // a TCP gate has no paths
		return false
	}
	if p.stars {
		return matchGlob(p.body, path, p.below)
	}
	rest := path[len(p.body):]
	return len(rest) == 0 || len(rest) == 1 && rest[0] == '/' && !p.isRoot() || p.below && rest[0] == '/'
}

func (p *pathPattern) isRoot() bool { return string(p.body) == "/" }

var (
	slash = []byte("/")
	star  = []byte("*")
)

// matchGlob compares segment by segment; below lets more of them follow.
func matchGlob(pattern, path []byte, below bool) bool {
	pattern, path = pattern[1:], path[1:]
	for {
		want, nextWant, moreWanted := bytes.Cut(pattern, slash)
		have, next, more := bytes.Cut(path, slash)
		if !matchSegment(want, have) {
			return false
		}
		if !moreWanted {
			return !more || len(next) == 0 || below
		}
		if !more {
			return false
		}
		pattern, path = nextWant, next
	}
}

// matchSegment compares one segment with a pattern whose stars stand for any
// number of bytes. A star alone wants at least one.
func matchSegment(pattern, s []byte) bool {
	if bytes.Equal(pattern, star) {
		return len(s) > 0
	}
	first, rest, starred := bytes.Cut(pattern, star)
	if !starred {
		return bytes.Equal(pattern, s)
	}
	if !bytes.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, starred := bytes.Cut(rest, star)
		if !starred {
			return bytes.HasSuffix(s, part)
		}
		i := bytes.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// covers reports whether p surely matches whatever other matches.
func (p *pathPattern) covers(other *pathPattern) bool {
	switch {
	case p.text == other.text || p.text == "/**" && other.text != "*":
		return true
	case p.below && !p.stars: // all below one folder
		return strings.HasPrefix(string(other.literal), string(p.body)+"/") || bytes.Equal(other.body, p.body)
	case other.below || other.stars:
		return false
	}
	return p.match(other.body)
}

// patterns are the paths of a rule, as they are written and folded.
type patterns struct {
	exact, folded []pathPattern
	plain         bool // folding changes none of them
}

func newPatterns(exact []pathPattern) patterns {
	p := patterns{exact: exact, plain: true}
	for i := range exact {
		folded := exact[i].fold()
		p.plain = p.plain && folded.text == exact[i].text
		p.folded = append(p.folded, folded)
	}
	return p
}

func (p *patterns) in(folded bool) []pathPattern {
	if folded {
		return p.folded
	}
	return p.exact
}

func (p *patterns) match(path []byte, folded bool) bool {
	list := p.in(folded)
	for i := range list {
		if list[i].match(path) {
			return true
		}
	}
	return false
}

// prefix is what every path begins with that one of them covers.
func (p *patterns) prefix(folded bool) string {
	list := p.in(folded)
	if len(list) == 0 {
		return ""
	}
	prefix := list[0].literal
	for i := range list {
		for !bytes.HasPrefix(list[i].literal, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	return string(prefix)
}
