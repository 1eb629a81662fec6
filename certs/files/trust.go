package files

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"sidegate/certs"
)

// IsCRL reports whether a file of that name is taken for CRLs, in a folder with
// CAs or beside a file with them: crl.pem, ca.crl, root-crl.der, and 1a2b3c4d.r0
// as OpenSSL's rehash writes it. A folder's other files are, too, if they hold a
// CRL in PEM: one that is mounted under a name that nobody thought of must not
// count as none.
func IsCRL(name string) bool {
	name = strings.ToLower(name)
	kind := filepath.Ext(name)
	switch kind {
	case ".crl":
		return true
	case "", ".pem", ".der", ".crt", ".cer", ".bin":
	default:
		return rehashed.MatchString(name)
	}
	words := strings.FieldsFunc(strings.TrimSuffix(name, kind), func(r rune) bool { return !unicode.IsLetter(r) })
	return slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, "crl") || w == "crls" })
}

var rehashed = regexp.MustCompile(`^[0-9a-f]{8}\.r[0-9]+$`)

var beginCRL = []byte("-----BEGIN X509 CRL-----")

// crls are the names of a folder's files that hold CRLs, in order.
func (f *folder) crls() []string {
	return slices.DeleteFunc(f.names(), func(name string) bool {
		_, isBundle := trustDomainOf(name)
		return !IsCRL(name) && (IsCA(name) || isBundle || !bytes.Contains(f.content[name], beginCRL))
	})
}

// readCA reads the CAs. A single file comes with the CRLs beside it, from the
// same version of the folder; whatever else lies there is not read.
func (s *Source) readCA() (*folder, error) {
	isDir, err := isFolder(s.ClientCA)
	if err != nil {
		return nil, err
	}
	if isDir {
		return readEach(s.ClientCA, s.limits, all)
	}
	f, err := readNamed(s.ClientCA, s.limits, IsCRL)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(s.ClientCA)
	data := f.content[name]
	delete(f.content, name)
	f.content[caNames[0]], f.ca = data, s.ClientCA
	return f, nil
}

// addTrust finds the CAs, the bundles of trust domains and the CRLs. One of
// those that can't be read is an error; what else lies there decides nothing.
func (f *folder) addTrust(in *certs.Input, limit Limit) error {
	crls := f.crls()
	for _, name := range f.names() {
		_, isBundle := trustDomainOf(name)
		switch err := f.errs[name]; {
		case err == nil || isPair(name) && !IsCA(name) && !IsCRL(name): // pairs are judged by themselves
		case IsCA(name) || isBundle || slices.Contains(crls, name):
			return err
		default:
			in.Warnings = append(in.Warnings, fmt.Sprintf("not used: %v", err))
		}
	}
	for _, name := range caNames {
		if f.content[name] != nil {
			file := f.file(name)
			file.Name = cmp.Or(f.ca, file.Name)
			in.Bundle = append(in.Bundle, file)
			break
		}
	}
	for _, name := range f.names() {
		if domain, ok := trustDomainOf(name); ok {
			if in.Domains == nil {
				in.Domains = map[string]certs.File{}
			}
			in.Domains[domain] = f.file(name)
		}
	}
	if in.Bundle == nil && in.Domains == nil {
		return fmt.Errorf("client certificates are asked for but %s holds no CA (looked for %s, bundle.<trust-domain>.pem; found: %s); set SIDEGATE_CLIENT_CA or mount ca.crt there",
			f.dir, strings.Join(caNames, ", "), f.found())
	}
	size := int64(0)
	for _, name := range crls {
		in.CRLs = append(in.CRLs, f.file(name))
		size += int64(len(f.content[name]))
	}
	if err := limit.check("together they have", size); err != nil { // some bear other names
		return fmt.Errorf("the CRLs of %s (%s): %w", f.dir, strings.Join(crls, ", "), err)
	}
	return nil
}

// trustDomainOf is that of a file with its CAs.
func trustDomainOf(name string) (domain string, ok bool) {
	domain, isBundle := strings.CutPrefix(name, "bundle.")
	domain, isPEM := strings.CutSuffix(domain, ".pem")
	return domain, isBundle && isPEM
}

// warnOfCRLs says of the CRLs of a folder that is not the one with the CAs that
// they are not used.
func (f *folder) warnOfCRLs(in *certs.Input, cas string) {
	for _, name := range f.crls() {
		in.Warnings = append(in.Warnings, fmt.Sprintf("%s revokes nobody of those for whom %s vouches: put it there if it should", filepath.Join(f.dir, name), cas))
	}
}
