package spiffe_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sidegate/certs"
	"sidegate/certs/certstest"
	"sidegate/certs/spiffe"
	"sidegate/certs/spiffe/workloadtest"
)

const (
	web     = "spiffe://ours.example/ns/a/sa/web"
	partner = "spiffe://theirs.example/ns/b/sa/client"
)

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is two trust domains and an agent that runs.
type world struct {
	*workloadtest.Server
	ours, theirs *certstest.CA
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Server: workloadtest.New(t), ours: certstest.NewCA(t, "ours"), theirs: certstest.NewCA(t, "theirs")}
	w.Start()
	return w
}

// update is one SVID of ours for an hour, and the bundles of both.
func (w *world) update(t *testing.T) workloadtest.Update {
	t.Helper()
	return workloadtest.Update{
		SVIDs:     []workloadtest.SVID{workloadtest.Issue(t, w.ours, web, time.Hour, nil)},
		Federated: map[string][]*certstest.CA{"theirs.example": {w.theirs}},
	}
}

// running is a source and its store at work.
type running struct {
	*certs.Store
	t   *testing.T
	log *certstest.Log
}

func run(t *testing.T, source *spiffe.Source) *running {
	t.Helper()
	r := &running{t: t, log: &certstest.Log{}}
	source.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.Store = &certs.Store{Source: source, RefuseExpired: true, AllowNameLoss: true, Log: source.Log}
	try(t, r.Load(t.Context()))
	changed := source.Subscribe()
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = source.Run(ctx) })
	all.Go(func() { _ = r.Run(ctx, changed) })
	t.Cleanup(func() { stop(); all.Wait() })
	return r
}

// serial is that of the certificate in service.
func (r *running) serial() string {
	r.t.Helper()
	c, err := r.GetCertificate(nil)
	try(r.t, err)
	return c.Leaf.SerialNumber.String()
}

// waitServed waits until the SVID is in service.
func (r *running) waitServed(v workloadtest.SVID) {
	r.t.Helper()
	for guard := time.Now().Add(certstest.HangGuard); r.serial() != v.Pair.Leaf.SerialNumber.String(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(guard) {
			r.t.Fatalf("%s is not in service\n%s", v.ID(), r.log)
		}
	}
}

// waitOK waits until the last load succeeded, or failed.
func (r *running) waitOK(want bool) {
	r.t.Helper()
	for guard := time.Now().Add(certstest.HangGuard); r.Status().OK != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(guard) {
			r.t.Fatalf("never got ok=%t\n%s", want, r.log)
		}
	}
}

// LIB-08: what go-spiffe would find out at its first call, or never.
func TestCheck(t *testing.T) {
	for _, good := range []string{"", "unix:///run/a.sock", "unix:///a%20b", "tcp://127.0.0.1:8081", "tcp://[::1]:8081"} {
		if err := (&spiffe.Source{Socket: good}).Check(); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"/run/a.sock", "run/a.sock", "unix:", "unix://", "unix:///", "unix:///a/", "unix://run/a.sock", "unix:a", "unix:/a", "unix:///a?b", "unix:///a?", "unix:///a#b",
		"unix://user@/a", "unix:///%zz", "tcp://agent:8081", "tcp://localhost:8081", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:70000",
		"tcp://127.0.0.1:8081/", "tcp://127.0.0.1:8081?a", "tcp://u@127.0.0.1:8081", "tcp://[fe80::1%25eth0]:1", "http://127.0.0.1:8081", "npipe:a", " unix:///a",
	} {
		err := (&spiffe.Source{Socket: bad}).Check()
		if err == nil || !strings.Contains(err.Error(), "unix:///PATH or tcp://IP:PORT") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

// Who passes in SPIFFE mode: each bundle vouches for its own trust domain, and
// for X.509-SVIDs alone.
func TestVerifyPeer(t *testing.T) {
	w := newWorld(t)
	w.Set(w.update(t))
	r := run(t, &spiffe.Source{Socket: w.Socket})
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, s := range list {
				u, err := url.Parse(s)
				try(t, err)
				c.URIs = append(c.URIs, u)
			}
		}
	}
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	within := w.ours.Intermediate(t, "within", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.example"} })
	for _, c := range []struct {
		name      string
		ca        *certstest.CA
		change    []func(*x509.Certificate)
		want      string // "" accepted
		federated bool
	}{
		{"ours", w.ours, []func(*x509.Certificate){uris(web)}, "", false},
		{"federated", w.theirs, []func(*x509.Certificate){uris(partner)}, "", true}, // SPI-08: any-peer asks that
		{"SPI-03 ours, of their root", w.theirs, []func(*x509.Certificate){uris(web)}, "unknown authority", false},
		{"SPI-03 theirs, of our root", w.ours, []func(*x509.Certificate){uris(partner)}, "unknown authority", false},
		{"SPI-03 of neither", w.ours, []func(*x509.Certificate){uris("spiffe://third.example/a")}, "no bundle of the trust domain third.example", false},
		{"SPI-01 no URI", w.ours, nil, "not an X.509-SVID: it has 0 URIs", false},
		{"SPI-01 two IDs", w.ours, []func(*x509.Certificate){uris(web, partner)}, "not an X.509-SVID: it has 2 URIs", false},
		{"SPI-01 another URI", w.ours, []func(*x509.Certificate){uris(web, "https://a.example")}, "not an X.509-SVID", false},
		{"SPI-02 no path", w.ours, []func(*x509.Certificate){uris("spiffe://ours.example")}, "not an X.509-SVID", false},
		{"SPI-02 dots", w.ours, []func(*x509.Certificate){uris("spiffe://ours.example/a/../b")}, "not an X.509-SVID", false},
		{"LIB-11 no clientAuth", w.ours, []func(*x509.Certificate){uris(web), serverOnly}, "extended key usage lacks clientAuth", false},
		{"TLS-11 constrained intermediate", within, []func(*x509.Certificate){uris(web)}, "not permitted", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			chain := c.ca.Issue(t, "x", c.change...).Chain(t)
			verified, err := r.VerifyPeer(chain, x509.ExtKeyUsageClientAuth)
			if c.want == "" {
				try(t, err)
				if r.Federated(verified[0]) != c.federated {
					t.Errorf("federated: got %t, want %t", !c.federated, c.federated)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The agent comes up after us, and the pod's entry after the agent.
func TestLoadWaits(t *testing.T) {
	w := newWorld(t)
	w.Stop()
	loaded := make(chan error, 1)
	source := &spiffe.Source{Socket: w.Socket}
	store := &certs.Store{Source: source, Log: slog.New(slog.DiscardHandler)}
	go func() { loaded <- store.Load(t.Context()) }()
	w.Start()
	w.WaitAsked(20 * time.Second)
	w.WaitAsked(20 * time.Second) // it was denied once, and asks again
	w.Set(w.update(t))
	try(t, <-loaded)
	if err := store.Ready(); err != nil {
		t.Error(err)
	}
}

// LIB-08: the start ends at its deadline and says which socket, and what to do;
// what waiting does not mend ends it at once.
func TestLoadGivesUp(t *testing.T) {
	garbage := func(spoil func(*workloadtest.Server, *testing.T)) func(*world, *testing.T) string {
		return func(w *world, t *testing.T) string { spoil(w.Server, t); return w.Socket }
	}
	for _, c := range []struct {
		name   string
		set    func(*world, *testing.T) string
		want   []string
		atOnce bool
	}{
		{"no socket", func(w *world, _ *testing.T) string { w.Stop(); return w.Socket },
			[]string{"no such file or directory", "the socket is missing", "CSI volume csi.spiffe.io is not mounted"}, false},
		{"nobody listens", func(w *world, t *testing.T) string {
			path := w.Path + "2"
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			try(t, err)
			l.SetUnlinkOnClose(false)
			try(t, l.Close())
			return "unix://" + path
		}, []string{"connection refused", "nobody listens: the agent is down"}, false},
		{"no registration entry", func(w *world, _ *testing.T) string { return w.Socket },
			[]string{"no identity issued", "no registration entry that selects this pod"}, false},
		{"an agent that is not ready", func(w *world, _ *testing.T) string {
			w.Fail(status.Error(codes.Internal, "not synced"))
			return w.Socket
		}, []string{"answers Internal: not synced"}, false},
		{"who breaks off", func(_ *world, t *testing.T) string {
			l := certstest.Listen(t, func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1))
				_ = c.(*net.TCPConn).SetLinger(0) // a reset, whose error names a port of ours
				_ = c.Close()
			})
			return "tcp://" + l
		}, []string{"accepts connections and breaks them off"}, false},
		{"who is silent", func(_ *world, t *testing.T) string {
			l := certstest.Listen(t, func(net.Conn) {})
			return "tcp://" + l
		}, []string{"does not answer in time"}, false},
		{"InvalidArgument", func(w *world, _ *testing.T) string { w.Fail(workloadtest.ErrInvalid); return w.Socket },
			[]string{"answers InvalidArgument: the test says so"}, true},
		{"another server", func(_ *world, t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			try(t, err)
			other := grpc.NewServer()
			go func() { _ = other.Serve(l) }()
			t.Cleanup(other.Stop)
			return "tcp://" + l.Addr().String()
		}, []string{"is not the Workload API"}, true},
		{"no SVID", garbage(func(s *workloadtest.Server, t *testing.T) { s.Set(workloadtest.Update{}) }),
			[]string{"sent what can't be used: no SVIDs in response"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket := c.set(newWorld(t), t)
			source := &spiffe.Source{Socket: socket}
			patience := time.Second
			if c.atOnce {
				patience = certstest.HangGuard
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := source.Load(ctx)
			if err == nil {
				t.Fatal("loaded")
			}
			for _, want := range append(c.want, socket) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
			}
			if ended := ctx.Err() != nil; ended == c.atOnce {
				t.Errorf("at the deadline: %t", ended)
			}
			again, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, second := source.Load(again); second == nil || second.Error() != err.Error() {
				t.Errorf("the same failure reads %q and then %q", err, second)
			}
		})
	}
}

// Without a socket the error lists the places, and what to do.
func TestNoSocketAnywhere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := (&spiffe.Source{}).Load(ctx)
	if err == nil {
		t.Skip("there is a Workload API on this machine")
	}
	for _, want := range []string{"unix:///spiffe-workload-api/spire-agent.sock, unix:///", "mount the CSI volume csi.spiffe.io", "set SPIFFE_ENDPOINT_SOCKET"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// LIB-10: one of several SVIDs, and none that fits.
func TestSVID(t *testing.T) {
	w := newWorld(t)
	u := w.update(t)
	other := workloadtest.Issue(t, w.ours, "spiffe://ours.example/other", time.Hour, nil)
	other.Hint = "internal"
	u.SVIDs = append(u.SVIDs, other)
	w.Set(u)
	for svid, want := range map[string]workloadtest.SVID{"": u.SVIDs[0], "internal": other, other.ID(): other, web: u.SVIDs[0]} {
		r := run(t, &spiffe.Source{Socket: w.Socket, SVID: svid})
		if got := r.serial(); got != want.Pair.Leaf.SerialNumber.String() {
			t.Errorf("%q: presents %s, want %s", svid, got, want.ID())
		}
		if list := r.Status().Certificates; list[0].Name != want.ID() || list[1].Use != "client_ca" {
			t.Errorf("%q: more than one SVID is in service: %+v", svid, list)
		}
	}
	_, err := (&spiffe.Source{Socket: w.Socket, SVID: "external"}).Load(t.Context())
	want := `no SVID has the hint or SPIFFE ID "external"; there are spiffe://ours.example/ns/a/sa/web, spiffe://ours.example/other (hint "internal")`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	r := run(t, &spiffe.Source{Socket: w.Socket, SVID: "internal"})
	u.SVIDs = u.SVIDs[:1]
	w.Set(u) // while serving it is an alarm
	r.log.Wait(t, "no SVID has the hint")
	if got := r.serial(); got != other.Pair.Leaf.SerialNumber.String() {
		t.Errorf("serves %s", got)
	}
}

// LIB-09, ROT-03, ROT-04: after each failure the last good SVID serves, there is
// one alarm, and the next good answer is in service without a restart.
func TestWatchGoesOn(t *testing.T) {
	spoiled := func(spoil func(w *world, u *workloadtest.Update, t *testing.T)) func(*world, *testing.T) {
		return func(w *world, t *testing.T) {
			u := w.update(t)
			spoil(w, &u, t)
			w.Set(u)
		}
	}
	for _, c := range []struct {
		name string
		fail func(*world, *testing.T)
		want string
	}{
		{"InvalidArgument", func(w *world, _ *testing.T) { w.Fail(workloadtest.ErrInvalid) }, "answers InvalidArgument"},
		{"Canceled", func(w *world, _ *testing.T) { w.Fail(status.Error(codes.Canceled, "no more")) }, "answers Canceled"},
		{"PermissionDenied", func(w *world, _ *testing.T) { w.Fail(status.Error(codes.PermissionDenied, "no identity issued")) }, "no registration entry"},
		{"agent down", func(w *world, _ *testing.T) { w.Stop() }, "the socket is missing"},
		{"no SVID", spoiled(func(_ *world, u *workloadtest.Update, _ *testing.T) { u.SVIDs = nil }), "no SVIDs in response"},
		{"SVID that ended", spoiled(func(w *world, u *workloadtest.Update, t *testing.T) {
			u.SVIDs[0] = workloadtest.Issue(t, w.ours, web, -time.Second, nil)
		}), "sa/web from unix://"},
		{"ROT-07 SVID that can't serve", spoiled(func(w *world, u *workloadtest.Update, t *testing.T) {
			u.SVIDs[0] = workloadtest.Issue(t, w.ours, web, time.Hour, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })
		}), "lacks serverAuth"},
		{"TLS-07 no CA of ours", spoiled(func(_ *world, u *workloadtest.Update, _ *testing.T) { u.SVIDs[0].Bundle = nil }), "bundle of ours.example from"},
		{"garbled certificate", func(w *world, t *testing.T) {
			r := w.update(t).Response(t)
			r.Svids[0].X509Svid[10] ^= 0xff
			w.Push(r)
		}, "sent what can't be used"},
		{"garbled bundle", func(w *world, t *testing.T) {
			r := w.update(t).Response(t)
			r.FederatedBundles["spiffe://theirs.example"] = []byte("garbage")
			w.Push(r)
		}, "sent what can't be used"},
		{"ROT-01 key of another", func(w *world, t *testing.T) {
			r := w.update(t).Response(t)
			r.Svids[0].X509SvidKey = w.update(t).Response(t).Svids[0].X509SvidKey
			w.Push(r)
		}, "does not match private key"},
		{"garbled key", func(w *world, t *testing.T) {
			r := w.update(t).Response(t)
			r.Svids[0].X509SvidKey = []byte("secret-in-the-wrong-place")
			w.Push(r)
		}, "cannot parse DER encoded private key\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := w.update(t)
			w.Set(first)
			r := run(t, &spiffe.Source{Socket: w.Socket})
			w.WaitAsked(20 * time.Second) // by Load
			w.WaitAsked(20 * time.Second) // by Run
			c.fail(w, t)
			r.waitOK(false)
			r.log.Wait(t, c.want)
			if got := r.serial(); got != first.SVIDs[0].Pair.Leaf.SerialNumber.String() {
				t.Errorf("serves %s", got)
			}
			if err := r.Ready(); err != nil { // OPS-10
				t.Errorf("not ready: %v", err)
			}
			next := w.update(t)
			w.Set(next)
			if c.name == "agent down" {
				w.Start()
			}
			r.waitServed(next.SVIDs[0])
			r.waitOK(true)
			r.log.Wait(t, "reload works again")
			if n := r.log.Count("level=ERROR"); n != 1 {
				t.Errorf("%d alarms, want one\n%s", n, r.log)
			}
			if strings.Contains(r.log.String(), "secret-in") || strings.Contains(r.Status().Err, "secret-in") {
				t.Errorf("a key is in the log\n%s", r.log)
			}
		})
	}
}

// A foreign trust domain writes its own bundle; what is wrong with it must not
// keep our next SVID from being served, and vouches for nobody.
func TestFederatedBundleWithoutCA(t *testing.T) {
	w := newWorld(t)
	leaf := w.theirs.Client(t, "leaf", partner)
	notCA := &certstest.CA{Cert: w.theirs.Issue(t, "no CA", func(c *x509.Certificate) { c.BasicConstraintsValid = true }).Leaf}
	for name, cas := range map[string][]*certstest.CA{"empty": {}, "not a CA": {w.theirs, notCA}} {
		t.Run(name, func(t *testing.T) {
			w.Set(w.update(t))
			r := run(t, &spiffe.Source{Socket: w.Socket})
			if _, err := r.VerifyPeer(leaf.Chain(t), x509.ExtKeyUsageClientAuth); err != nil {
				t.Fatal(err)
			}
			next := w.update(t)
			next.Federated["theirs.example"] = cas
			w.Set(next)
			r.waitServed(next.SVIDs[0])
			if _, err := r.VerifyPeer(leaf.Chain(t), x509.ExtKeyUsageClientAuth); err == nil {
				t.Error("they vouch for somebody")
			}
			r.log.Wait(t, "nobody of that trust domain is let in")
			if list := r.Status().Warnings; len(list) != 1 || !strings.Contains(list[0], "bundle of theirs.example") {
				t.Errorf("warnings: %q", list)
			}
		})
	}
}

// The bundles alone, for a gate whose certificate comes from elsewhere.
func TestTrustOnly(t *testing.T) {
	w := newWorld(t)
	w.Set(w.update(t))
	source := &spiffe.Source{Socket: w.Socket}
	store := &certs.Store{Source: source.TrustOnly(), RefuseExpired: true, Log: slog.New(slog.DiscardHandler)}
	try(t, store.Load(t.Context()))
	if _, err := store.GetCertificate(nil); err == nil {
		t.Error("it presents something")
	}
	for id, ca := range map[string]*certstest.CA{web: w.ours, partner: w.theirs} {
		chain, err := store.VerifyPeer(ca.Client(t, "x", id).Chain(t), x509.ExtKeyUsageClientAuth)
		try(t, err)
		if want := id == partner; store.Federated(chain[0]) != want { // SPI-08: OwnDomain is ours
			t.Errorf("%s: federated %t, want %t", id, !want, want)
		}
	}
	if got := store.Source.String(); got != w.Socket {
		t.Errorf("the source is called %q", got)
	}
}

// ROT-18: updates, loads and handshakes at the same time.
func TestUpdatesUnderLoad(t *testing.T) {
	w := newWorld(t)
	w.Set(w.update(t))
	r := run(t, &spiffe.Source{Socket: w.Socket})
	client := w.theirs.Client(t, "x", partner).Chain(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := r.VerifyPeer(client, x509.ExtKeyUsageClientAuth); err != nil {
					t.Error(err)
					return
				}
				if _, err := r.Source.Load(t.Context()); err != nil {
					t.Error(err)
					return
				}
				r.Status()
			}
		})
	}
	for range 5 {
		next := w.update(t)
		w.Set(next)
		r.waitServed(next.SVIDs[0])
	}
	close(stop)
	all.Wait()
}
