package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/certs/spiffe/workloadtest"
)

const (
	webID     = "spiffe://ours.example/ns/a/sa/web"
	oursID    = "spiffe://ours.example/ns/a/sa/client"
	partnerID = "spiffe://theirs.example/ns/b/sa/client"
)

// domains is an agent of a trust domain that federates with another.
type domains struct {
	*workloadtest.Server
	t            *testing.T
	ours, theirs *certstest.CA
}

func newDomains(t *testing.T) *domains {
	t.Helper()
	d := &domains{Server: workloadtest.New(t), t: t, ours: certstest.NewCA(t, "ours"), theirs: certstest.NewCA(t, "theirs")}
	d.Start()
	d.renew(time.Hour)
	return d
}

// renew gives the gate its next SVID.
func (d *domains) renew(lifetime time.Duration) workloadtest.SVID {
	d.t.Helper()
	v := workloadtest.Issue(d.t, d.ours, webID, lifetime, nil)
	d.Set(workloadtest.Update{SVIDs: []workloadtest.SVID{v}, Federated: map[string][]*certstest.CA{"theirs.example": {d.theirs}}})
	return v
}

// environ is that of a gate with everything from the agent.
func (d *domains) environ(more ...string) []string {
	return append([]string{"SIDEGATE_CERTS=spiffe", "SPIFFE_ENDPOINT_SOCKET=" + d.Socket, "SIDEGATE_CLIENT_CERT=require"}, more...)
}

// as is the configuration of a client that presents the pair.
func (d *domains) as(pair certstest.Pair) *tls.Config {
	conf := clientConfig(d.ours)
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.TLS, nil }
	return conf
}

// get is the status of a request, 0 if there was no handshake.
func (d *domains) get(p *instance, pair certstest.Pair, path string) int {
	d.t.Helper()
	tr := &http.Transport{TLSClientConfig: d.as(pair), DisableKeepAlives: true}
	res, err := (&http.Client{Transport: tr, Timeout: certstest.HangGuard}).Get("https://" + p.gate + path)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// waitPresented waits until the gate presents the SVID to the client.
func (d *domains) waitPresented(p *instance, client certstest.Pair, want workloadtest.SVID) {
	d.t.Helper()
	got := ""
	for guard := time.Now().Add(certstest.HangGuard); time.Now().Before(guard); time.Sleep(5 * time.Millisecond) {
		c, err := tls.Dial("tcp", p.gate, d.as(client))
		if err != nil {
			got = err.Error()
			continue
		}
		got = c.ConnectionState().PeerCertificates[0].SerialNumber.String()
		_ = c.Close()
		if got == want.Pair.Leaf.SerialNumber.String() {
			return
		}
	}
	d.t.Fatalf("the new SVID is not presented, but %s\n%s", got, p.log)
}

// unready is why the program is not ready, "" if it is.
func (p *instance) unready() string {
	p.t.Helper()
	code, text := p.readyz()
	if code == http.StatusOK {
		return ""
	}
	return text
}

// onlyJSON wants that no library has written to stderr or stdout by itself.
func (p *instance) onlyJSON() {
	p.t.Helper()
	for line := range strings.Lines(p.log.String()) {
		if !json.Valid([]byte(line)) {
			p.t.Errorf("in the log: %s", line)
		}
	}
}

// SPI-01, SPI-03, SPI-08, LIB-11: who passes a gate whose policy names peers of
// its own and of a federated trust domain, and what the application is told.
func TestSPIFFEPeers(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	told := make(chan string, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get("X-Forwarded-Client-Cert")
	}))
	t.Cleanup(app.Close)
	policy := "version: 1\nrules:\n" +
		"- {name: partner, paths: [/partner], peer: [\"" + partnerID + "\"]}\n" +
		"- {name: own, paths: [/own], peer: [\"spiffe://ours.example/ns/a/sa/*\"]}\n" +
		"- {name: rest, peer: [any]}\n"
	p := start(t, app.URL, nil, d.environ("SIDEGATE_POLICY="+filepath.Join(folder(t, map[string][]byte{"policy.yaml": []byte(policy)}), "policy.yaml"))...)
	serverOnly := d.ours.Issue(t, "x", func(c *x509.Certificate) {
		c.URIs = d.ours.Client(t, "x", oursID).Leaf.URIs
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	ours, partner := d.ours.Client(t, "x", oursID), d.theirs.Client(t, "x", partnerID)
	for _, c := range []struct {
		name string
		pair certstest.Pair
		path string
		want int // 0: no handshake
		log  string
	}{
		{"own", ours, "/own", 200, ""},
		{"own, for the partner", ours, "/partner", 403, ""},
		{"SPI-08 own is any", ours, "/", 200, ""},
		{"federated where named", partner, "/partner", 200, ""},
		{"federated elsewhere", partner, "/own", 403, ""},
		{"SPI-08 federated is not any", partner, "/", 403, ""},
		{"SPI-03 own ID, their root", d.theirs.Client(t, "x", oursID), "/own", 0, "unknown authority"},
		{"SPI-03 their ID, own root", d.ours.Client(t, "x", partnerID), "/partner", 0, "unknown authority"},
		{"SPI-01 no URI", d.ours.Client(t, "x"), "/", 0, "it has 0 URIs"},
		{"SPI-01 two IDs", d.ours.Client(t, "x", oursID, oursID+"2"), "/", 0, "it has 2 URIs"},
		{"LIB-11 no clientAuth", serverOnly, "/own", 0, "lacks clientAuth"},
		{"a third domain", d.ours.Client(t, "x", "spiffe://third.example/a"), "/", 0, "no bundle of the trust domain third.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := d.get(p, c.pair, c.path); got != c.want {
				t.Errorf("got %d, want %d\n%s", got, c.want, p.log)
			}
			if c.want == 200 {
				if got, want := <-told, "URI="+c.pair.Leaf.URIs[0].String(); !strings.Contains(got, want) {
					t.Errorf("the application was told %q, want %q", got, want)
				}
			}
			if c.log != "" {
				p.log.Wait(t, c.log)
			}
		})
	}
	p.onlyJSON()
}

// TLS-02, ROT-13: a CA that leaves a federated bundle takes its peers with it,
// those that resume a session and those that are connected.
func TestSPIFFECARemoved(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	p := start(t, hello(t), nil, d.environ("SIDEGATE_ALLOW="+partnerID)...)
	conf := d.as(d.theirs.Client(t, "x", partnerID))
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	dial := func() (*tls.Conn, error) {
		c, err := tls.Dial("tcp", p.gate, conf)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = c.Close() })
		try(t, c.SetDeadline(time.Now().Add(certstest.HangGuard)))
		if _, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return c, err
	}
	var live *tls.Conn
	for i, resumed := range []bool{false, true} {
		c, err := dial()
		if err != nil || c.ConnectionState().DidResume != resumed {
			t.Fatalf("connection %d: %v, resumed is not %t", i, err, resumed)
		}
		live = c
	}
	was := d.theirs
	d.theirs = certstest.NewCA(t, "their next")
	d.waitPresented(p, d.ours.Client(t, "x", oursID), d.renew(time.Hour))
	if _, err := io.Copy(io.Discard, live); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the live connection: %v", err)
	}
	if _, err := dial(); err == nil {
		t.Errorf("a peer of %s resumed its session", was.Cert.Subject)
	}
	p.log.Wait(t, `"reason":"peer_untrusted"`)
}

// ROT-12, ROT-18: short-lived SVIDs renewed under load, an agent that is away
// for longer than a renewal takes, and a new CA: no request fails.
func TestSPIFFERotationUnderLoad(t *testing.T) {
	t.Parallel()
	const short = time.Minute
	d := newDomains(t)
	p := start(t, hello(t), nil, d.environ("SIDEGATE_ALLOW=any-peer,"+partnerID, "SIDEGATE_ACCESS_LOG=off")...)
	client, next := d.ours.Client(t, "x", oursID), certstest.NewCA(t, "next")
	var loads []*load
	for _, pair := range []certstest.Pair{client, d.theirs.Client(t, "x", partnerID)} {
		conf := d.as(pair)
		conf.RootCAs.AddCert(next.Cert)
		loads = append(loads, startLoadAs(p, conf))
	}
	for range 4 {
		d.waitPresented(p, client, d.renew(short))
	}
	last := d.renew(short)
	d.waitPresented(p, client, last)
	d.Stop()
	p.log.Wait(t, "reload refused, last good stays in service")
	time.Sleep(2 * time.Second) // it stays away for long: this is the situation, not a wait
	d.waitPresented(p, client, last)
	if why := p.unready(); why != "" { // OPS-10: last good in service is ready
		t.Errorf("not ready: %s", why)
	}
	again := d.renew(short)
	d.Start()
	d.waitPresented(p, client, again)
	p.log.Wait(t, "reload works again")

	rotated := workloadtest.Issue(t, next, webID, short, nil)
	rotated.Bundle = []*certstest.CA{d.ours, next}
	d.Set(workloadtest.Update{SVIDs: []workloadtest.SVID{rotated}, Federated: map[string][]*certstest.CA{"theirs.example": {d.theirs}}})
	d.ours = next
	d.waitPresented(p, client, rotated)
	for _, l := range loads {
		l.end(t)
	}
	if n := p.log.Count(`"level":"ERROR"`); n != 1 {
		t.Errorf("%d alarms, want one\n%s", n, p.log)
	}
	p.onlyJSON()
}

// OPS-10: the agent stays away until the SVID has ended. Then nobody is sent
// here, nobody gets through, the log says why; and all is well when it is back.
func TestSPIFFEOutage(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	p := start(t, hello(t), nil, d.environ("SIDEGATE_ALLOW=any-peer")...)
	client := d.ours.Client(t, "x", oursID)
	short := d.renew(6 * time.Second)
	d.waitPresented(p, client, short)
	d.Stop()
	certstest.Until(t, "it is not ready any more", func() bool { return p.unready() != "" })
	if time.Now().Before(short.Pair.Leaf.NotAfter) {
		t.Error("not ready before the SVID has ended")
	}
	if got, want := p.unready(), "certificate "+webID+" ended"; !strings.Contains(got, want) {
		t.Errorf("readiness says %q, want %q", got, want)
	}
	if got := d.get(p, client, "/"); got != 0 {
		t.Errorf("got %d with an SVID that has ended", got)
	}
	p.log.Wait(t, `"reason":"certificate_expired","err":"our own certificate `+webID+` ended`)
	p.log.Wait(t, `"msg":"certificate expired"`)
	p.log.Wait(t, "the socket is missing")
	if !strings.Contains(p.metrics(), `sidegate_last_reload_successful{what="issued-certificates"} 0`) {
		t.Error("the metric does not tell")
	}
	next := d.renew(time.Hour)
	d.Start()
	d.waitPresented(p, client, next)
	if why := p.unready(); why != "" {
		t.Errorf("not ready: %s", why)
	}
	if got := d.get(p, client, "/"); got != 200 {
		t.Errorf("got %d after the recovery", got)
	}
	p.onlyJSON()
}

// LIB-09: an agent that answers InvalidArgument, and garbage after that, does
// not end the program's watch.
func TestSPIFFEMalformedUpdate(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	p := start(t, hello(t), nil, d.environ("SIDEGATE_ALLOW=any-peer")...)
	client := d.ours.Client(t, "x", oursID)
	d.waitPresented(p, client, d.renew(time.Hour))
	d.Fail(workloadtest.ErrInvalid)
	p.log.Wait(t, "answers InvalidArgument")
	last := d.renew(time.Hour)
	d.waitPresented(p, client, last)
	bad := workloadtest.Update{SVIDs: []workloadtest.SVID{workloadtest.Issue(t, d.ours, webID, time.Hour, nil)}}.Response(t)
	bad.Svids[0].X509SvidKey = []byte("a-secret-of-somebody")
	d.Push(bad)
	p.log.Wait(t, "sent what can't be used")
	d.waitPresented(p, client, last)
	d.waitPresented(p, client, d.renew(time.Hour))
	if p.log.Count("a-secret-of") > 0 {
		t.Errorf("a key is in the log\n%s", p.log)
	}
}

// One gate with its certificate from the agent, one from files; and certificates
// from files with the agent's bundles.
func TestSPIFFEBesideFiles(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	web := certstest.NewCA(t, "web")
	secret := folder(t, certstest.Secret(web.Server(t, "localhost"), nil))
	client, partner := d.ours.Client(t, "x", oursID), d.theirs.Client(t, "x", partnerID)
	stranger := web.Client(t, "x", oursID)
	app := hello(t)
	t.Run("gates", func(t *testing.T) {
		second := freeAddr(t)
		p := start(t, app+"?certs=spiffe&client_cert=require", nil, "SPIFFE_ENDPOINT_SOCKET="+d.Socket, "SIDEGATE_TLS="+secret,
			"SIDEGATE_INGRESS_FILES="+second+"="+app, "SIDEGATE_ALLOW=any-peer,authenticated", "SIDEGATE_USERS="+usersFolder(t))
		if got := d.get(p, client, "/"); got != 200 {
			t.Errorf("the gate of the agent: got %d\n%s", got, p.log)
		}
		presented(t, second, web) // verifies
		d.waitPresented(p, client, d.renew(time.Hour))
		presented(t, second, web)
	})
	t.Run("trust alone", func(t *testing.T) {
		p := start(t, app, nil, "SIDEGATE_TLS="+secret, "SIDEGATE_CLIENT_CA=spiffe", "SPIFFE_ENDPOINT_SOCKET="+d.Socket,
			"SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer")
		d := &domains{t: t, ours: web} // its clients believe the files
		for name, c := range map[string]struct {
			pair certstest.Pair
			want int
		}{"own": {client, 200}, "SPI-08 federated": {partner, 403}, "of the files' CA": {stranger, 0}} {
			if got := d.get(p, c.pair, "/"); got != c.want {
				t.Errorf("%s: got %d, want %d\n%s", name, got, c.want, p.log)
			}
		}
	})
}

// LIB-10: of two SVIDs the one that is named; none that fits is no start.
func TestSPIFFEChoice(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	first, second := workloadtest.Issue(t, d.ours, webID, time.Hour, nil), workloadtest.Issue(t, d.ours, webID+"-internal", time.Hour, nil)
	first.Hint, second.Hint = "public", "internal"
	d.Set(workloadtest.Update{SVIDs: []workloadtest.SVID{first, second}})
	client := d.ours.Client(t, "x", oursID)
	for svid, want := range map[string]workloadtest.SVID{"public": first, second.ID(): second} {
		p := start(t, hello(t), nil, d.environ("SIDEGATE_ALLOW=any-peer", "SIDEGATE_SPIFFE_SVID="+svid)...)
		d.waitPresented(p, client, want)
	}
	code, _, stderr := d.command(t, "serve", "SIDEGATE_SPIFFE_SVID=a", "SIDEGATE_ALLOW=any-peer")
	want := `SIDEGATE_SPIFFE_SVID: no SVID has the hint or SPIFFE ID "a"; there are ` + webID + ` (hint "public"), ` + webID + `-internal (hint "internal")`
	if code == exitDone || !strings.Contains(stderr, want) {
		t.Errorf("ended with %d and %s", code, stderr)
	}
}

// command runs one in this process.
func (d *domains) command(t *testing.T, name string, more ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), []string{name}, d.environ(more...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// LIB-08: no agent at the start is an end at the deadline, that says where it
// was looked for and what may be wrong.
func TestSPIFFENoAgent(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	d.Stop()
	more := []string{"SIDEGATE_ALLOW=any-peer", "SIDEGATE_START_TIMEOUT=1s"}
	for name, c := range map[string]struct {
		more []string
		want []string
	}{
		"absent":      {nil, []string{"SPIFFE_ENDPOINT_SOCKET: connect to " + d.Socket, "the socket is missing", "csi.spiffe.io"}},
		"no address":  {[]string{"SPIFFE_ENDPOINT_SOCKET=/run/agent.sock"}, []string{"SPIFFE_ENDPOINT_SOCKET: it is not an address", "unix:///PATH"}},
		"a hint, too": {[]string{"SIDEGATE_SPIFFE_SVID=a"}, []string{"SPIFFE_ENDPOINT_SOCKET: connect to "}},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := d.command(t, "serve", slices.Concat(more, c.more)...)
			if code == exitDone {
				t.Errorf("ended with %d", code)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("got %s, want %q", stderr, want)
				}
			}
		})
	}
}

// What check and status say of a gate of the Workload API.
func TestSPIFFEStatus(t *testing.T) {
	t.Parallel()
	d := newDomains(t)
	nameless := func(c *x509.Certificate) { // as SPIRE makes its CAs
		c.Subject.CommonName, c.Subject.Organization = "", []string{"SPIFFE"}
		c.URIs = d.ours.Client(t, "x", "spiffe://theirs.example").Leaf.URIs
	}
	d.theirs = certstest.NewCA(t, "", nameless)
	d.renew(time.Hour)
	allow := "SIDEGATE_ALLOW=any-peer," + partnerID + ",spiffe://third.example/a"
	code, stdout, stderr := d.command(t, "check", allow)
	if code != exitDone {
		t.Fatalf("ended with %d: %s", code, stderr)
	}
	for _, want := range []string{
		"server " + webID + ": O=SPIRE,C=US, ends ", "(in 59 minutes)", "client_ca ours: CN=ours", "client_ca spiffe://theirs.example: O=SPIFFE",
		"warning: nobody can be spiffe://third.example/…: there is neither a CA nor a bundle",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("check says\n%s, want %q", stdout, want)
		}
	}
	p := start(t, hello(t), nil, d.environ(allow)...)
	d.Stop()
	p.log.Wait(t, "the socket is missing") // perhaps after an attempt that the agent broke off
	_, stdout, _ = d.command(t, "status", "SIDEGATE_ADMIN="+p.admin)
	want := fmt.Sprintf("last good stays: connect to %s: no such file or directory; the socket is missing", d.Socket)
	if !strings.Contains(stdout, want) || !strings.Contains(stdout, "server "+webID) {
		t.Errorf("status says\n%s, want %q", stdout, want)
	}
}
