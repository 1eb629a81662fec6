package tlsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"sidegate/tlsproxy"
)

// early is an application that reads the first bytes of an upload, answers with
// a trailer, and ends its answer while the client's side is open. It tells when.
func early(t *testing.T) (address string, ended chan bool) {
	t.Helper()
	ended = make(chan bool, 1)
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 is anyway
		_, _ = io.ReadFull(r.Body, make([]byte, 4))
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		fmt.Fprint(w, "begun, ")
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(make([]byte, earlyLength))
		w.Header().Set("Grpc-Status", "0")
		ended <- true
	}))
	app.Config.Protocols = new(http.Protocols)
	app.Config.Protocols.SetHTTP1(true)
	app.Config.Protocols.SetUnencryptedHTTP2(true)
	app.Start()
	t.Cleanup(app.Close)
	return app.URL, ended
}

const earlyLength = 3 << 20 // which HTTP/2 takes at once

// OPS-15, OPS-19: an answer that the application has ended is at its end for
// the client, too, whose upload stands still: a stream of events by gRPC whose
// client only listens is closed by the server.
func TestAnswerEndsWhileTheUploadStandsStill(t *testing.T) {
	limits := tlsproxy.Limits{BodyIdle: time.Hour}
	for _, c := range []struct{ proto, kind, to string }{
		{"h2", "application/grpc", "http"},
		{"h2", "text/plain", "h2c"},
		{"http/1.1", "text/plain", "h2c"},
		{"h2", "text/plain", "http"},
		{"http/1.1", "text/plain", "http"},
	} {
		t.Run(c.proto+" "+c.kind+" to "+c.to, func(t *testing.T) {
			app, ended := early(t)
			w := newWorldIn(t, limits, upstream(app), allow("anyone"), func(g *tlsproxy.Gate) { g.Upstream.H2C = c.to == "h2c" })
			body, feed := io.Pipe()
			t.Cleanup(func() { _ = feed.Close() })
			go func() { _, _ = io.WriteString(feed, "some") }() // and no more
			r := w.request("POST", "/", body)
			r.Header.Set("Content-Type", c.kind)
			r.Header.Set("Te", "trailers")
			res := w.do(w.client(w.config(nil), c.proto), r)
			if c.to == "h2c" || c.kind == "application/grpc" {
				<-ended
			}
			if got := len(text(t, res)); got != len("begun, ")+earlyLength || res.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("got %d bytes, trailers %v", got, res.Trailer)
			}
		})
	}
}

// OPS-15: nor does a stream that the application breaks off wait for the upload,
// and the fault is the application's.
func TestBrokenStreamWhileTheUploadStandsStill(t *testing.T) {
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 4))
		panic(http.ErrAbortHandler)
	}))
	app.Config.Protocols = new(http.Protocols)
	app.Config.Protocols.SetUnencryptedHTTP2(true)
	app.Start()
	t.Cleanup(app.Close)
	w := newWorldIn(t, tlsproxy.Limits{BodyIdle: time.Hour}, upstream(app.URL), allow("anyone"), func(g *tlsproxy.Gate) { g.Upstream.H2C = true })
	for _, proto := range []string{"h2", "http/1.1"} {
		body, feed := io.Pipe()
		t.Cleanup(func() { _ = feed.Close() })
		go func() { _, _ = io.WriteString(feed, "some") }()
		res := w.do(w.client(w.config(nil), proto), w.request("POST", "/"+proto, body))
		if res.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: got %d", proto, res.StatusCode)
		}
	}
	w.log.WaitFor(t, 2, `"reason":"upstream_down"`)
}
