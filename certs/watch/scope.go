package watch

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// scope is what could change what the paths lead to: folders by their real
// path, free of links, and the names in them that matter.
type scope map[string]*names

type names struct {
	all bool // every name matters
	one map[string]bool
}

// newScope looks at where the paths lead now.
func newScope(paths []string) scope {
	s := scope{}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			continue // the working directory is gone; the poll says what reading finds
		}
		s.addPath(abs)
	}
	return s
}

// join adds all of another scope.
func (s scope) join(other scope) {
	for dir, n := range other {
		here := s.folder(dir)
		here.all = here.all || n.all
		maps.Copy(here.one, n.one)
	}
}

// addPath adds the way to path. Of a folder it adds the entries and the way to
// each that is a link, of a file the folder that it is in.
func (s scope) addPath(path string) {
	end, found := s.follow(path)
	if !found {
		return
	}
	entries, err := os.ReadDir(end)
	if err != nil { // a file, or gone again
		s.note(filepath.Dir(end))
		return
	}
	s.folder(end).all = true
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			s.follow(filepath.Join(end, e.Name()))
		}
	}
}

// maxLinks ends a walk through links that point at each other; Linux gives up
// at the same number.
const maxLinks = 40

// follow goes an absolute path name by name, as the kernel does, and notes
// every link that it passes and where it ends. Of what is missing it notes the
// first name: there it will appear. It returns the end's real path.
func (s scope) follow(path string) (end string, found bool) {
	dir, rest, links := "/", path, 0
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			dir = filepath.Dir(dir)
			continue
		}
		here := filepath.Join(dir, name)
		info, err := os.Lstat(here)
		if err != nil {
			s.note(here)
			return "", false
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			dir = here
			continue
		}
		s.note(here)
		target, err := os.Readlink(here)
		if links++; err != nil || links > maxLinks {
			return "", false
		}
		if filepath.IsAbs(target) {
			dir = "/"
		}
		rest = target + "/" + rest
	}
	s.note(dir)
	return dir, true
}

// note says that the name at the end of a real path matters.
func (s scope) note(path string) { s.folder(filepath.Dir(path)).one[filepath.Base(path)] = true }

func (s scope) folder(dir string) *names {
	if s[dir] == nil {
		s[dir] = &names{one: map[string]bool{}}
	}
	return s[dir]
}

// matters reports whether an event is about a folder of the scope itself or a
// name in it that matters. A busy neighbour in a shared folder does not.
func (s scope) matters(path string) bool {
	if s[path] != nil {
		return true
	}
	in := s[filepath.Dir(path)]
	return in != nil && (in.all || in.one[filepath.Base(path)])
}
