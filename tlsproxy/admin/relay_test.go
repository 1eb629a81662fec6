package admin_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"sidegate/certs/certstest"
	"sidegate/tlsproxy/admin"
)

// relayed serves the probes and returns how to ask for one.
func relayed(t *testing.T, probes map[string]string) func(name string) (status int, body string) {
	t.Helper()
	relays := map[string]*admin.Relay{}
	for name, target := range probes {
		r, err := admin.ParseRelay(target)
		if err != nil {
			t.Fatal(err)
		}
		relays[name] = r
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ok := func() error { return nil }
	s := &admin.Server{Started: ok, Ready: ok, Metrics: admin.NewMetrics("test").Registry, Log: slog.New(slog.DiscardHandler), Probes: relays}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return func(name string) (int, string) {
		t.Helper()
		r, err := http.NewRequest("GET", "http://"+l.Addr().String()+"/probe/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", "kube-probe/1.34")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body strings.Builder
		_ = res.Write(&body)
		return res.StatusCode, body.String()
	}
}

// The kubelet gets the status that it would have got, and nothing else.
func TestRelayHTTP(t *testing.T) {
	var app http.HandlerFunc = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "secret=1")
		switch r.URL.Path {
		case "/ok":
			if r.URL.RawQuery != "a=b" || r.Host != "app.example" || r.Header.Get("X-A") != "b c" || r.UserAgent() != "kube-probe/1.34" {
				w.WriteHeader(http.StatusTeapot)
			}
			_, _ = w.Write([]byte("secret"))
		case "/moved":
			http.Redirect(w, r, "/fails", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			http.Error(w, "secret", http.StatusInternalServerError)
		}
	}
	plain, over := httptest.NewServer(app), httptest.NewTLSServer(app)
	t.Cleanup(plain.Close)
	t.Cleanup(over.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	options := "#timeout=20s&header=" + url.QueryEscape("X-A:b c") + "&header=Host:app.example"
	ask := relayed(t, map[string]string{
		"named": strings.Replace(plain.URL, "127.0.0.1", "localhost", 1) + "/ok?a=b" + options, "named_tcp": strings.Replace(plain.URL, "http://127.0.0.1", "tcp://localhost", 1),
		"beyond": "http://no-such-name.invalid:80/",
		"ok":     plain.URL + "/ok?a=b" + options, "tls": over.URL + "/ok?a=b" + options, "moved": plain.URL + "/moved", "fails": plain.URL + "/fails",
		"slow": plain.URL + "/slow#timeout=50ms", "down": "http://" + closed.Addr().String() + "/",
		"tcp": "tcp://" + plain.Listener.Addr().String(), "tcp_down": "tcp://" + closed.Addr().String(),
	})
	for name, want := range map[string]int{"named": 200, "named_tcp": 200, "beyond": 502, "ok": 200, "tls": 200, "moved": 200, "fails": 500, "slow": 504, "down": 502, "tcp": 200, "tcp_down": 502, "unknown": 404} {
		status, answer := ask(name)
		if status != want || strings.Contains(answer, "secret") {
			t.Errorf("%s: %d, want %d\n%s", name, status, want, answer)
		}
	}
}

func TestRelayGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	state := health.NewServer()
	state.SetServingStatus("good", healthpb.HealthCheckResponse_SERVING)
	state.SetServingStatus("bad", healthpb.HealthCheckResponse_NOT_SERVING)
	app := grpc.NewServer()
	healthpb.RegisterHealthServer(app, state)
	go func() { _ = app.Serve(l) }()
	t.Cleanup(app.Stop)
	to := "grpc://" + l.Addr().String()
	ask := relayed(t, map[string]string{"all": to, "good": to + "/good#timeout=5s", "bad": to + "/bad", "unknown": to + "/unknown"})
	for name, want := range map[string]int{"all": 200, "good": 200, "bad": 503, "unknown": 503} {
		if status, _ := ask(name); status != want {
			t.Errorf("%s: %d, want %d", name, status, want)
		}
	}
}

func TestParseRelay(t *testing.T) {
	for value, want := range map[string]string{
		"127.0.0.1:80":                              "is not a URL",
		"ftp://127.0.0.1:21":                        "begins with none of",
		"http://10.0.0.1:80/":                       "is not a loopback address",
		"http://[::ffff:10.0.0.1]:80/":              "is not a loopback address",
		"http://0.0.0.0:80/":                        "is not a loopback address",
		"http://:80/":                               "is not a loopback address",
		"http://localhost:80/":                      "",
		"grpc://localhost:80/a":                     "",
		"tcp://localhost:80":                        "",
		"http://localhost/":                         "is not a loopback address",
		"http://localhost:0/":                       "is not a loopback address",
		"http://u:p@127.0.0.1:80/":                  "user or password",
		"http://127.0.0.1/":                         "is not a loopback address",
		"tcp://127.0.0.1:80/x":                      "nothing follows the port",
		"http://127.0.0.1:80/#timeout=0s":           "above zero",
		"http://127.0.0.1:80/#timeout=1s&timeout=2": "timeout, once",
		"http://127.0.0.1:80/#tiemout=1s":           "is not one of timeout",
		"http://127.0.0.1:80/#header=X":             "is not NAME:VALUE",
		"http://127.0.0.1:80/#header=X:a%0d%0ab":    "is not NAME:VALUE",
		"http://[::1]:80/#header=X:a":               "",
	} {
		_, err := admin.ParseRelay(value)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
}

// What an application answers to a gRPC probe never panics the relay.
func FuzzRelayGRPC(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 3, 10, 1, 0})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	var answer []byte
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(answer)
		w.Header().Set("Grpc-Status", "0")
	}))
	app.Config.Protocols = new(http.Protocols)
	app.Config.Protocols.SetUnencryptedHTTP2(true)
	app.Start()
	f.Cleanup(app.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		answer = b
		ask := relayed(t, map[string]string{"a": "grpc://" + app.Listener.Addr().String() + "#timeout=" + (5 * time.Second).String()})
		if status, _ := ask("a"); status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Errorf("%x: %d", b, status)
		}
	})
}

// TCP-07: a name is looked up for each probe, and none leaves the pod. The
// application answers at the other addresses too, so that only the look at them
// keeps a probe in.
func TestRelayLooksWhereANameLeads(t *testing.T) {
	n := certstest.StartNames(t)
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	app := &httptest.Server{Listener: &counted{l, asked}, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}}
	app.Start()
	t.Cleanup(app.Close)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ask := relayed(t, map[string]string{"http": "http://app.example:" + port + "/#timeout=20s", "tcp": "tcp://app.example:" + port + "#timeout=20s"})
	for _, c := range []struct {
		addresses []string
		want      int
	}{
		{[]string{"127.0.0.1"}, http.StatusOK},
		{[]string{"0.0.0.0"}, http.StatusBadGateway}, // which Linux takes for this machine
		{[]string{"127.0.0.1", "192.0.2.1"}, http.StatusBadGateway},
		{[]string{"0.0.0.0", "127.0.0.1"}, http.StatusBadGateway},
		{[]string{"127.0.0.1", "169.254.169.254"}, http.StatusBadGateway}, // the metadata of a cloud
		{[]string{"127.0.0.1"}, http.StatusOK},
	} {
		n.Set("app.example", c.addresses...)
		for _, name := range []string{"http", "tcp"} {
			if status, _ := ask(name); status != c.want {
				t.Errorf("%s of %v: %d, want %d", name, c.addresses, status, c.want)
			}
			if c.want == http.StatusOK {
				<-asked
			} else if len(asked) > 0 {
				t.Errorf("%s of %v reached the application", name, c.addresses)
			}
		}
	}
}

// counted tells of each connection that is accepted.
type counted struct {
	net.Listener
	accepted chan struct{}
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.accepted <- struct{}{}
	}
	return conn, err
}
