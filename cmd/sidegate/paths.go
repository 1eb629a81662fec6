package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"sidegate/certs/files"
)

// A variable that names a file is where people put the secret itself by
// mistake, and every error about the file would show it. So a value must lead
// somewhere before anything else sees it: the tag path marks such variables,
// and holds the words that they take besides. A value that leads nowhere is
// never shown.

// leadsSomewhere reports whether a value is a path without doubt: something is
// there, or the folder is that would hold it. Any word may be a file of the
// root or of the working directory, so these two folders don't count.
func leadsSomewhere(value string) bool {
	if isThere(value) {
		return true
	}
	folder := filepath.Dir(value)
	return folder != "/" && folder != "." && isThere(folder)
}

func isThere(path string) bool {
	_, err := files.Lstat(path)
	// A folder on the way is there and closed, or a mount is that hangs.
	return err == nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, files.ErrHangs)
}

var errNoPath = errors.New("wants a path, and its value leads nowhere; it is not shown, because it may be a secret: mount the Secret, and set the variable to where it is")

// readConfig is parseConfig, and looks whether the paths lead anywhere. It is
// for commands that read the files of the named variables; none: of all.
func readConfig(environ []string, names ...string) (*Config, error) {
	c, err := parseConfig(environ)
	return c, joinFlat([]error{err, c.checkPaths(names)})
}

// checkPaths returns a problem for each variable whose value is no path.
func (c *Config) checkPaths(names []string) error {
	var errs []error
	v := reflect.ValueOf(c).Elem()
	for f := range configFields() {
		name := f.Tag.Get("env")
		words, isPath := f.Tag.Lookup("path")
		if !isPath || len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		if !arePaths(pathsOf(v.FieldByIndex(f.Index)), f.Tag.Get("envDefault"), words) {
			errs = append(errs, fmt.Errorf("%s%s %w", prefix, name, errNoPath))
		}
	}
	return errors.Join(errs...)
}

// pathsOf are the values of a field that holds one or a list.
func pathsOf(field reflect.Value) []string {
	if list, ok := field.Interface().(List); ok {
		return list
	}
	return []string{field.String()}
}

// arePaths reports whether each value leads somewhere, is the default or one of
// the words.
func arePaths(values []string, others ...string) bool {
	for _, value := range values {
		if value != "" && !slices.Contains(others, value) && !leadsSomewhere(value) {
			return false
		}
	}
	return true
}

// readSpecs is gateSpecs, without the gates whose options name no path.
func readSpecs(c *Config) ([]*gateSpec, error) {
	specs, err := gateSpecs(c)
	errs := []error{err}
	specs = slices.DeleteFunc(specs, func(s *gateSpec) bool {
		bad := prefixEach(gateVariable(s.name), s.checkPaths(c))
		errs = append(errs, bad...)
		return len(bad) > 0
	})
	return specs, joinFlat(errs)
}

// checkPaths is the same of the options of a gate.
func (s *gateSpec) checkPaths(c *Config) error {
	var errs []error
	if !slices.Equal(s.tls, c.TLS) && !arePaths(s.tls, defaultOf("TLS")) {
		errs = append(errs, fmt.Errorf("option tls %w", errNoPath))
	}
	if s.clientCA != c.ClientCA && !arePaths([]string{s.clientCA}, string(fromSPIFFE)) {
		errs = append(errs, fmt.Errorf("option client_ca %w", errNoPath))
	}
	return errors.Join(errs...)
}

// withoutSecrets are URLs without what may hold a password or a token. What is
// no URL is left out: its own check says so.
func withoutSecrets(urls []string) string {
	var list List
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil && u.Scheme != "" && u.Host != "" {
			bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
			list = append(list, bare.String())
		}
	}
	return list.String()
}

// wantsFile is the variable that names the file of a secret where somebody set
// one for the secret itself; "": there is none.
func wantsFile(name string, known []string) string {
	if file := strings.TrimSuffix(name, "_") + "_FILE"; slices.Contains(known, file) {
		return file
	}
	return ""
}
