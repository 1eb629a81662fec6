package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net"
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
	"sidegate/certs/watch"
	"sidegate/policy"
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
	return list
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
	return list
}

// readAll reads a folder, and each file by itself if it can't be read whole.
func readAll(dir string) (map[string][]byte, []error) {
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, nil // the source has the words for it
	}
	content, err := files.Read(dir)
	if err == nil {
		return content, nil
	}
	content = map[string][]byte{}
	var errs []error
	entries, _ := os.ReadDir(dir) // the error is the same one
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); strings.HasPrefix(e.Name(), ".") || err == nil && !info.Mode().IsRegular() {
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
	info, err := os.Stat(m[1])
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

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

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

// lookAtTrust looks at the CAs and CRLs of clients, wherever pairs stand.
func (d *doctor) lookAtTrust(ctx context.Context) findings {
	var f findings
	for _, path := range d.trusted() {
		st := &certs.Store{Source: &files.Source{ClientCA: caOf(path), WantTrust: true}, Log: slog.New(slog.DiscardHandler)}
		if err := st.Load(ctx); err != nil {
			variable := prefix + "TLS"
			if path == d.config.ClientCA {
				variable = prefix + "CLIENT_CA"
			}
			err = fmt.Errorf("%s: %w", variable, err)
			about := aboutOf(err)
			if about != "files" {
				about = "ca"
			}
			f.problem(about, err)
			continue
		}
		f = append(f, lookAtCAs(path, st)...)
	}
	if d.config.ClientCA != "" && !d.asksAnyone() {
		f.warn("ca", "set SIDEGATE_CLIENT_CERT to optional or require, or unset it", "SIDEGATE_CLIENT_CA is set and client certificates are never asked for: SIDEGATE_CLIENT_CERT is none")
	}
	return f
}

// caOf is the file with the CAs in a folder that can't be read whole.
func caOf(path string) string {
	content, errs := readAll(path)
	for name := range content {
		if len(errs) > 0 && files.IsCA(name) {
			return filepath.Join(path, name)
		}
	}
	return path
}

func lookAtCAs(path string, st *certs.Store) findings {
	var f findings
	status := st.Status()
	for _, w := range status.Warnings {
		if strings.Contains(w, "CRL") {
			f.broken("crl", "mount the CA's newest list as crl.pem", "%s: %s", path, w)
			continue
		}
		f.warn("ca", "take it out of the bundle, or put its successor in", "%s: %s", path, w)
	}
	if err := st.Ready(); err != nil {
		f.broken("ca", "mount the bundle with the CA that signs today", "%s: %v", path, err)
	}
	content, _ := readAll(path)
	for _, name := range slices.Sorted(maps.Keys(content)) {
		list, err := certs.ParseCertificates(name, content[name])
		if err != nil || !files.IsCA(name) {
			continue
		}
		for _, c := range list {
			for _, weak := range weakness(c) {
				f.warn("key", "move on to a CA with a stronger key", "CA %s in %s: %s", c.Subject, filepath.Join(path, name), weak)
			}
		}
	}
	if len(f) == 0 {
		f.ok("ca", "client certificates are believed by %s of %s", number(len(status.Certificates), "CA"), path)
	}
	return f
}

func number(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// lookAtNames compares the names of certificates with those by which clients
// call us.
func (d *doctor) lookAtNames() findings {
	var f findings
	d.addOthersServed()
	for _, s := range d.specs {
		for _, host := range s.hosts {
			if len(d.served) > 0 && !s.plaintext && !covered(d.served, host) {
				f.warn("names", "have the certificate issued with that name, or take it out of hosts", "gate %s answers to %s, which no certificate holds: %s", s.name, host, d.held())
			}
		}
	}
	for _, name := range d.names {
		switch {
		case len(d.served) == 0: // what there is to say of the certificate is said
		case covered(d.served, name):
			f.ok("names", "%s is held", name)
		default:
			f.broken("names", "have the certificate issued with that name as a subjectAltName", "no certificate holds %s: %s", name, d.held())
		}
	}
	return f
}

// addOthersServed adds to served what comes from elsewhere than files: the SVID
// as it is, and of what is issued the names that are asked for.
func (d *doctor) addOthersServed() {
	for _, st := range d.assembly.stores {
		if st.signals == nil {
			continue
		}
		if c, err := st.GetCertificate(&tls.ClientHelloInfo{}); err == nil {
			d.served = append(d.served, served{"the SVID", c.Leaf})
		}
	}
	if !d.comesFrom(fromCFSSL) && !d.comesFrom(fromACME) {
		return
	}
	asked := &x509.Certificate{}
	for _, host := range d.config.CertHosts {
		if ip := net.ParseIP(host); ip != nil {
			asked.IPAddresses = append(asked.IPAddresses, ip)
		} else {
			asked.DNSNames = append(asked.DNSNames, host)
		}
	}
	d.served = append(d.served, served{prefix + "CERT_HOSTS", asked})
}

// covered reports whether a client that calls us by the name, which may be a
// pattern *.x, would find it in one of the certificates.
func covered(list []served, name string) bool {
	return slices.ContainsFunc(list, func(s served) bool {
		return slices.ContainsFunc(s.leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) || s.leaf.VerifyHostname(name) == nil
	})
}

// held lists the names that there are.
func (d *doctor) held() string {
	var list []string
	for _, s := range d.served {
		names := slices.Clone(s.leaf.DNSNames)
		for _, ip := range s.leaf.IPAddresses {
			names = append(names, ip.String())
		}
		if len(names) == 0 {
			names = []string{"none"}
		}
		list = append(list, s.where+" has "+strings.Join(names, ", "))
	}
	return strings.Join(list, "; ")
}

// lookAtMounts says of each place that is read whether changes arrive there.
func (d *doctor) lookAtMounts() findings {
	var f findings
	mounts, err := files.Mounts(d.mounts)
	if err != nil {
		f.warn("mount", "look for subPath in the pod's volumeMounts yourself: what is mounted by it never changes", "%v", err)
		return f
	}
	for _, path := range d.watched() {
		var frozen findings
		for _, p := range append([]string{path}, entries(path)...) {
			if m, stuck := files.Frozen(mounts, p); stuck {
				frozen.warn("mount", "mount the whole volume as a folder, without subPath",
					"%s is mounted by itself (from %s), so what the kubelet renews never arrives here: new certificates need a new pod", m.Point, m.Root)
			}
		}
		f = append(f, frozen...)
		if _, err := os.Lstat(filepath.Join(path, "..data")); err == nil && len(frozen) == 0 {
			f.ok("mount", "%s is a volume of the kubelet, which brings changes within a minute or two", path)
		} else if info, err := os.Stat(path); err == nil && len(frozen) == 0 && info.IsDir() {
			f.ok("mount", "%s is a plain folder: changes are whatever is written there", path)
		}
	}
	return f
}

// watched is everything that is read again when it changes.
func (d *doctor) watched() []string {
	list := slices.Concat(d.folders(), d.trusted(), d.assembly.paths)
	slices.Sort(list)
	return slices.Compact(list)
}

// entries are the files of a folder that are read.
func entries(dir string) []string {
	var list []string
	all, _ := os.ReadDir(dir) // others say why it can't be read
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), ".") {
			list = append(list, filepath.Join(dir, e.Name()))
		}
	}
	return list
}

// lookAtEvents says whether changes would be noticed at once.
func (d *doctor) lookAtEvents() findings {
	var f findings
	if err := watch.Check(d.watched()); err != nil {
		f.warn("inotify", "raise fs.inotify.max_user_instances on the node"+sysctl("max_user_instances")+", or fs.inotify.max_user_watches"+sysctl("max_user_watches"),
			"no file events (%v): changes are seen within 30 s only", err)
		return f
	}
	f.ok("inotify", "file events work: changes are seen at once")
	return f
}

// sysctl is the value now, in brackets.
func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/fs/inotify/" + name)
	if err != nil {
		return ""
	}
	return " (now " + strings.TrimSpace(string(text)) + ")"
}

// lookAtPolicyFile reads the policy file where serve did not get that far,
// because of gates or users that are not right. Those count as if they were.
func (d *doctor) lookAtPolicyFile() findings {
	var f findings
	path, err := d.assembly.policyFile()
	if err != nil || path == "" {
		return f
	}
	text, err := readFile(path)
	if err == nil {
		around := d.assembly.surroundings(d.likely)
		if d.assembly.users == nil && d.config.Users != none {
			around.Methods = append(around.Methods, policy.LocalMethod)
		}
		_, err = policy.Parse(path, text, around)
	}
	if err == nil {
		f.ok("policy", "%s can be read; what it says was not compared with gates and users that are not right", path)
		return f
	}
	for _, e := range prefixEach(prefix+"POLICY", err) {
		about := "policy"
		if aboutOf(e) == "files" {
			about = "files"
		}
		f.problem(about, e)
	}
	return f
}
