package policy

import (
	"errors"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Header is the read side of a request's header fields. http.Header has it.
type Header interface {
	// Get returns the first value of the named field, or "".
	Get(name string) string
	// Values returns every value of the named field in order, or nil.
	Values(name string) []string
}

// Request is one request as policy sees it. It is filled once and never
// changed, so it may be kept and decided again after a reload.
type Request struct {
	Gate       string     // name of the gate it came in by
	Client     netip.Addr // who sent it: the peer address, or what a trusted proxy said; zero: unknown, as on a unix socket
	Remote     netip.Addr // the other end of the connection; zero on a unix socket
	ServerName string     // SNI of the handshake, lower case, without a trailing dot
	Method     string     // empty on a TCP gate, as are the fields below
	Host       string     // canonical authority without port, of ParseHost; "": the client named none
	Target     string     // path and query exactly as received
	Path       string     // the canonical path, of ParseTarget: what rules are matched against
	Overrides  []string   // methods that fields name instead, of MethodOverrides
	Preflight  bool       // of IsPreflight
	Header     Header     // for authenticators, rules don't look at it; nil on a TCP gate
}

// Source is the address to hold failures against: the client's, or while the
// client is unknown that of the proxy by which it came.
func (r *Request) Source() netip.Addr {
	if r.Client.IsValid() {
		return r.Client
	}
	return r.Remote
}

// Peer is who a verified client certificate proves. It is made once a
// connection and shared by its requests; nobody may change it.
type Peer struct {
	Subject    string      // distinguished name, RFC 4514
	CommonName string      // only the names below count where a certificate has any
	DNSNames   []string    // dNSName SANs
	Emails     []string    // rfc822Name SANs
	URIs       []string    // uniformResourceIdentifier SANs
	ID         spiffeid.ID // zero unless exactly one URI SAN is a valid SPIFFE ID
	Issuer     string      // distinguished name of the issuer
	Serial     string      // lower-case hexadecimal
	NotAfter   time.Time   // when the leaf ends
	Federated  bool        // of another trust domain than ours, so that "any" does not mean it
}

// User is whom a credential proves.
type User struct {
	Method string   // the configured method that proved it: "local" for the user file
	Issuer string   // who vouches for the name, where the method has such; else ""
	Name   string   // the name within the method
	Email  string   // only if verified
	Groups []string // names within the method
	// Stamp binds the user to the stored secret, session or token that proved
	// it, so that Recheck notices a change. It holds no credential.
	Stamp string
}

// Identity is who is asking. Either part may be nil.
type Identity struct {
	Peer *Peer
	User *User
}

// Login is what an authenticator found in a request.
type Login struct {
	User            *User
	ConsumedHeaders []string // fields that carried the credential; not forwarded
	ConsumedCookies []string // cookies that carried it; not forwarded
	SetCookies      []string // Set-Cookie values for the client
}

// Decision is the answer to one request.
type Decision struct {
	Allow  bool   `json:"allow"`
	Rule   string `json:"rule,omitempty"`   // name of the rule that decided; "" when none was selected
	Reason Reason `json:"reason,omitempty"` // why not; "" when allowed, unless Audit
	// Challenge says that a credential would help: no user was proven, the
	// rule demands one that a configured method could prove, and whatever it
	// demands of the peer is met. The answer is 401 rather than 403.
	Challenge bool `json:"-"`
	// Audit says that this would be a refusal, for Reason, if it weren't only
	// watched so far.
	Audit bool `json:"audit,omitempty"`
	// Bare says that the request passes without a name: the application is told
	// neither user nor client certificate.
	Bare bool `json:"-"`
}

// Reason is why something was refused. The list is closed: it is the same in
// the log and the metrics, and a client never sees it.
type Reason string

// The reasons, in the order in which a connection or request meets them.
const (
	PeerUntrusted   Reason = "peer_untrusted"     // chain, usage or purpose
	PeerMissing     Reason = "peer_missing"       // a client certificate is required
	PeerExpired     Reason = "peer_expired"       // leaf or issuer outside its dates
	PeerRevoked     Reason = "peer_revoked"       // on the issuer's CRL
	CRLExpired      Reason = "crl_expired"        // the issuer's CRL is overdue
	Loop            Reason = "loop"               // the gate's own upstream leads back to it
	BadRequest      Reason = "bad_request"        // framing, several credentials, odd headers
	AmbiguousTarget Reason = "ambiguous_target"   // path or method has more than one reading
	MethodRefused   Reason = "method_not_allowed" // TRACE, CONNECT
	WrongHost       Reason = "wrong_host"         // authority is not one of the gate's
	NoCredentials   Reason = "no_credentials"     // a user is demanded and none was proven
	BadCredentials  Reason = "bad_credentials"    // a credential came and is wrong
	RateLimited     Reason = "rate_limited"       // too many failures
	Overloaded      Reason = "overloaded"         // a bounded queue is full
	RuleDenied      Reason = "rule_denied"        // the selected rule refuses
	NoRule          Reason = "no_rule"            // no rule was selected
	DependencyDown  Reason = "dependency_down"    // something needed for the decision did not answer
	BadIdentity     Reason = "bad_identity"       // an identity that no header can carry
)

// ErrProveAgain says of a user who was proven once that the stored secret is
// another by now: a new password, or the same one hashed anew. Only the
// credential can tell.
var ErrProveAgain = errors.New("the stored secret has changed")

// Refusal is the error of an authenticator that refuses a credential.
type Refusal struct {
	Reason     Reason
	RetryAfter time.Duration // advice for the client; 0: none
	Err        error         // for the log; never holds the credential; may be nil
}

func (r *Refusal) Error() string {
	if r.Err == nil {
		return string(r.Reason)
	}
	return string(r.Reason) + ": " + r.Err.Error()
}

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }
