package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"sidegate/tlsproxy"
)

// under writes files under a folder, by their paths.
func under(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		file := filepath.Join(root, path)
		try(t, os.MkdirAll(filepath.Dir(file), 0o700))
		try(t, os.WriteFile(file, []byte(text), 0o600))
	}
	return root
}

const (
	v2Mount = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	v1Mount = "31 24 0:27 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
	cpuOnly = "32 24 0:28 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu\n"
)

// OPS-16: the lowest limit counts of the process's cgroups and their ancestors.
func TestCgroupLimit(t *testing.T) {
	const cgroup, mountinfo = "/proc/self/cgroup", "/proc/self/mountinfo"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no /proc":  {nil, 0},
		"no cgroup": {map[string]string{cgroup: "", mountinfo: ""}, 0},
		"2, in a container": {map[string]string{
			cgroup: "0::/\n", mountinfo: v2Mount, "/sys/fs/cgroup/memory.max": "134217728\n"}, 128 << 20},
		"2, no limit": {map[string]string{
			cgroup: "0::/\n", mountinfo: v2Mount, "/sys/fs/cgroup/memory.max": "max\n"}, 0},
		"2, an ancestor's": {map[string]string{
			cgroup: "0::/pods/pod1/main\n", mountinfo: v2Mount,
			"/sys/fs/cgroup/pods/pod1/main/memory.max": "268435456\n",
			"/sys/fs/cgroup/pods/pod1/memory.max":      "67108864\n",
			"/sys/fs/cgroup/pods/memory.max":           "max\n"}, 64 << 20},
		"2, where it throttles": {map[string]string{
			cgroup: "0::/\n", mountinfo: v2Mount,
			"/sys/fs/cgroup/memory.max": "134217728\n", "/sys/fs/cgroup/memory.high": "100000000\n"}, 100_000_000},
		"2, outside what is mounted": {map[string]string{
			cgroup: "0::/../other\n", mountinfo: v2Mount, "/sys/fs/cgroup/memory.max": "134217728\n"}, 128 << 20},
		"1, on the host": {map[string]string{
			cgroup: "4:memory:/pods/a\n1:name=systemd:/\n", mountinfo: cpuOnly + v1Mount,
			"/sys/fs/cgroup/memory/pods/a/memory.limit_in_bytes": "134217728\n",
			"/sys/fs/cgroup/memory/memory.limit_in_bytes":        "9223372036854771712\n"}, 128 << 20},
		"1, in a container": {map[string]string{
			cgroup:    "4:memory:/kubepods/pod1/abc\n",
			mountinfo: strings.Replace(v1Mount, " / ", " /kubepods/pod1/abc ", 1),
			"/sys/fs/cgroup/memory/memory.limit_in_bytes": "67108864\n"}, 64 << 20},
		"1, no limit": {map[string]string{
			cgroup: "4:memory:/\n", mountinfo: v1Mount, "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"both": {map[string]string{
			cgroup: "4:memory:/a\n0::/\n", mountinfo: v1Mount + strings.Replace(v2Mount, "/sys/fs/cgroup ", "/sys/fs/cgroup/unified ", 1),
			"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "134217728\n"}, 128 << 20},
		"1, of another controller": {map[string]string{
			cgroup: "4:cpu:/a\n", mountinfo: cpuOnly, "/sys/fs/cgroup/cpu/a/memory.limit_in_bytes": "1\n"}, 0},
		"garbage": {map[string]string{
			cgroup: "0::/\nx\n", mountinfo: "x\n30 - cgroup2\n" + v2Mount, "/sys/fs/cgroup/memory.max": "many\n"}, 0},
	} {
		if got := cgroupLimit(under(t, c.files)); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

// OPS-16: what clients may hold follows from the limit and from what the process
// holds itself.
func TestMemoryOf(t *testing.T) {
	for _, c := range []struct {
		limit, own int64
		idle       int // connections, at least
		short      bool
	}{
		{0, 0, 0, false},
		{16 << 20, 0, 100, true},
		{64 << 20, 0, 800, false},
		{128 << 20, 0, 2_000, false},
		{128 << 20, 100 << 20, 100, false},
	} {
		m := memoryOf(c.limit, c.own)
		connections, _ := tlsproxy.Fit(m.clients)
		if connections < c.idle || m.limit != c.limit || m.short() != "" != c.short || c.limit == 0 && m.clients != 0 {
			t.Errorf("%d MiB, of which %d: %s, %q", c.limit>>20, c.own>>20, m, m.short())
		}
		if c.limit > 0 && m.clients > c.limit {
			t.Errorf("%d MiB: clients may hold %d", c.limit>>20, m.clients)
		}
	}
}

// The Go runtime learns of the limit, unless whoever runs us has told it of another.
func TestTellRuntime(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	for _, c := range []struct {
		limit   int64
		environ []string
		want    int64
	}{
		{0, nil, math.MaxInt64},
		{32 << 20, nil, 24 << 20},
		{64 << 20, nil, 48 << 20},
		{1 << 30, nil, 1<<30 - 1<<30/10},
		{64 << 20, []string{"GOMEMLIMIT=1GiB"}, math.MaxInt64},
	} {
		debug.SetMemoryLimit(math.MaxInt64)
		memoryOf(c.limit, 0).tellRuntime(c.environ)
		if got := debug.SetMemoryLimit(-1); got != c.want {
			t.Errorf("%d: got %d, want %d", c.limit, got, c.want)
		}
	}
}
