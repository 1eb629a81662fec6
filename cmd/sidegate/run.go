package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"sidegate/certs/inspect"
	"sidegate/policy"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong arguments or configuration
	exitDenied = 3 // explain: the request would be refused, or decisions would change
)

// errDenied is an answer that was printed already, by its exit code.
var errDenied = errors.New("denied")

// program is what a command gets of the world.
type program struct {
	args    []string // after the command's name
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	again   <-chan struct{} // closed when the process is asked to end a second time; nil: never
}

// command is one of the words that may follow sidegate.
type command struct {
	name string
	run  func(context.Context, *program) error
	help func() string // nil: the program's
}

func commands() []command {
	return []command{
		{"serve", runServe, nil},
		{"check", runCheck, checkHelp},
		{"explain", runExplain, explainHelp},
		{"status", runStatus, nil},
		{"drain", runDrain, nil},
		{"passwd", runPasswd, nil},
		{"inject", runInject, injectHelp},
		{"inspect", runInspect, inspectHelp},
		{"ca", runCA, caHelp},
		{"demo", runDemo, nil},
		{"version", runVersion, nil},
		{"help", runHelp, nil},
	}
}

// usageError is the user's mistake and not the world's: exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// run is the program with those arguments.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{args: args, environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	return p.run(ctx)
}

// run is the whole program; nothing below it knows the process. Without a
// command it serves, which is what the image does.
func (p *program) run(ctx context.Context) int {
	name := "serve"
	if len(p.args) > 0 {
		name, p.args = p.args[0], p.args[1:]
	}
	if name == "-h" || name == "--help" {
		name = "help"
	}
	err := dispatch(ctx, name, p)
	if err == nil {
		return exitDone
	}
	if errors.Is(err, errDenied) {
		return exitDenied
	}
	if errors.Is(err, errBroken) {
		return exitFailed
	}
	p.complain(err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// complain says on stderr why the program ends. Where nobody reads that the
// program ends all the same.
func (p *program) complain(why error) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprintf(p.stderr, "sidegate: %s\n", inspect.PlainLines(why.Error()))
	}()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
}

func dispatch(ctx context.Context, name string, p *program) error {
	names := make([]string, 0, len(commands()))
	for _, c := range commands() {
		if c.name == name {
			for _, a := range p.args {
				if a == "-h" || a == "--help" {
					return c.showHelp(ctx, p)
				}
			}
			return c.run(ctx, p)
		}
		names = append(names, c.name)
	}
	return usagef("unknown command %q%s; sidegate help lists them", name, didYouMean(name, names))
}

// didYouMean is " (did you mean X?)" where something known is near.
func didYouMean(word string, known []string) string {
	if near := policy.Nearest(word, known); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}

// noArguments refuses what a command would silently ignore.
func noArguments(p *program, name string) error {
	if len(p.args) > 0 {
		return usagef("%s takes no argument, got %q", name, p.args[0])
	}
	return nil
}

func (c *command) showHelp(ctx context.Context, p *program) error {
	if c.help == nil {
		return runHelp(ctx, p)
	}
	_, err := io.WriteString(p.stdout, c.help())
	return err
}

func runHelp(_ context.Context, p *program) error {
	_, err := io.WriteString(p.stdout, helpText)
	return err
}

func runVersion(_ context.Context, p *program) error {
	if err := noArguments(p, "version"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.stdout, "sidegate %s (%s %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// release is the version that an image was built as, set by the linker.
var release string

// version is the release, or the module's version, or the commit it was built
// from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && info.Main.Version == "(devel)" {
			return s.Value
		}
	}
	return info.Main.Version
}
