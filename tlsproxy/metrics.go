package tlsproxy

import (
	"time"

	"sidegate/policy"
)

// Metrics counts what happens. Its implementation is free to keep one value
// a gate; [Proxy.Run] asks for each gate once.
type Metrics interface {
	Gate(name string) GateMetrics
}

// HandshakeChallenge is the reason of a handshake that was a proof for an ACME
// server: it ended as it should, but no client came of it.
const HandshakeChallenge = "acme_challenge"

// GateMetrics counts what happens at one gate. All methods are called
// concurrently and on the path of a request.
type GateMetrics interface {
	// Request is called when a request has ended, with the status the client
	// saw and the method that proved the user, or "".
	Request(status int, via string, took time.Duration)
	// Upstream is called with the time from sending a request to the head of
	// its answer.
	Upstream(took time.Duration)
	// Decision is called for each decision and each refusal before one. One that
	// allows has a reason only if it is a refusal that is not enforced so far.
	Decision(allow bool, reason policy.Reason)
	// Handshake is called when a handshake has ended; an empty reason and
	// HandshakeChallenge are success.
	Handshake(reason string)
	// Connections is called with +1 and -1.
	Connections(delta int)
	// Ended is called when a live connection is ended from outside: its peer is
	// no longer trusted, or a drain could not wait for it.
	Ended(reason policy.Reason)
	// RequestEnded is called when a request in flight, or a connection that waits
	// for its next one, is ended because it would be refused by now.
	RequestEnded(reason policy.Reason)
	// ProtocolError is called with what net/http calls an error of HTTP/2, such
	// as frame_headers_zero_stream: a list that is closed.
	ProtocolError(kind string)
	// ForgedHeader is called when the application's answer carried an
	// identity header, which was dropped.
	ForgedHeader()
}
