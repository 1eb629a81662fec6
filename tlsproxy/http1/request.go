package http1

import (
	"strconv"
	"strings"
)

// Request is the head of a request to send.
type Request struct {
	Method string
	Target string // as it shall stand in the request line
	Host   string // may be empty, then the field is there and empty (RFC 9110 7.2)
	// Fields are those besides Host and what follows from Length.
	Fields []Field
	// Length is how many bytes the body has, Chunked for one whose end is not
	// known yet. 0 sends no length at all unless SayZero is set.
	Length  int64
	SayZero bool
	// Trailers are the names of the fields behind a chunked body.
	Trailers []string
}

// Chunked is the length of a body that is sent or comes in chunks.
const Chunked = -1

// Append appends the head to b. What would change its meaning on the way is an
// error that names it and not its value.
func (r *Request) Append(b []byte) ([]byte, error) {
	switch {
	case !IsToken(r.Method):
		return b, malformed("a method that is no token")
	case !isTarget(r.Target):
		return b, malformed("a target with a control byte or blank")
	case !isLine(r.Host):
		return b, &ProtocolError{Field: "Host", Problem: "a value that leaves its line"}
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)
	for i := range r.Fields {
		f := &r.Fields[i]
		if err := f.writable(); err != nil {
			return b, err
		}
		b = appendField(b, f.Name, f.Value)
	}
	return append(r.appendFraming(b), "\r\n"...), nil
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

func (r *Request) appendFraming(b []byte) []byte {
	switch {
	case r.Length == Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(r.Trailers) > 0 {
			b = appendField(b, "Trailer", strings.Join(r.Trailers, ", "))
		}
	case r.Length > 0 || r.SayZero:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.Length, 10)
		b = append(b, "\r\n"...)
	}
	return b
}

// writable says why a field must not be written.
func (f *Field) writable() error {
	switch {
	case !IsToken(f.Name):
		return malformed("a field name that is no token")
	case !isLine(f.Value):
		return &ProtocolError{Field: f.Name, Problem: "a value that leaves its line"}
	}
	switch len(f.Name) {
	case len("Host"), len("Content-Length"), len("Transfer-Encoding"):
		if strings.EqualFold(f.Name, "Host") || strings.EqualFold(f.Name, "Content-Length") || strings.EqualFold(f.Name, "Transfer-Encoding") {
			return &ProtocolError{Field: f.Name, Problem: "the writer sets it"}
		}
	}
	return nil
}

func isTarget(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}

// ChunkPrefix is how many bytes [FrameChunk] needs before the data.
const ChunkPrefix = 18

// FrameChunk makes the bytes from ChunkPrefix on one chunk, and returns it. An
// empty chunk would be the last one; there must be data.
func FrameChunk(b []byte) []byte {
	n := len(b) - ChunkPrefix
	at := ChunkPrefix - 2
	copy(b[at:], "\r\n")
	for ; n > 0; n >>= 4 {
		at--
		b[at] = "0123456789abcdef"[n&15]
	}
	return append(b[at:], "\r\n"...)
}

// AppendLastChunk ends a chunked body. Trailers that can't be written are an
// error; those that may not be trailers are left out.
func AppendLastChunk(b []byte, trailers []Field) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for i := range trailers {
		f := &trailers[i]
		if !MayTrail(f.Name) {
			continue
		}
		if err := f.writable(); err != nil {
			return b, err
		}
		b = appendField(b, f.Name, f.Value)
	}
	return append(b, "\r\n"...), nil
}
