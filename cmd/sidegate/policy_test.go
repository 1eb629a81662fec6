package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sidegate/certs/certstest"
)

const secretOfAll = "a long secret"

// htpasswd is a file of these users.
func htpasswd(t *testing.T, users ...string) []byte {
	t.Helper()
	var text []byte
	for _, user := range users {
		text = append(text, entry(t, user, secretOfAll)...)
	}
	return text
}

// entry is a line of such a file. Its hash is the cheapest: what one costs is
// no matter of most tests.
func entry(t *testing.T, user, password string) []byte {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	try(t, err)
	return fmt.Appendf(nil, "%s:%s\n", user, hash)
}

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secretOfAll))
}

// guarded is a gate with a policy file and users, each in a volume.
type guarded struct {
	*instance
	ca            *certstest.CA
	policy, users *certstest.Volume
	passwords     []byte // of the users, one a line
}

func startGuarded(t *testing.T, policy string, users ...string) *guarded {
	t.Helper()
	ca := certstest.NewCA(t, "ca")
	g := &guarded{ca: ca, passwords: htpasswd(t, users...)}
	g.policy = certstest.NewVolume(t, map[string][]byte{"policy.yaml": []byte(policy)})
	g.users = certstest.NewVolume(t, map[string][]byte{"htpasswd": g.passwords})
	tlsDir := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	g.instance = start(t, everyKind(t), nil, "SIDEGATE_TLS="+tlsDir.Dir, "SIDEGATE_USERS="+g.users.Dir,
		"SIDEGATE_POLICY="+filepath.Join(g.policy.Dir, "policy.yaml"), "SIDEGATE_DRAIN_TIMEOUT=100ms")
	return g
}

func allowing(users ...string) string {
	return "version: 1\nrules:\n- {name: those, user: [user:" + strings.Join(users, ", user:") + "]}\n"
}

// idle is an HTTP/1.1 connection that has asked once.
func (g *guarded) idle(user string) (*tls.Conn, *bufio.Reader) {
	g.t.Helper()
	conf := clientConfig(g.ca)
	conf.NextProtos = []string{"http/1.1"}
	c, err := tls.Dial("tcp", g.gate, conf)
	try(g.t, err)
	g.t.Cleanup(func() { _ = c.Close() })
	in := bufio.NewReader(c)
	g.askIdle(c, in, user)
	return c, in
}

func (g *guarded) askIdle(c *tls.Conn, in *bufio.Reader, user string) {
	g.t.Helper()
	fmt.Fprintf(c, "GET /slow?0s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n", basic(user))
	res, err := http.ReadResponse(in, nil)
	try(g.t, err)
	_, err = io.Copy(io.Discard, res.Body)
	try(g.t, err)
	if res.StatusCode != http.StatusOK {
		g.t.Fatalf("%s: %s", user, res.Status)
	}
}

// TLS-01: who may not do any longer what is going on loses it within a second,
// whatever protocol it is, and nobody else does.
func TestLiveRequestsAreDecidedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reason string
		change func(g *guarded)
		idle   bool // whether a connection that waits ends too
		hashes bool // only a hash can tell
	}{
		"rule removed": {"rule_denied", func(g *guarded) {
			g.policy.Update(g.t, map[string][]byte{"policy.yaml": []byte(allowing("bob"))})
		}, true, false},
		"user removed": {"bad_credentials", func(g *guarded) {
			_, bob, _ := strings.Cut(string(g.passwords), "\n") // a new hash would be a new password
			g.users.Update(g.t, map[string][]byte{"htpasswd": []byte(bob)})
		}, true, false},
		"password changed": {"bad_credentials", func(g *guarded) { // what waits must prove anew by itself
			_, bob, _ := strings.Cut(string(g.passwords), "\n")
			g.users.Update(g.t, map[string][]byte{"htpasswd": append(entry(g.t, "alice", "another secret"), bob...)})
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGuarded(t, allowing("alice", "bob"), "alice", "bob")
			refused, kept := g.holdAs(g.ca, nil, basic("alice"), time.Hour), g.holdAs(g.ca, nil, basic("bob"), time.Hour)
			_, refusedIdle := g.idle("alice")
			keptConn, keptIdle := g.idle("bob")
			// Two users by one HTTP/2 connection.
			shared := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(g.ca), ForceAttemptHTTP2: true}}
			hers, his := g.get(shared, "/slow?1h", basic("alice")), g.get(shared, "/slow?6s", basic("bob"))

			c.change(g)
			renamed := certstest.StartStopwatch(t)
			took := map[string]time.Duration{}
			ended := func(what string) { took[what] = renamed.Elapsed() }
			want := 4
			if c.idle {
				want++
				if _, err := refusedIdle.ReadByte(); err == nil {
					t.Error("the idle connection goes on")
				}
				ended("idle HTTP/1.1")
			}
			if _, _, err := refused.socket.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Errorf("the WebSocket ended with %v", err)
			}
			ended("WebSocket")
			if _, err := refused.stream.Recv(); status.Code(err) == codes.OK || errors.Is(err, io.EOF) {
				t.Errorf("the gRPC stream ended with %v", err)
			}
			ended("gRPC")
			if _, err := io.ReadAll(refused.slow.Body); err == nil {
				t.Error("the HTTP/2 answer under way came to a good end")
			}
			ended("HTTP/2")
			if _, err := io.ReadAll(hers.Body); err == nil {
				t.Error("her answer under way came to a good end")
			}
			ended("HTTP/2, shared connection")
			for what, d := range took {
				t.Logf("%s ended %s after the rename", what, d)
				// How long a hash takes is the machine's matter alone: that nothing else is
				// waited for has a test by the clock of a bubble, TestRequestsAfterUsersChanged.
				if d > withinASecond && !c.hashes {
					t.Errorf("%s took %s", what, d)
				}
			}
			g.log.Wait(t, `"msg":"request ended"`)
			if n := g.log.Count(`"msg":"request ended"`); n != want {
				t.Errorf("%d requests ended, want %d", n, want)
			}
			if line := fmt.Sprintf(`sidegate_requests_ended_total{gate="main",reason="%s"} %d`, c.reason, want); !strings.Contains(g.metrics(), line) {
				t.Errorf("no %s", line)
			}
			kept.talk()
			g.askIdle(keptConn, keptIdle, "bob")
			if body, err := io.ReadAll(his.Body); err != nil || string(body) != "done" {
				t.Errorf("his answer by the shared connection: %q, %v", body, err)
			}
		})
	}
}

// A file in which the same passwords are hashed anew, as templates of Secrets
// do each time, ends nothing; and the second time it is no different.
func TestSamePasswordsHashedAnew(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, allowing("alice", "bob"), "alice", "bob")
	held := g.holdAs(g.ca, nil, basic("alice"), time.Hour)
	conn, in := g.idle("bob")
	shared := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(g.ca), ForceAttemptHTTP2: true}}
	slow := g.get(shared, "/slow?8s", basic("bob"))
	for i := range 2 {
		g.users.Update(t, map[string][]byte{"htpasswd": htpasswd(t, "alice", "bob")})
		g.log.WaitFor(t, i+2, `"msg":"users in service"`)
		held.talk()
		g.askIdle(conn, in, "bob")
	}
	if body, err := io.ReadAll(slow.Body); err != nil || string(body) != "done" { // long after all was looked at again
		t.Errorf("the slow answer: %q, %v", body, err)
	}
	held.talk()
	if n := g.log.Count(`"msg":"request ended"`); n != 0 {
		t.Errorf("%d requests ended", n)
	}
}

// A policy that is broken or gone opens nothing and closes nothing: the last
// good one stays. At start there is none.
func TestBrokenPolicyKeepsTheLastGood(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, allowing("alice"), "alice", "bob")
	for i, broken := range []string{"", "version: 1\n", "version: 1\nrules: [{name: x, usr: [anyone]}]\n", "\x00"} {
		g.policy.Update(t, map[string][]byte{"policy.yaml": []byte(broken)})
		g.log.WaitFor(t, i+1, `"msg":"reload refused, last good stays in service"`)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(g.ca)}}
		for user, want := range map[string]int{"alice": 200, "bob": 403} {
			res := g.get(client, "/slow?0s", basic(user))
			_ = res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%q: %s got %d, want %d", broken, user, res.StatusCode, want)
			}
		}
		if !strings.Contains(g.metrics(), `sidegate_last_reload_successful{what="policy"} 0`) {
			t.Error("no alarm")
		}
	}
	g.log.Wait(t, `policy.yaml:2:19: \"usr\" is none of`)
}

// A certificate is a user where no password comes.
func TestCertUserPasses(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	dir := folder(t, certstest.Secret(ca.Server(t, "localhost"), ca))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+dir, "SIDEGATE_CLIENT_CERT=optional", "SIDEGATE_CERT_USER=spiffe",
		"SIDEGATE_USERS="+folder(t, map[string][]byte{"htpasswd": htpasswd(t, "alice")}), "SIDEGATE_ALLOW=user:cert/spiffe://td.example/a,user:alice")
	for id, want := range map[string]string{"spiffe://td.example/a": "hello spiffe://td.example/a\n", "spiffe://td.example/b": "403 Forbidden"} {
		conf := clientConfig(ca)
		conf.Certificates = []tls.Certificate{ca.Client(t, "x", id).TLS}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
		for authorization, want := range map[string]string{"": want, basic("alice"): "hello alice\n"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+p.gate, nil)
			try(t, err)
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			res, err := client.Do(r)
			try(t, err)
			body, err := io.ReadAll(res.Body)
			try(t, err)
			_ = res.Body.Close()
			if !strings.HasPrefix(string(body), want) {
				t.Errorf("%s %q: got %d %q, want %q", id, authorization, res.StatusCode, body, want)
			}
		}
	}
	var out strings.Builder
	if code := run(t.Context(), []string{"check"}, []string{"SIDEGATE_TLS=" + dir, "SIDEGATE_CERT_USER=cn", "SIDEGATE_ALLOW=anyone"}, nil, &out, &out); code != exitUsage || !strings.Contains(out.String(), "no gate asks for client certificates") {
		t.Errorf("got %d %s", code, out.String())
	}
}

// The policy of README.md with real certificates and users: each rule hit and
// missed. THREATS: HTTP-04, HTTP-09, HTTP-10, HTTP-24.
func TestReadmePolicyServes(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	text := strings.Replace(readmePolicy(t), "  - name: all others", "  - {name: watched, paths: [/watched], user: [user:alice], audit: true}\n  - name: all others", 1)
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+folder(t, certstest.Secret(ca.Server(t, "localhost"), ca)), "SIDEGATE_CLIENT_CERT=optional",
		"SIDEGATE_USERS="+folder(t, map[string][]byte{"htpasswd": htpasswd(t, "alice", "dave")}),
		"SIDEGATE_POLICY="+filepath.Join(folder(t, map[string][]byte{"policy.yaml": []byte(text)}), "policy.yaml"))
	const web, prometheus = "spiffe://prod.example/ns/web/sa/front", "spiffe://prod.example/ns/monitoring/sa/prometheus"
	clients := map[string]*talk{}
	for _, id := range []string{"", web, prometheus} {
		conf := clientConfig(ca)
		if id != "" {
			conf.Certificates = []tls.Certificate{ca.Client(t, "x", id).TLS}
		}
		clients[id] = &talk{t: t, instance: p, config: conf}
	}
	for i, c := range []struct {
		peer, user, line, want string
	}{
		{"", "", "GET /healthz", "200 probes"},
		{"", "", "GET /healthz2", "401 all others no_credentials"},
		{"", "dave", "GET /healthz2", "200 all others"},
		{prometheus, "", "GET /metrics", "200 scrape"},
		{"", "alice", "GET /metrics", "200 scrape"},
		{"", "dave", "GET /metrics", "403 scrape rule_denied"},
		{web, "", "GET /metrics", "401 scrape no_credentials"},
		{"", "dave", "POST /metrics", "200 all others"},
		{web, "alice", "GET /admin/a", "200 admin"},
		{web, "dave", "GET /admin/a", "403 admin rule_denied"},
		{"", "alice", "GET /admin/a", "403 admin rule_denied"},
		{web, "", "GET /admin", "401 admin no_credentials"},
		{"", "alice", "GET /x%2Fy", "200 all others"},
		{"", "alice", "GET //admin", "400 ambiguous_target"},
		{"", "alice", "GET /x/../admin", "400 ambiguous_target"},
		{"", "alice", "GET /watched", "200 watched"},
		{"", "dave", "GET /watched", "200 watched rule_denied"}, // audit
		{"", "", "GET /watched", "200 watched no_credentials"},
	} {
		method, target, _ := strings.Cut(c.line, " ")
		status := clients[c.peer].ask("x", asked{method: method, target: target, host: "localhost", user: c.user})
		p.log.WaitFor(t, i+1, `"msg":"request"`)
		lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
		var l logged
		try(t, json.Unmarshal([]byte(lines[len(lines)-1]), &l))
		got := strings.Join(strings.Fields(fmt.Sprint(status, " ", l.Rule, " ", l.Reason, l.Audit)), " ")
		if got != c.want {
			t.Errorf("%s as %q %q: got %s, want %s", c.line, c.peer, c.user, got, c.want)
		}
	}
	metrics := p.metrics()
	for _, want := range []string{
		`sidegate_decisions_total{decision="audit",gate="main",reason="rule_denied"} 1`,
		`sidegate_client_ca_live_peers{ca="CN=ca",gate="main"`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
}

// A policy that changes under load loses no request that both allow.
func TestPolicyReloadUnderLoad(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	texts := [2]string{
		"version: 1\nrules: [{name: a, user: [anyone]}]\n",
		"version: 1\nrules: [{name: b, paths: [/x], deny: true}, {name: c, user: [anyone]}]\n",
	}
	v := certstest.NewVolume(t, map[string][]byte{"policy.yaml": []byte(texts[0])})
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+folder(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil)),
		"SIDEGATE_POLICY="+filepath.Join(v.Dir, "policy.yaml"), "SIDEGATE_ACCESS_LOG=off")
	l := startLoad(p, ca)
	for i := 1; i <= 10; i++ {
		v.Update(t, map[string][]byte{"policy.yaml": []byte(texts[i%2])})
		p.log.WaitFor(t, i+1, `"msg":"policy in service"`)
	}
	l.end(t)
}

// SPI-03, SPI-08: any peer is any of our own trust domain; another one's counts
// where it is named, and only its own CA vouches for it.
func TestFederatedPeers(t *testing.T) {
	t.Parallel()
	ours, theirs := certstest.NewCA(t, "ours"), certstest.NewCA(t, "theirs")
	const mine, named, other = "spiffe://ours.example/a", "spiffe://theirs.example/named", "spiffe://theirs.example/other"
	for name, cas := range map[string]map[string][]byte{
		"CA of ours":        {"ca.crt": ours.PEM(), "bundle.theirs.example.pem": theirs.PEM()},
		"bundle of each":    {"bundle.ours.example.pem": ours.PEM(), "bundle.theirs.example.pem": theirs.PEM()},
		"bundle and ca.crt": {"ca.crt": ours.PEM(), "bundle.ours.example.pem": ours.PEM(), "bundle.theirs.example.pem": theirs.PEM()},
	} {
		t.Run(name, func(t *testing.T) {
			server := ours.Issue(t, "localhost", func(c *x509.Certificate) {
				c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
				c.URIs = []*url.URL{{Scheme: "spiffe", Host: "ours.example", Path: "/server"}}
			})
			p := start(t, hello(t), nil, "SIDEGATE_TLS="+folder(t, certstest.Secret(server, nil)), "SIDEGATE_CLIENT_CA="+folder(t, cas),
				"SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer,"+named)
			for _, c := range []struct {
				ca   *certstest.CA
				id   string
				want int // 0: no handshake
			}{
				{ours, mine, 200}, {theirs, named, 200}, {theirs, other, 403}, {ours, named, 0}, {theirs, mine, 0},
			} {
				conf := clientConfig(ours)
				conf.Certificates = []tls.Certificate{c.ca.Client(t, "x", c.id).TLS}
				client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
				got := 0
				if res, err := client.Get("https://" + p.gate); err == nil {
					got = res.StatusCode
					_ = res.Body.Close()
				}
				if got != c.want {
					t.Errorf("%s of %s: got %d, want %d", c.id, c.ca.Cert.Subject, got, c.want)
				}
			}
		})
	}
}

// HTTP-15: a preflight passes without a name, where a rule says so.
func TestPreflightHasNoName(t *testing.T) {
	t.Parallel()
	seen := make(chan http.Header, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() }))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	text := "version: 1\nrules: [{name: p, preflight: true, user: [anyone]}, {name: rest, user: [authenticated]}]\n"
	p := start(t, app.URL, nil, "SIDEGATE_TLS="+folder(t, certstest.Secret(ca.Server(t, "localhost"), ca)), "SIDEGATE_CLIENT_CERT=optional",
		"SIDEGATE_USERS="+folder(t, map[string][]byte{"htpasswd": htpasswd(t, "alice")}),
		"SIDEGATE_POLICY="+filepath.Join(folder(t, map[string][]byte{"policy.yaml": []byte(text)}), "policy.yaml"))
	conf := clientConfig(ca)
	conf.Certificates = []tls.Certificate{ca.Client(t, "x", "spiffe://td.example/a").TLS}
	c := &talk{t: t, instance: p, config: conf}
	for _, a := range []asked{
		{method: "OPTIONS", target: "/", host: "localhost", preflight: true},
		{method: "OPTIONS", target: "/", host: "localhost", preflight: true, user: "alice"},
	} {
		if status := c.ask("x", a); status != http.StatusOK {
			t.Fatalf("got %d", status)
		}
		for name, value := range <-seen {
			if strings.Contains(name, "User") && name != "User-Agent" || strings.Contains(name, "Cert") || name == "Authorization" {
				t.Errorf("the application was told %s: %s", name, value)
			}
		}
	}
	if status := c.ask("x", asked{method: "OPTIONS", target: "/", host: "localhost"}); status != http.StatusUnauthorized {
		t.Errorf("OPTIONS alone: got %d, want 401", status)
	}
}
