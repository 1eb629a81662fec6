package tlsproxy

import (
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"sidegate/tlsproxy/http1"
	"sidegate/tlsproxy/upstream"
)

// forward1 sends the request on as HTTP/1.1, and its answer back.
func (x *exchange) forward1() {
	began := time.Now()
	res, err := x.gate.forward.http1.Do(&x.ctx, x.outgoing())
	if err != nil {
		x.failed(err)
		return
	}
	x.gate.metrics.Upstream(time.Since(began))
	h := x.answer.Header()
	takeFields(h, res.Fields, res.Tunnel != nil)
	if res.Tunnel != nil {
		x.tunnel(res)
		return
	}
	x.settleAnswer(h, res.Status)
	defer res.Body.Close()
	names := slices.DeleteFunc(announced(res), x.gate.stripper.isIdentity)
	if len(names) > 0 {
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	x.answer.WriteHeader(res.Status)
	if res.Frame != http1.NoBody {
		x.copyAnswer(res)
		x.trailers(names, res.Body.Trailers())
	}
}

// outgoing is the request as it goes on. Target and Host are those that were
// received, byte for byte.
func (x *exchange) outgoing() *upstream.Request {
	in := x.in
	h, trailer := endToEnd(in.Header), in.Trailer.Clone()
	restoreForwarding(h, in.Header)
	x.rewrite(h, trailer)
	q := &upstream.Request{
		Head:    http1.Request{Method: in.Method, Target: in.RequestURI, Host: in.Host, Fields: requestFields(h)},
		Upgrade: h["Upgrade"] != nil,
		Owner:   upstream.Owner{Caller: &x.conn.caller, Client: x.req.Client},
	}
	if u := x.id.User; u != nil {
		q.Owner.Via, q.Owner.User = u.Method, u.Name
	}
	if in.ProtoAtLeast(1, 1) { // an older client does not know of 1xx
		q.Interim = x.interim
	}
	if x.body == nil {
		q.Head.SayZero = in.Header["Content-Length"] != nil || in.Method == http.MethodPost || in.Method == http.MethodPut || in.Method == http.MethodPatch
		return q
	}
	q.Body, q.Head.Length, q.Interrupt = x.body, in.ContentLength, x.body.interrupt
	q.Buffers = x.buffersFor(in.ContentLength)
	q.Expect = strings.EqualFold(in.Header.Get("Expect"), "100-continue")
	if len(trailer) > 0 {
		q.Head.Length = http1.Chunked // else there is no room for them
		for name := range trailer {
			q.Head.Trailers = append(q.Head.Trailers, name)
		}
		q.Trailers = func() []http1.Field { return requestFields(trailer) }
	}
	return q
}

// endToEnd copies the fields of a request but for those about its connection
// (RFC 9110 7.6.1). What is left of them says that trailers are understood, and
// what protocol to change to.
func endToEnd(in http.Header) http.Header {
	h := make(http.Header, len(in)+8) // with those that we add
	maps.Copy(h, in)
	for _, list := range in["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	for _, name := range [...]string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		delete(h, name)
	}
	if hasToken(in["Te"], "trailers") {
		h["Te"] = []string{"trailers"}
	}
	if protocols := in["Upgrade"]; protocols != nil {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, protocols
	}
	return h
}

// requestFields are those that a request's head is written with. What follows
// from the body, and Host, are written by themselves.
func requestFields(h http.Header) []http1.Field {
	fields := make([]http1.Field, 0, len(h)+4)
	for name, values := range h {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
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

// interim passes a 1xx answer on.
func (x *exchange) interim(status int, fields []http1.Field) {
	h := x.answer.Header()
	takeFields(h, fields, false)
	x.gate.stripAnswer(h)
	x.answer.WriteHeader(status)
	clear(h)
}

// copyAnswer copies the body. What has come goes on before the next part is
// waited for; but a body with a length is only let go once before its end, since
// it is likely to come at once.
func (x *exchange) copyAnswer(res *upstream.Response) {
	buffers := &smallBuffers
	buf := buffers.Get()
	defer func() { buffers.Put(buf) }()
	flushed := false
	for {
		if x.answer.bytes >= smallBody && buffers == &smallBuffers && x.mayHaveLarge() {
			buffers.Put(buf)
			buffers = &largeBuffers
			buf = buffers.Get()
		}
		if !res.Body.Ready() && !(flushed && res.Frame == http1.ByLength) {
			_ = x.answer.FlushError()
			flushed = true
		}
		n, err := res.Body.Read(buf)
		if n > 0 {
			if _, err := x.answer.Write(buf[:n]); err != nil {
				panic(http.ErrAbortHandler) // the client has gone
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			x.truncated(err)
			panic(http.ErrAbortHandler) // so that it does not look complete
		}
	}
}

// announced are the names of the fields that are to come behind the body.
func announced(res *upstream.Response) (names []string) {
	if res.Frame != http1.ByChunks {
		return nil
	}
	for i := range res.Fields {
		if !strings.EqualFold(res.Fields[i].Name, "Trailer") {
			continue
		}
		for name := range strings.SplitSeq(res.Fields[i].Value, ",") {
			if name = textproto.TrimString(name); http1.IsToken(name) && http1.MayTrail(name) {
				names = append(names, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	return names
}

// trailers passes on what came behind the body, announced or not.
func (x *exchange) trailers(announced []string, fields []http1.Field) {
	h := http.Header{}
	for _, f := range fields {
		if http1.MayTrail(f.Name) {
			h.Add(f.Name, f.Value)
		}
	}
	x.gate.stripAnswer(h)
	if len(h) > 0 {
		_ = x.answer.FlushError() // else net/http may say a length, which has no room for them
	}
	for name, values := range h {
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		x.answer.Header()[name] = values
	}
}

// lookedUp are the fields that net/http or we look for in an
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
	if lookedUp[name] { // as nearly all of them are spelled
		return name
	}
	if canonical := textproto.CanonicalMIMEHeaderKey(name); lookedUp[canonical] {
		return canonical
	}
	return name
}

// takeFields puts the fields of an answer into h but for what is about the
// connection alone, by itself or because Connection names it; of which an
// upgrade keeps what makes it one.
func takeFields(h http.Header, fields []http1.Field, upgrade bool) {
	values := make([]string, len(fields)) // one allocation for all that come once
	var few [4]string
	connection := http1.AppendValues(few[:0], fields, "Connection")
	for i := range fields {
		f := &fields[i]
		if (http1.OnlyHere(f.Name) || http1.HasToken(connection, f.Name)) && !(upgrade && strings.EqualFold(f.Name, "Upgrade")) {
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

// truncated notes that the application's answer has broken off. The client's is
// aborted, which shows in the framing of HTTP/1.1 and HTTP/2; one of
// HTTP/1.0 may end with the connection, and then that must not look like an end.
func (x *exchange) truncated(err error) {
	if x.clientLeft() {
		x.reason = clientGone
		return
	}
	x.reason = answerTruncated
	x.gate.log.Warn("answer cut short", "err", err, "reason", x.reason, "bytes", x.answer.bytes, "request_id", x.requestID)
	if !x.in.ProtoAtLeast(1, 1) {
		x.conn.cut()
	}
}
