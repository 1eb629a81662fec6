package main

import (
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// cgroupLimits are where the kernel tells a container's memory limit: version
// 2 and version 1.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// limitMemory tells the Go runtime of the container's limit, so that it
// collects harder before the kernel kills. GOMEMLIMIT, where set, wins.
func limitMemory(environ []string, files []string, log *slog.Logger) {
	for _, kv := range environ {
		if strings.HasPrefix(kv, "GOMEMLIMIT=") {
			return
		}
	}
	limit := containerLimit(files)
	if limit == 0 {
		return
	}
	soft := limit / 10 * 9 // the rest is for what Go does not count
	debug.SetMemoryLimit(soft)
	log.Info("memory limit from the container", "bytes", soft)
}

// containerLimit is the limit in bytes; 0: none.
func containerLimit(files []string) int64 {
	// Version 1 says "none" by a number near the end of an int64.
	const none = math.MaxInt64 / 2
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err == nil && n > 0 && n < none {
			return n
		}
	}
	return 0
}
