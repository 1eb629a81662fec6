package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Policy is an immutable list of rules. The first one that a request selects
// decides; where none is selected, the answer is no.
type Policy struct {
	rules    []rule
	prefixes prefixes
	file     string // that it was read from; "": none
	audit    bool   // every refusal by a rule, or for lack of one, passes
	warnings []string

	distinct     bool // the application tells paths apart that differ only in case
	foldsPaths   bool // folding changes a pattern
	namesPaths   bool // a rule does
	namesMethods bool // likewise
}

// prefixes are what a path must begin with for each of the rules, close together
// in memory.
type prefixes struct{ exact, folded []string }

func (p *prefixes) in(folded bool) []string {
	if folded {
		return p.folded
	}
	return p.exact
}

// rule selects requests and says who may make them. An empty list selects all.
type rule struct {
	name      string
	line      int // in the policy file; 0: there is none
	gates     []string
	hosts     []hostPattern
	methods   []string
	paths     patterns
	networks  []netip.Prefix
	preflight bool
	of        *demand // of a rule that denies: whom it selects; nil: all

	deny  bool
	audit bool
	allow []demand // any one suffices
}

// demand is one way to satisfy a rule. Both halves must be met; an empty half
// demands nothing.
type demand struct {
	peers    []peerPrincipal
	users    []userPrincipal
	provable bool // a configured method could prove one of users
}

// append adds a rule behind the others.
func (p *Policy) append(r rule) {
	p.foldsPaths = p.foldsPaths || len(r.paths.exact) > 0 && !r.paths.plain
	p.namesPaths = p.namesPaths || len(r.paths.exact) > 0
	p.namesMethods = p.namesMethods || len(r.methods) > 0 || r.preflight
	p.rules = append(p.rules, r)
	p.prefixes.exact = append(p.prefixes.exact, r.paths.prefix(false))
	p.prefixes.folded = append(p.prefixes.folded, r.paths.prefix(true))
}

// audited lets a refusal pass that is only to be watched.
func (p *Policy) audited(d Decision, audit bool) Decision {
	if d.Allow || !p.audit && !audit {
		return d
	}
	return Decision{Allow: true, Rule: d.Rule, Reason: d.Reason, Audit: true}
}

// Changed never fires: a policy is a value.
func (p *Policy) Changed() <-chan struct{} { return nil }

// passesOver says why a rule does not select a request, "" if it does. What
// fails most often comes first.
func (r *rule) passesOver(req *Request, v reading, id Identity) string {
	switch {
	case len(r.paths.exact) > 0 && !r.paths.match(v.path, v.folded):
		return "path"
	case len(r.gates) > 0 && !slices.Contains(r.gates, req.Gate):
		return "gate"
	case len(r.methods) > 0 && !slices.Contains(r.methods, v.method):
		return "method"
	case len(r.hosts) > 0 && !r.matchHost(req.Host):
		return "host"
	case len(r.networks) > 0 && !r.matchNetwork(req.Client):
		return "network"
	case r.preflight && !(req.Preflight && v.method == req.Method):
		return "preflight"
	case r.of != nil && !r.of.peerMet(id.Peer):
		return "peer"
	case r.of != nil && !r.of.userMet(id.User):
		return "user"
	}
	return ""
}

func (r *rule) matchHost(host string) bool {
	for _, h := range r.hosts {
		if h.match(host) {
			return true
		}
	}
	return false
}

// matchNetwork reports whether a client is one of the rule's. One that is
// unknown could be anybody: it is in no network, and under each rule that denies.
func (r *rule) matchNetwork(a netip.Addr) bool {
	if !a.IsValid() {
		return r.deny
	}
	for _, n := range r.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// IsPreflight reports whether a browser asks before a cross-origin request
// (Fetch, 4.8).
func IsPreflight(method string, h Header) bool {
	return method == "OPTIONS" && h.Get("Origin") != "" && h.Get("Access-Control-Request-Method") != ""
}

// covers reports whether r surely selects each request that other would, folded
// or not.
func (r *rule) covers(other *rule, folded bool, work *int) bool {
	return r.of == nil && (!r.preflight || other.preflight) &&
		coversAll(r.gates, other.gates, work, func(a, b string) bool { return a == b }) &&
		coversAll(r.methods, other.methods, work, func(a, b string) bool { return a == b }) &&
		coversAll(r.hosts, other.hosts, work, func(a, b hostPattern) bool { return a == b || !b.wildcard && a.match(b.name) }) &&
		coversAll(r.paths.in(folded), other.paths.in(folded), work, func(a, b pathPattern) bool { return a.covers(&b) }) &&
		coversAll(r.networks, other.networks, work, func(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) })
}

// coversAll reports whether some a covers each b. An empty list selects all. It
// counts its comparisons, and ends when they are too many.
func coversAll[T any](a, b []T, work *int, covers func(a, b T) bool) bool {
	*work++
	if len(a) == 0 {
		return true
	}
	for _, other := range b {
		if *work += len(a); *work > maxComparisons {
			return true
		}
		if !slices.ContainsFunc(a, func(one T) bool { return covers(one, other) }) {
			return false
		}
	}
	return len(b) > 0
}

func (r *rule) decide(id Identity) Decision {
	d := Decision{Rule: r.name, Reason: RuleDenied}
	for i := range r.allow {
		demand := &r.allow[i]
		if !demand.peerMet(id.Peer) {
			continue
		}
		if demand.userMet(id.User) {
			return Decision{Allow: true, Rule: r.name, Bare: r.preflight}
		}
		if id.User == nil && demand.provable {
			d.Reason, d.Challenge = NoCredentials, true
		}
	}
	return d
}

func (d *demand) peerMet(p *Peer) bool {
	if len(d.peers) == 0 {
		return true
	}
	if p == nil {
		return false
	}
	for i := range d.peers {
		if d.peers[i].match(p) {
			return true
		}
	}
	return false
}

func (d *demand) userMet(u *User) bool {
	if len(d.users) == 0 {
		return true
	}
	for i := range d.users {
		if d.users[i].anyone || u != nil && d.users[i].match(u) {
			return true
		}
	}
	return false
}

// prove notes which demands the configured methods could meet.
func (d *demand) prove(methods []string) {
	for _, u := range d.users {
		if u.provableBy(methods) {
			d.provable = true
		}
	}
}

func (u *userPrincipal) provableBy(methods []string) bool {
	if u.anyone {
		return true
	}
	return len(methods) > 0 && (u.method == "" || slices.Contains(methods, u.method))
}

// GateKind is what a gate asks of clients.
type GateKind struct {
	Name         string
	CertAsked    bool // optional or required
	CertRequired bool
	Raw          bool // TCP: there are no users, methods, hosts and paths
}

// NewAllow is the policy of a list of principals, any one of which suffices.
// methods are the names of the configured ways to prove a user. All problems
// are returned at once, and then the policy is nil.
func NewAllow(principals, methods []string) (*Policy, error) {
	var errs []error
	p := &Policy{}
	r := rule{name: "allow"}
	for _, s := range principals {
		d, err := parseAllowed(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.prove(methods)
		if len(d.users) > 0 && !d.provable {
			p.warnings = append(p.warnings, fmt.Sprintf("nobody can be %s: no configured method proves such a user", s))
		}
		r.allow = append(r.allow, d)
	}
	if len(principals) == 0 {
		errs = append(errs, errors.New("no principal"))
	}
	if len(principals) > 1 && slices.Contains(principals, "anyone") {
		p.warnings = append(p.warnings, "anyone lets everybody in: the principals beside it change nothing")
	}
	p.append(r)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// parseAllowed reads a principal where peers and users stand in one list:
// any-peer is the peers' any, and email: is the user's.
func parseAllowed(s string) (demand, error) {
	if s == "any-peer" {
		peer, err := parsePeer("any")
		return demand{peers: []peerPrincipal{peer}}, err
	}
	user, userErr := parseUser(s)
	if userErr == nil {
		return demand{users: []userPrincipal{user}}, nil
	}
	form, _, _ := strings.Cut(s, ":")
	if slices.Contains(userForms, form+":") {
		return demand{}, userErr
	}
	if s != "any" {
		peer, err := parsePeer(s)
		if err == nil {
			return demand{peers: []peerPrincipal{peer}}, nil
		}
		if slices.Contains(peerForms, form+":") || form == "spiffe" {
			return demand{}, err
		}
	}
	return demand{}, unknownForm(s, append(slices.Clone(userForms), "any-peer", "spiffe://", "dns:", "uri:", "subject:", "cn:"))
}

// NewDefault is the policy of a pod that names nobody: a user where users are
// configured, and a client certificate too where the gate requires one. A gate
// that would let everyone in, or everyone who has any certificate, is an error.
func NewDefault(gates []GateKind, methods []string) (*Policy, error) {
	p := &Policy{}
	var errs []error
	for _, g := range gates {
		switch {
		case slices.Contains(methods, CertMethod) && g.CertAsked:
			errs = append(errs, fmt.Errorf("gate %s: SIDEGATE_CERT_USER makes users of all that the CA signed: say who may pass by SIDEGATE_ALLOW or a policy file", g.Name))
		case len(methods) == 0 && g.CertAsked:
			errs = append(errs, fmt.Errorf("gate %s asks for client certificates and there are no users: set SIDEGATE_ALLOW to the peers that may pass, such as spiffe://…, dns:…, or any-peer for all that the CA signed", g.Name))
		case len(methods) == 0:
			errs = append(errs, fmt.Errorf("gate %s: nothing is configured that could authenticate anyone", g.Name))
		default:
			p.append(defaultRule(g, methods))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

func defaultRule(g GateKind, methods []string) rule {
	user, _ := parseUser("authenticated") // a constant that parses
	d := demand{users: []userPrincipal{user}}
	if g.CertRequired {
		peer, _ := parsePeer("any") // likewise
		d.peers = []peerPrincipal{peer}
	}
	d.prove(methods)
	return rule{name: "default", gates: []string{g.Name}, allow: []demand{d}}
}

// TrustDomains are those of the SPIFFE IDs that rules name.
func (p *Policy) TrustDomains() []string {
	var domains []string
	for i := range p.rules {
		demands := p.rules[i].allow
		if of := p.rules[i].of; of != nil {
			demands = []demand{*of}
		}
		for _, d := range demands {
			for _, peer := range d.peers {
				if td := peer.trustDomain(); td != "" && !slices.Contains(domains, td) {
					domains = append(domains, td)
				}
			}
		}
	}
	return domains
}

// Warnings say what is allowed but probably not meant: users whom no
// configured method proves, and anyone beside other principals.
func (p *Policy) Warnings() []string { return p.warnings }

// String says the rules in one line, for the log at start; of a policy file
// only how many there are.
func (p *Policy) String() string {
	if p.file != "" {
		return fmt.Sprintf("%d rules of %s", len(p.rules), p.file)
	}
	var lines []string
	for i := range p.rules {
		r := &p.rules[i]
		var ways []string
		for _, d := range r.allow {
			ways = append(ways, d.String())
		}
		where := ""
		if len(r.gates) > 0 {
			where = "gate " + strings.Join(r.gates, ", ") + ": "
		}
		lines = append(lines, where+strings.Join(ways, " or "))
	}
	return strings.Join(lines, "; ")
}

func (d demand) String() string {
	var parts []string
	for _, p := range d.peers {
		parts = append(parts, "peer "+p.text)
	}
	for _, u := range d.users {
		parts = append(parts, u.text)
	}
	return strings.Join(parts, " and ")
}
