// Package spiffe is the source of X.509-SVIDs and trust bundles of the SPIFFE
// Workload API, such as a SPIRE agent serves it to the pods of its node.
//
//	source := &spiffe.Source{Socket: "unix:///spiffe-workload-api/spire-agent.sock", Log: log}
//	if err := source.Check(); err != nil { … }
//	store := &certs.Store{Source: source, RefuseExpired: true, AllowNameLoss: true, Log: log}
//	if err := store.Load(ctx); err != nil { … } // asks the Workload API until ctx ends
//	go source.Run(ctx)
//	go store.Run(ctx, source.Subscribe())
//
// # Promises
//
// Load answers from memory once the Workload API has said something: what it
// last said, or why that is of no use. So an agent that is down, answers with
// an error or sends garbage is a failed reload, of which the store keeps the
// last good generation, raises the alarm, and recovers by itself. The watch
// goes on after every answer; it is begun again after at most five seconds.
//
// Each bundle vouches for the IDs of its own trust domain alone. A federated
// one without a usable CA lets nobody of its domain in and is warned of; that
// is no reason to refuse our own next SVID with it.
//
// Keys are in memory alone. Nothing of the API's answer but SPIFFE IDs, hints
// and the text of an error is ever logged.
//
// # What it does not do
//
// It does not verify the Workload API: whoever serves the socket decides who
// we are and whom we believe, and over tcp:// reads our key on the way. It
// passes over CRLs, which the API may carry and go-spiffe does not hand on.
//
// # Design
//
// go-spiffe's X509Source blocks until there is an SVID, hides errors from its
// user, never looks at an expiry and gives up on InvalidArgument; so the watch
// is our own, on its client. What it gives goes through PEM into
// [certs.NewMaterial], where the checks are those of files.
package spiffe
