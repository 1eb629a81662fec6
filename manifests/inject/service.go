package inject

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// backend is a workload as Services see it.
type backend struct {
	object *object
	labels map[string]string
	app    appPort
	port   int      // where its Services are to point; 0: where they do
	open   []string // ports that are not behind the gate
	early  []string // containers that end before the gate is closed
	stay   int      // for how many seconds they should stay
}

// note is something to know about an object that does not stop the injection.
func note(file string, o *object, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: %s: %s", file, o.root.Line, o, fmt.Sprintf(format, args...))
}

// notes say what the sidecar does not protect, and who leaves before it.
func (b *backend) notes(file string) []string {
	var notes []string
	if len(b.open) > 0 {
		notes = append(notes, note(file, b.object, "not behind the gate, and open to whoever reaches the pod: %s", strings.Join(b.open, ", ")))
	}
	if len(b.early) > 0 {
		notes = append(notes, note(file, b.object, "the preStop hook is too short, and requests that come while the pod ends may get 502: %s; make it %d s", strings.Join(b.early, ", "), b.stay))
	}
	return notes
}

type service struct {
	Spec struct {
		Selector  map[string]string `yaml:"selector"`
		Ports     []servicePort     `yaml:"ports"`
		ClusterIP string            `yaml:"clusterIP"`
	} `yaml:"spec"`
}

type servicePort struct {
	Port   int    `yaml:"port"`
	Target string `yaml:"targetPort"`
}

// selects reports whether the Service sends to the backend.
func (s *service) selects(o *object, b *backend) bool {
	for key, value := range s.Spec.Selector {
		if b.labels[key] != value {
			return false
		}
	}
	return len(s.Spec.Selector) > 0 && o.Metadata.Namespace == b.object.Metadata.Namespace
}

// reaches reports whether a port of a Service leads to the application's.
func (p *servicePort) reaches(app appPort) bool {
	if p.Target == "" {
		return p.Port == app.number
	}
	return p.Target == strconv.Itoa(app.number) || p.Target == app.name
}

// planService points the Service's ports at the gates of the workloads that it
// selects, and marks those as served.
func planService(file string, o *object, backends []*backend, served map[*backend]bool) (*plan, []string, error) {
	var s service
	if err := o.root.Decode(&s); err != nil {
		return nil, nil, err
	}
	p := &plan{object: o, record: newRecord()}
	var notes []string
	var errs []error
	for i := range s.Spec.Ports {
		port, err := s.target(o, &s.Spec.Ports[i], backends, served)
		errs = append(errs, err)
		if port == 0 {
			continue
		}
		p.put(path{"spec", "ports", strconv.Itoa(i)}, "targetPort", port)
		if s.Spec.ClusterIP == "None" { // then nothing translates ports, and only SRV records tell the target
			notes = append(notes, note(file, o, "headless, so its clients dial the pods themselves: they must go to %d, past the gate is port %d", port, s.Spec.Ports[i].Port))
		}
	}
	return p, notes, errors.Join(errs...)
}

// target is where a port of the Service must point, 0 for where it does.
func (s *service) target(o *object, p *servicePort, backends []*backend, served map[*backend]bool) (int, error) {
	target, found := 0, false
	for _, b := range backends {
		if !s.selects(o, b) || !p.reaches(b.app) {
			continue
		}
		if found && b.port != target {
			return 0, fmt.Errorf("port %d leads to workloads whose gates have different ports; give them the same --port", p.Port)
		}
		target, found = b.port, true
		served[b] = true
	}
	return target, nil
}
