package spiffe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sidegate/certs/files"
)

// usual are the places where the Workload API is mounted: as the documents of
// the SPIFFE CSI driver do, and the folders of SPIRE's Helm chart and of
// older installations. SPIRE's own default below /tmp is not among them:
// whoever has an account there could listen in its stead.
var usual = []string{
	"unix:///spiffe-workload-api/spire-agent.sock",
	"unix:///spiffe-workload-api/socket",
	"unix:///run/spire/agent-sockets/spire-agent.sock",
	"unix:///run/spire/sockets/agent.sock",
}

// Bounds of the connection. The agent is on this node: to look whether it is
// back costs nothing, while each question makes it attest us anew.
const (
	firstPause   = 200 * time.Millisecond
	maxPause     = 5 * time.Second // between two questions
	maxDialPause = time.Second     // between two attempts to connect
	dialTimeout  = 5 * time.Second
)

// address is a socket as net.Dial wants it.
type address struct{ network, address string }

// parseSocket reads the forms of SPIFFE Workload Endpoint, 4. A name instead of
// an IP would let DNS say who we are.
func parseSocket(socket string) (address, error) {
	if u, err := url.Parse(socket); err == nil && strings.HasPrefix(socket, "unix:///") {
		bare := url.URL{Scheme: "unix", Path: u.Path, RawPath: u.RawPath}
		if !strings.HasSuffix(u.Path, "/") && bare.String() == socket { // no query, no fragment
			return address{"unix", u.Path}, nil
		}
	}
	if host, ok := strings.CutPrefix(socket, "tcp://"); ok {
		if a, err := netip.ParseAddrPort(host); err == nil && a.Port() != 0 && a.Addr().Zone() == "" {
			return address{"tcp", host}, nil
		}
	}
	return address{}, errors.New("it is not an address of the Workload API: unix:///PATH or tcp://IP:PORT")
}

// client is go-spiffe's, over connections of ours.
type client struct {
	*workloadapi.Client
	source *Source
	pauses *pauses

	mu   sync.Mutex
	dial error // why the last connection could not be made; nil if it was
}

// connect makes a client, which connects when it is first used.
func (s *Source) connect(ctx context.Context) (*client, error) {
	c := &client{source: s}
	c.pauses = &pauses{client: c}
	socket := s.Socket
	if socket == "" {
		socket = usual[0] // only a form: connectNow looks where it is
	}
	var err error
	c.Client, err = workloadapi.New(ctx,
		workloadapi.WithAddr(socket),
		workloadapi.WithBackoffStrategy(c.pauses),
		workloadapi.WithDialOptions(
			// A dialer of ours also keeps HTTPS_PROXY out, which gRPC heeds.
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.connectNow(ctx) }),
			grpc.WithNoProxy(),
			grpc.WithDisableServiceConfig(),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: maxDialPause},
				MinConnectTimeout: dialTimeout,
			}),
		))
	return c, err
}

// connectNow connects to the socket, or to the first of the usual ones that is
// there. That one stays: another may be somebody else's.
func (c *client) connectNow(ctx context.Context) (net.Conn, error) {
	conn, err := c.tryConnect(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dial = err
	return conn, err
}

var errNowhere = errors.New("no Workload API: no socket is at " + strings.Join(usual, ", ") +
	"; mount the CSI volume csi.spiffe.io at /spiffe-workload-api, or set SPIFFE_ENDPOINT_SOCKET")

func (c *client) tryConnect(ctx context.Context) (net.Conn, error) {
	socket, err := c.source.socket(ctx)
	if err != nil {
		return nil, err
	}
	a, err := parseSocket(socket)
	if err != nil {
		return nil, err
	}
	if a.network == "unix" {
		return files.Dial(ctx, a.address) // its mount may hang
	}
	return new(net.Dialer).DialContext(ctx, a.network, a.address)
}

// socket is the one to use.
func (s *Source) socket(ctx context.Context) (string, error) {
	if s.Socket != "" {
		return s.Socket, nil
	}
	s.mu.Lock()
	found := s.found
	s.mu.Unlock()
	if found != "" {
		return found, nil
	}
	found, err := lookAround(ctx) // not under the lock: a mount may hang
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found == "" {
		s.found = found
	}
	return s.found, err
}

// lookAround finds the first of the usual places where a socket is.
func lookAround(ctx context.Context) (string, error) {
	var hangs error
	for _, place := range usual {
		info, err := files.StatUntil(ctx, strings.TrimPrefix(place, "unix://"))
		switch {
		case err == nil && info.Mode().Type() == fs.ModeSocket:
			return place, nil
		case errors.Is(err, files.ErrHangs):
			hangs = cmp.Or(hangs, err)
		}
	}
	return "", cmp.Or(hangs, errNowhere)
}

func (c *client) dialError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dial
}

// brokeOff reports whether a connection that was made has ended.
func (c *client) brokeOff(err error) bool {
	return status.Code(err) == codes.Unavailable && c.dialError() == nil
}

// mayPass reports whether the same question may get another answer by waiting.
func mayPass(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() != codes.InvalidArgument && st.Code() != codes.Unimplemented
}

// explain says what is wrong and what to do. The same failure reads the same:
// nothing of a connection, which has a port of ours, is quoted.
func (c *client) explain(err error) error {
	st, ok := status.FromError(err)
	switch {
	case !ok:
		return fmt.Errorf("%s sent what can't be used: %s", c.source, withoutKey(err.Error()))
	case st.Code() == codes.Unavailable && c.dialError() != nil:
		return c.explainDial(c.dialError())
	case st.Code() == codes.Unavailable:
		return fmt.Errorf("%s accepts connections and breaks them off; the agent's log may tell why, or it is not the Workload API", c.source)
	case st.Code() == codes.PermissionDenied:
		return fmt.Errorf("%s has no identity for this workload (%.200s): there is no registration entry that selects this pod, or it is not at this node yet", c.source, st.Message())
	case st.Code() == codes.Unimplemented:
		return fmt.Errorf("%s is not the Workload API, though it speaks gRPC (%.200s)", c.source, st.Message())
	}
	return fmt.Errorf("%s answers %s: %.200s", c.source, st.Code(), st.Message())
}

// explainDial says why nobody could be reached.
func (c *client) explainDial(err error) error {
	if errors.Is(err, errNowhere) {
		return err
	}
	hint := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "; the socket is missing: the agent is down, or the CSI volume csi.spiffe.io is not mounted there"
	case errors.Is(err, fs.ErrPermission):
		hint = fmt.Sprintf("; uid %d may not open the socket", os.Getuid())
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "; nobody listens: the agent is down"
	case errors.Is(err, files.ErrHangs):
		err = files.ErrHangs // without the path, which is that of the address
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without it the address is there twice
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return fmt.Errorf("connect to %s: %w%s", c.source, err, hint)
}

// withoutKey cuts the cause off why a key can't be read, which may quote bytes
// of it.
func withoutKey(text string) string {
	const key = "encoded private key"
	if i := strings.Index(text, key); i >= 0 {
		return text[:i+len(key)]
	}
	return text
}

// pauses are those between two attempts of one watch: go-spiffe's, and ours
// where go-spiffe gives up.
type pauses struct {
	client *client
	next   time.Duration
}

// NewBackoff implements workloadapi.BackoffStrategy. It goes on where the last
// watch was.
func (p *pauses) NewBackoff() workloadapi.Backoff { return p }

// Next is the pause to make now; the one after it is twice as long.
func (p *pauses) Next() time.Duration {
	p.next = min(max(2*p.next, firstPause), maxPause)
	if p.client.dialError() != nil {
		return min(p.next, maxDialPause)
	}
	return p.next
}

// Reset is called with each answer.
func (p *pauses) Reset() { p.next = 0 }
