package tlsproxy

import (
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// foldPlainly is what appendFolded does, said in another way.
func foldPlainly(name string) string {
	return strings.ToLower(regexp.MustCompile(`[^A-Za-z0-9]`).ReplaceAllString(name, ""))
}

// HDR-15: whatever a name looks like, it is compared by its letters and digits.
func FuzzStrip(f *testing.F) {
	for _, s := range []string{
		"X-Forwarded-User", "x_forwarded.user", "X~Forwarded!User", "X-REMOTE-extra-a", "Accept", "XForwardedUser", "-", "", "X--Remote--User-",
		"X-Ms-Token-" + strings.Repeat("a", 300), strings.Repeat("x-", 200), "X-Custom-Name-\xff\x80",
	} {
		f.Add(s)
	}
	s := newStripper([]*Gate{{Headers: IdentityHeaders{Fields: []IdentityField{{Header: "X-Custom-" + strings.Repeat("Long-", 30)}}}}})
	families := slices.Concat(s.families[:]...)
	f.Fuzz(func(t *testing.T, name string) {
		folded := foldPlainly(name)
		want := s.names[folded].class
		if want == ordinary && slices.ContainsFunc(families, func(p string) bool { return strings.HasPrefix(folded, p) }) {
			want = identity
		}
		if got := s.find(name).class; got != want {
			t.Errorf("%q: got class %d, want %d", name, got, want)
		}
	})
}

// A name stands on one list, and no family takes what another list says.
func TestListsDoNotOverlap(t *testing.T) {
	seen := map[string]string{}
	for _, list := range [][]string{requestNames, forwardingNames, addressNames, routingNames, identityNames, identityFamilies} {
		for _, name := range list {
			folded := foldPlainly(name)
			if other, taken := seen[folded]; taken {
				t.Errorf("%s and %s are one", name, other)
			}
			seen[folded] = name
		}
	}
	for _, family := range identityFamilies {
		for folded, name := range seen {
			if name != family && strings.HasPrefix(folded, foldPlainly(family)) {
				t.Errorf("%s is of the family %s", name, family)
			}
		}
	}
}

// No name costs an allocation, not even one that is longer than any listed.
func TestStripAllocatesNothing(t *testing.T) {
	s := newStripper(nil)
	h := http.Header{"Accept": {"x"}, "X-" + strings.Repeat("Long-", 2000): {"x"}, "X-Ms-" + strings.Repeat("y", 500): {"x"}, "X-Forwarded-Proto": {"https"}}
	n := testing.AllocsPerRun(100, func() {
		s.strip(h, true, netip.Addr{})
		s.stripAnswer(h)
	})
	if n != 0 || len(h) != 4 {
		t.Errorf("%v allocations, %d fields left", n, len(h))
	}
}
