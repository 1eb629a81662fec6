package tlsproxy

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"sidegate/policy"
)

// redirect sends a client of plaintext to the same target over TLS. 308 keeps
// method and body (RFC 9110 15.4.9). No credential is looked at: it came in
// plaintext, and the next request shall bring it over TLS.
func (x *exchange) redirect() {
	if d := x.canonicalise(); d != nil {
		x.refuse(d)
		return
	}
	if x.req.Host == "" { // there is nowhere to send it
		x.refuse(badRequest(policy.BadRequest))
		return
	}
	host := x.req.Host
	switch port := x.gate.Upstream.RedirectPort; {
	case port != 443:
		host = net.JoinHostPort(host, strconv.Itoa(port))
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	target := x.req.Target
	if target == "*" {
		target = "" // of OPTIONS, whose URL has no path (RFC 9112 3.2.4)
	}
	h := x.answer.Header()
	h.Set("Location", "https://"+host+target)
	h.Set("Content-Length", "0")
	x.answer.WriteHeader(http.StatusPermanentRedirect)
}
