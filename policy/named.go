package policy

import (
	"fmt"
	"strings"
)

// PeerOf is a peer of which nothing is known but the name in a principal, such
// as spiffe://prod.example/ns/web/sa/front or dns:a.example.
func PeerOf(principal string) (*Peer, error) {
	if _, err := parsePeer(principal); err != nil {
		return nil, err
	}
	form, value, _ := strings.Cut(principal, ":")
	switch {
	case principal == "any" || strings.Contains(principal, "*"):
		return nil, fmt.Errorf("%q is no one in particular", principal)
	case form == "spiffe":
		return &Peer{URIs: []string{principal}, ID: spiffeID(principal)}, nil
	case form == "dns":
		return &Peer{DNSNames: lower([]string{value})}, nil
	case form == "uri":
		return &Peer{URIs: []string{value}, ID: spiffeID(value)}, nil
	case form == "email":
		return &Peer{Emails: []string{value}}, nil
	case form == "cn":
		return &Peer{CommonName: value, Subject: "CN=" + value}, nil
	}
	return &Peer{Subject: value}, nil
}

// UserOf is [METHOD/]NAME with groups that are written so too. All are of one
// method.
func UserOf(name string, groups []string) (*User, error) {
	method, bare, err := ofMethod("user:"+name, name)
	if err != nil {
		return nil, err
	}
	u := &User{Method: method, Name: bare}
	for _, g := range groups {
		of, group, err := ofMethod("group:"+g, g)
		if err != nil {
			return nil, err
		}
		if of != method {
			return nil, fmt.Errorf("group %q is of %s and the user of %s: a user's groups are of the method that proved it", g, of, method)
		}
		u.Groups = append(u.Groups, group)
	}
	return u, nil
}
