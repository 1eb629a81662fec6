package tlsproxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
)

// requestID is what a trusted proxy called the request, or a new name.
func requestID(h http.Header, trusted bool) string {
	if id := h["X-Request-Id"]; trusted && len(id) == 1 && validRequestID(id[0]) {
		return id[0]
	}
	return newRequestID()
}

// newRequestID is 128 random bits. They need not be secret, only different.
func newRequestID() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], rand.Uint64())
	binary.BigEndian.PutUint64(raw[8:], rand.Uint64())
	var text [2 * len(raw)]byte
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

func validRequestID(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// traceID takes the trace id out of a traceparent field (W3C Trace Context
// 3.2: version-traceid-parentid-flags), or returns "".
func traceID(h http.Header) string {
	v := h["Traceparent"]
	if len(v) != 1 || len(v[0]) < 55 || v[0][2] != '-' || v[0][35] != '-' {
		return ""
	}
	id := v[0][3:35]
	if strings.Trim(id, "0123456789abcdefABCDEF") != "" {
		return ""
	}
	return id
}
