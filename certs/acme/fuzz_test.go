package acme

import (
	"testing"
	"time"
)

// What a server issued or a cache kept is a pair that can be served, or an error.
func FuzzUsable(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		i := &Issuer{Directory: "https://acme.example/directory", Hosts: []string{"web.example"}}
		if in, err := i.usable(data, time.Now()); err == nil && len(in.Pairs) != 1 {
			t.Errorf("%d pairs", len(in.Pairs))
		}
	})
}

// The key of a binding is read or refused, and never quoted.
func FuzzHMAC(f *testing.F) {
	for _, text := range []string{"", "AAAA", "_-8", "+/8=", "AAAA\n", "A"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := decodeHMAC(text); err == nil && len(key) == 0 {
			t.Errorf("%q is an empty key", text)
		}
	})
}
