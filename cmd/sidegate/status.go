package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

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
	fmt.Fprintf(w, "sidegate %s\n", r.Version)
	if r.Draining {
		fmt.Fprintln(w, "draining")
	}
	for _, g := range r.Gates {
		fmt.Fprintf(w, "gate %s: %s -> %s, %d connections, %d requests, %d upgraded\n", g.Name, g.Listen, g.Upstream, g.Connections, g.Requests, g.Upgraded)
	}
	for _, g := range r.Gates {
		for _, ca := range g.Roots {
			fmt.Fprintf(w, "gate %s: peers of CA %s, serial %s: %d now, last seen %s\n", g.Name, ca.CA, ca.Serial, ca.Live, rfc3339(ca.LastSeen))
		}
	}
	for _, l := range r.Loaded {
		state := "ok"
		if !l.OK {
			state = "last good stays: " + l.Err
		}
		fmt.Fprintf(w, "%s: generation %s, last loaded %s, %s\n", l.What, l.Generation, rfc3339(l.LastSuccess), state)
	}
	for _, c := range r.Certificates {
		fmt.Fprintf(w, "%s %s: %s, serial %s, ends %s\n", c.Use, c.Name, c.Subject, c.Serial, rfc3339(c.NotAfter))
	}
	for _, warning := range r.Warnings {
		fmt.Fprintln(w, "warning:", warning)
	}
	_, err := fmt.Fprintln(w, "rule:", r.Rule)
	return err
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

// askAdmin asks the admin port of the process that has the same configuration.
func askAdmin(ctx context.Context, p *program, method, path string) ([]byte, error) {
	c, err := parseConfig(p.environ)
	if err != nil {
		return nil, usageError{listed("configuration", err)}
	}
	if c.Admin == none {
		return nil, usagef("SIDEGATE_ADMIN is none, so nobody can be asked")
	}
	return askAdminAt(ctx, c.Admin, method, path)
}

// askAdminAt asks whoever has the port of the address on this host.
func askAdminAt(ctx context.Context, addr, method, path string) ([]byte, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, usagef("SIDEGATE_ADMIN: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+net.JoinHostPort("localhost", port)+path, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("no sidegate answers on port %s: %w", port, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(string(body)))
	}
	return body, nil
}
