package inject

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests/edit"
)

// object is one Kubernetes object of the text: a document, or an item of a List.
type object struct {
	root     *yaml.Node
	document int // counted from 1
	item     int // counted from 1; 0: no List
	head
}

// head is what every object has.
type head struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   meta   `yaml:"metadata"`
}

type meta struct {
	Name         string            `yaml:"name"`
	GenerateName string            `yaml:"generateName"`
	Namespace    string            `yaml:"namespace"`
	Labels       map[string]string `yaml:"labels"`
	Annotations  map[string]string `yaml:"annotations"`
}

// templates are the kinds that make pods and where each has the pod's template.
var templates = map[string][]string{
	"apps/v1 Deployment":  {"spec", "template"},
	"apps/v1 StatefulSet": {"spec", "template"},
	"apps/v1 DaemonSet":   {"spec", "template"},
	"batch/v1 Job":        {"spec", "template"},
	"batch/v1 CronJob":    {"spec", "jobTemplate", "spec", "template"},
	"v1 Pod":              {},
}

func (o *object) groupKind() string { return o.APIVersion + " " + o.Kind }

func (o *object) isWorkload() bool { return templates[o.groupKind()] != nil }

func (o *object) isService() bool { return o.groupKind() == "v1 Service" }

// template is the path of the pod's template.
func (o *object) template() path { return path(templates[o.groupKind()]) }

// status is the path of the status annotation.
func (o *object) status() path { return o.template().to("metadata", "annotations", StatusAnnotation) }

// String names the object as errors do.
func (o *object) String() string {
	name := o.Metadata.Name
	if name == "" {
		name = o.Metadata.GenerateName
	}
	where := fmt.Sprintf("document %d", o.document)
	if o.item > 0 {
		where += fmt.Sprintf(", item %d", o.item)
	}
	return fmt.Sprintf("%s/%s (%s)", o.Kind, name, where)
}

// problem is an error of one object.
type problem struct {
	file string
	object
	err error
}

func (p problem) Error() string {
	return fmt.Sprintf("%s:%d: %s: %v", p.file, p.root.Line, &p.object, p.err)
}

func (p problem) Unwrap() error { return p.err }

// objects finds the workloads and Services of the text; other documents are
// none of ours.
func objects(file string, f *edit.File) ([]*object, error) {
	var all []*object
	var errs []error
	add := func(o *object) {
		found, err := o.read()
		if err != nil {
			errs = append(errs, problem{file, *o, err})
		} else if found {
			all = append(all, o)
		}
	}
	for i, doc := range f.Docs {
		items, isList := listItems(doc)
		if !isList {
			add(&object{root: doc, document: i + 1})
		}
		for j, item := range items {
			add(&object{root: item, document: i + 1, item: j + 1})
		}
	}
	return all, errors.Join(errs...)
}

// listItems returns the items of a List: of kind List, or of DeploymentList
// and its like.
func listItems(doc *yaml.Node) ([]*yaml.Node, bool) {
	kind, ok := edit.Entry(doc, "kind")
	if !ok || !strings.HasSuffix(kind.Value().Value, "List") {
		return nil, false
	}
	items, ok := edit.Entry(doc, "items")
	if !ok || items.Value().Kind != yaml.SequenceNode {
		return nil, false
	}
	return items.Value().Content, true
}

// read fills the head and reports whether the object is one of ours.
func (o *object) read() (bool, error) {
	kind, _ := edit.Entry(o.root, "kind")
	version, _ := edit.Entry(o.root, "apiVersion")
	if kind.Parent == nil || version.Parent == nil {
		return false, nil
	}
	o.Kind, o.APIVersion = kind.Value().Value, version.Value().Value
	if !o.isWorkload() && !o.isService() {
		return false, nil
	}
	if err := plainYAML(o.root, nil); err != nil {
		return false, err
	}
	return true, o.root.Decode(&o.head)
}

// plainYAML refuses what editing can't do well.
func plainYAML(n *yaml.Node, seen []string) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("line %d: an anchor or alias; write out what it stands for", n.Line)
	case n.Kind != yaml.ScalarNode && n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: the tag %s; leave it away", n.Line, n.Tag)
	case n.Kind == yaml.MappingNode && len(seen) == 0 && edit.Flow(n):
		return fmt.Errorf("line %d: an object in flow style or JSON; write it as YAML in block style", n.Line)
	}
	var keys []string
	for _, at := range edit.Children(n) {
		if n.Kind == yaml.MappingNode {
			if slices.Contains(keys, at.Key()) {
				return fmt.Errorf("line %d: %s is there twice; leave one away", at.Value().Line, at.Key())
			}
			keys = append(keys, at.Key())
		}
		if err := plainYAML(at.Value(), append(seen, at.Key())); err != nil {
			return err
		}
	}
	return nil
}

// pod is what a pod's template says, as far as it matters here.
type pod struct {
	Metadata meta    `yaml:"metadata"`
	Spec     podSpec `yaml:"spec"`
}

type podSpec struct {
	HostNetwork        bool  `yaml:"hostNetwork"`
	EnableServiceLinks *bool `yaml:"enableServiceLinks"`
	Grace              *int  `yaml:"terminationGracePeriodSeconds"`
	OS                 struct {
		Name string `yaml:"name"`
	} `yaml:"os"`
	Security struct {
		RunAsUser *int64 `yaml:"runAsUser"`
		Sysctls   []struct {
			Name string `yaml:"name"`
		} `yaml:"sysctls"`
	} `yaml:"securityContext"`
	InitContainers []container `yaml:"initContainers"`
	Containers     []container `yaml:"containers"`
	Volumes        []struct {
		Name string `yaml:"name"`
	} `yaml:"volumes"`
}

// grace is how long the pod has to end, in seconds.
func (s *podSpec) grace() int {
	if s.Grace == nil {
		return 30
	}
	return *s.Grace
}

type container struct {
	Name          string `yaml:"name"`
	RestartPolicy string `yaml:"restartPolicy"`
	Ports         []struct {
		Name     string `yaml:"name"`
		Port     int    `yaml:"containerPort"`
		HostPort int    `yaml:"hostPort"`
		Protocol string `yaml:"protocol"`
	} `yaml:"ports"`
	Startup   *probe `yaml:"startupProbe"`
	Liveness  *probe `yaml:"livenessProbe"`
	Readiness *probe `yaml:"readinessProbe"`
	Lifecycle struct {
		PostStart *probe `yaml:"postStart"`
		PreStop   *probe `yaml:"preStop"`
	} `yaml:"lifecycle"`
}

// probe is a probe or a lifecycle hook.
type probe struct {
	HTTP    *httpGet   `yaml:"httpGet"`
	TCP     *tcpSocket `yaml:"tcpSocket"`
	GRPC    *grpcCall  `yaml:"grpc"`
	Timeout int        `yaml:"timeoutSeconds"`
	Exec    *struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
	Sleep *struct {
		Seconds int `yaml:"seconds"`
	} `yaml:"sleep"`
}

type httpGet struct {
	Scheme  string `yaml:"scheme"`
	Host    string `yaml:"host"`
	Port    string `yaml:"port"`
	Path    string `yaml:"path"`
	Headers []struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	} `yaml:"httpHeaders"`
}

type tcpSocket struct {
	Host string `yaml:"host"`
	Port string `yaml:"port"`
}

type grpcCall struct {
	Port    int    `yaml:"port"`
	Service string `yaml:"service"`
}

// all are the containers that keep running, each with its place.
func (s *podSpec) all() []placed {
	var list []placed
	for _, c := range s.InitContainers {
		if c.RestartPolicy == "Always" {
			list = append(list, placed{"initContainers", c})
		}
	}
	for _, c := range s.Containers {
		list = append(list, placed{"containers", c})
	}
	return list
}

type placed struct {
	list string
	container
}

// readPod reads the pod's template.
func (o *object) readPod() (*pod, error) {
	n := o.root
	for _, key := range o.template() {
		at, ok := edit.Entry(n, key)
		if !ok {
			return nil, fmt.Errorf("no %s, which has the pod's template", strings.Join(o.template(), "."))
		}
		n = at.Value()
	}
	p := new(pod)
	if err := n.Decode(p); err != nil {
		return nil, err
	}
	if len(p.Spec.Containers) == 0 {
		return nil, errors.New("no containers")
	}
	return p, nil
}
