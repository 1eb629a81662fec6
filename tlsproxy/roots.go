package tlsproxy

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"
)

// roots notes by which CAs the peers of a gate are believed, so that one sees
// when an old CA can go.
type roots struct {
	mu  sync.Mutex
	use map[string]*RootStatus // by the certificate's DER
}

// RootStatus is a CA that peers of a gate chained to since the start.
type RootStatus struct {
	CA       string    `json:"ca"`        // subject, RFC 4514
	Serial   string    `json:"serial"`    // lower-case hexadecimal
	Live     int       `json:"live"`      // connections now
	LastSeen time.Time `json:"last_seen"` // when the last of them ended; now, while there are any
}

// enter counts a connection whose peer is believed by root.
func (r *roots) enter(root *x509.Certificate) *RootStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.use == nil {
		r.use = map[string]*RootStatus{}
	}
	s := r.use[string(root.Raw)]
	if s == nil {
		s = &RootStatus{CA: root.Subject.String(), Serial: fmt.Sprintf("%x", root.SerialNumber)}
		r.use[string(root.Raw)] = s
	}
	s.Live++
	return s
}

// leave is the opposite.
func (r *roots) leave(s *RootStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Live--
	s.LastSeen = time.Now()
}

// status is a copy, in the order of the names.
func (r *roots) status() []RootStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []RootStatus
	for _, s := range r.use {
		c := *s
		if c.Live > 0 {
			c.LastSeen = time.Now()
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b RootStatus) int { return cmp.Or(cmp.Compare(a.CA, b.CA), cmp.Compare(a.Serial, b.Serial)) })
	return list
}
