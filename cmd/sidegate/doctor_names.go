package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"
)

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
