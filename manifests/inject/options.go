package inject

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Prefix is what every annotation and label of ours begins with.
const Prefix = "sidegate/"

// SwitchLabel on a workload or its pod template, "false", keeps the sidecar out.
const SwitchLabel = Prefix + "inject"

// StatusAnnotation says what was injected, by which version, and how to undo it.
const StatusAnnotation = Prefix + "status"

// Options say what is added. Image and TLSSecret are needed.
type Options struct {
	// Version of sidegate, for the status annotation.
	Version string
	// Image of the sidecar.
	Image string
	// Plain adds an ordinary container instead of a native sidecar.
	Plain bool
	// Port is where the gate listens; 0: at the application's port, on the
	// pod's address, and no Service changes.
	Port int
	// AppPort is the number or name of the port to protect; "": the only one.
	AppPort string
	// Secrets and the ConfigMap to mount; "": none.
	TLSSecret, UsersSecret, ClientCAConfigMap string
	// DrainDelay is how long the gate stays open when the pod ends, in whole
	// seconds.
	DrainDelay time.Duration
	// Env are further SIDEGATE_ variables.
	Env map[string]string
	// CheckEnv says what is wrong with the sidecar's environ, in which $(POD_IP)
	// is an address; nil: nothing is checked.
	CheckEnv func(environ []string) error
}

// Setting is one option as flags and annotations give it.
type Setting struct {
	Name  string // --NAME, and the annotation Prefix + NAME
	Value string // what stands for the value in help; "" for a switch
	Help  string
	set   func(*Options, string) error
}

// Settings are all options that are flags and annotations.
func Settings() []Setting {
	return []Setting{
		{"image", "IMAGE", "image of the sidecar", func(o *Options, v string) error { return setText(&o.Image, v) }},
		{"plain", "", "an ordinary container, for clusters older than 1.29", func(o *Options, v string) (err error) {
			o.Plain, err = strconv.ParseBool(v)
			return err
		}},
		{"port", "N", "listen on port N and point the Services there", (*Options).setPort},
		{"app-port", "N|NAME", "the application's port, where it has several", func(o *Options, v string) error { return setText(&o.AppPort, v) }},
		{"tls-secret", "NAME", "Secret of type kubernetes.io/tls", func(o *Options, v string) error { return setName(&o.TLSSecret, v) }},
		{"users-secret", "NAME", "Secret with htpasswd, or of type kubernetes.io/basic-auth", func(o *Options, v string) error { return setName(&o.UsersSecret, v) }},
		{"client-ca-configmap", "NAME", "ConfigMap with the ca.crt of client certificates", func(o *Options, v string) error { return setName(&o.ClientCAConfigMap, v) }},
		{"drain-delay", "5s", "how long the gate stays open when the pod ends", (*Options).setDelay},
		{"env", "NAME=VALUE", "a variable of sidegate, repeatable", (*Options).addEnv},
	}
}

// Set sets the option from the text of a flag or annotation.
func (o *Options) Set(name, value string) error {
	for _, s := range Settings() {
		if s.Name == name {
			return s.set(o, value)
		}
	}
	var names []string
	for _, s := range Settings() {
		names = append(names, s.Name)
	}
	return fmt.Errorf("unknown option; there are %s", strings.Join(names, ", "))
}

func setText(to *string, v string) error {
	if v == "" || strings.TrimSpace(v) != v {
		return fmt.Errorf("%q is empty or has spaces around it", v)
	}
	*to = v
	return nil
}

var objectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func setName(to *string, v string) error {
	if !objectName.MatchString(v) {
		return fmt.Errorf("%q is not the name of an object", v)
	}
	*to = v
	return nil
}

func (o *Options) setPort(v string) error {
	n, ok := portNumber(v)
	if !ok {
		return fmt.Errorf("%q is not a port", v)
	}
	o.Port = n
	return nil
}

func portNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0
}

func (o *Options) setDelay(v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < time.Second || d%time.Second != 0 {
		return fmt.Errorf("%q is not a number of whole seconds such as 5s", v)
	}
	o.DrainDelay = d
	return nil
}

// written are the variables that inject writes itself, and what sets them.
var written = map[string]string{
	"SIDEGATE_INGRESS":       "--port and --app-port",
	"SIDEGATE_ADMIN":         "nothing: probes go there",
	"SIDEGATE_TLS":           "--tls-secret",
	"SIDEGATE_USERS":         "--users-secret",
	"SIDEGATE_CLIENT_CA":     "--client-ca-configmap",
	"SIDEGATE_DRAIN_DELAY":   "--drain-delay",
	"SIDEGATE_DRAIN_TIMEOUT": "terminationGracePeriodSeconds",
	"SIDEGATE_POD":           "the downward API",
	"SIDEGATE_CONTAINER":     "inject itself",
}

// addEnv reads NAME=VALUE, one a line.
func (o *Options) addEnv(v string) error {
	env := maps.Clone(o.Env)
	if env == nil {
		env = map[string]string{}
	}
	for line := range strings.Lines(v) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		switch {
		case !ok || !strings.HasPrefix(name, "SIDEGATE_"):
			return errors.New("a line is not SIDEGATE_NAME=VALUE") // it may be another variable, and that a secret
		case written[name] != "":
			return fmt.Errorf("%s is set by %s", name, written[name])
		case strings.HasPrefix(name, "SIDEGATE_PROBE_"):
			return fmt.Errorf("%s is set by the application's probes", name)
		}
		env[name] = value
	}
	o.Env = env
	return nil
}

// with returns the options as the annotations of a pod template change them.
func (o Options) with(annotations map[string]string) (Options, error) {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ours := strings.CutPrefix(key, Prefix)
		if !ours {
			continue
		}
		if err := o.Set(name, annotations[key]); err != nil {
			errs = append(errs, fmt.Errorf("annotation %s: %w", key, err))
		}
	}
	return o, errors.Join(errs...)
}

// check returns what the options lack.
func (o *Options) check() []error {
	var errs []error
	if o.Image == "" {
		errs = append(errs, errors.New("no image: add --image"))
	}
	if o.TLSSecret == "" {
		errs = append(errs, errors.New("no certificate: add --tls-secret with the name of a Secret of type kubernetes.io/tls"))
	}
	asked := o.Env["SIDEGATE_CLIENT_CERT"] != "" && o.Env["SIDEGATE_CLIENT_CERT"] != "none"
	if o.ClientCAConfigMap != "" && !asked {
		errs = append(errs, errors.New("a client CA and no client certificates: add --env SIDEGATE_CLIENT_CERT=require, or optional"))
	}
	if o.UsersSecret == "" && o.Env["SIDEGATE_ALLOW"] == "" {
		errs = append(errs, errors.New("nobody is said who may pass: add --users-secret, or --env SIDEGATE_ALLOW=..., which is anyone for TLS alone"))
	}
	return errs
}
