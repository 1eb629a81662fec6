package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
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
// address. http and https are followed by path and query, grpc by
// the service's name, which may be missing, tcp by nothing. Behind a # come
// the options timeout=1s, which is the default, and header=NAME:VALUE.
func ParseRelay(s string) (*Relay, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL", s)
	}
	if !slices.Contains([]string{"http", "https", "tcp", "grpc"}, u.Scheme) {
		return nil, fmt.Errorf("%q begins with none of http://, https://, tcp:// and grpc://", s)
	}
	if to, err := netip.ParseAddrPort(u.Host); err != nil || !to.Addr().IsLoopback() || to.Port() == 0 || u.User != nil {
		return nil, fmt.Errorf("%q: %q is not a loopback address and a port, such as 127.0.0.1:8080", s, u.Host)
	}
	if u.Scheme == "tcp" && (u.Path != "" || u.RawQuery != "") {
		return nil, fmt.Errorf("%q: nothing follows the port of a TCP probe but options behind #", s)
	}
	r := &Relay{target: u, header: http.Header{}, timeout: time.Second}
	if err := r.options(u.EscapedFragment()); err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	u.Fragment, u.RawFragment = "", ""
	r.client = r.newClient()
	return r, nil
}

func (r *Relay) options(text string) error {
	values, err := url.ParseQuery(text)
	if err != nil {
		return fmt.Errorf("options %q: %w", text, err)
	}
	for name, list := range values {
		switch {
		case name == "timeout" && len(list) == 1:
			if r.timeout, err = time.ParseDuration(list[0]); err != nil || r.timeout <= 0 {
				return fmt.Errorf("timeout %q is not a time above zero, such as 1s", list[0])
			}
		case name == "header":
			for _, field := range list {
				if err := r.addField(field); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("option %q is not one of timeout, once, and header", name)
		}
	}
	return nil
}

func (r *Relay) addField(field string) error {
	name, value, ok := strings.Cut(field, ":")
	if !ok || name == "" || strings.ContainsAny(field, "\r\n\x00") {
		return fmt.Errorf("header %q is not NAME:VALUE", field)
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
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if r.target.Scheme == "grpc" {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
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
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", r.target.Host)
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
