package main

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"sidegate/manifests"
	"sidegate/manifests/inject"
	"sidegate/manifests/manifeststest"
	"sidegate/policy"
)

// monitored is an overlay as a user writes it, for the component that none of
// ours takes.
const monitored = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../overlays/basic-auth]
components: [../../components/podmonitor]
`

// rendered is what `kubectl kustomize` says of a folder, decoded strictly.
func rendered(t *testing.T, files filesys.FileSystem, dir string) []runtime.Object {
	t.Helper()
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, dir)
	if err != nil {
		t.Fatal(err)
	}
	var objects []runtime.Object
	for _, r := range result.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, manifeststest.Decode(t, dir+": "+r.CurId().String(), text))
	}
	return objects
}

// manifestFiles is the folder manifests in memory, so that a test can add to it.
func manifestFiles(t *testing.T) filesys.FileSystem {
	t.Helper()
	files := filesys.MakeFsInMemory()
	for _, pattern := range []string{"base/*", "components/*/*", "overlays/*/*"} {
		names, err := filepath.Glob("../../manifests/" + pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := files.WriteFile(strings.TrimPrefix(name, "../../manifests"), text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := files.WriteFile("/overlays/monitored/kustomization.yaml", []byte(monitored)); err != nil {
		t.Fatal(err)
	}
	return files
}

// Every overlay is what the API knows, and its pods run as it says.
func TestManifests(t *testing.T) {
	files := manifestFiles(t)
	overlays, err := files.ReadDir("/overlays")
	if err != nil {
		t.Fatal(err)
	}
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			objects := rendered(t, files, "/overlays/"+overlay)
			i := slices.IndexFunc(objects, func(o runtime.Object) bool { _, ok := o.(*apps.Deployment); return ok })
			if i < 0 {
				t.Fatal("no Deployment")
			}
			pod, spec, _ := manifeststest.Pod(objects[i])
			manifeststest.Restricted(t, overlay, pod, spec)
			sidecar := sidecarOf(t, spec)
			checkVariables(t, sidecar)
			checkMounts(t, spec, sidecar)
			checkPod(t, spec)
			checkStay(t, spec, sidecar)
			checkPorts(t, objects, sidecar)
			checkPolicy(t, objects)
			if err := checkTrustedProxies(t, objects, sidecar); err != nil {
				t.Error(err)
			}
			if user := spec.Containers[0].SecurityContext.RunAsUser; strings.HasPrefix(overlay, "openshift") && user != nil {
				t.Errorf("restricted-v2 refuses user %d", *user)
			}
		})
	}
}

// sidecarOf is the sidecar, native or plain.
func sidecarOf(t *testing.T, spec *core.PodSpec) *core.Container {
	t.Helper()
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if c.Name == "sidegate" {
			return &c
		}
	}
	t.Fatal("no sidecar")
	return nil
}

// checkVariables lets serve's own parser judge the variables.
func checkVariables(t *testing.T, sidecar *core.Container) {
	t.Helper()
	if err := checkEnviron(environOf(sidecar)); err != nil {
		t.Error(err)
	}
}

func environOf(sidecar *core.Container) []string {
	environ := make([]string, 0, len(sidecar.Env))
	for _, e := range sidecar.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = "web-0" // the pod's name
		}
		environ = append(environ, e.Name+"="+value)
	}
	return environ
}

// checkMounts finds each file that serve will read below a mount that follows
// its source, and nothing mounted that it would not read.
func checkMounts(t *testing.T, spec *core.PodSpec, sidecar *core.Container) {
	t.Helper()
	environ := map[string]string{}
	for _, e := range sidecar.Env {
		environ[e.Name] = e.Value
	}
	var paths []string
	for _, f := range defaultFolders {
		if v, ok := environ[f.variable]; ok {
			paths = append(paths, strings.TrimPrefix(v, "unix://"))
		} else if f.path != "" {
			paths = append(paths, f.path)
		}
	}
	volumes := map[string]core.Volume{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = v
	}
	for _, m := range sidecar.VolumeMounts {
		v := volumes[m.Name]
		if v.Secret == nil && v.ConfigMap == nil && v.CSI == nil && v.PersistentVolumeClaim == nil {
			t.Errorf("no Secret, ConfigMap, CSI volume or claim for %s", m.Name)
		}
		written := m.MountPath == environ["SIDEGATE_CERT_CACHE"]
		if m.SubPath != "" || m.ReadOnly == written {
			t.Errorf("%s: a subPath is never updated, and nothing is written but the cache", m.MountPath)
		}
		if !slices.ContainsFunc(paths, func(p string) bool { return p == m.MountPath || path.Dir(p) == m.MountPath }) {
			t.Errorf("nothing reads %s; serve reads %v", m.MountPath, paths)
		}
	}
	for _, f := range defaultFolders {
		v, ok := environ[f.variable]
		v = strings.TrimPrefix(v, "unix://")
		mounted := func(m core.VolumeMount) bool { return v == m.MountPath || path.Dir(v) == m.MountPath }
		if ok && !slices.ContainsFunc(sidecar.VolumeMounts, mounted) {
			t.Errorf("%s=%s is not mounted", f.variable, v)
		}
	}
}

// defaultFolders are the variables that name files, and where serve looks
// without them.
var defaultFolders = []struct{ variable, path string }{
	{"SIDEGATE_TLS", "/etc/sidegate/tls"},
	{"SIDEGATE_USERS", "/etc/sidegate/users"},
	{"SIDEGATE_CLIENT_CA", ""},
	{"SIDEGATE_POLICY", "/etc/sidegate/policy/policy.yaml"},
	{"SIDEGATE_CFSSL_CA", "/etc/sidegate/cfssl/ca.crt"},
	{"SIDEGATE_CFSSL_AUTH_KEY_FILE", "/etc/sidegate/cfssl/auth-key"},
	{"SIDEGATE_CERT_CACHE", ""},
	{"SPIFFE_ENDPOINT_SOCKET", ""},
}

// checkPolicy reads the policy files of ConfigMaps.
func checkPolicy(t *testing.T, objects []runtime.Object) {
	t.Helper()
	for _, o := range objects {
		m, ok := o.(*core.ConfigMap)
		if !ok || m.Data["policy.yaml"] == "" {
			continue
		}
		p, err := policy.Parse(m.Name, []byte(m.Data["policy.yaml"]), policy.Surroundings{Gates: []policy.GateKind{{Name: "main"}}, Methods: []string{policy.LocalMethod}})
		if err != nil {
			t.Error(err)
		} else if w := p.Warnings(); len(w) > 0 {
			t.Errorf("%s: %q", m.Name, w)
		}
	}
}

func checkPod(t *testing.T, spec *core.PodSpec) {
	t.Helper()
	if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
		t.Error("service links")
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
			t.Errorf("container %s has no preStop", c.Name)
		}
	}
}

// checkStay finds that the application stays longer than the gate takes
// requests, and that the drain fits the pod's grace period.
func checkStay(t *testing.T, spec *core.PodSpec, sidecar *core.Container) {
	t.Helper()
	c, err := parseConfig(environOf(sidecar))
	if err != nil {
		t.Fatal(err)
	}
	delay, grace := time.Duration(c.DrainDelay), time.Duration(*spec.TerminationGracePeriodSeconds)*time.Second
	if took := delay + time.Duration(c.DrainTimeout); took >= grace {
		t.Errorf("a drain of %v in a grace period of %v", took, grace)
	}
	app := spec.Containers[0]
	stay := time.Duration(0)
	switch hook := app.Lifecycle.PreStop; {
	case hook.Sleep != nil:
		stay = time.Duration(hook.Sleep.Seconds) * time.Second
	case hook.Exec != nil && hook.Exec.Command[0] == "sleep":
		if stay, err = time.ParseDuration(hook.Exec.Command[1] + "s"); err != nil {
			t.Fatal(err)
		}
	}
	if stay != delay+inject.Outlast || stay >= grace {
		t.Errorf("container %s sleeps %v; want the delay of %v and %v", app.Name, stay, delay, inject.Outlast)
	}
}

// checkPorts follows each Service and NetworkPolicy to a port of the sidecar.
func checkPorts(t *testing.T, objects []runtime.Object, sidecar *core.Container) {
	t.Helper()
	gates := map[int32]bool{}
	for _, p := range sidecar.Ports {
		gates[p.ContainerPort] = true
	}
	check := func(port *intstr.IntOrString) {
		if port == nil || !gates[port.IntVal] {
			t.Errorf("port %v is none of the sidecar's", port)
		}
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *core.Service:
			for _, p := range o.Spec.Ports {
				check(&p.TargetPort)
			}
		case *networking.NetworkPolicy:
			if len(o.Spec.PodSelector.MatchLabels) == 0 {
				t.Errorf("NetworkPolicy %s is for every pod of the namespace", o.Name)
			}
			for _, rule := range o.Spec.Ingress {
				for _, p := range rule.Ports {
					check(p.Port)
				}
			}
		}
	}
}

// The sidecar of the manifests is the one that inject adds, but for what each
// fills in.
func TestBaseSidecarIsInjects(t *testing.T) {
	var want core.Container
	if err := yaml.UnmarshalStrict(manifests.Sidecar, &want); err != nil {
		t.Fatal(err)
	}
	objects := rendered(t, manifestFiles(t), "/base")
	for _, o := range objects {
		if _, spec, ok := manifeststest.Pod(o); ok {
			got := sidecarOf(t, spec)
			for _, c := range []*core.Container{&want, got} {
				c.Image, c.Env, c.Ports, c.VolumeMounts = "", nil, nil, nil
			}
			if w, g := asYAML(t, want), asYAML(t, got); w != g {
				t.Errorf("inject adds\n%s\nthe base has\n%s", w, g)
			}
			return
		}
	}
	t.Error("no pod in the base")
}

func asYAML(t *testing.T, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
