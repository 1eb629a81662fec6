package spiffe_test

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"sidegate/certs/certstest"
	"sidegate/certs/spiffe"
)

// A socket whose mount hangs is an error that says so, keeps one thread however
// often it is tried, and nobody's end waits for it.
func TestSocketOnHangingMount(t *testing.T) {
	m := certstest.NewMount(t, map[string][]byte{"socket": nil})
	source := &spiffe.Source{Socket: "unix://" + m.Dir + "/socket", Log: slog.New(slog.DiscardHandler)}
	m.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	_, err := source.Load(ctx)
	if err == nil || !strings.Contains(err.Error(), "connect to unix://"+m.Dir+"/socket: it does not answer; does its mount (NFS, FUSE) hang?") {
		t.Errorf("got %v", err)
	}
	before := runtime.NumGoroutine()
	ctx, cancel = context.WithCancel(t.Context())
	changed, ended := source.Subscribe(), make(chan error)
	go func() { ended <- source.Run(ctx) }()
	for range 3 {
		<-changed // another attempt has failed
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	certstest.Until(t, "the attempts leave nothing behind", func() bool { return runtime.NumGoroutine() <= before })
}
