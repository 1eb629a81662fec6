package tlsproxy

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"sidegate/tlsproxy/http1"
)

// roundTrip2 sends a request by net/http's HTTP/2, and refuses an answer whose
// fields would decide where it ends once it is one of HTTP/1.1.
func roundTrip2(t *http.Transport, r *http.Request) (*http.Response, error) {
	res, err := t.RoundTrip(r)
	if err != nil && isGRPC(r.Header) && isCancel(err) {
		return cancelled(r), nil
	}
	if err != nil {
		return nil, &quietError{err}
	}
	if err := checkFraming(res.Header); err != nil {
		_ = res.Body.Close() // it is not passed on
		return nil, err
	}
	res.Body = &h2cBody{ReadCloser: res.Body, x: exchangeOf(r), res: res}
	return res, nil
}

// streamError has the form of net/http's error about a stream, which fills it in
// for errors.As.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamError) Error() string { return "stream error" }

// isCancel reports whether the application has ended the stream by CANCEL, as
// servers of gRPC do when a deadline has passed.
func isCancel(err error) bool {
	const cancel = 8 // RFC 9113 7
	var s streamError
	return errors.As(err, &s) && s.Code == cancel
}

// cancelled is the answer to a gRPC request whose stream the application has
// ended by CANCEL: fields alone.
func cancelled(r *http.Request) *http.Response {
	h := cancelStatus(r)
	h["Content-Type"] = []string{"application/grpc"}
	return &http.Response{StatusCode: http.StatusOK, Proto: "HTTP/2.0", ProtoMajor: 2, Header: h, Body: http.NoBody, Request: r}
}

// cancelStatus is what a client of gRPC makes of CANCEL: with a deadline of its
// own, that this has passed.
func cancelStatus(r *http.Request) http.Header {
	const cancelled, deadlineExceeded = "1", "4"
	if r.Header.Get("Grpc-Timeout") != "" {
		return http.Header{"Grpc-Status": {deadlineExceeded}}
	}
	return http.Header{"Grpc-Status": {cancelled}}
}

// checkFraming refuses what RFC 9113 8.2.2 forbids and a length that is not one.
func checkFraming(h http.Header) error {
	if h["Transfer-Encoding"] != nil {
		return &http1.ProtocolError{Field: "Transfer-Encoding", Problem: "in an answer of HTTP/2"}
	}
	lengths := h["Content-Length"]
	if len(lengths) > 1 {
		return &http1.ProtocolError{Field: "Content-Length", Problem: "more than one"}
	}
	if len(lengths) == 1 {
		if _, ok := http1.ParseLength(lengths[0]); !ok {
			return &http1.ProtocolError{Field: "Content-Length", Problem: "not a number alone"}
		}
	}
	return nil
}

// h2cUpload is a request's body as net/http's HTTP/2 closes it: when the answer
// has ended or the stream has failed, and then it waits for the Read that is
// under way before it says so.
type h2cUpload struct{ *requestBody }

func (u h2cUpload) Close() error {
	u.stop()
	return nil
}

// h2cBody notes why the body of an answer of HTTP/2 did not come to its end.
type h2cBody struct {
	io.ReadCloser
	x   *exchange
	res *http.Response
}

func (b *h2cBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && isGRPC(b.res.Request.Header) && isCancel(err) {
		b.res.Trailer = cancelStatus(b.res.Request)
		return n, io.EOF
	}
	if err == io.EOF {
		b.x.gate.stripAnswer(b.res.Trailer)
	}
	if err != nil && err != io.EOF {
		err = &quietError{err}
		b.x.truncated(err)
	}
	return n, err
}

// quietError is an error of net/http without what it quotes of the answer.
type quietError struct{ err error }

func (e *quietError) Error() string {
	text := e.err.Error()
	if i := strings.IndexAny(text, "\"'`"); i >= 0 {
		text = text[:i] + "…"
	}
	return text
}

func (e *quietError) Unwrap() error { return e.err }
