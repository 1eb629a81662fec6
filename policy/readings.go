package policy

import (
	"bytes"
	"strings"
	"sync"
)

// reading is one of the ways in which an application may read a request.
type reading struct {
	method string
	path   []byte // valid until the next reading is made
	folded bool   // the path is folded, for an application to which case does not count
}

// maxAmbiguous is how long a path may be that has several readings, of which
// each is judged before anybody has shown a credential.
const maxAmbiguous = 4 << 10

// pathReadings calls visit with the canonical path and then with each path that
// an application may take it for, until visit returns false. It reports whether
// visit has seen them all. Each is made where the one before it was, so that
// nothing is kept, and most requests have but one.
func (p *Policy) pathReadings(r *Request, visit func(path []byte, folded bool) bool) bool {
	if !p.namesPaths {
		return visit(nil, false)
	}
	if tooAmbiguous(r) {
		return false
	}
	s := scratches.Get().(*scratch)
	defer s.release()
	s.path = append(s.path[:0], r.Path...)
	path := s.path
	for {
		if !s.habits(readerHabits, path, false, visit) || !p.foldedReadings(s, path, visit) {
			return false
		}
		decoded := unescape(path)
		if len(decoded) == len(path) {
			return true // ParseTarget saw that this ends
		}
		path = decoded
	}
}

// foldedReadings are those of an application to which case does not count.
// Where neither the path nor a pattern changes by folding, they are those of any
// other application.
func (p *Policy) foldedReadings(s *scratch, path []byte, visit func([]byte, bool) bool) bool {
	if p.distinct {
		return true
	}
	var changed bool
	s.folded, changed = appendFolded(s.folded[:0], path)
	return !changed && !p.foldsPaths || s.habits(readerHabits, s.folded, true, visit)
}

func tooAmbiguous(r *Request) bool {
	target, _, _ := strings.Cut(r.Target, "?")
	return max(len(target), len(r.Path)) > maxAmbiguous && hasReadings(r.Path)
}

// hasReadings reports whether applications may take the canonical path for
// another one, case aside.
func hasReadings(path string) bool {
	return strings.ContainsAny(path, "%;") || strings.Contains(path, "//")
}

// scratch is where readings are made.
type scratch struct {
	path, folded []byte
	made         [4][]byte // by each of readerHabits
	short        [2][256]byte
}

var scratches = sync.Pool{New: func() any {
	s := &scratch{}
	s.path, s.folded = s.short[0][:0], s.short[1][:0] // most paths fit
	return s
}}

// release gives the scratch back, unless a long path has made it large.
func (s *scratch) release() {
	if cap(s.path)+cap(s.folded) <= 8*maxAmbiguous {
		scratches.Put(s)
	}
}

// habits visits the path and what every combination of habits makes of it. A
// habit whose bytes do not occur makes nothing new.
func (s *scratch) habits(habits []habit, path []byte, folded bool, visit func([]byte, bool) bool) bool {
	if len(habits) == 0 {
		return visit(path, folded)
	}
	if !s.habits(habits[1:], path, folded, visit) {
		return false
	}
	made := &s.made[len(habits)-1]
	var changed bool
	*made, changed = habits[0]((*made)[:0], path)
	return !changed || s.habits(habits[1:], *made, folded, visit)
}

// habit appends to made what a reader makes of a path. Where that is the path
// itself, it says so and appends nothing.
type habit func(made, path []byte) (_ []byte, changed bool)

// readerHabits is what applications and their frameworks do to a path before
// they look it up, in this order.
var readerHabits = []habit{cutQuery, backslashes, cutParameters, mergeSlashes}

// cutQuery ends the path at a decoded # or ?.
func cutQuery(made, path []byte) ([]byte, bool) {
	i := bytes.IndexAny(path, "#?")
	if i < 0 {
		return made, false
	}
	return append(made, path[:i]...), true
}

// backslashes are slashes on Windows, and to browsers.
func backslashes(made, path []byte) ([]byte, bool) {
	if bytes.IndexByte(path, '\\') < 0 {
		return made, false
	}
	for _, c := range path {
		if c == '\\' {
			c = '/'
		}
		made = append(made, c)
	}
	return made, true
}

// cutParameters ends each segment at its first semicolon (RFC 3986, 3.3).
func cutParameters(made, path []byte) ([]byte, bool) {
	if bytes.IndexByte(path, ';') < 0 {
		return made, false
	}
	parameters := false
	for _, c := range path {
		parameters = c != '/' && (parameters || c == ';')
		if !parameters {
			made = append(made, c)
		}
	}
	return made, true
}

func mergeSlashes(made, path []byte) ([]byte, bool) {
	if !bytes.Contains(path, []byte("//")) {
		return made, false
	}
	for i, c := range path {
		if c != '/' || i == 0 || path[i-1] != '/' {
			made = append(made, c)
		}
	}
	return made, true
}
