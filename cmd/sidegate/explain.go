package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"sidegate/certs/files"
	"sidegate/certs/inspect"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// question is what explain is asked.
type question struct {
	policy, gate, host, from        string
	peer, cert, user, groups, email string
	log                             string
	preflight, json                 bool
	override                        string
	method, target                  string
}

func explainHelp() string {
	return `Usage: sidegate explain [options] METHOD PATH
       sidegate explain [options] --log FILE

Says what is decided about a request, by which rule, and why not by those
before it, as serve would with the same variables and files. Certificates and
passwords are not asked for: whoever is named counts as proven.

    --policy FILE       judge by this policy file instead
    --gate NAME         the gate it comes in by; needed where there are several
    --host HOST         the host it is for
    --from IP           the client's address; unset, or unknown: one that no
                        trusted proxy names, in no network and under each deny
    --peer NAME         its certificate: spiffe://..., dns:..., uri:..., cn:...
    --cert FILE         the same, from a PEM file
    --user [METHOD/]NAME, --groups METHOD/A,METHOD/B, --email ADDRESS
                        the user; METHOD is local unless said
    --preflight         it is a CORS preflight
    --override METHOD   a field such as X-HTTP-Method-Override names this method
    --json              the answer as JSON
    --log FILE          replay an access log (- for stdin) and print the
                        decisions that would change

Exit codes: 0 allowed, or nothing changes; 3 refused, or something does.

Examples:

    sidegate explain GET /metrics --peer spiffe://prod.example/ns/monitoring/sa/prometheus
    kubectl logs deployment/web -c sidegate | sidegate explain --policy new.yaml --log -
`
}

// parseQuestion reads options and words in any order.
func parseQuestion(args []string) (*question, error) {
	q := &question{}
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	for name, to := range map[string]*string{
		"policy": &q.policy, "gate": &q.gate, "host": &q.host, "from": &q.from, "peer": &q.peer,
		"override": &q.override, "cert": &q.cert, "user": &q.user, "groups": &q.groups, "email": &q.email, "log": &q.log,
	} {
		flags.StringVar(to, name, "", "")
	}
	flags.BoolVar(&q.preflight, "preflight", false, "")
	flags.BoolVar(&q.json, "json", false, "")
	words, err := wordsAndFlags(flags, args)
	switch {
	case err != nil:
		return nil, usagef("explain: %v; explain -h lists the options", err)
	case q.log != "" && len(words) == 0:
		return q, nil
	case q.log != "":
		return nil, usagef("explain: --log takes requests from the log, not %q", words[0])
	case len(words) != 2:
		return nil, usagef("explain: wants METHOD and PATH, such as GET /metrics; explain -h shows more")
	}
	q.method, q.target = words[0], words[1]
	return q, nil
}

// wordsAndFlags reads flags and words in any order, and returns the words.
func wordsAndFlags(flags *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return words, nil
		}
		words, args = append(words, flags.Arg(0)), flags.Args()[1:]
	}
}

func runExplain(ctx context.Context, p *program) error {
	q, err := parseQuestion(p.args)
	if err != nil {
		return err
	}
	j, err := newJudge(ctx, p, q)
	if err != nil {
		return usageError{listed("explain", err)}
	}
	if q.log != "" {
		return replay(ctx, p, j, q)
	}
	gate, err := j.gate(q.gate)
	if err != nil {
		return usageError{err}
	}
	id, err := q.identity()
	if err != nil {
		return usageError{err}
	}
	if id.User == nil {
		id.User = gate.CertUser.Of(id.Peer)
	}
	j.doubt(p.stderr, id)
	r, err := q.request(gate)
	if err != nil {
		return usageError{err}
	}
	v := j.verdict(ctx, gate, r, id)
	if q.json {
		err = json.NewEncoder(inspect.JSON(p.stdout)).Encode(v)
	} else {
		v.print(p.stdout)
	}
	if err == nil && v.Decision == "deny" {
		err = errDenied
	}
	return err
}

// judge decides as serve does, without sockets and certificates.
type judge struct {
	assembly
	rules *policy.Policy
}

func newJudge(ctx context.Context, p *program, q *question) (*judge, error) {
	c, err := readConfig(p.environ, "USERS", "POLICY") // CAs are not asked for
	if err != nil {
		return nil, err
	}
	j := &judge{assembly: assembly{config: c, log: slog.New(slog.DiscardHandler)}}
	specs, err := gateSpecs(c)
	if err != nil {
		return nil, err
	}
	if err := j.loadUsers(ctx); err != nil {
		return nil, err
	}
	for _, s := range specs {
		gate := s.gate(policy.CertUser(c.CertUser))
		if j.users != nil || q.policy != "" {
			gate.Authenticators = []tlsproxy.Authenticator{j.users} // only to be counted
		}
		j.gates = append(j.gates, gate)
	}
	if q.policy == "" {
		err = j.loadPolicy(ctx, specs, true)
		if err != nil {
			return nil, err
		}
		j.rules = j.assembly.rules()
		return j, nil
	}
	text, err := files.ReadOne(q.policy)
	if err != nil {
		return nil, err
	}
	around := j.surroundings(specs)
	if len(around.Methods) == 0 { // on a machine without the users of the pod
		around.Methods = []string{policy.LocalMethod}
	}
	j.rules, err = policy.Parse(q.policy, text, around)
	return j, err
}

// gate is the one with the name, or the only one.
func (j *judge) gate(name string) (*tlsproxy.Gate, error) {
	var names []string
	for _, g := range j.gates {
		if g.Name == name || name == "" && len(j.gates) == 1 {
			return g, nil
		}
		names = append(names, g.Name)
	}
	if name == "" {
		return nil, fmt.Errorf("explain: say --gate, one of %s", strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("explain: no gate is called %q%s; there are %s", name, didYouMean(name, names), strings.Join(names, ", "))
}

// doubt says what serve would refuse before it asked the rules.
func (j *judge) doubt(w io.Writer, id policy.Identity) {
	if u := id.User; u != nil && j.users != nil && u.Method == policy.LocalMethod && !slices.Contains(j.users.Names(), u.Name) {
		line(w, "note: %s is not in the user file, so nobody can prove to be", u.Name)
	}
}

func (q *question) identity() (policy.Identity, error) {
	var id policy.Identity
	var err error
	switch {
	case q.peer != "" && q.cert != "":
		return id, errors.New("explain: --peer and --cert are both a certificate")
	case q.peer != "":
		if id.Peer, err = policy.PeerOf(q.peer); err != nil {
			return id, fmt.Errorf("explain: --peer: %w", err)
		}
	case q.cert != "":
		if id.Peer, err = peerOfFile(q.cert); err != nil {
			return id, fmt.Errorf("explain: --cert: %w", err)
		}
	}
	if q.user == "" {
		if q.groups != "" || q.email != "" {
			return id, errors.New("explain: --groups and --email are a user's: say --user")
		}
		return id, nil
	}
	var groups []string
	if q.groups != "" {
		groups = strings.Split(q.groups, ",")
	}
	if id.User, err = policy.UserOf(q.user, groups); err != nil {
		return id, fmt.Errorf("explain: --user: %w", err)
	}
	id.User.Email = q.email
	return id, nil
}

func peerOfFile(file string) (*policy.Peer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no PEM certificate at its beginning", file)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return policy.NewPeer(leaf), nil
}

func (q *question) request(g *tlsproxy.Gate) (*policy.Request, error) {
	r := &policy.Request{Method: q.method, Host: q.host, Target: q.target, Preflight: q.preflight}
	if q.override != "" {
		r.Overrides = policy.MethodOverrides(http.Header{"X-Http-Method-Override": {q.override}})
	}
	if q.preflight && q.method != http.MethodOptions {
		return nil, errors.New("explain: a preflight is OPTIONS")
	}
	if r.Host == "" && len(g.Hosts) > 0 {
		r.Host = authority(strings.Replace(g.Hosts[0], "*", "any", 1))
	}
	if q.from != "" && q.from != tlsproxy.UnknownClient {
		a, err := netip.ParseAddr(q.from)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("explain: --from %q is no address without zone, nor unknown", q.from)
		}
		r.Client = a.Unmap()
	}
	return r, nil
}

// authority is how a client names a canonical host.
func authority(host string) string {
	if strings.Contains(host, ":") { // IPv6
		return "[" + host + "]"
	}
	return host
}

// verdict is what explain says.
type verdict struct {
	Decision  string           `json:"decision"` // allow, deny, or audit: it would be denied
	Rule      string           `json:"rule,omitempty"`
	Line      int              `json:"line,omitempty"`
	Reason    policy.Reason    `json:"reason,omitempty"`
	Status    int              `json:"status,omitempty"`  // of the refusal
	Because   string           `json:"because,omitempty"` // what is wrong with the request itself
	Path      string           `json:"path,omitempty"`    // as rules read it
	Lacks     []string         `json:"lacks,omitempty"`
	Passed    []policy.Passed  `json:"passed,omitempty"`
	Ambiguous []policy.Reading `json:"ambiguous,omitempty"`
}

func (j *judge) verdict(ctx context.Context, g *tlsproxy.Gate, r *policy.Request, id policy.Identity) *verdict {
	e := explanation(ctx, j.rules, g, r, id)
	v := &verdict{Decision: "allow", Rule: e.Rule, Line: e.Line, Reason: e.Reason, Because: e.Unread, Path: e.Path, Lacks: e.Unmet, Passed: e.Passed, Ambiguous: e.Ambiguous}
	switch {
	case e.Audit:
		v.Decision = "audit"
	case !e.Allow:
		v.Decision = "deny"
		v.Status = g.Status(e.Decision)
	}
	return v
}

// explanation is the policy's, or why the gate never asks it.
func explanation(ctx context.Context, rules *policy.Policy, g *tlsproxy.Gate, r *policy.Request, id policy.Identity) policy.Explanation {
	refusal := g.Canonicalise(r)
	if refusal == nil {
		return rules.Explain(ctx, r, id)
	}
	e := policy.Explanation{Decision: policy.Decision{Reason: refusal.Reason}}
	if refusal.Err != nil {
		e.Unread = refusal.Err.Error()
	}
	return e
}

func (v *verdict) print(w io.Writer) {
	rule := "no rule"
	if v.Rule != "" {
		rule = "rule " + quoted(v.Rule, v.Line)
	}
	switch v.Decision {
	case "allow":
		line(w, "allow   %s", rule)
	case "audit":
		line(w, "allow   %s, audit: it would be refused for %s", rule, v.Reason)
	default:
		line(w, "deny    %s: %s, status %d", rule, v.Reason, v.Status)
	}
	if v.Because != "" {
		line(w, "because %s", v.Because)
	}
	for _, l := range v.Lacks {
		line(w, "lacks   %s", l)
	}
	for _, r := range v.Ambiguous {
		name := "no rule"
		if r.Rule != "" {
			name = "rule " + r.Rule
		}
		line(w, "read as %s: %s, allowed: %t", v.readAs(&r), name, r.Allow)
	}
	for _, s := range v.Passed {
		line(w, "not by  %s: %s is not %s", quoted(s.Rule, s.Line), s.Why, s.Wants)
	}
}

// readAs says a reading by what is special about it.
func (v *verdict) readAs(r *policy.Reading) string {
	text := r.Path
	if slices.ContainsFunc(v.Ambiguous, func(other policy.Reading) bool { return other.Method != r.Method }) {
		text = r.Method + " " + text
	}
	if r.AnyCase {
		text += " in any case (unless paths_case: distinct)"
	}
	return text
}

func quoted(rule string, line int) string {
	if line == 0 {
		return fmt.Sprintf("%q", rule)
	}
	return fmt.Sprintf("%q (line %d)", rule, line)
}
