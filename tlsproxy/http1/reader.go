package http1

import (
	"bytes"
	"errors"
	"io"
)

// Reader reads messages from a connection through a buffer that it is lent.
type Reader struct {
	src  io.Reader
	buf  []byte
	r, w int // what is read and not taken yet is buf[r:w]
}

// Reset begins anew at src with the buffer, which holds nothing.
func (r *Reader) Reset(src io.Reader, buf []byte) {
	*r = Reader{src: src, buf: buf[:cap(buf)]}
}

// Buffered is what has been read and not taken. It is good until the next read.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard takes n buffered bytes.
func (r *Reader) Discard(n int) { r.r += n }

// Cut makes the buffered bytes all that will ever come.
func (r *Reader) Cut() { r.src = nil }

// errCut is the end of a Reader that was cut.
var errCut = errors.New("no more is to be read")

// Fill reads once, at least one byte unless there is an error. A full buffer
// grows, up to limit.
func (r *Reader) Fill(limit int) error {
	switch {
	case r.src == nil:
		return errCut // and the buffer stays as it is
	case r.r == r.w:
		r.r, r.w = 0, 0
	case r.w == len(r.buf) && r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		if len(r.buf) >= limit {
			return errTooLong
		}
		r.buf = append(make([]byte, 0, 2*len(r.buf)), r.buf...)
		r.buf = r.buf[:cap(r.buf)]
	}
	for range 100 { // as bufio: a reader that gives nothing is broken
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		if n > 0 {
			return nil // an error comes again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

var errTooLong = errors.New("too long")

// direct reads past the buffer, which is empty.
func (r *Reader) direct(p []byte) (int, error) {
	if r.src == nil {
		return 0, errCut
	}
	return r.src.Read(p)
}

// head takes everything up to the first empty line, and that. The bytes are
// good until the next read.
func (r *Reader) head() ([]byte, error) {
	seen := 0 // lines that end before are looked at
	for {
		if n := headEnd(r.Buffered(), &seen); n > 0 {
			head := r.buf[r.r : r.r+n]
			r.r += n
			return head, nil
		}
		if err := r.Fill(MaxHead); err != nil {
			if err == errTooLong {
				err = malformed("a head above 256 KiB")
			}
			return nil, err
		}
	}
}

// headEnd is behind the first empty line, or 0 if there is none yet. It looks
// from seen on, which it sets to the beginning of the last line.
func headEnd(b []byte, seen *int) int {
	for at := *seen; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return 0
		}
		if line := b[at : at+i]; i == 0 || i == 1 && line[0] == '\r' {
			return at + i + 1
		}
		at += i + 1
		*seen = at
	}
}
