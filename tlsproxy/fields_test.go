package tlsproxy_test

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"sidegate/tlsproxy"
)

// taken are fields that no client may set, in spellings that some gateway or
// application makes one of.
var taken = []string{
	// HDR-15: folded by lighttpd (every byte but letters and digits), PHP (the dot), or left out.
	"X-Forwarded~User", "X!Forwarded!User", "X#Forwarded$User", "Remote*User", "Remote'User", "REMOTE|USER", "Remote+User", "XForwardedUser", "X--Forwarded--User",
	"X-Forwarded-User-", "-X-Forwarded-User", "X.Auth.Request.Email", "X`Remote^Extra`Scopes", "X_WebAuth%User", "X&Forwarded&For", "X~Real~IP", "Pro~xy",
	// HDR-18: what clouds, meshes, sign-on proxies and frameworks write.
	"X-MS-CLIENT-PRINCIPAL", "X-MS-CLIENT-PRINCIPAL-NAME", "X-MS-CLIENT-PRINCIPAL-ID", "X-MS-CLIENT-PRINCIPAL-IDP", "X-MS-TOKEN-AAD-ID-TOKEN", "X-MS-TOKEN-GOOGLE-ACCESS-TOKEN",
	"X-ARR-ClientCert", "MS-ASPNETCORE-CLIENTCERT", "MS-ASPNETCORE-WINAUTHTOKEN", "X-Azure-ClientIP", "X-Azure-SocketIP", "X-WAWS-Unencoded-URL",
	"X-Goog-Authenticated-User-Email", "X-Goog-Authenticated-User-Id", "X-Goog-IAP-JWT-Assertion", "X-Endpoint-API-UserInfo", "X-Apigateway-Api-Userinfo",
	"X-Appengine-User-Email", "X-Appengine-User-Is-Admin", "X-Appengine-User-IP", "X-Appengine-Cron", "X-Appengine-Inbound-Appid",
	"X-Amzn-Oidc-Data", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Accesstoken", "X-Amzn-Mtls-Clientcert", "X-Amzn-Mtls-Clientcert-Subject", "X-Amzn-Ava-User-Context",
	"Cf-Access-Jwt-Assertion", "Cf-Access-Authenticated-User-Email", "Cf-Connecting-IP", "Cf-Connecting-IPv6", "Cf-Client-Cert-Sha256", "Cf-Cert-Verified",
	"X-Envoy-External-Address", "X-Envoy-Peer-Metadata", "X-Envoy-Peer-Metadata-Id", "X-Envoy-Original-Path", "X-Envoy-Internal", "X-Envoy-Downstream-Service-Cluster",
	"X-Pomerium-Jwt-Assertion", "X-Pomerium-Claim-Email", "X-Pomerium-Claim-Groups", "X-Authentik-Username", "X-authentik-groups", "X-authentik-jwt", "X-authentik-meta-app",
	"Tailscale-User-Login", "Tailscale-User-Name", "Tailscale-User-Profile-Pic", "Tailscale-App-Capabilities", "Tailscale-Tailnet",
	"X-Remote-Extra-Scopes", "X-Remote-Uid", "Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-Scopes",
	"Remote-User", "Remote-Groups", "Remote-Email", "Auth-User", "Auth-Type", "Logon-User", "SM_USER", "OAM_REMOTE_USER", "iv-user", "iv-creds", "Shib-Session-ID", "eppn",
	"OIDC_CLAIM_email", "OIDC_access_token", "MELLON_NAME_ID", "X-Consumer-Username", "X-Consumer-Custom-ID", "X-Credential-Identifier", "X-Userinfo", "X-Jwt-Assertion",
	"X-Auth-Username", "X-Auth-Userid", "X-Auth-Roles", "X-Forwarded-Login", "X-Forwarded-DisplayName", "X-Proxy-User", "X-Proxy-Roles", "X-Proxy-Ext-Dept", "X-WEBAUTH-FULLNAME",
	"X-ProxiedEntitiesChain", "X-Vouch-User", "X-Vouch-IdP-Claims-Name", "Teleport-Jwt-Assertion", "$WSRU", "$WSCC", "$WSRA",
	"Ssl-Client-Cert", "SSL_CLIENT_S_DN", "Ssl-Client-Verify", "X-SSL-Client-CN", "X-SSL-Client-SHA1", "X-SSL-Issuer", "X-Client-Cert", "X-Client-Cert-Subject-Dn",
	"X-Client-Certificate", "X-Client-Verify", "X-Tls-Client-Subject", "X-Forwarded-Tls-Client-Cert", "X-Forwarded-Tls-Client-Cert-Info", "WL-Proxy-Client-Cert", "CERT_CHAIN_0",
	"L5d-Client-Id", "Sf-Context-Current-User", "X-Replit-User-Name", "X-Sandstorm-User-Id", "X-Organizr-User", "YNH_USER", "X-Hass-Is-Admin", "X-RStudio-Username",
	"X-Remote-User-Id", "X-Host", "X-HTTP-Host-Override", "X-Spiffe-Id", "X-CERT-SUBJECT-DN", "Sec-Istio-Auth-UserInfo",
	"Proxy", "Script-Name", "PATH_INFO", "X-Original-Url", "X-Rewrite-Url", "Disguised-Host",
	"Fastly-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "Fly-Client-IP", "Client-IP", "X-Client-IP", "WL-Proxy-Client-IP", "Forwarded-For", "X-Forwarded", "Remote-Addr",
	"X-Forwarded-Protocol", "X-Forwarded-Ssl", "Front-End-Https", "X-Url-Scheme", "X-Scheme", "Cf-Visitor", "X-Forwarded-Prefix",
}

// neighbours are fields that look like those and are the client's own.
var neighbours = []string{
	"X-Amzn-Trace-Id", "X-Amz-Date", "X-Amz-Content-Sha256", "X-Amz-Security-Token", "X-Amz-User-Agent", "X-Amz-Cf-Id", "X-Goog-Api-Key", "X-Goog-User-Project", "X-Goog-Request-Params",
	"X-Goog-Api-Client", "X-Ms-Date", "X-Ms-Version", "X-Ms-Client-Request-Id", "X-Ms-Blob-Type", "X-Azure-Fdid", "X-Azure-Ref", "X-Envoy-Retry-On", "X-Envoy-Max-Retries",
	"X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Attempt-Count", "X-Envoy-Decorator-Operation", "Cf-Ray", "Cf-Ipcountry", "Cf-Access-Client-Id", "Cf-Access-Client-Secret",
	"X-Pomerium-Authorization", "X-Request-Start", "X-Auth-Token", "X-Auth-Key", "X-Access-Token", "X-Api-Key", "X-User-Id", "X-User-Agent", "X-Csrf-Token", "X-Requested-With",
	"X-Gitlab-Token", "Private-Token", "X-Vault-Token", "X-Consul-Token", "X-B3-Traceid", "Traceparent", "Tracestate", "Baggage", "X-Client-Version", "X-Client-Data", "Client-Id",
	"X-Remote-Control", "Remote-Control", "X-Forwarder", "X-Proxy-Cache", "X-Cloudtasks-Queuename", "X-Cloudscheduler", "X-Hasura-Role", "X-Scope-Orgid", "X-Grafana-Org-Id",
	"X-Kubernetes-Pf-Flowschema-Uid", "X-Stream-Protocol-Version", "Sec-Websocket-Protocol", "Sec-Ch-Ua", "Oidc", "Tls-Version", "X-Tls-Version", "Es-Security-Runas-User", "Via",
	"X-Hub-Signature-256", "X-Shopify-Hmac-Sha256", "Stripe-Signature", "Grpc-Timeout", "X-Grpc-Web", "X-Prometheus-Scrape-Timeout-Seconds", "Docker-Distribution-Api-Version",
	"Npm-Session", "Depth", "Destination", "Soapaction", "X-Jenkins-Cli-Port", "Jenkins-Crumb", "Auth", "User", "Identity", "Certificate", "X-Cert-Manager",
}

// HDR-15, HDR-18: over both protocols.
func TestTakenFieldsAndNeighbours(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"))
	ask := map[string]func() string{
		"HTTP/1.1": func() string {
			var fields strings.Builder
			for _, name := range taken {
				fields.WriteString(name + ": forged\r\n")
			}
			for _, name := range neighbours {
				fields.WriteString(name + ": honest\r\n")
			}
			got := w.raw("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close, X~Forwarded~User\r\n" + fields.String() + "\r\n")
			return status(got)
		},
		"HTTP/2": func() string {
			r, err := http.NewRequest("GET", "https://"+w.addr+"/", nil)
			must(t, err)
			for _, name := range taken {
				r.Header[strings.ToLower(name)] = []string{"forged"}
			}
			for _, name := range neighbours {
				r.Header[strings.ToLower(name)] = []string{"honest"}
			}
			return status("x " + w.do(w.client(w.config(nil), "h2"), r).Status)
		},
	}
	for protocol, send := range ask {
		t.Run(protocol, func(t *testing.T) {
			if got := send(); got != "200" {
				t.Fatalf("status %s", got)
			}
			head := strings.ToLower(app.last())
			for line := range strings.Lines(head) {
				if strings.Contains(line, "forged") {
					t.Errorf("arrived: %q", line)
				}
			}
			for _, name := range neighbours {
				if !strings.Contains(head, "\n"+strings.ToLower(name)+": honest\r\n") {
					t.Errorf("%s did not arrive", name)
				}
			}
		})
	}
}

// HDR-01: a proxy is trusted with the way of a request, not with who asks.
func TestIdentityFromTrustedProxy(t *testing.T) {
	app := newRecorder(t)
	w := newWorld(t, upstream(app.url), allow("anyone"), trusting("127.0.0.0/8"))
	h := w.seen(app, "X-MS-CLIENT-PRINCIPAL: forged\r\nRemote*User: forged\r\nProxy: forged\r\nX~Forwarded~Proto: http\r\nX-Forwarded_For: 10.0.0.1\r\nX-Scheme: https\r\nX_Scheme: http\r\n")
	for name, values := range h {
		if strings.Contains(strings.Join(values, ","), "forged") || strings.ContainsAny(name, "_~*") {
			t.Errorf("%s arrived: %q", name, values)
		}
	}
	if h.Get("X-Scheme") != "https" {
		t.Errorf("X-Scheme: %q", h["X-Scheme"])
	}
}

// HDR-14, HDR-15, HDR-18: a trailer is none of the fields that mean something
// in a head, announced or not, over both protocols.
func TestTrailersThatMeanMore(t *testing.T) {
	forged := []string{
		"Authorization", "Cookie", "Host", "Content-Type", "X-Forwarded~User", "Remote*User", "X-Ms-Client-Principal", "Proxy", "X-Forwarded-For",
		"X-Real-Ip", "Author~ization", "Proxy-Authorization", "If-Match", "Origin", "X-Http-Method-Override", "X-Original-Url", "Expect", "Range",
	}
	app := newRecorder(t)
	app.whole = true
	w := newWorld(t, upstream(app.url), allow("anyone"))
	announced := strings.Join(forged, ", ") + ", X-Sum, Grpc-Status, X-Amz-Checksum-Crc32"
	trailers := "X-Sum: honest\r\nGrpc-Status: honest\r\nX-Amz-Checksum-Crc32: honest\r\n"
	for _, name := range forged {
		trailers += name + ": forged\r\n"
	}
	check := func(t *testing.T) {
		t.Helper()
		all := app.last()
		if strings.Contains(all, "forged") || strings.Contains(all, "Author") || strings.Count(all, "honest") != 3 {
			t.Errorf("the application saw\n%s", all)
		}
	}
	for name, field := range map[string]string{"announced": "Trailer: " + announced + "\r\n", "half announced": "Trailer: X-Sum, Grpc-Status, X-Amz-Checksum-Crc32\r\n"} {
		t.Run("HTTP/1.1 "+name, func(t *testing.T) {
			got := w.raw("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n" + field + "\r\n1\r\na\r\n0\r\n" + trailers + "\r\n")
			if status(got) != "200" {
				t.Fatal(got)
			}
			check(t)
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		r, err := http.NewRequest("POST", "https://"+w.addr+"/", struct{ io.Reader }{strings.NewReader("a")})
		must(t, err)
		r.Trailer = http.Header{"X-Sum": {"honest"}, "Grpc-Status": {"honest"}, "X-Amz-Checksum-Crc32": {"honest"}}
		for _, name := range forged {
			switch name {
			case "Authorization", "Host", "Content-Type", "Proxy-Authorization", "If-Match", "Expect", "Range": // net/http ends the stream
			default:
				r.Trailer[name] = []string{"forged"}
			}
		}
		w.do(w.client(w.config(nil), "h2"), r)
		check(t)
	})
}

// HDR-12, HDR-13: the application speaks in our name in no part of its answer.
func TestForgedAnswerInEachPart(t *testing.T) {
	app := newRecorder(t)
	app.before = "HTTP/1.1 103 Early Hints\r\nX~Forwarded~User: root\r\nLink: </a>\r\n\r\n"
	app.fields = "Remote*User: root\r\nX-Other: fine\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ms-Client-Principal, X-Sum\r\n"
	app.body = "2\r\nok\r\n0\r\nX-Ms-Client-Principal: root\r\nX-Sum: fine\r\nX-Remote-User: root\r\n\r\n"
	w := newWorld(t, upstream(app.url), allow("anyone"))
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			res := w.do(w.client(w.config(nil), protocol), w.request("GET", "/", nil))
			if text(t, res) != "ok" {
				t.Error("the body is another one")
			}
			for _, h := range []http.Header{res.Header, res.Trailer} {
				for name, values := range h {
					if strings.Contains(strings.Join(values, ""), "root") {
						t.Errorf("%s: %q", name, values)
					}
				}
			}
			if res.Header.Get("X-Other") != "fine" || res.Trailer.Get("X-Sum") != "fine" {
				t.Errorf("%v %v", res.Header, res.Trailer)
			}
		})
	}
	c := w.config(nil)
	c.NextProtos = []string{"http/1.1"}
	conn := w.dial(c)
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	must(t, err)
	all, err := io.ReadAll(conn)
	must(t, err)
	if got := string(all); strings.Contains(got, "root") || strings.Contains(got, "X-Ms-Client-Principal") || !strings.Contains(got, "103 Early Hints\r\n") || !strings.Contains(got, "Link: </a>") {
		t.Errorf("over the wire: %s", got)
	}
	w.log.Wait(t, `"status":200`)
}

func trusting(nets ...string) func(*tlsproxy.Gate) {
	return func(g *tlsproxy.Gate) {
		for _, n := range nets {
			g.TrustedProxies = append(g.TrustedProxies, netip.MustParsePrefix(n))
		}
	}
}
