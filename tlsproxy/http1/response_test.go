package http1

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// read reads one answer from text that comes a bytes at a time.
func read(t testing.TB, text, method string, step int) (*Response, string, *Body, error) {
	t.Helper()
	var src io.Reader = strings.NewReader(text)
	if step == 1 {
		src = iotest.OneByteReader(src)
	}
	var in Reader
	in.Reset(src, make([]byte, 64)) // small, so that it must grow
	res := &Response{}
	if err := res.Read(&in, method); err != nil {
		return nil, "", nil, err
	}
	body := res.Body(&in)
	b, err := io.ReadAll(&body)
	return res, string(b), &body, err
}

func both(t *testing.T, check func(t *testing.T, step int)) {
	t.Helper()
	for _, step := range []int{0, 1} {
		t.Run(fmt.Sprintf("step %d", step), func(t *testing.T) { check(t, step) })
	}
}

// HTTP-31 and what else has two readings.
func TestRefused(t *testing.T) {
	both(t, func(t *testing.T, step int) {
		for name, c := range map[string]struct{ text, want string }{
			"two lengths":            {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "Content-Length: more than one"},
			"the same length twice":  {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\na", "Content-Length: more than one"},
			"a list":                 {"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", "Content-Length: not a number alone"},
			"a sign":                 {"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na", "Content-Length: not a number alone"},
			"a minus":                {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na", "Content-Length: not a number alone"},
			"hexadecimal":            {"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\na", "Content-Length: not a number alone"},
			"an underscore":          {"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\na", "Content-Length: not a number alone"},
			"nothing":                {"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\na", "Content-Length: not a number alone"},
			"a blank inside":         {"HTTP/1.1 200 OK\r\nContent-Length: 1 0\r\n\r\na", "Content-Length: not a number alone"},
			"other digits":           {"HTTP/1.1 200 OK\r\nContent-Length: \u0661\r\n\r\na", "Content-Length: not a number alone"},
			"a vertical tab":         {"HTTP/1.1 200 OK\r\nContent-Length: \v1\r\n\r\na", "Content-Length: not a number alone"},
			"more than 63 bits":      {"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\na", "Content-Length: not a number alone"},
			"a folded length":        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 0\r\n\r\na", "Content-Length: not a number alone"},
			"both":                   {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", "Content-Length: beside Transfer-Encoding"},
			"both, 204":              {"HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", "Content-Length: beside Transfer-Encoding"},
			"two codings":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: more than one"},
			"gzip":                   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: not chunked alone"},
			"identity":               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\na", "Transfer-Encoding: not chunked alone"},
			"xchunked":               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\na", "Transfer-Encoding: not chunked alone"},
			"a coding behind a tab":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: \vchunked\r\n\r\na", "Transfer-Encoding: not chunked alone"},
			"an empty coding":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\na", "Transfer-Encoding: not chunked alone"},
			"chunks of HTTP/1.0":     {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: in an answer of HTTP/1.0"},
			"a bare CR in a value":   {"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", "a bare CR in the head"},
			"a bare CR as line end":  {"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 5\r\n\r\n", "a bare CR in the head"},
			"two CR":                 {"HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n", "a bare CR in the head"},
			"a CR in the status":     {"HTTP/1.1 200 O\rK\r\n\r\n", "no status line of HTTP/1.1"},
			"a NUL":                  {"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", "a NUL in the head"},
			"no colon":               {"HTTP/1.1 200 OK\r\nX\r\n\r\n", "a field line without a colon"},
			"no name":                {"HTTP/1.1 200 OK\r\n: x\r\n\r\n", "a field name that is none"},
			"a blank in a name":      {"HTTP/1.1 200 OK\r\nX Y: x\r\n\r\n", "a field name that is none"},
			"a name beyond ASCII":    {"HTTP/1.1 200 OK\r\nContent-Length\u00a0: 1\r\n\r\n", "a field name that is none"},
			"a fold first":           {"HTTP/1.1 200 OK\r\n X: x\r\n\r\n", "the first field line begins with a blank"},
			"an empty line first":    {"\r\nHTTP/1.1 200 OK\r\n\r\n", "no status line of HTTP/1.1"},
			"HTTP/0.9":               {"hello\r\n\r\n", "no status line of HTTP/1.1"},
			"HTTP/2":                 {"HTTP/2.0 200 OK\r\n\r\n", "no status line of HTTP/1.1"},
			"lower case":             {"http/1.1 200 OK\r\n\r\n", "no status line of HTTP/1.1"},
			"a status of two digits": {"HTTP/1.1 20 OK\r\n\r\n", "no status line of HTTP/1.1"},
			"a status of four":       {"HTTP/1.1 2000 OK\r\n\r\n", "no status line of HTTP/1.1"},
			"status 099":             {"HTTP/1.1 099 OK\r\n\r\n", "a status below 100"},
			"an interim body":        {"HTTP/1.1 103 Hints\r\nContent-Length: 3\r\n\r\n", "a body with an interim answer"},
			"interim chunks":         {"HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n", "a body with an interim answer"},
			"a head without end":     {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", MaxHead), "a head above 256 KiB"},
		} {
			_, _, _, err := read(t, c.text, "GET", step)
			if err == nil || err.Error() != c.want || !errors.Is(err, ErrProtocol) {
				t.Errorf("%s: got %v, want %s", name, err, c.want)
			}
		}
	})
}

// What old applications send is read in the one way in which it can be.
func TestRead(t *testing.T) {
	both(t, func(t *testing.T, step int) {
		for name, c := range map[string]struct {
			method, text, body string
			close              bool
			fields             []Field
		}{
			"by length":        {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcrest", "abc", false, []Field{{"Content-Length", "3"}}},
			"leading zeros":    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 003\r\n\r\nabcrest", "abc", false, []Field{{"Content-Length", "003"}}},
			"lone LF":          {"GET", "HTTP/1.1 200 OK\nContent-Length: 3\nX: y\n\nabc", "abc", false, []Field{{"Content-Length", "3"}, {"X", "y"}}},
			"LF and CRLF":      {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\n\r\nabc", "abc", false, []Field{{"Content-Length", "3"}}},
			"a fold":           {"GET", "HTTP/1.1 200 OK\r\nX: a \r\n\t b\n c\r\nContent-Length:3\r\n\r\nabc", "abc", false, []Field{{"X", "a b c"}, {"Content-Length", "3"}}},
			"an empty fold":    {"GET", "HTTP/1.1 200 OK\r\nX:\r\n \r\n b\r\nContent-Length:3\r\n\r\nabc", "abc", false, []Field{{"X", "b"}, {"Content-Length", "3"}}},
			"a folded coding":  {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "", false, []Field{{"Transfer-Encoding", "chunked"}}},
			"space and colon":  {"GET", "HTTP/1.1 200 OK\r\nContent-Length \t: 3\r\n\r\nabc", "abc", false, []Field{{"Content-Length", "3"}}},
			"no reason":        {"GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", false, []Field{{"Content-Length", "0"}}},
			"bytes beyond":     {"GET", "HTTP/1.1 200 caf\xe9\r\nX: \xff\x1b\r\nContent-Length: 0\r\n\r\n", "", false, []Field{{"X", "\xff\x1b"}, {"Content-Length", "0"}}},
			"spelling is kept": {"GET", "HTTP/1.1 200 OK\r\nETag: x\r\nsec-WebSocket-key: y\r\nContent-Length: 0\r\n\r\n", "", false, []Field{{"ETag", "x"}, {"sec-WebSocket-key", "y"}, {"Content-Length", "0"}}},
			"HEAD":             {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "", false, []Field{{"Content-Length", "3"}}},
			"HEAD, chunks":     {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nabc", "", false, []Field{{"Transfer-Encoding", "chunked"}}},
			"204":              {"GET", "HTTP/1.1 204 OK\r\nContent-Length: 3\r\n\r\nabc", "", false, []Field{{"Content-Length", "3"}}},
			"304":              {"GET", "HTTP/1.1 304 OK\r\nContent-Length: 3\r\n\r\n", "", false, []Field{{"Content-Length", "3"}}},
			"until close":      {"GET", "HTTP/1.1 200 OK\r\n\r\nabc", "abc", true, nil},
			"HTTP/1.0":         {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", true, []Field{{"Content-Length", "3"}}},
			"HTTP/1.0 kept":    {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: x, Keep-Alive\r\n\r\nabc", "abc", false, []Field{{"Content-Length", "3"}, {"Connection", "x, Keep-Alive"}}},
			"close":            {"GET", "HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: y, CLOSE\r\nContent-Length: 0\r\n\r\n", "", true, []Field{{"Connection", "x"}, {"Connection", "y, CLOSE"}, {"Content-Length", "0"}}},
			"chunks": {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b\r\na\r\n0002 ; c\r\nbc\r\n000\r\n\r\nrest", "abc", false,
				[]Field{{"Transfer-Encoding", "Chunked"}}},
		} {
			res, body, _, err := read(t, c.text, c.method, step)
			if err != nil || body != c.body || res.Close != c.close || fmt.Sprint(res.Fields) != fmt.Sprint(c.fields) {
				t.Errorf("%s: got %+v, body %q, %v", name, res, body, err)
			}
		}
	})
}

// HTTP-31: chunks are written in one way.
func TestChunksRefused(t *testing.T) {
	both(t, func(t *testing.T, step int) {
		for _, chunks := range []string{
			"3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabc\r\n0\n\r\n", "3\r\nabc\r\n0\r\n\n", "3\r\nabc\r\n0\r\nX: y\n\r\n",
			"3\r\nabcd\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n", "-3\r\nabc\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n",
			" 3\r\nabc\r\n0\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n", "3 x\r\nabc\r\n0\r\n\r\n", "\r\nabc\r\n0\r\n\r\n", ";a\r\nabc\r\n0\r\n\r\n", "g\r\nabc\r\n0\r\n\r\n",
			"3;a\rb\r\nabc\r\n0\r\n\r\n", "3;a\x00\r\nabc\r\n0\r\n\r\n", "3;\r\nabc\r\n0\r\n\r\n", "3\r\nabc0\r\n\r\n", "3\r\r\nabc\r\n0\r\n\r\n",
			"8000000000000000\r\nabc\r\n0\r\n\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n", "3;" + strings.Repeat("a", maxChunkLine) + "\r\nabc\r\n0\r\n\r\n",
			"\x103\r\nabc\r\n0\r\n\r\n", "3x\nabc\r\n0\r\n\r\n", "\u0663\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\nX y\r\n\r\n", "3\r\nabc\r\n0\r\nX: a\x00\r\n\r\n", "3\r\nabc\r\n0\r\n X: a\r\n\r\n",
		} {
			if _, body, _, err := read(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunks, "GET", step); !errors.Is(err, ErrProtocol) {
				t.Errorf("%q: %q, %v", chunks, body, err)
			}
		}
	})
}

// A body that ends too early never looks complete.
func TestTruncated(t *testing.T) {
	both(t, func(t *testing.T, step int) {
		const head = "HTTP/1.1 200 OK\r\n"
		for _, whole := range []string{head + "Content-Length: 3\r\n\r\nabc", head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nA: b\r\n\r\n"} {
			if _, _, _, err := read(t, whole, "GET", step); err != nil {
				t.Fatal(err)
			}
			for n := strings.Index(whole, "\r\n\r\n") + 4; n < len(whole); n++ {
				if _, body, _, err := read(t, whole[:n], "GET", step); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%q: %q, %v", whole[:n], body, err)
				}
			}
		}
	})
}

func TestTrailers(t *testing.T) {
	both(t, func(t *testing.T, step int) {
		_, text, body, err := read(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\nC:  d\r\n\r\n", "GET", step)
		if err != nil || text != "a" || fmt.Sprint(body.Trailers) != "[{A b} {C d}]" {
			t.Errorf("%q, %v, %v", text, body.Trailers, err)
		}
	})
}

// Reading takes no byte that is not of the answer.
func TestNothingBeyondIsRead(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + strings.Repeat("x", 100000) + "\r\n0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
	} {
		src := strings.NewReader(answer + "HTTP/1.1 200 the next")
		var in Reader
		in.Reset(src, make([]byte, 64))
		var res Response
		if err := res.Read(&in, "GET"); err != nil {
			t.Fatal(err)
		}
		body := res.Body(&in)
		if _, err := io.Copy(io.Discard, &body); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(src)
		if got := string(in.Buffered()) + string(rest); got != "HTTP/1.1 200 the next" {
			t.Errorf("left are %d bytes", len(got))
		}
	}
}

// Whole says of what is buffered exactly what reading it would.
func TestWhole(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		text    string
		whole   bool
		surplus int
		bad     bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcde", true, 2, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false, 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nab", true, 2, false},
		{"HTTP/1.1 204 OK\r\n\r\nab", true, 2, false},
		{"HTTP/1.1 200 OK\r\n\r\nab", false, 0, false},
		{head + "3\r\nabc\r\n0\r\n\r\n", true, 0, false},
		{head + "3\r\nabc\r\n0\r\n\r\nxy", true, 2, false},
		{head + "3\r\nabc\r\n0\r\nA: b\r\n\r\nxy", true, 2, false},
		{head + "3\r\nabc\r\n0\r\n", false, 0, false},
		{head + "3\r\nab", false, 0, false},
		{head, false, 0, false},
		{head + "3\r\nabc\r\ng\r\n", false, 0, true},
		{head + "3\r\nabcd", false, 0, false},
		{head + "3\r\nabcde", false, 0, true},
	} {
		var in Reader
		in.Reset(strings.NewReader(c.text), make([]byte, 512))
		var res Response
		if err := res.Read(&in, "GET"); err != nil {
			t.Fatal(err)
		}
		before := string(in.Buffered())
		body := res.Body(&in)
		whole, surplus, err := body.Whole()
		if whole != c.whole || surplus != c.surplus || (err != nil) != c.bad {
			t.Errorf("%q: %t, %d, %v", c.text, whole, surplus, err)
		}
		if string(in.Buffered()) != before {
			t.Errorf("%q: the buffer was changed", c.text)
		}
	}
}

func BenchmarkResponse(b *testing.B) {
	text := "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 28 Nov 2026 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n" +
		"Last-Modified: Sat, 28 Nov 2026 00:00:00 GMT\r\nConnection: keep-alive\r\nETag: \"5f5e1000-400\"\r\nAccept-Ranges: bytes\r\n\r\n" + strings.Repeat("x", 1024)
	src := strings.NewReader(text)
	buf := make([]byte, 16<<10)
	var in Reader
	var res Response
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(text)
		in.Reset(src, buf)
		if err := res.Read(&in, "GET"); err != nil {
			b.Fatal(err)
		}
	}
}
