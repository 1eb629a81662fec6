package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sidegate/tlsproxy"
	"sidegate/tlsproxy/upstream"
)

// checkUpstreams says what of gates and probes would never reach the
// application: it does not resolve, is beyond loopback, or is sidegate itself.
func (a *assembly) checkUpstreams(ctx context.Context) error {
	errs := a.checkProbes(ctx)
	for _, s := range a.specs {
		variable := gateVariable(s.name)
		switch err := tlsproxy.CheckUpstream(ctx, s.upstream); {
		case errors.Is(err, upstream.ErrNotLoopback):
			errs = append(errs, fmt.Errorf("%s: %w (insecure_upstream=true allows it)", variable, err))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", variable, err))
		}
		if other := a.leadsBack(ctx, s.upstream); other != "" {
			errs = append(errs, leadsBackError(variable, s.upstream, other))
		}
	}
	return errors.Join(errs...)
}

// checkProbes is the same of probes. One that asks a gate reaches the
// application all the same.
func (a *assembly) checkProbes(ctx context.Context) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(a.config.Probes)) {
		variable, up := prefix+"PROBE_"+strings.ToUpper(name), a.config.Probes[name].Upstream()
		if err := tlsproxy.CheckUpstream(ctx, up); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", variable, err))
		}
		if a.leadsToAdmin(ctx, up) {
			errs = append(errs, leadsBackError(variable, up, prefix+"ADMIN"))
		}
	}
	return errs
}

func leadsBackError(variable string, up tlsproxy.Upstream, listener string) error {
	return fmt.Errorf("%s: upstream %s leads back to sidegate itself, which listens there (%s)", variable, up.Address, listener)
}

// leadsBack is the variable of our own listener that an upstream leads to; "":
// to none.
func (a *assembly) leadsBack(ctx context.Context, up tlsproxy.Upstream) string {
	for _, s := range a.specs {
		if up.LeadsTo(ctx, s.listen) {
			return gateVariable(s.name)
		}
	}
	if a.leadsToAdmin(ctx, up) {
		return prefix + "ADMIN"
	}
	return ""
}

func (a *assembly) leadsToAdmin(ctx context.Context, up tlsproxy.Upstream) bool {
	return a.config.Admin != none && up.LeadsTo(ctx, tlsproxy.Address{Network: "tcp", Address: string(a.config.Admin)})
}
