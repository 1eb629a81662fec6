package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sidegate/certs/inspect"
	"sidegate/policy"
)

// level is how bad a finding is.
type level int

const (
	levelOK level = iota
	levelWarning
	levelBroken // something does not work, or would not at the next start
)

var levelWords = []string{"ok", "warning", "broken"}

func (l level) String() string { return levelWords[l] }

// MarshalText implements encoding.TextMarshaler.
func (l level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// finding is one thing that the doctor looked at.
type finding struct {
	Level level  `json:"level"`
	About string `json:"about"` // one word; programs may rely on it
	Found string `json:"found"`
	Do    string `json:"do,omitempty"`
}

// findings are collected in the order in which they should be read.
type findings []finding

func (f *findings) ok(about, format string, args ...any) {
	*f = append(*f, finding{Level: levelOK, About: about, Found: fmt.Sprintf(format, args...)})
}

func (f *findings) warn(about, do, format string, args ...any) {
	*f = append(*f, finding{levelWarning, about, fmt.Sprintf(format, args...), do})
}

func (f *findings) broken(about, do, format string, args ...any) {
	*f = append(*f, finding{levelBroken, about, fmt.Sprintf(format, args...), do})
}

// has reports whether something about it is broken.
func (f findings) has(about string) bool {
	return slices.ContainsFunc(f, func(one finding) bool { return one.Level == levelBroken && one.About == about })
}

func (f findings) count(l level) int {
	n := 0
	for _, one := range f {
		if one.Level == l {
			n++
		}
	}
	return n
}

var variablePrefix = regexp.MustCompile(`^(SIDEGATE|SPIFFE)_[A-Z_0-9]+: `)

// once leaves out what was told before and is no worse than that, perhaps in
// more words or of another variable.
func (f findings) once() findings {
	var list findings
	for _, one := range f {
		core := variablePrefix.ReplaceAllString(one.Found, "")
		if !slices.ContainsFunc(list, func(told finding) bool { return told.Level >= one.Level && strings.Contains(told.Found, core) }) {
			list = append(list, one)
		}
	}
	return list
}

// doctor looks at everything that could keep TLS from working in this
// container. It goes on after each problem: one must not hide another.
type doctor struct {
	names  []string // by which somebody calls us
	mounts string   // the table of mounts

	sockets []string // the tables of TCP sockets

	config   *Config
	specs    []*gateSpec // that are right
	likely   []*gateSpec // those, and what the others probably mean
	specErr  error
	assembly *assembly
	served   []served
}

// served is a certificate that a gate presents, or will.
type served struct {
	where string
	leaf  *x509.Certificate
}

const (
	// patience is how long each attempt to reach something may take.
	patience = 2 * time.Second
	// patienceOfAll is how long loading what serve loads may take.
	patienceOfAll = 5 * time.Second
)

func newDoctor(names []string) *doctor {
	return &doctor{names: names, mounts: "/proc/self/mountinfo", sockets: []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"}}
}

// examine returns what it found, the worst first.
func (d *doctor) examine(ctx context.Context, environ []string) findings {
	list := d.lookAtVariables(environ)
	problems := d.assemble(ctx)
	list = append(list, d.lookAtFiles()...)
	list = append(list, d.lookAtTrust(ctx)...)
	list = append(list, d.lookAtNames()...)
	list = append(list, d.lookAtMounts()...)
	list = append(list, d.lookAtEvents()...)
	list = append(list, d.lookAtMesh()...)
	list = append(list, together(ctx, d.attempts())...)
	list = append(list, d.tellProblems(problems, list)...)
	list = append(list, d.lookAtRules()...)
	list = list.once()
	slices.SortStableFunc(list, func(a, b finding) int { return cmp.Compare(b.Level, a.Level) })
	return list
}

// attempts are what needs the network, or may hang as it does.
func (d *doctor) attempts() []func(context.Context) findings {
	list := []func(context.Context) findings{d.lookAtListeners}
	for _, s := range d.specs {
		list = append(list, func(ctx context.Context) findings { return d.lookAtUpstream(ctx, s) })
	}
	if d.comesFrom(fromSPIFFE) {
		list = append(list, d.lookAtWorkloadAPI)
	}
	if d.comesFrom(fromCFSSL) {
		list = append(list, d.lookAtCFSSL)
	}
	if d.comesFrom(fromACME) {
		list = append(list, d.lookAtACME)
	}
	return list
}

// comesFrom reports whether a gate has something from the source.
func (d *doctor) comesFrom(source certSource) bool {
	return slices.ContainsFunc(d.likely, func(s *gateSpec) bool {
		return !s.plaintext && (s.certs == source || s.asksClientCert() && s.clientCA == string(source))
	})
}

// together makes all attempts at once and returns what they found in order.
func together(ctx context.Context, attempts []func(context.Context) findings) findings {
	results := make([]findings, len(attempts))
	var all sync.WaitGroup
	for i, attempt := range attempts {
		all.Go(func() { results[i] = attempt(ctx) })
	}
	all.Wait()
	return slices.Concat(results...)
}

// lookAtVariables reads the configuration. A variable that can't be read is
// put aside after that, so that the rest has one to look at.
func (d *doctor) lookAtVariables(environ []string) findings {
	var f findings
	const do = "correct it in the container's env; the rest was looked at as if it were not set"
	_, err := readConfig(environ)
	for _, e := range split(err) {
		if errors.Is(e, errNoPath) {
			f.problem("files", e)
		} else {
			f.broken("variables", do, "%v", e)
		}
	}
	var readable []string
	for _, kv := range environ {
		if _, err := readConfig([]string{kv}); err == nil {
			readable = append(readable, kv)
		}
	}
	d.config, _ = readConfig(readable)
	d.specs, d.specErr = readSpecs(d.config)
	for _, e := range split(d.specErr) {
		f.problem(aboutOf(e), e)
	}
	if len(f) == 0 {
		f.ok("variables", "all are understood")
	}
	d.guessGates()
	return f
}

// guessGates makes likely: of a gate that is not right, what it says of
// certificates as far as that can be read.
func (d *doctor) guessGates() {
	d.likely = slices.Clone(d.specs)
	for name, value := range d.config.Ingress {
		if slices.ContainsFunc(d.specs, func(s *gateSpec) bool { return s.name == name }) {
			continue
		}
		s, _ := parseGate(name, value, d.config)
		if s == nil || s.checkPaths(d.config) != nil {
			s, _ = parseGate(mainGate, defaultIngress, d.config)
		}
		d.likely = append(d.likely, s)
	}
	slices.SortFunc(d.likely, func(a, b *gateSpec) int { return cmp.Compare(a.name, b.name) })
}

// assemble loads what serve loads, in less time and without having anything
// issued, and returns every problem of it.
func (d *doctor) assemble(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(ctx, patienceOfAll)
	defer cancel()
	c := *d.config
	c.StartTimeout = Duration(patience)
	d.assembly = &assembly{config: &c, log: slog.New(slog.DiscardHandler), memory: cgroupLimit("/"), lookOnly: true, patience: patience}
	return split(d.assembly.fill(ctx))
}

// tellProblems tells what serve would refuse. What the doctor's own looks
// found with the same words is left out later.
func (d *doctor) tellProblems(problems []error, told findings) findings {
	var f findings
	for _, e := range problems {
		about := aboutOf(e)
		switch {
		case about == "clock" && told.has("clock"): // its words hold the time
		case about == "spiffe" && told.has("spiffe"): // a load in vain follows from that
		case d.specErr != nil && strings.Contains(e.Error(), "and no gate has its certificate from"):
			// the gate that has is the one that is not right
		default:
			f.problem(about, e)
		}
	}
	return f
}

// abouts finds the word for a problem in its text; the first that fits counts.
var abouts = []struct {
	about string
	text  *regexp.Regexp
}{
	{"variables", regexp.MustCompile(`is set, and no gate| is not set$|is set and .* is there`)},
	{"files", regexp.MustCompile(`: read |is a file; name the folder|is a folder; name the file|holds no tls\.crt and tls\.key|wants a path|has \S+ but no `)},
	{"clock", regexp.MustCompile(`is not valid before`)},
	{"expiry", regexp.MustCompile(`/[^ ]+ ended \d`)},
	{"ca", regexp.MustCompile(`holds no CA|is not a CA|CRL|brings no CA|SPIFFE trust domain|^SIDEGATE_CLIENT_CA: `)},
	{"upstream", regexp.MustCompile(`^SIDEGATE_(INGRESS|PROBE)[A-Z_0-9]*: (upstream .* (is not loopback|leads back)|lookup )`)},
	{"users", regexp.MustCompile(`^SIDEGATE_(USERS|REALM): `)},
	{"policy", regexp.MustCompile(`^SIDEGATE_(POLICY|ALLOW): |authenticate anyone|client certificates and nobody|any-peer`)},
	{"spiffe", regexp.MustCompile(`^SPIFFE_ENDPOINT_SOCKET: |^SIDEGATE_SPIFFE_`)},
	{"cfssl", regexp.MustCompile(`^SIDEGATE_CFSSL_`)},
	{"acme", regexp.MustCompile(`^SIDEGATE_ACME_|^SIDEGATE_CERT_CACHE: .*ordered`)},
	{"files", regexp.MustCompile(`^SIDEGATE_CERT_CACHE: `)},
	{"pair", regexp.MustCompile(`^SIDEGATE_TLS: `)},
}

func aboutOf(err error) string {
	for _, a := range abouts {
		if a.text.MatchString(err.Error()) {
			return a.about
		}
	}
	return "variables"
}

// advice is the part of an error that says what to do.
var advice = regexp.MustCompile(`[;:] ((?:give|mount|set|unset|name|say|store|choose|add|restart) .*)$`)

// further is what to do about errors that don't say it.
var further = []struct{ text, do string }{
	{"it does not answer", "see whether its server or CSI driver runs; what reads such a volume can't be ended"},
	{"no such file or directory", "mount the Secret or ConfigMap there, or set the variable to where it is"},
	{"does not belong to the certificate", "write certificate and key into the Secret together; these two are of different issues"},
	{"did not sign certificate", "put the certificates in order: the leaf, then whoever signed each"},
	{"lacks serverAuth", "have it issued with the extended key usage serverAuth"},
	{" ended ", "have it renewed, and see why that did not happen (kubectl describe certificate)"},
	{"PEM", "write PEM there: the chain into tls.crt, the key into tls.key"},
	{"holds no ", "write PEM there: the chain into tls.crt, the key into tls.key, CAs into ca.crt"},
	{"more than one key", "leave the key of the first certificate, and no other"},
	{"tls.crt but no tls.key", "mount a Secret of type kubernetes.io/tls, whole"},
	{".key but no ", "mount a Secret of type kubernetes.io/tls, whole"},
	{"not signed by a CA of the bundle", "mount the list that a CA of the bundle signed"},
	{"leads back", "let the gate listen on the pod's address, as in $(POD_IP):8080=http://127.0.0.1:8080, or on another port"},
	{"not loopback", "let the application listen on 127.0.0.1 and name that in the gate"},
}

// otherwise is what to do about errors that neither say it nor are known.
var otherwise = map[string]string{
	"variables": "correct it in the container's env; README.md has every variable and option",
	"users":     "correct the Secret; sidegate passwd writes such files",
	"policy":    "correct the rules; sidegate explain METHOD PATH tries them",
	"spiffe":    "see the SPIRE agent's log, and that this pod has an entry",
	"cfssl":     "correct the variable or the file it names",
	"acme":      "correct the variable or the file it names",
}

// problem tells an error as broken.
func (f *findings) problem(about string, err error) {
	found, do := err.Error(), ""
	if m := advice.FindStringSubmatchIndex(found); m != nil {
		found, do = found[:m[0]], found[m[2]:]
	}
	for _, a := range further {
		if do == "" && strings.Contains(found, a.text) {
			do = a.do
		}
	}
	f.broken(about, cmp.Or(do, otherwise[about], "correct what is mounted"), "%s%s", found, whose(found))
}

// print writes the findings for a person, and a line that sums them up.
func (f findings) print(w io.Writer) error {
	width := 0
	for _, one := range f {
		width = max(width, len(one.About))
	}
	var b strings.Builder
	for _, one := range f {
		fmt.Fprintf(&b, "%-8s %-*s %s\n", one.Level, width, one.About, inspect.Plain(one.Found))
		if one.Do != "" {
			fmt.Fprintf(&b, "%-8s %-*s -> %s\n", "", width, "", inspect.Plain(one.Do))
		}
	}
	warnings := "1 warning"
	if n := f.count(levelWarning); n != 1 {
		warnings = fmt.Sprintf("%d warnings", n)
	}
	fmt.Fprintf(&b, "%d broken, %s, %d ok\n", f.count(levelBroken), warnings, f.count(levelOK))
	_, err := io.WriteString(w, b.String())
	return err
}

// printJSON writes the same for programs.
func (f findings) printJSON(w io.Writer) error {
	e := json.NewEncoder(inspect.JSON(w))
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Broken   int      `json:"broken"`
		Warnings int      `json:"warnings"`
		Findings findings `json:"findings"`
	}{f.count(levelBroken), f.count(levelWarning), f})
}

// errBroken is a broken finding that was printed already, by its exit code.
var errBroken = errors.New("broken")

// runDoctor is check --here.
func runDoctor(ctx context.Context, p *program, names []string, asJSON bool) error {
	f := newDoctor(names).examine(ctx, p.environ)
	print := f.print
	if asJSON {
		print = f.printJSON
	}
	if err := print(p.stdout); err != nil {
		return err
	}
	if f.count(levelBroken) > 0 {
		return errBroken
	}
	return nil
}

// callable reports whether somebody could call us by the name.
func callable(name string) bool {
	_, err := policy.HostPattern(name)
	return err == nil
}

// number is such as 1 CA, 2 CAs.
func number(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
