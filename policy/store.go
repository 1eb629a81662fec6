package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Store is a policy file that is read again when it changes. The exported
// fields are set before the first Load; Decide needs one that succeeded.
type Store struct {
	File string // its name in errors
	Read func() ([]byte, error)
	Surroundings
	Log *slog.Logger

	current atomic.Pointer[Policy]
	id      string // of current; Load's own
	notice  Notice
}

// Load reads the file and puts it in service. It returns the id of what is in
// service. After an error that is what was before. It is one caller's at a time.
func (s *Store) Load(context.Context) (string, error) {
	text, err := s.Read()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	id := hex.EncodeToString(sum[:6])
	if id == s.id {
		return id, nil
	}
	p, err := Parse(s.File, text, s.Surroundings)
	if err != nil {
		return "", err
	}
	s.current.Store(p)
	s.Log.Info("policy in service", "generation", id, "rules", len(p.rules))
	if s.id != "" { // at the start whoever loads tells them all
		for _, w := range p.warnings {
			s.Log.Warn("policy", "warning", w)
		}
	}
	s.id = id
	s.notice.Tell()
	return id, nil
}

// Policy is what is in service, nil before the first Load that succeeded.
func (s *Store) Policy() *Policy { return s.current.Load() }

// Decide is that of the policy in service.
func (s *Store) Decide(ctx context.Context, r *Request, id Identity) Decision {
	return s.current.Load().Decide(ctx, r, id)
}

// Changed is closed when another policy is in service.
func (s *Store) Changed() <-chan struct{} { return s.notice.Changed() }

// Notice tells everybody who wants to know that something has changed. The
// zero value is ready.
type Notice struct {
	mu      sync.Mutex
	changed chan struct{}
}

// Changed is closed by the next Tell. Take it before looking at what may
// change, so that no change is missed.
func (n *Notice) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed
}

// Tell says that something has changed.
func (n *Notice) Tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}
