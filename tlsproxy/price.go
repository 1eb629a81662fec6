package tlsproxy

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
)

// What connections and requests cost, in bytes of live heap, stacks and kernel:
// one of a thousand, as scripts/soak prices prints it, rounded up.
const (
	priceConn     = 32 << 10 // idle, HTTP/1.1
	priceHTTP2    = 6 << 10  // more, where it speaks HTTP/2
	priceBuffer   = 2        // more for each byte that can be read at once: what is filled already is not seen, and those it has outgrown are garbage
	priceCerts    = 6        // more for each byte of the certificates that the client sent
	priceHead     = 2        // more for each byte of a head that is not complete
	priceArrival  = 16 << 10 // a request that has come
	priceExchange = 20 << 10 // more when it goes on, small buffers for its body and its answer included
	priceBuffers  = 64 << 10 // more for a body, or an answer, that goes through large buffers
)

// freeHead is how much of a head a connection's own price pays for, and stepHead
// in which steps more is paid.
const (
	freeHead = 4 << 10
	stepHead = 8 << 10
	mostHead = 256 << 10 // net/http holds less of one
)

// smallBuffer is the largest buffer of TLS that a connection's own price pays for.
const smallBuffer = 4 << 10

// maxFrame is the largest frame of HTTP/2, the smallest such limit that there
// may be (RFC 9113 6.5.2): net/http reserves as much when a frame is announced.
const maxFrame = 16 << 10

// smallBody is what goes through small buffers in any case.
const smallBody = 16 << 10

// Fit is how many idle connections of HTTP/1.1, or how many small requests at
// once, there is room for in so much memory.
func Fit(memory int64) (connections, requests int) {
	return int(connShare(memory) / priceConn), int(requestShare(memory) / (priceConn + priceArrival + priceExchange))
}

// lastingPrice is what a connection costs beyond its own price after its
// handshake.
func lastingPrice(state *tls.ConnectionState) int64 {
	price := priceOfCerts(state.PeerCertificates)
	if state.NegotiatedProtocol == protocolHTTP2 {
		price += priceHTTP2
	}
	return price
}

// priceOfCerts is what the certificates of a client cost.
func priceOfCerts(sent []*x509.Certificate) (n int64) {
	for _, c := range sent {
		n += priceCerts * int64(len(c.Raw))
	}
	return n
}

// priceOf is what a request costs that has come, whose head took so many bytes on
// the wire.
func priceOf(r *http.Request, head, window int64) int64 {
	if r.ProtoMajor >= 2 {
		head = int64(headSize(r)) // of which the wire may have less
	}
	return priceArrival + priceHead*max(head-freeHead, 0) + bodyIn(r, window)
}

// bodyIn is how much of the body comes unasked: what fits into the window of
// HTTP/2.
func bodyIn(r *http.Request, window int64) int64 {
	switch {
	case r.ProtoMajor < 2 || !hasBody(r):
		return 0
	case r.ContentLength < 0:
		return window
	}
	return min(r.ContentLength, window)
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }
