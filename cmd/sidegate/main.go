// Sidegate makes any pod's port safe: it ends TLS on the exposed port, checks
// who is calling, and forwards plaintext to the application on loopback.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Never undone: the SIGTERM that follows a preStop hook may come at the very
	// end, and must not be what the exit code tells.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
