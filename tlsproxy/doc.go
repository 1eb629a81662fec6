// Package tlsproxy moves bytes: it ends TLS on an exposed port, learns who is
// calling, asks whether they may, and forwards plaintext to the application
// on loopback.
//
//	gate := &tlsproxy.Gate{
//		Name:         "main",
//		Listen:       tlsproxy.Address{Network: "tcp", Address: ":8443"},
//		Upstream:     tlsproxy.Upstream{Address: tlsproxy.Address{Network: "tcp", Address: "127.0.0.1:8080"}},
//		Certificates: store,
//		Decider:      rules,
//	}
//	proxy := &tlsproxy.Proxy{Gates: []*tlsproxy.Gate{gate}, Log: log, Metrics: metrics}
//	err := proxy.Run(ctx)
//
// # Promises
//
// Every listener is bound before any serves. Nothing is forwarded before the
// handshake is complete and the decision is made: a refused request never
// reaches the upstream, not even as a connection. Headers that tell the
// application who is calling are removed from what clients send, in every
// spelling, on every route. Path and query arrive byte for byte.
//
// # What it does not do
//
// It reads no files and no environment, keeps no users and knows no rules:
// those come in through [Certificates], [Trust], [Authenticator] and
// [Decider]. It never imports the packages that implement them.
//
// # Design
//
// One connection: accept, limits, TLS handshake in a goroutine of its own,
// registration in the table of live connections, then net/http. The handshake
// is ours and not http.Server.ServeTLS's, because that clones the tls.Config
// (session tickets would outlive a change of trust) and because the gate
// must count and classify what fails. http.Server gets the bare *tls.Conn,
// without which it speaks no HTTP/2; wrappers sit below TLS.
//
// One request: see exchange.go, which is that path from top to bottom. One
// place refuses (deny.go), one strips and sets headers (headers.go). It reaches
// the application as HTTP/1.1 by tlsproxy/upstream, which never lets a client
// read what was said to another, and gRPC and h2c by net/http's HTTP/2, where
// each stream has its own answer.
package tlsproxy
