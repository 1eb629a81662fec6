package inject

import (
	"errors"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests/edit"
)

// planWorkload plans what one workload gets; no plan if it is to get nothing.
func planWorkload(x *object, flags Options) (*plan, *backend, error) {
	p, err := x.readPod()
	if err != nil {
		return nil, nil, err
	}
	o, err := flags.with(p.Metadata.Annotations)
	if err != nil {
		return nil, nil, err
	}
	wanted, err := x.wanted(p)
	if err != nil {
		return nil, nil, err
	}
	app, err := p.appPort(&o)
	b := &backend{object: x, labels: p.Metadata.Labels, app: app, port: o.Port, open: words(p.Spec.others(app))}
	if !wanted {
		b.port = 0
		return nil, b, nil
	}
	probes, probeErrs := relays(x, &p.Spec)
	errs := slices.Concat([]error{err}, o.check(), refuse(x, p, &o, app), probeErrs)
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	s, err := sidecarOf(&o, p, app, probes)
	if err != nil {
		return nil, nil, err
	}
	if o.CheckEnv != nil {
		if err := o.CheckEnv(s.environ); err != nil {
			return nil, nil, err
		}
	}
	b.early, b.stay = p.Spec.early(&o), o.stay()
	result := &plan{object: x, record: newRecord()}
	result.record.Version = o.Version
	result.record.Config, err = s.hash()
	result.workload(&o, p, b, s, probes)
	return result, b, err
}

// wanted reads the label that keeps the sidecar out.
func (o *object) wanted(p *pod) (bool, error) {
	for _, labels := range []map[string]string{p.Metadata.Labels, o.Metadata.Labels} {
		switch v := labels[SwitchLabel]; v {
		case "", "true":
		case "false":
			return false, nil
		default:
			return false, fmt.Errorf("label %s: %q is neither true nor false", SwitchLabel, v)
		}
	}
	return true, nil
}

// workload plans all that the pod's template gets.
func (p *plan) workload(o *Options, pod *pod, b *backend, s *sidecar, probes []relayed) {
	spec := p.object.template().to("spec")
	if pod.Spec.EnableServiceLinks == nil {
		p.put(spec, "enableServiceLinks", false)
	}
	if o.gatePort(b.app) < 1024 && !pod.Spec.setsSysctl(lowPorts) {
		p.tasks = append(p.tasks, task{in: spec.to("securityContext", "sysctls"), items: []*yaml.Node{edit.Map("name", lowPorts, "value", "0")}})
	}
	list := task{in: spec.to("initContainers"), items: []*yaml.Node{s.container}, first: true}
	if o.Plain {
		list.in, list.first = spec.to("containers"), false
	}
	p.tasks = append(p.tasks, list, task{in: spec.to("volumes"), items: s.volumes})
	for _, r := range probes {
		p.swap(r.in, r.old, "httpGet", r.value())
	}
	p.outlive(o, pod)
}

// lowPorts lets a user who is not root listen below it. Runtimes differ in
// their default; Kubernetes counts the sysctl as safe.
const lowPorts = "net.ipv4.ip_unprivileged_port_start"

func (s *podSpec) setsSysctl(name string) bool {
	for _, c := range s.Security.Sysctls {
		if c.Name == name {
			return true
		}
	}
	return false
}
