package policy_test

import (
	"testing"

	"sidegate/policy"
)

// HTTP-02, HTTP-04: where an application could read another path, every reading
// must meet the same rule with the same answer; else nobody knows which request
// this is, whether the canonical path would pass or not.
func TestReadingsMustAgree(t *testing.T) {
	p := parse(t, `version: 1
rules:
- {name: admin, paths: [/admin/**], user: [user:root]}
- {name: closed, paths: [/closed/**], deny: true}
- {name: rest, user: [user:alice, user:root]}
`)
	for _, c := range []struct {
		line, user string
		want       policy.Decision
	}{
		{"GET /x%2Fy", "alice", policy.Decision{Allow: true, Rule: "rest"}},
		{"GET //x", "alice", policy.Decision{Allow: true, Rule: "rest"}},
		{"GET //admin", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET //admin", "root", policy.Decision{Reason: policy.AmbiguousTarget}}, // allowed by two rules
		{"GET /admin;x", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /closed%2Fx", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /admin%2Fx", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /x%2F%2Fadmin", "alice", policy.Decision{Allow: true, Rule: "rest"}},
		{"GET /admin//x", "root", policy.Decision{Allow: true, Rule: "admin"}},
	} {
		if got := p.Decide(t.Context(), request(t, c.line), policy.Identity{User: local(c.user)}); got != c.want {
			t.Errorf("%s as %s: got %+v, want %+v", c.line, c.user, got, c.want)
		}
	}
}
