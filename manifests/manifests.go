// Package manifests holds the YAML that we ship.
package manifests

import _ "embed"

// Sidecar is the container that inject adds, without what depends on the
// workload and the options.
//
//go:embed sidecar.yaml
var Sidecar []byte
