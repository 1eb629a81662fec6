package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sidegate/certs/certstest"
)

// rotations is 100 for the figure in the README of a release.
var rotations = flag.Int("rotations", 15, "certificates to rotate through under load")

// built makes a folder of programs, once.
func built(args ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "sidegate-test-")
		if err != nil {
			return "", err
		}
		out, err := exec.Command("go", append([]string{"build", "-o", dir + string(filepath.Separator)}, args...)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return dir, err
	})
}

var ourselves = built("-race", ".")

func binary() (string, error) {
	dir, err := ourselves()
	return filepath.Join(dir, "sidegate"), err
}

// endAtOnce keeps the race detector from waiting a second at each end of a
// program, for reports of others that are being written.
const endAtOnce = "GORACE=atexit_sleep_ms=50"

// instance is the built binary at work.
type instance struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   *certstest.Log
	gate  string
	admin string
	ended chan error
}

func try(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	return certstest.FreeAddr(t)
}

// peer skips a test whose real peer is not on this machine, unless it must be.
func peer(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("TEST_PEERS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// start runs sidegate serve before the upstream and waits until it is ready.
// wrap may put the command into another, such as one that takes inotify away.
func start(t *testing.T, upstream string, wrap []string, environ ...string) *instance {
	t.Helper()
	p := launch(t, freeAddr(t), upstream, wrap, environ...)
	p.untilReady()
	return p
}

// launch is start without the wait, with a gate at that address.
func launch(t *testing.T, gate, upstream string, wrap []string, environ ...string) *instance {
	t.Helper()
	p := prepare(t, gate, upstream, wrap, environ...)
	p.begin()
	return p
}

// prepare is launch without the start.
func prepare(t *testing.T, gate, upstream string, wrap []string, environ ...string) *instance {
	t.Helper()
	path, err := binary()
	try(t, err)
	p := &instance{t: t, log: &certstest.Log{}, gate: gate, admin: freeAddr(t), ended: make(chan error, 1)}
	argv := append(append([]string{}, wrap...), path, "serve")
	p.cmd = exec.Command(argv[0], argv[1:]...)
	upstream, options, _ := strings.Cut(upstream, "?")
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), endAtOnce, "SIDEGATE_INGRESS=" + p.gate + "=" + upstream + "?" + options, "SIDEGATE_ADMIN=" + p.admin, "SIDEGATE_DRAIN_DELAY=20ms"}, environ...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	return p
}

func (p *instance) begin() {
	p.t.Helper()
	try(p.t, p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	p.t.Cleanup(p.stop)
}

func (p *instance) untilReady() {
	p.t.Helper()
	for guard := time.Now().Add(certstest.HangGuard); ; {
		res, err := http.Get("http://" + p.admin + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(guard) {
			p.t.Fatalf("it is not ready\n%s", p.log)
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			p.t.Fatalf("ended: %v\n%s", err, p.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the program as a pod's end does, and wants exit code 0.
func (p *instance) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			p.t.Errorf("ended with %v\n%s", err, p.log)
		}
		p.ended <- nil
	case <-time.After(certstest.HangGuard):
		_ = p.cmd.Process.Kill()
		p.t.Errorf("did not end\n%s", p.log)
	}
	if strings.Contains(p.log.String(), "DATA RACE") {
		p.t.Errorf("race:\n%s", p.log)
	}
}

// ask makes a request in the background; the channel gets its answer's body,
// or why there is none.
func (p *instance) ask(ca *certstest.CA, path string) <-chan string {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca)}}
	answer := make(chan string)
	go func() {
		res, err := client.Get("https://" + p.gate + path)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	return answer
}

// untilDraining waits until readiness tells that it leaves.
func (p *instance) untilDraining() {
	p.t.Helper()
	for {
		if code, text := p.readyz(); code == http.StatusServiceUnavailable && strings.Contains(text, "draining") {
			return
		}
	}
}

// readyz is the answer and its text.
func (p *instance) readyz() (int, string) {
	p.t.Helper()
	res, err := http.Get("http://" + p.admin + "/readyz")
	try(p.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	try(p.t, err)
	return res.StatusCode, string(b)
}

func (p *instance) metrics() string {
	p.t.Helper()
	res, err := http.Get("http://" + p.admin + "/metrics")
	try(p.t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	try(p.t, err)
	return string(b)
}

func hello(t *testing.T) string {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s\n", r.Header.Get("X-Forwarded-User"))
	}))
	t.Cleanup(app.Close)
	return app.URL
}

// listens reports whether somebody takes connections there.
func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// folder puts contents into a new one.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		try(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

// A legacy application, users made by Apache's htpasswd, certificates as in a
// TLS Secret, and curl over both protocols.
func TestPeersCurl(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"curl", "htpasswd", "python3"} {
		peer(t, name)
	}
	site := folder(t, map[string][]byte{"page": []byte("legacy page\n")})
	appAddr := freeAddr(t)
	_, port, _ := strings.Cut(appAddr, ":")
	app := exec.Command("python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", site, port)
	try(t, app.Start())
	t.Cleanup(func() { _ = app.Process.Kill(); _ = app.Wait() })
	certstest.Until(t, "the application listens", func() bool { return listens(appAddr) })
	users := t.TempDir()
	for _, argv := range [][]string{{"-cbm", "", "old", "s3cret"}, {"-bB", "", "new", "s3cret"}} {
		argv[1] = filepath.Join(users, "htpasswd")
		out, err := exec.Command("htpasswd", argv...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ca := certstest.NewCA(t, "ca")
	client, stranger := ca.Client(t, "x", "spiffe://td.example/x"), certstest.NewCA(t, "other").Client(t, "x")
	secret := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), ca))
	keys := folder(t, map[string][]byte{"ca.crt": ca.PEM(), "good.crt": client.Cert, "good.key": client.Key, "bad.crt": stranger.Cert, "bad.key": stranger.Key})
	cert := func(name string) []string {
		return []string{"--cert", filepath.Join(keys, name+".crt"), "--key", filepath.Join(keys, name+".key")}
	}
	// curl returns the status, or its exit code's text when there is none.
	curl := func(p *instance, args ...string) string {
		args = append([]string{"-s", "-o", "/dev/null", "-w", "%{http_code} HTTP/%{http_version}", "--cacert", filepath.Join(keys, "ca.crt"), "https://" + p.gate + "/page"}, args...)
		out, err := exec.Command("curl", args...).Output()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	type row struct {
		name string
		args []string
		want string
	}
	run := func(mode string, environ []string, rows ...row) {
		t.Run(mode, func(t *testing.T) {
			p := start(t, "http://"+appAddr, nil, append(environ, "SIDEGATE_TLS="+secret.Dir, "SIDEGATE_CLIENT_CERT="+mode)...)
			for _, r := range rows {
				if got := curl(p, r.args...); !strings.HasPrefix(got, r.want) {
					t.Errorf("%s: got %q, want %q\n%s", r.name, got, r.want, p.log)
				}
			}
		})
	}
	withUsers := []string{"SIDEGATE_USERS=" + users}
	run("none", withUsers,
		row{"no credentials", nil, "401 HTTP/2"},
		row{"apr1 over h2", []string{"-u", "old:s3cret"}, "200 HTTP/2"},
		row{"apr1 over h1", []string{"--http1.1", "-u", "old:s3cret"}, "200 HTTP/1.1"},
		row{"bcrypt", []string{"-u", "new:s3cret"}, "200 HTTP/2"},
		row{"TLS 1.2", []string{"--tls-max", "1.2", "-u", "new:s3cret"}, "200 HTTP/2"},
		row{"wrong", []string{"-u", "new:S3cret"}, "401 HTTP/2"},
	)
	run("require", withUsers,
		row{"password alone", []string{"-u", "new:s3cret"}, "exit status"},
		row{"certificate alone", cert("good"), "401"},
		row{"both", append(cert("good"), "-u", "new:s3cret"), "200"},
		row{"stranger", append(cert("bad"), "-u", "new:s3cret"), "exit status"},
	)
	run("optional", append([]string{"SIDEGATE_ALLOW=authenticated,spiffe://td.example/*"}, withUsers...),
		row{"nothing", nil, "401"},
		row{"password", []string{"-u", "new:s3cret"}, "200"},
		row{"certificate", cert("good"), "200"},
		row{"stranger", append(cert("bad"), "-u", "new:s3cret"), "exit status"},
	)
}

func clientConfig(ca *certstest.CA) *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}
}

// echoWebSocket is an application that answers each message.
func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	for {
		kind, data, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, append([]byte("echo "), data...)); err != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(echoWebSocket))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, app.URL, nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientConfig(ca)}}
	dial := func(h http.Header) (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(t.Context(), "wss://"+p.gate+"/", &websocket.DialOptions{HTTPClient: client, HTTPHeader: h})
	}
	if _, res, err := dial(nil); err == nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("without credentials: %v", err)
	}
	c, _, err := dial(http.Header{"Authorization": {adminBasic}})
	try(t, err)
	defer c.CloseNow()
	for _, message := range []string{"one", strings.Repeat("x", 20000)} {
		try(t, c.Write(t.Context(), websocket.MessageText, []byte(message)))
		if _, got, err := c.Read(t.Context()); err != nil || string(got) != "echo "+message {
			t.Errorf("got %.40q, %v", got, err)
		}
	}
	try(t, c.Close(websocket.StatusNormalClosure, ""))
	p.log.Wait(t, `"status":101`)
}

const adminBasic = "Basic YWRtaW46YWRtaW4xMDQx" // admin:admin1041

// usersFolder holds admin with password admin1041.
func usersFolder(t *testing.T) string {
	t.Helper()
	return folder(t, map[string][]byte{"htpasswd": entry(t, "admin", "admin1041")})
}

// grpcApp answers unary and bidirectional calls.
type grpcApp struct {
	testpb.UnimplementedTestServiceServer
}

func (grpcApp) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &testpb.SimpleResponse{Username: strings.Join(md.Get("x-forwarded-user"), ",")}, grpc.SetTrailer(ctx, metadata.Pairs("sum", "42"))
}

func (grpcApp) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.DataLoss, "the end")
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: r.Payload}); err != nil {
			return err
		}
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	try(t, err)
	app := grpc.NewServer()
	testpb.RegisterTestServiceServer(app, grpcApp{})
	go func() { _ = app.Serve(l) }()
	t.Cleanup(app.Stop)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	for _, scheme := range []string{"http", "h2c"} { // gRPC goes h2c on either
		t.Run(scheme, func(t *testing.T) {
			p := start(t, scheme+"://"+l.Addr().String(), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t))
			cc, err := grpc.NewClient(p.gate, grpc.WithTransportCredentials(credentials.NewTLS(clientConfig(ca))))
			try(t, err)
			defer cc.Close()
			client := testpb.NewTestServiceClient(cc)
			if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("without credentials: %v", err)
			}
			ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", adminBasic)
			var trailer metadata.MD
			got, err := client.UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.Trailer(&trailer))
			if err != nil || got.Username != "admin" || strings.Join(trailer.Get("sum"), "") != "42" {
				t.Errorf("unary: %v %v, trailer %v", got, err, trailer)
			}
			stream, err := client.FullDuplexCall(ctx)
			try(t, err)
			for i := range 5 { // each answer comes before the next question
				body := []byte{byte(i)}
				try(t, stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: body}}))
				r, err := stream.Recv()
				if err != nil || !bytes.Equal(r.Payload.Body, body) {
					t.Fatalf("message %d: %v %v", i, r, err)
				}
			}
			try(t, stream.CloseSend())
			if _, err := stream.Recv(); status.Code(err) != codes.DataLoss {
				t.Errorf("end: %v", err)
			}
		})
	}
}

// load sends requests over kept and new connections until it is stopped, and
// counts those that fail.
type load struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	ok     atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[error]
}

func startLoad(p *instance, ca *certstest.CA) *load { return startLoadAs(p, clientConfig(ca)) }

func startLoadAs(p *instance, conf *tls.Config) *load {
	l := &load{stop: make(chan struct{})}
	for i := range 6 {
		tr := &http.Transport{TLSClientConfig: conf.Clone(), DisableKeepAlives: i%2 == 0, ForceAttemptHTTP2: i%3 == 0}
		client := &http.Client{Transport: tr, Timeout: certstest.HangGuard}
		l.wg.Go(func() {
			defer tr.CloseIdleConnections()
			for {
				select {
				case <-l.stop:
					return
				default:
					l.one(client, "https://"+p.gate+"/")
				}
			}
		})
	}
	return l
}

func (l *load) one(client *http.Client, url string) {
	r, _ := http.NewRequest("GET", url, nil)
	r.Header.Set("Authorization", adminBasic)
	res, err := client.Do(r)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", res.StatusCode)
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, &err)
		return
	}
	l.ok.Add(1)
}

// end wants that nothing failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	if l.failed.Load() > 0 || l.ok.Load() == 0 {
		t.Errorf("%d requests failed, %d did not; first: %v", l.failed.Load(), l.ok.Load(), *l.first.Load())
	}
	t.Logf("%d requests, none failed", l.ok.Load())
}

// presented is the serial of the certificate in a new handshake.
func presented(t *testing.T, addr string, ca *certstest.CA) string {
	t.Helper()
	c, err := tls.Dial("tcp", addr, clientConfig(ca))
	try(t, err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// ROT-12, and the promise of the README: rotations under load lose nothing
// and are served within a second. The fastest one judges: the others may have
// waited for a busy machine, and polling instead of events would slow down all.
func TestRotationUnderLoad(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), ca))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off")
	l := startLoad(p, ca)
	var took []time.Duration
	for range *rotations {
		next := ca.Server(t, "localhost", "127.0.0.1")
		v.Update(t, certstest.Secret(next, ca))
		began := time.Now()
		certstest.Until(t, "the next certificate is served", func() bool { return presented(t, p.gate, ca) == next.Leaf.SerialNumber.String() })
		took = append(took, time.Since(began))
	}
	l.end(t)
	slices.Sort(took)
	t.Logf("%d rotations: fastest %s, median %s, slowest %s from the rename to the handshake", len(took), took[0], took[len(took)/2], took[len(took)-1])
	if took[0] > time.Second {
		t.Errorf("not served within a second\n%s", p.log)
	}
}

// ROT-01, ROT-03, ROT-04: a torn pair and then garbage under load.
func TestBrokenSecretUnderLoad(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	good, next := ca.Server(t, "localhost", "127.0.0.1"), ca.Server(t, "localhost", "127.0.0.1")
	dir := folder(t, certstest.Secret(good, nil)) // plain files, which can be torn
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+dir, "SIDEGATE_USERS="+usersFolder(t), "SIDEGATE_ACCESS_LOG=off")
	l := startLoad(p, ca)
	try(t, os.WriteFile(filepath.Join(dir, "tls.crt"), next.Cert, 0o600))
	p.log.Wait(t, "does not belong to the certificate")
	time.Sleep(2 * time.Second) // it stays torn for long: this is the situation, not a wait
	if got := presented(t, p.gate, ca); got != good.Leaf.SerialNumber.String() {
		t.Errorf("a torn pair is served: %s", got)
	}
	if !strings.Contains(p.metrics(), `sidegate_last_reload_successful{what="certificates"} 0`) {
		t.Error("the metric does not tell")
	}
	try(t, os.WriteFile(filepath.Join(dir, "tls.key"), next.Key, 0o600))
	p.log.Wait(t, "reload works again")
	if got := presented(t, p.gate, ca); got != next.Leaf.SerialNumber.String() {
		t.Errorf("the whole pair is not served: %s", got)
	}
	try(t, os.WriteFile(filepath.Join(dir, "tls.crt"), []byte("garbage"), 0o600))
	p.log.Wait(t, "holds no CERTIFICATE block")
	l.end(t)
	if n := strings.Count(p.log.String(), "does not belong"); n != 1 {
		t.Errorf("%d lines about one failure", n)
	}
	metrics := p.metrics()
	for _, want := range []string{`sidegate_last_reload_successful{what="certificates"} 0`, `sidegate_last_reload_successful{what="users"} 1`, `sidegate_generation_info{`, `sidegate_certificate_not_after_timestamp_seconds{`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// ROT-11: without inotify, in a user namespace of its own that has none, a
// change is served within the poll floor, and a warning says so.
func TestWithoutInotify(t *testing.T) {
	peer(t, "unshare")
	wrap := []string{"unshare", "-Ur", "sh", "-c", `echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"`, "sh"}
	if out, err := exec.Command(wrap[0], append(wrap[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("user namespaces are not allowed here: %v %s", err, out)
	}
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, hello(t), wrap, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone")
	p.log.Wait(t, "no file events, polling instead")
	next := ca.Server(t, "localhost", "127.0.0.1")
	v.Update(t, certstest.Secret(next, nil))
	p.log.Wait(t, fmt.Sprintf(`"serial":"%x"`, next.Leaf.SerialNumber))
	if got := presented(t, p.gate, ca); got != next.Leaf.SerialNumber.String() {
		t.Errorf("serves %s", got)
	}
}

// SIGHUP reloads; readiness tells a drain; a request in flight ends; exit 0.
func TestSignals(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan bool, 1), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- true
		<-finish
		fmt.Fprint(w, "done")
	}))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, app.URL, nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_POD=pod-1", "SIDEGATE_CONTAINER=gate")
	try(t, p.cmd.Process.Signal(syscall.SIGHUP))
	answer := p.ask(ca, "/")
	<-begun
	try(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.untilDraining()
	close(finish)
	if got := <-answer; got != "done" {
		t.Errorf("the request in flight got %q", got)
	}
	p.stop()
	if !strings.Contains(p.log.String(), `"pod":"pod-1","container":"gate"`) {
		t.Errorf("log:\n%s", p.log)
	}
}

// The demo's curl lines do what they say.
func TestDemo(t *testing.T) {
	peer(t, "curl")
	path, err := binary()
	try(t, err)
	taken, err := net.Listen("tcp", "127.0.0.1:8443") // if it is free, the demo must choose another
	if err == nil {
		defer taken.Close()
	}
	tmp := t.TempDir()
	log := &certstest.Log{}
	cmd := exec.Command(path, "demo")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp, endAtOnce}
	cmd.Stdout, cmd.Stderr = log, log
	try(t, cmd.Start())
	log.Wait(t, "gate open")
	var got []string
	for _, line := range regexp.MustCompile(`(?m)^  curl .*$`).FindAllString(log.String(), -1) {
		out, err := exec.Command("sh", "-c", strings.Replace(line, "curl", "curl -s", 1)).Output()
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		got = append(got, strings.TrimSpace(first))
	}
	want := []string{"HTTP/2 401", "HTTP/2 200", "HTTP/2 200", "HTTP/1.1 200 OK", "# HELP"}
	if len(got) != len(want) {
		t.Fatalf("curl lines gave %q\n%s", got, log)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d gave %q, want %q", i+1, got[i], want[i])
		}
	}
	if !strings.Contains(log.String(), "port 8443 is taken, using 127.0.0.1:") {
		t.Errorf("nothing about the port:\n%s", log)
	}
	try(t, cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v\n%s", err, log)
	}
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
