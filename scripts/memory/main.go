// Memory drives floods against Sidegate in a cgroup of its own, beside a client
// that behaves, and prints what each row cost. It wants root, and the folder
// that scripts/soak fills: sidegate, tls/, users/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	folder string
	prices bool
	limits []int64 // of the container, bytes
	only   string  // rows whose name contains it
}

func parse(args []string) (options, error) {
	var o options
	var limits string
	flags := flag.NewFlagSet("memory", flag.ContinueOnError)
	flags.StringVar(&o.folder, "folder", "", "where scripts/soak has put what it built")
	flags.BoolVar(&o.prices, "prices", false, "print what one connection or request of each kind costs")
	flags.StringVar(&limits, "limits", "64,128", "memory limits in MiB")
	flags.StringVar(&o.only, "row", "", "only rows whose name contains this")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for text := range strings.SplitSeq(limits, ",") {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-limits: %q is no number of MiB", text)
		}
		o.limits = append(o.limits, n<<20)
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	a, err := startApplication()
	if err != nil {
		return err
	}
	defer a.Close()
	b := bench{folder: o.folder, app: a.addr, only: o.only}
	fmt.Printf("%s %s/%s, %d CPUs\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if o.prices {
		return b.printPrices(ctx)
	}
	var errs []error
	for _, limit := range o.limits {
		errs = append(errs, b.printRows(ctx, limit))
	}
	return errors.Join(errs...)
}
