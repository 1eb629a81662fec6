package main

import (
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"
)

// newLogger writes JSON, or text for a person at a terminal.
func newLogger(c *Config, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.Level(c.LogLevel)}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if c.LogFormat == "text" || c.LogFormat == "auto" && isTerminal(w) {
		h = slog.NewTextHandler(w, opts)
	}
	log := slog.New(h)
	if c.Pod != "" {
		log = log.With("pod", c.Pod)
	}
	if c.Container != "" {
		log = log.With("container", c.Container)
	}
	return log
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// rfc3339 is a time as everything here writes it.
func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
