package certs_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sidegate/certs"
	"sidegate/certs/certstest"
)

// A list whose CA is not in the bundle is checked with the CA that a client
// sends, for each such CA by itself.
func TestUnprovenCRL(t *testing.T) {
	due := time.Now().Add(time.Hour)
	root := certstest.NewCA(t, "root")
	mid := root.Intermediate(t, "mid")
	good, revoked := mid.Client(t, "good"), mid.Client(t, "revoked")
	list := mid.CRL(t, due, revoked.Leaf)
	// Same name, other key: below the root, and below a CA of someone who is not
	// trusted with anybody else's names.
	namesake := root.Intermediate(t, "mid")
	foreign := root.Intermediate(t, "foreign").Intermediate(t, "mid", func(c *x509.Certificate) { c.SubjectKeyId = mid.Cert.SubjectKeyId })
	twin := foreign.Issue(t, "x", func(c *x509.Certificate) { c.SerialNumber = revoked.Leaf.SerialNumber })
	unsigned := root.Intermediate(t, "mid", func(c *x509.Certificate) { c.SubjectKeyId = mid.Cert.SubjectKeyId })
	bad := unsigned.CRL(t, due) // in the name and with the key id of mid, by another key

	t.Run("TLS-29 checked with the CA that a client sends", func(t *testing.T) {
		s := trusting(t, root.PEM(), list)
		wantState(t, s, "unproven")
		if got := verdict(t, s, good.Chain(t)...); got != "" {
			t.Errorf("good: %q", got)
		}
		if got := verdict(t, s, revoked.Chain(t)...); got != "peer_revoked" {
			t.Errorf("revoked: got %q", got)
		}
		wantState(t, s, "signed")
	})
	t.Run("TLS-29 revoked client comes first", func(t *testing.T) {
		if got := verdict(t, trusting(t, root.PEM(), list), revoked.Chain(t)...); got != "peer_revoked" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("TLS-29 does not hold", func(t *testing.T) {
		s := trusting(t, root.PEM(), bad)
		for range 2 {
			if got := verdict(t, s, good.Chain(t)...); got != "peer_untrusted" {
				t.Errorf("got %q", got)
			}
		}
		wantState(t, s, "refused")
		if w := s.Status().Warnings; len(w) != 1 || !strings.Contains(w[0], "not signed by the CA of that name") {
			t.Errorf("warnings %q", w)
		}
		if got := verdict(t, s, root.Client(t, "x").Leaf); got != "" {
			t.Errorf("a client of another CA: %q", got)
		}
	})
	t.Run("TLS-29 namesakes neither break the list nor are bound by it", func(t *testing.T) {
		s := trusting(t, root.PEM(), list)
		for range 2 {
			for _, c := range []struct {
				peer certstest.Pair
				want string
			}{
				{namesake.Client(t, "x"), ""}, // another key, so another CA
				{twin, "peer_untrusted"},      // says that it has the key of the list
				{good, ""},
				{revoked, "peer_revoked"},
			} {
				if got := verdict(t, s, c.peer.Chain(t)...); got != c.want {
					t.Errorf("%s: got %q, want %q", c.peer.Leaf.Subject, got, c.want)
				}
			}
		}
	})
	t.Run("TLS-29 any number of namesakes", func(t *testing.T) {
		s := trusting(t, root.PEM(), list)
		for range 100 {
			fake := root.Intermediate(t, "mid", func(c *x509.Certificate) { c.SubjectKeyId = mid.Cert.SubjectKeyId })
			if got := verdict(t, s, fake.Client(t, "x").Chain(t)...); got != "peer_untrusted" {
				t.Fatalf("got %q", got)
			}
		}
		if got := verdict(t, s, good.Chain(t)...); got != "" {
			t.Errorf("good: %q", got)
		}
		if n := len(s.Status().Warnings); n > 4 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("TLS-29 without a key identifier", func(t *testing.T) {
		bare := func(ca *certstest.CA, revoked ...*x509.Certificate) []byte {
			return withoutExtensions(t, ca, ca.CRL(t, due, revoked...))
		}
		s := trusting(t, root.PEM(), bare(mid, revoked.Leaf))
		if got := verdict(t, s, namesake.Client(t, "x").Chain(t)...); got != "peer_untrusted" {
			t.Errorf("a CA of that name that did not sign it: %q", got)
		}
		s = trusting(t, root.PEM(), bare(mid, revoked.Leaf), bare(namesake))
		if got := verdict(t, s, namesake.Client(t, "x").Chain(t)...); got != "" {
			t.Errorf("a CA of that name with a list of its own: %q", got)
		}
		if got := verdict(t, s, revoked.Chain(t)...); got != "peer_revoked" {
			t.Errorf("revoked: %q", got)
		}
	})
	t.Run("TLS-29 cross-signed with another key identifier", func(t *testing.T) {
		other := certstest.NewCA(t, "other root")
		crossed := other.Cross(t, mid, func(c *x509.Certificate) { c.SubjectKeyId = []byte("another") })
		s := trusting(t, certstest.Join(root.PEM(), other.PEM()), list)
		if got := verdict(t, s, revoked.Leaf, crossed.Cert); got != "peer_revoked" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("TLS-29 two lists, the newest counts", func(t *testing.T) {
		old := mid.CRL(t, time.Now().Add(-time.Minute), good.Leaf)
		s := trusting(t, root.PEM(), list, old)
		if got := verdict(t, s, good.Chain(t)...); got != "" {
			t.Errorf("good: %q", got)
		}
		if w := s.Status().Warnings; len(w) != 0 {
			t.Errorf("warnings %q", w)
		}
	})
	t.Run("TLS-29 the CA comes into the bundle, the list goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			due := time.Now().Add(time.Hour)
			root := certstest.NewCA(t, "root")
			mid := root.Intermediate(t, "mid")
			server := root.Server(t, "a.example")
			content := func(crl []byte, cas ...[]byte) map[string][]byte {
				m := with(certstest.Secret(server, nil), "ca.crt", certstest.Join(cas...))
				if crl != nil {
					m["crl.pem"] = crl
				}
				return m
			}
			r := run(t, content(mid.CRL(t, due), root.PEM()))
			r.wantLogged(1, `msg="CRL unproven"`)
			pass(time.Minute)
			r.update(content(nil, root.PEM()))
			r.wantLogged(1, "the CRL of CN=mid is gone")
			pass(time.Minute)
			r.update(content(mid.CRL(t, due), root.PEM(), mid.PEM()))
			r.wantLogged(1, "reload works again")
			pass(time.Minute)
			r.update(content(nil, root.PEM())) // clients may still send it
			r.wantLogged(2, "the CRL of CN=mid is gone")
		})
	})
	t.Run("TLS-22 signed by a CA of the bundle under another name", func(t *testing.T) {
		renamed := *root
		cert := *root.Cert
		cert.RawSubject = mid.Cert.RawSubject
		renamed.Cert = &cert
		server := certstest.NewCA(t, "server").Server(t, "a.example")
		s, _ := unloaded(certstest.NewVolume(t, with(with(certstest.Secret(server, nil), "ca.crt", root.PEM()), "crl.pem", renamed.CRL(t, due))))
		if err := s.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "bears another name") {
			t.Errorf("got %v", err)
		}
	})
}

func wantState(t *testing.T, s *certs.Store, want string) {
	t.Helper()
	if l := s.Status().CRLs; len(l) != 1 || l[0].State != want {
		t.Errorf("CRLs %+v, want one that is %s", l, want)
	}
}

// withoutExtensions is a list without number and key identifier, as old
// programs write it.
func withoutExtensions(t *testing.T, ca *certstest.CA, list []byte) []byte {
	t.Helper()
	var signed struct {
		TBS struct {
			Raw                 asn1.RawContent
			Version             int
			Algorithm           pkix.AlgorithmIdentifier
			Issuer              asn1.RawValue
			ThisUpdate          time.Time
			NextUpdate          time.Time
			RevokedCertificates []asn1.RawValue `asn1:"optional"`
			Extensions          []asn1.RawValue `asn1:"tag:0,optional,explicit"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	block, _ := pem.Decode(list)
	if _, err := asn1.Unmarshal(block.Bytes, &signed); err != nil {
		t.Fatal(err)
	}
	signed.TBS.Raw, signed.TBS.Extensions = nil, nil
	der, err := asn1.Marshal(signed.TBS)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	if signed.Signature.Bytes, err = ca.Key.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
		t.Fatal(err)
	}
	signed.TBS.Raw = der
	signed.Signature.BitLength = 8 * len(signed.Signature.Bytes)
	if der, err = asn1.Marshal(signed); err != nil {
		t.Fatal(err)
	}
	return certstest.PEM("X509 CRL", der)
}

// Handshakes prove a list concurrently.
func TestUnprovenCRLConcurrently(t *testing.T) {
	root := certstest.NewCA(t, "root")
	mid := root.Intermediate(t, "mid")
	good, revoked := mid.Client(t, "good").Chain(t), mid.Client(t, "revoked").Chain(t)
	s := trusting(t, root.PEM(), mid.CRL(t, time.Now().Add(time.Hour), revoked[0]))
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			chain, want := good, "<nil>"
			if i%2 == 0 {
				chain, want = revoked, "revoked"
			}
			if _, err := s.VerifyPeer(chain, x509.ExtKeyUsageClientAuth); !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			s.Status()
		})
	}
	all.Wait()
}

// TLS-29: of two lists of one CA the newest counts, in whatever order they
// stand; lists of different distribution points stand beside each other.
func TestNewestCRLCounts(t *testing.T) {
	now := time.Now()
	ca := certstest.NewCA(t, "ca")
	peer := ca.Client(t, "peer").Leaf
	point := func(place byte) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 7, 0xa0, 5, 0xa0, 3, 0x86, 1, place}}
	}
	list := func(age, due time.Duration, ext []pkix.Extension, revoked ...*x509.Certificate) []byte {
		l := &x509.RevocationList{ThisUpdate: now.Add(-age), NextUpdate: now.Add(due), ExtraExtensions: ext}
		for _, c := range revoked {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: now})
		}
		return ca.SignCRL(t, l)
	}
	const day, hour = 24 * time.Hour, time.Hour
	a, b := []pkix.Extension{point('a')}, []pkix.Extension{point('b')}
	cases := []struct {
		name  string
		lists [2][]byte
		want  string
	}{
		{"the old one is overdue", [2][]byte{list(9*day, -day, nil), list(hour, day, nil)}, ""},
		{"the old one revokes", [2][]byte{list(9*day, day, nil, peer), list(hour, day, nil)}, ""},
		{"the new one revokes", [2][]byte{list(9*day, day, nil), list(hour, day, nil, peer)}, "peer_revoked"},
		{"the new one is overdue", [2][]byte{list(9*day, day, nil), list(day, -hour, nil)}, "crl_expired"},
		{"same date, the higher number", [2][]byte{list(day, -hour, nil, peer), list(day, hour, nil)}, ""},
		{"two distribution points", [2][]byte{list(9*day, day, a, peer), list(hour, day, b)}, "peer_revoked"},
		{"two distribution points, one overdue", [2][]byte{list(9*day, -day, a), list(hour, day, b)}, "crl_expired"},
		{"the same distribution point", [2][]byte{list(9*day, -day, a, peer), list(hour, day, a)}, ""},
	}
	for _, c := range cases {
		for i, order := range [][2][]byte{c.lists, {c.lists[1], c.lists[0]}} {
			t.Run(fmt.Sprintf("TLS-29 %s %d", c.name, i), func(t *testing.T) {
				if got := verdict(t, trusting(t, ca.PEM(), order[:]...), peer); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		}
	}
	t.Run("TLS-21 one of two distribution points goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca := certstest.NewCA(t, "ca")
			due := time.Now().Add(day)
			server := ca.Server(t, "a.example")
			of := func(place byte) []byte {
				return ca.SignCRL(t, &x509.RevocationList{ThisUpdate: time.Now(), NextUpdate: due, ExtraExtensions: []pkix.Extension{point(place)}})
			}
			r := run(t, with(certstest.Secret(server, ca), "crl.pem", certstest.Join(of('a'), of('b'))))
			pass(time.Minute)
			r.update(with(certstest.Secret(server, ca), "crl.pem", of('a')))
			r.wantLogged(1, "the CRL of CN=ca is gone")
		})
	})
}

// A name constraint binds what a subject says where no SAN says it, as
// OpenSSL's verify does.
func TestConstraintsBindTheSubject(t *testing.T) {
	root := certstest.NewCA(t, "root")
	only := root.Intermediate(t, "only", func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"a.example"}, true
	})
	not := root.Intermediate(t, "not", func(c *x509.Certificate) {
		c.ExcludedDNSDomains, c.PermittedDNSDomainsCritical = []string{"b.example"}, true
	})
	mail := root.Intermediate(t, "mail", func(c *x509.Certificate) {
		c.PermittedEmailAddresses, c.PermittedDNSDomainsCritical = []string{"a.example", ".sub.example", "x@c.example"}, true
	})
	s := trusting(t, root.PEM())
	address := func(a string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: a})
		}
	}
	secondCN := func(c *x509.Certificate) {
		c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "b.example"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "x.a.example"}}
	}
	const refused = "peer_untrusted"
	cases := []struct {
		ca     *certstest.CA
		cn     string
		change func(*x509.Certificate)
		want   string
	}{
		{only, "a.example", nil, ""},
		{only, "X.A.example", nil, ""},
		{only, "b.example", nil, refused},
		{only, "B.EXAMPLE", nil, refused},
		{only, "b.example.", nil, refused},
		{only, "*.b.example", nil, refused},
		{only, "*.a.example", nil, ""},
		{only, "nota.example", nil, refused},
		{only, "10.0.0.1", nil, refused},
		{only, "x.a.example", secondCN, refused}, // every one of several
		{only, "alice", nil, ""},                 // the name of a user
		{only, "alice smith", nil, ""},
		{only, "b.example", func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} }, ""}, // the SAN says it
		{only, "b.example", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@a.example"} }, refused},
		{not, "b.example", nil, refused},
		{not, "x.b.example", nil, refused},
		{not, "a.example", nil, ""},
		{root, "b.example", nil, ""},
		{mail, "x", address("u@a.example"), ""},
		{mail, "x", address("u@A.EXAMPLE"), ""},
		{mail, "x", address("u@b.example"), refused},
		{mail, "x", address("u@x.a.example"), refused},
		{mail, "x", address("u@x.sub.example"), ""},
		{mail, "x", address("x@c.example"), ""},
		{mail, "x", address("y@c.example"), refused},
		{root, "x", address("u@b.example"), ""},
	}
	for i, c := range cases {
		t.Run(fmt.Sprintf("TLS-30 %d %s %s", i, c.ca.Cert.Subject.CommonName, c.cn), func(t *testing.T) {
			change := []func(*x509.Certificate){}
			if c.change != nil {
				change = append(change, c.change)
			}
			if got := verdict(t, s, c.ca.Issue(t, c.cn, change...).Chain(t)...); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("TLS-30 another chain without the constraint", func(t *testing.T) {
		free := certstest.NewCA(t, "free")
		crossed := free.Cross(t, only)
		s := trusting(t, certstest.Join(root.PEM(), free.PEM()))
		if got := verdict(t, s, only.Issue(t, "b.example").Leaf, only.Cert, crossed.Cert); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

// The key usage is judged as OpenSSL judges it for sslclient.
func TestClientKeyUsage(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	s := trusting(t, ca.PEM())
	cases := []struct {
		name  string
		usage x509.KeyUsage
		want  string
	}{
		{"none given", 0, ""},
		{"digitalSignature", x509.KeyUsageDigitalSignature, ""},
		{"digitalSignature and keyEncipherment", x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ""},
		{"keyAgreement", x509.KeyUsageKeyAgreement, ""},
		{"keyEncipherment", x509.KeyUsageKeyEncipherment, "peer_untrusted"},
		{"contentCommitment", x509.KeyUsageContentCommitment, "peer_untrusted"},
		{"dataEncipherment", x509.KeyUsageDataEncipherment, "peer_untrusted"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := verdict(t, s, ca.Issue(t, "x", func(x *x509.Certificate) { x.KeyUsage = c.usage }).Leaf); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("empty", func(t *testing.T) {
		empty := ca.Issue(t, "x", func(x *x509.Certificate) {
			x.KeyUsage = 0
			x.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 1, 0}}}
		})
		if got := verdict(t, s, empty.Leaf); got != "peer_untrusted" {
			t.Errorf("got %q", got)
		}
	})
	if _, err := s.VerifyPeer([]*x509.Certificate{ca.Issue(t, "x", usage(x509.ExtKeyUsageServerAuth), func(x *x509.Certificate) {
		x.KeyUsage = x509.KeyUsageKeyEncipherment
	}).Leaf}, x509.ExtKeyUsageServerAuth); err != nil {
		t.Errorf("a server with keyEncipherment: %v", err)
	}
}
