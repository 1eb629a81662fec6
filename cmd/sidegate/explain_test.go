package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sidegate/certs/certstest"
	"sidegate/policy"
)

// readmePolicy is the example of README.md.
func readmePolicy(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	try(t, err)
	_, text, found := strings.Cut(string(readme), "    # yaml-language-server: $schema=manifests/policy.schema.json\n")
	if !found {
		t.Fatal("README.md has no policy")
	}
	text, _, _ = strings.Cut(text, "\n\n")
	return strings.ReplaceAll("\n"+text+"\n", "\n    ", "\n")
}

// The example is what it says it is.
func TestReadmePolicy(t *testing.T) {
	p, err := policy.Parse("README.md", []byte(readmePolicy(t)), policy.Surroundings{
		Gates: []policy.GateKind{{Name: "main", CertAsked: true}}, Methods: []string{policy.LocalMethod},
	})
	try(t, err)
	if w := p.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	front, err := policy.PeerOf("spiffe://prod.example/ns/web/sa/front")
	try(t, err)
	for path, want := range map[string]string{"/healthz": "probes true", "/metrics": "scrape true", "/admin/x": "admin true", "/x": "all others true"} {
		d := p.Decide(t.Context(), &policy.Request{Gate: "main", Method: "GET", Path: path}, policy.Identity{Peer: front, User: &policy.User{Method: "local", Name: "alice"}})
		if got := fmt.Sprint(d.Rule, " ", d.Allow); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

const manyKinds = `version: 1
sets:
  ops: [user:alice]
rules:
- {name: preflights, preflight: true, user: [anyone]}
- {name: no bots, deny: true, paths: [/bots/**], peer: ["spiffe://td.example/bot/*"]}
- {name: purge from here, methods: [PURGE], networks: [127.0.0.0/8], user: [anyone]}
- {name: elsewhere, networks: [10.0.0.0/8], user: [anyone]}
- {name: other host, hosts: ["*.in.example"], methods: [GET], user: [authenticated]}
- {name: public, paths: [/public/**, /p*], user: [anyone]}
- {name: loopback, hosts: ["::1", 127.0.0.1], paths: [/Upper/**], user: [anyone]}
- {name: both, paths: [/both/**], peer: ["spiffe://td.example/web/**"], user: [set:ops]}
- {name: either, paths: ["/e/*/x"], allow: [{peer: [any]}, {user: [user:bob]}]}
- {name: watched, paths: [/watched], user: [set:ops], audit: true}
- {name: writes, methods: [POST], user: [user:bob]}
- {name: reads, paths: [/**], methods: [GET], user: [authenticated]}
`

// asked is a request of the property below.
type asked struct {
	method, target, host, user string
	peer                       int // index of the certificate, 0: none
	preflight                  bool
	override                   string
}

func randomRequest(r *rand.Rand) asked {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	a := asked{
		method: pick("GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "TRACE", "PURGE", "get", "purge"),
		host: pick("localhost", "a.in.example", "A.IN.example.", "in.example", "localhost:80", "[::1]", "[0::1]:443", "127.0.0.1:",
			"a.in.example:80:80", "a,b", "127.1", "[::1%x]", "a..b"),
		override: pick("", "", "", "", "", "", "", "DELETE", "post", "PURGE, PUT", "(x"),
		user:     pick("", "alice", "bob"),
		peer:     r.IntN(3),
	}
	for range 1 + r.IntN(4) {
		a.target += pick("/", "//", "/", "%2F", "/;") + pick("public", "p", "bots", "both", "e", "x", "watched", "", "a%20b", "..", "c;d", "%2e", "%23", "%5c",
			"PUBLIC", "Bots", "upper", "Upper", "%50", "%E2%84%AA", "\xa0", "\\", "#")
	}
	if a.target[0] != '/' {
		a.target = "/" + a.target
	}
	a.target += pick("", "", "", "", "/", "/", "?q=/public", "?q=/public", "?_method=PUT", "?a&%5Fmethod=post", "?q=%zz[]", "?q=#", "?\xa0")
	a.preflight = a.method == "OPTIONS" && r.IntN(2) == 0
	return a
}

// explained asks `sidegate explain --json`, by the program's own entrance.
func explained(t *testing.T, a asked, peers []string, environ []string) *verdict {
	t.Helper()
	args := []string{"explain", "--json", "--from", "127.0.0.1", "--host", a.host, a.method, a.target}
	if a.user != "" {
		args = append(args, "--user", a.user)
	}
	if a.peer > 0 {
		args = append(args, "--peer", peers[a.peer])
	}
	if a.preflight {
		args = append(args, "--preflight")
	}
	if a.override != "" {
		args = append(args, "--override", a.override)
	}
	var out, problems bytes.Buffer
	run(t.Context(), args, environ, nil, &out, &problems)
	v := &verdict{}
	if err := json.Unmarshal(out.Bytes(), v); err != nil {
		t.Fatalf("%+v: %v, %s", a, err, problems.String())
	}
	return v
}

// serve and explain come to the same verdict about any request (HTTP-26..29), and
// name the same cause.
func TestExplainIsWhatServeDoes(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	peers := []string{"", "spiffe://td.example/web/front", "spiffe://td.example/bot/x"}
	pairs := []certstest.Pair{{}, ca.Client(t, "web", peers[1]), ca.Client(t, "bot", peers[2])}
	dir := folder(t, certstest.Secret(ca.Server(t, "localhost"), ca))
	environ := []string{
		"SIDEGATE_TRUSTED_PROXIES=127.0.0.0/8", // whose request ids are believed
		"SIDEGATE_TLS=" + dir, "SIDEGATE_CLIENT_CERT=optional", "SIDEGATE_USERS=" + folder(t, map[string][]byte{"htpasswd": htpasswd(t, "alice", "bob")}),
		"SIDEGATE_POLICY=" + filepath.Join(folder(t, map[string][]byte{"policy.yaml": []byte(manyKinds)}), "policy.yaml"),
	}
	p := start(t, app.URL, nil, environ...)
	conns := make([]*talk, len(pairs))
	for i := range conns {
		conns[i] = &talk{t: t, instance: p, config: clientConfig(ca)}
		if i > 0 {
			conns[i].config.Certificates = []tls.Certificate{pairs[i].TLS}
		}
	}
	const seed, requests = 1, 3000
	r := rand.New(rand.NewPCG(seed, seed))
	all := make([]asked, requests)
	statuses := make([]int, requests)
	for i := range all {
		all[i] = randomRequest(r)
		statuses[i] = conns[all[i].peer].ask(requestID(i), all[i])
	}
	p.log.WaitFor(t, requests, `"msg":"request"`)
	lines := requestLines(p.log.String())
	for i, a := range all {
		v, l := explained(t, a, peers, environ), lines[requestID(i)]
		if l.Cause != "" && l.Cause != v.Because {
			t.Errorf("%+v: explained because of %q, served because of %q", a, v.Because, l.Cause)
		}
		got := fmt.Sprint(v.Decision, v.Rule, v.Reason)
		live := "allow"
		switch {
		case l.Audit != "":
			live, l.Reason = "audit", l.Audit
		case l.Reason != "":
			live = "deny"
		}
		if want := fmt.Sprint(live, l.Rule, l.Reason); got != want || v.Decision == "deny" && v.Status != statuses[i] {
			t.Errorf("%+v: explained as %s %d, served as %s %d", a, got, v.Status, want, statuses[i])
		}
	}
}

// talk asks one after the other by one connection, or a new one when it ends.
type talk struct {
	t *testing.T
	*instance
	config *tls.Config
	conn   *tls.Conn
	in     *bufio.Reader
}

func requestID(i int) string { return fmt.Sprintf("request-%d", i) }

func (c *talk) ask(id string, a asked) (status int) {
	c.t.Helper()
	if c.conn == nil {
		conf := c.config.Clone()
		conf.NextProtos = []string{"http/1.1"}
		conn, err := tls.Dial("tcp", c.gate, conf)
		try(c.t, err)
		c.t.Cleanup(func() { _ = conn.Close() })
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	head := a.method + " " + a.target + " HTTP/1.1\r\nHost: " + a.host + "\r\nContent-Length: 0\r\nX-Request-Id: " + id + "\r\n"
	if a.user != "" {
		head += "Authorization: " + basic(a.user) + "\r\n"
	}
	if a.override != "" {
		head += "X_HTTP-Method-Override: " + a.override + "\r\n"
	}
	if a.preflight {
		head += "Origin: https://o.example\r\nAccess-Control-Request-Method: PUT\r\n"
	}
	_, err := io.WriteString(c.conn, head+"\r\n")
	try(c.t, err)
	res, err := http.ReadResponse(c.in, &http.Request{Method: a.method})
	if err != nil {
		c.t.Fatalf("%+v: %v", a, err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	try(c.t, err)
	if res.Close {
		c.conn = nil
	}
	return res.StatusCode
}

// requestLine is a line with what explain does not read.
type requestLine struct {
	logged
	ID    string `json:"request_id"`
	Cause string `json:"err"`
}

// requestLines are the lines of an access log by request id.
func requestLines(log string) map[string]requestLine {
	all := map[string]requestLine{}
	for line := range strings.Lines(log) {
		var l requestLine
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "request" {
			all[l.ID] = l
		}
	}
	return all
}
