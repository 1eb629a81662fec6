package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"sidegate/policy"
)

// HTTP-02, HTTP-04: where an application could read another path, every reading
// must meet the same rule with the same answer; else nobody knows which request
// this is, whether the canonical path would pass or not.
func TestReadingsMustAgree(t *testing.T) {
	p := parse(t, `version: 1
rules:
- {name: admin, paths: [/admin/**], user: [user:root]}
- {name: closed, paths: [/closed/**], deny: true}
- {name: rest, user: [user:alice, user:root]}
`)
	for _, c := range []struct {
		line, user string
		want       policy.Decision
	}{
		{"GET /x%2Fy", "alice", policy.Decision{Allow: true, Rule: "rest"}},
		{"GET //x", "alice", policy.Decision{Allow: true, Rule: "rest"}},
		{"GET //admin", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET //admin", "root", policy.Decision{Reason: policy.AmbiguousTarget}}, // allowed by two rules
		{"GET /admin;x", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /closed%2Fx", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /admin%2Fx", "alice", policy.Decision{Reason: policy.AmbiguousTarget}},
		{"GET /x%2F%2Fadmin", "alice", policy.Decision{Allow: true, Rule: "rest"}},
		{"GET /admin//x", "root", policy.Decision{Allow: true, Rule: "admin"}},
	} {
		if got := p.Decide(t.Context(), request(t, c.line), policy.Identity{User: local(c.user)}); got != c.want {
			t.Errorf("%s as %s: got %+v, want %+v", c.line, c.user, got, c.want)
		}
	}
}

// bruteReadings are what applications may take a canonical path for, made in the
// slowest and plainest way: every decoding, then every combination of habits.
func bruteReadings(path string) (all []string) {
	habits := []func(string) string{
		func(s string) string { // a decoded query or fragment
			if i := strings.IndexAny(s, "#?"); i >= 0 {
				return s[:i]
			}
			return s
		},
		func(s string) string { return strings.ReplaceAll(s, `\`, "/") },
		func(s string) string { // parameters
			segments := strings.Split(s, "/")
			for i, segment := range segments {
				segments[i], _, _ = strings.Cut(segment, ";")
			}
			return strings.Join(segments, "/")
		},
		func(s string) string {
			for strings.Contains(s, "//") {
				s = strings.ReplaceAll(s, "//", "/")
			}
			return s
		},
	}
	for decoded := path; ; {
		for combination := range 1 << len(habits) {
			reading := decoded
			for i, habit := range habits {
				if combination&(1<<i) != 0 {
					reading = habit(reading)
				}
			}
			all = append(all, reading)
		}
		next := decodeOnce(decoded)
		if next == decoded {
			return all
		}
		decoded = next
	}
}

func decodeOnce(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 <= len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil && s[i] == '%' {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// plainRule is a rule of the property below, which lets anyone do anything.
type plainRule struct {
	name           string
	paths, methods []string
}

func (r plainRule) selects(method, path string, anyCase bool) bool {
	return (len(r.methods) == 0 || slices.Contains(r.methods, method)) &&
		(len(r.paths) == 0 || slices.ContainsFunc(r.paths, func(p string) bool { return slowMatch(p, path, anyCase) }))
}

// bruteDecision is what the rules say about every reading, or AmbiguousTarget.
func bruteDecision(rules []plainRule, methods []string, path string, distinct bool) policy.Decision {
	decide := func(method, path string, anyCase bool) policy.Decision {
		for _, r := range rules {
			if r.selects(method, path, anyCase) {
				return policy.Decision{Allow: true, Rule: r.name}
			}
		}
		return policy.Decision{Reason: policy.NoRule}
	}
	first := decide(methods[0], path, false)
	for _, reading := range bruteReadings(path) {
		for _, m := range methods {
			if decide(m, reading, false) != first || !distinct && decide(m, reading, true) != first {
				return policy.Decision{Reason: policy.AmbiguousTarget}
			}
		}
	}
	return first
}

// HTTP-02, HTTP-28, HTTP-29: the decision is that of the plainest reading of the
// rules, for random policies and requests.
func TestDecideIsWhatEveryReadingSays(t *testing.T) {
	const seed, policies, requests = 1, 60, 200
	random := rand.New(rand.NewPCG(seed, seed))
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	counts := map[string]int{}
	for range policies {
		rules, p, distinct := randomPolicy(t, random)
		for range requests {
			target := ""
			for range 1 + random.IntN(5) {
				target += pick("/", "/", "/", "//", "%2F", "%252f", "%5C", ";", "%3b", "%23", "%253F", "%25252F") +
					pick("a", "A", "b", "B", "ab", "aB", "%41", "%C3%A9", "%C3%89", "k", "%E2%84%AA", "%c5%bf", "S", "", ".x", "a%20b", "..")
			}
			target = "/" + strings.TrimPrefix(target, "/")
			path, err := policy.ParseTarget(target)
			if err != nil {
				counts["refused"]++
				continue
			}
			r := &policy.Request{Gate: "main", Method: pick("GET", "POST"), Target: target, Path: path}
			methods := []string{r.Method}
			if random.IntN(4) == 0 {
				r.Overrides = []string{pick("DELETE", "GET")}
				if slices.ContainsFunc(rules, func(r plainRule) bool { return len(r.methods) > 0 }) {
					methods = append(methods, r.Overrides...)
				}
			}
			want := bruteDecision(rules, methods, path, distinct)
			if got := p.Decide(t.Context(), r, policy.Identity{}); got != want {
				t.Fatalf("%+v, distinct %t: %s %s %q: got %+v, want %+v", rules, distinct, r.Method, target, r.Overrides, got, want)
			}
			if e := p.Explain(t.Context(), r, policy.Identity{}); e.Decision != want || (want.Reason == policy.AmbiguousTarget) != (len(e.Ambiguous) > 1) {
				t.Fatalf("%+v: %s %s: explained as %+v, want %+v", rules, r.Method, target, e, want)
			}
			counts[string(want.Reason)]++
		}
	}
	t.Log(counts)
	for _, kind := range []string{"", string(policy.NoRule), string(policy.AmbiguousTarget), "refused"} {
		if counts[kind] < 100 {
			t.Errorf("only %d requests of kind %q, of all kinds %v", counts[kind], kind, counts)
		}
	}
}

// randomPolicy is one that loads.
func randomPolicy(t *testing.T, random *rand.Rand) (list []plainRule, p *policy.Policy, distinct bool) {
	t.Helper()
	paths := []string{"/a", "/b/**", "/a/b", "/A", "/a*", "/*/b", "/\u00e9", "/\u00c9*/**", "/k/**", "/s", "/ab*b", "/", "/**", "/a/*", "/a b", "/.x/*"}
	for {
		list, distinct = nil, random.IntN(3) == 0
		text := "version: 1\n"
		if distinct {
			text += "paths_case: distinct\n"
		}
		text += "rules:\n"
		for i := range 1 + random.IntN(4) {
			r := plainRule{name: fmt.Sprintf("r%d", i)}
			for _, at := range random.Perm(len(paths))[:random.IntN(3)] {
				r.paths = append(r.paths, paths[at])
			}
			if random.IntN(3) == 0 {
				r.methods = []string{[]string{"POST", "DELETE"}[random.IntN(2)]}
			}
			list = append(list, r)
			text += fmt.Sprintf("- {name: %s, gates: [main], user: [anyone]%s%s}\n", r.name, field("paths", r.paths), field("methods", r.methods))
		}
		p, err := policy.Parse("p", []byte(text), around)
		if err == nil {
			return list, p, distinct
		}
		if s := err.Error(); !strings.Contains(s, "never reached") && !strings.Contains(s, "differs only in case") {
			t.Fatal(err)
		}
	}
}

func field(name string, values []string) string {
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf(", %s: [%s]", name, "'"+strings.Join(values, "', '")+"'")
}

// HTTP-28: case.
func TestCase(t *testing.T) {
	lines := []string{"- {name: admin, paths: [/admin/**], user: [user:alice]}", "- {name: all others, gates: [main], user: [authenticated]}"}
	byDefault := parse(t, rules(lines...))
	distinct := parse(t, "paths_case: distinct\n"+rules(lines...))
	ambiguous := policy.Decision{Reason: policy.AmbiguousTarget}
	others := policy.Decision{Allow: true, Rule: "all others"}
	admin := policy.Decision{Rule: "admin", Reason: policy.RuleDenied}
	for _, c := range []struct {
		target string
		want   policy.Decision // by default
		asIs   policy.Decision // with distinct
	}{
		{"/admin", admin, admin},
		{"/ADMIN", ambiguous, others},
		{"/Admin/", ambiguous, others},
		{"/aDMIN/X", ambiguous, others},
		{"/%41dmin", ambiguous, others},
		{"/admi%4E", ambiguous, others},
		{"/%2541dmin", ambiguous, others}, // decoded twice it is Admin
		{"/x%2F..ADMIN", others, others},
		{"/ADMIN;x", ambiguous, others},
		{"//ADMIN", ambiguous, others},
		{"/adm\u0131n", others, others}, // simple folding knows no dotless i
		{"/admin/ADMIN", admin, admin},
		{"/Administrators", others, others},
		{"/x/ADMIN", others, others},
	} {
		target := strings.ReplaceAll(c.target, "\u0131", "%C4%B1")
		r := request(t, "GET "+target)
		if got := byDefault.Decide(t.Context(), r, policy.Identity{User: local("bob")}); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.target, got, c.want)
		}
		if got := distinct.Decide(t.Context(), r, policy.Identity{User: local("bob")}); got != c.asIs {
			t.Errorf("distinct: %s: got %+v, want %+v", c.target, got, c.asIs)
		}
	}
	e := byDefault.Explain(t.Context(), request(t, "GET /ADMIN"), policy.Identity{User: local("bob")})
	if len(e.Ambiguous) != 2 || e.Ambiguous[0].AnyCase || e.Ambiguous[0].Rule != "all others" || !e.Ambiguous[1].AnyCase || e.Ambiguous[1].Rule != "admin" {
		t.Errorf("explained as %+v", e)
	}
}

// HTTP-28: letters that are one under simple folding, beyond ASCII.
func TestCaseBeyondASCII(t *testing.T) {
	p := parse(t, rules("- {name: special, gates: [main], paths: [/Kasse, /\u00c9t\u00e9/**, /\u03c3*, /*/Stra\u00dfe], user: [user:alice]}", "- {name: rest, gates: [main], user: [anyone]}"))
	for target, ambiguous := range map[string]bool{
		"/Kasse":                  false,
		"/kasse":                  true,
		"/%E2%84%AAasse":          true, // the Kelvin sign
		"/Ka%C5%BF%C5%BFe":        true, // the long s
		"/%C3%89t%C3%A9/x":        false,
		"/%C3%A9t%C3%89/x":        true,
		"/%C3%89T%C3%A9":          true,
		"/%CF%83x":                false, // sigma
		"/%CE%A3x":                true,  // a capital one
		"/%CF%82x":                true,  // a final one
		"/x/Stra%C3%9Fe":          false,
		"/x/Stra%E1%BA%9Ee":       true,  // the capital sharp s
		"/x/Strasse":              false, // simple folding doesn't know it
		"/%C9t%E9":                false, // not UTF-8
		"/x/STRA%C3%9Fe":          true,
		"/%E2%84%AA%E2%84%AAasse": false,
	} {
		d := p.Decide(t.Context(), request(t, "GET "+target), policy.Identity{})
		if got := d.Reason == policy.AmbiguousTarget; got != ambiguous {
			t.Errorf("%s: got %+v, want ambiguous %t", target, d, ambiguous)
		}
	}
}

// HTTP-28: what no application to which case does not count could tell apart is
// said when the file is read.
func TestPathsThatDifferInCase(t *testing.T) {
	two := func(first, second string) string {
		return rules("- {name: a, gates: [main], paths: ["+first+"], user: [user:a]}", "- {name: b, gates: [main], paths: ["+second+"], user: [user:b]}")
	}
	for text, want := range map[string]string{
		two("/admin", "/Admin"):                        `p:4:36: "/Admin" differs only in case from "/admin" in line 3`,
		two("/admin, /Admin", "/x"):                    `p:3:44: "/Admin" differs only in case from "/admin" in line 3`,
		two("/a/**", "/A/**"):                          `p:4:36: "/A/**" differs only in case`,
		two("/\u00e9", "/\u00c9"):                      "differs only in case",
		two("/k", "/\u212a"):                           "differs only in case",
		two("/a/**", "/A/b"):                           `p:4:3: rule "b" is never reached where case does not count in paths: "a" in line 3`,
		two("/a*", "/AB"):                              "write paths_case: distinct at the top",
		two("/admin", "/x/Admin"):                      "",
		two("/admin", "/Admin/**"):                     "",
		"paths_case: distinct\n" + two("/a", "/A"):     "",
		"paths_case: distinct\n" + two("/a/**", "/A*"): "",
		"paths_case: distnct\n" + two("/a", "/b"):      `p:1:13: paths_case is "distnct"; write distinct`,
		"paths_case: [distinct]\n" + two("/a", "/b"):   "p:1:13: paths_case must be a word",
		"paths_case:\n" + two("/a", "/b"):              "paths_case must be a word",
	} {
		_, err := policy.Parse("p", []byte(text), around)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
		if want != "" && strings.Contains(want, "differs") && !strings.Contains(fmt.Sprint(err), "paths_case: distinct") {
			t.Errorf("%v names no switch", err)
		}
	}
}

// HTTP-34: a path of several readings has at most 4 KiB where a rule names paths;
// any other may be longer.
func TestLongPaths(t *testing.T) {
	named := parse(t, rules("- {name: a, gates: [main], paths: [/a/**], user: [anyone]}", "- {name: rest, gates: [main], user: [anyone]}"))
	unnamed := parse(t, rules("- {name: rest, gates: [main], user: [anyone]}"))
	for _, c := range []struct {
		target    string
		ambiguous bool
	}{
		{"/b" + strings.Repeat(";", 4094), false},
		{"/b" + strings.Repeat(";", 4095), true},
		{"/b" + strings.Repeat("%2F", 1365), true},
		{"/b" + strings.Repeat("%2F", 1364), false},
		{"/b;" + strings.Repeat("%41", 1365), true}, // as it came
		{"/b" + strings.Repeat("c", 60_000), false},
		{"/b" + strings.Repeat("%20", 20_000), false},
		{"/b" + strings.Repeat("C", 60_000), false},
		{"/b;?" + strings.Repeat("c", 60_000), false},
	} {
		r := request(t, "GET "+c.target)
		d := named.Decide(t.Context(), r, policy.Identity{})
		if got := d.Reason == policy.AmbiguousTarget; got != c.ambiguous {
			t.Errorf("%d bytes of %.12s: got %+v", len(c.target), c.target, d)
		}
		if d := unnamed.Decide(t.Context(), r, policy.Identity{}); !d.Allow {
			t.Errorf("no rule names paths: %d bytes of %.12s: got %+v", len(c.target), c.target, d)
		}
		if e := named.Explain(t.Context(), r, policy.Identity{}); c.ambiguous != strings.Contains(e.Unread, "4096 bytes") {
			t.Errorf("%d bytes of %.12s: explained as %q", len(c.target), c.target, e.Unread)
		}
	}
}

// HTTP-28, HTTP-34: nothing is allocated and so nothing kept.
func TestReadingsAllocateNothing(t *testing.T) {
	p, _, id := hundredRules(t)
	for _, target := range []string{"/api/v1/team99/Things/42", "/api/v1/Team99/" + strings.Repeat("X", 3000), "/a%2Fb", "/a;b//c%23%5C%253F" + strings.Repeat("a", 3000)} {
		r := request(t, "GET "+target)
		p.Decide(t.Context(), r, id) // makes what is used again
		if n := testing.AllocsPerRun(100, func() { p.Decide(t.Context(), r, id) }); n > 0 && !raceDetector {
			t.Errorf("%.30s: %v allocations", target, n)
		}
	}
}

// BenchmarkWorstPath shows what a path of 4 KiB costs, and one that a search found
// to cost the most (HTTP-34).
func BenchmarkWorstPath(b *testing.B) {
	p, _, id := hundredRules(b)
	paths := map[string]string{"found": searchWorst(b, p, id)}
	for name, unit := range worstUnits {
		paths[name] = longPath(unit)
	}
	for name, target := range paths {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				judgeLong(b, p, target, id)
			}
		})
	}
}

// longPath is nearly 4 KiB below a path that all rules look at.
func longPath(unit string) string {
	return "/api/v1/team" + strings.Repeat(unit, 4084/len(unit))
}

// judgeLong is all that is done about a target before anybody is known.
func judgeLong(b *testing.B, p *policy.Policy, target string, id policy.Identity) {
	path, err := policy.ParseTarget(target)
	if err != nil {
		b.Fatal(err)
	}
	p.Decide(b.Context(), &policy.Request{Gate: "main", Method: "GET", Target: target, Path: path, Overrides: []string{"PUT", "POST", "DELETE"}}, id)
}

// searchWorst tries random changes of what a path is made of, and keeps each that
// makes it cost more.
func searchWorst(b *testing.B, p *policy.Policy, id policy.Identity) (worst string) {
	pieces := []string{"a", "A", "/", "//", ";", "%2F", "%5C", "%3B", "%23", "%3F", "%25", "%2525", "%252F", "%255C", "%253B", "%2523", "%25252F", "%25255C", "%25253B", "%252523", "%20", "%C3%A9", "%25C3%25A9", "%E2%84%AA", "%EA%AD%B0", strings.Repeat("a", 40)}
	const seed, tries = 1, 400
	random := rand.New(rand.NewPCG(seed, seed))
	unit, most := []string{"a"}, time.Duration(0)
	for range tries {
		next := slices.Clone(unit)
		for range 1 + random.IntN(3) {
			next = slices.Insert(next, random.IntN(len(next)+1), pieces[random.IntN(len(pieces))])
		}
		for len(next) > 1 && random.IntN(2) == 0 {
			at := random.IntN(len(next))
			next = slices.Delete(next, at, at+1)
		}
		target := longPath(strings.Join(next, ""))
		if _, err := policy.ParseTarget(target); err != nil {
			continue
		}
		least := time.Hour // of three, since others use the machine too
		for range 3 {
			began := time.Now()
			judgeLong(b, p, target, id)
			least = min(least, time.Since(began))
		}
		if least > most {
			unit, most, worst = next, least, target
		}
	}
	b.Logf("worst of %d: %q again and again, %v", tries, strings.Join(unit, ""), most)
	return worst
}

// worstUnits are what such a path may be made of: all habits at every decoding,
// in every density.
var worstUnits = map[string]string{
	"parameters":         ";",
	"slashes":            "//",
	"all":                "//;%5C%23",
	"all twice":          "//;%5C%5C%3B%255C%253B%2523",
	"all thrice":         "//;%5C%3B%255C%253B%25255C%25253B%252523",
	"all thrice, sparse": "aaaaaaaaaaaaaaaaaaaaaaaaaaaa//;%5C%3B%255C%253B%25255C%25253B%252523",
	"escapes":            "%252525",
	"capitals":           "A;//%2525",
	"not ASCII":          ";%C3%A9//%25%25C3%25A9",
	"Cherokee":           "%EA%AD%B0%E1%B8%80;//",
	"plain":              "a",
	"one at the end":     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%252523",
}
