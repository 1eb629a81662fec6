package http1

import (
	"bytes"
	"io"
	"math"
	"strings"
)

// Body reads what is behind a head. The zero value is an empty body.
type Body struct {
	in    *Reader
	frame Frame
	left  int64 // ByLength: of the body; ByChunks: of the chunk
	state chunkState
	err   error // what every Read returns from now on
	// Trailers are the fields behind the last chunk, once Read has returned
	// io.EOF.
	Trailers []Field
}

type chunkState uint8

const (
	chunkLine chunkState = iota // the next bytes are a chunk's size
	chunkData
	chunkEnd // CRLF behind the data
	chunkTrailers
)

// Body is the reader of the body behind the head that was read from in.
func (r *Response) Body(in *Reader) Body {
	b := Body{in: in, frame: r.Frame, left: r.Length}
	switch {
	case r.Frame == NoBody, r.Frame == ByLength && r.Length == 0:
		b.err = io.EOF
	case r.Frame == ByChunks:
		b.left = 0
	}
	return b
}

// Ended reports whether the body was read to its end.
func (b *Body) Ended() bool { return b.err == io.EOF }

// Whole reports whether the rest of the body is in the buffer, and how many
// bytes are there behind it. It reads nothing. An error says why the body can't
// be right, whatever comes.
func (b *Body) Whole() (whole bool, surplus int, err error) {
	have := len(b.in.Buffered())
	switch {
	case b.Ended():
		return true, have, nil
	case b.frame == ByLength && b.left <= int64(have):
		return true, have - int(b.left), nil
	case b.frame == ByChunks:
		return b.chunksWhole()
	}
	return false, 0, nil
}

// chunksWhole goes through the buffered chunks and leaves everything as it was.
func (b *Body) chunksWhole() (whole bool, surplus int, err error) {
	ahead := *b.in
	ahead.Cut()
	look := *b
	look.in, look.Trailers = &ahead, nil
	for {
		err := look.advance()
		switch {
		case err == io.EOF:
			return true, len(ahead.Buffered()), nil
		case err == errCut:
			return false, 0, nil
		case err != nil:
			return false, 0, err
		}
		if look.state == chunkData {
			n := min(look.left, int64(len(ahead.Buffered())))
			if n == 0 {
				return false, 0, nil
			}
			ahead.Discard(int(n))
			look.took(n)
		}
	}
}

// Ready reports whether Read has something without waiting.
func (b *Body) Ready() bool {
	switch {
	case b.err != nil:
		return true
	case b.frame == ByChunks:
		return b.more()
	}
	return len(b.in.Buffered()) > 0
}

// Read returns io.EOF together with the last bytes where it can, and
// io.ErrUnexpectedEOF where the connection ended before the body.
func (b *Body) Read(p []byte) (n int, err error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	switch b.frame {
	case ByLength:
		n, err = b.readSome(p)
		if b.left == 0 {
			err = io.EOF
		} else if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	case ByChunks:
		n, err = b.readChunks(p)
	case UntilClose:
		b.left = math.MaxInt64
		n, err = b.readSome(p)
	}
	b.err = err
	return n, err
}

// readSome reads from what is left. Where nothing is buffered the bytes go into
// p itself, and never more than are left: the rest is not ours to take.
func (b *Body) readSome(p []byte) (n int, err error) {
	p = p[:min(int64(len(p)), b.left)]
	if have := b.in.Buffered(); len(have) > 0 {
		n = copy(p, have)
		b.in.Discard(n)
	} else {
		n, err = b.in.direct(p)
	}
	b.took(int64(n))
	return n, err
}

func (b *Body) took(n int64) {
	b.left -= n
	if b.frame == ByChunks && b.left == 0 {
		b.state = chunkEnd
	}
}

// readChunks fills p from as many chunks as have come, and waits for none once
// it has something.
func (b *Body) readChunks(p []byte) (n int, err error) {
	for n < len(p) {
		if n > 0 && !b.more() {
			return n, nil
		}
		if err := b.advance(); err != nil {
			return n, err
		}
		if b.state != chunkData {
			continue
		}
		m, err := b.readSome(p[n:])
		n += m
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// more reports whether the next step needs no read.
func (b *Body) more() bool {
	have := b.in.Buffered()
	switch b.state {
	case chunkData:
		return len(have) > 0
	case chunkEnd:
		return len(have) >= 2
	case chunkLine:
		return bytes.IndexByte(have, '\n') >= 0
	}
	seen := 0
	return headEnd(have, &seen) > 0
}

// advance goes one step towards the next data. It returns io.EOF behind the
// trailers alone.
func (b *Body) advance() error {
	switch b.state {
	case chunkLine:
		return b.readSize()
	case chunkEnd:
		return b.readEnd()
	case chunkTrailers:
		return b.readTrailers()
	}
	return nil
}

const maxChunkLine = 4 << 10

// readSize reads the line before a chunk (RFC 9112 7.1).
func (b *Body) readSize() error {
	line, err := b.line()
	if err != nil {
		return err
	}
	size, ok := parseSize(line)
	if !ok {
		return malformed("a chunk whose size is no hexadecimal number")
	}
	b.state, b.left = chunkData, size
	if size == 0 {
		b.state = chunkTrailers
	}
	return nil
}

// line takes a line that ends with CRLF, and returns it without. The bytes are
// good until the next read.
func (b *Body) line() ([]byte, error) {
	for {
		have := b.in.Buffered()
		i := bytes.IndexByte(have, '\n')
		switch {
		case i >= 0 && (i == 0 || have[i-1] != '\r'):
			return nil, malformed("a chunk line without CRLF")
		case i >= 0 && i <= maxChunkLine:
			b.in.Discard(i + 1)
			return have[:i-1], nil
		case i >= 0 || len(have) > maxChunkLine:
			return nil, malformed("a chunk line above 4 KiB")
		}
		if err := b.fill(); err != nil {
			return nil, err
		}
	}
}

func (b *Body) fill() error {
	err := b.in.Fill(MaxHead)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// parseSize reads a chunk's size. What may follow it is an extension, which
// nobody knows.
func parseSize(line []byte) (size int64, ok bool) {
	i := 0
	for ; i < len(line); i++ {
		digit := strings.IndexByte("0123456789abcdef", line[i]|0x20)
		if digit < 0 || line[i] < '0' {
			break
		}
		if size > math.MaxInt64>>4 {
			return 0, false
		}
		size = size<<4 | int64(digit)
	}
	return size, i > 0 && isExtension(line[i:])
}

// isExtension reports whether b is nothing, or a semicolon with blanks before
// it and text behind.
func isExtension(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	b = bytes.TrimLeft(b, " \t")
	return len(b) > 1 && b[0] == ';'
}

// readEnd reads the CRLF behind a chunk's data.
func (b *Body) readEnd() error {
	for len(b.in.Buffered()) < 2 {
		if err := b.fill(); err != nil {
			return err
		}
	}
	if have := b.in.Buffered(); have[0] != '\r' || have[1] != '\n' {
		return malformed("a chunk that is longer than its size")
	}
	b.in.Discard(2)
	b.state = chunkLine
	return nil
}

// readTrailers reads what follows the last chunk, where each line ends with CRLF.
func (b *Body) readTrailers() error {
	head, err := b.in.head()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if len(head) == 2 { // nearly always
		return io.EOF
	}
	for rest := head; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 1 || rest[i-1] != '\r' {
			return malformed("a trailer line without CRLF")
		}
		rest = rest[i+1:]
	}
	if bytes.IndexByte(head, 0) >= 0 {
		return malformed("a NUL in the trailers")
	}
	if b.Trailers, err = parseFields(b.Trailers, string(head)); err != nil {
		return err
	}
	return io.EOF
}
