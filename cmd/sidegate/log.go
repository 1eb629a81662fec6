package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"

	"sidegate/cmd/sidegate/lines"
	"sidegate/tlsproxy"
)

// newLog returns the log of serve, whose lines wait for stdout in a queue, and
// the queue. Nobody waits for the queue.
func newLog(c *Config, stdout io.Writer) (*slog.Logger, *lines.Queue) {
	queue := lines.New(stdout)
	h := &sorted{}
	for kind := range h.of {
		h.of[kind] = newHandler(c, queue.Of(lines.Kind(kind)), isTerminal(stdout))
	}
	log := slog.New(h)
	if c.Pod != "" {
		log = log.With("pod", c.Pod)
	}
	if c.Container != "" {
		log = log.With("container", c.Container)
	}
	queue.Resumed = func(dropped uint64) {
		log.Warn("log lines dropped: nobody read them in time", "lines", dropped)
	}
	return log, queue
}

// newHandler writes JSON, or text for a person at a terminal.
func newHandler(c *Config, w io.Writer, terminal bool) slog.Handler {
	opts := &slog.HandlerOptions{Level: slog.Level(c.LogLevel)}
	if c.LogFormat == "text" || c.LogFormat == "auto" && terminal {
		return slog.NewTextHandler(w, opts)
	}
	return slog.NewJSONHandler(w, opts)
}

// sorted gives each record to the handler of its kind.
type sorted struct{ of [lines.Kinds]slog.Handler }

func (s *sorted) Enabled(ctx context.Context, l slog.Level) bool { return s.of[0].Enabled(ctx, l) }

func (s *sorted) Handle(ctx context.Context, r slog.Record) error {
	return s.of[kindOf(&r)].Handle(ctx, r)
}

func (s *sorted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return s.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (s *sorted) WithGroup(name string) slog.Handler {
	return s.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (s *sorted) each(change func(slog.Handler) slog.Handler) slog.Handler {
	changed := &sorted{}
	for i, h := range s.of {
		changed.of[i] = change(h)
	}
	return changed
}

// kindOf tells a record of an allowed request from one of a refusal: strangers
// make as many of those as they like, and must not push out the others.
func kindOf(r *slog.Record) lines.Kind {
	switch {
	case r.Level >= slog.LevelError:
		return lines.Error
	case r.Message != tlsproxy.AccessMessage:
		return lines.Other
	}
	kind := lines.Request
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" || a.Key == "audit" {
			kind = lines.Other
		}
		return kind == lines.Request
	})
	return kind
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// rfc3339 is a time as everything here writes it.
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
