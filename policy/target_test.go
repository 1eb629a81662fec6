package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
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
		{"/a%c0%afb", "", errTargetEscape}, // HTTP-01: dot segments and slashes as overlong UTF-8
		{"/%c0%ae%c0%ae/a", "", errTargetEscape},
		{"/%25c0%25ae", "", errTargetEscape},
		{"/a%e0%80%af", "", errTargetEscape},
		{"/a%f0%80%80%af", "", errTargetEscape},
		{"/caf%E9", "/caf\xe9", nil}, // of an application that is older than UTF-8
		{"/%E0%A0%80", "/\u0800", nil},
		{"/a%", "", errTargetEscape},
		{"/a%2525252525252e", "", errTargetEscape},
	}
	for _, c := range cases {
		if got, _, err := ParseTarget(c.target); got != c.want || err != c.err {
			t.Errorf("%q: got %q, %v; want %q, %v", c.target, got, err, c.want, c.err)
		}
	}
}

// HTTP-02, HTTP-04, HTTP-06: what an application may take the path for.
func TestReadings(t *testing.T) {
	for target, want := range map[string][]string{
		"/a/b":            nil,
		"/a%20b?c=%2f":    nil,
		"/a%2Fb":          {"/a/b"},
		"/a//b":           {"/a/b"},
		"/a;b/c":          {"/a/c"},
		"/a%23b":          {"/a", "/a#b"},
		"/a%3Fb":          {"/a", "/a?b"},
		"/a%5Cb":          {"/a/b", `/a\b`},
		"/a%3Bb":          {"/a", "/a;b"},
		"/a%252Fb":        {"/a%2Fb", "/a/b"},
		"/x;/a%2F%2F/b;c": {"/x/a%2F%2F/b", "/x;/a///b;c", "/x;/a/b;c", "/x/a///b", "/x/a/b"},
	} {
		_, got, err := ParseTarget(target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
		for _, reading := range want {
			if !slices.Contains(got, reading) {
				t.Errorf("%s: got %q, want %q too", target, got, reading)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
}

func TestParseTargetAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _, _ = ParseTarget("/api/v1/things/42?x=y") }); n != 0 {
		t.Errorf("%v allocations for a plain path", n)
	}
}

// FuzzParseTarget holds that no reading of an accepted path has a dot
// segment or a control byte, and that the canonical form is stable.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"/a/%2e%2e/b", "/a;b/..;/", "/%25%32%65", "/a%5c%2e.", "//a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, readings, err := ParseTarget(target)
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
			if HasControl(raw) {
				t.Fatalf("%q: reading %d holds a control byte", target, reading)
			}
			raw = unescape(raw)
		}
		for _, reading := range append(readings, path) {
			if !strings.HasPrefix(reading, "/") || hasDotSegment(reading) || HasControl(reading) {
				t.Fatalf("%q may be read as %q", target, reading)
			}
		}
	})
}
