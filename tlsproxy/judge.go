package tlsproxy

import (
	"net/http"
	"strings"

	"sidegate/policy"
)

// Canonicalise brings a request into the one form in which rules see it. Of r
// are set Method, Host as the client said it, and Target. The result is why it
// must be refused before any rule is asked, or "".
func (g *Gate) Canonicalise(r *policy.Request) policy.Reason {
	r.Gate, r.Host = g.Name, CanonicalHost(r.Host)
	switch {
	case r.Method == http.MethodTrace || r.Method == http.MethodConnect || oddlySpelled(r.Method):
		return policy.MethodRefused
	case !g.servesHost(r.Host):
		return policy.WrongHost
	case r.Method == http.MethodOptions && r.Target == "*":
		r.Path = "*"
		return ""
	}
	path, readings, err := policy.ParseTarget(r.Target)
	if err != nil {
		return policy.AmbiguousTarget
	}
	r.Path, r.Readings = path, readings
	return ""
}

// oddlySpelled reports whether a method is a well-known one but for its case.
// It is another one then (RFC 9110, 9.1), which applications may not know.
func oddlySpelled(method string) bool {
	if strings.ToUpper(method) == method {
		return false
	}
	switch strings.ToUpper(method) {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return true
	}
	return false
}

// Status is the HTTP status of the answer to a request that was refused: 401
// where a credential of one of the gate's methods would help.
func (g *Gate) Status(d policy.Decision) int {
	switch {
	case d.Challenge && len(g.Authenticators) > 0:
		return http.StatusUnauthorized
	case d.Reason == policy.DependencyDown:
		return http.StatusServiceUnavailable
	case d.Reason == policy.AmbiguousTarget:
		return http.StatusBadRequest
	case d.Reason == policy.MethodRefused:
		return http.StatusMethodNotAllowed
	case d.Reason == policy.WrongHost:
		return http.StatusMisdirectedRequest
	}
	return http.StatusForbidden
}
