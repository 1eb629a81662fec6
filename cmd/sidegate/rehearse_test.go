package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"sidegate/certs/certstest"
)

// TLS-27: serve does not start with more names of CAs than a handshake carries,
// and check says so, unless the names are left out.
func TestTooManyCANamesAtStart(t *testing.T) {
	ca := certstest.NewCA(t, "ca")
	bundle := ca.PEM()
	for i := range 80 {
		bundle = append(bundle, certstest.NewCA(t, fmt.Sprintf("%01000d", i)).PEM()...)
	}
	secret := certstest.Secret(ca.Server(t, "localhost"), nil)
	secret["ca.crt"] = bundle
	v := certstest.NewVolume(t, secret)
	for names, want := range map[string]string{
		"auto": "", "never": "",
		"always": "SIDEGATE_TLS: " + v.Dir + ": gate main can't complete a handshake of TLS 1.3",
		"yes":    "SIDEGATE_CLIENT_CA_NAMES",
	} {
		var out, complaints bytes.Buffer
		environ := []string{"SIDEGATE_TLS=" + v.Dir, "SIDEGATE_CLIENT_CERT=require", "SIDEGATE_ALLOW=any-peer", "SIDEGATE_CLIENT_CA_NAMES=" + names}
		code := run(t.Context(), []string{"check"}, environ, nil, &out, &complaints)
		if want == "" && code != exitDone || want != "" && (code != exitUsage || !strings.Contains(complaints.String(), want)) {
			t.Errorf("%s: exit %d, %s", names, code, &complaints)
		}
	}
}
