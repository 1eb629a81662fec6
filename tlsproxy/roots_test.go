package tlsproxy

import (
	"testing"

	"sidegate/certs/certstest"
)

// During the rotation of a CA one sees which of the two is still needed.
func TestRoots(t *testing.T) {
	old, new := certstest.NewCA(t, "CA"), certstest.NewCA(t, "CA")
	var r roots
	a, b := r.enter(old.Cert), r.enter(old.Cert)
	r.enter(new.Cert)
	r.leave(a)
	live := func() map[string]int {
		m := map[string]int{}
		for _, s := range r.status() {
			if s.CA != "CN=CA" || s.LastSeen.IsZero() {
				t.Errorf("got %+v", s)
			}
			m[s.Serial] = s.Live
		}
		return m
	}
	if m := live(); len(m) != 2 || m[a.Serial] != 1 {
		t.Errorf("got %v", m)
	}
	r.leave(b)
	if m := live(); len(m) != 2 || m[a.Serial] != 0 {
		t.Errorf("got %v", m)
	}
}
