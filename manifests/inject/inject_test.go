package inject

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"go.yaml.in/yaml/v3"

	"sidegate/manifests/edit"
	"sidegate/manifests/manifeststest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// options are those that most tests take, and then settings as NAME=VALUE.
func options(t testing.TB, settings ...string) Options {
	t.Helper()
	o := Options{Version: "v1.0.0", Image: "localhost/sidegate:v1.0.0", TLSSecret: "web-tls", UsersSecret: "web-users"}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		if err := o.Set(name, value); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return o
}

var golden = []struct {
	file     string
	settings []string
	notes    []string
}{
	{"deployment", nil, nil},
	{"statefulset", nil, []string{"statefulset.yaml:65: Service/db (document 2): headless, so its clients dial the pods themselves: they must go to 5433, past the gate is port 5432"}},
	{"daemonset", []string{"app-port=9100", "drain-delay=10s"}, nil},
	{"cronjob", nil, nil},
	{"pod", []string{"app-port=grpc"}, []string{"pod.yaml:1: Pod/grpc (document 1): not behind the gate, and open to whoever reaches the pod: 9090 (metrics, api-v1)"}},
	{"plain", []string{"plain=true", "port=8443"}, nil},
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	for _, c := range golden {
		t.Run(c.file, func(t *testing.T) {
			result, err := Inject(c.file+".yaml", read(t, c.file+".yaml"), options(t, c.settings...))
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(filepath.Join("testdata", c.file+".golden"), result.Text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, c.file+".golden"); !bytes.Equal(result.Text, want) {
				t.Errorf("got\n%s\nwant\n%s", result.Text, want)
			}
			if got, want := strings.Join(result.Notes, "\n"), strings.Join(c.notes, "\n"); got != want {
				t.Errorf("got notes %q, want %q", got, want)
			}
		})
	}
}

// variants are ways to write the same text.
func variants(text []byte) map[string][]byte {
	return map[string][]byte{
		"as it is":           text,
		"no last line end":   bytes.TrimRight(text, "\n"),
		"Windows line ends":  bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")),
		"behind a separator": append([]byte("# head\n---\n"), text...),
		"before another":     append(bytes.Clone(text), "---\n# nothing\n"...),
	}
}

func TestTwiceIsOnceAndRemoveIsTheInverse(t *testing.T) {
	for _, c := range golden {
		for name, text := range variants(read(t, c.file+".yaml")) {
			t.Run(c.file+"/"+name, func(t *testing.T) {
				o := options(t, c.settings...)
				once, err := Inject("x", text, o)
				if err != nil {
					t.Fatal(err)
				}
				twice, err := Inject("x", once.Text, o)
				if err != nil || !bytes.Equal(once.Text, twice.Text) {
					t.Errorf("the second time: %v\n%s", err, twice.Text)
				}
				back, err := Remove("x", once.Text)
				if err != nil || !bytes.Equal(back, text) {
					t.Errorf("got back %v\n%s\nwant\n%s", err, back, text)
				}
				same, err := Remove("x", back)
				if err != nil || !bytes.Equal(same, text) {
					t.Errorf("removing nothing: %v\n%s", err, same)
				}
			})
		}
	}
}

// What a cluster gives back has other formatting, order and defaults.
func TestRemoveFromReformatted(t *testing.T) {
	for _, c := range golden {
		text := read(t, c.file+".yaml")
		once, err := Inject("x", text, options(t, c.settings...))
		if err != nil {
			t.Fatal(err)
		}
		f, err := edit.Parse(once.Text)
		if err != nil {
			t.Fatal(err)
		}
		var printed []string
		for _, doc := range f.Docs {
			var v any
			if err := doc.Decode(&v); err != nil {
				t.Fatal(err)
			}
			out, err := yaml.Marshal(v) // sorts keys, indents by 4
			if err != nil {
				t.Fatal(err)
			}
			printed = append(printed, string(out))
		}
		reformatted := strings.Join(printed, "---\n")
		back, err := Remove("x", []byte(reformatted))
		if err != nil {
			t.Fatal(err)
		}
		sameObjects(t, c.file, back, text)
	}
}

func sameObjects(t *testing.T, name string, got, want []byte) {
	t.Helper()
	a, err := edit.Parse(got)
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, got)
	}
	b, err := edit.Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.Docs {
		if !sameValue(a.Docs[i], b.Docs[i]) {
			t.Errorf("%s, document %d: got\n%s\nwant\n%s", name, i+1, got, want)
		}
	}
}

// Edits made since the injection stay.
func TestRemoveKeepsWhatOthersChanged(t *testing.T) {
	text := read(t, "deployment.yaml")
	once, err := Inject("x", text, options(t))
	if err != nil {
		t.Fatal(err)
	}
	changes := strings.NewReplacer(
		"web:1.2", "web:1.3",
		"path: /probe/app_startup\n", "path: /probe/app_startup\n            scheme: HTTP\n", // a default of the API
		"path: /probe/app_liveness\n            port: 9901", "path: /alive\n            port: 8080",
		"      initContainers:\n", "      initContainers:\n      - {name: migrate, image: m}\n",
	)
	back, err := Remove("x", []byte(changes.Replace(string(once.Text))))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"web:1.3", "path: healthz # no slash", "path: /alive\n            port: 8080", "      initContainers:\n      - {name: migrate, image: m}\n", "readinessProbe: {httpGet: {path: /ready"} {
		if !strings.Contains(string(back), want) {
			t.Errorf("lacks %q:\n%s", want, back)
		}
	}
	for _, ours := range []string{"sidegate", "9901", "enableServiceLinks", "sleep"} {
		if strings.Contains(string(back), ours) {
			t.Errorf("still has %q:\n%s", ours, back)
		}
	}
}

// Flow style comes back only where it says what the block says.
func TestRemoveKeepsChangesOfWhatWasInFlowStyle(t *testing.T) {
	once := read(t, "daemonset.golden")
	back, err := Remove("x", bytes.Replace(once, []byte("agent:1\"\n"), []byte("agent:2\"\n"), 1))
	if err != nil || !strings.Contains(string(back), "agent:2") || strings.Contains(string(back), "sidegate") {
		t.Errorf("got %v\n%s", err, back)
	}
}

func TestInverse(t *testing.T) {
	before := []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")
	if err := checkInverse("x", before, []byte("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n")); err != nil {
		t.Errorf("other formatting: %v", err)
	}
	if err := checkInverse("x", before, bytes.Replace(before, []byte("name: a"), []byte("name: b"), 1)); err == nil {
		t.Error("another name passes")
	}
}

func TestLineEndsStay(t *testing.T) {
	text := bytes.ReplaceAll(read(t, "plain.yaml"), []byte("\n"), []byte("\r\n"))
	r, err := Inject("x", text, options(t))
	if err != nil || bytes.Count(r.Text, []byte("\n")) != bytes.Count(r.Text, []byte("\r\n")) {
		t.Errorf("%v: lines end in different ways", err)
	}
}

// What has no business with the sidecar stays as it is.
func TestAccepted(t *testing.T) {
	cases := []struct {
		name, text string
		settings   []string
		unwanted   string // in the result
	}{
		{"host port of another port", bare("", port8080+"        - {containerPort: 9000, hostPort: 9000}\n"), []string{"app-port=8080"}, ""},
		{"ports and probes of what ends", bare("      initContainers:\n      - name: i\n        ports: [{containerPort: 7000}]\n        livenessProbe: {tcpSocket: {port: 7000}}\n", port8080), nil, "PROBE_I"},
		{"sysctl that is set", bare("      securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '80'}]}\n", "        ports:\n        - containerPort: 80\n"), nil, `value: "0"`},
		{"plain, and nothing below the containers", bare("", port8080), []string{"plain=true"}, "restartPolicy"},
		{"label of the template", strings.Replace(bare("", port8080), "    spec:\n", "    metadata: {labels: {sidegate/inject: 'false'}}\n    spec:\n", 1), nil, "initContainers"},
		{"label that says yes", strings.Replace(bare("", port8080), "    spec:\n", "    metadata: {labels: {sidegate/inject: 'true'}}\n    spec:\n", 1), nil, "no such thing"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r, err := Inject("x", []byte(c.text), options(t, c.settings...))
			if err != nil || c.unwanted != "" && strings.Contains(string(r.Text), c.unwanted) {
				t.Errorf("got %v\n%v", err, r)
			}
		})
	}
}

func TestServices(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, labels: {app: a, tier: b}}\nspec:\n  containers:\n  - name: a\n    ports: [{containerPort: 8080, name: http}]\n---\napiVersion: v1\nkind: Service\n"
	for service, want := range map[string]bool{
		"metadata: {name: s, namespace: shop}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: http}]}\n":          true,
		"metadata: {name: s, namespace: shop}\nspec: {selector: {app: a, tier: b}, ports: [{port: 8080}]}\n":                 true,
		"metadata: {name: s, namespace: shop}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}\n":          true,
		"metadata: {name: s}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: http}]}\n":                           false,
		"metadata: {name: s, namespace: shop}\nspec: {selector: {app: a, tier: c}, ports: [{port: 80, targetPort: http}]}\n": false,
		"metadata: {name: s, namespace: shop}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n":                            false,
		"metadata: {name: s, namespace: shop}\nspec: {selector: {app: a}, ports: [{port: 80, targetPort: https}]}\n":         false,
		"metadata: {name: s, namespace: shop}\nspec: {ports: [{port: 80, targetPort: http}]}\n":                              false,
		"metadata: {name: s, namespace: shop}\nspec: {externalName: x.example, type: ExternalName, ports: [{port: 8080}]}\n": false,
	} {
		r, err := Inject("x", []byte(pod+service), options(t, "port=8443"))
		if err != nil {
			t.Errorf("%s: %v", service, err)
			continue
		}
		_, after, _ := strings.Cut(string(r.Text), "kind: Service\n")
		if got := strings.Contains(after, "targetPort: 8443"); got != want || (len(r.Notes) == 0) != want {
			t.Errorf("%s: got %v and %q, want %v", service, got, r.Notes, want)
		}
	}
}

func TestAnnotationsAreOfOneWorkload(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p%s}\nspec:\n  containers:\n  - name: a\n    ports: [{containerPort: 8080}]\n"
	text := fmt.Sprintf(pod, ", annotations: {sidegate/env: SIDEGATE_REALM=shop, sidegate/image: other}") + "---\n" + fmt.Sprintf(pod, "")
	r, err := Inject("x", []byte(text), options(t, "env=SIDEGATE_REALM=all"))
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(string(r.Text), "\n---\n")
	if !strings.Contains(first, "value: shop") || !strings.Contains(first, "image: other") || !strings.Contains(second, "value: all") || strings.Contains(second, "image: other") {
		t.Errorf("got\n%s", r.Text)
	}
}

func TestOtherOptionsReplaceTheFormer(t *testing.T) {
	text := read(t, "plain.yaml")
	first, err := Inject("x", text, options(t, "plain=true", "port=8443"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := Inject("x", first.Text, options(t))
	if err != nil {
		t.Fatal(err)
	}
	direct, err := Inject("x", text, options(t))
	if err != nil || !bytes.Equal(second.Text, direct.Text) {
		t.Errorf("%v: got\n%s\nwant\n%s", err, second.Text, direct.Text)
	}
}

// Every golden file is what the API knows, and passes Pod Security
// "restricted" as its input does.
func TestGoldenAgainstTheAPI(t *testing.T) {
	for _, c := range golden {
		f, err := edit.Parse(read(t, c.file+".golden"))
		if err != nil {
			t.Fatal(err)
		}
		pods := 0
		for _, doc := range f.Docs {
			items, isList := listItems(doc)
			if !isList {
				items = []*yaml.Node{doc}
			}
			for _, item := range items {
				meta, spec, isPod := manifeststest.Pod(decodeStrictly(t, c.file, item))
				if !isPod || spec.HostNetwork {
					continue
				}
				pods++
				manifeststest.Restricted(t, c.file, meta, spec)
				checkSidecar(t, c.file, spec)
			}
		}
		if pods == 0 {
			t.Errorf("%s has no pod", c.file)
		}
	}
}

// Whatever the options, what is injected can be taken away again.
func TestEveryOption(t *testing.T) {
	for _, c := range golden {
		for _, settings := range [][]string{nil, {"plain=true"}, {"port=8443"}, {"plain=true", "port=8443"}, {"drain-delay=1s"}} {
			was := read(t, c.file+".yaml")
			settings = append(slices.Clone(c.settings), settings...)
			r, err := Inject("x", was, options(t, settings...))
			if err != nil && strings.Contains(err.Error(), "leave --plain away") { // what a plain one can't do
				continue
			}
			if err != nil {
				t.Errorf("%s %q: %v", c.file, settings, err)
				continue
			}
			if again, err := Remove("x", r.Text); err != nil || !bytes.Equal(again, was) {
				t.Errorf("%s %q: removed: %v\n%s", c.file, settings, err, again)
			}
		}
	}
}

func decodeStrictly(t *testing.T, name string, n *yaml.Node) runtime.Object {
	t.Helper()
	text, err := yaml.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	return manifeststest.Decode(t, name, text)
}

// checkSidecar finds the sidecar where it belongs and every mount's volume.
func checkSidecar(t *testing.T, name string, spec *corev1.PodSpec) {
	t.Helper()
	var sidecar *corev1.Container
	if first := spec.InitContainers; len(first) > 0 && first[0].Name == sidecarName {
		sidecar = &first[0]
		if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			t.Errorf("%s: an init container that ends", name)
		}
	} else if last := spec.Containers[len(spec.Containers)-1]; last.Name == sidecarName {
		sidecar = &last
	} else {
		t.Fatalf("%s: no sidecar", name)
	}
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range sidecar.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("%s: no volume for %s", name, m.Name)
		}
	}
	for _, c := range spec.Containers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
			t.Errorf("%s: container %s has no preStop", name, c.Name)
		}
	}
	checkStay(t, name, spec, sidecar)
}

// checkStay fails the test unless the other containers stay longer than
// Sidegate takes requests, and the pod's grace period is enough for all.
func checkStay(t *testing.T, name string, spec *corev1.PodSpec, sidecar *corev1.Container) {
	t.Helper()
	grace := 30 * time.Second
	if s := spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	delay, timeout := duration(t, sidecar, "SIDEGATE_DRAIN_DELAY"), duration(t, sidecar, "SIDEGATE_DRAIN_TIMEOUT")
	if delay+timeout+reserve*time.Second > grace {
		t.Errorf("%s: a delay of %v and a timeout of %v, of %v", name, delay, timeout, grace)
	}
	for _, c := range spec.Containers {
		if c.Name == sidecarName || c.Lifecycle.PreStop.Sleep == nil {
			continue
		}
		if stay := time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second; stay < delay+time.Second || stay != delay+Outlast || stay >= grace {
			t.Errorf("%s: container %s sleeps %v; the delay is %v, the grace period %v", name, c.Name, stay, delay, grace)
		}
	}
}

func duration(t *testing.T, c *corev1.Container, variable string) time.Duration {
	t.Helper()
	for _, e := range c.Env {
		if e.Name == variable {
			d, err := time.ParseDuration(e.Value)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	t.Fatalf("no %s", variable)
	return 0
}

// bare is a workload with a hole in the pod's spec and one in the container.
func bare(spec, container string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n" + spec +
		"      containers:\n      - name: app\n" + container
}

const port8080 = "        ports:\n        - containerPort: 8080\n"

func TestRefusals(t *testing.T) {
	cases := []struct {
		name, text string
		settings   []string
		want       string
	}{
		{"host network", bare("      hostNetwork: true\n", port8080), nil, "hostNetwork: the gate"},
		{"host network of YAML 1.1", bare("      hostNetwork: yes\n", port8080), nil, "hostNetwork: the gate"},
		{"Windows", bare("      os: {name: windows}\n", port8080), nil, "os windows"},
		{"host port", bare("", port8080+"          hostPort: 80\n"), nil, "hostPort 80 of container app leads round the gate"},
		{"admin port", bare("", port8080+"        - containerPort: 9901\n"), []string{"app-port=8080"}, "listens on 9901"},
		{"app port is the admin port", bare("", ""), []string{"app-port=9901"}, "listens on 9901"},
		{"port is the admin port", bare("", port8080), []string{"port=9901"}, "--port 9901 is sidegate's admin port"},
		{"port is the application's", bare("", port8080), []string{"port=8080"}, "--port 8080 is a port of the application"},
		{"no port", bare("", "        image: x\n"), nil, "no container has a port: name it with --app-port"},
		{"two ports", bare("", port8080+"        - {containerPort: 9090, name: metrics}\n"), nil, "more than one port, 8080 (app), 9090 (metrics, app): choose with --app-port"},
		{"no such port", bare("", port8080), []string{"app-port=grpc"}, `no port is named "grpc"`},
		{"too little grace", bare("      terminationGracePeriodSeconds: 10\n", port8080), nil, "make it 11 or more"},
		{"too much delay", bare("", port8080), []string{"drain-delay=25s"}, "make it 31 or more"},
		{"plain job", strings.Replace(strings.Replace(bare("", port8080), "apps/v1", "batch/v1", 1), "Deployment", "Job", 1), []string{"plain=true"}, "never let the Job end"},
		{"plain and postStart", bare("", port8080+"        lifecycle: {postStart: {httpGet: {port: 8080}}}\n"), []string{"plain=true"}, "postStart httpGet of container app"},
		{"name taken", bare("      initContainers:\n      - name: sidegate\n", port8080), nil, "a container is named sidegate and not made by inject"},
		{"volume taken", bare("      volumes:\n      - name: sidegate-tls\n", port8080), nil, "a volume is named sidegate-tls"},
		{"no name", bare("", port8080+"      - image: x\n"), nil, "a container without a name"},
		{"name twice", bare("", port8080+"      - name: app\n"), nil, "two containers are named app"},
		{"odd YAML", bare("", port8080+"        image: \"x\n\n          # y\"\n"), nil, "can't be edited as this YAML is written"},
		{"probe of no port", bare("", port8080+"        livenessProbe: {tcpSocket: {port: web}}\n"), nil, `livenessProbe of container app: the container has no port "web"`},
		{"no containers", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n", nil, "no containers"},
		{"no template", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", nil, "no spec.template"},
		{"alias", bare("      volumes: &v []\n", port8080), nil, "line 8: an anchor or alias"},
		{"key twice", bare("      volumes: []\n      volumes: []\n", port8080), nil, "volumes is there twice"},
		{"tag", bare("      volumes: !!seq []\n", port8080), nil, "the tag !!seq"},
		{"JSON", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`, nil, "flow style or JSON"},
		{"no workload", "apiVersion: v1\nkind: ConfigMap\n", nil, "no Deployment, StatefulSet"},
		{"nothing", "", nil, "no Deployment, StatefulSet"},
		{"foreign kind", "apiVersion: serving.knative.dev/v1\nkind: Service\n", nil, "no Deployment, StatefulSet"},
		{"bad label", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {sidegate/inject: disabled}}\nspec: {containers: [{name: a}]}\n", nil, `"disabled" is neither true nor false`},
		{"unknown annotation", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {sidegate/prot: '1'}}\nspec: {containers: [{name: a}]}\n", nil, "annotation sidegate/prot: unknown option; there are image, plain, port"},
		{"bad annotation", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {sidegate/port: http}}\nspec: {containers: [{name: a}]}\n", nil, `annotation sidegate/port: "http" is not a port`},
		{"broken status", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {sidegate/status: x}}\nspec: {containers: [{name: a}]}\n", nil, "annotation sidegate/status: "},
		{"CA without certificates", bare("", port8080), []string{"client-ca-configmap=ca"}, "add --env SIDEGATE_CLIENT_CERT=require"},
		{"no YAML", "a: b: c", nil, "x.yaml: yaml: "},
		{"ports of two gates", bareService(8443, 8444), nil, "port 80 leads to workloads whose gates have different ports"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			result, err := Inject("x.yaml", []byte(c.text), options(t, c.settings...))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if result != nil {
				t.Errorf("and yet a result:\n%s", result.Text)
			}
		})
	}
}

// bareService is one Service before two Pods with gates of their own.
func bareService(a, b int) string {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: a}, annotations: {sidegate/port: '%d'}}\nspec:\n  containers:\n  - name: a\n    ports: [{containerPort: 80}]\n---\n"
	return fmt.Sprintf(pod, a) + fmt.Sprintf(pod, b) + "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: a}, ports: [{port: 80}]}\n"
}

func TestRefusalSaysWhere(t *testing.T) {
	text := "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: a\n  spec:\n    hostNetwork: true\n    containers:\n    - name: c\n"
	_, err := Inject("app.yaml", []byte(text), Options{})
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 5 { // port, image, certificate, who may pass, hostNetwork
		t.Errorf("got %d problems, want all 5:\n%v", len(lines), err)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "app.yaml:7: Pod/a (document 2, item 1): ") {
			t.Errorf("does not say where: %s", line)
		}
	}
}

func TestNoServiceIsSaid(t *testing.T) {
	r, err := Inject("x", []byte(bare("", port8080)), options(t, "port=8443"))
	if err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "no Service here leads to port 8080; point the targetPort of those elsewhere to 8443") {
		t.Errorf("got %v, %v", r, err)
	}
}

// A hook of the application's own stays, and whoever wrote it hears if it ends
// while the gate is still open.
func TestShortHookIsSaid(t *testing.T) {
	for _, c := range []struct{ hook, said string }{
		{"sleep: {seconds: 5}", "app sleeps 5 s; make it 8 s"},
		{"exec: {command: [sleep, '7']}", "app sleeps 7 s; make it 8 s"},
		{"exec: {command: [/bin/sh, -c, nginx -s quit; /bin/sleep 5s]}", "app sleeps 5 s; make it 8 s"},
		{"sleep: {seconds: 8}", ""},
		{"exec: {command: [sleep, '10']}", ""},
		{"exec: {command: [/bin/sh, -c, sleep 5 && nginx -s quit]}", ""}, // who knows how long that takes
		{"exec: {command: [/leave]}", ""},
	} {
		r, err := Inject("x", []byte(bare("", port8080+"        lifecycle: {preStop: {"+c.hook+"}}\n")), options(t))
		if err != nil {
			t.Errorf("%s: %v", c.hook, err)
			continue
		}
		if notes := strings.Join(r.Notes, "\n"); (notes != "") != (c.said != "") || !strings.HasSuffix(notes, c.said) {
			t.Errorf("%s: got note %q, want %q", c.hook, notes, c.said)
		}
		if n := strings.Count(string(r.Text), "preStop"); n != 2 {
			t.Errorf("%s: %d preStop hooks, want the sidecar's and the application's:\n%s", c.hook, n, r.Text)
		}
	}
}

// A headless Service leads nobody to another port; its clients must be told.
func TestHeadlessServiceIsSaid(t *testing.T) {
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: a}}\nspec:\n  containers:\n  - name: a\n    ports: [{containerPort: 8080}]\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None, selector: {app: a}, ports: [{port: 8080}]}\n"
	r, err := Inject("x", []byte(text), options(t, "port=8443"))
	if err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "x:9: Service/s (document 2): headless, so its clients dial the pods themselves: they must go to 8443, past the gate is port 8080") {
		t.Errorf("got %v, %v", r, err)
	}
	if r, err = Inject("x", []byte(text), options(t)); err != nil || len(r.Notes) != 0 {
		t.Errorf("got %v, %v", r, err)
	}
}

// A probe that names a host does not go to the pod.
func TestProbeOfAnotherHostStays(t *testing.T) {
	probe := "        livenessProbe: {httpGet: {host: status.example, port: 443}}\n"
	r, err := Inject("x", []byte(bare("", port8080+probe)), options(t))
	if err != nil || !strings.Contains(string(r.Text), probe) || strings.Contains(string(r.Text), "SIDEGATE_PROBE") {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestRootPodGetsAUser(t *testing.T) {
	r, err := Inject("x", []byte(bare("      securityContext: {runAsUser: 0}\n", port8080)), options(t))
	if err != nil || !strings.Contains(string(r.Text), "runAsUser: 65532") {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestCheckEnv(t *testing.T) {
	var got []string
	o := options(t, "env=SIDEGATE_REALM=a", "env=SIDEGATE_ACCESS_LOG=off")
	o.CheckEnv = func(environ []string) error { got = environ; return errors.New("checked") }
	_, err := Inject("x", []byte(bare("", port8080+"        livenessProbe: {httpGet: {port: 8080, path: /$(A)}}\n")), o)
	if err == nil || !strings.Contains(err.Error(), "checked") {
		t.Errorf("got %v", err)
	}
	want := "SIDEGATE_INGRESS=[192.0.2.1]:8080=http://127.0.0.1:8080 SIDEGATE_DRAIN_DELAY=5s SIDEGATE_DRAIN_TIMEOUT=20s SIDEGATE_ACCESS_LOG=off SIDEGATE_REALM=a SIDEGATE_PROBE_APP_LIVENESS=http://127.0.0.1:8080/$(A)#timeout=1s"
	if strings.Join(got, " ") != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSet(t *testing.T) {
	for setting, want := range map[string]string{
		"port=0": "is not a port", "port=65536": "is not a port", "image=": "is empty", "tls-secret=A": "is not the name of an object", "plain=maybe": "invalid syntax",
		"drain-delay=1500ms": "whole seconds", "drain-delay=0s": "whole seconds", "env=X=1": "is not SIDEGATE_NAME=VALUE", "env=SIDEGATE_INGRESS=x": "is set by --port",
		"env=SIDEGATE_PROBE_A=x": "the application's probes", "prot=1": "unknown option",
	} {
		name, value, _ := strings.Cut(setting, "=")
		if err := new(Options).Set(name, value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", setting, err, want)
		}
	}
}

func FuzzInject(f *testing.F) {
	for _, c := range golden {
		f.Add(read(f, c.file+".yaml"), true)
		f.Add(read(f, c.file+".golden"), false)
	}
	f.Add([]byte(bare("", port8080)), false)
	f.Fuzz(func(t *testing.T, text []byte, plain bool) {
		o := options(t, "app-port=8080")
		o.Plain = plain
		once, err := Inject("x", text, o)
		if err != nil {
			return
		}
		twice, err := Inject("x", once.Text, o)
		if err != nil || !bytes.Equal(once.Text, twice.Text) {
			t.Errorf("the second time: %v\nfirst\n%s\nthen\n%v", err, once.Text, twice)
		}
	})
}
