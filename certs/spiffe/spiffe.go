package spiffe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sidegate/certs"
)

// Source keeps what the Workload API last said. Its fields are set before the
// first call; its methods may then be called concurrently.
type Source struct {
	// Socket is where the Workload API listens, unix:///PATH or
	// tcp://IP:PORT. "": the usual places are tried.
	Socket string
	// SVID is the hint or SPIFFE ID of the SVID to present. "": the first.
	SVID string
	// Log gets what is no failure yet, at debug level. It is set before Run.
	Log *slog.Logger

	mu      sync.Mutex
	found   string                   // the usual place where a socket was; "" before
	latest  *workloadapi.X509Context // nil before the first good answer
	err     error                    // why the last answer is of no use; nil if it is
	waiting []chan struct{}          // of Subscribe
}

// Check reports what is wrong with the fields, without the network.
func (s *Source) Check() error {
	if s.Socket == "" {
		return nil
	}
	_, err := parseSocket(s.Socket)
	return err
}

// Load implements [certs.Source]: the SVID to present, and the bundles. Before
// the Workload API has said anything it is asked until ctx ends, as it may
// come up after us, and the entry of a new pod with it. An answer that waiting
// does not mend is an error at once.
func (s *Source) Load(ctx context.Context) (*certs.Material, error) { return s.load(ctx, true) }

// TrustOnly is the source of the bundles alone, for a gate that presents
// another certificate. It shares what s knows.
func (s *Source) TrustOnly() certs.Source { return trustOnly{s} }

type trustOnly struct{ *Source }

// Load is that of the source, without the SVID.
func (t trustOnly) Load(ctx context.Context) (*certs.Material, error) { return t.load(ctx, false) }

// String names the Workload API's socket.
func (s *Source) String() string {
	if s.Socket != "" {
		return s.Socket
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found != "" {
		return s.found
	}
	return "the Workload API"
}

// Subscribe returns a channel that holds a signal while Load may say something
// else than at the last receive.
func (s *Source) Subscribe() <-chan struct{} {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, c)
	return c
}

// learn keeps what the Workload API said, or why that is of no use, and
// signals it.
func (s *Source) learn(x *workloadapi.X509Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.latest = x
	}
	for _, c := range s.waiting {
		select {
		case c <- struct{}{}:
		default: // it holds one already
		}
	}
}

// Run watches the Workload API until ctx ends. It returns nil.
func (s *Source) Run(ctx context.Context) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	w := &watcher{ctx: ctx, source: s, client: c}
	for ctx.Err() == nil {
		// It ends for good on InvalidArgument and Canceled, whoever says so.
		_ = c.WatchX509Context(ctx, w)
		pause(ctx, c.pauses.Next())
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// watcher hears what go-spiffe's client hears. It is never called twice at a
// time.
type watcher struct {
	ctx    context.Context
	source *Source
	client *client
	broken bool // the stream broke off, and has not brought anything since
}

func (w *watcher) OnX509ContextUpdate(x *workloadapi.X509Context) {
	w.broken = false
	w.source.learn(x, nil)
}

// OnX509ContextWatchError is told of garbage, too. That a stream breaks off is
// no failure yet: the agent may have been replaced, and the next attempt tells.
func (w *watcher) OnX509ContextWatchError(err error) {
	if w.ctx.Err() != nil {
		return
	}
	first := !w.broken
	if w.broken = w.client.brokeOff(err); w.broken && first {
		w.source.Log.Debug("connection to the Workload API ended", "source", w.source.String())
		return
	}
	w.source.learn(nil, w.client.explain(err))
}

// load makes the material of what is known, presenting the SVID or not.
func (s *Source) load(ctx context.Context, present bool) (*certs.Material, error) {
	x, err := s.context(ctx)
	if err != nil {
		return nil, err
	}
	in, err := s.input(x, present)
	if err != nil {
		return nil, err
	}
	return certs.NewMaterial(in)
}

// context is what the Workload API last said, or says now if that is nothing.
func (s *Source) context(ctx context.Context) (*workloadapi.X509Context, error) {
	s.mu.Lock()
	x, err := s.latest, s.err
	s.mu.Unlock()
	if x != nil || err != nil {
		return x, err
	}
	if x, err = s.fetch(ctx); err != nil {
		return nil, err // not learned: before Run, the next call asks again
	}
	s.learn(x, nil)
	return x, nil
}

// fetch asks until there is an answer, ctx ends or waiting would not help.
func (s *Source) fetch(ctx context.Context) (*workloadapi.X509Context, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	why := fmt.Errorf("%s does not answer in time", s)
	for ctx.Err() == nil {
		x, err := c.FetchX509Context(ctx)
		if err == nil {
			return x, nil
		}
		if ctx.Err() == nil && status.Code(err) != codes.DeadlineExceeded { // that says no more than that time is up
			why = c.explain(err)
			if !mayPass(err) {
				return nil, why
			}
		}
		pause(ctx, c.pauses.Next())
	}
	return nil, why
}

// input is what there is to present and whom to trust. The bundles stand each
// for its own trust domain, so that none vouches for another.
func (s *Source) input(x *workloadapi.X509Context, present bool) (certs.Input, error) {
	svid, err := s.choose(x.SVIDs)
	if err != nil {
		return certs.Input{}, err
	}
	own := svid.ID.TrustDomain()
	if !x.Bundles.Has(own) {
		return certs.Input{}, fmt.Errorf("%s gave the SVID %s without a bundle of its trust domain", s, svid.ID)
	}
	in := certs.Input{OwnDomain: own.Name(), Domains: map[string]certs.File{}}
	for _, b := range x.Bundles.Bundles() {
		domain := b.TrustDomain()
		if domain != own && !vouches(b) {
			in.Warnings = append(in.Warnings, fmt.Sprintf("the bundle of %s has no CA, or what is none: nobody of that trust domain is let in", domain.Name()))
			continue
		}
		pem, err := b.Marshal()
		if err != nil {
			return certs.Input{}, fmt.Errorf("bundle of %s: %w", domain.Name(), err)
		}
		in.Domains[domain.Name()] = certs.File{Name: fmt.Sprintf("bundle of %s from %s", domain.Name(), s), Data: pem}
	}
	if !present {
		return in, nil
	}
	cert, key, err := svid.Marshal()
	if err != nil {
		return certs.Input{}, fmt.Errorf("SVID %s can't be encoded", svid.ID) // the cause may quote key bytes
	}
	name := fmt.Sprintf("SVID %s from %s", svid.ID, s)
	in.Pairs = []certs.PairInput{{
		Name: svid.ID.String(),
		Cert: certs.File{Name: name, Data: cert},
		Key:  certs.File{Name: "the key of " + name, Data: key},
	}}
	return in, nil
}

// vouches reports whether NewMaterial would take the bundle. A federated trust
// domain writes its own, and must not hold up our next SVID with it.
func vouches(b *x509bundle.Bundle) bool {
	cas := b.X509Authorities()
	for _, c := range cas {
		if c.BasicConstraintsValid && !c.IsCA {
			return false
		}
	}
	return len(cas) > 0
}

// choose returns the SVID that s.SVID names, or the default one (SPIFFE
// Workload API, 5.3). Of several with the same hint go-spiffe has left the
// first, as the specification says.
func (s *Source) choose(list []*x509svid.SVID) (*x509svid.SVID, error) {
	if len(list) == 0 {
		return nil, errors.New("the Workload API gave no SVID")
	}
	if s.SVID == "" {
		return list[0], nil
	}
	var there []string
	for _, v := range list {
		if v.ID.String() == s.SVID || v.Hint == s.SVID {
			return v, nil
		}
		text := v.ID.String()
		if v.Hint != "" {
			text += fmt.Sprintf(" (hint %q)", v.Hint)
		}
		there = append(there, text)
	}
	slices.Sort(there) // the same choice is the same error
	return nil, fmt.Errorf("no SVID has the hint or SPIFFE ID %q; there are %s", s.SVID, strings.Join(there, ", "))
}
