package files

import (
	"bytes"
	"fmt"
	"maps"
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

// crlsOf are the names of a folder's files that hold CRLs, in order.
func crlsOf(content map[string][]byte) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(content)) {
		_, isBundle := trustDomainOf(name)
		if IsCRL(name) || !IsCA(name) && !isBundle && bytes.Contains(content[name], beginCRL) {
			names = append(names, name)
		}
	}
	return names
}

// readCA reads the CAs. A single file comes with the CRLs beside it, from the
// same version of the folder; whatever else lies there is not read.
func (s *Source) readCA() (map[string][]byte, error) {
	folder, err := isFolder(s.ClientCA)
	if err != nil {
		return nil, err
	}
	if folder {
		return readFolder(s.ClientCA)
	}
	content, err := readNamed(s.ClientCA, IsCRL)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(s.ClientCA)
	data := content[name]
	delete(content, name)
	content[caNames[0]] = data
	return content, nil
}

// addTrust finds the CAs, the bundles of trust domains and the CRLs.
func addTrust(in *certs.Input, dir string, content map[string][]byte) error {
	for _, name := range caNames {
		if content[name] != nil {
			in.Bundle = append(in.Bundle, file(dir, name, content))
			break
		}
	}
	for _, name := range slices.Sorted(maps.Keys(content)) {
		if domain, ok := trustDomainOf(name); ok {
			if in.Domains == nil {
				in.Domains = map[string]certs.File{}
			}
			in.Domains[domain] = file(dir, name, content)
		}
	}
	if in.Bundle == nil && in.Domains == nil {
		return fmt.Errorf("client certificates are asked for but %s holds no CA (looked for %s, bundle.<trust-domain>.pem; found: %s); set SIDEGATE_CLIENT_CA or mount ca.crt there",
			dir, strings.Join(caNames, ", "), found(content))
	}
	for _, name := range crlsOf(content) {
		in.CRLs = append(in.CRLs, file(dir, name, content))
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
func warnOfCRLs(in *certs.Input, dir, cas string, content map[string][]byte) {
	for _, name := range crlsOf(content) {
		in.Warnings = append(in.Warnings, fmt.Sprintf("%s revokes nobody of those for whom %s vouches: put it there if it should", filepath.Join(dir, name), cas))
	}
}
