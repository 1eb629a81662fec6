package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"sidegate/tlsproxy"
)

// memory is what the process may use, and what of it clients may make it hold.
type memory struct {
	limit   int64 // bytes; 0: there is none
	clients int64 // of it; 0: any number
}

const (
	// kernelMemory is what the kernel and the program's text take of the limit,
	// whatever clients do.
	kernelMemory = 8 << 20
	// leastOwn is what the process holds without any client.
	leastOwn = 12 << 20
	// leastClients are served in any case.
	leastClients = 4 << 20
)

// memoryOf divides a limit while the process itself holds that much. A fifth is
// for garbage: the collector would take the processor if the heap
// had to be as small as what lives.
func memoryOf(limit, own int64) memory {
	if limit == 0 {
		return memory{}
	}
	const live = 78 // percent
	return memory{limit, max((limit-kernelMemory)/100*live-max(own, leastOwn), leastClients)}
}

// String tells it for check and the log.
func (m memory) String() string {
	if m.limit == 0 {
		return "no memory limit"
	}
	connections, requests := tlsproxy.Fit(m.clients)
	return fmt.Sprintf("memory for %d idle connections, or %d requests at once (limit %d MiB)", connections, requests, m.limit>>20)
}

// short is the warning that the limit is small; "": it is not.
func (m memory) short() string {
	const small = 48 << 20
	if m.limit == 0 || m.limit >= small {
		return ""
	}
	return fmt.Sprintf("%s: raise resources.limits.memory to 64Mi at least", m)
}

// memoryLimit is what bounds the process's memory: its cgroups, or GOMEMLIMIT
// where that is lower; 0: nothing does.
func memoryLimit(environ []string) int64 {
	limit := cgroupLimit("/")
	if setsGoMemory(environ) {
		if soft := debug.SetMemoryLimit(-1); soft != math.MaxInt64 {
			limit = lower(limit, soft)
		}
	}
	return limit
}

// setsGoMemory reports whether whoever runs us has told the Go runtime of a
// limit, which wins then.
func setsGoMemory(environ []string) bool {
	for _, kv := range environ {
		if strings.HasPrefix(kv, "GOMEMLIMIT=") {
			return true
		}
	}
	return false
}

// tellRuntime makes the Go runtime collect harder before the kernel kills. The
// rest is for what Go does not count: sockets, and the program's text.
func (m memory) tellRuntime(environ []string) {
	if m.limit == 0 || setsGoMemory(environ) {
		return
	}
	debug.SetMemoryLimit(m.limit - max(m.limit/10, min(kernelMemory*2, m.limit/4)))
}

// held is what the process holds of memory, garbage apart, as of the last collection.
func held() int64 {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/mcache/inuse:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/os-stacks:bytes"},
		{Name: "/memory/classes/other:bytes"},
		{Name: "/memory/classes/profiling/buckets:bytes"},
	}
	metrics.Read(samples)
	sum := int64(0)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += int64(min(s.Value.Uint64(), math.MaxInt64))
		}
	}
	return sum
}

// memoryNow is the memory before any client is there.
func memoryNow(environ []string) memory {
	runtime.GC() // what was read to load everything is garbage by now
	return memoryOf(memoryLimit(environ), held())
}

// memoryLook is how often the limit is looked at: a container can be resized
// while it runs.
const memoryLook = 30 * time.Second

// followMemory keeps to the memory limit as it changes, and to what is left
// beside the files that were loaded since, until ctx ends.
func followMemory(ctx context.Context, environ []string, m memory, proxy *tlsproxy.Proxy, log *slog.Logger) error {
	t := time.NewTicker(memoryLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		used, _ := proxy.Memory()
		now := memoryOf(memoryLimit(environ), held()-used)
		if now.limit != m.limit {
			log.Info("memory limit changed", "bytes", now.limit, "before", m.limit, "room", now.String())
			now.tellRuntime(environ)
		}
		m = now
		proxy.SetMemory(m.clients)
	}
}
