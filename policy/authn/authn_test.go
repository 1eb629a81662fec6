package authn

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"sidegate/policy"
)

// world is a user file that tests change.
type world struct {
	mu      sync.Mutex
	content map[string][]byte
	err     error
	now     time.Time
	log     bytes.Buffer
	*Users
}

func newWorld(t testing.TB, htpasswd string) *world {
	t.Helper()
	w := &world{content: map[string][]byte{"htpasswd": []byte(htpasswd)}, now: time.Now()}
	var err error
	w.Users, err = NewUsers(Options{Realm: `a "quoted" \ realm`, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		Read: func() (map[string][]byte, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.content, w.err
		}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) set(content map[string][]byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content, w.err = content, err
}

func (w *world) load(t testing.TB) {
	t.Helper()
	if _, err := w.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// hold takes every place in which hashes are made, until release.
func (w *world) hold() (release func()) {
	n := w.queue.free
	for range n {
		w.queue.enter(netip.Prefix{}, false)
	}
	return func() {
		for range n {
			w.queue.leave()
		}
	}
}

// from is a Basic credential that comes from an address.
func from(addr, user, password string) *policy.Request {
	r := basic(user, password)
	r.Client = netip.MustParseAddr(addr)
	return r
}

func bcryptOf(t testing.TB, password string, cost int) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func request(field string) *policy.Request {
	h := http.Header{}
	if field != "" {
		h.Set("Authorization", field)
	}
	return &policy.Request{Gate: "main", Client: netip.MustParseAddr("192.0.2.1"), Header: h}
}

func basic(user, password string) *policy.Request {
	return request("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// verdict is "ok", "none" or the reason of the refusal.
func (w *world) verdict(t testing.TB, r *policy.Request) string {
	t.Helper()
	login, err := w.Authenticate(t.Context(), r)
	var refusal *policy.Refusal
	switch {
	case errors.As(err, &refusal):
		return string(refusal.Reason)
	case err != nil:
		t.Fatalf("%v is no Refusal", err)
	case login == nil:
		return "none"
	}
	return "ok"
}

func TestParseHtpasswd(t *testing.T) {
	good := bcryptOf(t, "x", 4)
	cases := []struct{ name, line, want string }{
		{"bcrypt", "a:" + good, ""},
		{"comment and blank", "# hello\n\na:" + good, ""},
		{"carriage return", "a:" + good + "\r", ""},
		{"PWD-03 empty hash", "a:", "f:1: the hash is empty"},
		{"PWD-03 no colon", "b\na:" + good, "f:1: no colon"},
		{"PWD-03 unknown scheme", "a:$9$abc", "f:1: the hash is none of"},
		{"PWD-03 malformed bcrypt", "a:$2y$10$short", "malformed"},
		{"PWD-03 malformed apr1", "a:$apr1$salt$short", "malformed"},
		{"PWD-03 malformed sha", "a:{SHA}abc", "malformed"},
		{"PWD-03 $2x$", "a:$2x$" + good[4:], "broken bcrypt"},
		{"PWD-03 listed before", "a:" + good + "\nb:" + good + "\na:" + good, `f:3: user "a" is in line 1`},
		{"PWD-04 plaintext", "a:secretpassword", "plaintext"},
		{"PWD-04 traditional crypt", "a:rqXexS6ZhobKA", "plaintext"},
		{"PWD-05 cost 16", "a:$2a$16$" + good[7:], "cost 16"},
		{"PWD-05 cost 31", "a:$2a$31$" + good[7:], "cost 31"},
		{"PWD-12 colon in the name", "a:b:" + good, "colon"},
		{"empty name", ":" + good, "user name is empty"},
		{"space around the name", " a:" + good, "space"},
		{"control byte in the name", "a\x01:" + good, "control"},
		{"name that would be a comment", "#a:" + good + "\nb:" + good, ""},
		{"byte order mark", "\ufeffa:" + good, "not printable"},
		{"zero width space", "a\u200b:" + good, "not printable"},
		{"rounds", "a:$6$rounds=9999999$salt$" + strings.Repeat("a", 86), "rounds"},
		{"rounds below 1000", "a:$5$rounds=999$salt$" + strings.Repeat("a", 43), "malformed"},
		{"rounds that pose as a salt", "a:$6$rounds=999999999$" + strings.Repeat("a", 86), "malformed"},
		{"salt of 17", "a:$6$" + strings.Repeat("s", 17) + "$" + strings.Repeat("a", 86), "malformed"},
		{"salt that is not ASCII", "a:$6$sälz$" + strings.Repeat("a", 86), "malformed"},
		{"{SSHA} without a salt", "a:{SSHA}" + strings.TrimPrefix(shaOf("x"), "{SHA}"), "malformed"},
		{"{PLAIN} without the option", "a:{PLAIN}secretpassword", "plaintext"}, // PWD-04
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseHtpasswd("f", []byte(c.line), false)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), good[7:]) || strings.Contains(err.Error(), "secretpassword")) { // OPS-08
				t.Errorf("%v tells the hash or the password", err)
			}
		})
	}
	e, err := parseHtpasswd("f", []byte("a:"+good), false)
	if err != nil || len(e.warnings) != 1 { // PWD-05
		t.Errorf("a cost below 10: %v, warnings %q", err, e.warnings)
	}
}

// Hashes made by the tools that people have.
func TestForeignHashes(t *testing.T) {
	made := map[string][]string{
		"apr1": {"htpasswd", "-nbm", "u", "s3cret"}, "bcrypt": {"htpasswd", "-nbB", "u", "s3cret"},
		"sha": {"htpasswd", "-nbs", "u", "s3cret"}, "apr1 of openssl": {"openssl", "passwd", "-apr1", "s3cret"},
		"sha256": {"openssl", "passwd", "-5", "s3cret"}, "sha512": {"openssl", "passwd", "-6", "s3cret"},
		"sha256 of rounds":             {"openssl", "passwd", "-5", "-salt", "rounds=1000$saltsaltsaltsalt", "s3cret"},
		"sha256 of a short salt":       {"openssl", "passwd", "-5", "-salt", "abc", "s3cret"},
		"sha512 of rounds, short salt": {"openssl", "passwd", "-6", "-salt", "rounds=10000$abc", "s3cret"},
	}
	for name, argv := range made {
		t.Run(name, func(t *testing.T) {
			line := string(bytes.TrimSpace(output(t, argv...)))
			if !strings.HasPrefix(line, "u:") {
				line = "u:" + line
			}
			checkOnly(t, line)
		})
	}
	checkOnly(t, "u:{SSHA}"+ssha("s3cret"))
}

func shaOf(password string) string {
	h := sha1.Sum([]byte(password))
	return "{SHA}" + base64.StdEncoding.EncodeToString(h[:])
}

func output(t *testing.T, argv ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		if os.Getenv("TEST_PEERS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ssha(password string) string {
	h := sha1.Sum([]byte(password + "salt"))
	return base64.StdEncoding.EncodeToString(append(h[:], "salt"...))
}

// checkOnly lets exactly u with s3cret in.
func checkOnly(t *testing.T, line string) {
	t.Helper()
	w := newWorld(t, line)
	w.load(t)
	stored := strings.TrimPrefix(line, "u:")
	for password, want := range map[string]string{"s3cret": "ok", "s3cre": "bad_credentials", "": "bad_credentials", stored: "bad_credentials"} { // PWD-04
		if got := w.verdict(t, basic("u", password)); got != want {
			t.Errorf("%s with %q: got %s, want %s", line, password, got, want)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	long := strings.Repeat("x", 72)
	w := newWorld(t, "alice:"+bcryptOf(t, "a:b:c", 4)+"\nlong:"+bcryptOf(t, long, 4)+"\nadmin:"+bcryptOf(t, "admin", 4)+"\nempty:"+bcryptOf(t, "", 4))
	w.load(t)
	encoded := base64.StdEncoding.EncodeToString([]byte("admin:admin"))
	cases := []struct {
		name  string
		field *policy.Request
		want  string
	}{
		{"none", request(""), "none"},
		{"another scheme", request("Bearer abc"), "none"},
		{"a scheme that begins alike", request("Basically abc"), "none"},
		{"right", basic("admin", "admin"), "ok"},
		{"wrong", basic("admin", "nimda"), "bad_credentials"},
		{"unknown", basic("nobody", "admin"), "bad_credentials"},
		{"case of the user counts", basic("Admin", "admin"), "bad_credentials"},
		{"PWD-01 72 bytes", basic("long", long), "ok"},
		{"PWD-01 73 bytes", basic("long", long+"y"), "bad_credentials"},
		{"PWD-01 73 bytes are not none", basic("empty", long+"y"), "bad_credentials"},
		{"PWD-02 NUL", basic("admin", "admin\x00admin"), "bad_credentials"},
		{"PWD-02 NUL in the user", basic("admin\x00", "admin"), "bad_credentials"},
		{"PWD-11 case of the scheme", request("bAsIc " + encoded), "ok"},
		{"PWD-11 two spaces", request("Basic  " + encoded), "bad_credentials"},
		{"PWD-11 no padding", request("Basic " + strings.TrimRight(base64.StdEncoding.EncodeToString([]byte("admin:admin1")), "=")), "bad_credentials"},
		{"PWD-11 nothing", request("Basic"), "bad_credentials"},
		{"no colon", request("Basic " + base64.StdEncoding.EncodeToString([]byte("admin"))), "bad_credentials"},
		{"not UTF-8", basic("admin", "\xff"), "bad_credentials"},
		{"PWD-12 colons in the password", basic("alice", "a:b:c"), "ok"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := w.verdict(t, c.field); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if login, err := w.Authenticate(t.Context(), &policy.Request{Gate: "tcp"}); login != nil || err != nil {
		t.Errorf("a TCP gate: %v, %v, want neither", login, err)
	}
	login, err := w.Authenticate(t.Context(), basic("admin", "admin"))
	if err != nil || login.User.Method != policy.LocalMethod || login.User.Name != "admin" || !slices.Equal(login.ConsumedHeaders, []string{"Authorization"}) {
		t.Errorf("got %+v, %v", login, err)
	}
	if strings.Contains(login.User.Stamp, "$") || login.User.Stamp == "" {
		t.Errorf("stamp %q", login.User.Stamp)
	}
	if got, want := w.Names(), []string{"admin", "alice", "empty", "long"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if got, want := w.Challenge(nil, nil)[0], `Basic realm="a \"quoted\" \\ realm", charset="UTF-8"`; got != want { // PWD-13
		t.Errorf("challenge %s, want %s", got, want)
	}
	if _, err := NewUsers(Options{Realm: "Ü"}); err == nil { // PWD-13
		t.Error("a realm that can't be sent was accepted")
	}
	if text := w.log.String(); strings.Contains(text, "admin") || strings.Contains(text, "$2a$") { // OPS-08
		t.Errorf("the log tells names or hashes:\n%s", text)
	}
}

// A credential that is not in the form costs no hash and reads in no way.
func TestParseBasic(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	w := newWorld(t, "u:"+bcryptOf(t, "x", 4))
	w.load(t)
	for name, field := range map[string]string{
		"PWD-02 NUL":                 "Basic " + encode([]byte("u:x\x00x")),
		"PWD-02 NUL in the user":     "Basic " + encode([]byte("u\x00:x")),
		"PWD-02 control byte":        "Basic " + encode([]byte("u:x\x1f")),
		"PWD-02 DEL":                 "Basic " + encode([]byte("u:x\x7f")),
		"PWD-11 two spaces":          "Basic  " + encode([]byte("u:x")),
		"PWD-11 a tab":               "Basic\t" + encode([]byte("u:x")),
		"PWD-11 space behind":        "Basic " + encode([]byte("u:x")) + " ",
		"PWD-11 no padding":          "Basic dTp4eA",
		"PWD-11 bits behind the end": "Basic dTp4eB==",
		"PWD-11 line break, which encoding/base64 passes over": "Basic dTp4\r\neA==",
		"PWD-11 letters of URLs":                               "Basic dTo_Pz8_",
		"not UTF-8":                                            "Basic " + encode([]byte("u:\xff")),
		"no colon":                                             "Basic " + encode([]byte("u")),
		"nothing":                                              "Basic ",
	} {
		t.Run(name, func(t *testing.T) {
			if c, ok, err := parseBasic(field); err == nil && ok {
				t.Errorf("%q reads as %q with %q", field, c.name, c.password)
			}
			if got := w.verdict(t, request(field)); got == "ok" || w.hashes.Load() > 0 {
				t.Errorf("%q: got %s after %d hashes", field, got, w.hashes.Load())
			}
		})
	}
	c, ok, err := parseBasic("Basic " + encode([]byte("ü:a:b:")))
	if !ok || err != nil || string(c.name) != "ü" || string(c.password) != "a:b:" { // PWD-12
		t.Errorf("got %q with %q, %t, %v", c.name, c.password, ok, err)
	}
}

// PWD-06: any failure costs one verification at the file's highest cost; a
// cheaper entry runs the dear one too. Counted, not timed.
func TestFailuresCostTheSame(t *testing.T) {
	w := newWorld(t, "cheap:"+bcryptOf(t, "x", 4)+"\ndear:"+bcryptOf(t, "x", 5))
	w.load(t)
	var dear int
	g := w.current.Load()
	verify := g.dearest.verify
	g.dearest.verify = func(stored string, password []byte) bool { dear++; return verify(stored, password) }
	h := g.users["dear"]
	h.verify = g.dearest.verify
	g.users["dear"] = h
	for _, user := range []string{"cheap", "dear", "nobody"} {
		dear = 0
		if got := w.verdict(t, basic(user, "wrong")); got != "bad_credentials" || dear != 1 {
			t.Errorf("%s: %s after %d verifications at the highest cost, want one", user, got, dear)
		}
	}
}

// PWD-06: a name that nobody has fails as an entry does, and always the same.
func TestUnknownNamesFailLikeEntries(t *testing.T) {
	w := newWorld(t, "cheap:"+bcryptOf(t, "x", 4)+"\ndear:"+bcryptOf(t, "x", 5))
	w.load(t)
	g := w.current.Load()
	cost := func(user string) int64 {
		before := w.hashes.Load()
		w.check(&trial{attempt: attempt{generation: g, credential: credential{[]byte(user), []byte("x!")}}})
		return w.hashes.Load() - before
	}
	if cost("cheap") != 2 || cost("dear") != 1 {
		t.Fatal("entries don't cost what this test believes")
	}
	count := map[int64]int{}
	for i := range 40 {
		name := fmt.Sprint("nobody", i)
		first := cost(name)
		if again := cost(name); again != first {
			t.Errorf("%s cost %d and then %d hashes", name, first, again)
		}
		count[first]++
	}
	if len(count) != 2 || count[1] == 0 || count[2] == 0 {
		t.Errorf("hashes of unknown names: %v, want some like each entry", count)
	}
	if w.check(&trial{attempt: attempt{generation: g, credential: credential{[]byte("nobody"), []byte("x")}}}) {
		t.Error("the password of the entry that stands in lets nobody in")
	}
}

// PWD-06 leans on knowing the dearest entry, whatever its kind.
func TestWorkOrdersHashes(t *testing.T) {
	var last int
	for _, stored := range []string{
		shaOf("x"),
		"$apr1$salt$" + strings.Repeat("a", 22),
		"$5$salt$" + strings.Repeat("a", 43),
		"$6$salt$" + strings.Repeat("a", 86),
		"$2y$10$" + strings.Repeat("a", 53),
		"$6$rounds=1000000$salt$" + strings.Repeat("a", 86), // some 0.2 s
		"$2y$13$" + strings.Repeat("a", 53),                 // some 0.4 s
	} {
		h, err := parseHash(stored, false)
		if err != nil {
			t.Fatal(err)
		}
		if h.work <= last {
			t.Errorf("%.20s: work %d, want more than the %d of the one before", stored, h.work, last)
		}
		last = h.work
	}
}

// A long password holds no core: crypt(3) hashes read none over 512 bytes.
func TestLongPasswords(t *testing.T) {
	long := strings.Repeat("x", maxCryptPassword)
	for _, c := range []*cryptScheme{&apr1Crypt, &sha256Crypt, &sha512Crypt} {
		for _, password := range []string{long, long + "x", ""} {
			salt := map[*cryptScheme]string{&apr1Crypt: "$apr1$salt", &sha256Crypt: "$5$rounds=1000$salt", &sha512Crypt: "$6$rounds=1000$salt"}[c]
			stored, err := c.crypter().Generate([]byte(password), []byte(salt))
			if err != nil {
				t.Fatal(err)
			}
			h, err := parseHash(stored, false)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := h.matches([]byte(password)), len(password) <= maxCryptPassword; got != want {
				t.Errorf("%s of %d bytes: got %t, want %t", salt, len(password), got, want)
			}
			if password == "" && h.matches([]byte(long+"x")) {
				t.Errorf("%s: a password that is too long passes for none", salt)
			}
		}
	}
}

// PWD-04: plaintext needs its mark and the option.
func TestPlain(t *testing.T) {
	plain := map[string][]byte{"htpasswd": []byte("u:{PLAIN}s3cret")}
	for _, allow := range []bool{false, true} {
		w := newWorld(t, "")
		w.opts.AllowPlain = allow
		w.set(plain, nil)
		if _, err := w.Load(t.Context()); (err == nil) != allow {
			t.Errorf("allowed %t: %v", allow, err)
		}
		if allow {
			for password, want := range map[string]string{"s3cret": "ok", "s3cre": "bad_credentials", "{PLAIN}s3cret": "bad_credentials", "": "bad_credentials"} {
				if got := w.verdict(t, basic("u", password)); got != want {
					t.Errorf("%q: got %s, want %s", password, got, want)
				}
			}
			if !strings.Contains(w.log.String(), "htpasswd:1: the password is plaintext") {
				t.Errorf("no warning in\n%s", w.log.String())
			}
		}
	}
	for _, line := range []string{"u:{PLAIN}", "u:s3cret", "u:{plain}s3cret"} {
		if _, err := parseHtpasswd("f", []byte(line), true); err == nil {
			t.Errorf("%s was accepted", line)
		}
	}
}

func TestLoad(t *testing.T) {
	hash := bcryptOf(t, "x", 4)
	w := newWorld(t, "u:"+hash)
	w.load(t)
	is := func(what, want string, wantErr bool) {
		t.Helper()
		_, err := w.Load(t.Context())
		if (err != nil) != wantErr {
			t.Errorf("%s: load says %v", what, err)
		}
		if got := w.verdict(t, basic("u", "x")); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	w.set(nil, os.ErrNotExist)
	is("ROT-09 deleted", "ok", true)
	w.set(map[string][]byte{"htpasswd": []byte("garbage")}, nil)
	is("ROT-09 garbled", "ok", true)
	w.set(map[string][]byte{"other": nil, "another": nil}, nil)
	is("ROT-09 other files", "ok", true)
	w.set(map[string][]byte{"htpasswd": []byte("# nobody\n")}, nil)
	is("ROT-08 emptied", "bad_credentials", true)
	w.set(map[string][]byte{"auth": []byte("u:" + hash)}, nil)
	is("the name of other proxies", "ok", false)
	w.set(map[string][]byte{"users.txt": []byte("u:" + hash)}, nil)
	is("a single file", "ok", false)
	w.set(map[string][]byte{"username": []byte("u\n"), "password": []byte("x\n")}, nil)
	is("kubernetes.io/basic-auth", "ok", false)
	w.set(map[string][]byte{"username": []byte("u"), "password": []byte("x\n\n")}, nil)
	is("a password with two newlines", "ok", true)
	w.set(map[string][]byte{"username": []byte("u"), "password": nil}, nil)
	is("an empty password", "ok", true)

	empty := newWorld(t, "# nobody")
	if _, err := empty.Load(t.Context()); err == nil {
		t.Error("a file without users was accepted at the start")
	}
	if got := empty.verdict(t, basic("u", "x")); got != "dependency_down" {
		t.Errorf("without users loaded: %s", got)
	}
}

// ROT-18: reloads under load, for the race detector.
func TestReloadUnderLoad(t *testing.T) {
	a, b := "u:"+bcryptOf(t, "x", 4), "u:"+bcryptOf(t, "x", 4)
	w := newWorld(t, a)
	w.load(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if got := w.verdict(t, basic("u", "x")); got != "ok" {
					t.Error(got)
				}
			}
		})
	}
	for i := range 20 {
		w.set(map[string][]byte{"htpasswd": []byte([]string{a, b}[i%2])}, nil)
		w.load(t)
	}
	wg.Wait()
}

// LIB-17: one caller of CompareHashAndPassword, behind the length guard.
func TestOneCallerOfCompare(t *testing.T) {
	callers := 0
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "CompareHashAndPassword" {
				callers++
			}
			return true
		})
		return nil
	})
	if err != nil || callers != 1 {
		t.Errorf("%d callers (%v), want one", callers, err)
	}
}

// PWD-09: nothing here compares secrets in a way that tells where they differ.
func TestNoEarlyExitComparison(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, "_test.go") && (bytes.Contains(data, []byte("bytes.Equal")) || bytes.Contains(data, []byte("reflect.DeepEqual"))) {
			t.Errorf("%s compares bytes with an early exit", path)
		}
	}
}

func TestEdit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "htpasswd")
	set := func(user, password string) error {
		_, err := SetPassword(path, user, []byte(password), 10)
		return err
	}
	for _, err := range []error{set("a", "one"), set("b", "two"), set("a", "three")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	data, _ := os.ReadFile(path)
	e, err := parseHtpasswd(path, data, false)
	if err != nil || len(e.users) != 2 {
		t.Fatalf("%v in\n%s", err, data)
	}
	if h := e.users["a"]; !h.matches([]byte("three")) || h.matches([]byte("one")) {
		t.Error("the password was not changed")
	}
	if err := errors.Join(os.WriteFile(path, append([]byte("# kept: by hand\n"), data...), 0o600), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	if err := DeleteUser(path, "a"); err != nil {
		t.Fatal(err)
	}
	if data, _ = os.ReadFile(path); !strings.HasPrefix(string(data), "# kept: by hand\nb:") || strings.Contains(string(data), "a:$") {
		t.Errorf("after deleting:\n%s", data)
	}
	if info, _ = os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v was not kept", info.Mode())
	}
	if err := DeleteUser(path, "a"); !errors.Is(err, ErrNoUser) {
		t.Errorf("deleting nobody: %v", err)
	}
	for name, err := range map[string]error{
		"empty": set("c", ""), "73 bytes": set("c", strings.Repeat("x", 73)), "control": set("c", "a\tb"),
		"colon": set("c:d", "x"), "no name": set("", "x"),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := DeleteUser(path, "# kept"); err == nil || errors.Is(err, ErrNoUser) {
		t.Error("a comment was deleted as a user")
	}
	if err := set("#c", "x"); err == nil {
		t.Error("a user was added as a comment")
	}
	nowhere := filepath.Join(filepath.Dir(path), "nowhere")
	if _, err := SetPassword(filepath.Join(nowhere, "htpasswd"), "a", []byte("x"), 10); err == nil || !strings.Contains(err.Error(), nowhere+":") {
		t.Errorf("into a folder that is not there: %v", err)
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := SetPassword(link, "a", []byte("x"), 10); err == nil || !strings.Contains(err.Error(), "mounted Secret") {
		t.Errorf("through a link: %v", err)
	}
	if err := os.WriteFile(path, []byte("broken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := set("c", "x"); err == nil || !strings.Contains(err.Error(), ":1:") {
		t.Errorf("a broken file: %v", err)
	}
}

func FuzzParseHtpasswd(f *testing.F) {
	f.Add("a:" + bcryptOf(f, "x", 4) + "\n# c\nb:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")
	f.Add("a:$apr1$salt$0123456789012345678901\nb:$6$rounds=5000$s$x")
	f.Add("a:$6$rounds=1000$s$" + strings.Repeat("a", 86) + "\r\nb:$5$s$" + strings.Repeat("a", 43))
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseHtpasswd("f", []byte(s), false)
		if err != nil {
			return
		}
		for name, h := range e.users {
			if CheckName(name) != nil || h.verify == nil || h.stored == "" {
				t.Errorf("accepted %q: %q", name, h.stored)
			}
			if h.work < int(20*time.Millisecond) && h.matches(nil) && h.stored != "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=" && !strings.HasPrefix(h.stored, "{SSHA}") {
				t.Errorf("the empty password passes %q", h.stored)
			}
		}
	})
}

func FuzzParseBasic(f *testing.F) {
	f.Add("Basic YTpi")
	f.Add("basic  YTpi")
	f.Fuzz(func(t *testing.T, s string) {
		c, ok, err := parseBasic(s)
		if !ok || err != nil {
			return
		}
		again := "Basic " + base64.StdEncoding.EncodeToString([]byte(string(c.name)+":"+string(c.password)))
		if !strings.EqualFold(again[:6], s[:6]) || again[6:] != s[6:] {
			t.Errorf("%q reads as %q", s, again)
		}
	})
}

func BenchmarkVerified(b *testing.B) {
	w := newWorld(b, "u:"+bcryptOf(b, "x", 10))
	w.load(b)
	r := basic("u", "x")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Authenticate(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
