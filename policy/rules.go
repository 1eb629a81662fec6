package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Policy is an immutable list of rules. The first one that a request selects
// decides; where none is selected, the answer is no.
type Policy struct {
	rules    []rule
	warnings []string
}

// rule selects requests and says who may make them.
type rule struct {
	name  string
	gates []string // empty: every gate
	allow []demand // any one suffices
}

// demand is one way to satisfy a rule. Both halves must be met; an empty half
// demands nothing.
type demand struct {
	peers    []peerPrincipal
	users    []userPrincipal
	provable bool // a configured method could prove one of users
}

// Decide answers a request. It allocates nothing and may be called concurrently.
func (p *Policy) Decide(_ context.Context, r *Request, id Identity) Decision {
	for i := range p.rules {
		if rule := &p.rules[i]; rule.selects(r) {
			return rule.decide(id)
		}
	}
	return Decision{Reason: NoRule}
}

// Changed never fires: a policy is a value.
func (p *Policy) Changed() <-chan struct{} { return nil }

func (r *rule) selects(req *Request) bool {
	return len(r.gates) == 0 || slices.Contains(r.gates, req.Gate)
}

func (r *rule) decide(id Identity) Decision {
	d := Decision{Rule: r.name, Reason: RuleDenied}
	for i := range r.allow {
		demand := &r.allow[i]
		if !demand.peerMet(id.Peer) {
			continue
		}
		if demand.userMet(id.User) {
			return Decision{Allow: true, Rule: r.name}
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

// GateKind is what a gate asks of clients, for [NewDefault].
type GateKind struct {
	Name         string
	CertAsked    bool // optional or required
	CertRequired bool
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
	p.rules = []rule{r}
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
		case len(methods) == 0 && g.CertAsked:
			errs = append(errs, fmt.Errorf("gate %s asks for client certificates and there are no users: set SIDEGATE_ALLOW to the peers that may pass, such as spiffe://…, dns:…, or any-peer for all that the CA signed", g.Name))
		case len(methods) == 0:
			errs = append(errs, fmt.Errorf("gate %s: nothing is configured that could authenticate anyone", g.Name))
		default:
			p.rules = append(p.rules, defaultRule(g, methods))
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

// Warnings say what is allowed but probably not meant: users whom no
// configured method proves, and anyone beside other principals.
func (p *Policy) Warnings() []string { return p.warnings }

// String says the rules in one line each, for the log at start.
func (p *Policy) String() string {
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
