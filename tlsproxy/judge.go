package tlsproxy

import (
	"errors"
	"net/http"
	"strings"

	"sidegate/policy"
)

// Canonicalise brings a request into the one form in which rules see it. Of r
// are set Method, Host as the client said it, and Target. The result is why it
// must be refused before any rule is asked, or nil.
func (g *Gate) Canonicalise(r *policy.Request) *policy.Refusal {
	r.Gate = g.Name
	host, err := policy.ParseHost(r.Host)
	if err != nil {
		return &policy.Refusal{Reason: policy.BadRequest, Err: err}
	}
	r.Host = host
	switch {
	case !isToken(r.Method):
		return &policy.Refusal{Reason: policy.BadRequest, Err: errMethod}
	case r.Method == http.MethodTrace || r.Method == http.MethodConnect || oddlySpelled(r.Method):
		return &policy.Refusal{Reason: policy.MethodRefused}
	case !g.servesHost(r.Host):
		return &policy.Refusal{Reason: policy.WrongHost}
	case r.Method == http.MethodOptions && r.Target == "*":
		r.Path = "*"
		return nil
	}
	if r.Path, err = policy.ParseTarget(r.Target); err != nil {
		return &policy.Refusal{Reason: policy.AmbiguousTarget, Err: err}
	}
	return nil
}

var errMethod = errors.New("the method is no token")

// isToken reports whether s is a token (RFC 9110 5.6.2). HTTP/2 takes other
// methods too, in which an HTTP/1.1 application would see a target.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte("!#$%&'*+-.^_`|~0123456789", c) < 0 {
			return false
		}
	}
	return s != ""
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
	case d.Reason == policy.AmbiguousTarget, d.Reason == policy.BadRequest:
		return http.StatusBadRequest
	case d.Reason == policy.MethodRefused:
		return http.StatusMethodNotAllowed
	case d.Reason == policy.WrongHost:
		return http.StatusMisdirectedRequest
	}
	return http.StatusForbidden
}
