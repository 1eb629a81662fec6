package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests"
	"sidegate/manifests/edit"
)

const (
	sidecarName = "sidegate"
	adminPort   = 9901
	// reserve is what is left of the grace period when the drain has ended.
	reserve = 5
	// nobody is a user for pods that run as root.
	nobody = 65532
)

// sidecar is the container and its volumes.
type sidecar struct {
	container *yaml.Node
	volumes   []*yaml.Node
	environ   []string // as CheckEnv reads it
}

// mount is a Secret or ConfigMap in the sidecar.
type mount struct{ name, folder, kind, key, object string }

func (o *Options) mounts() []mount {
	all := []mount{
		{"sidegate-tls", "/etc/sidegate/tls", "secret", "secretName", o.TLSSecret},
		{"sidegate-users", "/etc/sidegate/users", "secret", "secretName", o.UsersSecret},
		{"sidegate-client-ca", clientCAFolder, "configMap", "name", o.ClientCAConfigMap},
	}
	return slices.DeleteFunc(all, func(m mount) bool { return m.object == "" })
}

const clientCAFolder = "/etc/sidegate/client-ca"

// sidecarOf makes the container for an application that listens on appPort.
func sidecarOf(o *Options, p *pod, app appPort, probes []relayed) (*sidecar, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(manifests.Sidecar, &doc); err != nil {
		return nil, err
	}
	s := &sidecar{container: doc.Content[0]}
	s.container.HeadComment, s.container.Content[0].HeadComment = "", ""
	set(s.container, "image", o.Image)
	if o.Plain {
		drop(s.container, "restartPolicy")
	}
	if port := o.gatePort(app); !p.declares(port) {
		ports, _ := edit.Entry(s.container, "ports")
		ports.Value().Content = append([]*yaml.Node{edit.Map("name", sidecarName, "containerPort", port)}, ports.Value().Content...)
	}
	if user := p.Spec.Security.RunAsUser; user != nil && *user == 0 {
		context, _ := edit.Entry(s.container, "securityContext")
		set(context.Value(), "runAsUser", nobody)
	}
	s.env(o.variables(p, app, probes))
	for _, m := range o.mounts() {
		s.mount(m)
	}
	return s, nil
}

// gatePort is where the gate listens.
func (o *Options) gatePort(app appPort) int {
	if o.Port != 0 {
		return o.Port
	}
	return app.number
}

// variables are the sidecar's, in the order in which they are written.
func (o *Options) variables(p *pod, app appPort, probes []relayed) [][2]string {
	listen := ":" + strconv.Itoa(o.Port)
	if o.Port == 0 {
		// In brackets both kinds of address are right.
		listen = "[$(POD_IP)]:" + strconv.Itoa(app.number)
	}
	delay := o.DrainDelay
	timeout := time.Duration(p.Spec.grace()-reserve)*time.Second - delay
	all := [][2]string{
		{"SIDEGATE_INGRESS", listen + "=http://" + loopback(app.number)},
		{"SIDEGATE_DRAIN_DELAY", delay.String()},
		{"SIDEGATE_DRAIN_TIMEOUT", timeout.String()},
	}
	if o.ClientCAConfigMap != "" {
		all = append(all, [2]string{"SIDEGATE_CLIENT_CA", clientCAFolder})
	}
	for _, name := range slices.Sorted(maps.Keys(o.Env)) {
		all = append(all, [2]string{name, o.Env[name]})
	}
	for _, r := range probes {
		all = append(all, [2]string{r.variable, strings.ReplaceAll(r.target, "$", "$$")}) // $(X) is expanded in variables, and not in probes
	}
	return all
}

func (s *sidecar) env(variables [][2]string) {
	env, _ := edit.Entry(s.container, "env")
	for _, v := range variables {
		env.Value().Content = append(env.Value().Content, edit.Map("name", v[0], "value", v[1]))
		s.environ = append(s.environ, v[0]+"="+strings.ReplaceAll(strings.ReplaceAll(v[1], "$(POD_IP)", "192.0.2.1"), "$$", "$"))
	}
}

func (s *sidecar) mount(m mount) {
	s.volumes = append(s.volumes, edit.Map("name", m.name, m.kind, edit.Map(m.key, m.object)))
	mounts, ok := edit.Entry(s.container, "volumeMounts")
	if !ok {
		s.container.Content = append(s.container.Content, edit.Value("volumeMounts"), edit.List())
		mounts, _ = edit.Entry(s.container, "volumeMounts")
	}
	n := mounts.Value()
	n.Content = append(n.Content, edit.Map("name", m.name, "mountPath", m.folder, "readOnly", true))
}

// hash is over all that the options made.
func (s *sidecar) hash() (string, error) {
	text, err := edit.Render(edit.List(s.container, &yaml.Node{Kind: yaml.SequenceNode, Content: s.volumes}), false)
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("sha256:%s", hex.EncodeToString(sum[:8])), err
}

// set writes a value in a mapping of our template.
func set(n *yaml.Node, key string, value any) {
	if at, ok := edit.Entry(n, key); ok {
		*at.Value() = *edit.Value(value)
		return
	}
	n.Content = append(n.Content, edit.Value(key), edit.Value(value))
}

func drop(n *yaml.Node, key string) {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content = slices.Delete(n.Content, i, i+2)
			return
		}
	}
}
