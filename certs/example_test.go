package certs_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sidegate/certs"
	"sidegate/certs/devca"
	"sidegate/certs/files"
)

// A folder that is mounted from a Secret is served, and served anew when the
// kubelet replaces it.
func ExampleStore() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	folder := filepath.Join(dir, "tls")
	mount(folder, "first")

	store := &certs.Store{Source: &files.Source{TLS: []string{folder}}, Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(context.Background())
	if err := store.Load(ctx); err != nil {
		panic(err) // a reason not to start
	}
	present(store)

	changed := make(chan struct{}, 1) // in earnest: of certs/watch
	done := make(chan error)
	go func() { done <- store.Run(ctx, changed) }()
	next := store.Changed()
	mount(folder, "second")
	changed <- struct{}{}
	<-next
	present(store)

	stop()
	<-done
	// Output:
	// CN=first
	// CN=second
}

func mount(folder, name string) {
	ca, err := devca.New("example CA")
	if err != nil {
		panic(err)
	}
	pair, err := ca.Issue(devca.Leaf{Name: name, Hosts: []string{"localhost"}, Lifetime: time.Hour})
	if err != nil {
		panic(err)
	}
	if err := files.WriteSecret(folder, map[string][]byte{"tls.crt": pair.Cert, "tls.key": pair.Key}); err != nil {
		panic(err)
	}
}

func present(store *certs.Store) {
	c, err := store.GetCertificate(&tls.ClientHelloInfo{ServerName: "localhost"})
	if err != nil {
		panic(err)
	}
	fmt.Println(c.Leaf.Subject)
}
