package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
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

// A drain under load loses nothing: the listeners stay open while clients
// hear of it, and what is in flight ends.
func TestDrainCommand(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan bool, 1), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- true
			<-finish
		}
		fmt.Fprint(w, "done")
	}))
	t.Cleanup(app.Close)
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
	p := start(t, app.URL, nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ACCESS_LOG=off", "SIDEGATE_DRAIN_DELAY=1h", "SIDEGATE_DRAIN_TIMEOUT=1h")
	if out, code := p.command("status", "--ready"); code != exitDone || out != "ok\n" {
		t.Errorf("status --ready: %d %q", code, out)
	}
	slow := p.ask(ca, "/slow")
	<-begun
	if out, code := p.command("status"); code != exitDone || !strings.Contains(out, "gate main: "+p.gate) || !strings.Contains(out, "1 connections, 1 requests") ||
		!strings.Contains(out, "certificates: generation") || !strings.Contains(out, "rule: anyone") {
		t.Errorf("status: %d\n%s", code, out)
	}
	l := startLoad(p, ca)
	drained := make(chan int)
	go func() { _, code := p.command("drain"); drained <- code }()
	p.untilDraining()
	l.end(t)                                      // the clients go elsewhere while the listeners are still open
	try(t, p.cmd.Process.Signal(syscall.SIGTERM)) // the drain has had its time
	if code := <-drained; code != exitDone {
		t.Errorf("drain ended with %d", code)
	}
	if c, err := net.Dial("tcp", p.gate); err == nil {
		_ = c.Close()
		t.Error("the listener is open after the drain")
	}
	close(finish)
	if got := <-slow; got != "done" {
		t.Errorf("the request in flight got %q", got)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	p.ended <- nil
	if out, code := p.command("status"); code != exitFailed || !strings.Contains(out, "no sidegate answers") {
		t.Errorf("status of nobody: %d %s", code, out)
	}
}

// command is what a hook or probe in the container runs: its output and exit
// code.
func (p *instance) command(args ...string) (string, int) {
	cmd := exec.Command(p.cmd.Path, args...)
	cmd.Env = []string{"SIDEGATE_ADMIN=" + p.admin, endAtOnce}
	out, _ := cmd.CombinedOutput() // the exit code tells
	return string(out), cmd.ProcessState.ExitCode()
}

// OPS-18: a stranger whom a mesh's proxy delivers from 127.0.0.6 neither drains
// nor sees the status; the pod's own commands do both.
func TestStrangersCantDrain(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), nil))
	_, port, _ := net.SplitHostPort(freeAddr(t))
	p := launch(t, freeAddr(t), hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ADMIN=:"+port)
	p.admin = "127.0.0.1:" + port
	p.untilReady()
	from := func(ip string) *http.Client {
		dial := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext
		return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	}
	status := func(res *http.Response, err error) int {
		try(t, err)
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := status(from("127.0.0.6").Get("http://" + p.admin + "/status")); got != http.StatusForbidden {
		t.Errorf("status for a stranger: %d", got)
	}
	if got := status(from("127.0.0.6").Post("http://"+p.admin+"/drain", "", nil)); got != http.StatusForbidden {
		t.Errorf("drain for a stranger: %d", got)
	}
	if code, text := p.readyz(); code != http.StatusOK {
		t.Errorf("not ready after that: %s", text)
	}
	p.admin = ":" + port // as the commands have it from the pod's env
	if out, code := p.command("status"); code != exitDone || !strings.Contains(out, "gate main") {
		t.Errorf("status: %d %s", code, out)
	}
	if out, code := p.command("drain"); code != exitDone || out != "draining\n" {
		t.Errorf("drain: %d %s", code, out)
	}
}

// The application is gone and nothing is in flight: nobody waits, whether a
// signal or, as with the sidecar of a Job, the preStop hook comes first.
func TestNothingToDrain(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), nil))
	for _, hook := range []bool{false, true} {
		p := start(t, "http://"+freeAddr(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_DRAIN_DELAY=1h")
		if hook {
			if out, code := p.command("drain"); code != exitDone {
				t.Errorf("drain: %d %s", code, out)
			}
		}
		p.stop()
	}
}

// Two signals skip the delay.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_DRAIN_DELAY=1h")
	try(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.untilDraining()
	select {
	case err := <-p.ended:
		t.Errorf("the first signal ended it: %v", err)
		p.ended <- err
	default:
	}
	p.stop()
}

// The second signal counts even if it comes before the program has begun to
// heed the first one. Two of one kind may be merged by the kernel.
func TestSecondSignalRightAfterTheFirst(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost"), nil))
	p := start(t, hello(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_DRAIN_DELAY=1h")
	try(t, p.cmd.Process.Signal(syscall.SIGTERM))
	try(t, p.cmd.Process.Signal(syscall.SIGINT))
	select {
	case err := <-p.ended: // without a third signal, which stop would send
		p.ended <- err
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the second signal was lost")
	}
}

// everyKind is an application whose answers last: /slow takes as long as the
// query says, /ws echoes over WebSocket, gRPC streams echo too.
func everyKind(t *testing.T) string {
	t.Helper()
	calls := grpc.NewServer()
	testpb.RegisterTestServiceServer(calls, grpcApp{})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			calls.ServeHTTP(w, r)
		case r.URL.Path == "/ws":
			echoWebSocket(w, r)
		case r.URL.Path == "/slow":
			takes, err := time.ParseDuration(r.URL.RawQuery)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = http.NewResponseController(w).Flush() // the client sees that it has begun
			select {
			case <-time.After(takes):
				fmt.Fprint(w, "done")
			case <-r.Context().Done():
			}
		}
	}))
	app.Config.Protocols = &protocols
	app.Start()
	t.Cleanup(app.Close)
	return app.URL
}

// clients holds one connection of each kind to a gate.
type clients struct {
	t      *testing.T
	socket *websocket.Conn
	stream grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]
	slow   *http.Response
}

// hold opens them, with the pair where it is not nil. slow is what the answer
// of /slow takes.
func (p *instance) hold(ca *certstest.CA, pair *certstest.Pair, slow time.Duration) *clients {
	p.t.Helper()
	return p.holdAs(ca, pair, "", slow)
}

// holdAs sends what is in authorization too.
func (p *instance) holdAs(ca *certstest.CA, pair *certstest.Pair, authorization string, slow time.Duration) *clients {
	p.t.Helper()
	conf := clientConfig(ca)
	if pair != nil {
		conf.Certificates = append(conf.Certificates, pair.TLS)
	}
	c := &clients{t: p.t}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf.Clone()}}
	var err error
	c.socket, _, err = websocket.Dial(p.t.Context(), "wss://"+p.gate+"/ws", &websocket.DialOptions{HTTPClient: client, HTTPHeader: http.Header{"Authorization": {authorization}}})
	try(p.t, err)
	p.t.Cleanup(func() { _ = c.socket.CloseNow() })
	cc, err := grpc.NewClient(p.gate, grpc.WithTransportCredentials(credentials.NewTLS(conf.Clone())))
	try(p.t, err)
	p.t.Cleanup(func() { _ = cc.Close() })
	ctx := metadata.AppendToOutgoingContext(p.t.Context(), "authorization", authorization)
	c.stream, err = testpb.NewTestServiceClient(cc).FullDuplexCall(ctx)
	try(p.t, err)
	h2 := &http.Client{Transport: &http.Transport{TLSClientConfig: conf.Clone(), ForceAttemptHTTP2: true}}
	c.slow = p.get(h2, "/slow?"+slow.String(), authorization)
	p.t.Cleanup(func() { _ = c.slow.Body.Close() })
	c.talk()
	return c
}

// get is the head of an answer; the test ends if there is none.
func (p *instance) get(c *http.Client, path, authorization string) *http.Response {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "https://"+p.gate+path, nil)
	try(p.t, err)
	r.Header.Set("Authorization", authorization)
	res, err := c.Do(r)
	try(p.t, err)
	return res
}

// talk exchanges a message each over WebSocket and gRPC.
func (c *clients) talk() {
	c.t.Helper()
	try(c.t, c.socket.Write(c.t.Context(), websocket.MessageText, []byte("x")))
	if _, got, err := c.socket.Read(c.t.Context()); err != nil || string(got) != "echo x" {
		c.t.Errorf("WebSocket: %q, %v", got, err)
	}
	try(c.t, c.stream.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte("x")}}))
	if _, err := c.stream.Recv(); err != nil {
		c.t.Errorf("gRPC: %v", err)
	}
}

// OPS-07: whichever way it is told to leave, what is in flight goes on and
// ends as it wants to; a WebSocket that does not end is told at the deadline.
func TestLeavingLosesNothing(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(p *instance) error{
		"SIGTERM": func(p *instance) error { return p.cmd.Process.Signal(syscall.SIGTERM) },
		"drain": func(p *instance) error {
			cmd := exec.Command(p.cmd.Path, "drain")
			cmd.Env = []string{"SIDEGATE_ADMIN=" + p.admin, endAtOnce}
			return cmd.Start() // it returns when the listeners are closed; the test waits for more
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := certstest.NewCA(t, "ca")
			v := certstest.NewVolume(t, certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), nil))
			p := start(t, everyKind(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_ALLOW=anyone", "SIDEGATE_ACCESS_LOG=off",
				"SIDEGATE_DRAIN_DELAY=1h", "SIDEGATE_DRAIN_TIMEOUT=12s")
			l := startLoad(p, ca)
			c := p.hold(ca, nil, 5*time.Second)
			left := time.Now()
			try(t, leave(p))
			p.untilDraining()
			c.talk()
			l.end(t)                                      // the clients go elsewhere while the listeners are still open
			try(t, p.cmd.Process.Signal(syscall.SIGTERM)) // and the delay is over
			p.untilClosed()
			c.talk()
			try(t, c.stream.CloseSend())
			if _, err := c.stream.Recv(); status.Code(err) != codes.DataLoss { // which is how the application ends its streams
				t.Errorf("the gRPC stream ended with %v", err)
			}
			body, err := io.ReadAll(c.slow.Body)
			if err != nil || string(body) != "done" {
				t.Errorf("the slow answer: %q, %v", body, err)
			}
			t.Logf("slow answer after %s", time.Since(left).Round(time.Millisecond))
			_, _, err = c.socket.Read(t.Context())
			if websocket.CloseStatus(err) != websocket.StatusGoingAway {
				t.Errorf("the WebSocket ended with %v", err)
			}
			t.Logf("WebSocket told to go after %s", time.Since(left).Round(time.Millisecond))
			p.stop()
			t.Logf("ended after %s", time.Since(left).Round(time.Millisecond))
			p.log.Wait(t, `"msg":"connections cut","gate":"main","reason":"drain_timeout","connections":1,"upgraded":1`)
		})
	}
}

// untilClosed waits until the gate takes no connections any more.
func (p *instance) untilClosed() {
	p.t.Helper()
	certstest.Until(p.t, "the listener is closed", func() bool { return !listens(p.gate) })
}

// withinASecond is that promise for the race detector's build, which takes a
// multiple of the time to compute.
const withinASecond = 1500 * time.Millisecond

// ROT-13, TLS-19: a revoked peer loses what it holds within a second, each
// protocol told in its own way; another peer talks on.
func TestRevokedPeerLosesWhatItHolds(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t, "ca")
	secret := certstest.Secret(ca.Server(t, "localhost", "127.0.0.1"), ca)
	secret["crl.pem"] = ca.CRL(t, time.Now().Add(time.Hour))
	v := certstest.NewVolume(t, secret)
	p := start(t, everyKind(t), nil, "SIDEGATE_TLS="+v.Dir, "SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer", "SIDEGATE_ACCESS_LOG=off", "SIDEGATE_DRAIN_TIMEOUT=100ms")
	bad, good := ca.Client(t, "bad"), ca.Client(t, "good")
	refused, kept := p.hold(ca, &bad, time.Hour), p.hold(ca, &good, time.Hour)
	secret["crl.pem"] = ca.CRL(t, time.Now().Add(time.Hour), bad.Leaf)
	v.Update(t, secret)
	renamed := certstest.StartStopwatch(t)
	if _, _, err := refused.socket.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the WebSocket ended with %v", err)
	}
	if _, err := refused.stream.Recv(); status.Code(err) == codes.OK || err == io.EOF {
		t.Errorf("the gRPC stream ended with %v", err)
	}
	if _, err := io.ReadAll(refused.slow.Body); err == nil {
		t.Error("the answer under way came to a good end")
	}
	took := renamed.Elapsed()
	t.Logf("all ended %s after the rename", took)
	if took > withinASecond {
		t.Errorf("took %s", took)
	}
	p.log.Wait(t, `"reason":"peer_revoked"`)
	kept.talk()
}
