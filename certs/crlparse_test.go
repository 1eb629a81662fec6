package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"runtime"
	"testing"
	"time"
)

// signedCRL is a list with these entries, in DER, and its CA.
func signedCRL(tb testing.TB, entries ...x509.RevocationListEntry) ([]byte, *x509.Certificate) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	der, err = x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: time.Now(),
		NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: entries}, ca, key)
	if err != nil {
		tb.Fatal(err)
	}
	return der, ca
}

func manyEntries(n int) []x509.RevocationListEntry {
	list := make([]x509.RevocationListEntry, n)
	for i := range list {
		serial := new(big.Int).Lsh(big.NewInt(1), 150) // of 19 bytes, as CAs make them
		list[i] = x509.RevocationListEntry{SerialNumber: serial.Add(serial, big.NewInt(int64(i)*7919)), RevocationTime: time.Now(), ReasonCode: i % 2}
	}
	return list
}

// sameAsX509 compares with what crypto/x509 reads.
func sameAsX509(t *testing.T, got *revocationList, want *x509.RevocationList) {
	t.Helper()
	if !bytes.Equal(got.RawIssuer, want.RawIssuer) || !bytes.Equal(got.RawTBSRevocationList, want.RawTBSRevocationList) ||
		!bytes.Equal(got.Signature, want.Signature) || !got.NextUpdate.Equal(want.NextUpdate) || !bytes.Equal(got.AuthorityKeyId, want.AuthorityKeyId) {
		t.Errorf("got %+v, want %+v", got.RevocationList, want)
	}
	n := 0
	for _, e := range want.RevokedCertificateEntries {
		if e.ReasonCode == 8 { // removeFromCRL
			continue
		}
		n++
		if e.SerialNumber.Sign() > 0 && !got.revoked.has(e.SerialNumber.Bytes()) {
			t.Errorf("%x is not among the revoked", e.SerialNumber)
		}
	}
	if got.revoked.count() > n {
		t.Errorf("%d revoked, want %d", got.revoked.count(), n)
	}
}

func TestParseCRL(t *testing.T) {
	entries := append(manyEntries(1000),
		x509.RevocationListEntry{SerialNumber: big.NewInt(1), RevocationTime: time.Now()},
		x509.RevocationListEntry{SerialNumber: big.NewInt(128), RevocationTime: time.Now()}, // with a leading zero
		x509.RevocationListEntry{SerialNumber: big.NewInt(5), RevocationTime: time.Now(), ReasonCode: 8})
	for _, list := range [][]x509.RevocationListEntry{nil, entries} {
		der, ca := signedCRL(t, list...)
		got, err := parseCRL(der)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		sameAsX509(t, got, want)
		if err := got.CheckSignatureFrom(ca); err != nil {
			t.Error(err)
		}
		for _, never := range []int64{5, 2, 129} {
			if got.revoked.has(big.NewInt(never).Bytes()) {
				t.Errorf("%d is among the revoked", never)
			}
		}
		for i := range len(der) {
			if _, err := parseCRL(der[:i]); err == nil {
				t.Fatalf("%d of %d bytes were taken for a list", i, len(der))
			}
		}
		if _, err := parseCRL(append(der, 0)); err == nil {
			t.Error("a byte after the list was passed over")
		}
	}
}

// OPS-22: a list takes the bytes of its serials, in service and while it is
// loaded. crypto/x509 alone takes about 400 bytes for each entry.
func TestLargeCRLFits(t *testing.T) {
	const n = 100_000
	der, _ := signedCRL(t, manyEntries(n)...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	list, err := parseCRL(der)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / n; got > 30 {
		t.Errorf("%d bytes for each entry while it is loaded", got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if kept := int64(after.HeapAlloc-before.HeapAlloc) / n; kept > 30 {
		t.Errorf("%d bytes for each entry in service", kept)
	}
	if list.revoked.count() != n {
		t.Errorf("%d revoked", list.revoked.count())
	}
	runtime.KeepAlive(der)
}

func FuzzParseCRL(f *testing.F) {
	der, _ := signedCRL(f, append(manyEntries(3), x509.RevocationListEntry{SerialNumber: big.NewInt(1), RevocationTime: time.Now(), ReasonCode: 8,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true}}})...)
	plain, _ := signedCRL(f, manyEntries(3)...)
	empty, _ := signedCRL(f)
	for _, seed := range [][]byte{der, plain, empty, nil, {0x30, 0}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		// crypto/x509 passes over what follows a list that ends early; we don't.
		got, err := parseCRL(der)
		if want, wantErr := x509.ParseRevocationList(der); err == nil && wantErr == nil {
			sameAsX509(t, got, want)
		}
	})
}
