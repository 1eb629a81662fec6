package policy_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"sidegate/policy"
)

var update = flag.Bool("update", false, "write the schema anew")

// design is the example of the documentation.
const design = `version: 1
sets:                                    # local names for principals: set:ops
  ops: [user:alice, user:bob]
rules:
  - name: probes
    paths: [/healthz]
    user: [anyone]
  - name: scrape                         # either of two
    paths: [/metrics]
    methods: [GET]
    allow:
      - peer: ["spiffe://prod.example/ns/monitoring/sa/prometheus"]
      - user: [set:ops]
  - name: admin
    paths: [/admin/**]
    peer: ["spiffe://prod.example/ns/web/sa/*"]     # both: this workload …
    user: [group:ldap/ops]                          # … on behalf of this user
  - name: all others
    user: [authenticated]
`

var around = policy.Surroundings{
	Gates:   []policy.GateKind{{Name: "main", CertAsked: true}, {Name: "api", CertAsked: true, CertRequired: true}, {Name: "raw", Raw: true}},
	Methods: []string{"local", "ldap"},
}

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(text), around)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// request is METHOD TARGET as a gate would ask.
func request(t testing.TB, line string) *policy.Request {
	t.Helper()
	method, target, _ := strings.Cut(line, " ")
	path, err := policy.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	return &policy.Request{
		Gate: "main", Client: netip.MustParseAddr("192.0.2.1"), Host: "a.example",
		Method: method, Target: target, Path: path, Header: http.Header{},
	}
}

func local(name string) *policy.User { return &policy.User{Method: policy.LocalMethod, Name: name} }

func TestDesignExample(t *testing.T) {
	p := parse(t, design)
	prometheus := peer(t, "", nil, "spiffe://prod.example/ns/monitoring/sa/prometheus")
	web := peer(t, "", nil, "spiffe://prod.example/ns/web/sa/front")
	ops := &policy.User{Method: "ldap", Name: "carol", Groups: []string{"ops"}}
	notOurs := &policy.User{Method: "corp-oidc", Name: "mallory", Groups: []string{"ops"}}
	for _, c := range []struct {
		line string
		id   policy.Identity
		want policy.Decision
	}{
		{"GET /healthz", policy.Identity{}, policy.Decision{Allow: true, Rule: "probes"}},
		{"GET /healthz/", policy.Identity{}, policy.Decision{Allow: true, Rule: "probes"}},
		{"GET /healthzz", policy.Identity{}, policy.Decision{Rule: "all others", Reason: policy.NoCredentials, Challenge: true}}, // HTTP-09
		{"GET /healthz/x", policy.Identity{User: local("x")}, policy.Decision{Allow: true, Rule: "all others"}},
		{"GET /metrics", policy.Identity{Peer: prometheus}, policy.Decision{Allow: true, Rule: "scrape"}},
		{"HEAD /metrics", policy.Identity{User: local("bob")}, policy.Decision{Allow: true, Rule: "scrape"}},
		{"GET /metrics", policy.Identity{User: local("dave")}, policy.Decision{Rule: "scrape", Reason: policy.RuleDenied}},
		{"GET /metrics", policy.Identity{Peer: web}, policy.Decision{Rule: "scrape", Reason: policy.NoCredentials, Challenge: true}},
		{"POST /metrics", policy.Identity{User: local("dave")}, policy.Decision{Allow: true, Rule: "all others"}},
		{"GET /admin", policy.Identity{Peer: web, User: ops}, policy.Decision{Allow: true, Rule: "admin"}},
		{"GET /admin/a/b", policy.Identity{Peer: web, User: ops}, policy.Decision{Allow: true, Rule: "admin"}},
		{"GET /admin/a", policy.Identity{Peer: web}, policy.Decision{Rule: "admin", Reason: policy.NoCredentials, Challenge: true}},
		{"GET /admin/a", policy.Identity{User: ops}, policy.Decision{Rule: "admin", Reason: policy.RuleDenied}},
		{"GET /admin/a", policy.Identity{Peer: web, User: notOurs}, policy.Decision{Rule: "admin", Reason: policy.RuleDenied}},
		{"GET /admin/a", policy.Identity{}, policy.Decision{Rule: "admin", Reason: policy.RuleDenied}},
		{"GET /administrators", policy.Identity{User: local("x")}, policy.Decision{Allow: true, Rule: "all others"}},
		{"GET /x%2Fadmin", policy.Identity{User: local("x")}, policy.Decision{Allow: true, Rule: "all others"}}, // HTTP-04
		{"GET //admin", policy.Identity{User: local("x")}, policy.Decision{Reason: policy.AmbiguousTarget}},     // HTTP-02
		{"GET /x;y", policy.Identity{User: local("x")}, policy.Decision{Allow: true, Rule: "all others"}},
		{"GET /admin;x", policy.Identity{User: local("x")}, policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /healthz%23/secret", policy.Identity{}, policy.Decision{Reason: policy.AmbiguousTarget}}, // HTTP-06
	} {
		if got := p.Decide(t.Context(), request(t, c.line), c.id); got != c.want {
			t.Errorf("%s %v %v: got %+v, want %+v", c.line, c.id.Peer, c.id.User, got, c.want)
		}
	}
	if w := p.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
}

// rules is a policy file of these lines below rules.
func rules(lines ...string) string {
	return "version: 1\nrules:\n" + strings.Join(lines, "\n") + "\n"
}

func TestSelectors(t *testing.T) {
	p := parse(t, rules(
		`- {name: gate, gates: [api], peer: [any]}`,
		`- {name: host, hosts: ["*.in.example", b.example], user: [authenticated]}`,
		`- {name: net, networks: [10.0.0.0/8, "2001:db8::1"], user: [authenticated]}`,
		`- {name: preflight, preflight: true, user: [anyone]}`,
		`- {name: no mallory, deny: true, user: [user:mallory]}`,
		`- {name: no old web, deny: true, peer: ["spiffe://prod.example/ns/old/**"]}`,
		`- {name: calls, paths: [/shop.v1.Orders/Get*], user: [anyone]}`,
		`- {name: thumbs, paths: [/img/*/thumb-*.png], user: [anyone]}`,
		`- {name: rest, methods: [GET], paths: [/, /docs/**], user: [authenticated]}`,
	))
	alice := policy.Identity{User: local("alice")}
	for _, c := range []struct {
		line   string
		change func(*policy.Request)
		id     policy.Identity
		rule   string
		allow  bool
	}{
		{"GET /", nil, alice, "rest", true},
		{"HEAD /docs", nil, alice, "rest", true},
		{"GET /docs/a/b/", nil, alice, "rest", true},
		{"POST /docs", nil, alice, "", false},
		{"GET //", nil, alice, "", false},
		{"GET /img/a/thumb-1.png/", nil, alice, "thumbs", true},
		{"GET /docsx", nil, alice, "", false},
		{"GET /", func(r *policy.Request) { r.Gate = "api" }, alice, "gate", false},
		{"GET /", func(r *policy.Request) { r.Host = "x.in.example" }, alice, "host", true},
		{"GET /", func(r *policy.Request) { r.Host = "x.y.in.example" }, alice, "rest", true},
		{"GET /", func(r *policy.Request) { r.Host = "in.example" }, alice, "rest", true},
		{"GET /", func(r *policy.Request) { r.Host = "b.example" }, alice, "host", true},
		{"GET /", func(r *policy.Request) { r.Client = netip.MustParseAddr("10.1.2.3") }, alice, "net", true},
		{"GET /", func(r *policy.Request) { r.Client = netip.MustParseAddr("2001:db8::1") }, alice, "net", true},
		{"GET /", func(r *policy.Request) { r.Client = netip.Addr{} }, alice, "rest", true},
		{"OPTIONS /x", nil, policy.Identity{}, "", false}, // HTTP-15
		{"OPTIONS /x", func(r *policy.Request) { r.Header = http.Header{"Origin": {"https://o.example"}} }, policy.Identity{}, "", false},
		{"OPTIONS /x", func(r *policy.Request) {
			r.Header = http.Header{"Origin": {"https://o.example"}, "Access-Control-Request-Method": {"PUT"}}
		}, policy.Identity{}, "preflight", true},
		{"GET /x", func(r *policy.Request) {
			r.Header = http.Header{"Origin": {"https://o.example"}, "Access-Control-Request-Method": {"PUT"}}
		}, policy.Identity{}, "", false},
		{"GET /docs", nil, policy.Identity{User: local("mallory")}, "no mallory", false},
		{"GET /docs", nil, policy.Identity{User: local("alice"), Peer: peer(t, "", nil, "spiffe://prod.example/ns/old/sa/x")}, "no old web", false},
		{"GET /docs", nil, policy.Identity{User: local("alice"), Peer: peer(t, "", nil, "spiffe://prod.example/ns/new/sa/x")}, "rest", true},
		{"POST /shop.v1.Orders/GetOrder", nil, policy.Identity{}, "calls", true},
		{"POST /shop.v1.Orders/Get", nil, policy.Identity{}, "calls", true},
		{"POST /shop.v1.Orders/Get/x", nil, policy.Identity{}, "", false},
		{"POST /shop.v1.Orders/Delete", nil, policy.Identity{}, "", false},
		{"GET /img/a/thumb-1.png", nil, policy.Identity{}, "thumbs", true},
		{"GET /img//thumb-1.png", nil, policy.Identity{}, "", false},
		{"GET /img/a/b/thumb-1.png", nil, policy.Identity{}, "", false},
		{"GET /img/a/thumb-.jpg", nil, policy.Identity{}, "", false},
	} {
		r := request(t, c.line)
		if c.change != nil {
			c.change(r)
		}
		r.Preflight = policy.IsPreflight(r.Method, r.Header)
		got := p.Decide(t.Context(), r, c.id)
		if got.Rule != c.rule || got.Allow != c.allow {
			t.Errorf("%s %+v: got %+v, want %q %t", c.line, r, got, c.rule, c.allow)
		}
		e := p.Explain(t.Context(), r, c.id)
		if e.Decision != got || got.Reason == policy.NoRule && len(e.Passed) != 9 {
			t.Errorf("%s: explained as %+v", c.line, e)
		}
	}
}

// A TCP gate has no paths, methods and hosts: rules that name those are not for it.
func TestRawGates(t *testing.T) {
	p := parse(t, rules(
		"- {name: paths, paths: [/**, /, '*', '/*'], peer: [any]}", "- {name: methods, methods: [GET], peer: [any]}",
		"- {name: hosts, hosts: [a.example, '*.example'], peer: [any]}", "- {name: raw, gates: [raw], peer: [any]}"))
	got := p.Decide(t.Context(), &policy.Request{Gate: "raw"}, policy.Identity{Peer: peer(t, "x", nil)})
	if got.Rule != "raw" || !got.Allow {
		t.Errorf("got %+v", got)
	}
}

// Each broken file says where and what to do; all problems at once.
func TestBrokenFiles(t *testing.T) {
	ok := "\n- {name: z, user: [authenticated]}"
	for text, want := range map[string]string{
		"":                                    "p:1:1: the file is empty",
		"# nothing\n":                         "p:1:1: the file is empty",
		"version: 1\n":                        "p:1:1: rules is missing",
		"rules:" + ok:                         "p:1:1: version is missing",
		"version: 2\nrules:" + ok:             "p:1:10: version 2 is not known here",
		"version: 1\nrules: []\n":             "p:2:8: rules must be a list with something in it",
		"version: 1\nrule:" + ok:              `p:2:1: "rule" is none of version, audit, paths_case, sets, rules (did you mean rules?)`,
		"version: 1\nversion: 1\nrules:" + ok: `p:2:1: "version" was in line 1 already`,
		"version: 1\nrules:" + ok + "\n---\na: 1\n":                                                                        "a second document",
		"version: 1\nrules:" + ok + "\n  bad\n":                                                                            "no YAML",
		"version: 1\nsets: {a: &x [user:a]}\nrules:" + ok:                                                                  "p:2:11: anchors and aliases are not read here",
		rules("- {name: a, usr: [authenticated]}"):                                                                         `p:3:13: "usr" is none of name, gates, hosts, methods, paths, networks, preflight, peer, user, allow, deny, audit (did you mean user?)`,
		rules("- {user: [authenticated]}"):                                                                                 "p:3:3: the rule has no name",
		rules("- {name: a, user: []}"):                                                                                     "p:3:19: user is an empty list",
		rules("- {name: a, user: authenticated}"):                                                                          "p:3:19: user must be a list: [authenticated]",
		rules("- {name: a, deny: yes}"):                                                                                    "p:3:19: deny must be true or false",
		rules("- {name: a, deny: True, peer: [any]}"):                                                                      "p:3:19: deny must be true or false",
		rules("- {name: a, preflight: TRUE, user: [anyone]}"):                                                              "p:3:24: preflight must be true or false",
		rules("- {name: a}"):                                                                                               "p:3:3: the rule says nobody",
		rules("- {name: a, deny: false}"):                                                                                  "p:3:3: the rule says nobody",
		rules("- {name: a, deny: true, allow: [{user: [anyone]}]}"):                                                        "the rule both allows and denies",
		rules("- {name: a, user: [authenticated], allow: [{user: [anyone]}]}"):                                             "put those under allow",
		rules("- {name: a, allow: [{}]}"):                                                                                  "p:3:21: names neither peer nor user",
		rules("- {name: a, user: [usr:x]}"):                                                                                `p:3:20: "usr:x" is none of`,
		rules("- {name: a, peer: [user:x]}"):                                                                               `p:3:20: "user:x" is none of`,
		rules("- {name: a, peer: ['spiffe://*/x']}"):                                                                       "p:3:20: \"spiffe://*/x\": the trust domain can't be a pattern", // SPI-06
		rules("- {name: a, peer: ['']}"):                                                                                   "p:3:20: an entry of peer must be a word",
		rules("- {name: a, user: [null]}"):                                                                                 "p:3:20: an entry of user must be a word",
		rules("- {name: a, user: [user:a, user:a]}"):                                                                       `p:3:28: "user:a" is in the list twice`,
		rules("- {name: a, user: ['set:opps']}"):                                                                           `p:3:20: there is no set "opps"`,
		"version: 1\nsets: {ops: [user:a]}\nrules: [{name: a, user: ['set:opps']}]\n":                                      `there is no set "opps" (did you mean ops?)`,
		"version: 1\nsets: {ops: [user:a]}\nrules: [{name: a, peer: ['set:ops']}]\n":                                       `set "ops" holds users, such as user:a`,
		"version: 1\nsets: {ops: [dns:a.b]}\nrules: [{name: a, user: ['set:ops']}]\n":                                      `set "ops" holds client certificates, such as dns:a.b`,
		"version: 1\nsets: {ops: [dns:a.b, user:c]}\nrules: [{name: a, user: [anyone]}]\n":                                 `p:2:8: set "ops" holds both peers and users`,
		"version: 1\nsets: {ops: ['set:x']}\nrules: [{name: a, user: ['set:ops']}]\n":                                      "p:2:14: a set holds no other sets",
		"version: 1\nsets: {ops: [any-peer]}\nrules: [{name: a, peer: ['set:ops']}]\n":                                     `p:2:14: "any-peer" is of SIDEGATE_ALLOW; say any`,
		rules("- {name: a, gates: [mian], user: [authenticated]}"):                                                         `p:3:21: "mian": no gate is called so; there are main, api, raw (did you mean main?)`,
		rules("- {name: a, methods: [get], gates: [main], user: [authenticated]}"):                                         `"get": methods are in capitals: GET`,
		rules("- {name: a, methods: [TRACE], gates: [main], user: [authenticated]}"):                                       "is never let through",
		rules("- {name: a, hosts: ['a.example:443'], gates: [main], user: [authenticated]}"):                               "is no host name, without port",
		rules("- {name: a, hosts: [A.example], gates: [main], user: [authenticated]}"):                                     "hosts are compared in lower case: a.example",
		rules("- {name: a, networks: [10.0.0.1/8], gates: [main], user: [authenticated]}"):                                 "do you mean 10.0.0.0/8?",
		rules("- {name: a, networks: [ten], gates: [main], user: [authenticated]}"):                                        "is neither an address nor a network",
		rules("- {name: a, paths: [admin], gates: [main], user: [authenticated]}"):                                         "a path begins with /",
		rules("- {name: a, paths: [/a/], gates: [main], user: [authenticated]}"):                                           "write /a, which covers the final slash too",
		rules("- {name: a, paths: [/a**], gates: [main], user: [authenticated]}"):                                          "** stands for all the rest",
		rules("- {name: a, paths: ['/a?b'], gates: [main], user: [authenticated]}"):                                        "a query has no part in a path",
		rules("- {name: a, paths: [/a/../b], gates: [main], user: [authenticated]}"):                                       "no request for this is ever let through",
		rules("- {name: a, paths: [/a%20b], gates: [main], user: [authenticated]}"):                                        "paths are compared decoded: write /a b",
		rules("- {name: a, paths: [/a%2Fb], gates: [main], user: [authenticated]}"):                                        "applications may read this as /a/b",
		rules("- {name: a, gates: [main, raw], user: [user:x]}"):                                                           "p:3:3: gate raw is raw TCP, where nobody can prove to be a user",
		rules("- {name: a, gates: [api], user: [anyone]}"):                                                                 "p:3:3: anyone is not true at gate api, which requires a client certificate; set client_cert to optional",
		rules("- {name: a, gates: [main], user: [authenticated]}", "- {name: a, peer: [any]}"):                             `p:4:10: the rule of line 3 is called "a" too`,
		rules("- {name: a, gates: [main], user: [authenticated]}", "- {name: b, gates: [main], paths: [/x], peer: [any]}"): `p:4:3: rule "b" is never reached: "a" in line 3 decides all of its requests`,
	} {
		p, err := policy.Parse("p", []byte(text), around)
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
	_, err := policy.Parse("p", []byte(rules("- {name: a, usr: [x], metods: [GET]}", "- {name: b, user: [nobody]}")), around)
	if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) < 2 {
		t.Errorf("got %v, want all problems", err)
	}
}

func TestShadow(t *testing.T) {
	rule := func(name, selectors string) string {
		return "- {name: " + name + ", gates: [main], user: [authenticated]" + selectors + "}"
	}
	for _, c := range []struct {
		first, second string
		shadowed      bool
	}{
		{", paths: [/a/**]", ", paths: [/a/b, /a]", true},
		{", paths: [/a/**]", ", paths: [/a/*/c, /a/b/**]", true},
		{", paths: [/a/**]", ", paths: [/a*]", false},
		{", paths: [/a/**]", ", paths: [/ab]", false},
		{", paths: [/a]", ", paths: [/a/**]", false},
		{", paths: [/a/*]", ", paths: [/a/b]", true},
		{", paths: [/a/*]", ", paths: [/a/b/c]", false},
		{", paths: [/**]", "", false}, // OPTIONS * is no path
		{", paths: [/**]", ", paths: [/x]", true},
		{", methods: [GET]", ", methods: [HEAD]", true},
		{", methods: [GET]", ", methods: [POST]", false},
		{", methods: [GET]", "", false},
		{", hosts: ['*.b.example']", ", hosts: [a.b.example]", true},
		{", hosts: [a.b.example]", ", hosts: ['*.b.example']", false},
		{", networks: [10.0.0.0/8]", ", networks: [10.1.0.0/16]", true},
		{", networks: [10.1.0.0/16]", ", networks: [10.0.0.0/8]", false},
		{", preflight: true", "", false},
		{"", ", preflight: true", true},
	} {
		_, err := policy.Parse("p", []byte(rules(rule("a", c.first), rule("b", c.second))), around)
		if got := err != nil && strings.Contains(err.Error(), "never reached"); got != c.shadowed {
			t.Errorf("%s then %s: got %v, want %t", c.first, c.second, err, c.shadowed)
		}
	}
	parse(t, rules("- {name: a, deny: true, user: [user:x]}", "- {name: b, gates: [main], user: [authenticated]}"))
}

// What is only watched passes and says why it would not; what isn't sure does
// not pass.
func TestAudit(t *testing.T) {
	p := parse(t, rules("- {name: a, paths: [/a], gates: [main], user: [user:alice], audit: true}", "- {name: b, paths: [/b], gates: [main], user: [user:alice]}"))
	bob := policy.Identity{User: local("bob")}
	for line, want := range map[string]policy.Decision{
		"GET /a":   {Allow: true, Rule: "a", Reason: policy.RuleDenied, Audit: true},
		"GET /b":   {Rule: "b", Reason: policy.RuleDenied},
		"GET /c":   {Reason: policy.NoRule},
		"GET /a;b": {Reason: policy.AmbiguousTarget},
	} {
		if got := p.Decide(t.Context(), request(t, line), bob); got != want {
			t.Errorf("%s: got %+v, want %+v", line, got, want)
		}
	}
	p = parse(t, "audit: true\n"+rules("- {name: a, paths: [/a], gates: [main], user: [user:alice]}"))
	if got, want := p.Decide(t.Context(), request(t, "GET /c"), bob), (policy.Decision{Allow: true, Reason: policy.NoRule, Audit: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := p.Decide(t.Context(), request(t, "GET /a;b"), bob), (policy.Decision{Reason: policy.AmbiguousTarget}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFileWarnings(t *testing.T) {
	for text, want := range map[string]string{
		rules("- {name: a, gates: [main], user: [anyone]}"):                          `p:3:3: rule "a" lets anyone do anything`,
		rules("- {name: a, paths: [/**], gates: [main], user: [anyone]}"):            `lets anyone do anything`,
		rules("- {name: a, gates: [main], user: [authenticated], audit: true}"):      `p:3:58: audit: what rule "a" refuses passes`,
		"audit: true\n" + rules("- {name: a, gates: [main], user: [authenticated]}"): "p:1:8: audit: nothing is refused",
		rules("- {name: a, gates: [main], user: [user:github/x]}"):                   `p:3:35: nobody can be user:github/x`,
		"version: 1\nsets: {x: [user:a]}\nrules: [{name: a, peer: [any]}]\n":         `p:2:8: no rule names set:x`,
	} {
		p, err := policy.Parse("p", []byte(text), around)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := strings.Join(p.Warnings(), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// The schema that editors get is that of the types that the parser reads.
func TestSchema(t *testing.T) {
	const file = "../manifests/policy.schema.json"
	got, err := policy.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say (%v); run go test ./policy -update", file, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(design))
	f.Add([]byte(rules("- {name: a, paths: [/a/*/b**], deny: true, peer: [any]}")))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse("p", text, around)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p, err)
		}
		if err != nil {
			return
		}
		for _, line := range []string{"GET /", "POST /a;b", "OPTIONS /admin//x"} {
			r := request(t, line)
			if e := p.Explain(t.Context(), r, policy.Identity{}); e.Decision != p.Decide(t.Context(), r, policy.Identity{}) {
				t.Errorf("explained as %+v", e)
			}
		}
	})
}

// A pattern matches what a slower reading of it does.
func FuzzPath(f *testing.F) {
	f.Add("/a/*/b*c/**", "/a/x/bc/d")
	f.Add("/*", "/")
	f.Add("/A*É/**", "/a%C3%A9/b")
	f.Add("/K", "/%E2%84%AA")
	f.Fuzz(func(t *testing.T, pattern, target string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(target) {
			return // a regular expression can't say it
		}
		p, err := policy.Parse("p", fmt.Appendf(nil, "version: 1\nrules: [{name: a, gates: [main], paths: [%q], user: [anyone]}]\n", pattern), around)
		if err != nil {
			return
		}
		path, err := policy.ParseTarget(target)
		if err != nil || strings.ContainsAny(path, "%;") || strings.Contains(path, "//") || !utf8.ValidString(path) {
			return
		}
		got := p.Decide(t.Context(), &policy.Request{Gate: "main", Path: path}, policy.Identity{})
		exact, anyCase := slowMatch(pattern, path, false), slowMatch(pattern, path, true)
		if got.Allow != (exact && anyCase) || (got.Reason == policy.AmbiguousTarget) != (exact != anyCase) {
			t.Errorf("%q %q: got %+v, want %t and %t", pattern, path, got, exact, anyCase)
		}
	})
}

// slowMatch is the meaning of a pattern, said by a regular expression, which folds
// case as we do.
func slowMatch(pattern, path string, anyCase bool) bool {
	body, below := strings.CutSuffix(pattern, "/**")
	var b strings.Builder
	if anyCase {
		b.WriteString("(?i)")
	}
	b.WriteString(`\A`)
	segments := strings.Split(body, "/")
	for i, s := range segments {
		if i > 0 {
			b.WriteString("/")
		}
		if s == "*" {
			b.WriteString("[^/]+")
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, "[^/]*"))
	}
	switch {
	case below:
		b.WriteString(`(/(?s:.*))?\z`)
	case body == "/":
		b.WriteString(`\z`)
	default:
		b.WriteString(`/?\z`)
	}
	return expression(b.String()).MatchString(path)
}

var expressions sync.Map

// expression compiles each but once.
func expression(text string) *regexp.Regexp {
	if e, known := expressions.Load(text); known {
		return e.(*regexp.Regexp)
	}
	e := regexp.MustCompile(text)
	expressions.Store(text, e)
	return e
}

// hundredRules is a policy as large as anyone's, and the request of its last
// rule.
func hundredRules(tb testing.TB) (*policy.Policy, *policy.Request, policy.Identity) {
	var lines []string
	for i := range 100 {
		lines = append(lines, fmt.Sprintf(`- {name: r%d, methods: [GET], paths: [/api/v1/team%d/**], peer: ["spiffe://td.example/ns/*/sa/s%d"]}`, i, i, i))
	}
	id := policy.Identity{Peer: peer(tb, "", nil, "spiffe://td.example/ns/x/sa/s99")}
	return parse(tb, rules(lines...)), request(tb, "GET /api/v1/team99/things/42"), id
}

func BenchmarkDecideHundredRules(b *testing.B) {
	p, r, id := hundredRules(b)
	for b.Loop() {
		if !p.Decide(b.Context(), r, id).Allow {
			b.Fatal("refused")
		}
	}
}

func TestDecideHundredRulesAllocatesNothing(t *testing.T) {
	p, r, id := hundredRules(t)
	if n := testing.AllocsPerRun(100, func() { p.Decide(t.Context(), r, id) }); n != 0 {
		t.Errorf("%v allocations a decision", n)
	}
}
