package policy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// Explanation is a decision and how it came about.
type Explanation struct {
	Decision
	Path string // as rules read it
	// Ambiguous are readings of the request about which the decisions differ, the
	// first of each kind; else nil.
	Ambiguous []Reading
	// Unread is why no reading was judged at all; "": they were.
	Unread string
	Passed []Passed // the rules before the one that decided
	Line   int      // of the rule that decided, in the policy file; 0: none
	Unmet  []string // what each alternative of that rule lacks; nil when allowed
}

// Reading is what is decided if an application reads the request so.
type Reading struct {
	Method  string `json:"method,omitempty"`
	Path    string `json:"path"`
	AnyCase bool   `json:"any_case,omitempty"` // case does not count to the application
	Decision
}

// Passed is a rule that did not select the request.
type Passed struct {
	Rule  string `json:"rule"`
	Line  int    `json:"line,omitempty"`
	Why   string `json:"why"`   // the first thing that does not fit: path, gate, method, host, network, preflight, peer or user
	Wants string `json:"wants"` // what the rule wants there
}

// Explain decides as Decide does, and says why.
func (p *Policy) Explain(ctx context.Context, r *Request, id Identity) Explanation {
	e := Explanation{Decision: p.Decide(ctx, r, id), Path: r.Path}
	if e.Reason == AmbiguousTarget {
		e.Ambiguous, e.Unread = p.differing(r, id)
		return e
	}
	usual := reading{method: r.Method, path: []byte(r.Path)}
	for i := range p.rules {
		rule := &p.rules[i]
		why := rule.passesOver(r, usual, id)
		if why == "" {
			e.Line = rule.line
			if !e.Allow || e.Audit {
				e.Unmet = rule.unmet(id)
			}
			break
		}
		e.Passed = append(e.Passed, Passed{rule.name, rule.line, why, rule.wants(why)})
	}
	return e
}

// differing are the readings by which different rules decide, or why there are
// none.
func (p *Policy) differing(r *Request, id Identity) (list []Reading, unread string) {
	if _, complete := p.methods(nil, r); !complete {
		return nil, errOverrides
	}
	if p.namesPaths && tooAmbiguous(r) {
		return nil, fmt.Sprintf("the path has several readings and more than %d bytes", maxAmbiguous)
	}
	seen := map[int]bool{}
	p.readings(r, func(v reading) bool {
		if i := p.selects(r, v, id); !seen[i] {
			seen[i] = true
			list = append(list, Reading{v.method, cmp.Or(string(v.path), r.Path), v.folded, p.answer(i, id)})
		}
		return true
	})
	return list, ""
}

// wants is what a rule says about the thing that did not fit.
func (r *rule) wants(why string) string {
	switch why {
	case "path":
		return list(r.paths.exact, func(p pathPattern) string { return p.text })
	case "gate":
		return strings.Join(r.gates, " ")
	case "method":
		return strings.Join(r.methods, " ")
	case "host":
		return list(r.hosts, hostPattern.String)
	case "network":
		return list(r.networks, netip.Prefix.String)
	case "preflight":
		return "OPTIONS with Origin and Access-Control-Request-Method"
	case "peer":
		return r.of.peerText()
	}
	return r.of.userText()
}

func (h hostPattern) String() string {
	if h.wildcard {
		return "*." + h.name
	}
	return h.name
}

func list[T any](items []T, text func(T) string) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = text(item)
	}
	return strings.Join(texts, " ")
}

// unmet says for each alternative what is missing.
func (r *rule) unmet(id Identity) []string {
	if r.deny {
		return []string{"the rule refuses whatever it selects"}
	}
	var lacks []string
	for i := range r.allow {
		d := &r.allow[i]
		var parts []string
		if !d.peerMet(id.Peer) {
			parts = append(parts, fmt.Sprintf("peer %s (came: %s)", d.peerText(), id.Peer))
		}
		if !d.userMet(id.User) {
			parts = append(parts, fmt.Sprintf("user %s (came: %s)", d.userText(), id.User))
		}
		lacks = append(lacks, strings.Join(parts, " and "))
	}
	return lacks
}

func (d *demand) peerText() string {
	return list(d.peers, func(p peerPrincipal) string { return p.text })
}

func (d *demand) userText() string {
	return list(d.users, func(u userPrincipal) string { return u.text })
}

// String is a name of the peer as rules write it, or "none".
func (p *Peer) String() string {
	if p == nil {
		return "none"
	}
	form, name := p.name()
	return form + name
}

// String is the user as rules name it.
func (u *User) String() string {
	if u == nil {
		return "none"
	}
	return "user:" + u.Method + "/" + u.Name
}
