package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"sidegate/certs"
	"sidegate/certs/reload"
	"sidegate/tlsproxy"
)

// statusReport is what sidegate status tells.
type statusReport struct {
	Version      string                `json:"version"`
	Draining     bool                  `json:"draining"`
	Gates        []tlsproxy.GateStatus `json:"gates"`
	Loaded       []reload.Status       `json:"loaded"`
	Certificates []certs.Certificate   `json:"certificates"`
	Warnings     []string              `json:"warnings,omitempty"`
	Rule         string                `json:"rule"`
}

func statusOf(p *tlsproxy.Proxy, a *assembly) statusReport {
	r := statusReport{Version: version(), Draining: p.Draining(), Gates: p.Status(), Rule: a.rules().String()}
	for _, s := range a.stores {
		st := s.Status()
		r.Loaded = append(r.Loaded, st.Status)
		r.Certificates = append(r.Certificates, st.Certificates...)
		r.Warnings = append(r.Warnings, st.Warnings...)
	}
	for _, l := range a.reload {
		r.Loaded = append(r.Loaded, l.Status())
	}
	return r
}

// runStatus asks the running process beside it. The image has no curl.
func runStatus(ctx context.Context, p *program) error {
	path := "/status"
	for _, arg := range p.args {
		if arg != "--ready" {
			return usagef("status: unknown argument %q%s", arg, didYouMean(arg, []string{"--ready"}))
		}
		path = "/readyz"
	}
	body, err := askAdmin(ctx, p, http.MethodGet, path)
	if err != nil {
		return err
	}
	if path == "/status" {
		return printStatus(p.stdout, body)
	}
	_, err = p.stdout.Write(body)
	return err
}

func printStatus(w io.Writer, body []byte) error {
	var r statusReport
	if err := json.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	line(w, "sidegate %s", r.Version)
	if r.Draining {
		fmt.Fprintln(w, "draining")
	}
	for _, g := range r.Gates {
		line(w, "gate %s: %s -> %s, %d connections, %d requests, %d upgraded", g.Name, g.Listen, g.Upstream, g.Connections, g.Requests, g.Upgraded)
	}
	for _, g := range r.Gates {
		for _, ca := range g.Roots {
			line(w, "gate %s: peers of CA %s, serial %s: %d now, last seen %s", g.Name, ca.CA, ca.Serial, ca.Live, rfc3339(ca.LastSeen))
		}
	}
	for _, l := range r.Loaded {
		line(w, "%s: generation %s, last loaded %s, %s", l.What, l.Generation, rfc3339(l.LastSuccess), l.State())
	}
	for _, c := range r.Certificates {
		line(w, "%s %s: %s, serial %s, ends %s", c.Use, c.Name, c.Subject, c.Serial, rfc3339(c.NotAfter))
	}
	for _, warning := range r.Warnings {
		line(w, "warning: %s", warning)
	}
	return line(w, "rule: %s", r.Rule)
}

// runDrain begins the drain of the running process and returns when it takes
// no connections any more: as a preStop hook it holds SIGTERM back that long.
func runDrain(ctx context.Context, p *program) error {
	if err := noArguments(p, "drain"); err != nil {
		return err
	}
	body, err := askAdmin(ctx, p, http.MethodPost, "/drain")
	if err != nil {
		return err
	}
	_, err = p.stdout.Write(body)
	return err
}
