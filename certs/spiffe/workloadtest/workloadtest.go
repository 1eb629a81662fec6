// Package workloadtest is a SPIFFE Workload API for tests: the real protocol on
// a real socket, with a test at the other side of it.
package workloadtest

import (
	"context"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sidegate/certs/certstest"
)

// SVID is one X.509-SVID of an [Update].
type SVID struct {
	Pair   certstest.Pair
	Hint   string
	Bundle []*certstest.CA // of its trust domain
}

// ID is its SPIFFE ID.
func (v SVID) ID() string { return v.Pair.Leaf.URIs[0].String() }

// Issue signs an SVID as SPIRE does, for both sides of a connection, that also
// holds the DNS name localhost. change may be nil.
func Issue(tb testing.TB, ca *certstest.CA, id string, lifetime time.Duration, change func(*x509.Certificate)) SVID {
	tb.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		tb.Fatal(err)
	}
	pair := ca.Issue(tb, "", func(c *x509.Certificate) {
		c.Subject.Country, c.Subject.Organization = []string{"US"}, []string{"SPIRE"}
		c.URIs, c.DNSNames = []*url.URL{uri}, []string{"localhost"}
		c.NotBefore, c.NotAfter = time.Now().Add(-10*time.Second), time.Now().Add(lifetime)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if change != nil {
			change(c)
		}
	})
	return SVID{Pair: pair, Bundle: []*certstest.CA{ca}}
}

// Update is what the server tells a workload.
type Update struct {
	SVIDs []SVID
	// Federated are the CAs of other trust domains, by domain.
	Federated map[string][]*certstest.CA
}

// Response is the update as it goes over the wire, for tests that spoil it.
func (u Update) Response(tb testing.TB) *workload.X509SVIDResponse {
	tb.Helper()
	r := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for _, v := range u.SVIDs {
		key, err := x509.MarshalPKCS8PrivateKey(v.Pair.TLS.PrivateKey)
		if err != nil {
			tb.Fatal(err)
		}
		m := &workload.X509SVID{SpiffeId: v.ID(), X509SvidKey: key, Hint: v.Hint, Bundle: der(v.Bundle)}
		for _, c := range v.Pair.TLS.Certificate {
			m.X509Svid = append(m.X509Svid, c...)
		}
		r.Svids = append(r.Svids, m)
	}
	for domain, cas := range u.Federated {
		r.FederatedBundles["spiffe://"+domain] = der(cas)
	}
	return r
}

func der(cas []*certstest.CA) []byte {
	var all []byte
	for _, ca := range cas {
		all = append(all, ca.Cert.Raw...)
	}
	return all
}

// Server is an agent. Its methods may be called concurrently.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	Path   string // of the socket
	Socket string // the same as SPIFFE_ENDPOINT_SOCKET has it

	tb   testing.TB
	asks chan struct{} // one for each watch that begins

	mu      sync.Mutex
	grpc    *grpc.Server  // nil: stopped
	served  chan struct{} // closed when it has ended
	answer  *workload.X509SVIDResponse
	err     error         // instead of the answer
	changed chan struct{} // closed at the next answer
}

// New makes an agent that does not run yet and denies everything.
func New(tb testing.TB) *Server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "wl") // a socket's path is short (unix(7)), the test's own folder may not be
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Path: filepath.Join(dir, "agent.sock"), tb: tb, asks: make(chan struct{}, 1000), changed: make(chan struct{})}
	s.Socket = "unix://" + s.Path
	s.Fail(status.Error(codes.PermissionDenied, "no identity issued"))
	tb.Cleanup(s.Stop)
	return s
}

// Start listens, also after Stop.
func (s *Server) Start() {
	s.tb.Helper()
	_ = os.Remove(s.Path) // of an agent that was killed
	l, err := net.Listen("unix", s.Path)
	if err != nil {
		s.tb.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, s)
	served := make(chan struct{})
	s.mu.Lock()
	s.grpc, s.served = server, served
	s.mu.Unlock()
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
}

// Stop ends all connections and takes the socket away, as an agent that ends.
func (s *Server) Stop() {
	s.mu.Lock()
	server, served := s.grpc, s.served
	s.grpc = nil
	s.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served // until then it may still take the socket of the next away
	}
}

// Set tells all workloads the update, now and when they ask.
func (s *Server) Set(u Update) {
	s.tb.Helper()
	s.Push(u.Response(s.tb))
}

// Push tells all workloads what may be garbage.
func (s *Server) Push(r *workload.X509SVIDResponse) { s.put(r, nil) }

// Fail ends all watches with the error, and those that begin later.
func (s *Server) Fail(err error) { s.put(nil, err) }

func (s *Server) put(r *workload.X509SVIDResponse, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.err = r, err
	close(s.changed)
	s.changed = make(chan struct{})
}

// WaitAsked waits until another watch has begun.
func (s *Server) WaitAsked(within time.Duration) {
	s.tb.Helper()
	select {
	case <-s.asks:
	case <-time.After(within):
		s.tb.Fatalf("nobody asked the Workload API within %s", within)
	}
}

// FetchX509SVID implements the Workload API.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := checkHeader(stream.Context()); err != nil {
		return err
	}
	select {
	case s.asks <- struct{}{}:
	default:
	}
	for {
		s.mu.Lock()
		answer, err, changed := s.answer, s.err, s.changed
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// checkHeader wants what keeps a forged request of a browser or another server
// out (SPIFFE Workload Endpoint).
func checkHeader(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

// ErrInvalid is the answer on which go-spiffe's watch ends.
var ErrInvalid = status.Error(codes.InvalidArgument, "the test says so")
