package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sidegate/certs/files"
	"sidegate/certs/watch"
)

// lookAtMounts says of each place that is read whether changes arrive there.
func (d *doctor) lookAtMounts() findings {
	var f findings
	mounts, err := files.Mounts(d.mounts)
	if err != nil {
		f.warn("mount", "look for subPath in the pod's volumeMounts yourself: what is mounted by it never changes", "%v", err)
		return f
	}
	for _, path := range d.watched() {
		var frozen findings
		for _, p := range append([]string{path}, entries(path)...) {
			if m, stuck := files.Frozen(mounts, p); stuck {
				frozen.warn("mount", "mount the whole volume as a folder, without subPath",
					"%s is mounted by itself (from %s), so what the kubelet renews never arrives here: new certificates need a new pod", m.Point, m.Root)
			}
		}
		f = append(f, frozen...)
		if _, err := files.Lstat(filepath.Join(path, "..data")); err == nil && len(frozen) == 0 {
			f.ok("mount", "%s is a volume of the kubelet, which brings changes within a minute or two", path)
		} else if info, err := files.Stat(path); err == nil && len(frozen) == 0 && info.IsDir() {
			f.ok("mount", "%s is a plain folder: changes are whatever is written there", path)
		}
	}
	return f
}

// watched is everything that is read again when it changes.
func (d *doctor) watched() []string {
	list := slices.Concat(d.folders(), d.trusted(), d.assembly.paths)
	slices.Sort(list)
	return answering(slices.Compact(list))
}

// answering leaves out what hangs, which loading has told.
func answering(paths []string) []string { return slices.DeleteFunc(paths, files.Hangs) }

// entries are the files of a folder that are read.
func entries(dir string) []string {
	var list []string
	all, _ := files.ReadDir(dir) // others say why it can't be read
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), ".") {
			list = append(list, filepath.Join(dir, e.Name()))
		}
	}
	return list
}

// lookAtEvents says whether changes would be noticed at once.
func (d *doctor) lookAtEvents() findings {
	var f findings
	if err := watch.Check(context.Background(), d.watched()); err != nil {
		f.warn("inotify", "raise fs.inotify.max_user_instances on the node"+sysctl("max_user_instances")+", or fs.inotify.max_user_watches"+sysctl("max_user_watches"),
			"no file events (%v): changes are seen within 30 s only", err)
		return f
	}
	f.ok("inotify", "file events work: changes are seen at once")
	return f
}

// sysctl is the value now, in brackets.
func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/fs/inotify/" + name)
	if err != nil {
		return ""
	}
	return " (now " + strings.TrimSpace(string(text)) + ")"
}
