package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroup is a memory cgroup made for one run of Sidegate, of version 1 or 2.
type cgroup struct {
	dir string
	v2  bool
}

// newCgroup makes one with that limit; 0: none.
func newCgroup(limit int64) (*cgroup, error) {
	c := &cgroup{dir: "/sys/fs/cgroup/memory"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		c = &cgroup{dir: "/sys/fs/cgroup", v2: true}
		if err := c.write("cgroup.subtree_control", "+memory"); err != nil {
			return nil, err
		}
	}
	c.dir = filepath.Join(c.dir, fmt.Sprintf("sidegate-soak-%d", os.Getpid()))
	if err := os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if limit == 0 {
		return c, nil
	}
	name := "memory.limit_in_bytes"
	if c.v2 {
		name = "memory.max"
	}
	return c, c.write(name, strconv.FormatInt(limit, 10))
}

func (c *cgroup) write(name, value string) error {
	return os.WriteFile(filepath.Join(c.dir, name), []byte(value), 0o644)
}

func (c *cgroup) number(v1, v2 string) int64 {
	name := v1
	if c.v2 {
		name = v2
	}
	text, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (c *cgroup) used() int64 { return c.number("memory.usage_in_bytes", "memory.current") }

// peak is the most that was used; 0: the kernel does not say.
func (c *cgroup) peak() int64 { return c.number("memory.max_usage_in_bytes", "memory.peak") }

// killed is how many processes the kernel has killed for want of memory.
func (c *cgroup) killed() int64 {
	name := "memory.oom_control"
	if c.v2 {
		name = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			killed, _ := strconv.ParseInt(n, 10, 64)
			return killed
		}
	}
	return 0
}

// remove removes it once no process is left.
func (c *cgroup) remove() error { return os.Remove(c.dir) }
