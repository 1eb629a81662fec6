package policy

import "context"

// Decide answers a request. Where applications may read it in several ways, the
// same rule must answer in the same way under each, else nobody knows which
// request this is:
//
//   - The path may be decoded again, cut at a decoded # or ? or at parameters,
//     and have its slashes merged and its backslashes turned. Such a path has at
//     most 4 KiB.
//   - Case may not count in paths, unless the policy says paths_case: distinct.
//   - The method may be the one that a field or the query names instead.
//
// Only readings that a rule could tell apart are made. Decide allocates nothing
// and may be called concurrently.
func (p *Policy) Decide(_ context.Context, r *Request, id Identity) Decision {
	selected := undecided
	complete := p.readings(r, func(v reading) bool {
		i := p.selects(r, v, id)
		if selected == undecided {
			selected = i
		}
		return i == selected
	})
	if !complete {
		return Decision{Reason: AmbiguousTarget}
	}
	return p.answer(selected, id)
}

// Instead of the index of a rule.
const (
	noRule    = -1
	undecided = -2
)

// readings calls visit with each way in which applications may read the request,
// the usual one first, until visit returns false. It reports whether visit has
// seen them all.
func (p *Policy) readings(r *Request, visit func(reading) bool) bool {
	var array [maxMethods]string
	methods, complete := p.methods(array[:0], r)
	return complete && p.pathReadings(r, func(path []byte, folded bool) bool {
		for _, m := range methods {
			if !visit(reading{m, path, folded}) {
				return false
			}
		}
		return true
	})
}

// selects is the index of the rule that decides about one reading of a request,
// or noRule. Its answer depends on nothing else of the request.
func (p *Policy) selects(r *Request, v reading, id Identity) int {
	for i, prefix := range p.prefixes.in(v.folded) {
		if len(v.path) < len(prefix) || string(v.path[:len(prefix)]) != prefix {
			continue
		}
		if p.rules[i].passesOver(r, v, id) == "" {
			return i
		}
	}
	return noRule
}

// answer is that of the rule with the index.
func (p *Policy) answer(i int, id Identity) Decision {
	if i == noRule {
		return p.audited(Decision{Reason: NoRule}, false)
	}
	return p.audited(p.rules[i].decide(id), p.rules[i].audit)
}
