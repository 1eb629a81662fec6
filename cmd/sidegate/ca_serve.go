package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// signingServer is what ca serve is asked for.
type signingServer struct {
	dir      string
	listen   string
	hosts    []string
	lifetime time.Duration
}

// serveCA signs for whoever has the key, until ctx ends.
func serveCA(ctx context.Context, p *program, args []string) error {
	s, err := parseSigningServer(args)
	if err != nil {
		return err
	}
	ca, err := loadCA(s.dir)
	if err != nil {
		return err
	}
	// Behind a port, a CA without questions must be one that nobody trusts by
	// mistake.
	if ca.Name() != developmentCA {
		return usagef("ca serve: %s holds %q, and only a CA of sidegate ca init is served: %q", s.dir, ca.Name(), developmentCA)
	}
	keyFile := filepath.Join(s.dir, "auth-key")
	key, err := authKey(keyFile)
	if err != nil {
		return err
	}
	handler, err := ca.Handler(key, s.lifetime)
	if err != nil {
		return usagef("ca serve: %s: %v", keyFile, err)
	}
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		return usagef("ca serve: --listen: %v", err)
	}
	config, err := ca.TLS(s.names(l.Addr()))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(p.stderr, "warning: %s signs any name for whoever has %s: for laptops and tests alone\n", developmentCA, keyFile)
	s.printVariables(p.stdout, l.Addr(), keyFile)
	return sign(ctx, tls.NewListener(l, config), handler, slog.New(slog.NewTextHandler(p.stderr, nil)))
}

// parseSigningServer reads the arguments.
func parseSigningServer(args []string) (*signingServer, error) {
	s := &signingServer{}
	flags := flag.NewFlagSet("ca serve", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&s.listen, "listen", "127.0.0.1:8888", "")
	flags.Func("host", "", func(h string) error { s.hosts = append(s.hosts, h); return nil })
	flags.DurationVar(&s.lifetime, "lifetime", time.Hour, "")
	folders, err := wordsAndFlags(flags, args)
	switch {
	case err != nil:
		return nil, usagef("ca serve: %v; ca -h lists the options", err)
	case s.lifetime < time.Second:
		return nil, usagef("ca serve: --lifetime %s is shorter than 1s", s.lifetime)
	case len(folders) != 1:
		return nil, usagef("ca serve takes the CA's folder: sidegate ca serve ca")
	}
	if s.dir, err = filepath.Abs(folders[0]); err != nil {
		return nil, err
	}
	return s, nil
}

// names are those of the server's own certificate.
func (s *signingServer) names(addr net.Addr) []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, s.hosts...)
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() && !slices.Contains(names, tcp.IP.String()) {
		names = append(names, tcp.IP.String())
	}
	return names
}

// printVariables prints what a shell can read.
func (s *signingServer) printVariables(w io.Writer, addr net.Addr, keyFile string) {
	host, port, err := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); err != nil || ip.IsUnspecified() {
		host = "localhost"
	}
	if len(s.hosts) > 0 {
		host = s.hosts[0]
	}
	fmt.Fprintf(w, `export SIDEGATE_CERTS=cfssl
export SIDEGATE_CFSSL_URL=https://%s
export SIDEGATE_CFSSL_CA=%s
export SIDEGATE_CFSSL_AUTH_KEY_FILE=%s
export SIDEGATE_CERT_HOSTS=localhost
`, net.JoinHostPort(host, port), shellWord(filepath.Join(s.dir, "ca.crt")), shellWord(keyFile))
}

// shellWord is one word of a shell.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// authKey reads the key that is in the file, or makes one.
func authKey(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	made := hex.EncodeToString(key)
	return made, writeNew(file, []byte(made+"\n"))
}

// sign serves until ctx ends.
func sign(ctx context.Context, l net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if err := serveHTTP(ctx, server, l); err != nil {
		return fmt.Errorf("ca serve: %w", err)
	}
	return nil
}
