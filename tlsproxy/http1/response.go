package http1

import (
	"math"
	"strings"
)

// Response is the head of an answer.
type Response struct {
	Minor  int // of the version HTTP/1.Minor
	Status int
	Fields []Field
	Frame  Frame
	Length int64 // as Content-Length says; -1: it is not there
	// Close says that the connection ends with this answer.
	Close bool
	// Coded says that there is a Transfer-Encoding.
	Coded bool
}

// Frame is how the end of a body is found (RFC 9112 6.3).
type Frame uint8

// The ways.
const (
	NoBody     Frame = iota // there is none, whatever the fields say
	ByLength                // Length bytes
	ByChunks                // a last chunk
	UntilClose              // the end of the connection
)

// Read reads the head of the answer to a request of this method. Its fields
// share one string, which stays good.
func (r *Response) Read(in *Reader, method string) error {
	head, err := in.head()
	if err != nil {
		return err
	}
	return r.parse(string(head), method)
}

func (r *Response) parse(head, method string) (err error) {
	*r = Response{Fields: r.Fields[:0], Length: -1}
	if r.Fields == nil {
		r.Fields = make([]Field, 0, min(strings.Count(head, "\n"), usualFields))
	}
	if strings.IndexByte(head, 0) >= 0 {
		return malformed("a NUL in the head")
	}
	line, rest := cutLine(head)
	if err := r.parseStatus(line); err != nil {
		return err
	}
	if r.Fields, err = parseFields(r.Fields, rest); err != nil {
		return err
	}
	if err := r.readFraming(); err != nil {
		return err
	}
	return r.frame(method)
}

// usualFields is how many fields a head has room for before it is read: what a
// stranger sends must not decide how much is allocated at once.
const usualFields = 32

// parseStatus reads "HTTP/1.1 200 OK". The reason may be missing, and the blank
// before it too.
func (r *Response) parseStatus(line string) error {
	const version, status = len("HTTP/1.1"), len("HTTP/1.1 200")
	if len(line) < status || line[:version-1] != "HTTP/1." || !isDigit(line[version-1]) || line[version] != ' ' ||
		len(line) > status && line[status] != ' ' || strings.IndexByte(line, '\r') >= 0 {
		return malformed("no status line of HTTP/1.1")
	}
	r.Minor = int(line[version-1] - '0')
	for _, c := range []byte(line[version+1 : status]) {
		if !isDigit(c) {
			return malformed("a status that is no number")
		}
		r.Status = 10*r.Status + int(c-'0')
	}
	if r.Status < 100 {
		return malformed("a status below 100")
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// readFraming takes from the fields what decides about body and connection.
func (r *Response) readFraming() error {
	keep := false
	for i := range r.Fields {
		f := &r.Fields[i]
		var err error
		switch len(f.Name) {
		case len("Connection"):
			if strings.EqualFold(f.Name, "Connection") {
				r.Close = r.Close || listHas(f.Value, "close")
				keep = keep || listHas(f.Value, "keep-alive")
			}
		case len("Content-Length"):
			if strings.EqualFold(f.Name, "Content-Length") {
				err = r.setLength(f.Value)
			}
		case len("Transfer-Encoding"):
			if strings.EqualFold(f.Name, "Transfer-Encoding") {
				err = r.setCoding(f.Value)
			}
		}
		if err != nil {
			return err
		}
	}
	if r.Coded && r.Length >= 0 {
		return &ProtocolError{Field: "Content-Length", Problem: "beside Transfer-Encoding"}
	}
	if r.Minor == 0 && !keep {
		r.Close = true
	}
	return nil
}

func (r *Response) setLength(value string) error {
	if r.Length >= 0 {
		return &ProtocolError{Field: "Content-Length", Problem: "more than one"}
	}
	n, ok := ParseLength(value)
	if !ok {
		return &ProtocolError{Field: "Content-Length", Problem: "not a number alone"}
	}
	r.Length = n
	return nil
}

// ParseLength reads the value of Content-Length: digits and nothing else.
func ParseLength(s string) (n int64, ok bool) {
	for i := range len(s) {
		if !isDigit(s[i]) || n > (math.MaxInt64-9)/10 {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, s != ""
}

// setCoding knows chunked alone: other codings are not undone, and so could not
// be passed to a client that speaks another version.
func (r *Response) setCoding(value string) error {
	switch {
	case r.Coded:
		return &ProtocolError{Field: "Transfer-Encoding", Problem: "more than one"}
	case !strings.EqualFold(value, "chunked"):
		return &ProtocolError{Field: "Transfer-Encoding", Problem: "not chunked alone"}
	case r.Minor == 0: // RFC 9112 6.1: the framing is faulty
		return &ProtocolError{Field: "Transfer-Encoding", Problem: "in an answer of HTTP/1.0"}
	}
	r.Coded = true
	return nil
}

// frame finds out where the body ends.
func (r *Response) frame(method string) error {
	switch {
	case r.Status < 200:
		if r.Coded || r.Length > 0 {
			return malformed("a body with an interim answer")
		}
	case method == "HEAD" || r.Status == 204 || r.Status == 304:
	case r.Coded:
		r.Frame = ByChunks
	case r.Length >= 0:
		r.Frame = ByLength
	default:
		r.Frame, r.Close = UntilClose, true
	}
	return nil
}
