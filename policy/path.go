package policy

import (
	"errors"
	"fmt"
	"strings"
)

// pathPattern is a pattern of canonical paths. "*" is any part of one segment,
// and a whole one if it stands alone; "/**" at the end is that path and
// everything below.
type pathPattern struct {
	text    string
	literal string // the text up to the first *, without the slash of /**: most paths fail here
	below   bool   // it ended in /**
	stars   bool   // there is a * in body
	body    string // the text without /**
}

// parsePath reads a pattern. It must be written as paths are compared, so
// that what can be read can also be met.
func parsePath(text string) (pathPattern, error) {
	p := pathPattern{text: text}
	p.body, p.below = strings.CutSuffix(text, "/**")
	switch {
	case text == "*": // of OPTIONS
		return pathPattern{text: text, literal: text, body: text}, nil
	case !strings.HasPrefix(text, "/"):
		return p, fmt.Errorf("a path begins with /")
	case strings.Contains(p.body, "**"):
		return p, errors.New("** stands for all the rest, so only at the end, as in /a/**")
	case strings.ContainsAny(text, "?#"):
		return p, errors.New("a query has no part in a path")
	case p.body != "/" && strings.HasSuffix(p.body, "/"):
		return p, fmt.Errorf("write %s, which covers the final slash too", strings.TrimRight(text, "/"))
	}
	if err := checkCanonical(text); err != nil {
		return p, err
	}
	p.literal, _, p.stars = strings.Cut(p.body, "*")
	return p, nil
}

// checkCanonical refuses a pattern that no request's canonical path can meet,
// or whose requests all have several readings.
func checkCanonical(text string) error {
	canonical, readings, err := ParseTarget(text)
	switch {
	case err != nil:
		return fmt.Errorf("no request for this is ever let through: %w", err)
	case canonical != text:
		return fmt.Errorf("paths are compared decoded: write %s", canonical)
	case len(readings) > 0:
		return fmt.Errorf("applications may read this as %s", readings[0])
	}
	return nil
}

// match reports whether the pattern covers a canonical path. It allocates
// nothing.
func (p *pathPattern) match(path string) bool {
	if !strings.HasPrefix(path, p.literal) {
		return false
	}
	if p.stars {
		return matchGlob(p.body, path, p.below)
	}
	rest := path[len(p.body):]
	return rest == "" || rest == "/" && p.body != "/" || p.below && rest[0] == '/'
}

// matchGlob compares segment by segment; below lets more of them follow.
func matchGlob(pattern, path string, below bool) bool {
	pattern, path = pattern[1:], path[1:]
	for {
		want, nextWant, moreWanted := strings.Cut(pattern, "/")
		have, next, more := strings.Cut(path, "/")
		if !matchSegment(want, have) {
			return false
		}
		if !moreWanted {
			return !more || next == "" || below
		}
		if !more {
			return false
		}
		pattern, path = nextWant, next
	}
}

// matchSegment compares one segment with a pattern whose stars stand for any
// number of bytes. A star alone wants at least one.
func matchSegment(pattern, s string) bool {
	if pattern == "*" {
		return s != ""
	}
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
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
		return strings.HasPrefix(other.literal, p.body+"/") || other.body == p.body
	case other.below || other.stars:
		return false
	}
	return p.match(other.body)
}
