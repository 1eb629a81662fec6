package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What is written is what was given, byte for byte.
func TestRequest(t *testing.T) {
	for want, r := range map[string]Request{
		"GET //a/b?c HTTP/1.1\r\nHost: A.Example.:80\r\nx-y: \xff z\r\n\r\n":                            {Method: "GET", Target: "//a/b?c", Host: "A.Example.:80", Fields: []Field{{"x-y", "\xff z"}}},
		"OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n":                                                          {Method: "OPTIONS", Target: "*"},
		"POST /a|b\"c^{x}?%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n":                         {Method: "POST", Target: `/a|b"c^{x}?%zz`, Host: "a", Length: 3},
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n":                                       {Method: "POST", Target: "/", Host: "a", SayZero: true},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: A, B\r\n\r\n":             {Method: "POST", Target: "/", Host: "a", Length: Chunked, Trailers: []string{"A", "B"}},
		"PURGE / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nUpgrade: y\r\n\r\n":        {Method: "PURGE", Target: "/", Host: "a", Fields: []Field{{"Connection", "Upgrade"}, {"Upgrade", "x"}, {"Upgrade", "y"}}},
		"GET /\x80 HTTP/1.1\r\nHost: a\r\nEmpty: \r\nTab: a\tb\r\n\r\n":                                 {Method: "GET", Target: "/\x80", Host: "a", Fields: []Field{{"Empty", ""}, {"Tab", "a\tb"}}},
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\nX: b\r\nTe: trailers\r\nContent-Type: text/plain\r\n\r\n": {Method: "GET", Target: "/", Host: "a", Fields: []Field{{"X", "a"}, {"X", "b"}, {"Te", "trailers"}, {"Content-Type", "text/plain"}}},
	} {
		if got, err := r.Append(nil); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

// What would mean something else on the way is refused, and its value is in no error.
func TestRequestRefused(t *testing.T) {
	good := Request{Method: "GET", Target: "/", Host: "a"}
	with := func(change func(*Request)) Request {
		r := good
		change(&r)
		return r
	}
	field := func(name, value string) Request {
		return with(func(r *Request) { r.Fields = []Field{{name, value}} })
	}
	for name, r := range map[string]Request{
		"no method":        with(func(r *Request) { r.Method = "" }),
		"a blank method":   with(func(r *Request) { r.Method = "GET /secret" }),
		"no target":        with(func(r *Request) { r.Target = "" }),
		"a blank":          with(func(r *Request) { r.Target = "/secret x" }),
		"CRLF":             with(func(r *Request) { r.Target = "/secret\r\nX: y" }),
		"DEL":              with(func(r *Request) { r.Target = "/secret\x7f" }),
		"CRLF in Host":     with(func(r *Request) { r.Host = "secret\r\nX: y" }),
		"LF in Host":       with(func(r *Request) { r.Host = "secret\n" }),
		"NUL in Host":      with(func(r *Request) { r.Host = "secret\x00" }),
		"CR in a value":    field("X", "secret\r"),
		"LF in a value":    field("X", "secret\nX-User: root"),
		"NUL in a value":   field("X", "secret\x00"),
		"a blank name":     field("X Y", "secret"),
		"a colon":          field("X:", "secret"),
		"no name":          field("", "secret"),
		"LF in a name":     field("X\nY", "secret"),
		"another Host":     field("hOst", "secret"),
		"another length":   field("content-Length", "secret"),
		"another coding":   field("TRANSFER-encoding", "secret"),
		"a name with 0x80": field("X\x80", "secret"),
	} {
		if b, err := r.Append(nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// Chunks of all sizes read back, by the other implementation too.
func TestFrameChunk(t *testing.T) {
	var wire, want bytes.Buffer
	wire.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for _, n := range []int{1, 15, 16, 17, 255, 256, 4095, 4096, 32750} {
		b := make([]byte, ChunkPrefix+n, ChunkPrefix+n+2)
		for i := range n {
			b[ChunkPrefix+i] = byte(i)
		}
		want.Write(b[ChunkPrefix:])
		wire.Write(FrameChunk(b))
	}
	last, err := AppendLastChunk(nil, []Field{{"X-Sum", "1"}, {"Content-Length", "9"}, {"host", "evil"}, {"Transfer-Encoding", "x"}, {"Trailer", "x"}})
	if err != nil {
		t.Fatal(err)
	}
	wire.Write(last)
	_, body, b, err := read(t, wire.String(), "GET", 0)
	if err != nil || body != want.String() || len(b.Trailers) != 1 || b.Trailers[0] != (Field{"X-Sum", "1"}) {
		t.Errorf("%d of %d bytes, trailers %v, %v", len(body), want.Len(), b.Trailers, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(&wire), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if theirs, err := io.ReadAll(res.Body); err != nil || string(theirs) != want.String() || res.Trailer.Get("X-Sum") != "1" {
		t.Errorf("net/http reads %d bytes, trailers %v, %v", len(theirs), res.Trailer, err)
	}
	if _, err := AppendLastChunk(nil, []Field{{"X", "a\r\nb"}}); err == nil {
		t.Error("a trailer leaves its line")
	}
}
