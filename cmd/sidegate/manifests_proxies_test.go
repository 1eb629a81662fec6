package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sidegate/manifests/manifeststest"
)

// checkTrustedProxies refuses a trusted proxy that somebody else could pass for:
// each is one address, and the NetworkPolicy admits nobody to the gate but whom
// it selects. HDR-17.
func checkTrustedProxies(t *testing.T, objects []runtime.Object, sidecar *core.Container) error {
	t.Helper()
	conf, err := parseConfig(environOf(sidecar))
	if err != nil {
		t.Fatal(err)
	}
	specs, err := gateSpecs(conf)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		for _, n := range s.trustedProxies {
			if !n.IsSingleIP() {
				return fmt.Errorf("gate %s trusts all of %s", s.name, n)
			}
		}
		if len(s.trustedProxies) > 0 && !admitsOnlySelected(objects, s) {
			return fmt.Errorf("gate %s trusts %s, and the NetworkPolicy admits others", s.name, s.trustedProxies)
		}
	}
	return nil
}

// admitsOnlySelected reports whether each rule for the gate's port names who may
// come: pods by their labels, or the trusted proxies themselves.
func admitsOnlySelected(objects []runtime.Object, s *gateSpec) bool {
	_, port, _ := net.SplitHostPort(s.listen.Address)
	found := false
	for _, o := range objects {
		p, ok := o.(*networking.NetworkPolicy)
		if !ok {
			continue
		}
		for _, rule := range p.Spec.Ingress {
			if !hasPort(rule, port) {
				continue
			}
			found = true
			if len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(from networking.NetworkPolicyPeer) bool { return !selects(from, s.trustedProxies) }) {
				return false
			}
		}
	}
	return found
}

func hasPort(rule networking.NetworkPolicyIngressRule, port string) bool {
	return len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(p networking.NetworkPolicyPort) bool {
		return p.Port == nil || strconv.Itoa(int(p.Port.IntVal)) == port
	})
}

func selects(from networking.NetworkPolicyPeer, trusted Networks) bool {
	if from.IPBlock != nil {
		block, err := netip.ParsePrefix(from.IPBlock.CIDR)
		return err == nil && slices.Contains(trusted, block)
	}
	return from.NamespaceSelector != nil && len(from.NamespaceSelector.MatchLabels) > 0 ||
		from.PodSelector != nil && len(from.PodSelector.MatchLabels) > 0
}

// trusting is an overlay as a user writes it, who trusts a proxy.
const trusting = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../overlays/%s]
patches:
- target: {kind: Deployment, name: web}
  patch: |-
    - op: add
      path: /spec/template/spec/initContainers/0/env/-
      value: {name: SIDEGATE_TRUSTED_PROXIES, value: "%s"}
`

// The rule that every overlay of ours is held to, in TestManifests, sees what is wrong.
func TestTrustedProxiesOfManifests(t *testing.T) {
	for _, c := range []struct{ overlay, networks, want string }{
		{"openshift-edge", "192.0.2.10,192.0.2.11", ""},
		{"openshift-edge", "10.128.0.0/14", "trusts all of 10.128.0.0/14"},
		{"openshift-edge", "192.0.2.10,::ffff:10.0.0.0/104", "trusts all of 10.0.0.0/8"},
		{"openshift-reencrypt", "192.0.2.10", "the NetworkPolicy admits others"},
		{"basic-auth", "192.0.2.10", "the NetworkPolicy admits others"},
	} {
		files := manifestFiles(t)
		if err := files.WriteFile("/overlays/trusting/kustomization.yaml", fmt.Appendf(nil, trusting, c.overlay, c.networks)); err != nil {
			t.Fatal(err)
		}
		objects := rendered(t, files, "/overlays/trusting")
		i := slices.IndexFunc(objects, func(o runtime.Object) bool { _, ok := o.(*apps.Deployment); return ok })
		_, spec, _ := manifeststest.Pod(objects[i])
		err := checkTrustedProxies(t, objects, sidecarOf(t, spec))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s with %s: got %v, want %q", c.overlay, c.networks, err, c.want)
		}
	}
}
