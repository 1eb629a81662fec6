package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"sidegate/certs/inspect"
)

// listed puts each of several problems on a line of its own.
func listed(what string, err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return fmt.Errorf("%s: %w", what, err)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) == 1 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %d problems:\n  - %s", what, len(lines), strings.Join(lines, "\n  - "))
}

func checkHelp() string {
	return `Usage: sidegate check [--print]
       sidegate check --here [--name NAME]... [--json]

Loads what serve would, and says what serve would refuse.

    --print      the configuration in force
    --here       look around in this container too, for what keeps TLS from
                 working: mounts and permissions, dates and the clock, names,
                 chains, keys, CAs, file events, ports, the application and
                 the ways around the gate, servers that certificates come from
    --name NAME  a name or address by which clients call, such as the
                 Service's; the certificate must hold it
    --json       as JSON

--here leaves nothing changed and has no certificate issued:

    kubectl exec POD -c sidegate -- /sidegate check --here --name web.default.svc

Exit codes: 0 nothing is broken (there may be warnings), 1 --here: something is,
2 wrong arguments, or a configuration that serve would refuse.
`
}

// checkOptions are what check was asked for.
type checkOptions struct {
	show, here, json bool
	names            []string
}

func parseCheck(args []string) (*checkOptions, error) {
	o := &checkOptions{}
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.show, "print", false, "")
	flags.BoolVar(&o.here, "here", false, "")
	flags.BoolVar(&o.json, "json", false, "")
	flags.Func("name", "", func(name string) error {
		if !callable(name) {
			return errors.New("it is neither a DNS name nor an IP address")
		}
		o.names = append(o.names, name)
		return nil
	})
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && flags.Lookup(name) == nil {
			return nil, usagef("check: unknown argument %q%s", arg, didYouMean(arg, []string{"--print", "--here", "--name", "--json"}))
		}
	}
	switch err := flags.Parse(args); {
	case err != nil:
		return nil, usagef("check: %v; check -h lists the options", err)
	case flags.NArg() > 0:
		return nil, usagef("check takes no words, got %q; check -h lists the options", flags.Arg(0))
	case o.here && o.show:
		return nil, usagef("check: --print and --here are two questions; ask one")
	case !o.here && (o.json || len(o.names) > 0):
		return nil, usagef("check: --name and --json go with --here")
	}
	return o, nil
}

// runCheck does what serve does before it binds, and says what it found.
func runCheck(ctx context.Context, p *program) error {
	o, err := parseCheck(p.args)
	if err != nil {
		return err
	}
	if o.here {
		return runDoctor(ctx, p, o.names, o.json)
	}
	c, err := readConfig(p.environ)
	if err != nil {
		return usageError{listed("configuration", err)}
	}
	if o.show {
		printConfig(p.stdout, c)
	}
	a, err := assemble(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return usageError{listed("configuration", err)}
	}
	report(p.stdout, a, memoryNow(p.environ))
	return nil
}

// report says what is loaded and what looks odd about it.
func report(w io.Writer, a *assembly, m memory) {
	if warning := oldGo(runtime.Version()); warning != "" {
		fmt.Fprintln(w, "warning:", warning)
	}
	for _, g := range a.gates {
		line(w, "gate %s: %s -> %s", g.Name, g.Listen, g.Upstream.Address)
		if g.Plaintext {
			line(w, "warning: gate %s has no TLS: whoever can reach it sees and says everything", g.Name)
		}
	}
	for _, s := range a.stores {
		st := s.Status()
		for _, c := range st.Certificates {
			line(w, "%s %s: %s, ends %s (in %s)", c.Use, c.Name, c.Subject, rfc3339(c.NotAfter), inspect.Roughly(time.Until(c.NotAfter)))
		}
		for _, warning := range st.Warnings {
			line(w, "warning: %s", warning)
		}
	}
	b := budgetOf(a.config, openFiles(), len(a.gates))
	fmt.Fprintln(w, b)
	if b.short != "" {
		fmt.Fprintln(w, "warning:", b.short)
	}
	fmt.Fprintln(w, m)
	if warning := m.short(); warning != "" {
		line(w, "warning: %s", warning)
	}
	if text := a.limits.String(); text != "" {
		fmt.Fprintln(w, text)
	}
	if warning := a.config.Admin.warning(); warning != "" {
		line(w, "warning: %s", warning)
	}
	line(w, "rule: %s", a.rules())
	for _, warning := range a.policyWarnings() {
		line(w, "warning: %s", warning)
	}
	fmt.Fprintln(w, "ok")
}

// printConfig writes the configuration in force as assignments. No variable
// holds a secret, those are in files; what can't be read as a gate may be one
// by mistake. Probes are left out: their fields may well hold one.
func printConfig(w io.Writer, c *Config) {
	for _, name := range slices.Sorted(maps.Keys(c.Ingress)) {
		if s, err := parseGate(name, c.Ingress[name], c); err == nil && s.checkPaths(c) == nil {
			fmt.Fprintf(w, "%s=%s\n", gateVariable(name), c.Ingress[name])
		}
	}
	v := reflect.ValueOf(c).Elem()
	for f := range configFields() {
		text := fmt.Sprint(v.FieldByIndex(f.Index))
		if _, ok := f.Tag.Lookup("url"); ok {
			text = withoutSecrets(pathsOf(v.FieldByIndex(f.Index)))
		}
		if text != "" {
			fmt.Fprintf(w, "%s%s=%s\n", prefix, f.Tag.Get("env"), text)
		}
	}
}

// defaultOf is the default of a field of Config.
func defaultOf(field string) string {
	f, ok := reflect.TypeFor[Config]().FieldByName(field)
	if !ok {
		panic("no field " + field)
	}
	return f.Tag.Get("envDefault")
}
