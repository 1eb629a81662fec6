package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"sidegate/certs"
	"sidegate/certs/files"
)

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
	for _, l := range status.CRLs {
		if l.State == "unproven" {
			f.warn("crl", "nothing, if clients send that CA; else put it into the bundle, or take the list away",
				"the CA of %s (%s) is not in the bundle: the list is checked when a client sends that CA", l.File, l.Issuer)
		}
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
