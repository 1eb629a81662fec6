package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sidegate/policy"
	"sidegate/tlsproxy"
)

func TestParseConfig(t *testing.T) {
	cases := []struct {
		name    string
		environ []string
		want    string // in the error; "" for none
	}{
		{"nothing", nil, ""},
		{"others' variables", []string{"PATH=/bin", "SIDEGATEX=1"}, ""},
		{"OPS-12 typo", []string{"SIDEGATE_USRES=x"}, "did you mean SIDEGATE_USERS?"},
		{"OPS-12 service links", []string{
			"SIDEGATE_SERVICE_HOST=10.0.0.1", "SIDEGATE_SERVICE_PORT=443", "SIDEGATE_SERVICE_PORT_HTTPS=443", "SIDEGATE_PORT=tcp://10.0.0.1:443",
			"SIDEGATE_PORT_8443_TCP=tcp://x", "SIDEGATE_PORT_8443_TCP_ADDR=10.0.0.1", "SIDEGATE_PORT_8443_TCP_PROTO=tcp", "SIDEGATE_WEBHOOK_SERVICE_HOST=10.0.0.1",
			"SIDEGATE_INGRESS_SERVICE_HOST=10.0.0.1", "SIDEGATE_INGRESS_PORT=tcp://10.0.0.1:80",
		}, ""},
		{"OPS-12 a gate that looks like one", []string{"SIDEGATE_INGRESS_PORT=:1=http://127.0.0.1:2"}, "SIDEGATE_INGRESS_PORT: a gate can't have a name"},
		{"LIB-12 empty", []string{"SIDEGATE_USERS="}, "SIDEGATE_USERS is set but empty"},
		{"LIB-12 empty gate", []string{"SIDEGATE_INGRESS="}, "SIDEGATE_INGRESS is set but empty"},
		{"LIB-14 empty entry", []string{"SIDEGATE_ALLOW=a,,b"}, "SIDEGATE_ALLOW: "},
		{"LIB-15 zero", []string{"SIDEGATE_DRAIN_TIMEOUT=0s"}, "SIDEGATE_DRAIN_TIMEOUT: "},
		{"LIB-15 negative", []string{"SIDEGATE_DRAIN_TIMEOUT=-5s"}, "SIDEGATE_DRAIN_TIMEOUT: "},
		{"LIB-15 negative delay", []string{"SIDEGATE_DRAIN_DELAY=-1s"}, "SIDEGATE_DRAIN_DELAY: "},
		{"no delay", []string{"SIDEGATE_DRAIN_DELAY=0s"}, ""},
		{"LIB-15 no count", []string{"SIDEGATE_MAX_CONNECTIONS=many"}, "SIDEGATE_MAX_CONNECTIONS: "},
		{"LIB-15 zero count", []string{"SIDEGATE_MAX_STREAMS=0"}, "SIDEGATE_MAX_STREAMS: "},
		{"LIB-15 no unit", []string{"SIDEGATE_DRAIN_TIMEOUT=5"}, "SIDEGATE_DRAIN_TIMEOUT: "},
		{"LIB-15 network", []string{"SIDEGATE_TRUSTED_PROXIES=10.0.0.0/99"}, "SIDEGATE_TRUSTED_PROXIES: "},
		{"LIB-15 network with host bits", []string{"SIDEGATE_TRUSTED_PROXIES=10.1.2.3/8"}, "do you mean 10.0.0.0/8?"},
		{"choice", []string{"SIDEGATE_ACCESS_LOG=denid"}, "did you mean denied?"},
		{"TLS version", []string{"SIDEGATE_TLS_MIN=1.1"}, "is not one of 1.2, 1.3"},
		{"insecure cipher", []string{"SIDEGATE_TLS_CIPHERS=TLS_RSA_WITH_RC4_128_SHA"}, "TLS_RSA_WITH_RC4_128_SHA is insecure"},
		{"cipher of TLS 1.3", []string{"SIDEGATE_TLS_CIPHERS=TLS_AES_128_GCM_SHA256"}, "is not one of TLS_ECDHE"},
		{"misspelt cipher", []string{"SIDEGATE_TLS_CIPHERS=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265"}, "did you mean TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256?"},
		{"probe beyond loopback", []string{"SIDEGATE_PROBE_READY=http://10.0.0.1:80/"}, "SIDEGATE_PROBE_READY: "},
		{"probe without a name", []string{"SIDEGATE_PROBE_=tcp://127.0.0.1:80"}, "probe's name"},
		{"HSTS without seconds", []string{"SIDEGATE_HSTS=includeSubDomains"}, "is not max-age=SECONDS"},
		{"switch", []string{"SIDEGATE_TLS_ALLOW_NAME_LOSS=yes"}, "neither true nor false"},
		{"log level", []string{"SIDEGATE_LOG_LEVEL=loud"}, "SIDEGATE_LOG_LEVEL: "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseConfig(c.environ)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestConfigValues(t *testing.T) {
	c, err := parseConfig([]string{
		"SIDEGATE_ALLOW=spiffe://td.example/a , user:b", "SIDEGATE_TRUSTED_PROXIES=10.0.0.0/8, 192.0.2.1",
		"SIDEGATE_REALM=a$HOME", "SIDEGATE_INGRESS_API=:9443=h2c://127.0.0.1:9000", "SIDEGATE_DRAIN_TIMEOUT=1m",
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (List{"spiffe://td.example/a", "user:b"}); !slices.Equal(c.Allow, want) { // LIB-14
		t.Errorf("allow %q, want %q", c.Allow, want)
	}
	if c.Realm != "a$HOME" { // LIB-13
		t.Errorf("realm %q was expanded", c.Realm)
	}
	if len(c.TrustedProxies) != 2 || c.TrustedProxies[1].String() != "192.0.2.1/32" || time.Duration(c.DrainTimeout) != time.Minute {
		t.Errorf("%v %v", c.TrustedProxies, c.DrainTimeout)
	}
	if len(c.Ingress) != 1 || c.Ingress["api"] == "" {
		t.Errorf("gates %v: the default gate is only for a pod that names none", c.Ingress)
	}
}

// OPS-12: no variable of ours looks like a service link.
func TestNoVariableLooksLikeAServiceLink(t *testing.T) {
	for _, name := range append(variables(), gateVariable(mainGate), gateVariable("api")) {
		if serviceLink.MatchString(name) {
			t.Errorf("%s does", name)
		}
	}
}

func TestParseGate(t *testing.T) {
	cases := []struct{ value, want string }{
		{":8443=http://127.0.0.1:8080", ""},
		{"[::1]:8443=h2c://[::1]:8080", ""},
		{"unix:/run/gate.sock=http+unix:///run/app.sock", ""},
		{":8443=h2c+unix:///run/app.sock?client_cert=require&hosts=a.example,*.b.example", ""},
		{":8443=http://localhost:8080/?header=X-User:user&header=X-Mail:email&headers=none&groups_separator=|", ""},
		{":8443=http://127.0.0.1:8080?hsts=max-age=60%3B+includeSubDomains", ""},
		{":8443=http://127.0.0.1:8080?hsts=max-age=60;preload", "semicolon"},
		{":8443=http://127.0.0.1:8080?tls=off&hsts=max-age=60", "RFC 6797 7.2"},
		{":8443", "has no ="},
		{"8443=http://127.0.0.1:8080", "is not [HOST]:PORT"},
		{"app:8443=http://127.0.0.1:8080", "the host is not an IP address"},
		{":99999=http://127.0.0.1:8080", "is not a port"},
		{"unix:run=http://127.0.0.1:8080", "absolute path"},
		{":8443=https://127.0.0.1:8080", "did you mean http?"},
		{":8443=127.0.0.1:8080", "begins with one of"},
		{":8443=http://127.0.0.1:8080/app", "forwarded as they come"},
		{":8443=http://user@127.0.0.1:8080", "is not http://HOST:PORT"},
		{":8443=http://127.0.0.1:0", "is not a port"},
		{":8443=http+unix://run/app.sock", "three slashes"},
		{":8443=http://127.0.0.1:8080?client_crt=none", "did you mean client_cert?"},
		{":8443=http://127.0.0.1:8080?client_cert=none&client_cert=none", "is there 2 times"},
		{":8443=http://127.0.0.1:8080?hosts=", "is empty"},
		{":8443=http://127.0.0.1:8080?hosts=a..%20b", "is not a host name"},
		{":8443=http://127.0.0.1:8080?header=X-User", "is not NAME:attribute"},
		{":8443=http://127.0.0.1:8080?header=X-User:usr", "did you mean user?"},
		{":8443=http://127.0.0.1:8080?header=Host:user", "needed for the request"},
		{":8443=http://127.0.0.1:8080?header=X-Forwarded-For:user", "needed for the request"},
		{":8443=http://127.0.0.1:8080?header=Proxy:user", "needed for the request"},
		{":8443=http://127.0.0.1:8080?header=C-o-o-k-i-e:user", "needed for the request"},
		{":8443=http://127.0.0.1:8080?header=X-Original-Url:user", "needed for the request"},
		{":8443=http://127.0.0.1:8080?header=Client-Cert:user", "says what the client certificate is"},
		{":8443=http://127.0.0.1:8080?header=X-Client-Ip:user", "needed for the request"},
		{":8443=http://127.0.0.1:8080?header=X-Ms-Client-Principal-Name:user", ""},
		{":8443=http://127.0.0.1:8080?header=X-User:user&header=x-user:email", "X-User:email and X-User:user are one field"},
		{":8443=http://127.0.0.1:8080?header=X-User:user&header=X-Us-Er:email", "are one field"}, // HDR-15
		{":8443=http://127.0.0.1:8080?header=X-Forwarded-User:email", "X-Forwarded-User:email and X-Forwarded-User:user are one field"},
		{":8443=http://127.0.0.1:8080?header=X-Forwarded-User:email&headers=none", ""},
		{":8443=http://127.0.0.1:8080?client_field=forwarded&trusted_proxies=10.0.0.0/8", ""}, // HDR-16
		{":8443=http://127.0.0.1:8080?client_field=x-forwarded-for&trusted_proxies=::ffff:10.0.0.0/104", ""},
		{":8443=http://127.0.0.1:8080?client_field=forwarded", "there are none: add trusted_proxies"},
		{":8443=http://127.0.0.1:8080?client_field=x-forwarded-fro&trusted_proxies=10.0.0.0/8", "did you mean x-forwarded-for?"},
		{":8443=http://127.0.0.1:8080?trusted_proxies=fe80::1%25eth0", "has a zone"},
		{":8443=http://127.0.0.1:8080?groups_separator=a", "punctuation"},
		{":8443=http://127.0.0.1:8080?max_body=10MiB", ""},
		{":8443=http://127.0.0.1:8080?max_body=10MB", "is not a size"},
		{":8443=http://127.0.0.1:8080?max_body=0", "is not a size"},
		{":8080=http://127.0.0.1:8080?tls=off", ""},
		{":8080=http://127.0.0.1:8080?tls=off&client_cert=require", "can't ask for client certificates"},
		{":8080=redirect:?tls=off", ""},
		{":8080=redirect:8443?tls=off", ""},
		{":8080=redirect:x?tls=off", "is not a port"},
		{":8443=http://127.0.0.1:8080?a;b", "semicolon"},
	}
	c, err := parseConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range cases {
		_, err := parseGate("main", row.value, c)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: got %v, want %q", row.value, err, row.want)
		}
	}
	s, err := parseGate("main", ":8443=h2c://localhost?client_cert=optional&tls=a,b&pass_authorization=true&trusted_proxies=10.0.0.0/8&access_log=off", c)
	if err != nil || !s.upstream.H2C || s.upstream.Address.Address != "localhost:80" || s.clientCert != clientCertMode(tlsproxy.ClientCertOptional) ||
		!slices.Equal(s.tls, List{"a", "b"}) || !s.passAuthorization || len(s.trustedProxies) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = parseGate("main", ":8443=http://localhost?client_field=forwarded&trusted_proxies=::ffff:10.0.0.0/104,2001:db8::/32", c)
	if err != nil || s.trustedProxies.String() != "10.0.0.0/8,2001:db8::/32" || s.gate(policy.CertUserNone).ClientField != tlsproxy.Forwarded {
		t.Errorf("%+v, %v", s, err)
	}
	c.Ingress = map[string]string{"main": defaultIngress, "api": defaultIngress, "B-d": defaultIngress}
	if _, err := gateSpecs(c); err == nil || !strings.Contains(err.Error(), "is taken by SIDEGATE_INGRESS_API") || !strings.Contains(err.Error(), `gate name "B-d"`) {
		t.Errorf("got %v", err)
	}
}

// The README's table is made of Config.
func TestReadmeTable(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for f := range configFields() {
		value := f.Tag.Get("envDefault")
		if value == "" {
			value = "–"
		} else {
			value = "`" + value + "`"
		}
		row := fmt.Sprintf("| `%s%s` | %s | %s |", prefix, f.Tag.Get("env"), value, f.Tag.Get("doc"))
		if !strings.Contains(string(readme), row+"\n") {
			t.Errorf("README.md lacks the row\n%s", row)
		}
	}
	for name := range gateOptions {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not speak of the option %s", name)
		}
	}
}

// LIB-07, LIB-18, LIB-19 and the arrows of the layout.
func TestArchitecture(t *testing.T) {
	imports := func(pkg string) []string {
		t.Helper()
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	out, err := exec.Command("go", "list", "sidegate/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]string{ // dependency → the only packages that may import it
		"github.com/fsnotify/fsnotify":   "sidegate/certs/watch",
		"github.com/cloudflare/cfssl":    "sidegate/certs/devca sidegate/certs/inspect sidegate/certs/cfssl",
		"github.com/caarlos0/env":        "sidegate/cmd/sidegate",
		"github.com/prometheus":          "sidegate/tlsproxy/admin",
		"github.com/GehirnInc/crypt":     "sidegate/policy/authn",
		"golang.org/x/crypto/bcrypt":     "sidegate/policy/authn",
		"github.com/spiffe/go-spiffe/v2": "sidegate/certs/spiffe",
		"google.golang.org/grpc/":        "sidegate/certs/spiffe sidegate/scripts/e2e/app",
		"golang.org/x/crypto/acme":       "sidegate/certs/acme",
		"go.yaml.in/yaml":                "sidegate/manifests/edit sidegate/manifests/inject sidegate/policy",
		"k8s.io/":                        "", // in tests alone
	}
	arrows := map[string][]string{ // package tree → trees of ours that it may import
		"sidegate/tlsproxy":  {"sidegate/tlsproxy", "sidegate/policy"},
		"sidegate/certs":     {"sidegate/certs"},
		"sidegate/policy":    {"sidegate/policy"},
		"sidegate/manifests": {"sidegate/manifests"},
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		for _, dep := range imports(pkg) {
			for prefix, owners := range allowed {
				if strings.HasSuffix(pkg, "test") {
					continue // it helps tests, and is in nothing else
				}
				if dep == "github.com/spiffe/go-spiffe/v2/spiffeid" {
					continue // it only parses, and is used wherever a SPIFFE ID is read
				}
				if strings.HasPrefix(dep, prefix) && !slices.Contains(strings.Fields(owners), pkg) {
					t.Errorf("%s imports %s, which only %s may", pkg, dep, owners)
				}
			}
			if (pkg == "sidegate/tlsproxy/http1" || pkg == "sidegate/tlsproxy/upstream") && strings.HasPrefix(dep, "net/http") {
				t.Errorf("%s imports %s: it has types of its own", pkg, dep)
			}
			for _, banned := range []string{"cfssl/transport", "cfssl/revoke"} { // LIB-07
				if strings.Contains(dep, banned) {
					t.Errorf("%s imports %s", pkg, dep)
				}
			}
			for tree, may := range arrows {
				inTree := func(trees ...string) bool {
					return slices.ContainsFunc(trees, func(x string) bool { return dep == x || strings.HasPrefix(dep, x+"/") })
				}
				if (pkg == tree || strings.HasPrefix(pkg, tree+"/")) && inTree("sidegate") && !inTree(may...) {
					t.Errorf("%s imports %s", pkg, dep)
				}
			}
		}
	}
	sources := readSources(t)
	for path, text := range sources {
		if n := strings.Count(text, "http.Server{"); n > 0 { // LIB-18
			for _, field := range []string{"ReadHeaderTimeout", "IdleTimeout", "MaxHeaderBytes", "ErrorLog"} {
				if strings.Count(text, field+":") < n {
					t.Errorf("%s: an http.Server without %s", path, field)
				}
			}
		}
		if strings.Contains(text, "Director:") || strings.Contains(text, "NewSingleHostReverseProxy") ||
			strings.Count(text, "ReverseProxy{") != strings.Count(text, "Rewrite: ") { // LIB-19
			t.Errorf("%s: a ReverseProxy without Rewrite", path)
		}
		if strings.Contains(text, "NewServeMux") && !strings.Contains(path, "admin") { // LIB-18
			t.Errorf("%s: ServeMux on a gate", path)
		}
		if strings.Contains(text, "ParseCertificateDomain") || strings.Contains(text, ".ServeTLS(") { // LIB-07, LIB-21
			t.Errorf("%s: a trap of a library", path)
		}
	}
}

// readSources returns every Go file that is no test.
func readSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if path == "../../scripts" {
			return filepath.SkipDir // they are not in the program
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		sources[path] = strings.Join(strings.Fields(string(data)), " ")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func FuzzParseGate(f *testing.F) {
	f.Add(":8443=http://127.0.0.1:8080?header=X-A:user&hosts=*.a.b")
	f.Add("unix:/a=h2c+unix:///b")
	c, err := parseConfig(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s, err := parseGate("main", value, c)
		if err == nil && (s.listen.Address == "" || s.upstream.Address.Address == "") {
			t.Errorf("%q gives %+v", value, s)
		}
	})
}

// No value of any variable panics, and one that is accepted reads the same
// after check --print has written it.
func FuzzConfigValues(f *testing.F) {
	for i, name := range variables() {
		f.Add(i, "none")
		f.Add(i, "1.3")
		f.Add(i, name+"=5s, 10.0.0.0/8 ,spiffe://td.example/a")
	}
	f.Add(3, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")
	f.Add(4, "max-age=1; preload")
	f.Fuzz(func(t *testing.T, which int, value string) {
		names := variables()
		name := names[uint(which)%uint(len(names))]
		parse := func(value string) (string, bool) {
			c, err := parseConfig([]string{name + "=" + value})
			if err != nil {
				return "", false
			}
			for field := range configFields() {
				if prefix+field.Tag.Get("env") == name {
					return fmt.Sprint(reflect.ValueOf(c).Elem().FieldByName(field.Name)), true
				}
			}
			return "", false
		}
		printed, ok := parse(value)
		if !ok || printed == "" {
			return
		}
		if again, ok := parse(printed); !ok || again != printed {
			t.Errorf("%s=%q is printed as %q, which reads as %q", name, value, printed, again)
		}
	})
}
