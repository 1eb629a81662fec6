package tlsproxy

import (
	"log/slog"
	"strings"
	"time"
)

// AccessMessage is the message of the line that a request leaves.
const AccessMessage = "request"

// logAccess writes the one line that a request leaves. Never the query: it
// may hold a secret.
func (x *exchange) logAccess(took time.Duration) {
	switch x.gate.AccessLog {
	case AccessLogOff:
		return
	case AccessLogDenied:
		if x.reason == "" && x.audit == "" {
			return
		}
	}
	path, _, _ := strings.Cut(x.in.RequestURI, "?")
	attrs := make([]slog.Attr, 0, 18)
	attrs = append(attrs,
		slog.String("remote", x.conn.remoteText),
		slog.String("host", x.req.Host),
		slog.String("method", x.in.Method),
		slog.String("path", path),
		slog.String("proto", x.in.Proto),
		slog.Int("status", x.answer.finalStatus()),
		slog.Int64("bytes", x.answer.bytes),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.String("request_id", x.requestID),
	)
	if x.sender.addr != x.conn.remote {
		attrs = append(attrs, slog.String("client", x.clientText()))
	}
	attrs = appendSet(attrs, "peer", x.conn.peerName)
	if u := x.id.User; u != nil {
		attrs = append(attrs, slog.String("user", u.Name), slog.String("via", u.Method))
	}
	attrs = appendSet(attrs, "rule", x.rule)
	attrs = appendSet(attrs, "reason", string(x.reason))
	if x.cause != nil {
		attrs = append(attrs, slog.String("err", x.cause.Error()))
	}
	attrs = appendSet(attrs, "audit", string(x.audit))
	attrs = appendSet(attrs, "trace_id", x.trace)
	x.gate.log.LogAttrs(x.in.Context(), slog.LevelInfo, AccessMessage, attrs...)
}

func appendSet(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}
