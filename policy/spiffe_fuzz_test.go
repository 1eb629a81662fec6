package policy_test

import (
	"regexp"
	"strings"
	"testing"

	"sidegate/policy"
)

// The grammar of SPIFFE-ID 2.1 to 2.3, with a path as X.509-SVIDs of workloads
// have.
var spiffeGrammar = regexp.MustCompile(`\Aspiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+\z`)

// SPI-01, SPI-02: an ID is one by the grammar, without segments of dots.
func FuzzSPIFFEID(f *testing.F) {
	for _, s := range []string{"spiffe://td.example/ns/a", "spiffe://td.example/a/../b", "spiffe://TD/a", "spiffe://td:80/a", "spiffe://td/%61", "spiffe://td/a#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		p, err := parsePeer(t, dn("CN=x"), san(uri, id))
		if err != nil {
			return // crypto/x509 refuses the certificate whole
		}
		want := len(id) <= 2048 && spiffeGrammar.MatchString(id)
		for segment := range strings.SplitSeq(id, "/") {
			if segment == "." || segment == ".." {
				want = false
			}
		}
		if got := !p.ID.IsZero(); got != want {
			t.Errorf("%q: got %q, want %t", id, p.ID, want)
		}
		if want && !decide(t, id, policy.Identity{Peer: p}) {
			t.Errorf("%q does not match itself", id)
		}
	})
}
