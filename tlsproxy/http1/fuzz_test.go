package http1

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// HTTP-31: whatever an application says, it is read in one way, however the
// bytes are cut, and what was read says where it ended.
func FuzzResponse(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcrest",
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nrest",
		"HTTP/1.0 200\r\nX : y\r\n z\r\n\r\nabc",
		"HTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
		"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
	} {
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, wire []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		whole, parts := readAll(bytes.NewReader(wire), 1<<10, method), readAll(iotest.OneByteReader(bytes.NewReader(wire)), 16, method)
		if !whole.same(parts) {
			t.Errorf("%q in one: %+v\nin parts: %+v", wire, whole, parts)
		}
		if whole.err == nil && !bytes.HasSuffix(wire, []byte(whole.left)) {
			t.Errorf("%q: left is %q, which is not its end", wire, whole.left)
		}
		for _, field := range whole.fields {
			if !IsToken(field.Name) || strings.ContainsAny(field.Value, "\r\n\x00") || field.Value != trim(field.Value) {
				t.Errorf("%q: field %+q", wire, field)
			}
		}
		// What was read can be written, and reads back the same.
		if whole.err == nil && whole.frame == ByChunks {
			again := readAll(bytes.NewReader(rewrite(t, whole)), 1<<10, "GET")
			if again.err != nil || again.body != whole.body {
				t.Errorf("%q: read back %+v, %v", wire, again, again.err)
			}
		}
	})
}

type outcome struct {
	err        error
	status     int
	frame      Frame
	fields     []Field
	body, left string
}

func (o outcome) same(p outcome) bool {
	if (o.err == nil) != (p.err == nil) || errors.Is(o.err, ErrProtocol) != errors.Is(p.err, ErrProtocol) {
		return false
	}
	return o.status == p.status && o.frame == p.frame && o.body == p.body && o.left == p.left && len(o.fields) == len(p.fields)
}

func readAll(src io.Reader, buffer int, method string) (o outcome) {
	var in Reader
	in.Reset(src, make([]byte, buffer))
	var res Response
	if o.err = res.Read(&in, method); o.err != nil {
		return outcome{err: o.err}
	}
	o.status, o.frame, o.fields = res.Status, res.Frame, res.Fields
	body := res.Body(&in)
	_, _, bad := body.Whole()
	var b []byte
	b, o.err = io.ReadAll(&body)
	o.body = string(b)
	if bad != nil && o.err == nil {
		o.err = errors.New("Whole refuses what can be read")
	}
	rest, _ := io.ReadAll(src)
	o.left = string(in.Buffered()) + string(rest)
	if o.err != nil {
		o.left = "" // nobody reads on
	}
	return o
}

func rewrite(t *testing.T, o outcome) []byte {
	wire := []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	if o.body != "" {
		wire = append(wire, FrameChunk(append(make([]byte, ChunkPrefix), o.body...))...)
	}
	wire, err := AppendLastChunk(wire, nil)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// Whatever a request is made of, it is refused or arrives as one request with
// exactly these parts.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/", "localhost", "X-Name", "value")
	f.Add("GET", "//a b", "a\r\nX: y", "Content-Length", "1\n")
	f.Fuzz(func(t *testing.T, method, target, host, name, value string) {
		r := Request{Method: method, Target: target, Host: host, Fields: []Field{{name, value}}}
		b, err := r.Append(nil)
		if err != nil {
			return
		}
		lines := strings.Split(string(b), "\r\n")
		want := []string{method + " " + target + " HTTP/1.1", "Host: " + host, name + ": " + value, "", ""}
		if strings.Join(lines, "|") != strings.Join(want, "|") || bytes.Count(b, []byte{'\n'}) != 4 || strings.Count(lines[0], " ") != 2 {
			t.Errorf("got %q", b)
		}
	})
}
