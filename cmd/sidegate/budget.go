package main

import (
	"fmt"
	"math"
	"syscall"

	"sidegate/tlsproxy"
)

// budget is what serve may spend: the limits that are configured, lowered to
// what the process has. All that follows from that is derived here.
type budget struct {
	limits tlsproxy.Limits
	admin  int    // connections of the admin port
	files  int    // that the process may open
	short  string // the warning that it has less than was configured for; "": it has not
}

// reserved is how many files are kept for what no client may take: listeners,
// the admin port and the probes that it relays, file events, reading what is
// mounted, servers that certificates come from, the log.
const reserved = 64

// budgetOf derives the limits of so many gates from the files that the process
// may open. Each client connection may need one to an application.
func budgetOf(c *Config, files, gates int) budget {
	reserve := min(reserved+2*gates, files/2)
	l := c.limits()
	l.Connections = max(1, min(l.Connections, (files-reserve)/2))
	// Half-open handshakes must not have the place of all others.
	l.Handshakes = min(l.Handshakes, max(1, l.Connections/2))
	l.Upstreams = max(1, files-reserve-l.Connections)
	b := budget{limits: l, admin: max(1, reserve/4), files: files}
	if wanted := int(c.MaxConnections); l.Connections < wanted-wanted/10 {
		b.short = fmt.Sprintf("%d connections at most instead of %d, since the process may open %d files: raise that limit (ulimit -n, LimitNOFILE of the container runtime) to %d, or lower SIDEGATE_MAX_CONNECTIONS",
			l.Connections, wanted, files, 2*wanted+reserved+2*gates)
	}
	return b
}

// String tells the budget for check.
func (b budget) String() string {
	return fmt.Sprintf("limits: %d connections, %d handshakes, %d connections to applications (%d open files)",
		b.limits.Connections, b.limits.Handshakes, b.limits.Upstreams, b.files)
}

// openFiles is how many files the process may open. The Go runtime has raised
// the soft limit to the hard one.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32 // it can't be asked for, so nothing is known of one
	}
	return int(min(limit.Cur, math.MaxInt32))
}
