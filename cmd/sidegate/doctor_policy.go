package main

import (
	"slices"

	"sidegate/certs/files"
	"sidegate/policy"
)

// lookAtRules tells who may pass, and what is odd about that.
func (d *doctor) lookAtRules() findings {
	var f findings
	a := d.assembly
	if a.users != nil && a.users.Names() != nil {
		f.ok("users", "%s in %s", number(len(a.users.Names()), "user"), d.config.Users)
	}
	for _, g := range d.specs {
		if g.plaintext {
			f.warn("listen", "let only the router reach it (NetworkPolicy), or take tls=off away", "gate %s has no TLS: whoever can reach it sees and says everything", g.name)
		}
	}
	if a.fixed == nil && a.policy == nil {
		return append(f, d.lookAtPolicyFile()...)
	}
	f.ok("policy", "in force: %s", a.rules())
	warnings := a.rules().Warnings()
	if !slices.ContainsFunc(a.stores, func(s *store) bool { return s.Generation() == "" && !s.MayStartEmpty }) {
		warnings = a.policyWarnings() // else what CAs there are is not known
	}
	for _, w := range warnings {
		f.warn("policy", "see the rule: sidegate explain METHOD PATH says who is let in", "%s", w)
	}
	return f
}

// lookAtPolicyFile reads the policy file where serve did not get that far,
// because of gates or users that are not right. Those count as if they were.
func (d *doctor) lookAtPolicyFile() findings {
	var f findings
	path, err := d.assembly.policyFile()
	if err != nil || path == "" {
		return f
	}
	text, err := files.ReadOne(path)
	if err == nil {
		around := d.assembly.surroundings(d.likely)
		if d.assembly.users == nil && d.config.Users != none {
			around.Methods = append(around.Methods, policy.LocalMethod)
		}
		_, err = policy.Parse(path, text, around)
	}
	if err == nil {
		f.ok("policy", "%s can be read; what it says was not compared with gates and users that are not right", path)
		return f
	}
	for _, e := range prefixEach(prefix+"POLICY", err) {
		about := "policy"
		if aboutOf(e) == "files" {
			about = "files"
		}
		f.problem(about, e)
	}
	return f
}
