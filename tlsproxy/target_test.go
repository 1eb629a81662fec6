package tlsproxy

import (
	"strings"
	"testing"
)

func TestCanonicalPath(t *testing.T) {
	cases := []struct {
		target string
		want   string
		err    error
	}{
		{"/", "/", nil},
		{"/a/b.c", "/a/b.c", nil},
		{"/a?b=/../c#d", "/a", nil}, // HTTP-05: the query has no part in it
		{"/.well-known/x", "/.well-known/x", nil},
		{"/a%20b", "/a b", nil},
		{"/a%2fb", "/a%2Fb", nil}, // HTTP-04
		{"/a%2Fb%25", "/a%2Fb%25", nil},
		{"/a;b", "/a;b", nil},
		{"/a//b", "/a//b", nil},
		{"/%C3%A9", "/é", nil},
		{"/a...b", "/a...b", nil},
		{"/.../x", "/.../x", nil},
		{"", "", errTargetForm},
		{"*", "", errTargetForm},
		{"http://x/", "", errTargetForm}, // HTTP-16
		{"/..", "", errTargetDots},       // HTTP-01 from here on
		{"/.", "", errTargetDots},
		{"/a/../b", "", errTargetDots},
		{"/a/./b", "", errTargetDots},
		{"/a/%2e%2e/b", "", errTargetDots},
		{"/a/%2E./b", "", errTargetDots},
		{"/a/%252e%252e/b", "", errTargetDots},
		{"/a/%25252e%25252e/b", "", errTargetDots},
		{"/a%2f..%2fb", "", errTargetDots},
		{"/a%5c..%5cb", "", errTargetDots},
		{"/a/..;x=1/b", "", errTargetDots},
		{"/a/..%3bx/b", "", errTargetDots},
		{"/a/%2e%2e%2fb", "", errTargetDots},
		{"/a%00b", "", errTargetControl}, // HTTP-03
		{"/a%0ab", "", errTargetControl},
		{"/a%2500b", "", errTargetControl},
		{"/a\x7fb", "", errTargetControl},
		{`/a\b`, "", errTargetControl},
		{"/a#b", "", errTargetControl}, // HTTP-06
		{"/a%zz", "", errTargetEscape},
		{"/a%", "", errTargetEscape},
		{"/a%2525252525252e", "", errTargetEscape},
	}
	for _, c := range cases {
		if got, err := canonicalPath(c.target); got != c.want || err != c.err {
			t.Errorf("%q: got %q, %v; want %q, %v", c.target, got, err, c.want, c.err)
		}
	}
}

func TestCanonicalPathAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = canonicalPath("/api/v1/things/42?x=y") }); n != 0 {
		t.Errorf("%v allocations for a plain path", n)
	}
}

// FuzzCanonicalPath holds that no reading of an accepted path has a dot
// segment or a control byte, and that the canonical form is stable.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/a/%2e%2e/b", "/a;b/..;/", "/%25%32%65", "/a%5c%2e.", "//a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, err := canonicalPath(target)
		if err != nil {
			return
		}
		raw, _, _ := strings.Cut(target, "?")
		for reading := range 6 {
			for _, segment := range strings.FieldsFunc(raw, func(r rune) bool { return r == '/' || r == '\\' }) {
				name, _, _ := strings.Cut(segment, ";")
				if name == "." || name == ".." {
					t.Fatalf("%q: reading %d is %q", target, reading, raw)
				}
			}
			if hasControl(raw) {
				t.Fatalf("%q: reading %d holds a control byte", target, reading)
			}
			raw = unescape(raw)
		}
		if path[0] != '/' {
			t.Fatalf("%q gives %q", target, path)
		}
	})
}

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
