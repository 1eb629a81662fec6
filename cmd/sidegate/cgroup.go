package main

import (
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroupLimit is the lowest memory limit of the process's cgroups and of their
// ancestors, as far as they can be seen, in bytes; 0: there is none. Under root
// are /proc and what is mounted. Both versions may be there at once (cgroups(7)).
func cgroupLimit(root string) int64 {
	limit := int64(0)
	for _, g := range memoryCgroups(root) {
		for _, dir := range g.levels() {
			for _, name := range g.files {
				limit = lower(limit, readLimit(filepath.Join(root, dir, name)))
			}
		}
	}
	return limit
}

// lower is the lower limit; 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// readLimit reads a limit; 0: there is none, or no such file.
func readLimit(file string) int64 {
	const none = math.MaxInt64 / 2 // version 1 says "none" by a number near the end, version 2 by "max"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n <= 0 || n >= none {
		return 0
	}
	return n
}

// memoryCgroup is a cgroup that bounds the process's memory.
type memoryCgroup struct {
	mount string // of its hierarchy
	dir   string // of the cgroup, in mount
	files []string
}

// levels are the folders from the cgroup up to the mount.
func (g memoryCgroup) levels() []string {
	list := []string{g.dir}
	for dir := g.dir; dir != g.mount && dir != "/"; {
		dir = path.Dir(dir)
		list = append(list, dir)
	}
	return list
}

// memoryCgroups finds the process's cgroups in what /proc says.
func memoryCgroups(root string) []memoryCgroup {
	var list []memoryCgroup
	mounts := cgroupMounts(root)
	for _, fields := range fieldsOf(filepath.Join(root, "/proc/self/cgroup"), ":", 3) { // hierarchy:controllers:path
		m := mounts.v1
		files := []string{"memory.limit_in_bytes"}
		if fields[0] == "0" && fields[1] == "" {
			m, files = mounts.v2, []string{"memory.max", "memory.high"}
		} else if !slices.Contains(strings.Split(fields[1], ","), "memory") {
			continue
		}
		if m.point != "" {
			list = append(list, memoryCgroup{m.point, m.dirOf(fields[2]), files})
		}
	}
	return list
}

// cgroupMount is where a hierarchy is mounted, and what of it.
type cgroupMount struct{ root, point string }

// dirOf is where a cgroup is seen. A container sees its own at the mount itself,
// whatever its path is outside.
func (m cgroupMount) dirOf(cgroup string) string {
	rest, ok := strings.CutPrefix(cgroup, m.root)
	if !ok || m.root != "/" && rest != "" && rest[0] != '/' || strings.HasPrefix(cgroup, "/..") {
		return m.point
	}
	return path.Join(m.point, rest)
}

// cgroupMounts finds where cgroups are mounted (proc_pid_mountinfo(5)).
func cgroupMounts(root string) (found struct{ v1, v2 cgroupMount }) {
	for _, fields := range fieldsOf(filepath.Join(root, "/proc/self/mountinfo"), " ", -1) {
		dash := slices.Index(fields, "-")
		if dash < 6 || len(fields) < dash+4 {
			continue
		}
		m := cgroupMount{fields[3], fields[4]}
		switch kind := fields[dash+1]; {
		case kind == "cgroup2":
			found.v2 = m
		case kind == "cgroup" && slices.Contains(strings.Split(fields[dash+3], ","), "memory"):
			found.v1 = m
		}
	}
	return found
}

// fieldsOf splits each line of a file into fields, into at most n if n is positive,
// and leaves out lines that have fewer. A file that can't be read has no lines.
func fieldsOf(file, separator string, n int) [][]string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var list [][]string
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), separator, n); len(fields) >= n {
			list = append(list, fields)
		}
	}
	return list
}
