package main

import (
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"sidegate/certs"
	"sidegate/certs/files"
	"sidegate/certs/inspect"
)

// tlsFolder is one that certificates come from, as far as it can be read.
type tlsFolder struct {
	dir     string
	content map[string][]byte
	cas     []*x509.Certificate // of the file that says whom clients, or the issuer, chain to
	asked   bool                // a gate asks for certificates that those CAs vouch for
}

// lookAtFiles looks into each TLS folder, at each file by itself.
func (d *doctor) lookAtFiles() findings {
	var f findings
	for _, dir := range d.folders() {
		in := tlsFolder{dir: dir, asked: d.trusts(dir)}
		var errs []error
		in.content, errs = readAll(dir)
		for _, e := range errs {
			f.problem("files", fmt.Errorf("%sTLS: %w", prefix, e))
		}
		in.readCAs()
		f = append(f, d.lookAtFolder(&in)...)
	}
	if d.config.CertCache != "" && d.config.CertCache != none && (d.comesFrom(fromCFSSL) || d.comesFrom(fromACME)) {
		if err := d.assembly.cache().Check(); err == nil {
			f.ok("files", "%s can be written", d.config.CertCache)
		}
	}
	return f
}

// folders are those that certificates come from.
func (d *doctor) folders() []string {
	var list []string
	for _, s := range d.likely {
		if s.plaintext || s.certs != fromFiles {
			continue
		}
		for _, dir := range s.tls {
			if !slices.Contains(list, dir) {
				list = append(list, dir)
			}
		}
	}
	return answering(list)
}

// trusts reports whether a gate believes the CAs that lie in a TLS folder.
func (d *doctor) trusts(dir string) bool {
	return slices.Contains(d.trusted(), dir)
}

// trusted are the files and folders with the CAs of clients.
func (d *doctor) trusted() []string {
	var list []string
	for _, s := range d.likely {
		path := s.clientCAFile()
		if path == "" && s.certs == fromFiles && s.clientCA == "" && len(s.tls) > 0 {
			path = s.tls[0]
		}
		if s.asksClientCert() && path != "" && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	return answering(list)
}

// readAll reads a folder, and each file by itself if it can't be read whole.
func readAll(dir string) (map[string][]byte, []error) {
	if info, err := files.Stat(dir); err == nil && !info.IsDir() {
		return nil, nil // the source has the words for it
	}
	content, err := files.Read(dir)
	if err == nil {
		return content, nil
	}
	content = map[string][]byte{}
	var errs []error
	entries, _ := files.ReadDir(dir) // the error is the same one
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := files.Stat(path); strings.HasPrefix(e.Name(), ".") || err == nil && !info.Mode().IsRegular() {
			continue
		}
		one, err := files.Read(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		maps.Copy(content, one)
	}
	if len(errs) == 0 {
		errs = []error{err}
	}
	return content, errs
}

// readCAs reads the CAs of a folder. What is wrong with them, others tell.
func (in *tlsFolder) readCAs() {
	for name, data := range in.content {
		if files.IsCA(name) {
			list, _ := certs.ParseCertificates(name, data)
			in.cas = append(in.cas, list...)
		}
	}
}

var permissionText = regexp.MustCompile(`read (\S+?)(?: \(mode [^)]*\))? as uid \d+: permission denied`)

// whose adds to a refused read whose file it is, and who we are besides.
func whose(found string) string {
	m := permissionText.FindStringSubmatch(found)
	if m == nil {
		return ""
	}
	info, err := files.Stat(m[1])
	if err != nil {
		return ""
	}
	groups, _ := os.Getgroups() // without them there is less to say
	us := fmt.Sprintf("this process is of gid %d and groups %v", os.Getgid(), groups)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf(" (it belongs to uid %d, gid %d; %s)", owner.Uid, owner.Gid, us)
	}
	return " (" + us + ")"
}

// lookAtFolder looks at each pair, and at the CAs that nobody asks for.
func (d *doctor) lookAtFolder(in *tlsFolder) findings {
	var f findings
	for _, name := range slices.Sorted(maps.Keys(in.content)) {
		stem, isCert := strings.CutSuffix(name, ".crt")
		switch {
		case files.IsCA(name) && !d.asksAnyone():
			// It may merely have come with the certificate, as cert-manager writes it.
			f.ok("ca", "%s is there and client certificates are never asked for: SIDEGATE_CLIENT_CERT is none", filepath.Join(in.dir, name))
		case files.IsCA(name) || !isCert:
		case in.content[stem+".key"] == nil && stem == "tls":
			f = append(f, d.lookAtCertificate(in, stem)...)
		case in.content[stem+".key"] == nil:
			f.ok("files", "%s has no key beside it and is not served", filepath.Join(in.dir, name))
		default:
			f = append(f, d.lookAtPair(in, stem)...)
		}
	}
	return f
}

// asksAnyone reports whether any gate asks for client certificates.
func (d *doctor) asksAnyone() bool { return slices.ContainsFunc(d.likely, (*gateSpec).asksClientCert) }

// lookAtPair lets the loader judge, and says what else there is to say.
func (d *doctor) lookAtPair(in *tlsFolder, stem string) findings {
	var f findings
	cert, key := filepath.Join(in.dir, stem+".crt"), filepath.Join(in.dir, stem+".key")
	_, err := certs.NewMaterial(certs.Input{Pairs: []certs.PairInput{{
		Name: stem,
		Cert: certs.File{Name: cert, Data: in.content[stem+".crt"]},
		Key:  certs.File{Name: key, Data: in.content[stem+".key"]},
	}}})
	if err == nil {
		f.ok("pair", "%s fits %s", key, cert)
	} else {
		about := aboutOf(fmt.Errorf("%sTLS: %w", prefix, err))
		f.problem(about, fmt.Errorf("%w%s", err, ifEmpty(in.content, stem+".crt", stem+".key")))
	}
	return append(f, d.lookAtCertificate(in, stem)...)
}

// ifEmpty names the files that hold nothing at all.
func ifEmpty(content map[string][]byte, names ...string) string {
	for _, name := range names {
		if len(content[name]) == 0 {
			return fmt.Sprintf(" (%s is empty)", name)
		}
	}
	return ""
}

// lookAtCertificate looks at a chain, whether or not its key fits.
func (d *doctor) lookAtCertificate(in *tlsFolder, stem string) findings {
	path := filepath.Join(in.dir, stem+".crt")
	chain, err := certs.ParseCertificates(path, in.content[stem+".crt"])
	if err != nil {
		return nil // the loader has said so
	}
	d.served = append(d.served, served{path, chain[0]})
	f := in.lookAtChain(path, chain)
	if leaf := chain[0]; leaf.IsCA && len(chain) > 1 {
		f.broken("chain", "put the certificates in order: the leaf, then whoever signed each", "%s begins with a CA, %s; the first certificate is taken for the server's own", path, leaf.Subject)
	} else if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs) == 0 {
		f.broken("names", "have it issued with the Service's name as a subjectAltName", "%s holds no name; clients don't look at its common name %q", path, leaf.Subject.CommonName)
	}
	for i, c := range chain {
		where, dates := path, lookAtDates(path, c.NotBefore, c.NotAfter)
		if i > 0 {
			where = fmt.Sprintf("%s: certificate %d (%s)", path, i+1, c.Subject)
			dates = lookAtDates(where, c.NotBefore, c.NotAfter)
			// A CA lives for years, and the last third of that is no news.
			dates = slices.DeleteFunc(dates, func(one finding) bool { return one.Level != levelBroken })
		}
		f = append(f, dates...)
		for _, weak := range weakness(c) {
			f.broken("key", "have it issued anew, with an ECDSA P-256 or RSA 2048 key and SHA-256", "%s: %s: clients refuse it", where, weak)
		}
	}
	return f
}

// weakness is what peers refuse. How a root signed itself, nobody looks at.
func weakness(c *x509.Certificate) []string {
	list := inspect.Weak(c)
	if selfSigned(c) {
		list = slices.DeleteFunc(list, func(s string) bool { return strings.HasPrefix(s, "it is signed by") })
	}
	return list
}

func selfSigned(c *x509.Certificate) bool {
	return string(c.RawIssuer) == string(c.RawSubject) && (len(c.AuthorityKeyId) == 0 || string(c.AuthorityKeyId) == string(c.SubjectKeyId))
}

// lookAtDates compares a certificate's dates with the clock.
func lookAtDates(where string, from, to time.Time) findings {
	var f findings
	now := time.Now()
	left := to.Sub(now)
	switch {
	case now.Before(from):
		f.broken("clock", "if the certificate is right the node's clock is not: see its time service (chrony, systemd-timesyncd)",
			"%s is not valid before %s, and the clock here says %s, %s earlier", where, rfc3339(from), rfc3339(now), inspect.Roughly(from.Sub(now)))
	case left < 0:
		f.broken("expiry", "have it renewed, and see why that did not happen (kubectl describe certificate)",
			"%s ended %s, %s ago", where, rfc3339(to), inspect.Roughly(-left))
	case left < to.Sub(from)/3:
		f.warn("expiry", "see who renews it and why it has not come (kubectl describe certificate); most do so with a third left",
			"%s ends %s, in %s: that is the last third of its time", where, rfc3339(to), inspect.Roughly(left))
	default:
		f.ok("expiry", "%s ends %s, in %s", where, rfc3339(to), inspect.Roughly(left))
	}
	return f
}

// lookAtChain says whether whoever knows the root can follow the chain to it.
// Dates are not asked here, nor the order, which the loader judges.
func (in *tlsFolder) lookAtChain(path string, chain []*x509.Certificate) findings {
	var f findings
	leaf, top := chain[0], chain[len(chain)-1]
	const missing = "append the intermediate certificates to the chain, the leaf first"
	switch {
	case selfSigned(top) && len(chain) == 1:
		f.ok("chain", "%s is signed by itself: clients must be given this very certificate", path)
	case selfSigned(top):
		f.ok("chain", "%s goes up to the root %s", path, top.Subject)
	case len(in.cas) == 0 && len(leaf.IssuingCertificateURL) > 0 && len(chain) == 1:
		f.warn("chain", missing, "%s holds the leaf alone, and tells where its issuer %s can be had: that is seldom a root, and clients don't fetch it", path, top.Issuer)
	case len(in.cas) == 0:
		f.ok("chain", "%s ends below %s, which clients must know", path, top.Issuer)
	case in.reached(chain):
		f.ok("chain", "%s reaches a CA beside it", path)
	case in.asked:
		f.warn("chain", missing+"; nothing, if ca.crt is for clients alone", "%s ends below %s, which is not among the CAs beside it", path, top.Issuer)
	default:
		f.broken("chain", missing, "%s ends below %s, and that is not among the CAs beside it: whoever believes those refuses it", path, top.Issuer)
	}
	return f
}

// reached reports whether a CA of the folder is in the chain, or signed its end.
func (in *tlsFolder) reached(chain []*x509.Certificate) bool {
	top := chain[len(chain)-1]
	return slices.ContainsFunc(in.cas, func(ca *x509.Certificate) bool {
		return top.CheckSignatureFrom(ca) == nil || slices.ContainsFunc(chain, ca.Equal)
	})
}
