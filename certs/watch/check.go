package watch

import (
	"context"
	"log/slog"
)

// Check reports why changes of the paths would be seen with the next poll
// only, or nil. It opens an inotify instance and closes it again.
func Check(ctx context.Context, paths []string) error {
	w := New(Options{Paths: paths, Log: slog.New(slog.DiscardHandler)})
	defer w.closeEvents()
	w.arm(ctx)
	return w.failure
}
