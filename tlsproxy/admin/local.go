package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// podOnly serves a path that is for the pod's own processes, and answers 403
// to everyone else. A peer in 127/8 is not enough: a mesh's proxy delivers
// strangers from 127.0.0.6, and a browser delivers the pages of strangers
// through a port-forward.
func podOnly(method string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch why := foreign(r); {
		case why != "":
			http.Error(w, why, http.StatusForbidden)
		case r.Method != method:
			w.Header().Set("Allow", method)
			http.Error(w, "this path takes "+method+" alone", http.StatusMethodNotAllowed)
		default:
			h(w, r)
		}
	}
}

// foreign says why a request may have come from outside the pod; "": it did not.
func foreign(r *http.Request) string {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	switch {
	case !isOwn(r.RemoteAddr) || local == nil || !isOwn(local.String()):
		return "the connection is not from 127.0.0.1 or ::1 to 127.0.0.1 or ::1"
	case r.URL.Host != "" || !isOwnHost(r.Host):
		return "the Host is neither localhost nor a loopback address"
	case len(r.Header.Values("Origin")) > 0 || !sameSite(r.Header.Values("Sec-Fetch-Site")):
		return "a page in a browser asks"
	}
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		if len(r.Header.Values(name)) > 0 {
			return fmt.Sprintf("a proxy forwarded it: it has a field %s", name)
		}
	}
	return ""
}

// isOwn reports whether an end of a connection is 127.0.0.1 or ::1, the only
// loopback addresses that belong to nobody but the pod's own processes.
func isOwn(end string) bool {
	a, err := netip.ParseAddrPort(end)
	if err != nil {
		return false
	}
	ip := a.Addr() // package net has unmapped it
	return ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ip == netip.IPv6Loopback()
}

// isOwnHost reports whether a Host field is localhost or a loopback address. A
// name of the attacker's that resolves to 127.0.0.1 (DNS rebinding) is neither.
func isOwnHost(field string) bool {
	host := field
	if i := strings.LastIndexByte(field, ':'); i >= 0 && strings.IndexByte(field[i:], ']') < 0 {
		if strings.Trim(field[i+1:], "0123456789") != "" {
			return false
		}
		host = field[:i]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	bare, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		bare, bracketed = strings.CutSuffix(bare, "]")
	}
	ip, err := netip.ParseAddr(bare)
	return err == nil && ip.IsLoopback() && ip.Zone() == "" && ip.Is6() == bracketed
}

// sameSite reports whether no page, or one of our own, made the request
// (Fetch Metadata 2.4). Browsers set the field once.
func sameSite(values []string) bool {
	return len(values) == 0 || len(values) == 1 && (values[0] == "none" || values[0] == "same-origin")
}
