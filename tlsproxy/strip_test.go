package tlsproxy

import (
	"strings"
	"testing"
)

func FuzzStrip(f *testing.F) {
	for _, s := range []string{"X-Forwarded-User", "x_forwarded.user", "X-REMOTE-extra-a", "Accept"} {
		f.Add(s)
	}
	s := newStripper([]*Gate{{Headers: IdentityHeaders{Fields: []IdentityField{{Header: "X-Custom_User"}}}}})
	f.Fuzz(func(t *testing.T, name string) {
		if !isASCII(name) {
			return // net/http refuses such names
		}
		identity, forwarding := s.kind(name)
		folded := fold(name)
		if wantID := s.identity[folded] || hasIdentityPrefix(folded); identity != wantID || forwarding && !s.forwarding[folded] {
			t.Errorf("%q: got %t %t, want %t", name, identity, forwarding, wantID)
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}
