package watch

// Check reports why changes of the paths would be seen with the next poll
// only, or nil. It opens an inotify instance and closes it again.
func Check(paths []string) error {
	w := New(Options{Paths: paths})
	defer w.closeEvents()
	return w.watchScope()
}
