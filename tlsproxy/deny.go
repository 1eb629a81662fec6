package tlsproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sidegate/policy"
)

// denial is an answer of ours instead of the application's.
type denial struct {
	status     int
	reason     policy.Reason
	challenges []string      // WWW-Authenticate values of a 401
	retryAfter time.Duration // 0: none
	err        error         // for the log
}

func badRequest(reason policy.Reason) *denial {
	return &denial{status: http.StatusBadRequest, reason: reason}
}

// deny is the one place that refuses. The body says no more than the status
// and the request id; why is in the log.
func (x *exchange) deny(d *denial) {
	if d.err != nil {
		x.gate.log.Warn("request refused", "err", d.err, "reason", d.reason, "request_id", x.requestID)
	}
	h := x.answer.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Request-Id", x.requestID)
	if d.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((d.retryAfter+time.Second-1)/time.Second)))
	}
	if d.status == http.StatusUnauthorized {
		h["Www-Authenticate"] = d.challenges
	}
	if d.status == http.StatusMethodNotAllowed { // RFC 9110 15.5.6 wants Allow
		h.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
	if isGRPC(x.in.Header) {
		x.denyGRPC(d)
		return
	}
	body, contentType := x.denialBody(d)
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.answer.WriteHeader(d.status)
	if x.in.Method != http.MethodHead {
		_, _ = x.answer.Write(body) // nothing is left to do for a client that has gone
	}
}

// denialBody is JSON for clients that ask for it (RFC 9457), else text.
func (x *exchange) denialBody(d *denial) (body []byte, contentType string) {
	title := http.StatusText(d.status)
	if strings.Contains(x.in.Header.Get("Accept"), "json") {
		body, err := json.Marshal(map[string]any{"title": title, "status": d.status, "request_id": x.requestID})
		if err == nil {
			return append(body, '\n'), "application/problem+json"
		}
	}
	return fmt.Appendf(nil, "%d %s\nrequest id: %s\n", d.status, title, x.requestID), "text/plain; charset=utf-8"
}

// denyGRPC refuses in the way that gRPC clients understand: HTTP status 200
// and the verdict in grpc-status, in an answer that is only headers.
func (x *exchange) denyGRPC(d *denial) {
	h := x.answer.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(grpcStatus(d.status)))
	h.Set("Grpc-Message", http.StatusText(d.status)+", request id "+x.requestID)
	x.answer.denied = d.status
	x.answer.WriteHeader(http.StatusOK)
}

// grpcStatus maps an HTTP status to gRPC's codes, as gRPC's own document
// "HTTP to gRPC Status Code Mapping" does.
func grpcStatus(status int) int {
	const (
		internal, permissionDenied, unimplemented = 13, 7, 12
		unavailable, unauthenticated, unknown     = 14, 16, 2
	)
	switch status {
	case http.StatusBadRequest:
		return internal
	case http.StatusUnauthorized:
		return unauthenticated
	case http.StatusForbidden, http.StatusMisdirectedRequest:
		return permissionDenied
	case http.StatusMethodNotAllowed:
		return unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return unavailable
	}
	return unknown
}

func isGRPC(h http.Header) bool {
	ct := h["Content-Type"]
	return len(ct) > 0 && strings.HasPrefix(ct[0], "application/grpc") && !strings.HasPrefix(ct[0], "application/grpc-web")
}
