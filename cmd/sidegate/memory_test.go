package main

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	dir := t.TempDir()
	v2, v1 := filepath.Join(dir, "memory.max"), filepath.Join(dir, "memory.limit_in_bytes")
	cases := []struct {
		name    string
		files   map[string]string
		environ []string
		want    int64
	}{
		{"no cgroup", nil, nil, math.MaxInt64},
		{"v2 none", map[string]string{v2: "max\n"}, nil, math.MaxInt64},
		{"v2", map[string]string{v2: "134217730\n"}, nil, 120795957},
		{"v1 none", map[string]string{v1: "9223372036854771712\n"}, nil, math.MaxInt64},
		{"v1", map[string]string{v1: "134217730\n"}, nil, 120795957},
		{"GOMEMLIMIT wins", map[string]string{v2: "134217730\n"}, []string{"GOMEMLIMIT=1GiB"}, math.MaxInt64},
		{"garbage", map[string]string{v2: "x"}, nil, math.MaxInt64},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			debug.SetMemoryLimit(math.MaxInt64)
			for _, path := range []string{v1, v2} {
				_ = os.Remove(path) // of the row before
			}
			for path, text := range c.files {
				try(t, os.WriteFile(path, []byte(text), 0o600))
			}
			limitMemory(c.environ, []string{v2, v1}, slog.New(slog.DiscardHandler))
			if got := debug.SetMemoryLimit(-1); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}
