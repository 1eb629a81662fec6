package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/caarlos0/env/v10"

	"sidegate/tlsproxy"
	"sidegate/tlsproxy/admin"
)

// prefix is what every variable of ours begins with.
const prefix = "SIDEGATE_"

// Config is everything that is configured by environment variables. The
// comment of a field is its line in the README's table.
type Config struct {
	// Ingress is each gate as NAME → "LISTEN=UPSTREAM?options"; filled from
	// SIDEGATE_INGRESS (gate main) and SIDEGATE_INGRESS_<NAME>.
	Ingress map[string]string
	// Probes are the application's probes by name, from SIDEGATE_PROBE_<NAME>.
	Probes map[string]*admin.Relay
	// SPIFFESocket is SPIFFE_ENDPOINT_SOCKET, as every SPIFFE workload has it.
	SPIFFESocket string

	Admin            adminAddress    `env:"ADMIN" envDefault:":9901" doc:"where probes and metrics listen, plaintext; none switches it off"`
	Certs            certSource      `env:"CERTS" envDefault:"files" doc:"where the certificates of gates come from: files, spiffe, cfssl or acme"`
	TLS              List            `env:"TLS" envDefault:"/etc/sidegate/tls" path:"" doc:"folders of mounted TLS Secrets, comma-separated; the first holds the default pair"`
	TLSNameLoss      Switch          `env:"TLS_ALLOW_NAME_LOSS" envDefault:"false" doc:"let a renewed certificate drop a name that the old one had"`
	TLSMin           tlsVersion      `env:"TLS_MIN" envDefault:"1.2" doc:"oldest version of TLS to speak: 1.2 or 1.3"`
	TLSCiphers       cipherList      `env:"TLS_CIPHERS" doc:"ciphers of TLS 1.2 by Go's names, comma-separated; unset: those with forward secrecy and AEAD. TLS 1.3 has no list"`
	HSTS             strictTransport `env:"HSTS" doc:"Strict-Transport-Security of every answer over TLS, such as max-age=31536000; includeSubDomains. Unset: what the application says"`
	HTTP2            Switch          `env:"HTTP2" envDefault:"true" doc:"false offers HTTP/1.1 alone, for the day on which HTTP/2 has a hole"`
	ClientCert       clientCertMode  `env:"CLIENT_CERT" envDefault:"none" doc:"none, optional or require a client certificate"`
	ClientCA         string          `env:"CLIENT_CA" path:"spiffe" doc:"file or folder with the CAs that client certificates must chain to, CRLs beside it (crl.pem, ca.crl) are honoured; or spiffe, the bundles of the Workload API. Unset: ca.crt of the first TLS folder, or what spiffe and cfssl bring"`
	ClientCANames    caNames         `env:"CLIENT_CA_NAMES" envDefault:"auto" doc:"whether clients are told the names of the CAs that their certificates must chain to: auto (up to 16 KiB of names; Java fails above 32 KiB), always or never"`
	CertUser         certUser        `env:"CERT_USER" envDefault:"none" doc:"name of a client certificate that is also a user's, user:cert/NAME, where no password comes: none, cn, email, dns or spiffe"`
	CertHosts        List            `env:"CERT_HOSTS" doc:"names to have in the certificates of cfssl (DNS names, IP addresses, URIs) and acme (DNS names)"`
	CertCache        string          `env:"CERT_CACHE" path:"none" doc:"folder in which cfssl and acme keep what was issued for the next start, 0600; none: memory alone. acme wants one or the other said"`
	StartTimeout     Duration        `env:"START_TIMEOUT" envDefault:"30s" doc:"how long spiffe and cfssl may take until there is a first certificate"`
	SPIFFESVID       string          `env:"SPIFFE_SVID" doc:"hint or SPIFFE ID of the SVID to present, where the Workload API has several; unset: the first"`
	CFSSLURL         List            `env:"CFSSL_URL" url:"" doc:"CFSSL servers, such as https://ca.example:8888, asked in this order"`
	CFSSLCA          string          `env:"CFSSL_CA" envDefault:"/etc/sidegate/cfssl/ca.crt" path:"" doc:"CAs that the CFSSL servers' own certificates, and those that they issue, must chain to"`
	CFSSLAuthKey     string          `env:"CFSSL_AUTH_KEY_FILE" envDefault:"/etc/sidegate/cfssl/auth-key" path:"" doc:"file with the key of the CFSSL profile, hexadecimal"`
	CFSSLProfile     string          `env:"CFSSL_PROFILE" doc:"signing profile of the CFSSL server; unset: its default"`
	CFSSLLabel       string          `env:"CFSSL_LABEL" doc:"signer of a CFSSL server that has several; unset: its default"`
	CFSSLInsecure    Switch          `env:"CFSSL_INSECURE" envDefault:"false" doc:"true lets http:// servers in: whoever sees a request can have it signed again"`
	ACMEURL          string          `env:"ACME_URL" url:"" envDefault:"https://acme-v02.api.letsencrypt.org/directory" doc:"directory of the ACME server; whoever chooses acme accepts its terms of service"`
	ACMEEmail        mailAddress     `env:"ACME_EMAIL" doc:"contact of the ACME account"`
	ACMECA           string          `env:"ACME_CA" path:"" doc:"CAs that the ACME server's own certificate must chain to; unset: those of the system"`
	ACMEEAB          string          `env:"ACME_EAB_FILE" path:"" doc:"folder of the mounted Secret with the files kid and hmac, the external account binding that some ACME servers want"`
	Users            string          `env:"USERS" envDefault:"/etc/sidegate/users" path:"none" doc:"file or folder with htpasswd, auth, or username and password; the default counts only if it exists; none: no users"`
	PlainPasswords   Switch          `env:"ALLOW_PLAIN_PASSWORDS" envDefault:"false" doc:"let entries of the user file in that are {PLAIN} and the password itself"`
	Realm            string          `env:"REALM" envDefault:"sidegate" doc:"realm of the password prompt"`
	Allow            List            `env:"ALLOW" doc:"who may pass, any one suffices: spiffe://…, dns:…, user:…, any-peer, authenticated, anyone. Unset: a user where users are configured, and a client certificate too where it is required"`
	Policy           string          `env:"POLICY" envDefault:"/etc/sidegate/policy/policy.yaml" path:"none" doc:"policy file, instead of SIDEGATE_ALLOW; the default counts only if it exists; none: no file"`
	Headers          headerPreset    `env:"HEADERS" envDefault:"default" doc:"fields that tell the application the user: default, remote-user, x-remote, webauth or none"`
	PeerHeaders      peerHeaders     `env:"PEER_HEADERS" envDefault:"xfcc" doc:"fields that tell the application the client certificate: xfcc, client-cert, client-cert-chain; none"`
	TrustedProxies   Networks        `env:"TRUSTED_PROXIES" doc:"networks whose X-Forwarded-*, Forwarded and X-Request-Id are believed"`
	DrainDelay       Delay           `env:"DRAIN_DELAY" envDefault:"5s" doc:"how long the listeners stay open when a drain begins, until nobody sends new clients any more"`
	DrainTimeout     Duration        `env:"DRAIN_TIMEOUT" envDefault:"20s" doc:"how long requests in flight may take after that; with the delay below the pod's grace period of 30 s"`
	MaxConnections   Count           `env:"MAX_CONNECTIONS" envDefault:"10000" doc:"open connections, all gates together; beyond that, one by which nothing is asked makes room. Fewer where the process may open few files or has little memory"`
	MaxHandshakes    Count           `env:"MAX_HANDSHAKES" envDefault:"1000" doc:"TLS handshakes in progress; more wait, and one that takes 1 s, or 250 ms until its hello, gives way"`
	MaxHeaderBytes   Count           `env:"MAX_HEADER_BYTES" envDefault:"65536" doc:"bytes of a request's head; more is 431"`
	MaxStreams       Count           `env:"MAX_STREAMS" envDefault:"250" doc:"concurrent requests of one HTTP/2 connection"`
	HandshakeTimeout Duration        `env:"HANDSHAKE_TIMEOUT" envDefault:"10s" doc:"for a whole TLS handshake"`
	HeaderTimeout    Duration        `env:"HEADER_TIMEOUT" envDefault:"10s" doc:"for a request's head"`
	IdleTimeout      Duration        `env:"IDLE_TIMEOUT" envDefault:"2m" doc:"between two requests of a connection"`
	BodyTimeout      Duration        `env:"BODY_TIMEOUT" envDefault:"1m" doc:"for an upload that stands still before its answer begins (408; not of gRPC), and for a client that does not take what waits for it"`
	UpstreamTimeout  Duration        `env:"UPSTREAM_TIMEOUT" envDefault:"1m" doc:"until the application begins its answer, gRPC excepted; later is 504"`
	UpstreamIdle     Duration        `env:"UPSTREAM_IDLE" envDefault:"1500ms" doc:"how long a connection to the application waits for the next request; shorter than the application's own keep-alive timeout"`
	AccessLog        accessLog       `env:"ACCESS_LOG" envDefault:"all" doc:"which requests leave a line: all, denied or off"`
	LogLevel         logLevel        `env:"LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	LogFormat        logFormat       `env:"LOG_FORMAT" envDefault:"auto" doc:"json, text, or auto: text on a terminal"`
	Pod              string          `env:"POD" doc:"name of the pod for the log, from the downward API"`
	Container        string          `env:"CONTAINER" doc:"name of the container for the log"`
}

// defaultIngress is the one gate of a pod that names none.
const defaultIngress = ":8443=http://127.0.0.1:8080"

// spiffeSocket is where the Workload API listens (SPIFFE Workload Endpoint, 4).
const spiffeSocket = "SPIFFE_ENDPOINT_SOCKET"

// mainGate is the name of the gate that SIDEGATE_INGRESS configures.
const mainGate = "main"

// serviceLink is what Kubernetes puts into the environment for Services whose
// name begins with sidegate.
var serviceLink = regexp.MustCompile(`^SIDEGATE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// parseConfig reads the configuration out of the environ and returns every
// problem at once.
func parseConfig(environ []string) (*Config, error) {
	c := &Config{Ingress: map[string]string{}, Probes: map[string]*admin.Relay{}}
	vars, errs := ours(environ)
	for _, kv := range environ {
		if socket, ok := strings.CutPrefix(kv, spiffeSocket+"="); ok {
			c.SPIFFESocket = socket
		}
	}
	for name, value := range vars {
		if gate, ok := gateOf(name); ok {
			c.Ingress[gate] = value
			delete(vars, name)
		}
		if probe, ok := strings.CutPrefix(name, prefix+"PROBE_"); ok {
			relay, err := parseProbe(probe, value)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			} else {
				c.Probes[strings.ToLower(probe)] = relay
			}
			delete(vars, name)
		}
	}
	if len(c.Ingress) == 0 {
		c.Ingress[mainGate] = defaultIngress
	}
	known := variables()
	for name := range vars {
		if file := wantsFile(name, known); file != "" {
			errs = append(errs, fmt.Errorf("%s would hold a secret, and no variable does: mount the Secret, and name its path in %s", name, file))
		} else if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("%s is not a variable of sidegate%s", name, didYouMean(name, append(known, prefix+"INGRESS"))))
		}
	}
	errs = append(errs, fill(c, vars)...)
	sort.Slice(errs, func(i, j int) bool { return errs[i].Error() < errs[j].Error() })
	return c, errors.Join(errs...)
}

// ours picks the variables with our prefix that are no service links.
func ours(environ []string) (map[string]string, []error) {
	vars := map[string]string{}
	var errs []error
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case !strings.HasPrefix(name, prefix):
		case serviceLink.MatchString(name):
			if _, gate := gateOf(name); gate && strings.Contains(value, "=") {
				errs = append(errs, fmt.Errorf("%s: a gate can't have a name that looks like a service link of Kubernetes; choose another", name))
			}
		case value == "":
			errs = append(errs, fmt.Errorf("%s is set but empty; unset it for the default, or say none where that is a value", name))
		default:
			vars[name] = value
		}
	}
	return vars, errs
}

var probeName = regexp.MustCompile(`^[A-Z0-9][A-Z0-9_]*$`)

func parseProbe(name, value string) (*admin.Relay, error) {
	if !probeName.MatchString(name) {
		return nil, errors.New("the probe's name behind SIDEGATE_PROBE_ is made of capital letters, digits and _")
	}
	return admin.ParseRelay(value)
}

// gateOf returns the name of the gate that a variable configures.
func gateOf(variable string) (string, bool) {
	rest, ok := strings.CutPrefix(variable, prefix+"INGRESS")
	switch {
	case !ok:
		return "", false
	case rest == "":
		return mainGate, true
	case rest[0] != '_' || len(rest) == 1:
		return "", false
	}
	return strings.ToLower(rest[1:]), true
}

// gateVariable is the inverse of gateOf.
func gateVariable(gate string) string {
	if gate == mainGate {
		return prefix + "INGRESS"
	}
	return prefix + "INGRESS_" + strings.ToUpper(gate)
}

// variables returns the names of every variable but those of gates.
func variables() []string {
	var names []string
	for f := range configFields() {
		names = append(names, prefix+f.Tag.Get("env"))
	}
	return names
}

func configFields() func(yield func(reflect.StructField) bool) {
	t := reflect.TypeFor[Config]()
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("env") != "" && !yield(f) {
				return
			}
		}
	}
}

// fill parses the values into c. env names the struct's field in its errors;
// users know the variable.
func fill(c *Config, vars map[string]string) []error {
	err := env.ParseWithOptions(c, env.Options{Environment: vars, Prefix: prefix})
	if err == nil {
		return nil
	}
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{err}
	}
	var errs []error
	for _, e := range all.Errors {
		var parse env.ParseError
		if errors.As(e, &parse) {
			if f, ok := reflect.TypeFor[Config]().FieldByName(parse.Name); ok {
				e = fmt.Errorf("%s%s: %w", prefix, f.Tag.Get("env"), parse.Err)
			}
		}
		errs = append(errs, e)
	}
	return errs
}

// none is how a variable with a default is cleared.
const none = "none"

// limits are the limits as tlsproxy takes them.
func (c *Config) limits() tlsproxy.Limits {
	return tlsproxy.Limits{
		Connections:    int(c.MaxConnections),
		Handshakes:     int(c.MaxHandshakes),
		HeaderBytes:    int(c.MaxHeaderBytes),
		StreamsPerConn: int(c.MaxStreams),
		Handshake:      time.Duration(c.HandshakeTimeout),
		Header:         time.Duration(c.HeaderTimeout),
		Idle:           time.Duration(c.IdleTimeout),
		BodyIdle:       time.Duration(c.BodyTimeout),
		UpstreamHeader: time.Duration(c.UpstreamTimeout),
		UpstreamIdle:   time.Duration(c.UpstreamIdle),
	}
}
