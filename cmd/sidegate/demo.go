package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"sidegate/certs/devca"
	"sidegate/certs/files"
	"sidegate/policy/authn"
)

const (
	demoUser     = "admin"
	demoPassword = "admin1041"
	// demoRotation is how often the demo's certificate is replaced.
	demoRotation = 30 * time.Second
)

// demo is a whole little world: an application, a CA, users, and Sidegate.
type demo struct {
	dir   string
	ca    *devca.CA
	gate  string // host:port
	admin string
	app   net.Listener
}

// runDemo shows the main job on this machine until it is interrupted.
func runDemo(ctx context.Context, p *program) error {
	if err := noArguments(p, "demo"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sidegate-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := newDemo(dir, p.stdout)
	if err != nil {
		return err
	}
	c, err := readConfig(d.environ())
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.serveApplication(ctx) })
	g.Go(func() error { return d.rotate(ctx) })
	g.Go(func() error { return serve(ctx, c, p) })
	d.explain(p.stdout)
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	fmt.Fprintln(p.stdout, "demo ended, its folder is removed")
	return nil
}

func newDemo(dir string, w io.Writer) (*demo, error) {
	ca, err := devca.New("Sidegate demo CA")
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir, ca: ca}
	if d.app, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	if d.gate, err = freePort(8443, w); err != nil {
		return nil, err
	}
	if d.admin, err = freePort(9901, w); err != nil {
		return nil, err
	}
	if err := d.writeSecret(); err != nil {
		return nil, err
	}
	client, err := ca.Issue(devca.Leaf{Name: "demo-client", Hosts: []string{"spiffe://demo.example/client"}, Lifetime: 24 * time.Hour, Client: true})
	if err != nil {
		return nil, err
	}
	users := filepath.Join(dir, "users")
	if err := os.Mkdir(users, 0o700); err != nil {
		return nil, err
	}
	_, err = authn.SetPassword(filepath.Join(users, "htpasswd"), demoUser, []byte(demoPassword), passwdCost)
	return d, errors.Join(err,
		os.WriteFile(filepath.Join(dir, "ca.crt"), ca.Bundle(), 0o600),
		os.WriteFile(filepath.Join(dir, "client.crt"), client.Cert, 0o600),
		os.WriteFile(filepath.Join(dir, "client.key"), client.Key, 0o600))
}

// freePort is the wanted port of loopback, or another one when it is taken.
func freePort(wanted int, w io.Writer) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(wanted)))
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", err
		}
		fmt.Fprintf(w, "port %d is taken, using %s\n", wanted, l.Addr())
	}
	return l.Addr().String(), l.Close()
}

// writeSecret puts a new certificate into the TLS folder as the kubelet would.
func (d *demo) writeSecret() error {
	pair, err := d.ca.Issue(devca.Leaf{Name: "localhost", Hosts: []string{"localhost", "127.0.0.1"}, Lifetime: time.Hour})
	if err != nil {
		return err
	}
	return files.WriteSecret(filepath.Join(d.dir, "tls"), map[string][]byte{
		"tls.crt": pair.Cert, "tls.key": pair.Key, "ca.crt": d.ca.Bundle(),
	})
}

func (d *demo) environ() []string {
	return []string{
		"SIDEGATE_INGRESS=" + d.gate + "=http://" + d.app.Addr().String(),
		"SIDEGATE_ADMIN=" + d.admin,
		"SIDEGATE_TLS=" + filepath.Join(d.dir, "tls"),
		"SIDEGATE_USERS=" + filepath.Join(d.dir, "users"),
		"SIDEGATE_CLIENT_CERT=optional",
		"SIDEGATE_DRAIN_DELAY=0s", // nobody routes to a demo
		"SIDEGATE_ALLOW=authenticated,spiffe://demo.example/client",
	}
}

// serveApplication is the application that knows neither TLS nor users.
func (d *demo) serveApplication(ctx context.Context) error {
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := r.Header.Get("X-Forwarded-User")
			if who == "" {
				who = r.Header.Get("X-Forwarded-Client-Cert")
			}
			fmt.Fprintf(w, "Hello World, %s\n", who)
		}),
	}
	return serveHTTP(ctx, server, d.app)
}

func (d *demo) rotate(ctx context.Context) error {
	tick := time.NewTicker(demoRotation)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.writeSecret(); err != nil {
				return err
			}
		}
	}
}

// explain prints what to paste.
func (d *demo) explain(w io.Writer) {
	fmt.Fprintf(w, `
An application that knows no TLS and no users listens on %[1]s.
Sidegate stands before it on https://%[2]s. Paste:

  # no credentials: 401
  curl -i --cacert %[3]s/ca.crt https://%[2]s/

  # with a password: 200
  curl -i --cacert %[3]s/ca.crt -u %[4]s:%[5]s https://%[2]s/

  # with a client certificate: 200
  curl -i --cacert %[3]s/ca.crt --cert %[3]s/client.crt --key %[3]s/client.key https://%[2]s/

  # health and metrics
  curl -i http://%[6]s/readyz
  curl -s http://%[6]s/metrics

The certificate is replaced every %[7]s, as a mounted Secret would be; see its
serial change in the log below. Ctrl-C ends the demo and removes %[3]s.

`, d.app.Addr(), d.gate, d.dir, demoUser, demoPassword, d.admin, demoRotation)
}
