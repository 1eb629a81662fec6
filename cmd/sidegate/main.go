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
	ctx, again := untilSignal()
	p := &program{args: os.Args[1:], environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, again: again}
	os.Exit(p.run(ctx))
}

// untilSignal returns a context that the first signal to end the process ends,
// and a channel that the second one closes. Both are heard by one channel that
// is there from the start: a second one that was installed when the first
// signal came would miss what comes in between. It is never undone: the SIGTERM
// that follows a preStop hook may come at the very end, and must not be what
// the exit code tells.
func untilSignal() (context.Context, <-chan struct{}) {
	received := make(chan os.Signal, 2) // what comes before anyone receives must not be dropped
	signal.Notify(received, os.Interrupt, syscall.SIGTERM)
	ctx, first := context.WithCancel(context.Background())
	again := make(chan struct{})
	go func() {
		<-received
		first()
		<-received
		close(again)
	}()
	return ctx, again
}
