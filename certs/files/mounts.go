package files

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Mount is one of the mounts that a process sees.
type Mount struct {
	Root  string // what is mounted, as a path in its own file system
	Point string // where
}

// Mounts reads a table of mounts such as /proc/self/mountinfo (proc(5)), in
// the order in which they were made. Lines of another form are passed over.
func Mounts(table string) ([]Mount, error) {
	text, err := os.ReadFile(table)
	if err != nil {
		return nil, fmt.Errorf("read the table of mounts: %w", err)
	}
	var list []Mount
	for line := range strings.Lines(string(text)) {
		const root, point = 3, 4
		if f := strings.Fields(line); len(f) > point {
			list = append(list, Mount{Root: unescape(f[root]), Point: unescape(f[point])})
		}
	}
	return list, nil
}

var escaped = regexp.MustCompile(`\\[0-7]{3}`)

// unescape undoes what the kernel does to spaces, tabs and the like.
func unescape(s string) string {
	return escaped.ReplaceAllStringFunc(s, func(octal string) string {
		n, err := strconv.ParseUint(octal[1:], 8, 8)
		if err != nil {
			return octal
		}
		return string([]byte{byte(n)})
	})
}

// frozenRoot is what a mount by subPath shows of where it comes from: one
// version of the kubelet's volume, or the kubelet's own mount of the subPath.
var frozenRoot = regexp.MustCompile(`/\.\.\d{4}_\d\d_\d\d_|/volume-subpaths/`)

// Frozen returns the mount on which the file or folder stands, if it is one
// that shows the same files for ever, whatever the kubelet or somebody else
// renames into place: the mount of a single file, or by subPath.
func Frozen(mounts []Mount, path string) (m Mount, frozen bool) {
	real, err := bounded(path, func() (string, error) { return filepath.EvalSymlinks(path) })
	if err != nil {
		return m, false
	}
	if real, err = filepath.Abs(real); err != nil {
		return m, false
	}
	for _, candidate := range mounts { // of two at one place the later one is seen
		if within(real, candidate.Point) && len(candidate.Point) >= len(m.Point) {
			m = candidate
		}
	}
	if frozenRoot.MatchString(m.Root) {
		return m, true
	}
	info, err := Stat(real)
	return m, err == nil && m.Point == real && !info.IsDir()
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
