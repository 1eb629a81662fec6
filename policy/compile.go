package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Surroundings are what a policy is read against.
type Surroundings struct {
	Gates   []GateKind
	Methods []string // names of the configured ways to prove a user
}

// Parse reads a policy file. Its problems are returned all at once, each with
// file, line and column, and then the policy is nil.
func Parse(file string, text []byte, s Surroundings) (*Policy, error) {
	c := &compiler{problems: problems{file: file}, Surroundings: s}
	doc := c.parse(text)
	if err := c.err(); err != nil {
		return nil, err
	}
	p := c.policy(doc)
	if err := c.err(); err != nil {
		return nil, err
	}
	p.warnings = c.warnings
	return p, nil
}

// compiler makes a policy of a document.
type compiler struct {
	problems
	Surroundings
	sets     map[string]located
	used     map[string]bool    // sets that a rule names
	distinct bool               // of Policy
	cases    map[string]located // paths so far, by their folded form
	warnings []string

	comparisons int // so far, see reachable
}

func (c *compiler) warn(at position, format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf("%s:%d:%d: %s", c.file, at.line, at.column, fmt.Sprintf(format, args...)))
}

func (c *compiler) policy(doc *document) *Policy {
	switch {
	case doc.Version.at.line == 0:
		c.add(position{1, 1}, "version is missing; this is version: 1")
	case doc.Version.text != "1":
		c.add(doc.Version.at, "version %s is not known here, 1 is", doc.Version.text)
	}
	if len(doc.Rules) == 0 {
		c.add(position{1, 1}, "rules is missing; without a rule nobody may do anything")
	}
	if doc.Audit.on {
		c.warn(doc.Audit.at, "audit: nothing is refused for lack of a right, it is only watched")
	}
	c.sets, c.used, c.cases = doc.Sets, map[string]bool{}, map[string]located{}
	c.pathsCase(doc.PathsCase)
	p := &Policy{file: c.file, audit: doc.Audit.on, distinct: c.distinct}
	names := map[string]position{}
	for i := range doc.Rules {
		t := &doc.Rules[i]
		c.name(t, names)
		r := c.rule(t)
		c.reachable(p.rules, r, t)
		p.append(*r)
	}
	for _, name := range slices.Sorted(maps.Keys(c.sets)) {
		c.checkSet(c.sets[name])
	}
	return p
}

// pathsCase reads the only word that there is for it.
func (c *compiler) pathsCase(w located) {
	c.distinct = w.text == pathsDistinct
	if w.at.line > 0 && !c.distinct {
		c.add(w.at, "paths_case is %q; write %s, or leave it out if case may not count to the application", w.text, pathsDistinct)
	}
}

const pathsDistinct = "distinct"

// oneCase refuses paths that are one to an application to which case does not
// count: no request for them would ever be let through.
func (c *compiler) oneCase(paths []located) {
	if c.distinct {
		return
	}
	for _, w := range paths {
		folded, _ := appendFolded(nil, []byte(w.text))
		before, again := c.cases[string(folded)]
		switch {
		case !again:
			c.cases[string(folded)] = w
		case before.text != w.text:
			c.add(w.at, "%q differs only in case from %q in line %d, and applications may take one for the other; keep one of them, or write paths_case: %s at the top if the application tells them apart", w.text, before.text, before.at.line, pathsDistinct)
		}
	}
}

// name refuses rules that the log could not tell apart.
func (c *compiler) name(t *ruleText, names map[string]position) {
	if t.Name.at.line == 0 {
		c.add(t.at, "the rule has no name, by which the log would call it")
		return
	}
	if before, taken := names[t.Name.text]; taken {
		c.add(t.Name.at, "the rule of line %d is called %q too", before.line, t.Name.text)
	}
	names[t.Name.text] = t.Name.at
}

func (c *compiler) rule(t *ruleText) *rule {
	r := &rule{name: t.Name.text, line: t.at.line, deny: t.Deny.on, audit: t.Audit.on}
	r.gates = c.gates(t.Gates)
	r.hosts = each(c, t.Hosts, parseHost)
	r.methods = c.methods(t.Methods)
	r.paths = newPatterns(each(c, t.Paths, parsePath))
	c.oneCase(t.Paths)
	r.networks = each(c, t.Networks, ParseNetwork)
	r.preflight = t.Preflight.on
	direct := len(t.Peer) > 0 || len(t.User) > 0
	switch {
	case t.Deny.on && len(t.Allow) > 0:
		c.add(t.Deny.at, "the rule both allows and denies")
	case t.Deny.on:
		if direct {
			r.of = c.demand(t, t.Peer, t.User, t.at)
		}
	case direct && len(t.Allow) > 0:
		c.add(t.at, "the rule has allow beside peer or user; put those under allow")
	case direct:
		r.allow = []demand{*c.demand(t, t.Peer, t.User, t.at)}
	case len(t.Allow) > 0:
		for _, d := range t.Allow {
			if len(d.Peer) == 0 && len(d.User) == 0 {
				c.add(d.at, "names neither peer nor user; say user: [anyone] for no demand at all")
				continue
			}
			r.allow = append(r.allow, *c.demand(t, d.Peer, d.User, d.at))
		}
	default:
		c.add(t.at, "the rule says nobody: give it peer, user, allow, or deny: true; user: [anyone] for no demand at all")
	}
	c.openToAll(t, r)
	if r.audit {
		c.warn(t.Audit.at, "audit: what rule %q refuses passes, it is only watched", r.name)
	}
	return r
}

// each parses every word of a list.
func each[T any](c *compiler, words []located, parse func(string) (T, error)) []T {
	if len(words) == 0 {
		return nil
	}
	list := make([]T, 0, len(words))
	for _, w := range words {
		v, err := parse(w.text)
		if err != nil {
			c.add(w.at, "%q: %v", w.text, err)
			continue
		}
		list = append(list, v)
	}
	return list
}

func (c *compiler) gates(words []located) []string {
	known := make([]string, len(c.Gates))
	for i, g := range c.Gates {
		known[i] = g.Name
	}
	return each(c, words, func(name string) (string, error) {
		if !slices.Contains(known, name) {
			return "", fmt.Errorf("no gate is called so; there are %s%s", strings.Join(known, ", "), meant(name, known))
		}
		return name, nil
	})
}

var methodNames = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (c *compiler) methods(words []located) []string {
	list := each(c, words, func(method string) (string, error) {
		upper := strings.ToUpper(method)
		switch {
		case upper == "TRACE" || upper == "CONNECT":
			return "", errors.New("is never let through")
		case method != upper:
			return "", fmt.Errorf("methods are in capitals: %s", upper)
		case strings.ContainsFunc(method, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }):
			return "", fmt.Errorf("is no method%s", meant(method, methodNames))
		}
		return method, nil
	})
	if slices.Contains(list, "GET") && !slices.Contains(list, "HEAD") {
		list = append(list, "HEAD")
	}
	return list
}

// hostPattern is a name, or with a wildcard every name of one label more.
type hostPattern struct {
	name     string
	wildcard bool
}

func parseHost(text string) (hostPattern, error) {
	canonical, err := HostPattern(text)
	switch {
	case err != nil:
		return hostPattern{}, errors.New("is no host name, without port, or *. and one")
	case strings.ToLower(text) != text:
		return hostPattern{}, fmt.Errorf("hosts are compared in lower case: %s", canonical)
	case canonical != text:
		return hostPattern{}, fmt.Errorf("hosts are compared in one form: write %s", canonical)
	}
	name, wildcard := strings.CutPrefix(text, "*.")
	return hostPattern{name, wildcard}, nil
}

func (h hostPattern) match(host string) bool {
	if h.wildcard {
		_, host, _ = strings.Cut(host, ".")
	}
	return host == h.name
}

// demand compiles what a rule wants of peer and user.
func (c *compiler) demand(t *ruleText, peers, users []located, at position) *demand {
	d := &demand{}
	for _, w := range c.resolve(peers, isPeer, "users") {
		p, err := parsePeer(w.text)
		if err != nil {
			c.add(w.at, "%v", err)
			continue
		}
		d.peers = append(d.peers, p)
	}
	for _, w := range c.resolve(users, isUser, "client certificates") {
		u, err := parseUser(w.text)
		if err != nil {
			c.add(w.at, "%v", err)
			continue
		}
		if !u.provableBy(c.Methods) {
			c.warn(w.at, "nobody can be %s: no configured method proves such a user", w.text)
		}
		d.users = append(d.users, u)
	}
	d.prove(c.Methods)
	c.fitsGates(t, d, at)
	return d
}

// resolve puts the members of sets in their place. fits says whether a member
// may stand here, and other what it is if not.
func (c *compiler) resolve(words []located, fits func(string) bool, other string) []located {
	var all []located
	for _, w := range words {
		name, isSet := strings.CutPrefix(w.text, "set:")
		if !isSet {
			all = append(all, w)
			continue
		}
		c.used[name] = true
		set, ok := c.sets[name]
		if !ok {
			c.add(w.at, "there is no set %q%s", name, meant(name, slices.Sorted(maps.Keys(c.sets))))
			continue
		}
		for _, member := range set.list {
			if fits(member.text) {
				all = append(all, member)
			} else if isPeer(member.text) || isUser(member.text) {
				c.add(w.at, "set %q holds %s, such as %s", name, other, member.text)
			}
		}
	}
	return all
}

func isPeer(principal string) bool { _, err := parsePeer(principal); return err == nil }

func isUser(principal string) bool { _, err := parseUser(principal); return err == nil }

// checkSet refuses members that are nobody, and sets of peers and users: whom
// such a set lets in would depend on where it is named. An e-mail address may
// be either's.
func (c *compiler) checkSet(set located) {
	peers, users := false, false
	for _, w := range set.list {
		peer, user := isPeer(w.text), isUser(w.text)
		peers, users = peers || peer && !user, users || user && !peer
		switch {
		case strings.HasPrefix(w.text, "set:"):
			c.add(w.at, "a set holds no other sets")
		case !peer && !user:
			_, err := parseAllowed(w.text)
			if err == nil { // any-peer
				err = fmt.Errorf("%q is of SIDEGATE_ALLOW; say any", w.text)
			}
			c.add(w.at, "%v", err)
		}
	}
	if peers && users {
		c.add(set.at, "set %q holds both peers and users", set.text)
	}
	if !c.used[set.text] {
		c.warn(set.at, "no rule names set:%s", set.text)
	}
}

// fitsGates refuses demands that no client of a gate can meet: of one that the
// rule names, or of all gates where it names none.
func (c *compiler) fitsGates(t *ruleText, d *demand, at position) {
	if t.Deny.on {
		return
	}
	if g := c.unfit(t, func(g GateKind) bool { return g.Raw && len(d.users) > 0 }); g != "" {
		c.add(at, "gate %s is raw TCP, where nobody can prove to be a user; name peers", g)
	}
	anyone := len(d.peers) == 0 && slices.ContainsFunc(d.users, func(u userPrincipal) bool { return u.anyone })
	if g := c.unfit(t, func(g GateKind) bool { return g.CertRequired && anyone }); g != "" {
		c.add(at, "anyone is not true at gate %s, which requires a client certificate; set client_cert to optional and name the peers in the other rules, or give this rule peer: [any]", g)
	}
}

// unfit is a gate of the rule that is so, "" if there is none.
func (c *compiler) unfit(t *ruleText, is func(GateKind) bool) string {
	count, name := 0, ""
	for _, g := range c.Gates {
		if !is(g) {
			continue
		}
		if slices.ContainsFunc(t.Gates, func(w located) bool { return w.text == g.Name }) {
			return g.Name
		}
		count, name = count+1, g.Name
	}
	if len(t.Gates) == 0 && count > 0 && count == len(c.Gates) {
		return name
	}
	return ""
}

// openToAll warns of a rule by which everybody may do everything.
func (c *compiler) openToAll(t *ruleText, r *rule) {
	everywhere := len(r.paths.exact) == 0 || slices.ContainsFunc(r.paths.exact, func(p pathPattern) bool { return p.text == "/**" })
	for _, d := range r.allow {
		if everywhere && len(r.methods) == 0 && !r.preflight && len(d.peers) == 0 && slices.ContainsFunc(d.users, func(u userPrincipal) bool { return u.anyone }) {
			c.warn(t.at, "rule %q lets anyone do anything", r.name)
		}
	}
}

// maxComparisons bounds how long a policy may take to load: a few seconds.
const maxComparisons = 250_000_000

// reachable refuses a rule whose every request an earlier one decides.
func (c *compiler) reachable(before []rule, r *rule, t *ruleText) {
	for i := range before {
		if c.comparisons > maxComparisons {
			return // that was said
		}
		covered := before[i].covers(r, false, &c.comparisons)
		folded := !covered && !c.distinct && !(r.paths.plain && before[i].paths.plain) && before[i].covers(r, true, &c.comparisons)
		switch {
		case c.comparisons > maxComparisons:
			c.add(t.at, "the policy is too large: up to rule %q, number %d, it takes %d comparisons of paths, hosts and networks to see which rules are never reached; use fewer rules, or patterns such as /a/** for many paths",
				r.name, len(before)+1, maxComparisons)
			return
		case covered:
			c.add(t.at, "rule %q is never reached: %q in line %d decides all of its requests", r.name, before[i].name, before[i].line)
			return
		case folded:
			c.add(t.at, "rule %q is never reached where case does not count in paths: %q in line %d decides all of its requests; write paths_case: %s at the top if the application tells them apart", r.name, before[i].name, before[i].line, pathsDistinct)
			return
		}
	}
}
