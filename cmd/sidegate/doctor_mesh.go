package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// mesh is a service mesh whose proxy can be seen in a pod by the ports on which
// it listens.
type mesh struct {
	name    string
	ports   []uint64 // all of them
	from    string   // whom its deliveries come from
	exclude string   // the annotation that keeps a port out of it
}

var meshes = []mesh{
	{"Istio", []uint64{15001, 15006}, "127.0.0.6, unless it keeps addresses (TPROXY or ambient mode)", "traffic.sidecar.istio.io/excludeInboundPorts"},
	{"Linkerd", []uint64{4140, 4143}, "the pod's own address or 127.0.0.1", "config.linkerd.io/skip-inbound-ports"},
}

// lookAtMesh says whether a mesh's proxy stands before the gates, and what they
// see of clients then.
func (d *doctor) lookAtMesh() findings {
	var f findings
	listening := listeningPorts(d.sockets)
	for _, m := range meshes {
		if slices.ContainsFunc(m.ports, func(p uint64) bool { return !slices.Contains(listening, p) }) {
			continue
		}
		f.warn("mesh", "keep the gate's port out of the mesh, by the annotation "+m.exclude+", or write rules and read logs with that in mind",
			"the proxy of %s is in this pod: what it delivers comes from %s, so `networks` of rules, the limiter of wrong passwords and the log take all its clients for that one", m.name, m.from)
	}
	return f
}

// listeningPorts are those of tables such as /proc/net/tcp (proc(5)). What
// can't be read tells of no port.
func listeningPorts(tables []string) []uint64 {
	const local, state, listen = 1, 3, "0A"
	var ports []uint64
	for _, table := range tables {
		text, _ := os.ReadFile(table) // without /proc nothing is told
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) <= state || f[state] != listen {
				continue
			}
			_, port, _ := strings.Cut(f[local], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil {
				ports = append(ports, n)
			}
		}
	}
	return ports
}
