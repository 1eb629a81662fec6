package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sidegate/certs"
	"sidegate/certs/files"
	"sidegate/certs/inspect"
)

func inspectHelp() string {
	return `Usage: sidegate inspect [options] FILE|FOLDER|HOST:PORT

Shows certificates as people read them: names, validity, key, and why a client
or a server would refuse them. A folder is read as a mounted Secret: its pairs
must fit. A server is asked for what it presents and what it wants of clients.

    --ca FILE              believe these CAs: would the server be trusted?
    --server-name NAME     ask for this name and expect it; default: HOST
    --client-cert FOLDER   show the server tls.crt and tls.key of a folder
    --starttls PROTOCOL    begin in plaintext and ask for TLS as PROTOCOL does:
                           imap, ldap, pop3, postgres or smtp
    --json                 as JSON

Exit codes: 0 shown, 1 unreadable, unreachable, or refused by --ca or the server.
`
}

// inspection is what was found, as JSON too.
type inspection struct {
	Target string        `json:"target"`
	Server *serverFacts  `json:"server,omitempty"`
	Files  []inspectFile `json:"files,omitempty"`
}

// inspectFile is a file, or what a server sent.
type inspectFile struct {
	Name         string                `json:"name"`
	Certificates []inspect.Certificate `json:"certificates,omitempty"`
	CRLs         []string              `json:"crls,omitempty"`
	Key          string                `json:"key,omitempty"` // whether it fits
}

// serverFacts is what a handshake tells.
type serverFacts struct {
	Version   string   `json:"version"`
	Cipher    string   `json:"cipher"`
	Exchange  string   `json:"key_exchange,omitempty"`
	ALPN      string   `json:"alpn,omitempty"`
	AsksCert  bool     `json:"asks_for_client_certificate"`
	ClientCAs []string `json:"client_cas,omitempty"` // that it names; it may believe others
	Trusted   string   `json:"trusted,omitempty"`    // verdict by --ca
	Refused   string   `json:"refused,omitempty"`    // what it said to the client
}

type inspectOptions struct {
	ca, serverName, clientCert, startTLS string
	json                                 bool
	target                               string
}

func runInspect(ctx context.Context, p *program) error {
	var o inspectOptions
	flags := flag.NewFlagSet("inspect", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.ca, "ca", "", "")
	flags.StringVar(&o.serverName, "server-name", "", "")
	flags.StringVar(&o.clientCert, "client-cert", "", "")
	flags.StringVar(&o.startTLS, "starttls", "", "")
	flags.BoolVar(&o.json, "json", false, "")
	words, err := wordsAndFlags(flags, p.args)
	known := inspect.StartTLSProtocols()
	switch {
	case err != nil:
		return usagef("inspect: %v; inspect -h lists the options", err)
	case len(words) != 1:
		return usagef("inspect takes a file, a folder or HOST:PORT")
	case o.startTLS != "" && !slices.Contains(known, o.startTLS):
		return usagef("inspect: --starttls %q is not one of %s%s", o.startTLS, strings.Join(known, ", "), didYouMean(o.startTLS, known))
	}
	o.target = words[0]
	found, err := o.inspect(ctx)
	if found == nil {
		return err
	}
	if o.json {
		e := json.NewEncoder(inspect.JSON(p.stdout))
		e.SetIndent("", "  ")
		return errors.Join(e.Encode(found), err)
	}
	found.print(p.stdout, time.Now())
	return err
}

// inspect returns what it found, and why something is amiss with it.
func (o *inspectOptions) inspect(ctx context.Context) (*inspection, error) {
	info, err := files.Stat(o.target)
	if err == nil {
		return o.inspectPath(info.IsDir())
	}
	if _, _, splitErr := net.SplitHostPort(o.target); splitErr != nil {
		return nil, fmt.Errorf("inspect: there is no file %s, and it is not HOST:PORT", o.target)
	}
	return o.inspectServer(ctx)
}

func (o *inspectOptions) inspectPath(folder bool) (*inspection, error) {
	content, err := files.Read(o.target)
	if err != nil {
		return nil, err
	}
	found := &inspection{Target: o.target}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(content)) {
		path := o.target
		if folder {
			path = filepath.Join(o.target, name)
		}
		f, err := inspectPEM(path, content[name])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if stem, ok := strings.CutSuffix(name, ".crt"); ok && content[stem+".key"] != nil {
			f.Key = stem + ".key fits"
			if _, err := tls.X509KeyPair(content[name], content[stem+".key"]); err != nil {
				f.Key = fmt.Sprintf("%s.key does not fit: %v", stem, err)
				problems = append(problems, fmt.Errorf("%s: %s", path, f.Key))
			}
		}
		if f.Certificates != nil || f.CRLs != nil {
			found.Files = append(found.Files, *f)
		}
	}
	if len(found.Files) == 0 && len(problems) == 0 {
		return nil, fmt.Errorf("inspect: %s holds no certificate (found: %s)", o.target, strings.Join(slices.Sorted(maps.Keys(content)), ", "))
	}
	return found, errors.Join(problems...)
}

// inspectPEM describes the certificates and CRLs of a file. A key is no more
// than noticed.
func inspectPEM(name string, data []byte) (*inspectFile, error) {
	f := &inspectFile{Name: name}
	block, _ := pem.Decode(data)
	if block == nil || strings.Contains(block.Type, "KEY") {
		return f, nil
	}
	if block.Type == "X509 CRL" {
		return f, f.addCRLs(data)
	}
	list, err := certs.ParseCertificates(name, data)
	f.Certificates = inspect.Chain(list, time.Now())
	return f, err
}

func (f *inspectFile) addCRLs(data []byte) error {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		f.CRLs = append(f.CRLs, fmt.Sprintf("CRL of %s: %d revoked, of %s, due %s", l.Issuer, len(l.RevokedCertificateEntries),
			rfc3339(l.ThisUpdate), rfc3339(l.NextUpdate)))
	}
	return nil
}

func (o *inspectOptions) inspectServer(ctx context.Context) (*inspection, error) {
	s := &serverFacts{}
	conf, err := o.clientConfig(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := o.dial(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	defer conn.Close()
	state := conn.ConnectionState()
	s.Version, s.Cipher, s.ALPN = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), state.NegotiatedProtocol
	if state.CurveID != 0 {
		s.Exchange = state.CurveID.String()
	}
	found := &inspection{Target: o.target, Server: s, Files: []inspectFile{{Name: o.target, Certificates: inspect.Chain(state.PeerCertificates, time.Now())}}}
	return found, errors.Join(o.verify(s, &state), refusal(s, conn))
}

// dial connects and shakes hands, after the server was asked for TLS where it
// begins without.
func (o *inspectOptions) dial(ctx context.Context, conf *tls.Config) (conn *tls.Conn, err error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", o.target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = raw.Close()
		}
	}()
	if end, ok := ctx.Deadline(); ok && o.startTLS != "" {
		if err := raw.SetDeadline(end); err != nil {
			return nil, err
		}
		if err := inspect.StartTLS(raw, o.startTLS); err != nil {
			return nil, err
		}
		conf.NextProtos = nil // those offered are of HTTP
	}
	conn = tls.Client(raw, conf)
	return conn, conn.HandshakeContext(ctx)
}

// clientConfig notes what the server asks for, and believes it for now: what
// is to be seen may be just what nobody would believe.
func (o *inspectOptions) clientConfig(s *serverFacts) (*tls.Config, error) {
	host, _, _ := net.SplitHostPort(o.target)
	if o.serverName == "" {
		o.serverName = host
	}
	conf := &tls.Config{ServerName: o.serverName, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
	pair := tls.Certificate{}
	if o.clientCert != "" {
		var err error
		if pair, err = tls.LoadX509KeyPair(filepath.Join(o.clientCert, "tls.crt"), filepath.Join(o.clientCert, "tls.key")); err != nil {
			return nil, fmt.Errorf("inspect: --client-cert: %w", err)
		}
	}
	conf.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		s.AsksCert = true
		for _, raw := range r.AcceptableCAs {
			var name pkix.RDNSequence
			if rest, err := asn1.Unmarshal(raw, &name); err == nil && len(rest) == 0 {
				s.ClientCAs = append(s.ClientCAs, name.String())
			}
		}
		return &pair, nil
	}
	return conf, nil
}

// verify says whether a client that believes --ca would trust the server.
func (o *inspectOptions) verify(s *serverFacts, state *tls.ConnectionState) error {
	if o.ca == "" {
		return nil
	}
	roots, err := files.Roots(o.ca)
	if err != nil {
		return fmt.Errorf("inspect: --ca: %w", err)
	}
	if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: certs.Pool(state.PeerCertificates[1:]), DNSName: o.serverName}); err != nil {
		s.Trusted = "no: " + err.Error()
		return fmt.Errorf("inspect: %s is not trusted by %s: %w", o.target, o.ca, err)
	}
	s.Trusted = "yes, as " + o.serverName
	return nil
}

// refusal waits a moment for a server's alert: with TLS 1.3 it judges the
// client after the client is done (RFC 8446, 4.4.2.4).
func refusal(s *serverFacts, conn *tls.Conn) error {
	if !s.AsksCert {
		return nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	var one [1]byte
	_, err := conn.Read(one[:])
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	s.Refused = err.Error()
	return fmt.Errorf("inspect: the server refused the client: %w", err)
}

func (f *inspection) print(w io.Writer, now time.Time) {
	if s := f.Server; s != nil {
		line(w, "%s: %s, %s, %s, ALPN %s", f.Target, s.Version, s.Cipher, cmp.Or(s.Exchange, "no key exchange"), cmp.Or(s.ALPN, "none"))
		if s.AsksCert {
			line(w, "asks for a client certificate, of %s", cmp.Or(strings.Join(s.ClientCAs, " or "), "any CA"))
		}
		if s.Trusted != "" {
			line(w, "trusted: %s", s.Trusted)
		}
	}
	for _, file := range f.Files {
		for i := range file.Certificates {
			fmt.Fprintf(w, "\n%s, certificate %d of %d\n%s", inspect.Plain(file.Name), i+1, len(file.Certificates), file.Certificates[i].Table(now))
		}
		if file.Key != "" {
			line(w, "  %-9s %s", "its key", file.Key)
		}
		for _, l := range file.CRLs {
			fmt.Fprintf(w, "\n%s\n  %s\n", inspect.Plain(file.Name), inspect.Plain(l))
		}
	}
}

// line prints one line, whatever the strangers said whose words are in it.
func line(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintln(w, inspect.Plain(fmt.Sprintf(format, args...)))
	return err
}
