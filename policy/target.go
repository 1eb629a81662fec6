package policy

import (
	"errors"
	"slices"
	"strings"
)

var (
	errTargetForm    = errors.New("the target is not a path")
	errTargetControl = errors.New("the path holds a control byte, a backslash or a raw #")
	errTargetDots    = errors.New("the path holds a dot segment")
	errTargetEscape  = errors.New("the path holds a percent-escape that is broken, too often repeated or longer than its character needs")
)

// ParseTarget returns the canonical path of a request's target, the form in
// which rules read it, or why the target must not be forwarded. The target
// itself is forwarded as it came.
//
// Percent-escapes are decoded once, except those whose decoded form has a
// meaning of its own in a path: %2F %5C %3B %23 %3F %25 stay, in upper case.
// Where applications may read such a path as another one, readings are those
// others: [Policy.Decide] asks for each. They are nil for nearly every request.
func ParseTarget(target string) (path string, readings []string, err error) {
	path, _, _ = strings.Cut(target, "?")
	if path == "" || path[0] != '/' {
		return "", nil, errTargetForm
	}
	if isPlainPath(path) {
		return path, nil, nil
	}
	if err := checkPath(path); err != nil {
		return "", nil, err
	}
	canonical := decodePath(path)
	return canonical, otherReadings(path, canonical), nil
}

// otherReadings are the paths that an application may take a checked path for,
// other than the canonical one: each way of decoding it, followed by every
// combination of what readers do to the result.
func otherReadings(path, canonical string) []string {
	once := unescape(path)
	twice := once
	for next := unescape(twice); next != twice; next = unescape(twice) {
		twice = next // checkPath saw that this ends
	}
	var all []string
	for _, decoded := range []string{canonical, once, twice} {
		for habits := range 1 << len(readerHabits) {
			reading := decoded
			for i, habit := range readerHabits {
				if habits&(1<<i) != 0 {
					reading = habit(reading)
				}
			}
			if reading != canonical && !slices.Contains(all, reading) {
				all = append(all, reading)
			}
		}
	}
	return all
}

// readerHabits is what applications and their frameworks do to a path before
// they look it up, in this order.
var readerHabits = []func(string) string{
	cutQuery, backslashes, cutParameters, mergeSlashes,
}

// cutQuery ends the path at a decoded # or ?.
func cutQuery(path string) string {
	if i := strings.IndexAny(path, "#?"); i >= 0 {
		return path[:i]
	}
	return path
}

func backslashes(path string) string { return strings.ReplaceAll(path, `\`, "/") }

// cutParameters ends each segment at its first semicolon (RFC 3986, 3.3).
func cutParameters(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

func mergeSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// isPlainPath reports whether the path needs no second look: no escape, no
// byte out of the ordinary, no empty segment and none that begins with a dot.
func isPlainPath(path string) bool {
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.', c == '/':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// maxDecodings is how often a path is decoded in search of hidden dot
// segments. No honest client escapes an escape more than twice.
const maxDecodings = 4

// checkPath refuses paths that some reader would resolve to another one
// (CVE-2021-29492 and its kin: `%2e`, `%252e`, `..;`, `%5c`), reading the
// path as received and as each further decoding shows it.
func checkPath(path string) error {
	if HasControl(path) || strings.ContainsAny(path, `\#`) {
		return errTargetControl
	}
	if !validEscapes(path) {
		return errTargetEscape
	}
	for range maxDecodings {
		if hasDotSegment(path) {
			return errTargetDots
		}
		next := unescape(path)
		if HasControl(next) {
			return errTargetControl
		}
		if hasOverlong(next) {
			return errTargetEscape
		}
		if next == path {
			return nil
		}
		path = next
	}
	return errTargetEscape
}

// hasOverlong reports whether s holds the beginning of a character that takes
// more bytes of UTF-8 than it needs (RFC 3629, 10): decoders that are not strict
// see a slash or a dot there.
func hasOverlong(s string) bool {
	for i := 0; i+1 < len(s); i++ {
		next := s[i+1]
		switch s[i] {
		case 0xc0, 0xc1:
			if next&0xc0 == 0x80 {
				return true
			}
		case 0xe0:
			if next&0xe0 == 0x80 {
				return true
			}
		case 0xf0:
			if next&0xf0 == 0x80 {
				return true
			}
		}
	}
	return false
}

// HasControl reports whether s holds a control byte.
func HasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// hasDotSegment takes slashes and backslashes for separators and ends a
// segment's name at its parameters (`..;x` is `..` to servlet containers).
func hasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
		name, _, _ := strings.Cut(segment, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

// validEscapes reports whether every % begins an escape.
func validEscapes(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if _, valid := escaped(s, i); !valid {
				return false
			}
		}
	}
	return true
}

// unescape decodes every percent-escape once. A % that starts none is what a
// decoded "%25" was, and stays.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if decoded, valid := escaped(s, i); valid {
				c = decoded
				i += 2
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// escaped returns the byte that the escape at s[i:] stands for.
func escaped(s string, i int) (byte, bool) {
	if i+2 >= len(s) {
		return 0, false
	}
	hi, ok1 := unhex(s[i+1])
	lo, ok2 := unhex(s[i+2])
	return hi<<4 | lo, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// decodePath decodes a checked path for policy.
func decodePath(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c, valid := escaped(path, i)
		switch {
		case path[i] != '%' || !valid:
			b.WriteByte(path[i])
		case strings.IndexByte(`/\;#?%`, c) >= 0:
			b.WriteString(strings.ToUpper(path[i : i+3]))
			i += 2
		default:
			b.WriteByte(c)
			i += 2
		}
	}
	return b.String()
}
