package http1

import "strings"

// MaxHead is how many bytes a head may have.
const MaxHead = 256 << 10

// Field is one line of a head or trailer section. The name is spelled as it
// came, the value has no white space around it.
type Field struct{ Name, Value string }

// A ProtocolError is why a message is refused. It never holds bytes of the
// message, so it may be logged.
type ProtocolError struct {
	Field   string // canonical name of the field that is wrong; "": none in particular
	Problem string
}

func (e *ProtocolError) Error() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

// Is makes all errors of this kind equal to [ErrProtocol].
func (e *ProtocolError) Is(target error) bool { return target == ErrProtocol }

// ErrProtocol is what every [ProtocolError] is.
var ErrProtocol = &ProtocolError{Problem: "not HTTP/1.1"}

func malformed(problem string) error { return &ProtocolError{Problem: problem} }

// AppendValues appends the values of the fields of this name.
func AppendValues(values []string, fields []Field, name string) []string {
	for i := range fields {
		if f := &fields[i]; len(f.Name) == len(name) && strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// HasToken reports whether one of the lists has the token (RFC 9110 5.6.1), in
// any case of letters.
func HasToken(lists []string, token string) bool {
	for _, list := range lists {
		if listHas(list, token) {
			return true
		}
	}
	return false
}

func listHas(list, token string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(trim(item), token) {
			return true
		}
	}
	return false
}

// Value is that of the first field of this name, or "".
func Value(fields []Field, name string) string {
	for i := range fields {
		if strings.EqualFold(fields[i].Name, name) {
			return fields[i].Value
		}
	}
	return ""
}

// OnlyHere reports whether a field is about one connection, and so is not passed
// on (RFC 9110 7.6.1).
func OnlyHere(name string) bool {
	switch len(name) {
	case len("TE"):
		return strings.EqualFold(name, "TE")
	case len("Trailer"): // and Upgrade
		return strings.EqualFold(name, "Trailer") || strings.EqualFold(name, "Upgrade")
	case len("Connection"): // and Keep-Alive
		return strings.EqualFold(name, "Connection") || strings.EqualFold(name, "Keep-Alive")
	case len("Proxy-Connection"):
		return strings.EqualFold(name, "Proxy-Connection")
	case len("Transfer-Encoding"):
		return strings.EqualFold(name, "Transfer-Encoding")
	}
	return false
}

// MayTrail reports whether a field may stand behind a body: none that says where
// to, or how to read it, may (RFC 9110 6.5.1).
func MayTrail(name string) bool {
	return !OnlyHere(name) && !strings.EqualFold(name, "Content-Length") && !strings.EqualFold(name, "Host")
}

// IsToken reports whether s could be a field's name (RFC 9110 5.6.2).
func IsToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// parseFields reads field lines up to the end of s and appends them.
func parseFields(fields []Field, s string) ([]Field, error) {
	first := len(fields)
	for s != "" {
		line, rest := cutLine(s)
		s = rest
		switch {
		case line == "" && rest == "":
			return fields, nil
		case strings.IndexByte(line, '\r') >= 0:
			return fields, malformed("a bare CR in the head")
		case line != "" && (line[0] == ' ' || line[0] == '\t'):
			if len(fields) == first {
				return fields, malformed("the first field line begins with a blank")
			}
			last := &fields[len(fields)-1]
			last.Value = trim(last.Value + " " + trim(line))
			continue
		}
		f, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields = append(fields, f)
	}
	return fields, malformed("a head without an empty line")
}

func parseField(line string) (Field, error) {
	colon := strings.IndexByte(line, ':')
	if colon < 0 {
		return Field{}, malformed("a field line without a colon")
	}
	name := strings.TrimRight(line[:colon], " \t")
	if !IsToken(name) {
		return Field{}, malformed("a field name that is none")
	}
	return Field{Name: name, Value: trim(line[colon+1:])}, nil
}

// cutLine cuts s behind its first line, which ends with LF or CRLF.
func cutLine(s string) (line, rest string) {
	i := strings.IndexByte(s, '\n')
	if i < 0 {
		return s, ""
	}
	line, rest = s[:i], s[i+1:]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, rest
}

// trim removes the white space that may stand around a value, and no other.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// tokenBytes are those of RFC 9110 5.6.2.
var tokenBytes = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// isLine reports whether a value stays within its line.
func isLine(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == '\r' || c == '\n' || c == 0 {
			return false
		}
	}
	return true
}
