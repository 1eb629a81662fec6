package tlsproxy

// The names of fields that only a proxy may set, because applications take
// them for the truth. They are compared as [stripper] folds them. A field in
// which clients bring a credential of their own (Authorization, Cookie,
// X-Auth-Token, X-Api-Key, Cf-Access-Client-Id, X-Pomerium-Authorization) is
// none of them: whoever reads it checks it.

// identityNames say who is calling, beside those of the presets. They are
// removed always.
var identityNames = []string{
	// What a proxy of ours would call the user.
	"x-forwarded-username", "x-forwarded-name", "x-forwarded-login", "x-forwarded-mail", "x-forwarded-displayname",
	"x-forwarded-userid", "x-forwarded-group", "x-forwarded-role", "x-forwarded-roles",
	"x-forwarded-access-token", "x-forwarded-id-token", "x-forwarded-authorization",
	"x-authenticated-user", "x-authenticated-userid", "x-authenticated-groups", "x-authenticated-scope",
	"x-auth-username", "x-auth-userid", "x-auth-subject", "x-auth-email", "x-auth-name", "x-auth-groups", "x-auth-roles",
	"x-hass-user-id", "x-hass-is-admin", "x-rstudio-username", "rstudio-connect-credentials", "shiny-server-credentials", "domino-username",
	"x-remote-groups", "x-remote-uid", "x-remote-name", "x-remote-email",
	"x-proxy-user", "x-proxy-roles", "x-proxy-remote-user", "x-webauth-name", "x-webauth-fullname", "x-webauth-role",

	// CGI, WSGI, Rack, IIS and ASP.NET: HTTP_REMOTE_USER and its like.
	"remote-user-id", "remote-ident", "remote-role", "remote-roles", "remote-group", "auth-user", "auth-mail", "auth-groups", "auth-uid", "auth-cn", "auth-type", "auth-password", "logon-user",
	"unmapped-remote-user", "redirect-remote-user", "http-remote-user",

	// Client certificates, as proxies and load balancers write them.
	"x-forwarded-client-cert", "client-cert", "client-cert-chain",
	"x-forwarded-client-dn", "x-forwarded-client-cn", "x-forwarded-ssl-client-cert", "x-forwarded-ssl-client-dn", "x-forwarded-ssl-client-cn",
	"x-ssl-cert", "x-ssl-certificate", "x-ssl-issuer", "x-ssl-subject",
	"x-cert-subject-dn", "x-cert-issuer-dn", "x-cert-serial", "x-cert-verify", "x-cert-fingerprint", "x-spiffe-id",
	"x-client-dn", "x-client-cn", "x-client-s-dn", "x-client-i-dn", "x-client-subject-dn", "x-client-issuer-dn", "x-client-verify",
	"x-arr-clientcert", "wl-proxy-client-cert", "proxy-auth-cert",

	// Clouds.
	"x-endpoint-api-userinfo", "x-apigateway-api-userinfo",
	"x-appengine-inbound-appid", "x-appengine-auth-domain", "x-appengine-cron", "x-appengine-queuename", "x-appengine-taskname",
	"x-amzn-ava-user-context", "x-amzn-request-context", "x-apigateway-event", "x-apigateway-context",
	"cf-access-jwt-assertion", "cf-access-authenticated-user-email",

	// Meshes and API gateways.
	"x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "x-envoy-internal",
	"x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node", "x-istio-attributes", "sec-istio-auth-userinfo", "x-kuma-tags", "l5d-client-id",
	"x-jwt-assertion", "x-jwt-payload", "x-userinfo", "x-credential-identifier", "x-credential-username", "x-anonymous-consumer",
	"x-proxiedentitieschain", "x-proxiedentitygroups",

	// Single sign-on. Impersonate-User and its like are honest fields of the
	// Kubernetes API; an application that hands them on with rights of its own
	// would act for whomever the client names.
	"impersonate-user", "impersonate-group", "impersonate-uid",
	"x-pomerium-jwt-assertion", "x-pomerium-jwt-assertion-for",
	"x-vouch-user", "x-vouch-success", "teleport-jwt-assertion", "gap-auth", "gap-signature",
	"tailscale-login", "tailscale-name", "tailscale-profile-picture", "tailscale-tailnet", "tailscale-app-capabilities",
	"sm-user", "sm-userdn", "sm-universalid", "sm-authtype", "iv-user", "iv-user-l", "iv-groups", "iv-creds",
	"cas-user", "eppn", "$wsru", "$wsat", "$wscc",

	// CGI makes HTTP_PROXY of it, by which HTTP clients then send everything
	// through a proxy that the client chose (httpoxy, CVE-2016-5385).
	"proxy",
}

// identityFamilies are beginnings of names, each of which says who is calling.
var identityFamilies = []string{
	"x-remote-user", "x-remote-extra-", "impersonate-extra-", "x-auth-request-", "x-webauth-group", "x-proxy-ext-",
	"x-forwarded-tls-client-", "ssl-client-", "x-ssl-client-", "tls-client-", "x-tls-client-", "x-client-cert", "cert-chain",
	"x-ms-client-principal", "x-ms-token-", "ms-aspnetcore-", "x-goog-authenticated-user-", "x-goog-iap-", "x-appengine-user-",
	"x-amzn-oidc-", "x-amzn-mtls-", "cf-client-cert-", "cf-cert-",
	"x-consumer-", "x-jwt-claim-", "oidc-claim-", "oidc-access-token", "oidc-id-token", "oidc-userinfo", "mellon-", "shib-", "oam-",
	"x-pomerium-claim-", "x-authentik-", "tailscale-user", "x-vouch-idp-",
	"sf-context-current-", "x-replit-user-", "x-sandstorm-", "x-organizr-", "ynh-user",
}

// routingNames would make some applications serve another path, host or method
// than the one that was decided about. They are removed always.
var routingNames = []string{
	"x-original-url", "x-original-uri", "x-original-path", "x-rewrite-url", "x-rewrite-uri", "x-forwarded-uri", "x-forwarded-url", "x-forwarded-path",
	"x-unencoded-url", "x-waws-unencoded-url", "x-envoy-original-path", "x-envoy-original-host", "x-envoy-original-dst-host",
	"script-name", "path-info", "x-script-name", "x-original-method", "x-forwarded-method",
	"x-original-host", "disguised-host", "was-default-hostname", "l5d-dst-override",
}

// forwardingNames describe the way of a request. From a trusted proxy they
// are believed, from anyone else removed.
var forwardingNames = []string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
	"X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded-Protocol", "X-Forwarded-By",
	"X-Forwarded-Context", "X-Forwarded-Base", "X-Original-For", "X-Original-Forwarded-For", "X-Original-Proto", "X-Original-Prefix",
	"X-Real-Port", "X-Request-Id", "X-Scheme", "X-Url-Scheme", "Front-End-Https", "X-Https", "X-Ssl", "X-Arr-Ssl", "X-Appservice-Proto",
	"X-Forwarded-Awselb", "Cloudfront-Forwarded-Proto", "Cf-Visitor", "Fastly-Ssl", "Fly-Forwarded-Proto", "Fly-Forwarded-Port", "Fly-Forwarded-Ssl",
	"X-Host", "X-Http-Host-Override", "X-Ingress-Path", "X-Proxied-Https", "Proxy-Ssl-Id", "X-Proxyscheme", "X-Proxyhost", "X-Proxyport", "X-Proxycontextpath", "Wl-Proxy-Ssl", "Ssl-Cipher", "Ssl-Cipher-Usekeysize", "Ssl-Session-Id",
	"$wsis", "$wssc", "$wspr", "$wsrh", "$wssn", "$wssp", "$wscs", "$wssi",
}

// addressNames are fields that name one address, the client's. From a trusted
// proxy they pass where they name the client that X-Forwarded-For or Forwarded
// names: rules and application must not hear of two.
var addressNames = []string{
	"X-Real-Ip", "X-Client-Ip", "Client-Ip", "True-Client-Ip", "X-True-Client-Ip", "X-Cluster-Client-Ip", "X-Forwarded", "Forwarded-For",
	"X-Forwarded-Client-Ip", "X-Originating-Ip", "X-Remote-Ip", "X-Remote-Addr", "Remote-Addr", "Remote-Host", "Remote-Ip", "X-Source-Ip",
	"Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Cf-Pseudo-Ipv4", "Fastly-Client-Ip", "Fly-Client-Ip", "Do-Connecting-Ip", "X-Nf-Client-Connection-Ip",
	"X-Vercel-Forwarded-For", "X-Vercel-Proxied-For", "X-Azure-Clientip", "X-Azure-Socketip", "X-Ms-Forwarded-Client-Ip",
	"Cloudfront-Viewer-Address", "X-Envoy-External-Address", "Incap-Client-Ip", "X-Sucuri-Clientip", "Ali-Cdn-Real-Ip", "Cdn-Src-Ip",
	"Proxy-Client-Ip", "Wl-Proxy-Client-Ip", "X-Proxyuser-Ip", "Iv-Remote-Address", "L5d-Remote-Ip", "$wsra",
	"Http-Client-Ip", "Http-X-Forwarded-For", "Http-X-Forwarded", "Http-Forwarded-For", "Http-Forwarded", "Http-X-Real-Ip", "Http-X-Cluster-Client-Ip",
}

// requestNames are needed for the request itself: its framing, target,
// credentials, content and conditions. A trailer can't be one of them (RFC 9110
// 6.5.1): whoever merges trailers into the fields would take it for the head's.
var requestNames = []string{
	"host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
	"authorization", "proxy-authorization", "cookie", "set-cookie", "expect", "max-forwards", "cache-control", "pragma",
	"content-length", "content-type", "content-encoding", "content-range", "content-location",
	"range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "origin",
	"x-http-method-override", "x-http-method", "x-method-override",
}
