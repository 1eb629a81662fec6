package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

var (
	errTargetForm    = errors.New("the target is not a path")
	errTargetByte    = errors.New("the target holds a byte that must not stand there as it is")
	errTargetControl = errors.New("the path holds a control byte, a backslash or a #")
	errTargetDots    = errors.New("the path holds a dot segment")
	errTargetEscape  = errors.New("the path holds a percent-escape that is broken, too often repeated or longer than its character needs")
)

// ParseTarget returns the canonical path of a request's target, the form in
// which rules read it, or why the target must not be forwarded. The target
// itself is forwarded as it came.
//
// A target is printable ASCII without blanks: applications end a path at a raw
// blank, and differ about what is one (Python takes 0x85 and 0xA0 for blanks).
//
// Percent-escapes are decoded once, except those whose decoded form has a
// meaning of its own in a path: %2F %5C %3B %23 %3F %25 stay, in upper case.
// Applications may read such a path as another one; see [Policy.Decide].
func ParseTarget(target string) (path string, err error) {
	path, query, _ := strings.Cut(target, "?")
	if path == "" || path[0] != '/' {
		return "", errTargetForm
	}
	if err := checkRaw(path, query); err != nil {
		return "", err
	}
	if isPlainPath(path) {
		return path, nil
	}
	return decodeChecked(path)
}

// checkRaw refuses bytes that a target holds only percent-encoded (RFC 3986, 2),
// but for those that applications see as they were sent.
func checkRaw(path, query string) error {
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c <= ' ' || c >= 0x7f || c == '\\' || c == '#':
			return rawByte(c)
		case c == '%':
			if _, valid := escaped(path, i); !valid {
				return rawByte(c)
			}
		}
	}
	for i := 0; i < len(query); i++ {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return rawByte(c)
		}
	}
	return nil
}

func rawByte(c byte) error {
	return fmt.Errorf("%w: %q; percent-encode it as %%%02X", errTargetByte, []byte{c}, c)
}

// canonicalPath checks and decodes a path that may hold every character.
func canonicalPath(path string) (string, error) {
	switch {
	case strings.ContainsAny(path, `\#`):
		return "", errTargetControl
	case !validEscapes(path):
		return "", errTargetEscape
	}
	return decodeChecked(path)
}

// decodeChecked decodes a path for policy, unless a reading of it is refused.
func decodeChecked(path string) (string, error) {
	if err := checkPath([]byte(path)); err != nil {
		return "", err
	}
	return decodePath(path), nil
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
// path as received and as each further decoding shows it. It overwrites path.
func checkPath(path []byte) error {
	for range maxDecodings {
		if err := checkDecoded(path); err != nil {
			return err
		}
		escape := bytes.IndexByte(path, '%')
		if escape < 0 {
			return nil
		}
		path = path[max(bytes.LastIndexAny(path[:escape], `/\`), 0):] // before it nothing changes any more
		decoded := unescape(path)
		if len(decoded) == len(path) {
			return nil
		}
		path = decoded
	}
	return errTargetEscape
}

// checkDecoded looks at one reading, in one pass: it may be long, and nobody has
// shown a credential yet.
func checkDecoded(path []byte) error {
	begins := true // a segment
	for i, c := range path {
		switch {
		case c == '/' || c == '\\':
			begins = true
			continue
		case begins && c == '.' && isDotSegment(path[i:]):
			return errTargetDots
		case c < 0x20 || c == 0x7f:
			return errTargetControl
		case c >= 0xc0 && isOverlong(path[i:]):
			return errTargetEscape
		}
		begins = false
	}
	return nil
}

// isDotSegment reports whether s begins with the segment "." or "..". Slashes and
// backslashes are separators, parameters end the name (`..;x` is `..` to servlet
// containers), and so does a decoded query or fragment.
func isDotSegment(s []byte) bool {
	end := 1
	if len(s) > 1 && s[1] == '.' {
		end = 2
	}
	if end == len(s) {
		return true
	}
	switch s[end] {
	case '/', '\\', ';', '?', '#':
		return true
	}
	return false
}

// isOverlong reports whether s begins with a character that takes more bytes of
// UTF-8 than it needs (RFC 3629, 10): decoders that are not strict see a slash
// or a dot there.
func isOverlong(s []byte) bool {
	if len(s) < 2 {
		return false
	}
	switch next := s[1]; s[0] {
	case 0xc0, 0xc1:
		return next&0xc0 == 0x80
	case 0xe0:
		return next&0xe0 == 0x80
	case 0xf0:
		return next&0xf0 == 0x80
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

// unescape decodes every percent-escape once, in place. A % that starts none is
// what a decoded "%25" was, and stays.
func unescape(s []byte) []byte {
	to := bytes.IndexByte(s, '%')
	if to < 0 {
		return s
	}
	for i := to; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if decoded, valid := escaped(s, i); valid {
				c = decoded
				i += 2
			}
		}
		s[to] = c
		to++
	}
	return s[:to]
}

// escaped returns the byte that the escape at s[i:] stands for.
func escaped[T string | []byte](s T, i int) (byte, bool) {
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
	decoded := make([]byte, 0, len(path))
	for {
		i := strings.IndexByte(path, '%')
		if i < 0 {
			return string(append(decoded, path...))
		}
		decoded = append(decoded, path[:i]...)
		c, _ := escaped(path, i) // each is valid, which was checked
		if strings.IndexByte(`/\;#?%`, c) >= 0 {
			decoded = append(decoded, strings.ToUpper(path[i:i+3])...)
		} else {
			decoded = append(decoded, c)
		}
		path = path[i+3:]
	}
}
