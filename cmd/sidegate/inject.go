package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"sidegate/manifests/inject"
)

// imageName is where the image is expected that scripts/image builds.
const imageName = "localhost/sidegate"

// runInject writes a YAML file with the sidecar in its workloads, or without.
func runInject(_ context.Context, p *program) error {
	o := inject.Options{Version: version(), Image: imageName + ":" + imageTag(version()), CheckEnv: checkEnviron}
	var file string
	var remove bool
	flags := injectFlags(&o, &file, &remove)
	if err := flags.Parse(p.args); err != nil {
		return usagef("inject: %w; inject -h lists the options", err)
	}
	if file == "" || flags.NArg() > 0 {
		return usagef("inject takes a file, or - for stdin: sidegate inject -f FILE|- [options]")
	}
	text, err := readInput(p, file)
	if err != nil {
		return err
	}
	if remove {
		text, err = inject.Remove(file, text)
	} else {
		text, err = injected(p, file, text, o)
	}
	if err != nil {
		return listed("nothing was written", err)
	}
	_, err = p.stdout.Write(text)
	return err
}

// injected is the new text; notes about it go to stderr.
func injected(p *program, file string, text []byte, o inject.Options) ([]byte, error) {
	result, err := inject.Inject(file, text, o)
	if err != nil {
		return nil, err
	}
	for _, note := range result.Notes {
		fmt.Fprintln(p.stderr, note)
	}
	return result.Text, nil
}

func readInput(p *program, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(p.stdin)
	}
	return os.ReadFile(file)
}

func injectFlags(o *inject.Options, file *string, remove *bool) *flag.FlagSet {
	flags := flag.NewFlagSet("inject", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(file, "f", "", "")
	flags.BoolVar(remove, "remove", false, "")
	for _, s := range inject.Settings() {
		set := func(v string) error { return o.Set(s.Name, v) }
		if s.Value == "" {
			flags.BoolFunc(s.Name, "", set)
		} else {
			flags.Func(s.Name, "", set)
		}
	}
	return flags
}

// injectHelp is what inject -h says.
func injectHelp() string {
	var b strings.Builder
	b.WriteString("Usage: sidegate inject -f FILE|- [options]\n\n" +
		"Writes the YAML with the sidecar in each Deployment, StatefulSet, DaemonSet,\n" +
		"Job, CronJob and Pod of it. Doing it again gives the same.\n\n")
	for _, s := range inject.Settings() {
		fmt.Fprintf(&b, "    %-28s %s\n", strings.TrimSpace("--"+s.Name+" "+s.Value), s.Help)
	}
	fmt.Fprintf(&b, "    %-28s %s\n\n", "--remove", "take the sidecar away again")
	fmt.Fprintf(&b, "The same as annotations of the pod template, which win: %sport: \"8443\".\n"+
		"The label %s: \"false\" keeps the sidecar out.\n\nExample:\n\n"+
		"    sidegate inject -f app.yaml --tls-secret web-tls --users-secret web-users | kubectl apply -f -\n", inject.Prefix, inject.SwitchLabel)
	return b.String()
}

// checkEnviron says what serve would refuse of a sidecar's variables, without
// the files that are mounted there.
func checkEnviron(environ []string) error {
	c, err := parseConfig(environ)
	if err != nil {
		return err
	}
	_, err = gateSpecs(c)
	return err
}

var notInTag = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// imageTag is a version as the tag of an image.
func imageTag(version string) string {
	return strings.Trim(notInTag.ReplaceAllString(version, "-"), "-.")
}
