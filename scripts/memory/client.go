package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// dialer opens connections to a gate from many loopback addresses, since one
// has not ports enough.
type dialer struct {
	addr  string
	certs []tls.Certificate // presented to the gate; empty: none
	count atomic.Uint32
}

func (d *dialer) dial(ctx context.Context, protocol string) (*tls.Conn, error) {
	n := d.count.Add(1)
	dial := &tls.Dialer{
		NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}, Timeout: 20 * time.Second},
		// The gate's certificate is made for the measurement.
		Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: d.certs},
	}
	c, err := dial.DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":s3cret"))
}

// ask sends one HTTP/1.1 request and reads the answer.
func ask(c net.Conn, in *bufio.Reader, path, user string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\n\r\n", path, basic(user)); err != nil {
		return err
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}

// h2conn is a connection of HTTP/2, frame by frame.
type h2conn struct {
	net.Conn
	*http2.Framer
}

func newH2(c net.Conn) (*h2conn, error) {
	h := &h2conn{c, http2.NewFramer(c, c)}
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err
	}
	return h, h.WriteSettings()
}

// fields is a head as HPACK writes it.
func fields(method, path, user string, more ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	list := append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", path, "authorization", basic(user)}, more...)
	for i := 0; i < len(list); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: list[i], Value: list[i+1]}) // a buffer takes everything
	}
	return b.Bytes()
}

// ask sends one request and waits for the end of its answer.
func (h *h2conn) ask(stream uint32, path, user string) error {
	err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: fields("GET", path, user), EndHeaders: true, EndStream: true})
	if err != nil {
		return err
	}
	return h.await(stream)
}

// await reads until a stream has ended.
func (h *h2conn) await(stream uint32) error {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = h.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			err = errors.New("GOAWAY")
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("reset: %s", f.ErrCode)
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status != "200" {
				return fmt.Errorf("answered %s", status)
			}
		}
		if err != nil {
			return err
		}
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() && d.StreamID == stream {
			return nil
		}
	}
}

// longField is a field line of HTTP/1.1 of about a KiB.
var longField = "X-Long: " + strings.Repeat("y", 1014) + "\r\n"
