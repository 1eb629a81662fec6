package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
)

// diagnosis is what check --here --json says.
type diagnosis struct {
	Broken, Warnings int
	Findings         []struct{ Level, About, Found, Do string }
	code             int
	text             string
}

// diagnose runs the doctor in this process.
func diagnose(t *testing.T, environ []string, args ...string) *diagnosis {
	t.Helper()
	var out, complaints bytes.Buffer
	code := run(t.Context(), append([]string{"check", "--here", "--json"}, args...), environ, nil, &out, &complaints)
	if complaints.Len() > 0 {
		t.Errorf("stderr: %s", &complaints)
	}
	return read(t, out.Bytes(), code)
}

// diagnoseIn runs the doctor by a command around it, such as one that makes a
// namespace.
func diagnoseIn(t *testing.T, wrap []string, environ ...string) *diagnosis {
	t.Helper()
	path, err := binary()
	try(t, err)
	argv := append(slices.Clone(wrap), path, "check", "--here", "--json")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), endAtOnce}, environ...)
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	return read(t, out, cmd.ProcessState.ExitCode())
}

func read(t *testing.T, text []byte, code int) *diagnosis {
	t.Helper()
	d := &diagnosis{code: code, text: string(text)}
	if err := json.Unmarshal(text, d); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if (d.Broken > 0) != (code == exitFailed) || d.Broken == 0 && code != exitDone {
		t.Errorf("exit code %d with %d broken", code, d.Broken)
	}
	return d
}

// want wants just one finding of the level about the thing, with the text.
func (d *diagnosis) want(t *testing.T, level, about, text string) {
	t.Helper()
	n := 0
	for _, f := range d.Findings {
		if f.Level == level && f.About == about && strings.Contains(f.Found+" -> "+f.Do, text) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d findings %q about %s with %q, want 1:\n%s", n, level, about, text, d.text)
	}
}

// wantOnly wants that nothing else than the given abouts is broken or warned of.
func (d *diagnosis) wantOnly(t *testing.T, abouts ...string) {
	t.Helper()
	for _, f := range d.Findings {
		if f.Level != "ok" && !slices.Contains(abouts, f.About) {
			t.Errorf("also %s about %s: %s", f.Level, f.About, f.Found)
		}
		if f.Level == "broken" && f.Do == "" {
			t.Errorf("nothing to do about %s: %s", f.About, f.Found)
		}
	}
}

// healthy is a pod in which nothing is amiss, but for the changes.
func healthy(t *testing.T, changes ...string) []string {
	t.Helper()
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "web.default.svc"), nil))
	environ := []string{"SIDEGATE_TLS=" + v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=" + freeAddr(t), "SIDEGATE_INGRESS=" + freeAddr(t) + "=" + hello(t)}
	return append(environ, changes...) // the last one of a name counts
}

func TestDoctorFindsNothing(t *testing.T) {
	d := diagnose(t, healthy(t), "--name", "localhost", "--name=web.default.svc")
	d.wantOnly(t)
	for about, text := range map[string]string{
		"variables": "all are understood", "pair": "fits", "expiry": "in 23 hours", "chain": "ends below CN=ca, which clients must know",
		"mount": "is a volume of the kubelet", "inotify": "seen at once", "upstream": "somebody listens", "policy": "in force: anyone",
	} {
		d.want(t, "ok", about, text)
	}
	d.want(t, "ok", "names", "localhost is held")
	d.want(t, "ok", "names", "web.default.svc is held")
}

// secretOf is the environment with a TLS Secret of that content.
func secretOf(t *testing.T, content map[string][]byte, more ...string) []string {
	t.Helper()
	return healthy(t, append([]string{"SIDEGATE_TLS=" + certstest.NewVolume(t, content).Dir}, more...)...)
}

// ended, ending and early change a certificate's dates.
func ended(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-90*time.Minute)
}
func ending(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-70*time.Hour), time.Now().Add(29*time.Hour)
}
func early(c *x509.Certificate) { c.NotBefore = time.Now().Add(3 * time.Hour) }
func fresh(c *x509.Certificate) { c.NotBefore = time.Now().Add(-time.Minute) }

// serving makes a server's certificate for localhost, changed.
func serving(t *testing.T, ca *certstest.CA, change ...func(*x509.Certificate)) certstest.Pair {
	t.Helper()
	return ca.Issue(t, "localhost", append([]func(*x509.Certificate){func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}}, change...)...)
}

// Each row is one thing that keeps TLS from working, and what the doctor says.
func TestDoctorReadsCertificates(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	good, other := serving(t, ca), serving(t, ca)
	between := ca.Intermediate(t, "between")
	below := serving(t, between)
	oldBetween := serving(t, ca.Intermediate(t, "old", ended))
	leafAlone := certstest.PEM("CERTIFICATE", below.Leaf.Raw)
	aia := serving(t, ca, func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://ca.example/ca.crt"} })
	pair := func(p certstest.Pair) map[string][]byte { return certstest.Secret(p, nil) }
	with := func(content map[string][]byte, name string, data []byte) map[string][]byte {
		content[name] = data
		return content
	}
	const asks = "SIDEGATE_CLIENT_CERT=require"
	anyPeer := []string{asks, "SIDEGATE_ALLOW=any-peer"}
	oldCA, longOldCA := certstest.NewCA(t, "old ca", ended), certstest.NewCA(t, "older ca", ended)
	for name, c := range map[string]struct {
		content     map[string][]byte
		environ     []string
		level       string
		about, text string
		also        string
	}{
		"key of another":      {with(pair(good), "tls.key", other.Key), nil, "broken", "pair", "tls.key does not belong to the certificate", ""},
		"reversed":            {with(pair(below), "tls.crt", certstest.Join(between.PEM(), leafAlone)), nil, "broken", "chain", "begins with a CA, CN=between", "pair"},
		"wrong issuer after":  {with(pair(good), "tls.crt", certstest.Join(good.Cert, between.PEM())), nil, "broken", "pair", "certificate 2 did not sign certificate 1", ""},
		"no serverAuth":       {pair(ca.Client(t, "localhost")), nil, "broken", "pair", "lacks serverAuth", "names"},
		"no key":              {map[string][]byte{"tls.crt": good.Cert}, nil, "broken", "files", "has tls.crt but no tls.key", ""},
		"no certificate":      {map[string][]byte{"tls.key": good.Key}, nil, "broken", "files", "has tls.key but no tls.crt", ""},
		"nothing":             {map[string][]byte{}, nil, "broken", "files", "found: nothing", ""},
		"empty certificate":   {with(pair(good), "tls.crt", nil), nil, "broken", "pair", "(tls.crt is empty)", ""},
		"garbage":             {with(pair(good), "tls.crt", []byte("garbage")), nil, "broken", "pair", "holds no CERTIFICATE block", ""},
		"encrypted key":       {with(pair(good), "tls.key", certstest.PEM("ENCRYPTED PRIVATE KEY", []byte("x"))), nil, "broken", "pair", "store it decrypted in the Secret", ""},
		"ended":               {pair(serving(t, ca, ended)), nil, "broken", "expiry", "90 minutes ago", ""},
		"last third":          {pair(serving(t, ca, ending)), nil, "warning", "expiry", "in 28 hours: that is the last third", ""},
		"not yet valid":       {pair(serving(t, ca, early)), nil, "broken", "clock", "2 hours earlier", ""},
		"just made":           {pair(serving(t, ca, fresh)), nil, "ok", "expiry", "in 23 hours", ""},
		"ended intermediate":  {pair(oldBetween), nil, "broken", "expiry", "certificate 2 (CN=old) ended", ""},
		"ended but there":     {with(pair(oldBetween), "ca.crt", ca.PEM()), anyPeer, "ok", "chain", "reaches a CA beside it", "expiry"},
		"no intermediate":     {with(with(pair(below), "tls.crt", leafAlone), "ca.crt", ca.PEM()), nil, "broken", "chain", "ends below CN=between, and that is not among the CAs beside it", "ca"},
		"perhaps none":        {with(with(pair(below), "tls.crt", leafAlone), "ca.crt", ca.PEM()), anyPeer, "warning", "chain", "nothing, if ca.crt is for clients alone", ""},
		"seldom a root":       {pair(aia), nil, "warning", "chain", "tells where its issuer CN=ca can be had", ""},
		"whole chain":         {with(pair(below), "ca.crt", ca.PEM()), anyPeer, "ok", "chain", "reaches a CA beside it", ""},
		"CA never asked for":  {with(pair(good), "ca.crt", ca.PEM()), nil, "ok", "ca", "ca.crt is there and client certificates are never asked for", ""},
		"no CA":               {pair(good), anyPeer, "broken", "ca", "holds no CA", ""},
		"empty CA":            {with(pair(good), "ca.crt", nil), anyPeer, "broken", "ca", "ca.crt holds no CERTIFICATE block", ""},
		"an old CA among two": {with(pair(good), "ca.crt", certstest.Join(ca.PEM(), oldCA.PEM())), anyPeer, "warning", "ca", "CA CN=old ca ended", ""},
		"old CAs alone":       {with(pair(good), "ca.crt", certstest.Join(longOldCA.PEM(), oldCA.PEM())), anyPeer, "broken", "ca", "every CA for client certificates has expired", "chain"},
		"CRL overdue":         {with(with(pair(good), "ca.crt", ca.PEM()), "crl.pem", ca.CRL(t, time.Now().Add(-time.Hour))), anyPeer, "broken", "crl", "the CRL of CN=ca was due", ""},
		"CRL of another":      {with(with(pair(good), "ca.crt", ca.PEM()), "crl.pem", oldCA.CRL(t, time.Now().Add(time.Hour))), anyPeer, "warning", "crl", "is not in the bundle: the list is checked when a client sends that CA", ""},
		"CRL of a namesake":   {with(with(pair(good), "ca.crt", ca.PEM()), "crl.pem", certstest.NewCA(t, "ca").CRL(t, time.Now().Add(time.Hour))), anyPeer, "broken", "ca", "not signed by a CA of the bundle", ""},
		"CRL by another name": {with(with(pair(good), "ca.crt", ca.PEM()), "ca.crl", ca.CRL(t, time.Now().Add(-time.Hour))), anyPeer, "broken", "crl", "the CRL of CN=ca was due", ""},
		"domain without CA":   {with(pair(good), "bundle.a.example.pem", ca.PEM()), []string{asks, "SIDEGATE_ALLOW=spiffe://b.example/x"}, "warning", "policy", "nobody can be spiffe://b.example/…", ""},
		"no name":             {pair(ca.Issue(t, "localhost", func(c *x509.Certificate) { c.ExtKeyUsage = nil })), nil, "broken", "names", "clients don't look at its common name \"localhost\"", ""},
		"SHA-1":               {pair(serving(t, ca, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })), nil, "broken", "key", "it is signed by ECDSA-SHA1, which is broken: clients refuse it", ""},
		"short RSA key":       {pair(shortRSA(t, ca)), nil, "broken", "key", "an RSA key of 1024 bits is too short", ""},
		"a pair without key":  {with(pair(good), "other.crt", other.Cert), nil, "ok", "files", "other.crt has no key beside it", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := diagnose(t, secretOf(t, c.content, c.environ...))
			d.want(t, c.level, c.about, c.text)
			if c.about == "clock" && d.Broken != 1 {
				t.Errorf("told %d times:\n%s", d.Broken, d.text)
			}
			if c.level == "ok" {
				d.wantOnly(t, c.also)
			} else {
				d.wantOnly(t, c.about, c.also)
			}
		})
	}
}

func shortRSA(t *testing.T, ca *certstest.CA) certstest.Pair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	try(t, err)
	template := *serving(t, ca).Leaf
	template.SignatureAlgorithm = 0
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Cert, key.Public(), ca.Key)
	try(t, err)
	return certstest.Pair{Cert: certstest.PEM("CERTIFICATE", der), Key: certstest.PEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))}
}

// Longer keys than are verified take minutes to make, so this one is none.
func TestDoctorWeakKeys(t *testing.T) {
	long := &x509.Certificate{PublicKey: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 9000), E: 65537}, RawSubject: []byte("a"), RawIssuer: []byte("b")}
	if got := weakness(long); len(got) != 1 || !strings.Contains(got[0], "9001 bits is longer than is verified") {
		t.Errorf("got %q", got)
	}
	root := &x509.Certificate{SignatureAlgorithm: x509.SHA1WithRSA, RawSubject: []byte("a"), RawIssuer: []byte("a")}
	if got := weakness(root); len(got) != 0 {
		t.Errorf("how a root signed itself: %q", got)
	}
}

// A broken variable or gate keeps nobody from looking at the files, and all is
// told once.
func TestDoctorGoesOn(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	content := certstest.Secret(serving(t, ca, ended), nil)
	content["tls.key"] = serving(t, ca).Key
	environ := secretOf(t, content, "SIDEGATE_DRAIN_TIMEOUT=-1s", "SIDEGATE_INGRES=x", "SIDEGATE_INGRESS=:8443=ftp://127.0.0.1:1?tlss=x", "SIDEGATE_USERS="+filepath.Join(t.TempDir(), "none"),
		"SIDEGATE_ALLOW=authenticated")
	d := diagnose(t, environ)
	d.want(t, "broken", "variables", "SIDEGATE_DRAIN_TIMEOUT: it is not a time above zero")
	d.want(t, "broken", "variables", "SIDEGATE_INGRES is not a variable of sidegate (did you mean SIDEGATE_INGRESS?)")
	d.want(t, "broken", "variables", "SIDEGATE_INGRESS: upstream begins with one of ")
	d.want(t, "broken", "variables", `SIDEGATE_INGRESS: unknown option "tlss"`)
	d.want(t, "broken", "pair", "does not belong")
	d.want(t, "broken", "expiry", "ended")
	d.want(t, "broken", "files", "SIDEGATE_USERS: read ")
	d.wantOnly(t, "variables", "pair", "expiry", "files")
	if strings.Contains(d.text, "no gate has its certificate from") {
		t.Errorf("what follows from a gate that is not right is told:\n%s", d.text)
	}
	var told []string
	for _, f := range d.Findings {
		if slices.Contains(told, f.Found) {
			t.Errorf("told twice: %s", f.Found)
		}
		told = append(told, f.Found)
	}
}

// Whatever check refuses or warns of, the doctor tells too.
func TestDoctorTellsWhatCheckTells(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	users := folder(t, map[string][]byte{"htpasswd": []byte("bob:verysecret\n")})
	rules := filepath.Join(folder(t, map[string][]byte{"policy.yaml": []byte("version: 1\nrules:\n  - name: x\n    methodz: [GET]\n")}), "policy.yaml")
	dead := filepath.Join(folder(t, map[string][]byte{"policy.yaml": []byte("version: 1\nrules:\n  - name: a\n    user: [anyone]\n  - name: b\n    user: [anyone]\n")}), "policy.yaml")
	for name, c := range map[string]struct {
		changes     []string
		level       string
		about, text string
	}{
		"unreadable hash":     {[]string{"SIDEGATE_USERS=" + users}, "broken", "users", "htpasswd:1: the hash is none of"},
		"nobody is such":      {[]string{"SIDEGATE_ALLOW=user:alice"}, "warning", "policy", "nobody can be user:alice"},
		"policy file":         {[]string{"SIDEGATE_ALLOW=", "SIDEGATE_POLICY=" + rules}, "broken", "policy", "methodz"},
		"policy, no gate":     {[]string{"SIDEGATE_ALLOW=", "SIDEGATE_POLICY=" + rules, "SIDEGATE_INGRESS=x"}, "broken", "policy", "methodz"},
		"shadowed rule":       {[]string{"SIDEGATE_ALLOW=", "SIDEGATE_POLICY=" + dead}, "broken", "policy", "is never reached"},
		"no policy file":      {[]string{"SIDEGATE_ALLOW=", "SIDEGATE_POLICY=/proc/none.yaml"}, "broken", "files", "/proc/none.yaml"},
		"nothing to prove":    {[]string{"SIDEGATE_ALLOW="}, "broken", "policy", "-> mount users at /etc/sidegate/users"},
		"upstream beyond":     {[]string{"SIDEGATE_INGRESS=:8443=http://192.0.2.1:80"}, "broken", "upstream", "which is not loopback"},
		"plaintext gate":      {[]string{"SIDEGATE_INGRESS_PLAIN=" + freeAddr(t) + "=redirect:?tls=off"}, "warning", "listen", "gate plain has no TLS"},
		"TLS is a file":       {[]string{"SIDEGATE_TLS=" + rules}, "broken", "files", "name the folder that holds"},
		"client CA, no asker": {[]string{"SIDEGATE_CLIENT_CA=" + filepath.Join(folder(t, map[string][]byte{"ca.crt": ca.PEM()}), "ca.crt")}, "warning", "ca", "SIDEGATE_CLIENT_CA is set and"},
		"no client CA":        {[]string{"SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer", "SIDEGATE_CLIENT_CA=/proc/none.crt"}, "broken", "files", "SIDEGATE_CLIENT_CA: read /proc/none.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			var environ []string
			for _, kv := range healthy(t) {
				variable, _, _ := strings.Cut(kv, "=")
				if !slices.ContainsFunc(c.changes, func(change string) bool { return strings.HasPrefix(change, variable+"=") }) {
					environ = append(environ, kv)
				}
			}
			for _, change := range c.changes {
				if !strings.HasSuffix(change, "=") {
					environ = append(environ, change)
				}
			}
			d := diagnose(t, environ)
			d.want(t, c.level, c.about, c.text)
			if strings.Contains(d.text, "verysecret") { // OPS-08
				t.Errorf("the password is told:\n%s", d.text)
			}
		})
	}
}

// A name that clients use must be held; a gate's own hosts should be.
func TestDoctorNames(t *testing.T) {
	environ := secretOf(t, certstest.Secret(certstest.NewCA(t, "ca").Server(t, "localhost", "*.apps.example", "10.0.0.1"), nil))
	d := diagnose(t, environ, "--name", "WEB.apps.example.", "--name", "10.0.0.1", "--name", "web", "--name", "10.0.0.2")
	d.want(t, "ok", "names", "WEB.apps.example. is held")
	d.want(t, "ok", "names", "10.0.0.1 is held")
	d.want(t, "broken", "names", "no certificate holds web: ")
	d.want(t, "broken", "names", "no certificate holds 10.0.0.2: ")
	if !strings.Contains(d.text, "tls.crt has localhost, *.apps.example, 10.0.0.1") {
		t.Errorf("the names that there are are not told:\n%s", d.text)
	}
	d = diagnose(t, append(environ, "SIDEGATE_INGRESS="+freeAddr(t)+"="+hello(t)+"?hosts=*.apps.example,other.example"))
	d.want(t, "warning", "names", "gate main answers to other.example, which no certificate holds")
	d.wantOnly(t, "names")
}

// notOurs takes files and sockets away from whoever runs in the returned
// wrapping: for root that is a user namespace without their owner.
func notOurs(t *testing.T, paths ...string) (wrap []string) {
	t.Helper()
	if os.Getuid() != 0 {
		for _, path := range paths {
			try(t, os.Chmod(path, 0))
		}
		return nil
	}
	peer(t, "unshare")
	wrap = []string{"unshare", "-Ur"}
	if out, err := exec.Command(wrap[0], "-Ur", "true").CombinedOutput(); err != nil {
		t.Skipf("user namespaces are not allowed here: %v %s", err, out)
	}
	for _, path := range paths {
		try(t, os.Chown(path, 12345, 12345))
		try(t, os.Chmod(path, 0o600))
	}
	return wrap
}

// Files that are not ours to read: each is told, and the others are read.
func TestDoctorPermissions(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	content := certstest.Secret(ca.Server(t, "localhost"), nil)
	content["other.crt"], content["other.key"] = ca.Server(t, "other").Cert, ca.Server(t, "other").Key
	dir := folder(t, content)
	wrap := notOurs(t, filepath.Join(dir, "tls.key"), filepath.Join(dir, "tls.crt"))
	d := diagnoseIn(t, wrap, healthy(t, "SIDEGATE_TLS="+dir)...)
	d.want(t, "broken", "files", "tls.key (mode -")
	d.want(t, "broken", "files", "tls.crt (mode -")
	d.want(t, "broken", "pair", "other.key does not belong") // it looked further
	for _, want := range []string{"permission denied (it belongs to uid", "this process is of gid", "give the pod an fsGroup or the volume another defaultMode"} {
		if !strings.Contains(d.text, want) {
			t.Errorf("lacks %q:\n%s", want, d.text)
		}
	}
	d.wantOnly(t, "files", "pair")
}

// Sockets that are not ours to connect to, and a port that is not ours to have.
func TestDoctorMayNotConnect(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	try(t, err)
	defer l.Close()
	wrap := notOurs(t, l.Addr().String())
	d := diagnoseIn(t, wrap, healthy(t, "SIDEGATE_INGRESS="+freeAddr(t)+"=http+unix://"+l.Addr().String())...)
	d.want(t, "broken", "upstream", "gate main may not connect to unix:"+l.Addr().String()+" as uid")
	d.wantOnly(t, "upstream")
	d = diagnoseIn(t, wrap, "SIDEGATE_CERTS=spiffe", "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN="+freeAddr(t), "SIDEGATE_INGRESS="+freeAddr(t)+"="+hello(t), "SPIFFE_ENDPOINT_SOCKET=unix://"+l.Addr().String())
	d.want(t, "broken", "spiffe", "may not connect to "+l.Addr().String()+": permission denied -> let the agent make its socket for everyone")
	d.wantOnly(t, "spiffe")
	if first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || strings.TrimSpace(string(first)) != "1024" {
		t.Skip("here everyone may have port 1")
	}
	d = diagnoseIn(t, wrap, healthy(t, "SIDEGATE_INGRESS=127.0.0.1:1="+hello(t))...)
	d.want(t, "broken", "listen", "gate main may not listen at 127.0.0.1:1 as uid")
	d.wantOnly(t, "listen")
}

// A file of a kubelet's volume, mounted by itself as subPath does.
func TestDoctorSubPath(t *testing.T) {
	peer(t, "unshare")
	if out, err := exec.Command("unshare", "-rm", "true").CombinedOutput(); err != nil {
		t.Skipf("mount namespaces are not allowed here: %v %s", err, out)
	}
	secret := certstest.NewVolume(t, certstest.Secret(certstest.NewCA(t, "ca").Server(t, "localhost"), nil))
	dir := folder(t, map[string][]byte{"tls.crt": nil, "tls.key": nil})
	wrap := []string{"unshare", "-rm", "sh", "-c", fmt.Sprintf(`for f in tls.crt tls.key; do mount --bind %s/$f %s/$f || exit; done; exec "$@"`, secret.Dir, dir), "sh"}
	d := diagnoseIn(t, wrap, healthy(t, "SIDEGATE_TLS="+dir)...)
	d.want(t, "warning", "mount", filepath.Join(dir, "tls.crt")+" is mounted by itself (from ")
	d.want(t, "warning", "mount", filepath.Join(dir, "tls.key")+" is mounted by itself (from ")
	d.wantOnly(t, "mount")
}

// A table of mounts that can't be read is told, and no more than a warning.
func TestDoctorWithoutMounts(t *testing.T) {
	doctor := newDoctor(nil)
	doctor.mounts = filepath.Join(t.TempDir(), "none")
	f := doctor.examine(t.Context(), healthy(t))
	if f.count(levelBroken) != 0 || f.count(levelWarning) != 1 || !strings.Contains(f[0].Found, "read the table of mounts") {
		t.Errorf("got %+v", f)
	}
}

// ROT-11: a lack of inotify is told.
func TestDoctorWithoutInotify(t *testing.T) {
	peer(t, "unshare")
	wrap := []string{"unshare", "-Ur", "sh", "-c", `echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"`, "sh"}
	if out, err := exec.Command(wrap[0], append(wrap[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("user namespaces are not allowed here: %v %s", err, out)
	}
	d := diagnoseIn(t, wrap, healthy(t)...)
	d.want(t, "warning", "inotify", "changes are seen within 30 s only -> raise fs.inotify.max_user_instances on the node (now ")
	d.wantOnly(t, "inotify")
}

func TestDoctorUpstream(t *testing.T) {
	sockets := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(sockets, "app"))
	try(t, err)
	defer l.Close()
	own := freeAddr(t)
	for name, c := range map[string]struct{ ingress, level, text string }{
		"nobody":         {freeAddr(t) + "=http://" + freeAddr(t), "broken", "nobody listens at"},
		"h2c to nobody":  {freeAddr(t) + "=h2c://" + freeAddr(t), "broken", "connection refused"},
		"socket":         {freeAddr(t) + "=http+unix://" + l.Addr().String(), "ok", "somebody listens at"},
		"no socket":      {freeAddr(t) + "=http+unix://" + sockets + "/none", "broken", "no such file or directory"},
		"itself":         {own + "=http://" + own, "broken", "leads back to sidegate itself"},
		"wherever it is": {freeAddr(t) + "=" + hello(t) + "?insecure_upstream=true", "warning", "sends plaintext to"},
	} {
		t.Run(name, func(t *testing.T) {
			d := diagnose(t, healthy(t, "SIDEGATE_INGRESS="+c.ingress))
			d.want(t, c.level, "upstream", c.text)
			d.wantOnly(t, "upstream")
		})
	}
}

// everywhere is an application that binds all addresses of this machine.
func everywhere(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	try(t, err)
	app := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}}
	app.Start()
	t.Cleanup(app.Close)
	_, port, err = net.SplitHostPort(l.Addr().String())
	try(t, err)
	return port
}

// ownAddress is one of this machine by which others reach it.
func ownAddress(t *testing.T) string {
	t.Helper()
	list := reachable()
	i := slices.IndexFunc(list, func(ip string) bool { return netip.MustParseAddr(ip).Is4() })
	if i < 0 {
		t.Skip("this machine has no address besides loopback")
	}
	return list[i]
}

// OPS-13: an application that binds all addresses can be reached around the
// gate; one on loopback can't, and a gate on the pod's address is no such way.
func TestDoctorWaysAround(t *testing.T) {
	ip := ownAddress(t)
	port := everywhere(t)
	t.Run("OPS-13 all addresses", func(t *testing.T) {
		d := diagnose(t, healthy(t, "SIDEGATE_INGRESS="+freeAddr(t)+"=http://127.0.0.1:"+port))
		d.want(t, "warning", "around", "also answers at")
		d.want(t, "warning", "around", net.JoinHostPort(ip, port))
		d.want(t, "warning", "around", "bind the application to 127.0.0.1, or admit nobody but the gate's port by a NetworkPolicy")
		d.wantOnly(t, "around")
	})
	t.Run("loopback alone", func(t *testing.T) {
		d := diagnose(t, healthy(t))
		d.want(t, "ok", "around", "is open on no other address")
	})
	t.Run("a gate on the pod's address", func(t *testing.T) {
		app := hello(t)
		_, port, err := net.SplitHostPort(strings.TrimPrefix(app, "http://"))
		try(t, err)
		gate, err := net.Listen("tcp", net.JoinHostPort(ip, port)) // as the running sidegate has it
		try(t, err)
		defer gate.Close()
		d := diagnose(t, healthy(t, "SIDEGATE_INGRESS="+net.JoinHostPort(ip, port)+"="+app))
		for _, f := range d.Findings {
			if f.About == "around" && f.Level != "ok" {
				t.Errorf("the gate is taken for a way around it: %s", f.Found)
			}
		}
	})
}

// The ports: free, somebody else's, or those of the sidegate that runs here.
func TestDoctorListeners(t *testing.T) {
	t.Run("somebody else has the gate's", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		try(t, err)
		defer taken.Close()
		d := diagnose(t, healthy(t, "SIDEGATE_INGRESS="+taken.Addr().String()+"="+hello(t)))
		d.want(t, "broken", "listen", "somebody else listens at "+taken.Addr().String())
		d.wantOnly(t, "listen")
	})
	t.Run("nobody can be asked who has the gate's", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		try(t, err)
		defer taken.Close()
		d := diagnose(t, healthy(t, "SIDEGATE_ADMIN=none", "SIDEGATE_INGRESS="+taken.Addr().String()+"="+hello(t)))
		d.want(t, "ok", "listen", "whether that is sidegate can't be asked")
		d.wantOnly(t)
	})
	t.Run("somebody else has the admin port", func(t *testing.T) {
		d := diagnose(t, healthy(t, "SIDEGATE_ADMIN="+strings.TrimPrefix(hello(t), "http://")))
		d.want(t, "broken", "listen", "is no sidegate")
		d.wantOnly(t, "listen")
	})
	t.Run("not an address of this host", func(t *testing.T) {
		d := diagnose(t, healthy(t, "SIDEGATE_INGRESS=192.0.2.199:8443="+hello(t)))
		d.want(t, "broken", "listen", "cannot assign requested address")
	})
	t.Run("a folder that is not there", func(t *testing.T) {
		d := diagnose(t, healthy(t, "SIDEGATE_INGRESS=unix:/none/gate="+hello(t)))
		d.want(t, "broken", "listen", "no such file or directory")
	})
	t.Run("SIDEGATE_ADMIN is no address", func(t *testing.T) {
		diagnose(t, healthy(t, "SIDEGATE_ADMIN=9901")).want(t, "broken", "variables", "SIDEGATE_ADMIN: it is neither [HOST]:PORT")
	})
	t.Run("SIDEGATE_ADMIN is an address at which nobody may drain", func(t *testing.T) {
		diagnose(t, healthy(t, "SIDEGATE_ADMIN=127.0.0.6:9901")).want(t, "warning", "listen", "answered at 127.0.0.1 and ::1 only")
	})
}

// The sidegate that runs here is asked, and tells why its last reload failed.
func TestDoctorAsksTheRunningOne(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	dir := folder(t, certstest.Secret(ca.Server(t, "localhost"), nil))
	app := hello(t)
	p := start(t, app, nil, "SIDEGATE_TLS="+dir, "SIDEGATE_ALLOW=anyone")
	environ := []string{"SIDEGATE_TLS=" + dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=" + p.admin, "SIDEGATE_INGRESS=" + p.gate + "=" + app}
	d := diagnose(t, environ)
	d.wantOnly(t)
	d.want(t, "ok", "serving", "rule in force: anyone")
	d.want(t, "ok", "serving", "certificates: generation ")
	d.want(t, "ok", "listen", "gate main is open at "+p.gate)

	try(t, os.WriteFile(filepath.Join(dir, "tls.key"), ca.Server(t, "localhost").Key, 0o600))
	p.log.Wait(t, "last good stays in service")
	d = diagnose(t, environ)
	d.want(t, "broken", "pair", "does not belong")
	d.want(t, "warning", "serving", "the last good generation ")
	d.wantOnly(t, "pair", "serving")

	d = diagnose(t, append(environ, "SIDEGATE_INGRESS_OTHER="+freeAddr(t)+"="+app))
	d.want(t, "warning", "listen", "has no gate other")
	d = diagnose(t, append(environ, "SIDEGATE_INGRESS_OTHER="+strings.TrimPrefix(app, "http://")+"="+hello(t)))
	d.want(t, "broken", "listen", "so gate other can't")
}

func TestDoctorWorkloadAPI(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string][]byte{"file": nil})
	l, err := net.Listen("unix", filepath.Join(dir, "agent"))
	try(t, err)
	defer l.Close()
	silent, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "ended"), Net: "unix"})
	try(t, err)
	silent.SetUnlinkOnClose(false)
	try(t, silent.Close())
	for name, c := range map[string]struct{ level, text string }{
		"agent": {"ok", "somebody listens at " + dir + "/agent"},
		"none":  {"broken", "SPIFFE_ENDPOINT_SOCKET: " + dir + "/none: no such file or directory"},
		"file":  {"broken", "is not a socket"},
		"ended": {"broken", "connection refused -> mount the CSI volume csi.spiffe.io"},
	} {
		t.Run(name, func(t *testing.T) {
			environ := []string{"SIDEGATE_CERTS=spiffe", "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=" + freeAddr(t), "SIDEGATE_INGRESS=" + freeAddr(t) + "=" + hello(t), "SPIFFE_ENDPOINT_SOCKET=unix://" + filepath.Join(dir, name)}
			d := diagnose(t, environ)
			d.want(t, c.level, "spiffe", c.text)
			if n := d.Broken; n != 1 { // the fetch fails in each case, and is told where the socket is right
				t.Errorf("%d broken, want 1:\n%s", n, d.text)
			}
		})
	}
}

// secureServer is an HTTPS server with a certificate of the CA.
func secureServer(t *testing.T, ca *certstest.CA, answer string) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/directory", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, answer)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // who refuses it says so
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Server(t, "127.0.0.1").TLS}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestDoctorCFSSL(t *testing.T) {
	t.Parallel()
	ca, other := certstest.NewCA(t, "ca"), certstest.NewCA(t, "other")
	server := secureServer(t, ca, "")
	keep := folder(t, map[string][]byte{"ca.crt": ca.PEM(), "other.crt": other.PEM(), "auth-key": []byte("00c0ffee00c0ffee\n"), "garbage": []byte("x")})
	nobody := "https://" + freeAddr(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	try(t, err)
	defer silent.Close()
	for name, c := range map[string]struct{ urls, ca, key, level, about, text string }{
		"reached":          {server.URL, "ca.crt", "auth-key", "ok", "cfssl", server.URL + " can be reached"},
		"another CA":       {server.URL, "other.crt", "auth-key", "broken", "cfssl", "is not believed: x509: certificate signed by unknown authority"},
		"nobody":           {nobody, "ca.crt", "auth-key", "broken", "cfssl", nobody + " can't be reached: connection refused"},
		"silent":           {"https://" + silent.Addr().String(), "ca.crt", "auth-key", "broken", "cfssl", "no answer within 2s"},
		"one of two":       {nobody + "," + server.URL, "ca.crt", "auth-key", "warning", "cfssl", nobody + " can't be reached"},
		"no CA file":       {server.URL, "none", "auth-key", "broken", "files", "SIDEGATE_CFSSL_CA: read "},
		"CA file without":  {server.URL, "garbage", "auth-key", "broken", "ca", "holds no CERTIFICATE block"},
		"no auth key":      {server.URL, "ca.crt", "none", "broken", "files", "SIDEGATE_CFSSL_AUTH_KEY_FILE: read "},
		"the auth key":     {server.URL, "ca.crt", "auth-key", "ok", "cfssl", "can be read"},
		"names are asked":  {server.URL, "ca.crt", "auth-key", "ok", "names", "web is held"},
		"cache for nobody": {server.URL, "ca.crt", "auth-key", "broken", "files", "SIDEGATE_CERT_CACHE: keep /proc/none"},
	} {
		t.Run(name, func(t *testing.T) {
			environ := []string{"SIDEGATE_CERTS=cfssl", "SIDEGATE_CERT_HOSTS=web", "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=" + freeAddr(t), "SIDEGATE_INGRESS=" + freeAddr(t) + "=" + hello(t),
				"SIDEGATE_CFSSL_URL=" + c.urls, "SIDEGATE_CFSSL_CA=" + filepath.Join(keep, c.ca), "SIDEGATE_CFSSL_AUTH_KEY_FILE=" + filepath.Join(keep, c.key)}
			if name == "cache for nobody" {
				environ = append(environ, "SIDEGATE_CERT_CACHE=/proc/none")
			}
			d := diagnose(t, environ, "--name", "web")
			d.want(t, c.level, c.about, c.text)
			if strings.Contains(d.text, "c0ffee") { // OPS-08
				t.Errorf("the auth key is told:\n%s", d.text)
			}
		})
	}
}

func TestDoctorACME(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	server := secureServer(t, ca, `{"newNonce":"https://x/n","newAccount":"https://x/a","newOrder":"https://x/o"}`)
	page := secureServer(t, ca, `<html>`)
	other := secureServer(t, ca, `{"newAccount":"https://x/a","newOrder":"https://x/o"}`)
	keep := folder(t, map[string][]byte{"ca.crt": ca.PEM(), "other.crt": certstest.NewCA(t, "other").PEM()})
	cache := t.TempDir()
	for name, c := range map[string]struct{ url, ca, cache, level, about, text string }{
		"directory":  {server.URL + "/directory", "ca.crt", cache, "ok", "acme", "is an ACME directory"},
		"cache":      {server.URL + "/directory", "ca.crt", cache, "ok", "files", cache + " can be written"},
		"another CA": {server.URL + "/directory", "other.crt", cache, "broken", "acme", "is not believed"},
		"a page":     {page.URL, "ca.crt", cache, "broken", "acme", "the answer is not an ACME directory"},
		"other JSON": {other.URL, "ca.crt", cache, "broken", "acme", "the answer is not an ACME directory"},
		"moved":      {server.URL + "/moved", "ca.crt", cache, "broken", "acme", "the answer is 302"},
		"nobody":     {"https://" + freeAddr(t), "ca.crt", cache, "broken", "acme", "connection refused"},
		"no CA":      {server.URL, "none", cache, "broken", "files", "SIDEGATE_ACME_CA: read "},
		"no cache":   {server.URL, "ca.crt", "/proc/none", "broken", "files", "SIDEGATE_CERT_CACHE: keep /proc/none"},
	} {
		t.Run(name, func(t *testing.T) {
			d := diagnose(t, []string{"SIDEGATE_CERTS=acme", "SIDEGATE_CERT_HOSTS=web.example", "SIDEGATE_CERT_CACHE=" + c.cache, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=" + freeAddr(t),
				"SIDEGATE_INGRESS=" + freeAddr(t) + "=" + hello(t), "SIDEGATE_ACME_URL=" + c.url, "SIDEGATE_ACME_CA=" + filepath.Join(keep, c.ca)})
			d.want(t, c.level, c.about, c.text)
		})
	}
}

// OPS-08: no key, password or hash is in what the doctor prints, whatever is
// wrong with the files that hold them.
func TestDoctorTellsNoSecret(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	good := ca.Server(t, "localhost")
	key := strings.Split(string(good.Key), "\n")[1]
	for name, content := range map[string]map[string][]byte{
		"good":       certstest.Secret(good, nil),
		"exchanged":  {"tls.crt": good.Key, "tls.key": good.Cert},
		"cut key":    {"tls.crt": good.Cert, "tls.key": good.Key[:len(good.Key)/2]},
		"key as DER": {"tls.crt": good.Cert, "tls.key": []byte(key)},
		"in ca.crt":  {"tls.crt": good.Cert, "tls.key": good.Key, "ca.crt": good.Key},
	} {
		users := folder(t, map[string][]byte{"htpasswd": []byte("bob:$2y$05$unreadable-hash\nalice:{PLAIN}hunter2\n")})
		environ := secretOf(t, content, "SIDEGATE_USERS="+users, "SIDEGATE_ALLOW=authenticated", "SIDEGATE_CLIENT_CERT=optional")
		for _, args := range [][]string{{"check", "--here"}, {"check", "--here", "--json"}} {
			var out bytes.Buffer
			run(t.Context(), args, environ, nil, &out, &out)
			for _, secret := range []string{key, key[:20], "unreadable-hash", "hunter2"} {
				if strings.Contains(out.String(), secret) {
					t.Errorf("%s: %q is told:\n%s", name, secret, &out)
				}
			}
		}
	}
}

// What is worse is never left out for what reads alike.
func TestFindingsOnce(t *testing.T) {
	var f findings
	f.ok("serving", "generation 1, tls.crt ended")
	f.broken("expiry", "renew it", "SIDEGATE_TLS: tls.crt ended")
	f.broken("expiry", "renew it", "SIDEGATE_TLS: tls.crt ended")
	f.warn("serving", "", "tls.crt ended")
	if got := f.once(); len(got) != 2 || got.count(levelBroken) != 1 {
		t.Errorf("got %+v", got)
	}
}

// What a person sees: aligned, with a sum, and nothing that steers the terminal.
func TestFindingsAsText(t *testing.T) {
	var f findings
	f.broken("pair", "write both together", "tls.key does not belong to the certificate in tls.crt")
	f.warn("names", "have it issued with that name", "no certificate holds web\x1b[2J\nok")
	f.ok("inotify", "file events work")
	const want = `broken   pair    tls.key does not belong to the certificate in tls.crt
                 -> write both together
warning  names   no certificate holds web\x1b[2J\x0aok
                 -> have it issued with that name
ok       inotify file events work
1 broken, 1 warning, 1 ok
`
	var got bytes.Buffer
	try(t, f.print(&got))
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &got, want)
	}
}
