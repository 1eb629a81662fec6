package tlsproxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"

	"sidegate/tlsproxy/http1"
	"sidegate/tlsproxy/upstream"
)

// roundTrip1 lets the client of HTTP/1.1 stand where ReverseProxy wants an
// http.RoundTripper.
func (f *forwarder) roundTrip1(r *http.Request) (*http.Response, error) {
	x := exchangeOf(r)
	res, err := f.http1.Do(r.Context(), x.outgoing(r))
	if err != nil {
		return nil, err
	}
	// Not by way of out.Header, which is copied field by field.
	takeFields(x.answer.Header(), res.Fields, res.Status == http.StatusSwitchingProtocols)
	out := &http.Response{StatusCode: res.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r}
	switch {
	case res.Tunnel != nil:
		out.Body = res.Tunnel
	case res.Frame == http1.NoBody || res.Length == 0:
		out.Body = http.NoBody
		return out, res.Body.Close()
	default:
		out.ContentLength = res.Length // -1 unless it was said
		if res.Frame == http1.ByChunks {
			out.Trailer = announced(res.Fields)
		}
		out.Body = &answerBody{Body: res.Body, x: x, res: out}
	}
	return out, nil
}

// outgoing is the request as the client of HTTP/1.1 takes it. Target and Host
// are those that were received, byte for byte.
func (x *exchange) outgoing(r *http.Request) *upstream.Request {
	q := &upstream.Request{
		Head:    http1.Request{Method: r.Method, Target: x.in.RequestURI, Host: r.Host, Fields: requestFields(r.Header)},
		Upgrade: r.Header["Upgrade"] != nil,
		Owner:   upstream.Owner{Caller: &x.conn.caller, Client: x.req.Client},
	}
	if u := x.id.User; u != nil {
		q.Owner.Via, q.Owner.User = u.Method, u.Name
	}
	if x.in.ProtoAtLeast(1, 1) { // an older client does not know of 1xx
		q.Interim = x.interim(r)
	}
	if r.Body == nil {
		q.Head.SayZero = x.in.Header["Content-Length"] != nil || r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch
		return q
	}
	q.Body, q.Head.Length = r.Body, r.ContentLength
	q.Expect = strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	if len(r.Trailer) > 0 {
		for name := range r.Trailer {
			q.Head.Trailers = append(q.Head.Trailers, name)
		}
		q.Trailers = func() []http1.Field { return requestFields(r.Trailer) }
	}
	return q
}

// requestFields are those that a request's head is written with. What follows
// from the body, and Host, are written by themselves.
func requestFields(h http.Header) []http1.Field {
	fields := make([]http1.Field, 0, len(h)+4)
	for name, values := range h {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "User-Agent":
			if len(values) == 1 && values[0] == "" { // ReverseProxy's sign for none
				continue
			}
		}
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			name = "Sec-WebSocket-" + rest // as it is usually spelled, and net/http does not
		}
		for _, v := range values {
			fields = append(fields, http1.Field{Name: name, Value: v})
		}
	}
	return fields
}

// interim passes 1xx answers on by the way that ReverseProxy has for them.
func (x *exchange) interim(r *http.Request) func(int, []http1.Field) {
	trace := httptrace.ContextClientTrace(r.Context())
	if trace == nil || trace.Got1xxResponse == nil {
		return nil
	}
	return func(status int, fields []http1.Field) {
		h := make(http.Header, len(fields))
		takeFields(h, fields, false)
		x.gate.stripAnswer(h)
		_ = trace.Got1xxResponse(status, textproto.MIMEHeader(h)) // ReverseProxy's never errs
	}
}

// lookedUp are the fields that net/http, ReverseProxy or we look for in an
// answer, and so must be under their canonical name.
var lookedUp = func() map[string]bool {
	names := map[string]bool{}
	for _, n := range []string{
		"Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Date", "Location", "Server",
		"Set-Cookie", "Strict-Transport-Security", "Upgrade", "Vary", "X-Request-Id",
	} {
		names[n] = true
	}
	return names
}()

// answerName is how a field of an answer is called from here on: as the
// application spells it, unless somebody looks for it.
func answerName(name string) string {
	if canonical := textproto.CanonicalMIMEHeaderKey(name); lookedUp[canonical] {
		return canonical
	}
	return name
}

// takeFields puts the fields of an answer into h but for what is about the
// connection alone, of which an upgrade keeps what makes it one.
func takeFields(h http.Header, fields []http1.Field, upgrade bool) {
	values := make([]string, len(fields)) // one allocation for all that come once
	for i := range fields {
		f := &fields[i]
		if onlyHere(fields, f.Name) && !(upgrade && strings.EqualFold(f.Name, "Upgrade")) {
			continue
		}
		name := answerName(f.Name)
		if prior := h[name]; prior != nil {
			h[name] = append(prior, f.Value)
			continue
		}
		values[i] = f.Value
		h[name] = values[i : i+1 : i+1]
	}
}

// onlyHere reports whether a field is about the connection, by itself or because
// Connection names it.
func onlyHere(fields []http1.Field, name string) bool {
	return http1.OnlyHere(name) || http1.HasToken(fields, "Connection", name)
}

// announced are the fields that are to come behind the body, without values.
func announced(fields []http1.Field) http.Header {
	var h http.Header
	for i := range fields {
		if !strings.EqualFold(fields[i].Name, "Trailer") {
			continue
		}
		for name := range strings.SplitSeq(fields[i].Value, ",") {
			if name = textproto.TrimString(name); http1.IsToken(name) && http1.MayTrail(name) {
				if h == nil {
					h = http.Header{}
				}
				h[http.CanonicalHeaderKey(name)] = nil
			}
		}
	}
	return h
}

// answerBody is the body of an answer as net/http has it, with trailers, and
// with a note why it did not come to its end.
type answerBody struct {
	*upstream.Body
	x   *exchange
	res *http.Response
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	switch {
	case err == io.EOF:
		b.trailers()
	case err != nil:
		b.x.truncated(err)
	}
	return n, err
}

func (b *answerBody) trailers() {
	for _, f := range b.Body.Trailers() {
		if !http1.MayTrail(f.Name) {
			continue
		}
		if b.res.Trailer == nil {
			b.res.Trailer = http.Header{}
		}
		b.res.Trailer.Add(f.Name, f.Value)
	}
	b.x.gate.stripAnswer(b.res.Trailer)
}

// truncated notes that the application's answer has broken off. ReverseProxy
// aborts the client's, which shows in the framing of HTTP/1.1 and HTTP/2; one of
// HTTP/1.0 may end with the connection, and then that must not look like an end.
func (x *exchange) truncated(err error) {
	if x.ctx.Err() != nil {
		x.reason = clientGone
		return
	}
	x.reason = answerTruncated
	x.gate.log.Warn("answer cut short", "err", err, "reason", x.reason, "bytes", x.answer.bytes, "request_id", x.requestID)
	if !x.in.ProtoAtLeast(1, 1) {
		x.conn.cut()
	}
}

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
