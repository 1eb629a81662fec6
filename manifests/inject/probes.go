package inject

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"sidegate/manifests/edit"
)

// relayed is one probe or hook that goes through the sidecar: the kubelet asks
// the admin port, and sidegate asks the application on loopback.
type relayed struct {
	in       path   // of the probe or hook
	old      string // its handler
	variable string // SIDEGATE_PROBE_<NAME>
	target   string
}

func (r *relayed) value() any {
	name := strings.ToLower(strings.TrimPrefix(r.variable, probePrefix))
	return edit.Map("path", "/probe/"+name, "port", adminPort)
}

const probePrefix = "SIDEGATE_PROBE_"

// relays finds every probe and hook of the application that the kubelet would
// send over the pod's network.
func relays(o *object, s *podSpec) ([]relayed, []error) {
	var all []relayed
	var errs []error
	for _, c := range s.all() {
		in := o.template().to("spec", c.list, c.Name)
		for _, h := range c.handlers(s.grace()) {
			old, target, err := c.target(h)
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("%s of container %s: %w", strings.Join(h.at, "."), c.Name, err))
			case target != "":
				name := strings.ToUpper(strings.ReplaceAll(c.Name, "-", "_")) + "_" + h.name
				all = append(all, relayed{in.to(h.at...), old, probePrefix + name, target})
			}
		}
	}
	return all, errs
}

// handler is a probe or hook with the name that it gets.
type handler struct {
	at   []string
	name string
	*probe
}

// handlers are the probes and hooks of a container. Hooks have no timeout;
// grace bounds the one before the end and does for both.
func (c *container) handlers(grace int) []handler {
	var all []handler
	add := func(p *probe, timeout int, name string, at ...string) {
		if p != nil {
			p.Timeout = max(p.Timeout, timeout)
			all = append(all, handler{at, name, p})
		}
	}
	add(c.Startup, 1, "STARTUP", "startupProbe")
	add(c.Liveness, 1, "LIVENESS", "livenessProbe")
	add(c.Readiness, 1, "READINESS", "readinessProbe")
	add(c.Lifecycle.PostStart, grace, "POSTSTART", "lifecycle", "postStart")
	add(c.Lifecycle.PreStop, grace, "PRESTOP", "lifecycle", "preStop")
	return all
}

// target is what to ask of the application on loopback; "" leaves the handler
// as it is: it runs a command, or names a host that is not the pod.
func (c *container) target(h handler) (old, target string, err error) {
	options := "timeout=" + strconv.Itoa(h.Timeout) + "s"
	switch {
	case h.HTTP != nil && h.HTTP.Host == "":
		target, err = c.httpTarget(h.HTTP)
		for _, f := range h.HTTP.Headers {
			options += "&header=" + url.QueryEscape(f.Name+":"+f.Value)
		}
		return "httpGet", target + "#" + options, err
	case h.TCP != nil && h.TCP.Host == "":
		port, err := c.port(h.TCP.Port)
		return "tcpSocket", "tcp://" + loopback(port) + "#" + options, err
	case h.GRPC != nil:
		return "grpc", "grpc://" + loopback(h.GRPC.Port) + "/" + url.PathEscape(h.GRPC.Service) + "#" + options, nil
	}
	return "", "", nil
}

// httpTarget puts the parts together as the kubelet does.
func (c *container) httpTarget(h *httpGet) (string, error) {
	port, err := c.port(h.Port)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	scheme := "http"
	if strings.EqualFold(h.Scheme, "https") {
		scheme = "https"
	}
	to := url.URL{Scheme: scheme, Host: loopback(port), Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	if !strings.HasPrefix(to.Path, "/") {
		to.Path, to.RawPath = "/"+to.Path, ""
	}
	return to.String(), nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// port finds the number of a port that may be given by name.
func (c *container) port(s string) (int, error) {
	for _, p := range c.Ports {
		if p.Name == s && s != "" {
			return p.Port, nil
		}
	}
	if n, ok := portNumber(s); ok {
		return n, nil
	}
	return 0, fmt.Errorf("the container has no port %q; give its number", s)
}
