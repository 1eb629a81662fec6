package inject

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// appPort is the port to protect.
type appPort struct {
	number int
	name   string // "" if it has none
}

// candidate is a port that an application declares.
type candidate struct {
	appPort
	container string
	hostPort  int
}

func (c candidate) String() string {
	if c.name == "" {
		return fmt.Sprintf("%d (%s)", c.number, c.container)
	}
	return fmt.Sprintf("%d (%s, %s)", c.number, c.name, c.container)
}

// candidates are the TCP ports of the containers.
func (s *podSpec) candidates() []candidate {
	var all []candidate
	for _, c := range s.all() {
		for _, p := range c.Ports {
			if p.Protocol == "" || strings.EqualFold(p.Protocol, "TCP") {
				all = append(all, candidate{appPort{p.Port, p.Name}, c.Name, p.HostPort})
			}
		}
	}
	return all
}

func (p *pod) declares(port int) bool {
	return slices.ContainsFunc(p.Spec.candidates(), func(c candidate) bool { return c.number == port })
}

// appPort finds the port to protect.
func (p *pod) appPort(o *Options) (appPort, error) {
	all := p.Spec.candidates()
	if o.AppPort != "" {
		for _, c := range all {
			if o.AppPort == c.name || o.AppPort == strconv.Itoa(c.number) {
				return c.appPort, nil
			}
		}
		if n, ok := portNumber(o.AppPort); ok {
			return appPort{number: n}, nil
		}
		return appPort{}, fmt.Errorf("no port is named %q; give its number with --app-port", o.AppPort)
	}
	switch len(all) {
	case 0:
		return appPort{}, fmt.Errorf("no container has a port: name it with --app-port, or keep the sidecar out with the label %s: \"false\"", SwitchLabel)
	case 1:
		return all[0].appPort, nil
	}
	return appPort{}, fmt.Errorf("more than one port, %s: choose with --app-port", strings.Join(words(all), ", "))
}

func words(all []candidate) []string {
	var list []string
	for _, c := range all {
		list = append(list, c.String())
	}
	return list
}

// others are the candidates but the port that is protected.
func (s *podSpec) others(app appPort) []candidate {
	return slices.DeleteFunc(s.candidates(), func(c candidate) bool { return c.number == app.number })
}

// refuse returns why the pod can't be given the sidecar.
func refuse(o *object, p *pod, opts *Options, app appPort) []error {
	var errs []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	s := &p.Spec
	add(s.HostNetwork, "hostNetwork: the gate and the admin port would be the node's, and everybody there could go round them; use the pod's network")
	add(s.OS.Name == "windows", "os windows: the image is for Linux")
	endless := o.Kind == "Job" || o.Kind == "CronJob"
	add(opts.Plain && endless, "a plain sidecar would never let the %s end; leave --plain away", o.Kind)
	add(opts.Port == adminPort, "--port %d is sidegate's admin port; choose another", opts.Port)
	add(opts.Port != 0 && p.declares(opts.Port), "--port %d is a port of the application; leave --port away to keep the application's", opts.Port)
	add(app.number == adminPort || p.declares(adminPort), "the application listens on %d, which is sidegate's admin port; move the application", adminPort)
	for _, c := range s.candidates() {
		add(c.number == app.number && c.hostPort != 0, "hostPort %d of container %s leads round the gate; expose it by a Service", c.hostPort, c.container)
	}
	need := int(opts.DrainDelay/time.Second) + reserve + 1
	add(s.grace() < need, "terminationGracePeriodSeconds is %d: %s of drain delay and %d s in reserve leave no time to drain; make it %d or more, or --drain-delay shorter",
		s.grace(), opts.DrainDelay, reserve, need)
	return append(errs, p.taken(opts)...)
}

// taken returns what is wrong with names, of ours first, and with hooks that
// come too early.
func (p *pod) taken(opts *Options) []error {
	var errs []error
	seen := map[string]bool{}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		switch {
		case c.Name == sidecarName:
			errs = append(errs, fmt.Errorf("a container is named %s and not made by inject; rename it or take it away", sidecarName))
		case c.Name == "":
			errs = append(errs, errors.New("a container without a name; give it one"))
		case seen[c.Name]:
			errs = append(errs, fmt.Errorf("two containers are named %s; rename one", c.Name))
		}
		seen[c.Name] = true
		if hook := c.Lifecycle.PostStart; opts.Plain && hook != nil && hook.HTTP != nil {
			errs = append(errs, fmt.Errorf("postStart httpGet of container %s runs before a plain sidecar is there; leave --plain away, or use exec", c.Name))
		}
	}
	for _, v := range p.Spec.Volumes {
		for _, m := range opts.mounts() {
			if v.Name == m.name {
				errs = append(errs, fmt.Errorf("a volume is named %s and not made by inject; rename it", v.Name))
			}
		}
	}
	return errs
}
