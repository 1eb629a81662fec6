// Package certs holds what a gate presents and whom it trusts, always the
// newest good set.
//
//	store := &certs.Store{Source: &files.Source{TLS: []string{"/etc/sidegate/tls"}}, Log: log}
//	if err := store.Load(ctx); err != nil { … } // refuse to start
//	go store.Run(ctx, changed)
//	tls.Config{GetCertificate: store.GetCertificate}
//
// Where they come from is a [Source]: [sidegate/certs/files] reads mounted
// folders, [sidegate/certs/spiffe] hears the SPIFFE Workload API, and [Issued]
// asks an [Issuer] for the next one in time.
//
// # Promises
//
// A [Material] is one immutable value: certificates, roots and CRLs that were
// read together are swapped together. A candidate is checked before it serves
// (key fits, chain in order, dates, usages, names that were served before,
// every block of every bundle readable, CRLs complete and signed by their
// issuer), and tried where there is a [Try]. One that fails leaves the last
// good generation in service. One whose certificate is not yet valid is staged
// until it is; whom it trusts counts at once, so that a revocation does not
// wait for a date.
//
// Each of several pairs is judged alone: one that is garbled, ended, not yet
// valid or would lose a name leaves its predecessor in service, and nothing else
// waits for it. The first pair decides about the start. While it is not good,
// the reload counts as failed.
//
// A CRL that was in service may be replaced but not go away while its CA is
// trusted. One past its nextUpdate refuses the certificates of its issuer. One
// whose CA is not in the bundle is checked with that CA when a verified chain
// has it. A CA of a bundle whose issuer stands there too is no anchor: what
// stands above it counts.
//
// What an operator should know (CRL overdue, CA or certificate expired) is
// logged once when it becomes true, without any event and while nothing can be
// loaded, and stands in the [Status] for as long as it is.
//
// [Store.VerifyPeer] asks the roots of the generation in service, on resumed
// sessions too, at the exact time, without any network connection.
//
// # What it does not do
//
// It never skips verification, never falls back to the system's roots, and
// does not tolerate clock skew. Delta, indirect and partial CRLs are refused,
// not combined. While the bundle or a CRL is refused, renewed pairs wait with it,
// and the alarm says so.
//
// # Design
//
// Sources only load; when to load again, retries and logging are
// [sidegate/certs/reload]'s, which users and policy share. The alternative,
// certificates that are read from disk in the handshake, sees torn pairs and
// costs a read each time.
package certs
