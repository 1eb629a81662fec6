package inject

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sidegate/manifests/edit"
)

// Outlast is how much longer than the drain delay the application stays. The
// delay begins late: the kubelet starts the hooks of all containers at once,
// and the command of Sidegate's takes time to start. When the delay is over,
// handshakes in progress have 2 s to end, and their requests come after that.
const Outlast = 3 * time.Second

// stay is how long the application takes requests when the pod ends, in
// seconds.
func (o *Options) stay() int { return int((o.DrainDelay + Outlast) / time.Second) }

// outlive plans a preStop sleep for each container that has no hook.
func (p *plan) outlive(o *Options, pod *pod) {
	for _, c := range pod.Spec.Containers {
		if c.Lifecycle.PreStop == nil {
			in := p.object.template().to("spec", "containers", c.Name, "lifecycle")
			p.put(in, "preStop", edit.Map("sleep", edit.Map("seconds", o.stay())))
		}
	}
}

// early are the containers whose own hook ends while Sidegate still takes
// requests, as far as the hook says how long it takes.
func (s *podSpec) early(o *Options) []string {
	var list []string
	for _, c := range s.Containers {
		if seconds, ok := c.Lifecycle.PreStop.sleeps(); ok && seconds < o.stay() {
			list = append(list, fmt.Sprintf("%s sleeps %d s", c.Name, seconds))
		}
	}
	return list
}

var sleepCommand = regexp.MustCompile(`(?:^|[\s/])sleep (\d+)s?$`)

// sleeps is for how long a hook only waits; ok is false if that can't be seen.
func (p *probe) sleeps() (seconds int, ok bool) {
	switch {
	case p == nil:
	case p.Sleep != nil:
		return p.Sleep.Seconds, true
	case p.Exec != nil:
		if m := sleepCommand.FindStringSubmatch(strings.Join(p.Exec.Command, " ")); m != nil {
			seconds, err := strconv.Atoi(m[1])
			return seconds, err == nil
		}
	}
	return 0, false
}
