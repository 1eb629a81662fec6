// Package manifeststest judges manifests in tests as an API server would.
package manifeststest

import (
	"testing"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	trust "github.com/cert-manager/trust-manager/pkg/apis/trust/v1alpha1"
	route "github.com/openshift/api/route/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// kinds is every kind of object in our manifests, with its real type.
var kinds = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		core.AddToScheme, apps.AddToScheme, batch.AddToScheme, networking.AddToScheme, rbac.AddToScheme,
		certmanager.AddToScheme, trust.AddToScheme, monitoring.AddToScheme, route.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}()

var decoder = serializer.NewCodecFactory(kinds, serializer.EnableStrict).UniversalDeserializer()

// Decode is the object that the YAML of one document describes. An unknown kind
// or field and a repeated one fail the test, which is told where they were.
func Decode(t testing.TB, where string, text []byte) runtime.Object {
	t.Helper()
	object, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		t.Fatalf("%s: %v\n%s", where, err, text)
	}
	return object
}

// Pod is what an object says of its pods; ok is false if it has none.
func Pod(object runtime.Object) (*meta.ObjectMeta, *core.PodSpec, bool) {
	template := func(t *core.PodTemplateSpec) (*meta.ObjectMeta, *core.PodSpec, bool) {
		return &t.ObjectMeta, &t.Spec, true
	}
	switch o := object.(type) {
	case *apps.Deployment:
		return template(&o.Spec.Template)
	case *apps.StatefulSet:
		return template(&o.Spec.Template)
	case *apps.DaemonSet:
		return template(&o.Spec.Template)
	case *batch.Job:
		return template(&o.Spec.Template)
	case *batch.CronJob:
		return template(&o.Spec.JobTemplate.Spec.Template)
	case *core.Pod:
		return &o.ObjectMeta, &o.Spec, true
	}
	return nil, nil, false
}

// Restricted fails the test unless Pod Security "restricted" admits the pod.
func Restricted(t testing.TB, where string, pod *meta.ObjectMeta, spec *core.PodSpec) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	if r := policy.AggregateCheckResults(evaluator.EvaluatePod(level, pod, spec)); !r.Allowed {
		t.Errorf("%s: not restricted: %s", where, r.ForbiddenDetail())
	}
}
