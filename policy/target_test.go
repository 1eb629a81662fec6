package policy

import (
	"errors"
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
		{"/a?b=/../c", "/a", nil}, // HTTP-05: the query has no part in it
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
		{"/a/..%3Fx", "", errTargetDots}, // an application may cut the path there
		{"/a/.%23", "", errTargetDots},
		{"/a/..%253F", "", errTargetDots},
		{"/a%00b", "", errTargetControl}, // HTTP-03
		{"/a%0ab", "", errTargetControl},
		{"/a%2500b", "", errTargetControl},
		{"/a\x7fb", "", errTargetByte}, // HTTP-26 from here on
		{`/a\b`, "", errTargetByte},
		{"/a#b", "", errTargetByte}, // HTTP-06
		{"/a%zz", "", errTargetByte},
		{"/a%", "", errTargetByte},
		{"/a%2", "", errTargetByte},
		{"/a%2?0", "", errTargetByte},
		{"/a ", "", errTargetByte},
		{"/a b", "", errTargetByte},
		{" /a", "", errTargetForm},
		{"/a\t", "", errTargetByte},
		{"/a\x85", "", errTargetByte},
		{"/a\xa0", "", errTargetByte},
		{"/\u00e9", "", errTargetByte},
		{"/a?b c", "", errTargetByte},
		{"/a?b#c", "", errTargetByte}, // HTTP-06
		{"/a?\x00", "", errTargetByte},
		{"/a?\xc3\xa9", "", errTargetByte},
		{"/a?\x7f", "", errTargetByte},
		{"/a?[]{}|^\"<>`\\%zz%&%2", "/a", nil},
		{"/[]{}|^\"<>`!$&'()*+,:=@~", "/[]{}|^\"<>`!$&'()*+,:=@~", nil},
		{"/a%c0%afb", "", errTargetEscape}, // HTTP-01: dot segments and slashes as overlong UTF-8
		{"/%c0%ae%c0%ae/a", "", errTargetEscape},
		{"/%25c0%25ae", "", errTargetEscape},
		{"/a%e0%80%af", "", errTargetEscape},
		{"/a%f0%80%80%af", "", errTargetEscape},
		{"/caf%E9", "/caf\xe9", nil}, // of an application that is older than UTF-8
		{"/%E0%A0%80", "/\u0800", nil},
		{"/a%2525252525252e", "", errTargetEscape},
	}
	for _, c := range cases {
		got, err := ParseTarget(c.target)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%q: got %q, %v; want %q, %v", c.target, got, err, c.want, c.err)
		}
		if c.err == errTargetByte && !strings.Contains(err.Error(), "percent-encode it as %") {
			t.Errorf("%q: %v doesn't say what to do", c.target, err)
		}
	}
}

// readingsOf are what applications may take a target's path for, case aside.
func readingsOf(t testing.TB, target string) (list []string) {
	t.Helper()
	path, err := ParseTarget(target)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	p := &Policy{namesPaths: true, distinct: true}
	p.pathReadings(&Request{Path: path}, func(reading []byte, _ bool) bool {
		if r := string(reading); r != path && !slices.Contains(list, r) {
			list = append(list, r)
		}
		return true
	})
	return list
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
		"/a%25252Fb":      {"/a%252Fb", "/a%2Fb", "/a/b"},
		"/a%253B%25252Fb": {"/a%3B%252Fb", "/a;%2Fb", "/a", "/a;/b", "/a/b"}, // decoded twice, no more
		"/x;/a%2F%2F/b;c": {"/x/a%2F%2F/b", "/x;/a///b;c", "/x;/a/b;c", "/x/a///b", "/x/a/b"},
	} {
		got := readingsOf(t, target)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
}

func TestParseTargetAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = ParseTarget("/api/v1/Things/42?x=y") }); n != 0 {
		t.Errorf("%v allocations for a plain path", n)
	}
}

// FuzzParseTarget holds that a target that is let through is printable ASCII,
// that no reading of it has a dot segment or a control byte, and that the
// canonical form is stable (HTTP-01, HTTP-03, HTTP-26).
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"/a/%2e%2e/b", "/a;b/..;/", "/%25%32%65", "/a%5c%2e.", "//a", "/a%3F..", "/..%23", "/a b", "/\xa0", "/a?b\x85"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, err := ParseTarget(target)
		if err != nil {
			return
		}
		if i := strings.IndexFunc(target, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '#' }); i >= 0 {
			t.Fatalf("%q: byte %d", target, i)
		}
		if again, err := canonicalPath(path); err != nil || again != path {
			t.Fatalf("%q is %q, and that %q (%v)", target, path, again, err)
		}
		raw, _, _ := strings.Cut(target, "?")
		for _, reading := range append(readingsOf(t, target), path, raw) {
			if !strings.HasPrefix(reading, "/") || HasControl(reading) {
				t.Fatalf("%q may be read as %q", target, reading)
			}
			for segment := range strings.FieldsFuncSeq(reading, func(r rune) bool { return r == '/' || r == '\\' }) {
				if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
					t.Fatalf("%q may be read as %q", target, reading)
				}
			}
		}
	})
}
