package tlsproxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// beginH2 opens an HTTP/2 connection by hand.
func beginH2(t *testing.T, conn net.Conn) *http2.Framer {
	t.Helper()
	_, err := conn.Write([]byte(http2.ClientPreface))
	must(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, framer.WriteSettings())
	return framer
}

// fields encodes header fields; each call stands alone, so the table is not used.
func fields(t testing.TB, list [][2]string) []byte {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range list {
		must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}))
	}
	return block.Bytes()
}

// h2Request sends one HTTP/2 request of exactly these fields and returns its
// status, or "reset".
func (w *world) h2Request(t *testing.T, list [][2]string) string {
	t.Helper()
	c := w.config(nil)
	c.NextProtos = []string{"h2"}
	return h2Status(t, w.dial(c), list)
}

// h2Status is the same by a connection that is there.
func h2Status(t *testing.T, conn net.Conn, list [][2]string) string {
	t.Helper()
	framer := beginH2(t, conn)
	writeHead(t, framer, fields(t, list))
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}

// writeHead sends the head of stream 1, in as many frames as it takes.
func writeHead(t *testing.T, framer *http2.Framer, block []byte) {
	t.Helper()
	const largest = 16 << 10 // RFC 9113 4.2
	first := block[:min(len(block), largest)]
	block = block[len(first):]
	must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(block) == 0, EndStream: true}))
	for len(block) > 0 {
		part := block[:min(len(block), largest)]
		block = block[len(part):]
		must(t, framer.WriteContinuation(1, len(block) == 0, part))
	}
}

// OPS-01, OPS-02: floods over one connection leave memory and goroutines as
// they were, and another client is served meanwhile.
func TestH2Floods(t *testing.T) {
	w := newWorld(t, upstream(echo(t).URL), allow("anyone"))
	request := fields(t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}})
	headers := func(f *http2.Framer, i int) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: request, EndHeaders: true, EndStream: true})
	}
	floods := map[string]func(f *http2.Framer, i int) error{
		"rapid reset": func(f *http2.Framer, i int) error {
			return errors.Join(headers(f, i), f.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel))
		},
		"settings": func(f *http2.Framer, _ int) error { return f.WriteSettings() },
		"ping":     func(f *http2.Framer, _ int) error { return f.WritePing(false, [8]byte{}) },
		"continuation": func(f *http2.Framer, i int) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request})
			}
			return f.WriteContinuation(1, false, fields(t, [][2]string{{"x-flood", strings.Repeat("x", 1000)}}))
		},
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			c := w.config(nil)
			c.NextProtos = []string{"h2"}
			framer := beginH2(t, w.dial(c)) // its answers are not read: the worst kind of client
			most := 0
			for i := range 10_000 {
				if flood(framer, i) != nil {
					break // it was cut off
				}
				if i%1000 == 0 {
					most = max(most, runtime.NumGoroutine())
				}
			}
			if res := w.get("/"); res.StatusCode != http.StatusOK {
				t.Errorf("another client got %d", res.StatusCode)
			}
			if most > before+1000 {
				t.Errorf("%d goroutines, %d before", most, before)
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapInuse > 256<<20 {
				t.Errorf("%d MB of heap", m.HeapInuse>>20)
			}
			t.Logf("at most %d goroutines, %d before; %d MB of heap", most, before, m.HeapInuse>>20)
		})
	}
}

// OPS-20: requests and changes of the header table's size in turn. In a Go
// before 1.26.9 and 1.27.2 two goroutines change one HPACK encoder: the race
// detector sees it here, and a busy server ended (GO-2026-6617).
func TestH2HeaderTableSizeBesideRequests(t *testing.T) {
	w := newWorld(t, upstream(echo(t).URL), allow("authenticated")) // the flood has no credential
	request := fields(t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}})
	var clients sync.WaitGroup
	for range 4 {
		c := w.config(nil)
		c.NextProtos = []string{"h2"}
		conn := w.dial(c)
		framer := beginH2(t, conn)
		clients.Go(func() { _, _ = io.Copy(io.Discard, conn) }) // until it is closed
		clients.Go(func() {
			defer conn.Close()
			for i := range uint32(500) {
				if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: request, EndHeaders: true, EndStream: true}) != nil ||
					framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: i % 2 * 4096}) != nil {
					return // it was cut off
				}
			}
		})
	}
	clients.Wait()
	if res := w.get("/"); res.StatusCode != http.StatusOK {
		t.Errorf("a user after the flood got %d", res.StatusCode)
	}
}
