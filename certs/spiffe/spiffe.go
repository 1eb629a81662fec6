// Package spiffe is the source of X.509-SVIDs and trust bundles of the SPIFFE
// Workload API.
package spiffe

import (
	"context"
	"errors"
	"log/slog"

	"sidegate/certs"
)

// Source keeps what the Workload API last said. Its fields are set before the
// first call; its methods may then be called concurrently.
type Source struct {
	// Socket is where the Workload API listens, unix:///PATH or
	// tcp://IP:PORT. "": the usual places are tried.
	Socket string
	// SVID is the hint or SPIFFE ID of the SVID to present. "": the first.
	SVID string
	Log  *slog.Logger
}

// Check reports what is wrong with the fields, without the network.
func (s *Source) Check() error { return nil }

// Load implements [certs.Source]: the SVID to present, and bundles.
func (s *Source) Load(ctx context.Context) (*certs.Material, error) {
	return nil, errors.New("not yet")
}

// TrustOnly is the source of the bundles alone.
func (s *Source) TrustOnly() certs.Source { return s }

// String names the Workload API's socket.
func (s *Source) String() string { return s.Socket }

// Subscribe returns a channel that holds a signal while Load may say something
// else than at the last receive.
func (s *Source) Subscribe() <-chan struct{} { return nil }

// Run watches the Workload API until ctx ends. It returns nil.
func (s *Source) Run(ctx context.Context) error { return nil }
