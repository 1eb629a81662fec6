package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"sidegate/tlsproxy"
	"sidegate/tlsproxy/upstream"
)

// Relay is a probe of the application, which the kubelet can't reach on
// loopback: /probe/<name> asks for it and tells the status alone.
type Relay struct {
	target  *url.URL
	header  http.Header
	host    string // of an HTTP request; "" means that of target
	timeout time.Duration
	client  *http.Client // nil where the scheme is tcp
}

// ParseRelay reads SCHEME://HOST:PORT and what follows. HOST is a loopback
// address, or a name all of whose addresses are loopback, which is looked up
// for each probe. http and https are followed by path and query, grpc by the
// service's name, which may be missing, tcp by nothing. Behind a # come the
// options timeout=1s, which is the default, and header=NAME:VALUE.
//
// Errors don't quote: query, path and header fields may hold a secret.
func ParseRelay(s string) (*Relay, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("it is not a URL such as http://127.0.0.1:8080/healthz")
	}
	if !slices.Contains([]string{"http", "https", "tcp", "grpc"}, u.Scheme) {
		return nil, errors.New("it begins with none of http://, https://, tcp:// and grpc://")
	}
	if u.User != nil {
		return nil, errors.New("it has a user or password before the host; a field is sent by #header=Authorization:VALUE")
	}
	if !probable(u) {
		return nil, errors.New("its host is not a loopback address or localhost with a port, such as 127.0.0.1:8080")
	}
	if u.Scheme == "tcp" && (u.Path != "" || u.RawQuery != "") {
		return nil, errors.New("nothing follows the port of a TCP probe but options behind #")
	}
	r := &Relay{target: u, header: http.Header{}, timeout: time.Second}
	if err := r.options(u.EscapedFragment()); err != nil {
		return nil, err
	}
	u.Fragment, u.RawFragment = "", ""
	r.client = r.newClient()
	return r, nil
}

// probable reports whether a URL's host may be loopback and has a port.
func probable(u *url.URL) bool {
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	ip, ipErr := netip.ParseAddr(u.Hostname())
	return err == nil && port > 0 && u.Hostname() != "" && (ipErr != nil || ip.Unmap().IsLoopback())
}

// Upstream is what the probe connects to.
func (r *Relay) Upstream() tlsproxy.Upstream {
	return tlsproxy.Upstream{Address: tlsproxy.Address{Network: "tcp", Address: r.target.Host}}
}

func (r *Relay) options(text string) error {
	values, err := url.ParseQuery(text)
	if err != nil {
		return errors.New("the options behind # are not NAME=VALUE&NAME=VALUE with % before two hexadecimal digits")
	}
	for name, list := range values {
		switch {
		case name == "timeout" && len(list) == 1:
			if r.timeout, err = time.ParseDuration(list[0]); err != nil || r.timeout <= 0 {
				return errors.New("timeout is not a time above zero, such as 1s")
			}
		case name == "header":
			for _, field := range list {
				if err := r.addField(field); err != nil {
					return err
				}
			}
		default:
			return errors.New("an option behind # is not one of timeout, once, and header")
		}
	}
	return nil
}

func (r *Relay) addField(field string) error {
	name, value, ok := strings.Cut(field, ":")
	if !ok || name == "" || strings.ContainsAny(field, "\r\n\x00") {
		return errors.New("a header is not NAME:VALUE")
	}
	if strings.EqualFold(name, "Host") {
		r.host = value
		return nil
	}
	r.header.Add(name, value)
	return nil
}

// newClient makes a client that keeps nothing open and follows nothing. As
// the kubelet does, it believes any certificate: it asks loopback.
func (r *Relay) newClient() *http.Client {
	tr := &http.Transport{DialContext: r.dial, DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if r.target.Scheme == "grpc" {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dial connects to the target, whatever the URL of a request says.
func (r *Relay) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return upstream.DialLoopback(ctx, r.target.Host)
}

// serve answers 200 for a probe that succeeded, the application's status for
// one that it failed, 504 for one that took too long, else 502.
func (r *Relay) serve(w http.ResponseWriter, in *http.Request) {
	// A hook may take longer than other answers. An error means that there
	// was no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(in.Context(), r.timeout)
	defer cancel()
	status, err := r.ask(ctx, in.UserAgent())
	switch {
	case err == nil && status >= 200 && status < 400: // what the kubelet takes for success
		status = http.StatusOK
	case errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	case err != nil:
		status = http.StatusBadGateway
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}

func (r *Relay) ask(ctx context.Context, agent string) (int, error) {
	switch r.target.Scheme {
	case "tcp":
		return r.askTCP(ctx)
	case "grpc":
		return r.askGRPC(ctx, agent)
	}
	return r.askHTTP(ctx, agent)
}

func (r *Relay) askTCP(ctx context.Context) (int, error) {
	c, err := r.dial(ctx, "", "")
	if err != nil {
		return 0, err
	}
	_ = c.Close() // it was only asked whether it is there
	return http.StatusOK, nil
}

func (r *Relay) askHTTP(ctx context.Context, agent string) (int, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.target.String(), nil)
	if err != nil {
		return 0, err
	}
	q.Header.Set("User-Agent", agent)
	for name, values := range r.header {
		q.Header[name] = values
	}
	q.Host = r.host
	res, err := r.client.Do(q)
	if err != nil {
		return 0, err
	}
	_ = res.Body.Close() // only the status is told
	return res.StatusCode, nil
}

// askGRPC is grpc.health.v1.Health/Check. The two messages of it are not worth
// a gRPC client: a request is field 1, the service, an answer field 1, the
// status, where 1 is SERVING.
func (r *Relay) askGRPC(ctx context.Context, agent string) (int, error) {
	message := protowire.AppendTag(nil, 1, protowire.BytesType)
	message = protowire.AppendString(message, strings.TrimPrefix(r.target.Path, "/"))
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	to := url.URL{Scheme: "http", Host: r.target.Host, Path: "/grpc.health.v1.Health/Check"}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	q.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {agent}}
	res, err := r.client.Do(q)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return 0, err
	}
	code := res.Trailer.Get("Grpc-Status")
	if code == "" {
		code = res.Header.Get("Grpc-Status") // an answer without a body
	}
	if res.StatusCode != http.StatusOK || code != "0" || !serving(answer) {
		return http.StatusServiceUnavailable, nil
	}
	return http.StatusOK, nil
}

// serving reads a gRPC frame with a HealthCheckResponse.
func serving(frame []byte) bool {
	const prefix = 5 // a flag and the length
	if len(frame) < prefix || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:])) != len(frame)-prefix {
		return false
	}
	status := uint64(0)
	for rest := frame[prefix:]; len(rest) > 0; {
		field, kind, tag := protowire.ConsumeTag(rest)
		if tag < 0 {
			return false
		}
		n := protowire.ConsumeFieldValue(field, kind, rest[tag:])
		if n < 0 {
			return false
		}
		if field == 1 && kind == protowire.VarintType {
			status, _ = protowire.ConsumeVarint(rest[tag:])
		}
		rest = rest[tag+n:]
	}
	return status == 1
}
