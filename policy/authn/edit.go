package authn

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// ErrNoUser is returned for a user that a file does not hold.
var ErrNoUser = errors.New("no such user")

// SetPassword adds a user to an htpasswd file or gives them another password,
// as bcrypt of the given cost. The file is replaced whole; comments, order
// and other lines stay, and a new file is readable by its owner only. added
// says whether the user is new.
func SetPassword(path, user string, password []byte, cost int) (added bool, err error) {
	if err := CheckName(user); err != nil {
		return false, err
	}
	switch {
	case len(password) == 0:
		return false, errors.New("the password is empty")
	case len(password) > maxBcryptPassword:
		return false, fmt.Errorf("the password has %d bytes; bcrypt reads %d", len(password), maxBcryptPassword)
	case hasControl(string(password)):
		return false, errors.New("the password holds a control byte")
	}
	if cost < weakBcryptCost || cost > maxBcryptCost {
		return false, fmt.Errorf("bcrypt cost %d is not between %d and %d", cost, weakBcryptCost, maxBcryptCost)
	}
	stored, err := bcrypt.GenerateFromPassword(password, cost)
	if err != nil {
		return false, err
	}
	found, err := edit(path, user, user+":"+string(stored))
	return !found, err
}

// DeleteUser removes a user from an htpasswd file. [ErrNoUser]: there is none.
func DeleteUser(path, user string) error {
	if err := CheckName(user); err != nil {
		return err
	}
	found, err := edit(path, user, "")
	if err == nil && !found {
		return fmt.Errorf("%s: %w: %s", path, ErrNoUser, user)
	}
	return err
}

// edit puts line in the place of the user's own, or at the end; an empty line
// removes the user. found says whether the user was there.
func edit(path, user, line string) (found bool, err error) {
	data, mode, err := readForEdit(path)
	if err != nil {
		return false, err
	}
	if _, err := parseHtpasswd(path, data, true); err != nil {
		return false, fmt.Errorf("the file must be mended first: %w", err)
	}
	var out strings.Builder
	for old := range strings.Lines(string(data)) {
		if strings.HasPrefix(old, user+":") {
			found = true
			old = line
		}
		writeLine(&out, old)
	}
	if !found {
		if line == "" {
			return false, nil
		}
		writeLine(&out, line)
	}
	return found, replaceFile(path, []byte(out.String()), mode)
}

// writeLine ends a line that has none; an empty one is no line.
func writeLine(out *strings.Builder, line string) {
	out.WriteString(line)
	if line != "" && !strings.HasSuffix(line, "\n") {
		out.WriteByte('\n')
	}
}

func readForEdit(path string) ([]byte, fs.FileMode, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err := os.Stat(filepath.Dir(path)) // the folder must be there
		return nil, 0o600, err
	case err != nil:
		return nil, 0, err
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, 0, fmt.Errorf("%s is a link, as in a mounted Secret; change the Secret instead", path)
	case !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("%s is not a file", path)
	}
	data, err := os.ReadFile(path)
	return data, info.Mode().Perm(), err
}

// replaceFile puts the new content in place by a rename, so that no reader
// ever sees half of it.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".sidegate-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := errors.Join(tmp.Chmod(mode), writeSynced(tmp, data)); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func writeSynced(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
