package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// row is one flood of the table.
type row struct {
	name  string
	count int
	open  opener
	held  func(limit int64) int // the least that must be held at the end; nil: any
}

var rows = []row{
	{"idle, HTTP/1.1", 20_000, askedOnce, leastIdle},
	{"idle, HTTP/2", 20_000, askedOnceH2, nil},
	{"idle, nothing asked", 20_000, silent, nil},
	{"half-open handshakes", 5_000, halfOpen, nil},
	{"unfinished heads, HTTP/1.1", 2_000, unfinishedHead, nil},
	{"unfinished heads, HTTP/2", 2_000, unfinishedBlock, nil},
	{"uploads not read, HTTP/1.1", 2_000, upload, nil},
	{"uploads not read, HTTP/2", 2_000, uploadH2, nil},
	{"answers not read, HTTP/1.1", 2_000, requesting("/large", ""), nil},
	{"answers not read, HTTP/2", 2_000, requestingH2("/large"), nil},
	{"requests at once, HTTP/1.1", 2_000, requesting("/slow", ""), nil},
	{"requests at once, HTTP/2", 2_000, requestingH2("/slow"), nil},
}

// leastIdle is how many idle connections a container of that size holds.
func leastIdle(limit int64) int {
	if limit < 128<<20 {
		return 800
	}
	return 2_000
}

func (b *bench) printRows(ctx context.Context, limit int64) error {
	fmt.Printf("\n%d MiB\n%-28s %8s %8s %9s %7s  %s\n", limit>>20, "flood", "opened", "held", "peak, MiB", "killed", "the normal client got")
	var errs []error
	for _, r := range rows {
		if strings.Contains(r.name, b.only) {
			errs = append(errs, b.printRow(ctx, r, limit))
		}
	}
	return errors.Join(errs...)
}

// settle is how long a row goes on once its flood stands.
const settle = 5 * time.Second

func (b *bench) printRow(ctx context.Context, r row, limit int64) error {
	g, err := b.start(ctx, limit)
	if err != nil {
		return err
	}
	defer g.stop()
	var f flood
	defer f.close()
	var n normal
	normalCtx, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { n.run(normalCtx, g.addr) })
	f.run(ctx, &dialer{addr: g.addr}, r.open, r.count)
	pause(ctx, settle)
	held := f.held()
	enough()
	wg.Wait()
	killed := g.cgroup.killed()
	fmt.Printf("%-28s %8d %8d %9.1f %7d  %s\n", r.name, f.opened.Load(), held, float64(g.cgroup.peak())/(1<<20), killed, &n)
	switch {
	case killed > 0 || !g.alive():
		return fmt.Errorf("%s at %d MiB: killed", r.name, limit>>20)
	case !n.served():
		return fmt.Errorf("%s at %d MiB: the normal client got %s", r.name, limit>>20, &n)
	case r.held != nil && held < r.held(limit):
		return fmt.Errorf("%s at %d MiB: %d connections held, %d wanted", r.name, limit>>20, held, r.held(limit))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// priced is what prices are asked for.
var priced = []row{
	{name: "half-open handshake", open: halfOpen},
	{name: "nothing asked, HTTP/1.1", open: silent},
	{name: "idle, HTTP/1.1", open: askedOnce},
	{name: "idle, HTTP/2", open: askedOnceH2},
	{name: "unfinished head of 60 KiB", open: unfinishedHead},
	{name: "unfinished block of 60 KiB", open: unfinishedBlock},
	{name: "waiting for the answer, HTTP/1.1", open: requesting("/never", "")},
	{name: "waiting for the answer, HTTP/2", open: requestingH2("/never")},
	{name: "events, HTTP/1.1", open: requesting("/events", "")},
	{name: "events, HTTP/2", open: requestingH2("/events")},
	{name: "answer not read, HTTP/1.1", open: requesting("/large", "")},
	{name: "answer not read, HTTP/2", open: requestingH2("/large")},
	{name: "upgraded", open: requesting("/switch", "Connection: Upgrade\r\nUpgrade: echo\r\n")},
	{name: "upload not read, HTTP/1.1", open: upload},
	{name: "upload not read, HTTP/2", open: uploadH2},
}

// printPrices prints what one of each kind makes the kernel charge, kernel
// memory included and next to no garbage.
func (b *bench) printPrices(ctx context.Context) error {
	for _, r := range priced {
		if !strings.Contains(r.name, b.only) {
			continue
		}
		g, err := b.start(ctx, 0, "GOGC=5")
		if err != nil {
			return err
		}
		const warm, count = 50, 1000
		var f flood
		d := &dialer{addr: g.addr}
		f.run(ctx, d, r.open, warm)
		pause(ctx, time.Second)
		before := g.cgroup.used()
		f.run(ctx, d, r.open, count)
		pause(ctx, time.Second)
		fmt.Printf("%-34s %6.1f KiB (%d failed)\n", r.name, float64(g.cgroup.used()-before)/count/1024, f.failed.Load())
		if f.last != nil {
			fmt.Println("   ", f.last)
		}
		f.close()
		g.stop()
	}
	return nil
}
