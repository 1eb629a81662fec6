package tlsproxy_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"sidegate/policy"
	"sidegate/tlsproxy"
)

// seen sends fields and returns what the application saw.
func (w *world) seen(app *recorder, fields string) http.Header {
	w.t.Helper()
	got := w.raw("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + "\r\n")
	if status(got) != "200" {
		w.t.Fatalf("refused: %s\n%s", got, w.log)
	}
	return app.head(w.t)
}

// head is the fields of the newest request.
func (r *recorder) head(t testing.TB) http.Header {
	t.Helper()
	in := textproto.NewReader(bufio.NewReader(strings.NewReader(r.last())))
	_, err := in.ReadLine()
	must(t, err)
	h, err := in.ReadMIMEHeader()
	must(t, err)
	return http.Header(h)
}

// someone proves whoever the field X-Test names, with these attributes.
type someone struct{ user policy.User }

func (s someone) Authenticate(context.Context, *policy.Request) (*policy.Login, error) {
	return &policy.Login{User: &s.user}, nil
}
func (someone) Challenge(*policy.Request, error) []string   { return nil }
func (someone) Recheck(context.Context, *policy.User) error { return nil }
func (someone) Changed() <-chan struct{}                    { return nil }

func user(u policy.User) func(*tlsproxy.Gate) {
	u.Method = policy.LocalMethod
	return func(g *tlsproxy.Gate) { g.Authenticators = []tlsproxy.Authenticator{someone{u}} }
}

func preset(name string) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) { g.Headers.Fields, _ = tlsproxy.HeaderPreset(name) }
}

// HDR-01, HDR-02, HDR-04: what a client says about who it is never arrives.
func TestForgedIdentity(t *testing.T) {
	app := newRecorder(t)
	custom := func(g *tlsproxy.Gate) {
		g.Headers.Fields = append(g.Headers.Fields, tlsproxy.IdentityField{Header: "X-Custom", Attribute: "peer"})
	}
	forged := ""
	names := []string{
		"X-Forwarded-User", "x-forwarded-USER", "X_Forwarded_User", "X.Forwarded-User", "X-Forwarded_Email", "X-Forwarded-Groups",
		"X-Auth-Request-User", "X-Auth-Request-Email", "Remote-User", "REMOTE_USER", "Remote.Groups", "X-Remote-User", "X-Remote-Group",
		"X-Remote-Extra-Scopes", "X_Remote_Extra_Scopes", "X-WEBAUTH-USER", "X-Forwarded-Client-Cert", "Client-Cert", "Client-Cert-Chain",
		"X-Custom", "x_custom", "Impersonate-User", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri",
	}
	for _, n := range names {
		forged += n + ": forged\r\n" + n + ": forged twice\r\n"
	}
	for name, w := range map[string]*world{
		"with a user": newWorld(t, upstream(app.url), custom),
		"public":      newWorld(t, upstream(app.url), custom, allow("anyone")),
		"preset none": newWorld(t, upstream(app.url), preset("none"), custom, allow("anyone")),
	} {
		t.Run(name, func(t *testing.T) {
			fields := forged
			if name == "with a user" {
				fields += "Authorization: " + authorized + "\r\n"
			}
			h := w.seen(app, fields)
			for field, values := range h {
				if strings.Contains(strings.Join(values, ","), "forged") {
					t.Errorf("%s arrived: %q", field, values)
				}
			}
			want := []string(nil)
			if name == "with a user" {
				want = []string{"admin"}
			}
			if got := h["X-Forwarded-User"]; strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("X-Forwarded-User: %q, want %q", got, want)
			}
			if len(h["X-Forwarded-Email"]) != 0 { // HDR-02
				t.Errorf("X-Forwarded-Email: %q for a user without one", h["X-Forwarded-Email"])
			}
		})
	}
}

// HDR-03: Connection can't remove what we set.
func TestConnectionNamesOurFields(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertOptional), func(g *tlsproxy.Gate) { g.Headers.PeerHeaders = []tlsproxy.PeerHeader{tlsproxy.XFCC} })
	h := w.seen(app, "Authorization: "+authorized+"\r\nConnection: X-Forwarded-User, X-Forwarded-For, X-Forwarded-Client-Cert, X-Request-Id\r\n")
	for _, name := range []string{"X-Forwarded-User", "X-Forwarded-For", "X-Request-Id"} {
		if len(h[name]) != 1 {
			t.Errorf("%s: %q, want one value", name, h[name])
		}
	}
}

func TestPresets(t *testing.T) {
	app := newRecorder(t)
	u := user(policy.User{Name: "alice", Email: "a@b.example", Groups: []string{"ops", "a,admin", "50% é"}})
	for name, want := range map[string]map[string]string{
		"default": {"X-Forwarded-User": "alice", "X-Forwarded-Email": "a@b.example", "X-Forwarded-Groups": "ops,a%2Cadmin,50%25 %C3%A9",
			"X-Auth-Request-User": "alice", "X-Auth-Request-Preferred-Username": "alice"}, // HDR-09
		"remote-user": {"Remote-User": "alice", "Remote-Email": "a@b.example", "Remote-Name": "alice", "Remote-Groups": "ops,a%2Cadmin,50%25 %C3%A9"},
		"x-remote":    {"X-Remote-User": "alice", "X-Remote-Group": "ops|a,admin|50% é"},
		"webauth":     {"X-Webauth-User": "alice", "X-Webauth-Email": "a@b.example"},
		"none":        {"X-Forwarded-User": "", "Remote-User": ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, upstream(app.url), u, preset(name))
			h := w.seen(app, "")
			for field, value := range want {
				if got := strings.Join(h[field], "|"); got != value {
					t.Errorf("%s: %q, want %q", field, got, value)
				}
			}
		})
	}
}

// HDR-08: an identity that no field can carry is refused.
func TestBadIdentity(t *testing.T) {
	for _, u := range []policy.User{
		{Name: "a\r\nX-Evil: 1"}, {Name: "a\x00"}, {Name: " admin"}, {Name: "admin "}, {Name: "a", Email: "a\nb"}, {Name: "a", Groups: []string{"ok", "a\x7f"}},
	} {
		app := newRecorder(t)
		w := newWorld(t, upstream(app.url), user(u))
		got := w.raw("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if status(got) != "403" || app.connections() != 0 {
			t.Errorf("%+v: %s", u, got)
		}
		w.log.Wait(t, `"reason":"bad_identity"`)
	}
}

// HDR-10: a credential that we used goes no further, another one does.
func TestAuthorizationIsConsumed(t *testing.T) {
	app := newRecorder(t)
	auth := "Authorization: " + authorized + "\r\n"
	w := newWorld(t, upstream(app.url))
	if h := w.seen(app, auth); len(h["Authorization"]) != 0 {
		t.Errorf("forwarded %q", h["Authorization"])
	}
	w = newWorld(t, upstream(app.url), func(g *tlsproxy.Gate) { g.PassAuthorization = true })
	if h := w.seen(app, auth); h.Get("Authorization") != authorized {
		t.Errorf("with pass_authorization: %q", h["Authorization"])
	}
	w = newWorld(t, upstream(app.url), allow("anyone"))
	if h := w.seen(app, "Authorization: Bearer abc\r\n"); h.Get("Authorization") != "Bearer abc" {
		t.Errorf("one that is not ours: %q", h["Authorization"])
	}
	// JWT-13 in small: a bad credential is never anonymous.
	if got := w.raw("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YTpi\r\n\r\n"); status(got) != "401" {
		t.Errorf("a bad credential where none is needed: %s", got)
	}
}

// HDR-05: forwarding fields are believed from listed networks only.
func TestForwarding(t *testing.T) {
	app := newRecorder(t)
	const said = "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\nX-Forwarded-Prefix: /p\r\n" +
		"X-Real-IP: 198.51.100.7\r\nForwarded: for=198.51.100.7\r\nX-Request-Id: theirs\r\nX_Forwarded_For: 198.51.100.8\r\n" +
		"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
	stranger := newWorld(t, upstream(app.url), allow("anyone"))
	h := stranger.seen(app, said)
	for field, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "localhost", "X-Forwarded-Prefix": "", "X-Real-Ip": "127.0.0.1", "Forwarded": "",
		"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		if got := strings.Join(h[field], "|"); got != want {
			t.Errorf("from a stranger %s: %q, want %q", field, got, want)
		}
	}
	if id := h.Get("X-Request-Id"); id == "theirs" || len(id) < 20 {
		t.Errorf("request id %q", id)
	}
	stranger.log.Wait(t, `"trace_id":"0af7651916cd43dd8448eb211c80319c"`)

	proxied := newWorld(t, upstream(app.url), allow("anyone"), func(g *tlsproxy.Gate) { g.TrustedProxies = networks(t, "127.0.0.0/8", "203.0.113.0/24") })
	h = proxied.seen(app, said)
	for field, want := range map[string]string{
		"X-Forwarded-For": "198.51.100.7, 203.0.113.9, 127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "a.example", "X-Forwarded-Prefix": "/p",
		"X-Real-Ip": "198.51.100.7", "Forwarded": "for=198.51.100.7, for=127.0.0.1;proto=https", "X-Request-Id": "theirs", "X_forwarded_for": "",
	} {
		if got := strings.Join(h[field], "|"); got != want {
			t.Errorf("from a proxy %s: %q, want %q", field, got, want)
		}
	}
	proxied.log.Wait(t, `"client":"198.51.100.7"`)
}

// HDR-06, HDR-07 and RFC 9440: the certificate in the forms that people read.
func TestPeerHeaders(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), clientCert(tlsproxy.ClientCertRequire), allow("any-peer"), func(g *tlsproxy.Gate) {
		g.Headers.PeerHeaders = []tlsproxy.PeerHeader{tlsproxy.XFCC, tlsproxy.ClientCertField, tlsproxy.ClientCertChain}
		g.Headers.Fields = append(g.Headers.Fields, tlsproxy.IdentityField{Header: "X-Peer", Attribute: "peer"}, tlsproxy.IdentityField{Header: "X-Issuer", Attribute: "issuer"})
	})
	middle := w.ca.Intermediate(t, "middle")
	pair := middle.Issue(t, "x", func(c *x509.Certificate) {
		c.Subject.CommonName = `a",By=evil;Hash=0\`
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{ // which pkix.Name.String would put in the place of the first
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: `a",By=evil;Hash=0\`}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "second"},
		}
		c.DNSNames = []string{"c.example"}
	})
	conn := w.dial(w.config(&pair))
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-Client-Cert: Hash=forged\r\n\r\n")
	must(t, err)
	_, err = io.ReadAll(conn)
	must(t, err)
	head := app.last()
	if strings.Contains(head, "forged") {
		t.Errorf("forged:\n%s", head)
	}
	for _, want := range []string{
		`;Subject="CN=second,CN=a\\\"\\,By=evil\\;Hash=0\\\\";DNS=c.example` + "\r\n",
		"Client-Cert: :" + base64.StdEncoding.EncodeToString(pair.Leaf.Raw) + ":\r\n",
		"Client-Cert-Chain: :" + base64.StdEncoding.EncodeToString(middle.Cert.Raw) + ":\r\n",
		"X-Peer: c.example\r\n", "X-Issuer: CN=middle\r\n",
	} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in\n%s", want, head)
		}
	}
}

// HDR-12: the application can't speak in our name.
func TestForgedAnswer(t *testing.T) {
	app := echoHeaders(t, "X-Forwarded-User: root\r\nX-Other: fine\r\n")
	w := newWorld(t, upstream(app))
	res := w.get("/")
	if res.Header.Get("X-Forwarded-User") != "" || res.Header.Get("X-Other") != "fine" {
		t.Errorf("answer %v", res.Header)
	}
	w.counted(`sidegate_forged_headers_total{gate="main"} 1`)
}

// echoHeaders is an application that answers with these fields.
func echoHeaders(t *testing.T, fields string) string {
	t.Helper()
	r := newRecorder(t)
	r.fields = fields
	return r.url
}

// HDR-14: identity in trailers, announced or not, goes no further.
func TestForgedTrailer(t *testing.T) {
	app := newRecorder(t)
	app.whole = true
	w := newWorld(t, upstream(app.url))
	got := w.raw("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + authorized +
		"\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-User, X_Remote_User, X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Forwarded-User: root\r\nX_Remote_User: root\r\nX-Sum: 1\r\nX-Remote-Group: root\r\n\r\n")
	if status(got) != "200" {
		t.Fatal(got)
	}
	if all := app.last(); strings.Contains(all, "root") || !strings.Contains(all, "X-Sum: 1") {
		t.Errorf("the application saw\n%s", all)
	}
}
