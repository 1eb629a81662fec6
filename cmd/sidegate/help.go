package main

const helpText = `Sidegate runs beside an application and makes its port safe: it ends TLS,
checks client certificates and passwords, decides, and forwards plaintext to
the application on loopback. Mounted files are reloaded when they change.

Usage:
    sidegate [serve]               serve, configured by SIDEGATE_* variables
    sidegate check [--print]       say what serve would refuse; --print: the
                                   configuration in force, secrets redacted
    sidegate check --here          why does TLS not work in this container?
                                   check -h has the options
    sidegate explain METHOD PATH   what is decided about a request, and why;
                                   explain -h has the options
    sidegate status [--ready]      what the running process has in service;
                                   --ready: exit 0 or 1, for exec probes
    sidegate drain                 make it leave, and wait until it takes no
                                   connections any more, for preStop hooks
    sidegate passwd FILE USER      add a user or change the password, which is
                                   read from the terminal or from stdin
    sidegate passwd -d FILE USER   delete a user
    sidegate inject -f FILE|-      put the sidecar into the workloads of a YAML
                                   file; inject -h has the options
    sidegate inspect TARGET        certificates of a file, folder or HOST:PORT,
                                   and who would refuse them
    sidegate ca init|issue|serve   certificates for laptops and tests; ca -h
                                   shows how
    sidegate demo                  show it all on this machine
    sidegate version
    sidegate help

Variables that most need (README.md has all):
    SIDEGATE_INGRESS      LISTEN=UPSTREAM, default :8443=http://127.0.0.1:8080
    SIDEGATE_TLS          folder with tls.crt and tls.key, default /etc/sidegate/tls
    SIDEGATE_USERS        htpasswd file or folder, default /etc/sidegate/users
    SIDEGATE_CLIENT_CERT  none, optional or require; default none
    SIDEGATE_CLIENT_CA    whom client certificates must chain to, default
                          ca.crt of the TLS folder
    SIDEGATE_ALLOW        who may pass: spiffe://..., dns:..., user:...,
                          any-peer, authenticated, anyone
    SIDEGATE_POLICY       policy file instead, default
                          /etc/sidegate/policy/policy.yaml
    SIDEGATE_ADMIN        probes and metrics, default :9901

Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration, 3 explained
as refused.

Example: an application on 127.0.0.1:8080, a certificate and one user:

    mkdir -p tls users
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout tls/tls.key -out tls/tls.crt
    printf 'a long secret\n' | sidegate passwd users/htpasswd alice
    SIDEGATE_TLS=tls SIDEGATE_USERS=users sidegate serve &
    curl --cacert tls/tls.crt -u 'alice:a long secret' https://localhost:8443/
`
