package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sidegate/certs"
	"sidegate/policy"
	"sidegate/tlsproxy"
)

// Values are never quoted in errors: what was meant for another variable may be
// a secret. didYouMean shows known words alone.

// List is comma-separated values, spaces around them cut. An empty one among
// them is an error.
type List []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *List) UnmarshalText(text []byte) error {
	*l = nil
	for item := range strings.SplitSeq(string(text), ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			return errors.New("an entry of the list is empty")
		}
		*l = append(*l, item)
	}
	return nil
}

func (l List) String() string { return strings.Join(l, ",") }

// Duration is a time above zero.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return errors.New("it is not a time above zero, such as 20s")
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Count is a whole number above zero.
type Count int

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Count) UnmarshalText(text []byte) error {
	v, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil || v <= 0 {
		return errors.New("it is not a whole number above zero")
	}
	*c = Count(v)
	return nil
}

// Delay is a time that may be zero.
type Delay time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Delay) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return errors.New("it is not a time such as 5s or 0s")
	}
	*d = Delay(v)
	return nil
}

func (d Delay) String() string { return time.Duration(d).String() }

// Networks are address ranges in CIDR form; a bare address is itself alone.
type Networks []netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Networks) UnmarshalText(text []byte) error {
	var list List
	if err := list.UnmarshalText(text); err != nil {
		return err
	}
	*n = nil
	for i, item := range list {
		p, err := policy.ParseNetwork(item)
		if err != nil {
			return fmt.Errorf("entry %d %w", i+1, err)
		}
		*n = append(*n, p)
	}
	return nil
}

func (n Networks) String() string {
	var list List
	for _, p := range n {
		list = append(list, p.String())
	}
	return list.String()
}

// Switch is true or false and nothing else.
type Switch bool

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Switch) UnmarshalText(text []byte) error {
	switch string(text) {
	case "true":
		*s = true
	case "false":
		*s = false
	default:
		return errors.New("it is neither true nor false")
	}
	return nil
}

// mailAddress is user@domain without a name.
type mailAddress string

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *mailAddress) UnmarshalText(text []byte) error {
	if a, err := mail.ParseAddress(string(text)); err != nil || a.Address != string(text) {
		return errors.New("it is not an e-mail address")
	}
	*m = mailAddress(text)
	return nil
}

// logLevel is the least level of lines that are written.
type logLevel slog.Level

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *logLevel) UnmarshalText(text []byte) error {
	if (*slog.Level)(l).UnmarshalText(text) != nil {
		return errors.New("it is not one of debug, info, warn, error")
	}
	return nil
}

func (l logLevel) String() string { return slog.Level(l).String() }

// oneOf finds the text among the words of a choice.
func oneOf[T any](text []byte, words []string, values []T) (T, error) {
	if i := slices.Index(words, string(text)); i >= 0 {
		return values[i], nil
	}
	var zero T
	return zero, fmt.Errorf("it is not one of %s%s", strings.Join(words, ", "), didYouMean(string(text), words))
}

type clientCertMode tlsproxy.ClientCert

var clientCertWords = []string{"none", "optional", "require"}

func (m *clientCertMode) UnmarshalText(text []byte) (err error) {
	*m, err = oneOf(text, clientCertWords, []clientCertMode{
		clientCertMode(tlsproxy.ClientCertNone), clientCertMode(tlsproxy.ClientCertOptional), clientCertMode(tlsproxy.ClientCertRequire)})
	return err
}

func (m clientCertMode) String() string { return clientCertWords[m] }

// certSource is where the certificate of a gate comes from.
type certSource string

const (
	fromFiles  certSource = "files"
	fromSPIFFE certSource = "spiffe"
	fromCFSSL  certSource = "cfssl"
	fromACME   certSource = "acme"
)

func (s *certSource) UnmarshalText(text []byte) (err error) {
	*s, err = oneOf(text, []string{"files", "spiffe", "cfssl", "acme"}, []certSource{fromFiles, fromSPIFFE, fromCFSSL, fromACME})
	return err
}

type certUser policy.CertUser

func (u *certUser) UnmarshalText(text []byte) (err error) {
	*u, err = oneOf(text, []string{none, "cn", "email", "dns", "spiffe"}, []certUser{
		certUser(policy.CertUserNone), certUser(policy.CertUserCN), certUser(policy.CertUserEmail),
		certUser(policy.CertUserDNS), certUser(policy.CertUserSPIFFE)})
	return err
}

func (u certUser) String() string { return cmp.Or(string(u), none) }

type tlsVersion uint16

func (v *tlsVersion) UnmarshalText(text []byte) (err error) {
	*v, err = oneOf(text, []string{"1.2", "1.3"}, []tlsVersion{tls.VersionTLS12, tls.VersionTLS13})
	return err
}

func (v tlsVersion) String() string { return strings.TrimPrefix(tls.VersionName(uint16(v)), "TLS ") }

// cipherList is ciphers of TLS 1.2 that nothing is known against.
type cipherList []uint16

func (c *cipherList) UnmarshalText(text []byte) error {
	var list List
	if err := list.UnmarshalText(text); err != nil {
		return err
	}
	names, ids := tls12Ciphers()
	*c = nil
	for _, name := range list {
		if slices.ContainsFunc(tls.InsecureCipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name }) {
			return fmt.Errorf("%s is insecure", name)
		}
		id, err := oneOf([]byte(name), names, ids)
		if err != nil {
			return err
		}
		*c = append(*c, id)
	}
	return nil
}

func tls12Ciphers() (names []string, ids []uint16) {
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			names, ids = append(names, s.Name), append(ids, s.ID)
		}
	}
	return names, ids
}

func (c cipherList) String() string {
	var list List
	for _, id := range c {
		list = append(list, tls.CipherSuiteName(id))
	}
	return list.String()
}

// strictTransport is the value of a Strict-Transport-Security field (RFC 6797 6.1).
type strictTransport string

var strictTransportValue = regexp.MustCompile(`^max-age=\d{1,10}(; ?includeSubDomains)?(; ?preload)?$`)

func (s *strictTransport) UnmarshalText(text []byte) error {
	if string(text) == none {
		*s = ""
		return nil
	}
	if !strictTransportValue.Match(text) {
		return errors.New("it is not max-age=SECONDS, then perhaps ; includeSubDomains and ; preload")
	}
	*s = strictTransport(text)
	return nil
}

type clientField tlsproxy.ClientField

func (c *clientField) UnmarshalText(text []byte) (err error) {
	*c, err = oneOf(text, []string{"x-forwarded-for", "forwarded"}, []clientField{
		clientField(tlsproxy.XForwardedFor), clientField(tlsproxy.Forwarded)})
	return err
}

type accessLog tlsproxy.AccessLog

var accessLogWords = []string{"all", "denied", "off"}

func (a *accessLog) UnmarshalText(text []byte) (err error) {
	*a, err = oneOf(text, accessLogWords, []accessLog{
		accessLog(tlsproxy.AccessLogAll), accessLog(tlsproxy.AccessLogDenied), accessLog(tlsproxy.AccessLogOff)})
	return err
}

func (a accessLog) String() string { return accessLogWords[a] }

type logFormat string

func (f *logFormat) UnmarshalText(text []byte) (err error) {
	*f, err = oneOf(text, []string{"auto", "json", "text"}, []logFormat{"auto", "json", "text"})
	return err
}

type headerPreset string

func (h *headerPreset) UnmarshalText(text []byte) (err error) {
	words := tlsproxy.HeaderPresets()
	word, err := oneOf(text, words, words)
	*h = headerPreset(word)
	return err
}

type peerHeaders []tlsproxy.PeerHeader

func (p *peerHeaders) UnmarshalText(text []byte) error {
	*p = nil
	if string(text) == none {
		return nil
	}
	var list List
	if err := list.UnmarshalText(text); err != nil {
		return err
	}
	words := []string{string(tlsproxy.XFCC), string(tlsproxy.ClientCertField), string(tlsproxy.ClientCertChain)}
	for _, item := range list {
		word, err := oneOf([]byte(item), words, words)
		if err != nil {
			return err
		}
		*p = append(*p, tlsproxy.PeerHeader(word))
	}
	return nil
}

func (p peerHeaders) String() string {
	if len(p) == 0 {
		return none
	}
	var list List
	for _, h := range p {
		list = append(list, string(h))
	}
	return list.String()
}

// caNames says whether clients are told the names of CAs.
type caNames certs.CANames

var caNamesWords = []string{"auto", "always", "never"}

func (n *caNames) UnmarshalText(text []byte) (err error) {
	*n, err = oneOf(text, caNamesWords, []caNames{caNames(certs.CANamesAuto), caNames(certs.CANamesAlways), caNames(certs.CANamesNever)})
	return err
}

func (n caNames) String() string { return caNamesWords[n] }
