package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Cache keeps what was issued from one start to the next, in a folder that is
// mounted for that. Each name is one file, so that a key and its certificate
// are written together or not at all. A nil cache keeps nothing.
type Cache struct{ Dir string }

// Get returns what was kept under the name, nil if there is nothing.
func (c *Cache) Get(name string) ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	path := filepath.Join(c.Dir, name)
	data, err := bounded(c.Dir, func() ([]byte, error) {
		data, err := readFile(path, Limit{}.within(maxFile), "it has", 0)
		if err != nil {
			err = explain(path, err)
		}
		return data, err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Put keeps data under the name, readable by the owner alone. Whoever is ended
// in the middle of it leaves what was there before.
func (c *Cache) Put(name string, data []byte) error {
	if c == nil {
		return nil
	}
	path := filepath.Join(c.Dir, name)
	_, err := bounded(c.Dir, func() (struct{}, error) { return struct{}{}, c.replace(path, data) })
	if errors.Is(err, ErrHangs) {
		return err
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", path, causeOf(err))
	}
	return nil
}

// causeOf is what went wrong without the name of our temporary file, which
// would be another each time.
func causeOf(err error) error {
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	switch {
	case errors.As(err, &pathErr):
		return pathErr.Err
	case errors.As(err, &linkErr):
		return linkErr.Err
	}
	return err
}

func (c *Cache) replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(c.Dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(c.Dir)
}

// syncFolder makes a rename last through a power cut.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Check reports why nothing could be kept, or nil.
func (c *Cache) Check() error {
	if c == nil {
		return nil
	}
	const name = ".check"
	if err := c.Put(name, nil); err != nil {
		return err
	}
	_, err := bounded(c.Dir, func() (struct{}, error) { return struct{}{}, os.Remove(filepath.Join(c.Dir, name)) })
	return err
}
