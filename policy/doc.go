// Package policy says who is asking and whether they may.
//
// It knows neither sockets nor net/http: a [Request] is what a gate saw, an
// [Identity] is who sent it, and a [Policy] answers with a [Decision]. Serving
// and explaining call the same code with the same values.
//
// A policy is a list of rules, which [Parse] reads from a file:
//
//	version: 1
//	sets:
//	  ops: [user:alice, user:bob]
//	rules:
//	  - name: scrape
//	    paths: [/metrics]
//	    methods: [GET]
//	    allow:
//	      - peer: ["spiffe://prod.example/ns/monitoring/sa/prometheus"]
//	      - user: [set:ops]
//	  - name: all others
//	    user: [authenticated]
//
// gates, hosts, methods, paths, networks and preflight select requests; a rule
// that leaves one out does not ask for it. The first rule that is selected
// decides, and no later one is asked: whoever meets neither its peer and user
// nor one of the alternatives under allow is refused. Where no rule is selected,
// the answer is no. A rule with deny refuses all that it selects, and there peer
// and user select too.
//
// Names belong to the method that proved them: user:alice is the user file's
// alice, group:ldap/ops a group that the method ldap vouches for. So nobody
// becomes somebody by taking a name elsewhere.
//
// Where an application may read a request in another way, the rules are asked for
// every reading, and all must come to the same rule and answer: see
// [Policy.Decide]. A target or host that has no usual reading is refused before
// that, by [ParseTarget] and [ParseHost].
package policy
